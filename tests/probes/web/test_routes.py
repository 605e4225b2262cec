"""Studies over HTTP: what was kept is what is given, and what is damaged or hostile is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import probes
from embedstore.search import Searcher
from embedstore.store import EmbeddingStore
from embedstore.types import key_from_id
from probes.measures import confusion, macro_f1, tally
from probes.report import print_report
from probes.studies import list_studies, state_of, study_path
from probes.web import routes as module

PROBE, AUDIT = "knn-4d4ea8", "audit-knn-62a928"


def plain(report):
    return json.loads(json.dumps(report.to_dict()))


def test_names_are_those_of_the_questions(found):
    """The fixture's two, which the other tests ask for."""
    assert list_studies(found.store.path) == [AUDIT, PROBE]


def test_a_study_is_what_the_command_prints(found, client, capsys):
    """Both kinds come back whole, with when they were made, and every line that stands below the tables but the notes."""
    for name, kind, report in ((PROBE, "probe", found.report), (AUDIT, "audit", found.audit)):
        page = client.get(f"/api/studies/{name}").json()
        assert page.pop("made").endswith("+00:00")
        print_report(report)
        printed = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
        assert page.pop("sentences") == [line for line in printed if line not in report.notes]
        assert len(printed) > len(report.notes) + 1
        assert page == {"name": name, "kind": kind, "report": plain(report), "stale": False}


def test_the_list_quotes_the_score(found, client):
    """That of the nested choice, and of the strictest grouping."""
    audit, probe = client.get("/api/studies").json()
    score = found.report.selected.main
    assert (probe["name"], probe["probe"], probe["measure"], probe["tracks"], probe["genres"]) == (
        *(PROBE, "knn", "macro_f1"),
        *(48, 3),
    )
    assert [probe[name] for name in ("value", "low", "high")] == [score.value, score.low, score.high]
    assert audit["value"] == found.audit.groupings[-1].score.main.value
    assert (audit["genres"], audit["tracks"]) == (2, 32)


def test_tracks_give_the_report_again(found, client):
    """Counted anew, they have its confusion matrix and its score; a loop finds the same shares of right seeds."""
    said = client.get(f"/api/studies/{PROBE}/tracks").json()
    labels = found.store.labels()
    true, predicted = np.array(said["true"]), np.array(said["predicted"])
    assert [labels[key_from_id(name)].genres[0] for name in said["tracks"]] == [said["genres"][code] for code in true]
    assert sum(confusion(true, row, 3) for row in predicted).tolist() == found.report.confusion["matrix"]
    assert np.mean(macro_f1(tally(true, predicted, 3))) == pytest.approx(found.report.selected.main.value)
    assert said["right"] == [np.mean([row[i] == code for row in predicted]) for i, code in enumerate(true)]


