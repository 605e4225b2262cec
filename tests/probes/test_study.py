"""Several probes and encoders on the same tracks; baselines; learning curves; tags; official splits; presets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probes
from embedstore.errors import ParameterError, UnknownNameError
from embedstore.labels import read_labels
from embedstore.types import AudioFile, LayerMatrix
from probes.genrenet import GenreNetProbe
from probes.knn import KNNProbe
from probes.report.words import sentences
from probes.ridge import RidgeProbe

QUICK = {"seeds": 1, "jobs": 1, "resamples": 200, "folds": 3}


def test_encoders_are_compared_on_the_tracks_that_both_have(library: Callable) -> None:
    """The better encoder wins with a small p; tracks of one alone are left out of both, in words."""
    good, labels = library(genre=(2.0,), n=120)
    poor, _ = library(genre=(0.3,), n=120)
    fewer = [LayerMatrix(m.layer, m.name, m.keys[:90], m.values[:90]) for m in poor]
    found = probes.compare(good, fewer, "knn", labels=labels, **QUICK)
    assert [report.n_tracks for report in found.reports] == [90, 90]
    assert "30 tracks are not in every store and were left out" in found.reports[0].notes
    (only,) = found.comparisons
    assert (only.first, only.second) == ("A", "B")
    assert only.difference.low > 0.1
    assert only.p < 0.01
    assert only.odds > 3
    expected = found.reports[0].selected.main.value - found.reports[1].selected.main.value
    assert only.difference.value == pytest.approx(expected)
    same = probes.compare(good, good, "knn", labels=labels, **QUICK).comparisons[0]
    assert (same.p, same.difference.value) == (1.0, 0.0)
    json.dumps(found.to_dict(), allow_nan=False)


def test_compare_is_the_same_both_ways(library: Callable) -> None:
    """Folds do not depend on which store is named first."""
    good, labels = library(genre=(2.0,), n=90)
    poor, _ = library(genre=(0.3,), n=90)
    one = probes.compare(good, poor, "knn", labels=labels, **QUICK)
    other = probes.compare(poor, good, "knn", labels=labels, **QUICK)
    assert [r.selected.main for r in one.reports] == [r.selected.main for r in reversed(other.reports)]
    assert one.comparisons[0].difference.value == -other.comparisons[0].difference.value


def test_repeats_that_test_other_tracks_are_averaged(library: Callable) -> None:
    """The score of the lab's split is the mean over its seeds, not that of all tracks thrown together."""
    layers, labels = library(genre=(0.6,), n=90)
    report = probes.evaluate(layers, "knn", labels=labels, split="lab", **QUICK | {"seeds": 4})
    assert len(report.selected.by_seed) == 4
    assert report.selected.main.value == pytest.approx(np.mean(report.selected.by_seed))
    assert report.protocol["tested"] == 27


def test_folds_with_scores_of_other_scales_do_not_spoil_tags(library: Callable) -> None:
    """Where each fold's scores are multiplied by a number of its own, mAP stays as it was."""

    class Scaled(RidgeProbe):
        def score_settings(self, problems: Any, settings: Any) -> Any:
            return [
                s * 10.0 ** (len(p.x_train) % 7) for p in problems for s in RidgeProbe().score_settings([p], settings)
            ]

    layers, labels = library(genre=(0.7,), n=100)
    plain = probes.evaluate(layers, "ridge", labels=labels, multilabel=True, **QUICK)
    scaled = probes.evaluate(layers, Scaled(), labels=labels, multilabel=True, **QUICK)
    assert scaled.selected.main.value == pytest.approx(plain.selected.main.value)


def test_several_probes_share_one_table_of_tests(library: Callable) -> None:
    """Names with commas run on the same folds; every pair is tested, corrected together."""
    layers, labels = library(genre=(1.0,), n=90)
    found = probes.run(layers, "knn,logistic,sklearn.dummy.DummyClassifier", labels=labels, **QUICK)
    assert [report.probe for report in found.reports] == ["knn", "logistic", "sklearn.dummy.DummyClassifier"]
    assert len(found.comparisons) == 3
    assert all(one.p_holm >= one.p for one in found.comparisons)
    assert found.comparisons[1].p_holm < 0.05
    with pytest.raises(UnknownNameError, match="unknown probe 'knm'"):
        probes.run(layers, "logistic,knm", labels=labels, **QUICK)


