"""Live search: moved vectors, mixes, allowed tracks, and indices that are added to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import IndexFormatError, ParameterError, StoreError, TrackNotFoundError, UnknownNameError
from embedstore.index import TRANSFORMS, LayerSearch, Rows, Space, Transform, build_index, unit, update_index
from embedstore.index.exact import ExactIndex
from embedstore.store import EmbeddingStore
from embedstore.types import Mix

Fill = Callable[..., EmbeddingStore]
QUERIES = np.random.default_rng(5).normal(size=(6, 16)).astype(np.float32)


def naive(live: LayerSearch, queries: np.ndarray, k: int, allowed: np.ndarray) -> list[list[int]]:
    """Rank every allowed track by its cosine, the plain way."""
    rows = live.vectors(allowed).astype(np.float64)
    scores = live.place(queries) @ rows.T
    return [[int(key) for _, key in sorted(zip(-row, allowed, strict=True))][:k] for row in scores]


@pytest.mark.parametrize("kind", ["none", "flat", "rabitq"])
def test_only_allowed_tracks_are_found(fill: Fill, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Few or many, in the index or beside it: allowed tracks are ranked as if there were no others."""
    from embedstore.index import live as module

    monkeypatch.setattr(module, "BLOCK", 5)
    store = fill(range(200))
    if kind != "none":
        build_index(store, kind=kind)
    store = fill(range(200, 230))
    live = LayerSearch(store)
    for allowed in (live.keys[::2], live.keys[:4], live.keys[-50:], live.keys[:0], np.append(live.keys[:100], 5)):
        found = live.search(live.place(QUERIES), 8, allowed=allowed)
        real = np.intersect1d(allowed, live.keys)
        true = naive(live, QUERIES, 8, real)
        got = [[int(key) for key in row if key >= 0] for row in found.keys]
        if kind == "rabitq":
            assert np.mean([len(set(a) & set(b)) for a, b in zip(got, true, strict=True)]) >= 0.7 * min(8, len(real))
            assert all(set(row) <= set(real.tolist()) for row in got)
        else:
            assert got == true


def test_vectors_and_sample(fill: Fill) -> None:
    """Stored vectors come in the order asked, moved and of length 1; a key that is not stored is named."""
    build_index(fill(range(50)), kind="flat", transform="centre")
    store = fill(range(50, 60))
    live = LayerSearch(store, transform="centre")
    keys = live.keys[[55, 3, 3, 20]]
    np.testing.assert_allclose(live.vectors(keys), live.place(store.vectors(keys)), atol=1e-6)
    assert live.vectors(keys[:0]).shape == (0, 16)
    np.testing.assert_array_equal(live.sample(9, 1), live.sample(9, 1))
    assert live.sample(99).shape == (60, 16)
    with pytest.raises(TrackNotFoundError, match="1 of 2 keys cannot be searched; first: 7"):
        live.vectors(np.array([keys[0], 7]))


@pytest.mark.parametrize("kind", TRANSFORMS[1:])
def test_transforms_do_what_they_say(kind: str) -> None:
    """Centred vectors have no mean, standardised ones one spread, whitened ones no correlation; constants do no harm."""
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(4000, 5)) @ (np.eye(5) + 0.3 * rng.normal(size=(5, 5))) + 3).astype(np.float32)
    moved = Transform.fit(values, kind)
    assert moved is not None
    out = moved(values).astype(np.float64)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-4)
    if kind == "standardise":
        np.testing.assert_allclose(out.std(axis=0), 1, atol=1e-3)
    if kind == "whiten":
        np.testing.assert_allclose(np.cov(out.T), np.eye(5), atol=0.1)
    constant = np.ones((3, 4), np.float32)
    again = Transform.fit(constant, kind)
    assert again is not None
    assert np.abs(again(constant)).max() < 1e-5
    one = Transform.fit(values[:1], kind)
    assert one is not None
    assert np.isfinite(one(values)).all()


def test_a_transform_file_is_checked(tmp_path: Path) -> None:
    """Other widths, other contents, values that are not finite: refused."""
    moved = Transform.fit(QUERIES, "whiten")
    assert moved is not None
    moved.save(tmp_path / "good")
    np.testing.assert_array_equal(Transform.load(tmp_path / "good", 16).scale, moved.scale)
    (tmp_path / "junk").write_bytes(b"PK\3\4" + bytes(40))
    Transform(np.full(16, np.nan, np.float32), np.ones(16, np.float32)).save(tmp_path / "nan")
    Transform(np.ones(16), np.ones(16)).save(tmp_path / "double")
    for name, dim in (("good", 8), ("junk", 16), ("nan", 16), ("double", 16), ("missing", 16)):
        with pytest.raises(IndexFormatError):
            Transform.load(tmp_path / name, dim)