def test_a_cell_lists_its_tracks(found, client):
    """Each cell of the matrix has as many as it counts, most often confused first."""
    matrix, genres = found.report.confusion["matrix"], found.report.genres
    for i, true in enumerate(genres):
        for j, predicted in enumerate(genres):
            asked = {"true": true, "predicted": predicted}
            times = [
                one["times"] for one in client.get(f"/api/studies/{PROBE}/confused", params=asked).json()["tracks"]
            ]
            assert sum(times) == matrix[i][j]
            assert times == sorted(times, reverse=True)
    answer = client.get(f"/api/studies/{PROBE}/confused", params={"true": "blus", "predicted": "rock"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        404,
        "unknown genre 'blus'; did you mean 'blues'? known: blues, jazz, rock",
    )


def test_saved_probes_are_listed(found, client):
    """With what they were trained on; one that is damaged is left out."""
    (found.store.path / "probes" / "damaged.safetensors").write_bytes(b"x" * 100)
    [one] = client.get("/api/probes").json()
    score = found.report.selected.main
    assert (one["name"], one["probe"], one["genres"], one["tracks"]) == ("genres", "knn", ["blues", "jazz", "rock"], 48)
    assert (one["value"], one["low"], one["high"]) == (score.value, score.low, score.high)
    (found.store.path / "probes" / "damaged.safetensors").unlink()


@pytest.mark.slow
def test_several_tags_a_track(tmp_path, make_store, client_of):
    """No single truth is told; the tag that scored highest is right where the track has it."""
    store = make_store(tmp_path / "store", tags=True)
    report = probes.run(store, "knn", keep=True, multilabel=True, resamples=50, folds=2, seeds=1, jobs=1)
    searcher = Searcher(store)
    with client_of(searcher) as client:
        [entry] = client.get("/api/studies").json()
        said = client.get(f"/api/studies/{entry['name']}/tracks").json()
    searcher.close()
    assert (entry["measure"], entry["value"], said["true"]) == ("map", report.selected.main.value, None)
    labels = store.labels()
    for name, code, right in zip(said["tracks"], said["predicted"][0], said["right"], strict=True):
        assert right == (said["genres"][code] in labels[key_from_id(name)].genres)


@pytest.fixture
def other(found, tmp_path, client_of):
    """Copy the store, to be spoilt."""
    shutil.copytree(found.store.path, tmp_path / "store")
    searcher = Searcher(EmbeddingStore.open(tmp_path / "store"))
    with client_of(searcher) as client:
        yield searcher.store, client
    searcher.close()


def test_a_changed_library_makes_studies_stale(other):
    """Tracks that have gone are listed no more; a file that moved changes nothing."""
    store, client = other
    before = state_of(store)
    with store.writer() as writer:
        writer.forget("/music/3.ogg")
    assert state_of(store) != before
    assert client.get(f"/api/studies/{PROBE}").json()["stale"]
    tracks = client.get(f"/api/studies/{PROBE}/tracks").json()
    assert len(tracks["tracks"]) == len(tracks["right"]) == len(tracks["true"]) == 47


def test_a_changed_library_has_no_study_read_again(other, monkeypatch):
    """All that changes is that they are stale: the list has not parsed one anew."""
    store, client = other
    before = client.get("/api/studies").json()
    assert [one["stale"] for one in before] == [False, False]
    monkeypatch.setattr(module, "_load", lambda *_: pytest.fail("it was read again"))
    with store.writer() as writer:
        writer.forget("/music/3.ogg")
    until = time.monotonic() + 10
    while not (now := client.get("/api/studies").json())[0]["stale"] and time.monotonic() < until:
        time.sleep(0.01)
    assert now == [{**one, "stale": True} for one in before]


def sealed(said: bytes) -> bytes:
    return b'{"sum": "%s", "study": %s}\n' % (hashlib.sha256(said).hexdigest().encode(), said)


def changed(data: bytes, change) -> bytes:
    """Change a study and seal it again, as somebody who means harm would."""
    study = json.loads(data)["study"]
    change(study)
    return sealed(json.dumps(study).encode())


def within(*path):
    """Name a place in a study, and what to put there."""
    *where, last, value = path

    def change(study):
        for step in where:
            study = study[step]
        study[last] = value

    return change


HOSTILE = {
    "a flipped bit": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "half of it": lambda data: data[: len(data) // 2],
    "nothing": lambda _: b"",
    "no JSON": lambda _: sealed(b"{" * 1000),
    "deep": lambda _: sealed(b"[" * 100_000 + b"]" * 100_000),
    "many values": lambda _: sealed(b"[" + b"," * 9_000_000 + b"]"),
    "another kind of thing": lambda _: sealed(b'["a study"]'),
    "no scores": lambda data: changed(data, within("report", "selected", "measures", {})),
    "scores that are none": lambda data: changed(data, within("report", "selected", "measures", {"macro_f1": "high"})),
    "a measure in place of the main one": lambda data: changed(
        data, within("report", "results", 0, "measures", {"evil": {"value": 1, "low": 1, "high": 1}})
    ),
    "layers that are none": lambda data: changed(data, within("report", "results", 0, "layer", {"a": 1})),
    "text for a count": lambda data: changed(data, within("report", "n_tracks", "many")),
    "a genre twice": lambda data: changed(data, within("report", "genres", ["blues", "blues", "rock"])),
    "a genre that is none": lambda data: changed(data, within("report", "tested", "genres", 0, [3])),
    "a track without a genre": lambda data: changed(data, within("report", "tested", "genres", 0, [])),
    "said what is none": lambda data: changed(data, within("report", "tested", "predicted", 0, 0, 3)),
    "a key that is too large": lambda data: changed(data, within("report", "tested", "keys", 0, 2**70)),
    "a key below 0": lambda data: changed(data, within("report", "tested", "keys", 0, -1)),
    "a key twice": lambda data: changed(data, within("report", "tested", "keys", 0, 1001)),
    "fewer keys": lambda data: changed(data, within("report", "tested", "keys", [])),
    "ragged seeds": lambda data: changed(data, within("report", "tested", "predicted", 0, [0])),
    "a protocol that says nothing": lambda data: changed(data, within("report", "protocol", {})),
    "text for a number": lambda data: changed(data, within("report", "protocol", "resamples", "many")),
    "no time": lambda data: changed(data, within("made", "yesterday")),
    "a time without a place": lambda data: changed(data, within("made", "2026-01-01T00:00:00")),
    "text that is no Unicode": lambda data: changed(data, within("report", "probe", "\ud800")),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_what_is_damaged_or_hostile_is_refused(how, found, client):
    """By its name in one line; the list leaves it out, and still has the others."""
    path = study_path(found.store.path, "spoilt")
    good = study_path(found.store.path, PROBE).read_bytes()
    path.write_bytes(HOSTILE[how](good))
    try:
        answer = client.get("/api/studies/spoilt")
        listed = [one["name"] for one in client.get("/api/studies").json()]
    finally:
        path.unlink()
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["type"] == "StoreFormatError"
    assert "spoilt.json" in error["message"]
    assert "\n" not in error["message"]
    assert listed == [AUDIT, PROBE]


def test_numbers_that_are_none_are_null(found, client):
    """NaN and infinity cannot stand in JSON."""
    path = study_path(found.store.path, "odd")
    data = study_path(found.store.path, PROBE).read_bytes()
    path.write_bytes(changed(data, within("report", "selected", "measures", "macro_f1", "value", float("nan"))))
    try:
        page = client.get("/api/studies/odd")
        odd = next(one for one in client.get("/api/studies").json() if one["name"] == "odd")
    finally:
        path.unlink()
    assert page.json()["report"]["selected"]["macro_f1"]["value"] is None
    assert odd["value"] is None


def test_links_and_other_files_are_no_studies(found, client, tmp_path):
    """Neither a link to a study, nor a pipe, nor a name that leads elsewhere; nor is a folder that is a link one of ours."""
    folder = found.store.path / "studies"
    (folder / "link.json").symlink_to(folder / f"{PROBE}.json")
    os.mkfifo(folder / "pipe.json")
    (folder / ".hidden.json").write_bytes(b"{}")
    try:
        names = [one["name"] for one in client.get("/api/studies").json()]
        answers = [client.get(f"/api/studies/{name}") for name in ("link", ".hidden", "..%2Fstore", "pipe", "no")]
    finally:
        for name in ("link.json", "pipe.json", ".hidden.json"):
            (folder / name).unlink()
    assert names == [AUDIT, PROBE]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 503, 404]
    (tmp_path / "studies").symlink_to(folder)
    assert list_studies(tmp_path) == []


def test_the_description_has_examples(client):
    """Everything that is given is described, field by field."""
    schema = client.get("/openapi.json").json()
    models = schema["components"]["schemas"]
    for name in ("StudyEntry", "StudyPage", "StudyTracks", "Confused", "ConfusedTrack", "ProbeEntry"):
        assert models[name]["examples"]
        assert all(field.get("description") for field in models[name]["properties"].values()), name


def test_one_folder_is_not_another(found, tmp_path):
    """A store without studies lists none, and is not given a folder by being asked."""
    assert list_studies(tmp_path) == []
    assert not (tmp_path / "studies").exists()
    assert Path(found.store.path / "studies").is_dir()