def test_baselines_are_chosen_and_tested_like_the_encoder(library: Callable) -> None:
    """A row and a test for each; one that lacks tracks is left out, in words."""
    layers, labels = library(genre=(0.0, 2.0), n=90)
    weak, _ = library(genre=(0.2,), n=90)
    short = [LayerMatrix(m.layer, m.name, m.keys[:50], m.values[:50]) for m in weak]
    report = probes.evaluate(layers, "knn", labels=labels, baselines={"mfcc": weak, "random_weights": short}, **QUICK)
    alone = probes.evaluate(weak, "knn", labels=labels, **QUICK)
    assert report.baselines["mfcc"].main == alone.selected.main
    assert report.baselines.keys() == {"majority", "shuffled_labels", "mfcc"}
    assert any("no baseline random_weights: its store lacks 40 of 90 tracks" in note for note in report.notes)
    assert [(one.first, one.second) for one in report.comparisons][-1] == ("selected", "mfcc")
    assert report.comparisons[-1].p_holm < 0.05


def test_layers_that_cannot_be_told_apart_are_named(library: Callable) -> None:
    """A twin of the best layer is indistinct, noise is not; selectivity is what the labels are worth."""
    layers, labels = library(genre=(0.0, 2.0), n=150)
    twin = LayerMatrix(2, "layer 2", layers[1].keys, layers[1].values)
    report = probes.evaluate([*layers, twin], "knn", labels=labels, **QUICK)
    assert report.best_layer == 1
    assert report.indistinct == (2,)
    control = report.baselines["shuffled_labels"].main.value
    assert report.selectivity is not None
    assert report.selectivity.value == pytest.approx(report.results[1].main.value - control)
    assert report.selectivity.low > 0.3


def test_a_learning_curve_rises(library: Callable) -> None:
    """More training tracks score more; each point has its size, interval and layers; shots come after sizes."""
    layers, labels = library(genre=(0.0, 0.8), n=240, dim=20)
    report = probes.evaluate(
        layers, "centroid", labels=labels, train_sizes=[120, 12], shots=(1,), **QUICK | {"seeds": 2}
    )
    few, many, one = report.curve
    assert (few.size, many.size, one.size, one.shots) == (12, 120, 1, True)
    assert one.n_train == 3
    assert abs(many.n_train - 120) < 5
    assert few.selected.main.value < many.selected.main.value <= report.selected.main.value + 0.1
    assert sum(one.selected.layers.values()) == 6
    assert one.selected.layers == report.selected.layers


def test_several_tags_a_track(library: Callable) -> None:
    """Tracks of two genres are kept, scores are mAP and ROC-AUC, and a planted layer is found."""
    layers, labels = library(genre=(0.0, 2.0), n=150)
    keys = list(labels)
    for key in keys[:20]:
        labels[key] = replace(labels[key], genres=("genre a", "genre b"))
    single = probes.evaluate(layers, "ridge", labels=labels, **QUICK)
    tags = probes.evaluate(layers, "ridge", labels=labels, multilabel=True, **QUICK)
    assert (single.n_tracks, tags.n_tracks) == (130, 150)
    assert list(tags.selected.measures) == ["map", "roc_auc"]
    assert tags.measure == "map"
    assert tags.best_layer == 1
    assert tags.selected.main.value > tags.baselines["shuffled_labels"].main.value + 0.2
    assert tags.baselines["majority"]["roc_auc"].value == pytest.approx(0.5)
    assert tags.confusion is None
    assert set(tags.selected.per_class) == {"genre a", "genre b", "genre c"}
    assert tags.protocol["task"] == "multi-label"


