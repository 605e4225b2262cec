"""Conformance suites for plug-ins: call one on your own encoder or index in a test, and read what it says.

>>> from embedstore import load_encoder
>>> check_encoder(load_encoder("mfcc"))
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.audio import cut_windows
from embedstore.encoders import Encoder, recipe_of
from embedstore.errors import EmbedstoreError, IndexFormatError, ParameterError
from embedstore.index.base import Goal, Index
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import Rows
from embedstore.types import EncoderCard, Floats, LayerEmbeddings, Neighbors

__all__ = ["check_encoder", "check_index"]


def check_encoder(encoder: Encoder, *, tolerance: float = 1e-5) -> None:
    """Check that an encoder keeps its promises, on silence, noise, and the shortest and longer sounds.

    Its card is complete; its recipe is plain JSON; each window gives one finite vector per layer of the card; the same
    window gives the same vectors again, alone, in any company and order, and from another thread.

    Parameters
    ----------
    encoder : Encoder
    tolerance : float
        Largest difference between a window alone and in company, as a share of the largest value (or of 1).

    Raises
    ------
    AssertionError
        Says which promise is broken.
    """
    _check_card(encoder)
    rate, minimum = encoder.card.sample_rate, encoder.windowing.minimum
    length = max(minimum, encoder.windowing.length or 2 * rate)
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * length + length // 2).astype(np.float32)
    sounds = {"silence": np.zeros_like(noise), "noise": noise, "the shortest sound": noise[:minimum]}
    windows, origin = [], []
    for name, sound in sounds.items():
        for window in cut_windows([sound], encoder.windowing, mean=float(sound.mean()), deviation=float(sound.std())):
            windows.append(window)
            origin.append(name)
    together = encoder.encode(windows)
    _demand(len(together) == len(windows), f"encode gave {len(together)} results for {len(windows)} windows")
    for name, result in zip(origin, together, strict=True):
        _check_result(encoder.card, result, name)
    _compare(together, encoder.encode(windows), 0.0, "encoded a second time")
    _compare(together, encoder.encode(windows[::-1])[::-1], tolerance, "encoded in reverse order")
    _compare(together, [encoder.encode([w])[0] for w in windows], tolerance, "encoded alone")
    with ThreadPoolExecutor(2) as pool:
        for again in pool.map(encoder.encode, [windows, windows]):
            _compare(together, again, tolerance, "encoded in two threads at once")


def _check_card(encoder: Encoder) -> None:
    card = encoder.card
    for field in ("name", "model", "preprocessing", "precision", "licence", "paper", "path"):
        value = getattr(card, field)
        _demand(isinstance(value, str) and bool(value), f"card.{field} is a text and not empty; it is {value!r}")
    digits = set(card.weights_sha256) <= set("0123456789abcdef") and len(card.weights_sha256) in (0, 64)
    _demand(
        digits, f"card.weights_sha256 is 64 hexadecimal digits, or empty without weights; it is {card.weights_sha256!r}"
    )
    _demand(card.sample_rate > 0 and card.frame_rate > 0, "card.sample_rate and card.frame_rate are above 0")
    _demand(EncoderCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card, "the card survives JSON")
    recipe = recipe_of(encoder)
    _demand(json.loads(json.dumps(recipe)) == recipe, "the recipe survives JSON")


def _check_result(card: EncoderCard, result: LayerEmbeddings, name: str) -> None:
    found = [(vector.dtype, vector.shape) for vector in result.vectors]
    wanted = [(np.dtype(np.float32), (layer.dim,)) for layer in card.layers]
    _demand(found == wanted, f"{name}: vectors are {found}; the card promises {wanted}")
    _demand(all(np.isfinite(vector).all() for vector in result.vectors), f"{name}: a vector holds NaN or infinity")


def _compare(one: Sequence[LayerEmbeddings], other: Sequence[LayerEmbeddings], tolerance: float, how: str) -> None:
    for a, b in zip(one, other, strict=True):
        _demand(a.n_frames == b.n_frames, f"a window has {a.n_frames} frames; {how}, {b.n_frames}")
        worst = max(_difference(x, y) for x, y in zip(a.vectors, b.vectors, strict=True))
        _demand(worst <= tolerance, f"a window's vectors change by {worst:.1e} when {how}; at most {tolerance:.0e}")


def _difference(x: Floats, y: Floats) -> float:
    return float(np.abs(x - y).max() / max(1.0, np.abs(x).max()))


def _demand(kept: bool, message: str) -> None:
    if not kept:
        raise AssertionError(message)


def check_index(kind: type[Index], *, recall: float = 0.9, smallest: int = 0) -> None:
    """Check that an index kind agrees with the exact one: ids, scores, and which way is up.

    The rows are clusters with duplicates, scaled duplicates and vectors of zeros among them; the queries are stored rows and
    points near them, on which recall is counted, and also noise, opposites and zeros; k goes from 1 to more than there are rows. Sizes 0, 1, 2; wrong arguments; build and load;
    two threads at once; rows that are added to it, where it has `extend`.

    Parameters
    ----------
    kind : class
        See `embedstore.index.Index`.
    recall : float
        The least share of true neighbours that an approximate kind must find (an exact one finds all).
    smallest : int
        Fewest rows that it must index; more than 0 is for kinds that learn from no fewer.

    Raises
    ------
    AssertionError
        Says which promise is broken.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name, str(i)) for i in itertools.count())
        for n in (600, 2, 1, 0):
            if n >= smallest:
                _check_size(kind, _index_rows(rng, n), folders, recall if kind.approximate else 1.0)


