"""The map as pages ask for it: its rows, where they lie, which of them hold some words, and what happens when the store grows."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from embedstore.errors import StoreError
from embedstore.maps import Map, open_map, place
from embedstore.maps.saved import keep
from embedstore.search import Searcher
from embedstore.types import TrackLabels, key_from_id, track_id
from embedstore.web import library, mapping
from embedstore.web.app import make_jobs

RNG = np.random.default_rng(3)


def by_hand(store, method="pca") -> Map:
    """Make a map of what is stored, whatever sounds alike."""
    keys = np.sort(store.keys())
    positions = RNG.random((2, len(keys), 2), np.float32)
    clusters = RNG.integers(0, 3, (2, len(keys))).astype(np.int16)
    return Map(method, (0, 1), keys, positions, clusters, 0, 15, 1.5, ("a note",))


@pytest.fixture
def mapped(shelf):
    """Keep a map in the store; take it away again."""
    found = by_hand(shelf.store)
    keep(shelf.store, found)
    yield found
    for path in (shelf.store.path / "maps").iterdir():
        path.unlink()


def get(client, path, code=200, **params):
    answer = client.get(f"/api/{path}", params=params)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_the_rows_say_what_the_tracks_say(client, shelf) -> None:
    """Column by column what each track says of itself; names by number, the most frequent first; a version for all of it."""
    state, rows = get(client, "map"), get(client, "map/tracks")
    assert (state["version"], state["tracks"]) == (rows["version"], 10)
    assert state["layers"] == [{"number": 0, "name": "layer 0"}, {"number": 1, "name": "layer 1"}]
    assert state["default_layer"] == 1
    for i, name in enumerate(rows["tracks"]):
        track = get(client, f"tracks/{name}")
        labels = track["labels"]
        said = [(rows[kind]["names"], rows[kind]["codes"][i]) for kind in ("genres", "artists")]
        assert [names[code] for names, code in said] == [labels["genres"][0], labels["artists"][0]]
        assert (rows["titles"][i], rows["seconds"][i], rows["years"][i]) == (labels["title"], 30.0, None)
    assert rows["tracks"] == sorted(rows["tracks"])
    assert {*rows["genres"]["names"]} == {"blues", "rock"}


def test_a_map_that_is_missing_says_how_long_it_takes(client, shelf) -> None:
    """And has no positions yet; an unknown layer, method or version is told."""
    state = get(client, "map")
    assert [(one["method"], one["state"], one["covers"]) for one in state["methods"]] == [
        ("umap", "missing", 0),
        ("pca", "missing", 0),
    ]
    assert all(one["seconds"] > 0 for one in state["methods"])
    wanted = {"method": "pca", "layer": 1, "version": state["version"]}
    assert "POST /api/jobs" in get(client, "map/positions", 404, **wanted)["error"]["message"]
    assert "known: umap, pca" in get(client, "map/positions", 404, **wanted | {"method": "tsne"})["error"]["message"]
    assert "there is no layer 7" in get(client, "map/positions", 404, **wanted | {"layer": 7})["error"]["message"]
    assert (
        "ask /api/map/tracks again"
        in get(client, "map/positions", 409, **wanted | {"version": "x"})["error"]["message"]
    )
    get(client, "map/matches", 409, q="song", version="x")


def test_positions_are_those_of_the_map(client, shelf, mapped) -> None:
    """Row by row, layer by layer, in 16 bits; also once the map was made anew."""
    state = get(client, "map")
    ready = next(one for one in state["methods"] if one["method"] == "pca")
    assert (ready["state"], ready["covers"]) == ("ready", 10)
    assert "a note" in state["notes"]
    rows = get(client, "map/tracks")["tracks"]
    for found in (mapped, by_hand(shelf.store)):
        keep(shelf.store, found)
        for at, layer in enumerate(found.layers):
            where = get(client, "map/positions", method="pca", layer=layer, version=state["version"])
            for row, name in enumerate(rows):
                place = found.keys.tolist().index(key_from_id(name))
                x, y = (round(float(value) * 65535) for value in found.positions[at, place])
                assert (where["x"][row], where["y"][row], where["clusters"][row]) == (x, y, found.clusters[at, place])


def test_words_find_rows(client) -> None:
    """The same tracks as in the list, by their rows."""
    rows = get(client, "map/tracks")
    for words in ("ann", "blues ben", "song 7", "nothing", ""):
        found = get(client, "map/matches", q=words, version=rows["version"])["rows"]
        listed = {track["id"] for track in get(client, "tracks", q=words)["tracks"]}
        assert {rows["tracks"][row] for row in found} == listed
        assert found == sorted(found)


def test_a_store_that_grows_has_another_version(shelf, client_of, mapped, monkeypatch) -> None:
    """The old one is refused; a track that came after the map lies beside its like, in no cluster; one that has gone has no row."""
    monkeypatch.setattr(library, "_REST", 0)
    searcher = Searcher(shelf.store)
    client = client_of(searcher)
    before = get(client, "map/tracks")
    new = shelf.put(20)
    try:
        state, rows = get(client, "map"), get(client, "map/tracks")
        assert rows["version"] == state["version"] != before["version"]
        assert next(one for one in state["methods"] if one["method"] == "pca")["covers"] == 10
        get(client, "map/positions", 409, method="pca", layer=0, version=before["version"])
        where = get(client, "map/positions", method="pca", layer=0, version=rows["version"])
        row = rows["tracks"].index(new)
        expected = place(mapped, searcher.beside(0).view().live, 0, np.array([key_from_id(new)]))[0]
        assert (where["x"][row], where["y"][row]) == tuple(np.rint(expected * 65535))
        assert where["clusters"][row] == -1
    finally:
        shelf.store.remove([new])
    after = get(client, "map/tracks")
    assert after["tracks"] == before["tracks"]
    assert after["version"] == before["version"]


def test_labels_make_another_version(shelf, client_of, monkeypatch) -> None:
    """Not only tracks do."""
    monkeypatch.setattr(library, "_REST", 0)
    before = shelf.store.labels()[1009]
    with client_of(Searcher(shelf.store)) as client:
        version = get(client, "map")["version"]
        for labels, same in ((TrackLabels(("polka",)), False), (before, True)):
            with shelf.store.writer() as writer:
                writer.label(1009, labels)
            assert (get(client, "map")["version"] == version) is same
            assert ("polka" in get(client, "map/tracks")["genres"]["names"]) is not same


def test_a_store_that_cannot_be_written_keeps_its_map_with_the_service(
    searcher, monkeypatch, tmp_path, client_of
) -> None:
    """A job's map is found all the same, and goes with the service."""
    made = by_hand(searcher.store)
    real = mapping.keep

    def refuse(*_, **__):
        return made  # it says so in a note, and that is all

    jobs = make_jobs(searcher, ())
    monkeypatch.setattr(mapping, "make_map", refuse)
    monkeypatch.setattr(mapping.tempfile, "gettempdir", lambda: str(jobs.folder))
    assert mapping.make(str(searcher.store.path), lambda *_: None, "pca", 0, 15) == "pca"
    assert open_map(searcher.store, "pca") is None
    with client_of(searcher, jobs=jobs) as client:
        state = get(client, "map")
        assert next(one for one in state["methods"] if one["method"] == "pca")["state"] == "ready"
        get(client, "map/positions", method="pca", layer=0, version=state["version"])
    jobs.close()
    assert not jobs.folder.exists()
    with pytest.raises(StoreError):
        real(searcher.store, made, tmp_path / "no" / "such")