def test_scores_of_tags_are_scikit_learns(library: Callable) -> None:
    """What the report says of a layer is what scikit-learn says of the same folds, fitted one by one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score, roc_auc_score
    from sklearn.preprocessing import StandardScaler

    from probes.layers import open_source
    from probes.plan import make_plan
    from probes.task import make_task

    layers, labels = library(genre=(0.7,), n=120)
    probe = LogisticRegression(C=0.1, tol=1e-8)
    report = probes.evaluate(layers, probe, labels=labels, multilabel=True, **QUICK)
    task = make_task(open_source(layers, labels).keys, labels, multilabel=True)
    plan = make_plan(probe, task.y, task.groups, seeds=[0], folds=3, n_features=1)
    scores = np.empty(task.y.shape)
    for fold in range(3):
        train, rows = plan.folds[0] != fold, plan.folds[0] == fold
        scaler = StandardScaler().fit(layers[0].values[train].astype(float))
        x = scaler.transform(layers[0].values.astype(float))
        for tag in range(3):
            scores[rows, tag] = 2 * probe.fit(x[train], task.y[train, tag]).decision_function(x[rows])
    scores, folds = scores.astype(np.float32), [plan.folds[0] == fold for fold in range(3)]
    expected = [  # folds have scales of their own: scored one by one, then averaged
        np.mean([measure(task.y[rows], scores[rows], average="macro") for rows in folds])
        for measure in (average_precision_score, roc_auc_score)
    ]
    assert [m.value for m in report.results[0].measures.values()] == pytest.approx(expected, abs=1e-12)


def test_an_official_split_is_followed(library: Callable) -> None:
    """Only its test part is scored; tracks outside and artists on both sides are said."""
    layers, labels = library(genre=(0.0, 2.0), n=120)
    parts = ["train", "valid", "test", "train", ""]
    placed = {key: replace(track, split=parts[n % 5]) for n, (key, track) in enumerate(labels.items())}
    report = probes.evaluate(layers, "knn", labels=placed, split="official", **QUICK)
    assert report.protocol["split"] == "official"
    assert report.protocol["inner"] == "on the validation part of the official split"
    assert sum(map(sum, report.confusion["matrix"])) == 24
    assert report.best_layer == 1
    assert any("24 tracks are in no part of the official split" in note for note in report.notes)
    assert any("artist groups both in its training and in its test part" in note for note in report.notes)
    with pytest.raises(ParameterError, match="there is no official split"):
        probes.evaluate(layers, "knn", labels=labels, split="official", **QUICK)


def test_screening_leaves_the_best_layer_in(library: Callable) -> None:
    """With one layer let through, the planted one is, in every training part; the others are named and not fitted."""
    layers, labels = library(genre=(0.0, 2.0, 0.1), n=120)
    report = probes.evaluate(layers, "knn", labels=labels, screen=1, **QUICK)
    assert [result.layer for result in report.results] == [1]
    assert report.selected.layers == {"1": 3}
    assert any(
        "screened out before fitting in some or all training parts: layers 0, 2" in note for note in report.notes
    )


def test_screening_beside_a_baseline_claims_nothing_of_layers(library: Callable) -> None:
    """Where no two layers were compared, none is said to be distinguishable; points of a curve are screened, too."""
    layers, labels = library(genre=(0.0, 2.0, 0.1), n=120)
    report = probes.evaluate(
        layers, "knn", labels=labels, screen=1, baselines={"mfcc": layers[:1]}, train_sizes=[40], **QUICK
    )
    assert report.indistinct is None
    assert [one.second for one in report.comparisons] == ["mfcc"]
    assert "distinguishable" not in " ".join(sentences(report))
    assert [result.layer for result in report.curve[0].results] == [1]


def test_a_mix_is_never_screened_out(library: Callable) -> None:
    """It is learned from several layers; a rank of the first alone would say nothing of it."""
    layers, labels = library(genre=(0.0, 2.0, 0.1), n=90)
    report = probes.evaluate(layers, "ridge", labels=labels, layer="all,mix", screen=1, **QUICK)
    assert [result.layer for result in report.results] == [1, "mix"]


def test_layers_by_name_are_one_source(library: Callable) -> None:
    """A mapping of layers is one encoder, a mapping of stores several; a probe and a preset together are refused."""
    layers, labels = library(n=60)
    named = {matrix.name: matrix for matrix in layers}
    report = probes.run(named, "centroid", labels=labels, **QUICK)
    assert report.to_dict() == probes.run(layers, "centroid", labels=labels, **QUICK).to_dict()
    with pytest.raises(ParameterError, match="give a probe or a preset, not both"):
        probes.run(layers, "knn", preset="dino", labels=labels, **QUICK)


def test_quality_without_training_is_reported(library: Callable) -> None:
    """The planted layer is the best without training, too, and the document is JSON."""
    layers, labels = library(genre=(0.0, 2.0), n=90)
    report = probes.evaluate(layers, "knn", labels=labels, quality=True, **QUICK)
    measured = report.to_dict()["quality"]["layers"]
    assert measured["1"]["logme"] > measured["0"]["logme"]
    json.dumps(report.to_dict(), allow_nan=False)


def test_leaving_one_group_out(library: Callable) -> None:
    """Each group is tested by all others: with more to learn from, no worse than three folds; groups never meet."""
    layers, labels = library(genre=(0.0, 1.0), n=120)
    loo = probes.evaluate(layers, "knn", labels=labels, split="loo", **QUICK)
    assert loo.best_layer == 1
    assert sum(map(sum, loo.confusion["matrix"])) == 120
    layers, labels = library(genre=(0.0,), artist=3.0, n=240, artists=24)
    leaky = probes.evaluate(layers, "knn", labels=labels, split="loo", group="none", **QUICK)
    honest = probes.evaluate(layers, "knn", labels=labels, split="loo", **QUICK)
    assert leaky.selected["accuracy"].value > 0.8
    assert honest.selected["accuracy"].value < 0.5


@pytest.mark.parametrize(
    "preset", ["dino", pytest.param("marble", marks=pytest.mark.slow), pytest.param("hear", marks=pytest.mark.slow)]
)
def test_presets_of_benchmarks_run(library: Callable, preset: str) -> None:
    """They find a planted layer with their own settings."""
    layers, labels = library(genre=(0.0, 2.5), n=90)
    report = probes.run(layers, preset=preset, labels=labels, **QUICK | {"resamples": 50})
    assert report.probe == preset
    assert report.best_layer == 1
    assert report.selected.main.value > 0.8


@pytest.mark.slow
def test_the_labs_experiment_stands_beside_the_clean_one(library: Callable) -> None:
    """Three dropouts its own way, one report the clean way; a planted artist effect shows as the gap between them."""
    layers, labels = library(genre=(0.0,), artist=4.0, n=300, artists=8, dim=16)
    more = QUICK | {"resamples": 50, "seeds": 3}  # some starts of this network end in answering one class
    found = probes.run(layers, preset="seed", labels=labels, command="embedstore probe", **more)
    assert [report.probe for report in found.reports] == [
        "lab, dropout 0.6",
        "lab, dropout 0.7",
        "lab, dropout 0.8",
        "clean",
    ]
    assert [report.protocol["split"] for report in found.reports] == ["lab"] * 3 + ["cv"]
    *lab, clean = (report.selected["accuracy"].value for report in found.reports)
    assert np.median(lab) > clean + 0.2
    assert {report.command for report in found.reports} == {"embedstore probe"}
    with pytest.raises(ParameterError, match="leave out --split"):
        probes.run(layers, preset="seed", labels=labels, split="loo", **QUICK)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": 2.5}, ParameterError, r"folds is a whole number, at least 1; got 2\.5"),
        ({"resamples": "many"}, ParameterError, "resamples is a whole number"),
        ({"group": "album"}, UnknownNameError, "unknown grouping 'album'"),
        ({"split": "random"}, UnknownNameError, "unknown split 'random'"),
        ({"train_sizes": 280}, ParameterError, "train_sizes is a list of whole numbers above 0; got 280"),
        ({"train_sizes": [0]}, ParameterError, "train_sizes is a list"),
        ({"shots": [99]}, ParameterError, "99 tracks a genre were asked"),
        ({"seed": 3}, UnknownNameError, "unknown option 'seed'; did you mean 'seeds'"),
        ({"jobs": 1.5}, ParameterError, "jobs is a whole number"),
        ({"preset": "superb"}, UnknownNameError, "unknown preset 'superb'"),
        ({"layer": ["mean", "mix"], "screen": 0}, ParameterError, "screen is a whole number"),
        ({"save": "x", "split": "official"}, ParameterError, "can be saved"),
        ({"split": "loo", "train_sizes": [20]}, ParameterError, "leave out train sizes and shots"),
        ({"split": "loo", "layer": "mix"}, ParameterError, "a mix of layers would be learned anew"),
        ({"seeds": "31"}, ParameterError, "seeds is how many"),
        ({"seeds": [1.7]}, ParameterError, "seeds is how many"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    library: Callable, options: dict[str, object], error: type[Exception], message: str
) -> None:
    """One clear line each, before anything is fitted."""
    layers, labels = library(n=60)
    with pytest.raises(error, match=message):
        probes.run(layers, None if "preset" in options else "knn", labels=labels, **QUICK | options)


def test_a_network_that_reads_layers_side_by_side_is_told_how_many(
    library: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the number of layers, for baselines theirs; a mixture of single layers and all of them is refused."""
    layers, labels = library(n=60)
    seen: list[int] = []
    monkeypatch.setattr(
        "probes.genrenet.GenreNetProbe.score_settings",
        lambda self, problems, settings: seen.append(self.n_layers) or KNNProbe().score_settings(problems, [{}]),
    )
    probes.evaluate(layers, GenreNetProbe(), labels=labels, layer="concat", baselines={"mfcc": layers[:1]}, **QUICK)
    assert set(seen) == {3, 1}
    with pytest.raises(ParameterError, match="ask for one kind of --layer"):
        probes.evaluate(layers, GenreNetProbe(), labels=labels, layer="0,concat", **QUICK)
    ragged = [layers[0], LayerMatrix(1, "layer 1", layers[1].keys, np.tile(layers[1].values, 3))]  # 10 and 30: 2 x 20
    with pytest.raises(ParameterError, match="those of concat of 2 layers differ in width: ask for a --layer"):
        probes.evaluate(ragged, GenreNetProbe(), labels=labels, layer="concat", **QUICK)


