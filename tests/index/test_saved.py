"""Saved indices: what they report, and that an old, damaged, foreign or hostile one never changes an answer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import ParameterError, StoreError, UnknownNameError
from embedstore.index import Goal, LayerSearch, build_index, index_coverage, tune
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import Rows
from embedstore.store import EmbeddingStore

QUERIES = np.random.default_rng(5).normal(size=(6, 16)).astype(np.float32)


def check_answers(store: EmbeddingStore, layer: int | str | None = None, k: int = 12) -> LayerSearch:
    """Search answers as the exact kind does over what the store holds now, bit for bit."""
    live = LayerSearch(store, layer)
    found, true = live.search(QUERIES, k), ExactIndex(Rows.of(store.layer(layer))).search(QUERIES, k)
    np.testing.assert_array_equal(found.keys, true.keys)
    np.testing.assert_array_equal(found.scores, true.scores)
    return live


def test_report_and_files(fill: Callable[..., EmbeddingStore]) -> None:
    """The report says what was built, the meta on disk says the same, and search uses it."""
    store = fill(range(200))
    report = build_index(store)
    assert (report.kind, report.layer, report.rows, report.dim) == ("flat", "1", 200, 16)
    assert report.recall_at_10 == 1.0
    assert report.latency_ms > 0
    data = json.loads(json.dumps(report.to_dict()))
    assert data["layer"] == 1
    assert Path(report.path).parent == store.path / "indices"
    assert Path(report.path).name.startswith("1-flat-")
    meta = json.loads(Path(report.path, "meta.json").read_text())
    assert {name: meta[name] for name in ("kind", "rows", "recall_at_10", "files", "params")} == {
        name: data[name] for name in ("kind", "rows", "recall_at_10", "files", "params")
    }
    live = check_answers(store)
    assert live.notes == ()
    assert live._index is not None
    assert len(live._rest) == 0
    (row,) = index_coverage(store)
    assert (row["layer"], row["kind"], row["covers"], row["of"]) == (1, "flat", 200, 200)


@pytest.mark.parametrize("kind", ["exact", "flat", "ivf"])
@pytest.mark.parametrize(
    "layer", [pytest.param(0, marks=pytest.mark.slow), "layer 1", pytest.param("mean", marks=pytest.mark.slow)]
)
def test_every_kind_on_every_layer(fill: Callable[..., EmbeddingStore], kind: str, layer: int | str) -> None:
    """Each kind can be kept for a layer by number, by name and for the mean; recall is measured."""
    store = fill(range(300))
    report = build_index(store, layer, kind)
    assert report.recall_at_10 >= (0.98 if kind == "ivf" else 1.0)
    live = LayerSearch(store, layer)
    assert live._index is not None
    if kind != "ivf":
        check_answers(store, layer)
    assert LayerSearch(store, 0 if layer != 0 else 1)._index is None


@pytest.mark.slow
def test_measured_recall_is_honest(fill: Callable[..., EmbeddingStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that was spoilt on purpose reports the recall that it really has."""
    from embedstore.index import faisskinds

    monkeypatch.setattr(faisskinds, "tuned", lambda *_: {"candidates": 10, "nprobe": 1})
    store = fill(range(600))
    report = build_index(store, kind="ivf")
    matrix = store.layer()
    true = ExactIndex(Rows.of(matrix)).search(matrix.values, 11).keys[:, 1:]
    found = LayerSearch(store).search(matrix.values, 11).keys[:, 1:]
    really = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(true, found, strict=True)])
    assert report.recall_at_10 < 0.95
    assert abs(report.recall_at_10 - really) < 0.02


