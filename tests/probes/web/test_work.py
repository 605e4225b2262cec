"""Jobs make what the command makes, and a saved probe guesses as `classify` answers."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from embedstore.errors import StoreError
from embedstore.search import Searcher
from embedstore.types import LayerEmbeddings
from probes.base import BUILTIN
from probes.calibration import RiskCurve
from probes.probefile import probe_path
from probes.saved import SavedProbe
from probes.studies import list_studies, read_study, study_path
from probes.web import extension
from probes.web import guess as package
from probes.web.models import KeptStudy
from probes.web.work import AuditOptions, ProbeOptions, audit, probe


def guess(store, heard, key=None):
    return package.guess(store, heard, key)


def sound(of: int) -> LayerEmbeddings:
    """Make a sound as the fixture's store has them, of a genre."""
    return LayerEmbeddings((np.zeros(4, np.float32), 3 * np.eye(3, 4, dtype=np.float32)[of]), 10)


@pytest.mark.slow
def test_a_job_keeps_what_it_found(make_store, tmp_path):
    """With the trained probe if asked; the numbers are those of the library, and each step is told."""
    store, steps = make_store(tmp_path / "store"), []
    options = ProbeOptions(probe="centroid", genres=2, folds=2, seeds=1, save="mine").model_dump()
    name = probe(str(store.path), lambda done, total: steps.append((done, total)), **options)
    assert name in list_studies(store.path)
    assert SavedProbe.load(probe_path("mine", store.path)).genres == ("blues", "jazz")
    assert steps[-1][0] == steps[-1][1] == len(steps)
    path = study_path(store.path, name)
    assert KeptStudy.parse(read_study(path), path).report.n_tracks == 32
    asked = AuditOptions(probe="centroid", genres=["rock", "jazz"], folds=2, seeds=1).model_dump()
    assert audit(str(store.path), lambda *_: None, **asked) in list_studies(store.path)


def test_a_store_that_cannot_be_written_is_told_before_the_work(make_store, tmp_path):
    """Nothing is fitted."""
    store = make_store(tmp_path / "store")
    (store.path / "studies").write_text("in the way")
    with pytest.raises(StoreError, match=f"cannot write {store.path / 'studies'}"):
        probe(str(store.path), lambda *_: pytest.fail("it was fitted"), **ProbeOptions().model_dump())


@pytest.mark.parametrize(
    "asked",
    [
        {"probe": "os.system"},
        {"probe": "sklearn.svm.SVC"},
        {"genres": "/etc/passwd"},
        {"genres": 1},
        {"genres": ["one"]},
        {"genres": True},
        {"folds": 1},
        {"seeds": 10**6},
        {"save": "../evil"},
        {"save": "/tmp/evil"},
        {"save": "a\n"},
        {"group": "album"},
        {"jobs": 64},
    ],
)
def test_what_a_job_may_not_be_asked(asked):
    """No code or file by name, no amount without a limit."""
    with pytest.raises(ValidationError):
        ProbeOptions(**asked)


def test_every_built_in_probe_may_be_asked():
    """The names are those of the table."""
    assert {ProbeOptions(probe=name).probe for name in BUILTIN} == set(BUILTIN)
    assert set(extension().jobs) == {"probe", "audit"}


def test_a_guess_is_what_the_saved_probe_says(found):
    """The likeliest first, with its calibrated probabilities, rounded as the store rounds."""
    saved = SavedProbe.load(probe_path("genres", found.store.path))
    for genre in range(3):
        said = guess(found.store, sound(genre))
        [shares] = saved.predict(sound(genre)).probabilities
        assert (said.probe, said.genres[0].genre) == ("genres", saved.genres[genre])
        assert [one.probability for one in said.genres] == sorted(shares.tolist(), reverse=True)
    assert any("the probe was trained on 48 tracks of 3 genres" in note for note in said.notes)


