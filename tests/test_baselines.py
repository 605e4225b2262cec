"""Stores to compare with: built beside what they are compared with, found again, never part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import probes
from embedstore.baselines import build_baselines, open_baselines
from embedstore.errors import ParameterError
from embedstore.pipeline import EncoderOptions, build
from embedstore.store import EmbeddingStore

TOY = EncoderOptions(name="toy_encoder:Toy", device="cpu")


@pytest.fixture(autouse=True)
def toy_on_path(monkeypatch):
    """Let `module:Class` find the toy encoder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugins"))


@pytest.fixture
def store(tmp_path, write_audio):
    """Two genres of six tracks each."""
    for number in range(12):
        path = f"music/g{number % 2}/a{number // 2}/{number}.wav"
        write_audio(path, seconds=1.0 + 0.1 * number, frequency=100.0 + 300 * (number % 2))
    build(tmp_path / "music", tmp_path / "store", encoder=TOY)
    return EmbeddingStore.open(tmp_path / "store")


def test_baselines_lie_in_the_store_and_are_found(store, tmp_path):
    """MFCC and random weights of the same network, all tracks, without labels of their own; the store stays sound.

    The probe goes on without one that is damaged.
    """
    assert open_baselines(store) == ({}, ())
    told = []
    reports = build_baselines(store, device="cpu", progress=told.append)
    assert told == ["mfcc", "random_weights"]
    assert [report.added for report in reports.values()] == [12, 12]
    found, notes = open_baselines(store)
    assert notes == ()
    assert {name: one.card.options["name"] for name, one in found.items()} == {
        "mfcc": "mfcc",
        "random_weights": "random:toy_encoder:Toy",
    }
    assert sorted(found["mfcc"].keys()) == sorted(store.keys())
    again = build_baselines(store, device="cpu")
    assert [report.skipped for report in again.values()] == [12, 12]
    assert EmbeddingStore.open(tmp_path / "store").verify().ok
    report = probes.evaluate(store, "knn", seeds=1, jobs=1, resamples=50, folds=3)
    assert list(report.baselines) == ["majority", "shuffled_labels", "mfcc", "random_weights"]
    (store.path / "baselines" / "mfcc" / "store.json").write_text("{")
    found, notes = open_baselines(store)
    assert list(found) == ["random_weights"]
    assert notes[0].startswith("no baseline mfcc: ")
    report = probes.evaluate(store, "knn", seeds=1, jobs=1, resamples=50, folds=3)
    assert notes[0] in report.notes


def test_what_is_a_baseline_has_none(tmp_path, write_audio):
    """MFCC statistics have no network whose weights could be random."""
    write_audio("music/a.wav")
    build(tmp_path / "music", tmp_path / "store", encoder=EncoderOptions(name="mfcc"))
    with pytest.raises(ParameterError, match="mfcc is a baseline itself"):
        build_baselines(EmbeddingStore.open(tmp_path / "store"))