def test_auto_goes_by_rows(fill: Callable[..., EmbeddingStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat for few; a bit a value above; in cells above that; and on the disk where even bits are too many."""
    monkeypatch.setattr(tune, "_FLAT", 50)
    monkeypatch.setattr(tune, "_SCAN", 51)
    assert build_index(fill(range(50))).kind == "flat"
    assert build_index(fill([50])).kind == "rabitq"
    store = fill([51])
    assert build_index(store).kind == "ivf-rabitq"
    assert build_index(store, goal=Goal(memory=1000)).kind == "ivf"


def test_new_tracks_are_found_at_once(fill: Callable[..., EmbeddingStore]) -> None:
    """Tracks that were added after the index was built are scanned; coverage says how many."""
    build_index(fill(range(150)))
    store = fill(range(150, 190))
    assert len(check_answers(store)._rest) == 40
    assert [(row["covers"], row["of"]) for row in index_coverage(store)] == [(150, 190)]


def test_tracks_that_are_gone_never_come_back(fill: Callable[..., EmbeddingStore]) -> None:
    """Forgotten tracks are left out, and as many others take their places; a returned one is found again."""
    store = fill(range(100))
    build_index(store)
    with store.writer() as writer:
        for i in range(0, 100, 2):
            writer.forget(f"/music/{i}.ogg")
    assert set(check_answers(store, k=50).search(QUERIES, 50).keys.ravel()) == set(range(1001, 1100, 2))
    assert [(row["covers"], row["of"], row["stale"]) for row in index_coverage(store)] == [(50, 50, 50)]
    assert check_answers(fill([0, 2]), k=70)._index is not None


def test_a_hidden_track_that_the_index_never_saw(fill: Callable[..., EmbeddingStore]) -> None:
    """A track that was hidden when the index was built is in a covered shard, but not in the index: it is scanned."""
    store = fill(range(60))
    with store.writer() as writer:
        writer.forget("/music/7.ogg")
    assert build_index(store).rows == 59
    store = fill([7])
    assert len(check_answers(store, k=60)._rest) == 1
    assert [(row["covers"], row["of"], row["stale"]) for row in index_coverage(store)] == [(59, 60, 0)]


def test_an_index_outlives_a_compaction(fill: Callable[..., EmbeddingStore]) -> None:
    """Shards that are merged stay covered, also with newer tracks among them: only those are scanned."""
    fill(range(70))
    store = fill(range(70, 150))
    build_index(store)
    fill(range(150, 160))
    store = EmbeddingStore.open(store.path)
    store.compact()
    assert len(store.shards()) == 1
    live = check_answers(EmbeddingStore.open(store.path))
    assert (live.report is not None, len(live._rest)) == (True, 10)
    with store.writer() as writer:
        writer.forget("/music/7.ogg")
    store.compact()
    assert len(check_answers(store)._rest) == 10
    build_index(store)
    assert len(check_answers(store)._rest) == 0


def test_the_widest_index_is_used(fill: Callable[..., EmbeddingStore]) -> None:
    """Of two indices of a layer, the one that covers more tracks answers."""
    build_index(fill(range(50)), kind="ivf")
    store = fill(range(50, 90))
    build_index(store, kind="exact")
    assert isinstance(check_answers(store)._index, ExactIndex)


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of the meta."""
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))


def flip(folder: Path) -> None:
    """Flip one bit."""
    data = bytearray((folder / "rows").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "rows").write_bytes(data)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a file."""
    path.rename(path.with_name("moved"))
    make(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit flipped": flip,
    "truncated": lambda folder: os.truncate(folder / "rows", 1000),
    "index missing": lambda folder: (folder / "rows").unlink(),
    "a link": lambda folder: replace(folder / "rows", lambda path: path.symlink_to("moved")),
    "a pipe": lambda folder: replace(folder / "rows", os.mkfifo),
    "a folder": lambda folder: replace(folder / "rows", Path.mkdir),
    "meta a pipe": lambda folder: replace(folder / "meta.json", os.mkfifo),
    "meta empty": lambda folder: (folder / "meta.json").write_bytes(b""),
    "meta not JSON": lambda folder: (folder / "meta.json").write_bytes(b"\xff{"),
    "meta nested deeply": lambda folder: (folder / "meta.json").write_bytes(b"[" * 100_000),
    "meta huge": lambda folder: os.truncate(folder / "meta.json", 2**26),
    "meta of another version": lambda folder: edit(folder, format=3),
    "meta of the first version": lambda folder: edit(folder, format=1),
    "another sum": lambda folder: edit(folder, files={"rows": {"bytes": 4712, "sha256": "0" * 64}}),
    "a file outside": lambda folder: edit(
        folder, files={"rows": {"bytes": 1, "sha256": ""}, "../x": {"bytes": 1, "sha256": ""}}
    ),
    "a file of the kind's": lambda folder: edit(
        folder, files={"rows": {"bytes": 1, "sha256": ""}, "index.faiss": {"bytes": 1, "sha256": ""}}
    ),
    "a kind that parses files": lambda folder: edit(folder, kind="rabitq"),
    "a factory string": lambda folder: edit(folder, kind="IVF2,Flat"),
    "more rows": lambda folder: edit(folder, rows=101),
    "another width": lambda folder: edit(folder, dim=2**40),
    "another kind": lambda folder: edit(folder, kind="os:system"),
    "a layer outside": lambda folder: edit(folder, layer="../../1"),
    "not a number": lambda folder: edit(folder, latency_ms=float("nan")),
    "a stray file": lambda folder: (folder / "index.cells").write_bytes(b""),
}


QUICK = {"one bit flipped", "truncated", "a pipe", "meta not JSON", "a kind that parses files", "a stray file"}


@pytest.mark.parametrize("how", [how if how in QUICK else pytest.param(how, marks=pytest.mark.slow) for how in DAMAGE])
def test_damage_is_noted_and_the_answer_stays(fill: Callable[..., EmbeddingStore], how: str) -> None:
    """Whatever was done to the files: one line says it, and every track is compared instead."""
    store = fill(range(100))
    DAMAGE[how](Path(build_index(store).path))
    (note,) = check_answers(store).notes
    assert note.startswith("index 1-flat-")
    assert " is not usable: " in note
    assert note.endswith("build it again with 'embedstore index'")
    assert note.isprintable()
    (row,) = index_coverage(store)
    assert "problem" in row or how == "more rows", "info checks the meta and the sum, and loads nothing"
    if how in {"one bit flipped", "meta of the first version"}:
        build_index(store)
        assert check_answers(store).notes == ()


def test_interrupted_between_index_and_meta(
    fill: Callable[..., EmbeddingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild that dies before its meta leaves the index that was there, and nothing else."""
    from embedstore.index import saved

    build_index(fill(range(50)))
    store = fill(range(50, 100))

    def die(path: Path, data: bytes) -> None:
        if path.name == "meta.json":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(saved, "write_file", die)
    with pytest.raises(StoreError, match=r"cannot write an index in .*indices: the disk is full"):
        build_index(store)
    live = check_answers(store)
    assert (live.notes, len(live._rest), len(list((store.path / "indices").iterdir()))) == ((), 50, 1)