def _check_size(kind: type[Index], rows: Rows, folders: Iterator[Path], recall: float) -> None:
    n, rng = len(rows), np.random.default_rng(1)
    values = rows.values.astype(np.float32)
    near: list[Any] = [values[:40], values[40:80] + rng.normal(0, 0.5, values[40:80].shape)]
    far: list[Any] = [-values[:9], rng.normal(size=(20, rows.dim)), np.zeros((2, rows.dim))]
    queries, usual = np.vstack(near + far).astype(np.float32), len(values[:80])
    index, exact = _index_of(kind, rows, folders), ExactIndex(rows)
    held = sorted(index.rows.keys) == sorted(rows.keys)
    _demand(held, f"an index of {n} rows holds these rows")
    for k in (1, 10, n + 3):
        shape = index.search(queries, k).keys.shape
        _demand(shape == (len(queries), k), f"k = {k} gives {k} columns; got {shape}")
        _check_neighbors(index.search(queries, k), exact, queries, usual, recall)
    found = index.search(queries, 10)
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(lambda _: index.search(queries, 10), range(2))
        _demand(all(_equal(found, one) for one in both), "two threads at once get the answers of one")
    _check_round_trip(kind, rows, folders, queries, found)
    for bad in (np.zeros((1, rows.dim - 1)), np.zeros(rows.dim), np.full((1, rows.dim), np.nan)):
        _refuses(ParameterError, f"queries {bad.shape}", index.search, bad.astype(np.float32), 1)
    _refuses(ParameterError, "k = 0", index.search, queries, 0)
    if getattr(kind, "extend", None) is not None:
        most = _index_of(kind, rows.take(np.arange(n - n // 4)), folders)
        before = most.search(queries, 10)
        (folder := next(folders)).mkdir()
        _check_neighbors(most.extend(rows, folder, goal=Goal()).search(queries, 10), exact, queries, usual, recall)  # type: ignore[attr-defined]
        _demand(_equal(before, most.search(queries, 10)), "an index that another was made of stays as it was")


def _index_of(kind: type[Index], rows: Rows, folders: Iterator[Path]) -> Index:
    (folder := next(folders)).mkdir()
    return kind.build(rows, folder, goal=Goal(), seed=0)


def _index_rows(rng: np.random.Generator, n: int) -> Rows:
    centres = rng.normal(size=(12, 24)) * 2
    values = centres[rng.integers(12, size=n)] + rng.normal(size=(n, 24))
    values[20:26] = values[14:20]
    values[30:36] = 3 * values[14:20]
    values[3:600:200] = 0
    return Rows(rng.choice(2**62, n, replace=False), values.astype(np.float32))


def _check_neighbors(found: Neighbors, exact: ExactIndex, queries: Floats, usual: int, recall: float) -> None:
    n, k = len(exact.rows), found.keys.shape[1]
    everything, true = exact.search(queries, max(1, n)), exact.search(queries, k)
    hits = 0
    for i, (keys, scores) in enumerate(zip(found.keys, found.scores, strict=True)):
        got = keys >= 0
        _demand(
            ((scores[~got] == -np.inf).all() and not got[np.argmin(got) :].any()) or got.all(),
            "missing: -1, -inf, last",
        )
        score_of = dict(zip(everything.keys[i].tolist(), everything.scores[i].tolist(), strict=True))
        _demand(set(keys[got].tolist()) <= score_of.keys(), "every key that is found is one of the rows'")
        _demand(len(set(keys[got].tolist())) == got.sum(), "no row is found twice")
        off = max((abs(score_of[key] - s) for key, s in zip(keys[got].tolist(), scores[got], strict=True)), default=0.0)
        _demand(off < 1e-5, f"a score differs from the cosine by {off:.1e}")
        pairs = list(zip(-scores[got], keys[got], strict=True))
        _demand(pairs == sorted(pairs), "nearest first, equal scores by key")
        if not queries[i].any() and n:
            _demand((scores[got] == 0).all(), "a query of zeros scores 0 with every row")
        hits += int((scores[got] >= true.scores[i][min(k, n) - 1] - 1e-6).sum()) if i < usual else 0
    reached = hits / (usual * min(k, n)) if n else 1.0
    _demand(reached >= recall, f"recall at k = {k} of {n} rows is {reached:.3f}; at least {recall} is asked")
    if recall == 1.0:
        _demand(np.array_equal(found.keys, true.keys), f"an exact kind finds the exact neighbours at k = {k}")


def _check_round_trip(
    kind: type[Index], rows: Rows, folders: Iterator[Path], queries: Floats, found: Neighbors
) -> None:
    (folder := next(folders)).mkdir()
    index = kind.build(rows, folder, goal=Goal(), seed=0)
    _demand(_equal(found, index.search(queries, 10)), "the same seed gives the same answers")
    params = json.loads(json.dumps(dict(index.params)))
    moved = folder.rename(next(folders))
    _demand(
        _equal(found, kind.load(rows, moved, params).search(queries, 10)),
        "a saved index answers as it did, wherever its folder is moved to",
    )
    for file in moved.iterdir():
        whole = file.read_bytes()
        for junk in (b"", b"junk" * 100, whole[: len(whole) // 2]):
            file.unlink()  # the index above may have it mapped
            file.write_bytes(junk)
            _refuses(IndexFormatError, f"{len(junk)} bytes of junk in {file.name}", kind.load, rows, moved, params)
        file.write_bytes(whole)


def _equal(one: Neighbors, other: Neighbors) -> bool:
    return np.array_equal(one.keys, other.keys) and np.array_equal(one.scores, other.scores)


def _refuses(error: type[EmbedstoreError], what: str, act: Callable[..., object], *arguments: object) -> None:
    try:
        act(*arguments)
    except error:
        return
    raise AssertionError(f"{what} must be refused with {error.__name__}")
