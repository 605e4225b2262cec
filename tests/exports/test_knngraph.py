"""The graph of neighbours: what a naive loop finds, in Parquet and CSV; a file appears whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_material as m
from click.testing import CliRunner

import cli
from embedstore import EmbeddingStore
from embedstore.errors import MissingDependencyError, ParameterError, StoreError, UnknownNameError
from embedstore.exports import knngraph
from embedstore.exports.knngraph import knn_graph
from embedstore.index import build_index
from embedstore.types import LayerEmbeddings, Neighbors

N, K = 600, 5
Edges = list[tuple[str, str, int, float]]


@pytest.fixture(scope="module")
def cosines() -> np.ndarray:
    """Compare every two tracks of the store in float64, in its default layer."""
    values = np.array([m.vectors(i).vectors[1] for i in range(N)], np.float64)
    values /= np.linalg.norm(values, axis=1)[:, None]
    return values @ values.T


@pytest.fixture
def opened(tmp_path, monkeypatch, made) -> EmbeddingStore:
    """Open the store of 600 tracks, to be read only, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMBEDSTORE_STORE", raising=False)
    return EmbeddingStore.open(made)


def small(vectors: list[list[float]]) -> EmbeddingStore:
    """Make a store of these vectors, in each layer."""
    store = m.make("small")
    with store.writer() as writer:
        for i, vector in enumerate(vectors):
            padded = np.pad(np.array(vector, np.float32), (0, 8 - len(vector)))
            writer.add(m.track(i), m.file_hash(i), LayerEmbeddings((padded,) * 3, 1))
    return store


def rows_of(path: str) -> Edges:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [(r["source"], r["target"], int(r["rank"]), float(r["score"])) for r in csv.DictReader(file)]


def check(edges: Edges, cosines: np.ndarray, k: int = K) -> None:
    """Compare with a naive loop: for each track the k highest of the others, with their scores."""
    by_source: dict[int, list[tuple[int, int, float]]] = {}
    for source, target, rank, score in edges:
        by_source.setdefault(int(source, 16) - 1000, []).append((rank, int(target, 16) - 1000, score))
    assert sorted(by_source) == list(range(N))
    for i, found in by_source.items():
        assert [rank for rank, _, _ in found] == list(range(1, k + 1))
        assert i not in {j for _, j, _ in found}
        expected = -np.sort(-np.delete(cosines[i], i))[:k]
        np.testing.assert_allclose([score for *_, score in found], expected, atol=1e-6)
        np.testing.assert_allclose([cosines[i, j] for _, j, _ in found], expected, atol=1e-6)


