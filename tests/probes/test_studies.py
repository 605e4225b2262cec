"""What probes and audits found is kept in the store, beside what they say, and in nobody's way."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_material import make_audit, make_report

from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels
from probes import studies
from probes.knn import KNNProbe
from probes.presets import PRESETS, run
from probes.protocol import Protocol
from probes.results import PerTrack
from probes.studies import keep, keep_study, list_studies, read_study, state_of, study_name, study_path


def make_store(folder: Path, tracks: int = 24) -> EmbeddingStore:
    """Make a store whose one layer tells two genres apart."""
    card = EncoderCard("toy", "toy", "", "0" * 64, 16000, (Layer(0, "a", 2),), 50.0, "none", "float32", "CC0", "", 0)
    store = EmbeddingStore.create(folder, card, {"encoder": "toy", "dtype": "float16"})
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        for i in range(tracks):
            labels = TrackLabels((("rock", "jazz")[i % 2],), (f"artist {i % 8}",))
            vector = rng.normal(size=2) + 2 * np.eye(2)[i % 2]
            track = Track(1000 + i, (AudioFile("/music", f"{i}.ogg", 9, 9),), 30.0, 44100, 2, labels)
            writer.add(track, f"{i:032x}", LayerEmbeddings((vector.astype(np.float32),), 10))
    return store


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return make_store(tmp_path / "store")


def made(store: EmbeddingStore, name: str) -> dict[str, Any]:
    return json.loads(read_study(study_path(store.path, name)))


def test_names_say_what_was_asked() -> None:
    """Options that change no number change no name; what does change one changes it, however it is written."""
    plain = study_name(
        "probe", "logistic", {"folds": 5, "seeds": 3, "jobs": 8, "cells": "x", "layer": "all", "save": "a"}
    )
    assert plain == study_name("probe", "logistic", {}) == "logistic"
    assert study_name("audit", "knn", {"genres": "20", "layer": None}) == "audit-knn-20-genres"
    others = (
        {"seeds": 2},
        {"group": "none"},
        {"layer": 3},
        {"genres": ["a", "b"]},
        {"multilabel": True},
        {"shots": (1,)},
    )
    names = {study_name("probe", "knn", asked) for asked in others}
    assert len(names) == len(others)
    assert all(studies._NAME.fullmatch(name) for name in names)
    assert studies._NAME.fullmatch(study_name("probe", "../../\u202e evil\n" * 40, {"seeds": 9}))
    assert study_name("probe", "///", {}) == "probe"


def test_what_python_callers_give_as_objects_is_asked_too(store: EmbeddingStore) -> None:
    """A protocol asks what its fields ask; labels, durations and an estimator's settings make other questions."""
    labels = {1000: TrackLabels(("rock",))}

    def name(**asked: Any) -> str:
        return keep_study(store, make_report(), asked)

    assert name(protocol=Protocol()) == name(probe="logistic") == name() == "logistic"
    assert name(protocol=Protocol(folds=3)) == name(folds=3) == name(protocol=Protocol(folds=4), folds=3)
    assert name(protocol=Protocol(genres=20)) == "logistic-20-genres"
    assert name(protocol=Protocol(genres=["a"])) == name(genres="genres.txt")
    assert name(labels=labels) == name(labels={np.int64(1000): labels[1000]})
    others = (
        {},
        {"folds": 3},
        {"labels": labels},
        {"labels": {1000: TrackLabels(("jazz",))}},
        {"seconds": {1000: 30.0}},
        {"probe": KNNProbe()},
        {"probe": KNNProbe(temperature=0.5)},
        {"probe": PRESETS["marble"].make()},
        {"probe": PRESETS["hear"].make()},
    )
    assert len({name(**asked) for asked in others}) == len(others)


def test_a_study_holds_the_report_and_each_track(store: EmbeddingStore) -> None:
    """What stands in the file is what was asked for; nothing of it is in the JSON that is printed."""
    report = make_report()
    tested = PerTrack((1000, 1001), ((0,), (2,)), ((0, 1), (0, -1)))
    whole = replace(report, tested=tested)
    assert keep_study(store, whole, {}) == "logistic"
    found = made(store, "logistic")
    assert found["report"]["tested"] == json.loads(json.dumps(vars(tested)))
    assert found["report"]["selected"]["measures"]["macro_f1"]["value"] == report.selected.main.value
    assert (found["kind"], found["state"]) == ("probe", state_of(store))
    assert whole.to_dict() == report.to_dict()