@pytest.mark.parametrize(
    "transform", ["none", "whiten", *(pytest.param(one, marks=pytest.mark.slow) for one in ("centre", "standardise"))]
)
def test_an_index_and_a_scan_agree(fill: Fill, transform: str) -> None:
    """With an index or without one, over a layer, the mean or a mix: the same tracks, nearly the same scores."""
    store = fill(range(120))
    rng = np.random.default_rng(1)
    mix = Mix("toy", rng.uniform(size=(2, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32))
    both = store.vectors(store.keys(), 0), store.vectors(store.keys(), 1)
    np.testing.assert_allclose(
        store.vectors(store.keys(), mix), both[0] * mix.scales[0] + both[1] * mix.scales[1] + mix.shift, rtol=1e-5
    )
    for layer in (0, "mean", mix):
        before = LayerSearch(store, layer, transform)
        report = build_index(store, layer, "flat", transform=transform)
        after = LayerSearch(store, layer, transform)
        assert (after.report and after.report.path, after.layer) == (report.path, before.layer)
        one, two = (live.search(live.place(QUERIES), 9) for live in (before, after))
        np.testing.assert_array_equal(one.keys, two.keys)
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
    assert len(list((store.path / "indices").iterdir())) == 3


def test_wrong_spaces(fill: Fill) -> None:
    """A transform that is not known, a mix of another width."""
    store = fill(range(5))
    with pytest.raises(UnknownNameError, match="unknown transform 'center'; did you mean 'centre'"):
        LayerSearch(store, transform="center")
    with pytest.raises(ParameterError, match="does not fit the store's layers"):
        Space.of(store, Mix("odd", np.ones((3, 16), np.float32), np.zeros(16, np.float32)))


@pytest.mark.parametrize(
    "kind", ["flat", "ivf-rabitq", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ivf", "rabitq", "hnsw"))]
)
def test_an_update_adds(fill: Fill, kind: str) -> None:
    """New tracks come into the index without a full rebuild; nothing to add changes nothing; gone ones stay gone."""
    first = build_index(fill(range(150)), kind=kind, transform="centre")
    store = fill(range(150, 190))
    second = update_index(store, transform="centre")
    assert (second.kind, second.rows) == (kind, 190)
    assert not Path(first.path).exists()
    live = LayerSearch(store, transform="centre")
    assert len(live._rest) == 0
    found = live.search(live.vectors(live.keys), 1)
    assert (found.keys[:, 0] == live.keys).mean() > 0.95
    assert update_index(store, transform="centre") == second
    with store.writer() as writer:
        for i in range(10):
            writer.forget(f"/music/{i}.ogg")
    third = update_index(fill([500]), transform="centre")
    assert third.rows == 191, "few that are gone stay in the file and are left out of answers"
    with store.writer() as writer:
        for i in range(10, 80):
            writer.forget(f"/music/{i}.ogg")
    assert update_index(EmbeddingStore.open(store.path), transform="centre").rows == 111


def test_an_update_needs_an_index(fill: Fill) -> None:
    """Without one of that layer, transform and kind, a line says so."""
    store = fill(range(20))
    with pytest.raises(ParameterError, match="there is no index of layer 1 to add to; build one without --update"):
        update_index(store)
    build_index(store, kind="flat")
    with pytest.raises(ParameterError, match="there is no ivf index of layer 1 to add to"):
        update_index(store, kind="ivf")


def test_an_index_of_somebody_else(fill: Fill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What FAISS would have to parse is read only under the secret it was built with; flat needs none."""
    store = fill(range(100))
    report = build_index(store, kind="rabitq")
    assert LayerSearch(store).report is not None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    live = LayerSearch(store)
    assert live.report is None
    assert "somebody else built it, or on another machine" in live.notes[0]
    monkeypatch.setenv("EMBEDSTORE_INDEX_SECRET", "ours")
    assert LayerSearch(store).report is None
    shared = build_index(store, kind="rabitq")
    assert not Path(report.path).exists()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a third"))
    found = LayerSearch(store).report
    assert found is not None
    assert found.path == shared.path
    monkeypatch.delenv("EMBEDSTORE_INDEX_SECRET")
    flat = build_index(store, kind="flat")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a fourth"))
    portable = LayerSearch(store).report
    assert portable is not None
    assert portable.path == flat.path


def test_rows_files(tmp_path: Path) -> None:
    """What was cut short, or promises other sizes, is refused."""
    from embedstore.index.rows import write_rows

    values = QUERIES.astype(np.float16)
    write_rows(tmp_path / "rows", np.arange(6), 16, [values[:4], values[4:]], half=True)
    rows = Rows.open(tmp_path / "rows")
    np.testing.assert_allclose(rows.unit(np.arange(6)), unit(values.astype(np.float32)), rtol=1e-6)
    np.testing.assert_array_equal(np.vstack([block for _, block in rows.blocks(4)]), rows.unit(np.arange(6)))
    np.testing.assert_array_equal(rows.held().values, rows.unit(np.arange(6)))
    data = (tmp_path / "rows").read_bytes()
    for bad in (b"", data[:-1], data[:30], data + b"x", b"x" + data[1:], data[:40] + bytes(8) + data[48:]):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(IndexFormatError):
            Rows.open(tmp_path / "bad")
    with pytest.raises(ParameterError, match="holds each key once"):
        Rows(np.array([1, 1]), values[:2])


def test_the_exact_kind_in_many_blocks() -> None:
    """Thousands of rows and hundreds of queries, ties among them: as one sorted list."""
    rng = np.random.default_rng(0)
    values = rng.integers(-2, 3, size=(9000, 3)).astype(np.float32)
    rows = Rows(rng.permutation(9000), values)
    queries = rng.normal(size=(300, 3)).astype(np.float32)
    found = ExactIndex(rows).search(queries, 20)
    scores = (unit(queries).astype(np.float64)[:, None] * unit(values)).sum(axis=2).astype(np.float32)
    for i in range(0, 300, 37):
        order = np.lexsort((rows.keys, -scores[i]))[:20]
        np.testing.assert_array_equal(found.keys[i], rows.keys[order])


def test_a_killed_build_leaves_nothing_for_long(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead process left is removed by the next build; what a living one is writing stays, and so do strange names."""
    import fcntl

    from embedstore.index import saved

    monkeypatch.setattr(saved, "_MOMENT", -1)
    store = fill(range(10))
    base = store.path / "indices"
    for name in (".new-dead", ".new-alive", "1-flat-00000000", "no index"):
        (base / name).mkdir(parents=True)
    handle = os.open(base / ".new-alive", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    report = build_index(store, kind="flat")
    os.close(handle)
    assert {path.name for path in base.iterdir()} == {".new-alive", "no index", Path(report.path).name}


def test_builds_at_once_leave_an_index(fill: Fill) -> None:
    """Of several builds of one kind that end together, none removes another's and goes without."""
    from concurrent.futures import ThreadPoolExecutor

    store = fill(range(30))
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: build_index(EmbeddingStore.open(store.path), kind="flat"), range(8)))
    assert len(reports) == 8
    assert LayerSearch(store).report is not None


def test_no_place_for_the_secret(fill: Fill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is said before anything is built, and the index that was there stays; flat needs none."""
    store = fill(range(30))
    report = build_index(store, kind="rabitq")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        StoreError, match=r"is sealed with a secret, and there can be none in .*set EMBEDSTORE_INDEX_SECRET"
    ):
        build_index(store, kind="rabitq")
    assert Path(report.path).exists()
    assert build_index(store, kind="flat").rows == 30


def test_an_exact_index_keeps_its_rows_through_updates(fill: Fill) -> None:
    """Rows are stored as the store holds them, however often they are added to."""
    build_index(fill(range(50)), kind="exact")
    store = fill(range(50, 60))
    update_index(store, kind="exact")
    live = LayerSearch(store)
    true = ExactIndex(Rows.of(store.layer()))
    assert live.report is not None
    for k in (5, 60):
        one, two = live.search(live.place(QUERIES), k), true.search(live.place(QUERIES), k)
        np.testing.assert_array_equal(one.scores, two.scores)


def test_what_was_read_before_is_taken_over(fill: Fill) -> None:
    """A later search takes the index and the rows from the earlier one, and answers as one that is made anew."""
    build_index(fill(range(50)), kind="rabitq", transform="centre")
    store = fill(range(50, 60))
    first = LayerSearch(store, transform="centre")
    store = fill([60])
    second, anew = LayerSearch(store, transform="centre", before=first), LayerSearch(store, transform="centre")
    assert second._saved is first._saved
    assert len(second._rest) == 11
    one, two = (live.search(live.place(QUERIES), 61) for live in (second, anew))
    np.testing.assert_array_equal(one.keys, two.keys)
    np.testing.assert_array_equal(one.scores, two.scores)
    assert any("learned how to centre from 50 tracks, and 11 have come or gone" in note for note in second.notes)
    build_index(store, kind="flat", transform="centre")
    assert LayerSearch(store, transform="centre", before=second)._saved is not first._saved
