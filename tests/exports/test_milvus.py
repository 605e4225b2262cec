"""Milvus: what a search there finds is what our exact search finds; exports bring a collection up to date."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import store_material as m

from embedstore import EmbeddingStore, export
from embedstore.errors import EncoderMismatchError, ParameterError, StoreError
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import Rows
from embedstore.types import LayerEmbeddings, TrackLabels

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
NAME = "embedstore_layer_01"


@pytest.fixture
def client(store):
    """Connect to the folder that is exported to; let go of it."""
    from milvus_lite.server_manager import server_manager_instance

    connected = pymilvus.MilvusClient("music.db")
    yield connected
    connected.close()
    server_manager_instance.release_all()


def stored(client, *fields: str) -> dict[int, dict]:
    """Read all rows by key."""
    return {row["key"]: row for row in client.query(NAME, filter="key >= 0", output_fields=["key", *fields])}


def test_search_there_is_search_here(store, client):
    """The same keys in the same order, with the same cosines."""
    report = export(store, "music.db")
    assert (report.rows, report.deleted, report.collection) == (600, 0, NAME)
    assert (report.layers, report.target) == (("layer_01",), os.path.abspath("music.db"))
    queries = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    expected = ExactIndex(Rows.of(store.layer(1))).search(queries, 10)
    found = client.search(NAME, data=list(queries), limit=10, output_fields=["path"])
    for hits, keys, scores in zip(found, expected.keys, expected.scores, strict=True):
        assert [hit["key"] for hit in hits] == keys.tolist()
        np.testing.assert_allclose([hit["distance"] for hit in hits], scores, atol=1e-5)
        assert hits[0]["entity"]["path"] == m.track(keys[0] - 1000).path


def test_a_server_is_reached_by_its_address(store, client, monkeypatch):
    """The same over HTTP: the program behind a folder is a server, too; the token comes from the environment."""
    from milvus_lite.server_manager import server_manager_instance

    asked = []

    class Client(pymilvus.MilvusClient):
        def __init__(self, *arguments, **options):
            asked.append((arguments, options))
            super().__init__(*arguments, **options)

    monkeypatch.setattr(pymilvus, "MilvusClient", Client)
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    address = server_manager_instance.start_and_get_uri("music.db")
    assert address.startswith("http://127.0.0.1:")
    report = export(store, address)
    assert (report.target, report.rows, "secret" in repr(report)) == (address, 600, False)
    assert asked == [((address,), {"token": "root:secret"})]
    assert len(stored(client)) == 600


def test_a_collection_is_brought_up_to_date(store, client):
    """Exporting again adds what is new, writes what has changed and deletes what is gone; other vectors stay apart."""
    export(store, "music.db", layers=["1"])
    long = TrackLabels(("a", "b"), tuple(f"artist {i}" for i in range(5000)), "é" * 70_000, "nul \0", "", "test", 1969)
    with store.writer() as writer:
        writer.forget(m.file(7).full_path)
        writer.label(1008, long)
        zeros = tuple(np.zeros(8, np.float32) for _ in range(3))
        writer.add(m.track(600), m.file_hash(600), LayerEmbeddings(zeros, 1))
    report = export(store, "music.db")
    assert (report.rows, report.deleted) == (600, 1)
    rows = stored(client, "vector", "track_id", "genres", "artists", "album", "title", "split", "seconds", "year")
    assert sorted(rows) == [1000 + i for i in range(601) if i != 7]
    assert (rows[1008]["genres"], rows[1008]["title"]) == (["a", "b"], "nul \\x00")
    assert (rows[1008]["split"], rows[1009]["split"]) == ("test", "")
    assert (rows[1008]["year"], rows[1009]["year"]) == (1969, 0)
    assert (len(rows[1008]["artists"]), rows[1008]["album"]) == (4096, "é" * 32_767)
    assert (rows[1009]["genres"], rows[1009]["artists"], rows[1009]["seconds"]) == (["genre 0"], ["artist 4"], 39.0)
    assert rows[1009]["track_id"] == f"{1009:016x}"
    np.testing.assert_array_equal(rows[1009]["vector"], m.vectors(9).vectors[1])
    np.testing.assert_array_equal(rows[1600]["vector"], np.zeros(8))


@pytest.mark.slow
def test_a_collection_of_an_earlier_version_goes_on(store, client, monkeypatch):
    """It has no field for the split or the year: the others are brought up to date."""
    add = pymilvus.CollectionSchema.add_field
    with monkeypatch.context() as patch:
        patch.setattr(
            pymilvus.CollectionSchema,
            "add_field",
            lambda self, name, *a, **k: name in ("split", "year") or add(self, name, *a, **k),
        )
        export(store, "music.db")
    with store.writer() as writer:
        writer.label(1008, TrackLabels(("new",), split="test", year=1969))
    assert export(store, "music.db").rows == 600
    (row,) = client.query(NAME, filter="key == 1008", output_fields=["*"])
    assert (row["genres"], {"split", "year"} & set(row)) == (["new"], set())


@pytest.mark.slow
def test_other_vectors_are_refused(store, client):
    """A collection of another layer, recipe or store, or that somebody else made, is left alone."""
    export(store, "music.db")
    before = stored(client, "exported")
    with pytest.raises(EncoderMismatchError, match=f"the collection {NAME} holds another layer; give another name"):
        export(store, "music.db", layers=[2], collection=NAME)
    other = EmbeddingStore.create("other", replace(m.card(), licence="none"), m.recipe(dtype="other"))
    with other.writer() as writer:
        m.fill(writer, range(3))
    with pytest.raises(EncoderMismatchError, match="holds another recipe and store"):
        export(other, "music.db")
    client.create_collection("mine", dimension=8)
    with pytest.raises(EncoderMismatchError, match="the collection mine holds something that is not ours"):
        export(store, "music.db", collection="mine")
    assert stored(client, "exported") == before


@pytest.mark.slow
def test_rows_of_a_damaged_shard_stay(store, client):
    """What cannot be read just now is not taken for deleted."""
    with store.writer() as writer:
        m.fill(writer, range(600, 610))
    export(store, "music.db")
    last = max((store.path / "shards").iterdir())
    last.write_bytes(last.read_bytes()[:-1])
    hurt = EmbeddingStore.open("embeddings")
    assert hurt.problems
    report = export(hurt, "music.db")
    assert (report.rows, report.deleted) == (600, 0)
    assert len(stored(client)) == 610


@pytest.mark.parametrize(
    ("target", "options", "error", "words"),
    [
        ("music.db", {"layers": ["all"]}, ParameterError, "has one layer; got layer_00, layer_01, layer_02: choose one"),
        ("music", {"to": "milvus"}, ParameterError, r"neither the address of a Milvus server .* nor a folder \*.db"),
        ("http://me:secret@host:19530", {}, ParameterError, "put it into MILVUS_TOKEN"),
        ("http://127.0.0.1:1", {}, StoreError, "cannot export to .* at http://127.0.0.1:1: Fail connecting to server"),
        ("nowhere/music.db", {}, StoreError, "nowhere not exists"),
        ("file.db", {}, StoreError, "Open local milvus failed .*File exists"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be(store, capfd, tmp_path, target, options, error, words):
    """One clear line each, and nothing else on the terminal; no token, no password."""
    (tmp_path / "file.db").write_text("not a folder")
    with pytest.raises(error, match=words) as caught:
        export(store, target, **options)
    assert "secret" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_full_disk(store, mounted, run):
    """One line and exit code 1; with room, the same command completes the collection."""
    with mounted("size=32k") as small:
        command = ("-m", "cli", "export", small / "music.db", "--store", store.path)
        done = run(*command)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "No space left on device" in done.stderr
        os.system(f"mount -o remount,size=50m {small}")  # noqa: S605
        done = run(*command)
        assert (done.returncode, done.stderr) == (0, "")
        assert ": 600 tracks, layer_01" in done.stdout
