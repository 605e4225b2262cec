"""The whole question: planted truths are found, absent ones are not, and the report says what was done."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

import probes
from embedstore.errors import ParameterError, UnknownNameError
from embedstore.types import LayerMatrix, TrackLabels
from probes.mlp import MLPProbe
from probes.results import Interval

QUICK = {"seeds": 2, "jobs": 1, "resamples": 200}


@pytest.mark.parametrize(
    "probe", ["knn", "logistic", MLPProbe(hidden=(16,), max_epochs=20, patience=5, learning_rate=1e-2)]
)
def test_the_planted_best_layer_is_found(library: Callable, probe: object) -> None:
    """The layer that separates the genres is chosen in every training part, and its score is the one to quote."""
    layers, labels = library(genre=(0.0, 2.0, 0.5))
    report = probes.evaluate(layers, probe, labels=labels, **QUICK | {"seeds": 1})
    assert report.best_layer == 1
    assert report.selected.layers == {"1": 5}
    assert report.selected["macro_f1"].value > 0.85
    assert report.selected["macro_f1"] == report.results[1]["macro_f1"]
    assert report.results[0]["macro_f1"].value < 0.5
    assert report.baselines["shuffled_labels"]["macro_f1"].value < 0.5
    assert report.baselines["majority"]["accuracy"].value == pytest.approx(1 / 3)


def test_nothing_to_know_scores_chance(library: Callable) -> None:
    """Features without genre are at chance, and the interval holds chance; choosing among 6 layers does not lift it."""
    layers, labels = library(genre=(0.0,) * 6, n=240)
    report = probes.evaluate(layers, "knn", labels=labels, **QUICK)
    assert report.selected["accuracy"].low < 1 / 3 < report.selected["accuracy"].high


def test_planted_artist_leakage_shows_as_a_gap(library: Callable) -> None:
    """Where only artists differ, grouped folds are at chance and ungrouped folds look good; without it there is no gap."""
    layers, labels = library(genre=(0.0,), artist=2.0, n=360, artists=24)
    honest, leaky = (
        probes.evaluate(layers, "knn", labels=labels, group=g, **QUICK | {"seeds": 1}) for g in ("artist", "none")
    )
    assert honest.selected["accuracy"].value < 0.5
    assert leaky.selected["accuracy"].value > 0.8
    assert leaky.selected["macro_f1"].low > honest.selected["macro_f1"].high
    layers, labels = library(genre=(0.7,), artist=0.0, n=360, artists=24)
    honest, leaky = (
        probes.evaluate(layers, "knn", labels=labels, group=g, **QUICK | {"seeds": 1}) for g in ("artist", "none")
    )
    assert leaky.selected["macro_f1"].low < honest.selected["macro_f1"].high


def test_the_report_is_plain_data(library: Callable) -> None:
    """JSON holds the promised keys; values and counts agree with each other."""
    layers, labels = library(n=60)
    told: list[tuple[int, int]] = []
    report = probes.evaluate(layers, "knn", labels=labels, progress=lambda *a: told.append(a), **QUICK)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    keys = "probe genres n_tracks excluded protocol results selected best_layer confusion baselines notes versions"
    assert set(keys.split()) <= set(data)
    assert list(data["results"][0])[:2] == ["layer", "name"]
    assert set(data["results"][0]["macro_f1"]) == {"value", "low", "high"}
    assert data["protocol"] | {"folds": 5, "seeds": [0, 1], "group": "artist", "groups": 24} == data["protocol"]
    assert np.array(data["confusion"]["matrix"]).sum(1).tolist() == [2 * c for c in data["tracks_per_genre"].values()]
    assert told == [(i + 1, len(told)) for i in range(len(told))]
    assert len(told) == 2 * (2 * 10 + 2 * 5)
    for result in report.results:
        assert result["macro_f1"].value == pytest.approx(np.mean(result.by_seed))
        assert result["macro_f1"].low <= result["macro_f1"].value <= result["macro_f1"].high
        assert np.mean(list(result.per_class.values())) == pytest.approx(result["macro_f1"].value)


@pytest.mark.slow
def test_the_same_seeds_give_the_same_report(library: Callable) -> None:
    """Everything is seeded; a mapping is as good as a list; other seeds give other folds."""
    layers, labels = library(n=60, genre=(0.3, 0.4))
    one, again, other = (
        probes.evaluate(source, "logistic", labels=labels, seeds=seeds, jobs=1, resamples=50)
        for source, seeds in ((layers, [4, 5]), ({m.layer: m for m in layers}, [4, 5]), (layers, [6, 7]))
    )
    assert one.to_dict() == again.to_dict()
    assert one.selected.by_seed != other.selected.by_seed


def test_mean_and_mix_of_layers(library: Callable) -> None:
    """Both are one row; the mix tells its weights, the greatest on the planted layer."""
    layers, labels = library(genre=(0.0, 1.5, 0.0))
    mean, mix = (
        probes.evaluate(layers, "logistic", labels=labels, layer=which, seeds=1, jobs=1, resamples=50)
        for which in ("mean", "mix")
    )
    assert mean.best_layer == "mean"
    weights = mix.results[0].weights
    assert weights is not None
    assert max(weights, key=lambda name: weights[name][0]) == "layer 1"
    assert sum(mean for mean, _ in weights.values()) == pytest.approx(1)
    assert mix.selected["macro_f1"].value >= mean.selected["macro_f1"].value - 0.05


def test_a_demo_of_two_artists_a_genre_copes() -> None:
    """Four genres of two artists: five folds of whole artists, each genre trained, something chosen."""
    rng = np.random.default_rng(0)
    keys = np.arange(48)
    y, artist = keys % 4, keys // 4 % 2
    x = rng.normal(size=(48, 6)) + 3 * np.eye(4, 6)[y]
    labels = {int(k): TrackLabels((f"g{y[k]}",), (f"artist {y[k]} {artist[k]}",)) for k in keys}
    source = [LayerMatrix(i, f"layer {i}", keys, (x * i).astype(np.float32)) for i in (0, 1)]
    report = probes.evaluate(source, "logistic", labels=labels, **QUICK)
    assert report.protocol["groups"] == 8
    assert report.best_layer == 1
    assert report.selected["macro_f1"].value > 0.8
    assert "fewer than 5 artist groups stand behind g0 (2), g1 (2), g2 (2), g3 (2)" in report.notes[-1]


def test_a_pipeline_is_a_probe(library: Callable) -> None:
    """An estimator object works, and what JSON cannot hold of its parameters becomes text."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline

    layers, labels = library(n=60)
    model = make_pipeline(SimpleImputer(), RidgeClassifier())
    report = probes.evaluate(layers, model, labels=labels, **QUICK | {"seeds": 1})
    assert report.best_layer == 1
    assert report.probe == "Pipeline"
    parameters = json.loads(json.dumps(report.to_dict(), allow_nan=False))["protocol"]["parameters"]
    assert parameters["simpleimputer__missing_values"] == "nan"


def test_unasked_choices_are_errors(library: Callable) -> None:
    """Each parameter that cannot be is one clear line."""
    layers, labels = library(n=60)
    for options, error, message in [
        ({"genres": 20}, ParameterError, "20 genres were asked; the store has 3: genre a, genre b, genre c"),
        ({"layer": 13}, UnknownNameError, "no layer 13"),
        ({"probe": "svm"}, UnknownNameError, "unknown probe 'svm'"),
        ({"seeds": 0}, ParameterError, "seeds is how many"),
        ({"seeds": [1, 1]}, ParameterError, "different numbers"),
        ({"jobs": 0}, ParameterError, "jobs is a whole number, at least 1; got 0"),
        ({"folds": 1}, ParameterError, "at least 2 folds"),
    ]:
        with pytest.raises(error, match=message):
            probes.evaluate(layers, labels=labels, **options)


def test_interval_reads_well() -> None:
    """Value first, then the interval."""
    assert str(Interval.of(0.5, np.linspace(0, 1, 1001))) == "0.500 [0.025, 0.975]"