def test_parquet_holds_what_a_loop_finds(opened, cosines, monkeypatch):
    """Every edge, in several row groups; the metadata say of what; progress ends with all tracks."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(knngraph, "_EDGES", 1000)
    seen: list[tuple[int, int]] = []
    report = knn_graph(opened, "g.parquet", k=K, progress=lambda *counts: seen.append(counts))
    assert (report.tracks, report.edges, report.index, report.recall) == (N, N * K, "exact", 1.0)
    assert (report.target, report.bytes) == (os.path.abspath("g.parquet"), Path("g.parquet").stat().st_size)
    assert seen == [(256, N), (512, N), (N, N)]
    file = parquet.ParquetFile("g.parquet")
    assert file.num_row_groups == 3
    assert [(f.name, str(f.type)) for f in file.schema_arrow] == [
        ("source", "string"),
        ("target", "string"),
        ("rank", "int32"),
        ("score", "float"),
    ]
    check(list(zip(*file.read().to_pydict().values(), strict=True)), cosines)
    about = {name.decode(): text.decode() for name, text in file.schema_arrow.metadata.items()}
    assert about["embedstore_fingerprint"] == opened.fingerprint
    told = {"store": opened.id, "layer": "1", "transform": "none", "k": "5", "index": "exact", "recall": "1.0000"}
    assert {name: about[f"embedstore_{name}"] for name in told} == told


def test_csv_holds_the_same(opened, cosines):
    """Without metadata; scores come back as float32, bit for bit."""
    knn_graph(opened, "g.csv", k=K)
    check(rows_of("g.csv"), cosines)
    parquet = pytest.importorskip("pyarrow.parquet")
    knn_graph(opened, "g.parquet", k=K)
    columns = parquet.read_table("g.parquet").to_pydict()
    assert [(s, t, r, np.float32(x)) for s, t, r, x in rows_of("g.csv")] == list(zip(*columns.values(), strict=True))


def never(*_: object) -> None:
    """Stand for what must not be called."""
    raise AssertionError


def test_an_index_answers_unless_all_are_compared(store, cosines, monkeypatch):
    """What is not found is told; with `exact`, no index is looked at; an unusable one is told, and not needed."""
    build_index(store, kind="exact")
    monkeypatch.setattr(knngraph, "_milliseconds", lambda *_: 1e9)
    with monkeypatch.context() as patch:
        patch.setattr(knngraph, "_compared", never)
        report = knn_graph(store, "g.csv", k=K)
        assert (report.index, report.recall, report.notes) == ("exact", 1.0, ())
        check(rows_of("g.csv"), cosines)
        search = knngraph.LayerSearch.search

        def forgetful(self: object, queries: np.ndarray, k: int) -> Neighbors:
            found = search(self, queries, k)
            return Neighbors(np.where(np.arange(k) == k - 1, -1, found.keys), found.scores)

        patch.setattr(knngraph.LayerSearch, "search", forgetful)
        report = knn_graph(store, "g.csv", k=K, overwrite=True)
        assert (report.edges, report.notes) == (N * (K - 1), (f"the index did not find {N} of {N * K} neighbours",))
    monkeypatch.setattr(knngraph, "_indexed", never)
    with monkeypatch.context() as patch:
        patch.setattr(knngraph, "usable_indices", never)
        knn_graph(store, "all.csv", k=K, exact=True)
    (rows,), (meta,) = store.path.glob("indices/*/rows"), store.path.glob("indices/*/meta.json")
    data = bytearray(rows.read_bytes())
    data[5000] ^= 1
    for file, spoilt in ((rows, bytes(data)), (meta, b"{}")):
        file.write_bytes(spoilt)
        (note,) = knn_graph(store, "all.csv", k=K, overwrite=True).notes
        assert note.endswith("build it again with 'embedstore index'")
    check(rows_of("all.csv"), cosines)


def test_an_index_that_would_not_help_is_not_used(tmp_path, monkeypatch):
    """It covers less than nine tenths, or is slower than comparing all: they are compared, and the report says why."""
    monkeypatch.chdir(tmp_path)
    store = small([[1, i] for i in range(8)])
    build_index(store, kind="flat")
    monkeypatch.setattr(knngraph, "_milliseconds", lambda *_: 0)
    (note,) = knn_graph(store, "g.csv", k=2).notes
    assert re.fullmatch(r"the flat index was not used: [\d.e-]+ ms a track, comparing all 0 ms", note)
    monkeypatch.setattr(knngraph, "_milliseconds", lambda *_: 1e9)
    assert knn_graph(store, "g.csv", k=2, overwrite=True).index == "flat"
    with store.writer() as writer:
        writer.add(m.track(8), m.file_hash(8), LayerEmbeddings((np.ones(8, np.float32),) * 3, 1))
    monkeypatch.setattr(knngraph, "_indexed", never)
    report = knn_graph(store, "g.csv", k=2, overwrite=True)
    assert (report.index, report.edges) == ("exact", 18)
    assert report.notes == ("the flat index was not used: it covers 8 of 9 tracks",)


def test_the_time_to_compare_is_measured() -> None:
    """It grows with the tracks, those included that are not tried."""
    few, many = knngraph._milliseconds(10, 4), knngraph._milliseconds(10**9, 4)
    assert 0 < few < many / 1000


def test_a_transform_moves_the_vectors_first(opened):
    """Centred scores are cosines about the mean."""
    knn_graph(opened, "g.csv", k=1, layer="layer 2", transform="centre")
    values = np.array([m.vectors(i).vectors[2] for i in range(N)], np.float64)
    values -= values.mean(axis=0)
    values /= np.linalg.norm(values, axis=1)[:, None]
    cosines = values @ values.T - 3 * np.eye(N)
    found = {int(source, 16) - 1000: score for source, _, _, score in rows_of("g.csv")}
    np.testing.assert_allclose([found[i] for i in range(N)], cosines.max(axis=1), atol=1e-5)


def test_few_tracks_equal_ones_and_zeros(tmp_path, monkeypatch):
    """There are fewer tracks than k; of two that are equal each has the other; zeros are as near to all; one has nobody."""
    monkeypatch.chdir(tmp_path)
    store = small([[1, 0], [2, 0], [0, 0]])
    assert knn_graph(store, "g.csv", k=10).edges == 6
    found = {(int(s, 16) % 1000, int(t, 16) % 1000): (rank, score) for s, t, rank, score in rows_of("g.csv")}
    assert found == {(0, 1): (1, 1), (0, 2): (2, 0), (1, 0): (1, 1), (1, 2): (2, 0), (2, 0): (1, 0), (2, 1): (2, 0)}
    with store.writer() as writer:
        for i in (0, 1):
            writer.forget(m.file(i).full_path)
    report = knn_graph(EmbeddingStore.open("small"), "one.csv")
    assert (report.tracks, report.edges, report.notes, rows_of("one.csv")) == (1, 0, (), [])


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("g.txt", {}, ParameterError, r"'g.txt' does not say what to write: name it \*.parquet, \*.csv"),
        ("g.csv", {"k": 0}, ParameterError, "k must be at least 1; got 0"),
        ("g.csv", {"layer": 9}, UnknownNameError, "there is no layer 9"),
        ("g.csv", {"transform": "whitten"}, UnknownNameError, "did you mean 'whiten'"),
        ("there.csv", {}, ParameterError, "there.csv exists; choose another name, or give --overwrite"),
        ("no/g.csv", {}, StoreError, "cannot write .*no/g.csv: No such file"),
    ],
)
def test_faults_leave_no_file(opened, name, options, error, words):
    """One line; what was there stays."""
    Path("there.csv").write_text("mine")
    with pytest.raises(error, match=words):
        knn_graph(opened, name, **options)
    assert [path.name for path in Path().iterdir()] == ["there.csv"]
    assert Path("there.csv").read_text() == "mine"
    with pytest.raises(ParameterError, match="lies in the store"):
        knn_graph(opened, opened.path / "g.csv")


def test_an_empty_store_has_no_graph(tmp_path):
    """An error that says what to do."""
    with pytest.raises(ParameterError, match="holds no tracks; build first"):
        knn_graph(m.make(tmp_path / "empty"), "g.csv")


def test_without_pyarrow(opened, monkeypatch):
    """The line that installs it, and no file; a CSV needs none."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedstore-mir\[parquet\]'"):
        knn_graph(opened, "g.parquet")
    assert list(Path().iterdir()) == []
    assert knn_graph(opened, "g.csv", k=1).edges == N


