"""Build an index over one space, or add to it; measure it against exact search, keep it beside the store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import IndexFormatError, ParameterError
from embedstore.index.base import Goal, Index
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import BLOCK, Rows, write_rows
from embedstore.index.saved import (
    IndexReport,
    check_sums,
    folders,
    keys_of,
    kind_class,
    load_index,
    make_secret,
    new_folder,
    publish,
    read_report,
    usable_indices,
)
from embedstore.index.space import Space, Transform
from embedstore.index.tune import TUNED_ON, choose
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Mix

__all__ = ["build_index", "index_coverage", "update_index"]

_MEASURED_ON, _TIMED = 1000, 50
# share of rows that are gone (or, of a transform, not those it was learned from) above which all is built anew
_CHANGED = 0.2
_PASSED: dict[str, tuple[IndexReport, list[tuple[int, int]]]] = {}  # by folder


def build_index(
    store: EmbeddingStore,
    layer: int | str | Mix | None = None,
    kind: str = "auto",
    *,
    transform: str = "none",
    goal: Goal | None = None,
    seed: int = 0,
) -> IndexReport:
    """Build an index of one layer and keep it in the store's folder; it replaces one of the same layer, transform and kind.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int, str or Mix, optional
        Number or name of a layer, ``"mean"`` or a mix; default: the encoder's choice.
    kind : str
        ``"flat"``, ``"ivf"``, ``"rabitq"``, ... (see `BUILTIN`), a plug-in's, or a FAISS factory string such as
        ``"IVF256,SQ8"``; ``"auto"`` goes by rows, memory and the wanted recall.
    transform : str
        See `TRANSFORMS`.
    goal : Goal, optional
        What an approximate kind is tuned to.
    seed : int
        Of training, and of the rows that the index is measured on.

    Raises
    ------
    ParameterError
        The store is empty, or `seed` is negative.
    UnknownNameError
        No such kind, layer or transform.
    StoreError
        The disk refused.

    Examples
    --------
    >>> build_index(EmbeddingStore.open("my-store"), layer=6).recall_at_10  # doctest: +SKIP
    1.0
    """
    if seed < 0:
        raise ParameterError(f"a seed is at least 0; got {seed}")
    space, goal = Space.of(store, layer, transform), goal or Goal()
    if kind != "auto":
        kind_class(kind, space.dim)
    keys = store.keys()
    if not len(keys):
        raise ParameterError(f"the store {store.path} holds no tracks; build first")
    if kind == "auto":
        kind = choose(len(keys), space.dim, goal)
    make_secret(kind)
    with new_folder(store) as folder:
        moved = space.fit(store)
        if moved is not None:
            moved.save(folder / "transform")
        rows = _write(store, space, moved, keys, folder)
        began = time.perf_counter()
        index = kind_class(kind, space.dim).build(rows, folder, goal=goal, seed=seed)
        seconds = time.perf_counter() - began
        report = IndexReport(
            kind=kind,
            layer=space.label,
            transform=transform,
            rows=len(rows),
            dim=rows.dim,
            **_measure(index, rows, seed),
            seconds=seconds,
            params=dict(index.params),
            seed=seed,
            goal=asdict(goal),
            fingerprint=store.fingerprint,
        )
        return publish(store, folder, report)


def update_index(
    store: EmbeddingStore, layer: int | str | Mix | None = None, kind: str = "auto", *, transform: str = "none"
) -> IndexReport:
    """Bring a saved index up to what the store holds now, without learning anew where its kind can add to itself.

    If more than a fifth of its rows are no tracks any more, or its kind cannot, it is built again, to the same goal; likewise if
    its transform was learned from what is a fifth off.

    Parameters
    ----------
    store, layer, transform
        As in `build_index`.
    kind : str
        ``"auto"``: the index that covers most.

    Raises
    ------
    ParameterError
        There is no usable index to add to.
    UnknownNameError, StoreError
        As `build_index`.
    """
    space = Space.of(store, layer, transform)
    usable, problems = usable_indices(store, space.label)
    keys, saved = store.keys(), None
    for _, report in usable:
        if kind not in ("auto", report.kind):
            continue
        try:
            saved = load_index(report)
            break
        except IndexFormatError as error:
            problems.append(f"index {Path(report.path).name} is not usable: {error}")
    if saved is None:
        why = f" ({'; '.join(problems)})" if problems else ""
        what = "" if kind == "auto" else kind + " "
        raise ParameterError(
            f"there is no {what}index of layer {space.label} to add to{why}; build one without --update"
        )
    old, goal = saved.rows.keys, Goal(**report.goal)
    added, dead = keys[~np.isin(keys, old)], ~np.isin(old, keys)
    if not len(added) and not dead.any():
        return report
    changed = dead.sum() + (len(added) if saved.transform is not None else 0)
    extend = getattr(saved.index, "extend", None)
    if extend is None or changed > _CHANGED * len(old):
        return build_index(store, layer, report.kind, transform=transform, goal=goal, seed=report.seed)
    make_secret(report.kind)
    with new_folder(store) as folder:
        if saved.transform is not None:
            saved.transform.save(folder / "transform")
        rows = _write(store, space, saved.transform, added, folder, saved.rows)
        began = time.perf_counter()
        index = extend(rows, folder, goal=goal)
        seconds = time.perf_counter() - began
        measured = _measure(index, rows, report.seed)
        told = replace(report, rows=len(rows), **measured, seconds=seconds, params=dict(index.params))
        return publish(store, folder, told)


def _write(
    store: EmbeddingStore, space: Space, moved: Transform | None, keys: Keys, folder: Path, before: Rows | None = None
) -> Rows:
    """Write the rows of some tracks, behind those of an index, and map them."""
    read = space.reader(store, moved)
    blocks: Iterable[Any] = (read(keys[start : start + BLOCK]) for start in range(0, len(keys), BLOCK))
    known = np.empty(0, np.int64)
    if before is not None:
        known = before.keys
        blocks = chain((before.values[start : start + BLOCK] for start in range(0, len(known), BLOCK)), blocks)
    write_rows(folder / "rows", np.append(known, keys), space.dim, blocks, half=space.half)
    return Rows.open(folder / "rows")


def _measure(index: Index, rows: Rows, seed: int) -> dict[str, Any]:
    """Recall at 10 against the exact kind, for stored rows and for sums of two, and the median latency in milliseconds."""
    n = len(rows)
    chosen = np.setdiff1d(np.arange(n), rows.sample(TUNED_ON, seed)) if n >= TUNED_ON + _MEASURED_ON else np.arange(n)
    chosen = np.random.default_rng([seed, 1]).permutation(chosen)[:_MEASURED_ON]  # other rows than those it is tuned on
    queries = rows.unit(chosen)
    sums = queries[: _MEASURED_ON // 4] + np.roll(queries, 1, axis=0)[: _MEASURED_ON // 4]
    times = []
    for query in queries[:_TIMED]:
        began = time.perf_counter()
        index.search(query[None], 10)
        times.append(time.perf_counter() - began)
    return {
        "recall_at_10": _recall(index, rows, queries, rows.keys[chosen]),
        "recall_of_sums": _recall(index, rows, sums, np.full(len(sums), -1)),
        "latency_ms": 1000 * float(np.median(times)),
    }


def _recall(index: Index, rows: Rows, queries: Floats, left_out: Keys) -> float:
    """Share of the ten nearest that an index finds, one key left out for each query."""
    k = min(10, len(rows) - 1)
    if not k:
        return 1.0
    true, found = ExactIndex(rows).search(queries, k + 1), index.search(queries, k + 1)
    hits = 0
    for own, *answers in zip(left_out, true.keys, true.scores, found.keys, found.scores, strict=True):
        worst = answers[1][answers[0] != own][:k].min()
        hits += int((answers[3][answers[2] != own][:k] >= worst - 1e-6).sum())
    return hits / (k * len(queries))


def index_coverage(store: EmbeddingStore) -> list[dict[str, Any]]:
    """Say what each saved index covers: plain data for `info`.

    Returns
    -------
    list of dict
        ``layer``, ``transform``, ``kind``, ``covers`` (tracks of the store that it answers for), ``of`` (tracks in the store;
        those that it does not cover are scanned), ``stale`` (its rows that are no tracks of the store any more),
        ``recall_at_10``, ``recall_of_sums``, ``latency_ms``, ``bytes``, ``memory``; for an unusable one its ``name`` and ``problem``.
    """
    listed: list[dict[str, Any]] = []
    keys = store.keys()
    for folder in folders(store):
        try:
            report = read_report(folder, store)
            _check_once(report)
            covers = int(np.isin(keys_of(report), keys).sum())
        except IndexFormatError as error:
            listed.append({"name": folder.name, "problem": str(error)})
            continue
        told = report.to_dict()
        figures = ("layer", "transform", "kind", "recall_at_10", "recall_of_sums", "latency_ms", "bytes", "memory")
        counts = {"covers": covers, "of": len(keys), "stale": report.rows - covers}
        listed.append({name: told[name] for name in figures} | counts)
    return listed


def _check_once(report: IndexReport) -> None:
    """As `check_sums`; files that have passed are read again only when the time or size of one has changed."""
    folder = Path(report.path)
    states = [file.stat() for file in (folder, *(folder / name for name in report.files)) if file.exists()]
    stamps = [(state.st_mtime_ns, state.st_size) for state in states]
    if _PASSED.get(report.path) != (report, stamps):
        check_sums(report)
        _PASSED[report.path] = report, stamps