def test_indices_of_other_stores(fill: Callable[..., EmbeddingStore]) -> None:
    """An index of a store with another recipe is refused; one of other tracks covers nothing here and is passed over."""
    store = fill(range(100))
    other = fill(range(100, 200), name="other")
    strange = fill(range(100), name="strange", window=3)
    there = store.path / "indices" / "1-flat-00000000"
    shutil.copytree(build_index(strange).path, there)
    assert "it belongs to a store with another recipe" in check_answers(store).notes[0]
    shutil.rmtree(there)
    shutil.copytree(build_index(other).path, there)
    live = check_answers(store)
    assert (live._index, live.notes) == (None, ())
    assert [row["covers"] for row in index_coverage(store)] == [0]


@pytest.mark.slow
def test_small_and_empty_stores(fill: Callable[..., EmbeddingStore]) -> None:
    """Nothing to index is an error; one track is an index with nothing to miss; 11 tracks have ten neighbours each."""
    with pytest.raises(ParameterError, match="holds no tracks; build first"):
        build_index(fill([]))
    assert index_coverage(fill([])) == []
    for numbers in ([1], [2, 3], range(4, 13)):
        store = fill(numbers)
        for kind in ("exact", "flat", "ivf"):
            assert build_index(store, kind=kind).recall_at_10 == 1.0
        check_answers(store)


def test_wrong_arguments(fill: Callable[..., EmbeddingStore]) -> None:
    """Unknown kinds and layers list the known; a negative seed and a mean of unequal layers are refused."""
    store = fill(range(20))
    with pytest.raises(UnknownNameError, match="unknown index kind 'flatt'; did you mean 'flat'"):
        build_index(store, kind="flatt")
    with pytest.raises(UnknownNameError, match="there is no layer 7"):
        build_index(store, layer=7)
    with pytest.raises(ParameterError, match="a seed is at least 0; got -1"):
        build_index(store, seed=-1)
    ragged = fill(range(20), name="ragged", dims=(4, 8))
    with pytest.raises(ParameterError, match="different widths"):
        build_index(ragged, layer="mean")
    with pytest.raises(ParameterError, match="different widths"):
        LayerSearch(ragged, "mean")


def test_a_folder_that_cannot_be_written(fill: Callable[..., EmbeddingStore]) -> None:
    """A file in the place of the folder is a StoreError of one line."""
    store = fill(range(20))
    (store.path / "indices").write_text("")
    with pytest.raises(StoreError, match="cannot write an index"):
        build_index(store)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["../x", "/etc/passwd", "1-flat", "flat", "mean"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
def test_any_meta_gives_the_right_answer(fill: Callable[..., EmbeddingStore]) -> None:
    """Whatever one or two fields of the meta, or all its bytes, say: the answer is that of the exact kind."""
    store = fill(range(30))
    file = Path(build_index(store).path, "meta.json")
    good = json.loads(file.read_text())
    changes = st.dictionaries(st.sampled_from(sorted(good)), JSON, min_size=1, max_size=2)
    metas = changes.map(lambda change: json.dumps(good | change).encode())

    @settings(max_examples=50, deadline=None)
    @given(metas | JSON.map(lambda data: json.dumps(data).encode()) | st.binary(max_size=50))
    def check(text: bytes) -> None:
        file.write_bytes(text)
        live = check_answers(store)
        assert all(note.isprintable() for note in live.notes)
        assert all("problem" in row or row["kind"] == "flat" for row in index_coverage(store))

    check()


def test_coverage_names_a_damaged_index(fill: Callable[..., EmbeddingStore]) -> None:
    """What `info` says of an index was checked against its sum."""
    store = fill(range(50))
    report = build_index(store, 0)
    assert index_coverage(store)[0]["covers"] == len(store)
    file = Path(report.path) / "rows"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00\x00")
    assert "problem" in index_coverage(store)[0]