def test_large_answers_are_compressed_and_sound_is_not(client_of, searcher, shelf, monkeypatch) -> None:
    """Where the reader says that it can read that."""
    from embedstore.web import app

    monkeypatch.setattr(app, "_LARGE", 100)
    with client_of(searcher) as client:
        for coding in ("gzip", "identity"):
            answer = client.get("/api/map/tracks", headers={"Accept-Encoding": coding})
            assert answer.headers.get("content-encoding", "identity") == coding
            assert len(answer.json()["tracks"]) == 10
        sound = client.get(f"/api/tracks/{track_id(1003)}/audio", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in sound.headers
        assert sound.content == shelf.sound(3)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("umap"), reason="needs umap-learn")
def test_real_maps_are_made_by_jobs(shelf, client_of) -> None:
    """Asked for, followed, drawn; the files of the store are as before, the maps beside them."""
    import hashlib
    import time

    def sums():
        files = (
            path
            for path in shelf.store.path.rglob("*")
            if path.is_file() and path.parent.name != "maps" and path.name != "writer.lock"
        )
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = sums()
    searcher = Searcher(shelf.store)
    jobs = make_jobs(searcher, ())
    with client_of(searcher, jobs=jobs) as client:
        for method in ("pca", "umap"):
            job = client.post("/api/jobs", json={"kind": "map", "options": {"method": method}})
            assert (job.status_code, job.json()["state"]) == (202, "running")
            assert next(one for one in get(client, "map")["methods"] if one["method"] == method)["state"] == "making"
            while (now := get(client, "jobs")[0])["state"] == "running":
                time.sleep(0.1)
            assert (now["state"], now["result"]) == ("done", method), now
            state = get(client, "map")
            where = get(client, "map/positions", method=method, layer=1, version=state["version"])
            assert len({*zip(where["x"], where["y"], strict=True)}) == 10
    jobs.close()
    assert sums() == before
    assert json.loads(json.dumps(open_map(shelf.store, "umap").to_dict()))["tracks"] == 10
    for path in (shelf.store.path / "maps").iterdir():
        path.unlink()


def test_a_store_that_is_empty_or_says_nothing(new_shelf, client_of) -> None:
    """No rows, and nothing to fail at; a track without labels is called by its file."""
    shelf = new_shelf
    with client_of(Searcher(shelf.store)) as client:
        state = get(client, "map")
        assert (state["tracks"], [one["state"] for one in state["methods"]]) == (0, ["missing", "missing"])
        assert get(client, "map/tracks")["tracks"] == []
        assert get(client, "map/matches", q="x", version=state["version"])["rows"] == []
        assert get(client, "store")["tracks"] == get(client, "failures")["total"] == 0
    name = shelf.put(3)
    keep(shelf.store, by_hand(shelf.store))
    with shelf.store.writer() as writer:
        writer.label(1003, TrackLabels())
    with client_of(Searcher(shelf.store)) as client:
        rows = get(client, "map/tracks")
        assert (rows["tracks"], rows["titles"]) == ([name], ["3.ogg"])
        assert rows["genres"] == rows["artists"] == {"names": [], "codes": [-1]}
        assert get(client, "map/positions", method="pca", layer=0, version=rows["version"])["clusters"] != [-1]
        assert get(client, f"tracks/{name}/neighbors")["notes"] == ["the store holds no other track"]