def test_the_same_question_replaces_its_answer(store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others stay, until there are too many: then the oldest go, and nothing that is not ours."""
    monkeypatch.setattr(studies, "MOST", 3)
    assert keep_study(store, make_audit(), {}) == "audit-knn"
    for seeds in (3, 3, 1, 2):
        keep_study(store, make_report(), {"seeds": seeds})
        (store.path / "studies" / "notes.txt").write_text("mine")
    assert len(list_studies(store.path)) == 3
    assert "audit-knn" not in list_studies(store.path)
    assert (store.path / "studies" / "notes.txt").read_text() == "mine"


def test_what_killed_processes_left_goes(store: EmbeddingStore) -> None:
    """Half a study, an hour later; not one that is being written, nor what is not ours."""
    keep_study(store, make_report(), {})
    old, new, other = (
        store.path / "studies" / name for name in ("a.json.tmp-1-0a", "b.json.tmp-2-0b", "mine.tmp-1-0a")
    )
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1, 1))
    keep_study(store, make_report(), {})
    assert [path.exists() for path in (old, new, other)] == [False, True, True]


@pytest.mark.parametrize("how", ["a file", "a link"])
def test_what_cannot_be_kept_is_told_in_one_note(store: EmbeddingStore, tmp_path: Path, how: str) -> None:
    """The report is there all the same."""
    folder = store.path / "studies"
    if how == "a file":
        folder.write_text("in the way")
    else:
        folder.symlink_to(tmp_path)
    report = keep(store, make_report())
    assert report.notes[:-1] == make_report().notes
    assert report.notes[-1].startswith(f"the result is not kept in the store: cannot write {folder}: ")
    assert not list(tmp_path.glob("*.json"))
    assert keep(["no store"], make_report()) == make_report()


def test_the_state_is_that_of_tracks_and_labels(store: EmbeddingStore) -> None:
    """A file that moves changes nothing; a label, or a track that goes, does."""
    before = state_of(store)
    moved = AudioFile("/elsewhere", "0.ogg", 9, 9)
    with store.writer() as writer:
        writer.link(moved, f"{0:032x}", 1000)
    assert state_of(store) == before
    with store.writer() as writer:
        writer.label(1000, TrackLabels(("polka",)))
    changed = state_of(store)
    with store.writer() as writer:
        writer.forget("/music/1.ogg")
    assert len({before, changed, state_of(store)}) == 3


def test_upkeep_leaves_studies_alone(store: EmbeddingStore, tmp_path: Path) -> None:
    """Verify, compact and merge neither mind studies and maps nor carry them along; opening writes none."""
    keep_study(store, make_report(), {})
    (store.path / "maps").mkdir()
    (store.path / "maps" / "umap").write_bytes(b"anything")
    data = study_path(store.path, "logistic").read_bytes()
    assert store.verify().ok
    store.compact()
    other = make_store(tmp_path / "other", tracks=4)
    other.merge(store)
    assert not (other.path / "studies").exists()
    assert not (other.path / "maps").exists()
    assert len(other) == len(store) == 24
    assert store.verify().ok
    assert study_path(store.path, "logistic").read_bytes() == data
    assert (store.path / "maps" / "umap").read_bytes() == b"anything"


def test_only_stores_keep_and_only_if_asked(store: EmbeddingStore) -> None:
    """A run keeps a study for each probe; one on two stores keeps none, nor does one that was not asked to."""
    quick: dict[str, Any] = {"folds": 2, "seeds": 1, "jobs": 1, "resamples": 20}
    run({"a": store, "b": store}, "centroid", keep=True, **quick)
    run(store, "centroid", **quick)
    assert list_studies(store.path) == []
    both = run(store, "centroid,ridge", keep=True, **quick)
    names = list_studies(store.path)
    run(store, "centroid", keep=True, protocol=Protocol(folds=3, seeds=1), jobs=1, resamples=20)
    run(store, KNNProbe(n_neighbors=1), keep=True, **quick)
    run(store, KNNProbe(n_neighbors=2), keep=True, **quick)
    assert len(list_studies(store.path)) == 5
    assert [name.split("-")[0] for name in names] == ["centroid", "ridge"]
    tested = made(store, names[0])["report"]["tested"]
    report = both.reports[0]
    counted = np.zeros((2, 2), dtype=int)
    for [true], said in zip(tested["genres"], tested["predicted"][0], strict=True):
        counted[true, said] += 1
    assert counted.tolist() == report.confusion["matrix"]
    assert sorted(tested["keys"]) == store.keys().tolist()