def test_not_sure_is_told(found, monkeypatch):
    """Below the probability at which half of the answers may be wrong, or where none is promised."""
    saved = SavedProbe.load(probe_path("genres", found.store.path))
    top = guess(found.store, sound(0)).genres[0].probability
    for least, unsure in ((top - 1e-6, False), (top + 1e-6, True), (np.inf, True)):
        monkeypatch.setattr(package, "_least", lambda _, least=least: least)
        said = guess(found.store, sound(0))
        assert (said.notes[0].startswith("it is not sure"), said.sure) == (unsure, not unsure)
    monkeypatch.undo()
    weak = RiskCurve((0.9, 0.0), (0.5, 1.0), (0.5, 0.6), (0.6, 0.7))
    strong = RiskCurve((0.9, 0.0), (0.5, 1.0), (0.1, 0.6), (0.2, 0.7))
    assert [package._least(replace(saved, curve=curve)) for curve in (weak, strong)] == [np.inf, 0.9]


def test_a_weak_guess_of_a_good_probe_is_told(found, monkeypatch):
    """Its answers are mostly right, all together; this one is more likely wrong."""
    monkeypatch.setattr(package, "_least", lambda _: 0.0)
    between = LayerEmbeddings((np.zeros(4, np.float32), np.eye(3, 4, dtype=np.float32).mean(0)), 10)
    said = guess(found.store, between)
    top = said.genres[0].probability
    assert top < 0.5
    assert said.notes[0] == f"it is not sure: by its probability, {1 - top:.0%} of answers such as this are wrong"
    assert not said.sure
    monkeypatch.setattr(package, "_least", lambda _: 1.0)
    assert guess(found.store, between).notes[0].startswith("it is not sure: of answers at least as probable as this,")


def test_a_sound_that_it_was_trained_on_is_told_first(found, monkeypatch):
    """Of another, nothing; before that it is not sure."""
    monkeypatch.setattr(package, "_least", lambda _: np.inf)
    for key, known in ((1000, True), (1047, True), (77, False), (None, False)):
        said = guess(found.store, sound(0), key)
        trained = ["this very sound is among its training tracks: that it knows it says nothing of others"] * known
        assert [*said.notes][: known + 1] == [*trained, said.notes[known]]
        assert said.notes[known].startswith("it is not sure")
        assert sum("training tracks" in note for note in said.notes) == known


def test_which_probe_guesses(make_store, found, tmp_path):
    """The newest; of one that is damaged, or of another store, a note says why; without one, nobody guesses."""
    store = make_store(tmp_path / "store")
    assert guess(store, sound(0)) is None
    good = probe_path("genres", found.store.path).read_bytes()
    (store.path / "probes").mkdir()
    probe_path("old", store.path).write_bytes(b"damaged")
    probe_path("new", store.path).write_bytes(good)
    os.utime(probe_path("old", store.path), (1, 1))
    assert guess(store, sound(1)).probe == "new"
    later = time.time() + 10
    os.utime(probe_path("old", store.path), (later, later))
    said = guess(store, sound(1))
    assert (said.probe, said.genres, said.sure) == ("old", (), False)
    assert "is no saved probe that can be used" in said.notes[0]
    probe_path("old", store.path).write_bytes(good)
    os.utime(probe_path("old", store.path), (later, later))
    assert guess(store, sound(1)).genres[0].genre == "jazz"


def test_sounds_that_the_store_could_not_hold(found):
    """Beyond the range of float16: no genre, and why."""
    loud = LayerEmbeddings((np.zeros(4, np.float32), np.full(4, 1e9, np.float32)), 10)
    said = guess(found.store, loud)
    assert said.genres == ()
    assert "finite numbers" in said.notes[0]


@pytest.mark.slow
def test_the_service_runs_them(make_store, tmp_path, client_of):
    """Asked over HTTP, in a process of its own; what it made is there to be opened."""
    store = make_store(tmp_path / "store")
    searcher = Searcher(store)
    with client_of(searcher) as client:
        options = {"probe": "centroid", "folds": 2, "seeds": 1}
        job = client.post("/api/jobs", json={"kind": "probe", "options": options}).json()
        while (job := client.get("/api/jobs").json()[0])["state"] == "running":
            time.sleep(0.05)
        assert job["state"] == "done", job
        assert client.get(f"/api/studies/{job['result']}").json()["report"]["probe"] == "centroid"
        refused = client.post("/api/jobs", json={"kind": "probe", "options": {"probe": "os.system"}})
        assert refused.status_code == 400
    searcher.close()