@pytest.mark.parametrize("moment", ["while it reads", "while it compares"])
def test_stopped(opened, monkeypatch, moment):
    """An interrupt leaves neither the file nor the temporary one of the vectors."""
    monkeypatch.setenv("TMPDIR", str(Path.cwd()))
    monkeypatch.setattr("tempfile.tempdir", None)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if moment == "while it reads":
        monkeypatch.setattr(knngraph, "write_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        knn_graph(opened, "g.csv", progress=stop)
    assert list(Path().iterdir()) == []


def test_a_store_that_loses_tracks_meanwhile(store, monkeypatch):
    """One line that says what to do."""
    keys = store.keys()
    monkeypatch.setattr(EmbeddingStore, "keys", lambda self: np.append(keys, 77))
    with pytest.raises(StoreError, match="lost tracks while it was read; try again"):
        knn_graph(store, "g.csv")


def test_the_command(store):
    """In one line, or as one JSON document."""

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli.main, ["knn-graph", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    line = call("g.csv", "-k", "3", "--layer", "mean")
    assert line.startswith("1800 edges of 600 tracks (k = 3, layer mean) in g.csv, ")
    report = json.loads(call("g.csv", "--overwrite", "--exact", "--json", "--transform", "centre"))
    assert (report["edges"], report["transform"], report["index"]) == (6000, "centre", "exact")
    assert report["bytes"] == Path("g.csv").stat().st_size


INTERRUPTED = """
import os, random, signal, sys, time
from embedstore import EmbeddingStore
from embedstore.exports.knngraph import knn_graph

def lost(found, show=sys.unraisablehook):  # Python itself drops what is raised in a weak reference's callback
    if found.exc_type is not KeyboardInterrupt:
        show(found)


sys.unraisablehook = lost
signal.signal(signal.SIGALRM, signal.default_int_handler)
store, name = EmbeddingStore.open("embeddings"), sys.argv[1]
knn_graph(store, name)  # with the imports
began = time.perf_counter()
knn_graph(store, name, overwrite=True)
took = time.perf_counter() - began
os.remove(name)
randomly, interrupted = random.Random(0), 0
for _ in range(60):
    try:
        signal.setitimer(signal.ITIMER_REAL, randomly.uniform(1e-4, took))
        knn_graph(store, name)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    assert set(os.listdir()) <= {"embeddings", name}, os.listdir()  # whole or not at all
    if os.path.exists(name):
        os.remove(name)
print(interrupted)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["g.csv", "g.parquet"])
def test_interrupted_at_any_moment(store, run, name, monkeypatch):
    """Ctrl-C, wherever it comes, ends it and nothing else; no half file, and none of the vectors."""
    monkeypatch.setenv("TMPDIR", str(Path.cwd()))
    done = run("-c", INTERRUPTED, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 15


@pytest.mark.slow
def test_memory_is_flat(tmp_path, run, monkeypatch):
    """20,000 tracks of 1,024 values take less than 30 MB more than 5,000, whose vectors are 61 MB less; but for pages of files."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed is given back
    code = (
        "import re, sys; from pathlib import Path; from embedstore import EmbeddingStore\n"
        "from embedstore.exports.knngraph import knn_graph\n"
        "held = lambda *_: peaks.append(int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]))\n"
        "peaks = []; knn_graph(EmbeddingStore.open(sys.argv[1]), sys.argv[2], k=2, progress=held); print(max(peaks))"
    )
    peaks = []
    for count in (5000, 20_000):
        store = m.make(tmp_path / f"s{count}", dims=(1, 1024))
        for start in range(0, count, 2000):
            values = np.random.default_rng(start).normal(size=(2000, 1024)).astype(np.float32)
            with store.writer() as writer:
                for i in range(start, min(start + 2000, count)):
                    track = replace(m.track(i), files=(m.file(i, f"{i}.ogg"),))
                    writer.add(track, m.file_hash(i), LayerEmbeddings((values[i - start, :1], values[i - start]), 1))
        done = run("-c", code, store.path, tmp_path / f"{count}.csv")
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 30_000, peaks