def test_several_kinds_of_layers_in_one_table(library: Callable) -> None:
    """Single layers, their mean, all side by side and the learned mix are rows of one table, chosen among like layers."""
    layers, labels = library(genre=(0.0, 2.0), n=90)
    report = probes.evaluate(layers, "ridge", labels=labels, layer="all,mean,concat,mix", **QUICK)
    assert [result.layer for result in report.results] == [0, 1, "mean", "concat", "mix"]
    weights = report.results[-1].weights
    assert weights is not None
    assert weights["layer 1"][0] > 0.7
    assert set(report.selected.layers) <= {"0", "1", "mean", "concat", "mix"}


@pytest.mark.slow
def test_the_labs_learning_curve_on_the_spotify_table(tmp_path: Path) -> None:
    """10 genres of 160 tracks, sizes 280 .. 1,120, labels from the table: the curve rises, and repeats are shown."""
    rng = np.random.default_rng(0)
    header = (
        "track_id,artists,album_name,track_name,popularity,duration_ms,explicit,danceability,energy,key,loudness,mode"
    )
    header += ",speechiness,acousticness,instrumentalness,liveness,valence,tempo,time_signature,track_genre"
    genres = [
        "acoustic",
        "afrobeat",
        "alt-rock",
        "alternative",
        "ambient",
        "anime",
        "black-metal",
        "bluegrass",
        "blues",
    ]
    lines, files, rows = [f",{header}"], [], []
    for number in range(12 * 160):
        genre = number // 160
        name, track_id = [*genres, "brazil", "breakbeat", "british"][genre], f"{number:022d}"
        artist = f"Artist {genre}-{number % 40}"
        lines.append(
            f"{number},{track_id},{artist};Guest {genre}-{number % 40},Album {number % 80},Song {number},1,1000,False,"
            f"0.1,0.1,1,-5,1,0.1,0.1,0.1,0.1,0.1,120,4,{name}"
        )
        files.append(AudioFile("/music", f"{track_id}.mp3", number, number))
        rows.append(rng.normal(size=24) + 0.9 * np.eye(24)[genre])
    (tmp_path / "dataset.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = read_labels(f"spotify:{tmp_path / 'dataset.csv'}", files)
    labels = {number: found.by_path[file.full_path] for number, file in enumerate(files)}
    layer = LayerMatrix(0, "layer 0", np.arange(len(rows)), np.array(rows, np.float32))
    sizes = (280, 560, 840, 1120)
    report = probes.evaluate([layer], "logistic", labels=labels, genres=10, train_sizes=sizes, seeds=3)
    assert (len(report.genres), report.n_tracks) == (10, 1600)
    assert report.genres[-1] == "brazil"
    assert [point.size for point in report.curve] == list(sizes)
    assert all(abs(point.n_train - point.size) < 12 for point in report.curve)
    scores = [point.selected.main.value for point in report.curve]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 0.02
    assert all(len(point.selected.by_seed) == 3 for point in report.curve)
