"""The map as pages ask for it: its rows, where they lie, which of them hold some words, and what happens when the store grows."""

from __future__ import annotations

import errno
import json
import os
import weakref
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from embedstore.maps import Map, making, open_map, place, saved
from embedstore.maps.saved import keep
from embedstore.search import Searcher
from embedstore.types import TrackLabels, key_from_id, track_id
from embedstore.web import library, mapping
from embedstore.web.app import make_jobs
from embedstore.web.jobs import JobState
from embedstore.web.searchers import Searchers

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


def test_tracks_of_several_genres_are_counted_in_each(new_shelf, client_of) -> None:
    """Names, their order and how many have each are those of the store; row by row and in order, they are what each track says."""
    shelf, wanted = new_shelf, [("rock", "pop", "folk"), (), ("pop",), ("folk", "rock"), ("folk", "pop")]
    for i, genres in enumerate(wanted):
        shelf.put(i)
        with shelf.store.writer() as writer:
            writer.label(1000 + i, TrackLabels(genres, genres[:1]))
    with client_of(Searcher(shelf.store)) as client:
        rows, facts = get(client, "map/tracks"), get(client, "store")
    for kind, told in (("genres", wanted), ("artists", [genres[:1] for genres in wanted])):
        names, codes, more = rows[kind]["names"], rows[kind]["codes"], rows[kind]["more"]
        said = [[code] if code >= 0 else [] for code in codes]
        for row, code in more:
            said[row].append(code)
        assert [tuple(names[code] for code in some) for some in said] == told
        counts = {name: sum(n in some for some in said) for n, name in enumerate(names)}
        assert [*counts.items()] == [*facts[kind].items()]


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
    shelf, searcher, monkeypatch, client_of, mapped
) -> None:
    """A job's map is shown all the same, although an older one lies in the store; a newer one there is shown again."""
    jobs = make_jobs(searcher, ())

    def write(path, data, real=saved.write_file):
        if path.is_relative_to(shelf.store.path):
            raise OSError(errno.EROFS, "read-only")
        real(path, data)

    def shown(client):
        where = get(client, "map/positions", method="pca", layer=0, version=get(client, "map")["version"])
        return np.array([where["x"], where["y"]]).T / 65535

    with client_of(searcher, jobs=jobs) as client:
        assert np.allclose(shown(client), mapped.positions[0], atol=1e-4)
        with monkeypatch.context() as patch:
            patch.setattr(saved, "write_file", write)
            patch.setattr(making, "_make", lambda store, *_: replace(by_hand(store), seed=3))
            patch.setattr(mapping.tempfile, "gettempdir", lambda: str(jobs.folder))
            assert mapping.make(str(shelf.store.path), lambda *_: None, "pca", 3, 15) == "pca"
        assert open_map(shelf.store, "pca").seed == 0
        made = open_map(shelf.store, "pca", jobs.folder)
        assert made.seed == 3
        assert np.allclose(shown(client), made.positions[0], atol=1e-4)
        assert any("could not be kept" in note for note in get(client, "map")["notes"])
        newer = by_hand(shelf.store)
        keep(shelf.store, newer)
        os.utime(saved.where(jobs.folder, "pca"), (0, 0))
        assert np.allclose(shown(client), newer.positions[0], atol=1e-4)
    jobs.close()
    assert not jobs.folder.exists()


def test_a_map_of_tracks_that_have_gone_is_missing(new_shelf, client_of, monkeypatch) -> None:
    """All of them were replaced; once it is made again, pages can tell. What two maps note is told once."""
    monkeypatch.setattr(library, "_REST", 0)
    old = [new_shelf.put(i) for i in range(2)]
    for method in ("pca", "umap"):
        keep(new_shelf.store, by_hand(new_shelf.store, method))
    with client_of(Searcher(new_shelf.store)) as client:
        before = get(client, "map")
        assert [one["state"] for one in before["methods"]] == ["ready", "ready"]
        assert before["notes"].count("a note") == 1
        new_shelf.put(2)
        new_shelf.store.remove(old, yes=True)
        state = get(client, "map")
        assert [(one["state"], one["covers"], one["made"]) for one in state["methods"]] == [("missing", 0, "")] * 2
        get(client, "map/positions", 404, method="pca", layer=0, version=state["version"])
        keep(new_shelf.store, by_hand(new_shelf.store))
        umap, pca = get(client, "map")["methods"]
        assert (umap["state"], pca["state"], pca["covers"]) == ("missing", "ready", 1)
        assert pca["made"] not in {one["made"] for one in before["methods"]}
        get(client, "map/positions", method="pca", layer=0, version=state["version"])


def test_a_map_stays_while_it_is_made_again(searcher, client_of, mapped) -> None:
    """What is there can be drawn; only one that is missing is being made."""
    jobs = make_jobs(searcher, ())
    with client_of(searcher, jobs=jobs) as client:
        for method, state in (("pca", "ready"), ("umap", "making")):
            jobs._states["1"] = JobState("1", "map", {"method": method})
            assert next(one for one in get(client, "map")["methods"] if one["method"] == method)["state"] == state
    jobs._states.clear()
    jobs.close()


def test_only_the_layouts_of_now_are_remembered(shelf, searcher, mapped, monkeypatch) -> None:
    """One of each layer, worked out once for each map; no more bytes than there is room for; nothing of an earlier map."""
    jobs = make_jobs(searcher, ())
    answers = mapping.Mapping(Searchers(searcher), jobs)
    version, counted = answers.state().version, []
    monkeypatch.setattr(answers, "_lay_out", lambda *what, real=answers._lay_out: (counted.append(1), real(*what))[1])
    before = [answers.positions("pca", layer, version) for layer in (0, 1, 0, 1)]
    assert (before[:2], len(counted)) == (before[2:], 2)
    old = weakref.ref(answers.map("pca"))
    keep(shelf.store, by_hand(shelf.store))
    os.utime(saved.where(shelf.store.path, "pca"), (1, 1))
    assert answers.positions("pca", 0, version) != before[0]
    assert len(answers._laid) == 2
    assert old() is None
    monkeypatch.setattr(mapping, "_MEMORY", len(before[0]) + 100)
    answers.positions("pca", 1, version)
    assert len(answers._laid) == 1
    jobs.close()


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
        assert rows["genres"] == rows["artists"] == {"names": [], "codes": [-1], "more": []}
        assert get(client, "map/positions", method="pca", layer=0, version=rows["version"])["clusters"] != [-1]
        assert get(client, f"tracks/{name}/neighbors")["notes"] == ["the store holds no other track"]
