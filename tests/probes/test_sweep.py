"""The engine: the folds it trains on, the choices it makes, and a plain twin that does the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from embedstore.errors import ParameterError
from probes.base import load_probe
from probes.knn import KNNProbe
from probes.layers import load_features, open_source
from probes.plan import Plan, make_plan
from probes.sweep import cross_validate
from probes.task import make_task


class PlainKNN(KNeighborsClassifier):
    """scikit-learn's own, with two settings."""

    grid = ({"n_neighbors": 9}, {"n_neighbors": 1})


def test_equals_a_plain_nested_loop(library: Callable) -> None:
    """Predictions, chosen settings and inner scores are those of nested loops over scikit-learn objects."""
    layers, labels = library(genre=(0.3, 0.6), n=90)
    opened = open_source(layers, labels)
    task = make_task(opened.keys, labels)
    features = load_features(opened, "all", task.keys)
    plan = make_plan(PlainKNN(), task.y, task.groups, seeds=[3], folds=4, n_features=2)
    outcome = cross_validate(plan, features, jobs=1)
    y, of = task.y, plan.folds[0]

    def predict(number: int, k: int, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        x = features[number].values[0].astype(float)
        scaler = StandardScaler().fit(x[train])
        return KNeighborsClassifier(k).fit(scaler.transform(x[train]), y[train]).predict(scaler.transform(x[rows]))

    for number in range(2):
        for a in range(4):
            scores = []
            for k in (9, 1):
                guesses = np.full(len(y), -1)
                for b in set(range(4)) - {a}:
                    train, rows = (of != a) & (of != b), of == b
                    guesses[rows] = predict(number, k, train, rows)
                scores.append(f1_score(y[of != a], guesses[of != a], average="macro"))
            assert outcome.setting[number, 0, a] == int(np.argmax(scores))
            assert outcome.inner[number, 0, a] == pytest.approx(max(scores), abs=1e-12)
            expected = predict(number, (9, 1)[int(np.argmax(scores))], of != a, of == a)
            assert (outcome.predictions[number, 0, of == a] == expected).all()


def _plan(probe: object, sizes: list[list[int]], folds: int) -> Plan:
    y = np.concatenate([np.full(sum(of_class), c) for c, of_class in enumerate(sizes)])
    groups = np.repeat(np.arange(sum(map(len, sizes))), [size for of_class in sizes for size in of_class])
    return make_plan(probe, y, groups, seeds=[0, 1], folds=folds, n_features=3)


@pytest.mark.parametrize("sizes", [[[4] * 6, [3] * 7, [5] * 5], [[6, 6], [5, 7], [6, 6], [4, 8]], [[9, 2], [5, 5]]])
@pytest.mark.parametrize(("name", "folds"), [("knn", 5), ("mlp", 5), ("knn", 3), ("knn", 2)])
def test_no_round_meets_its_test_fold_or_a_group_of_it(sizes: list[list[int]], name: str, folds: int) -> None:
    """Training never holds a row or a group of the fold that it helps to choose for, nor rows that it is scored on."""
    plan = _plan(load_probe(name), sizes, folds)
    for r in (*plan.inner, *plan.outer):
        of = plan.folds[r.seed]
        for fold in np.unique(r.tested):
            assert not (of[r.train] == fold).any()
            assert not set(plan.groups[r.train]) & set(plan.groups[of == fold])
        assert not set(r.train) & set(r.evaluate)
        assert set(plan.y[r.evaluate]) <= set(plan.y[r.train])
    for place in range(2):
        tested = np.concatenate([r.evaluate for r in plan.outer if r.seed == place])
        assert sorted(tested) == list(range(len(plan.y)))
        assert {fold for r in plan.inner if r.seed == place for fold in r.tested} == set(range(plan.n_folds))


def test_each_fit_without_two_folds_serves_both() -> None:
    """Five folds need ten inner rounds a seed, or five where a probe asks for two neighbours."""
    sizes = [[3] * 6] * 3
    assert len(_plan(load_probe("knn"), sizes, 5).inner) == 2 * 10
    assert len(_plan(load_probe("mlp"), sizes, 5).inner) == 2 * 5
    grouped = _plan(load_probe("knn"), sizes, 5)
    for r in grouped.inner:
        assert not set(grouped.groups[r.train]) & set(grouped.groups[r.evaluate])


def test_too_few_groups_are_told() -> None:
    """Fewer groups than folds make fewer folds; two folds choose on rows held out; both are said."""
    notes = _plan(KNNProbe(), [[5, 5], [5, 5]], 2).notes
    assert "rows held out of each" in notes[0]
    assert len(notes) == 1
    assert _plan(KNNProbe(), [[5, 5], [5, 5]], 9).notes[0].startswith("9 folds were asked; there are 4 groups")


@pytest.mark.slow
def test_processes_do_not_change_the_outcome(library: Callable) -> None:
    """Two processes give what one gives, to the bit, and each round ticks."""
    layers, labels = library(genre=(0.5, 1.0), n=60)
    opened = open_source(layers, labels)
    task = make_task(opened.keys, labels)
    features = load_features(opened, "all", task.keys)
    plan = make_plan(load_probe("logistic"), task.y, task.groups, seeds=[0], folds=3, n_features=2)
    ticks: list[int] = []
    one = cross_validate(plan, features, jobs=1, tick=lambda: ticks.append(1))
    two = cross_validate(plan, features, jobs=2, tick=lambda: ticks.append(2))
    assert (one.predictions == two.predictions).all()
    assert (one.inner == two.inner).all()
    assert ticks == [1] * 6 + [2] * 6


def test_warnings_of_fits_are_counted_and_errors_are_one_line(library: Callable) -> None:
    """What a fit warns of reaches the outcome; what it refuses becomes a clear error."""
    from sklearn.linear_model import SGDClassifier

    layers, labels = library(genre=(0.5,), n=60)
    opened = open_source(layers, labels)
    task = make_task(opened.keys, labels)
    features = load_features(opened, "all", task.keys)
    plan = make_plan(SGDClassifier(max_iter=1), task.y, task.groups, seeds=[0], folds=3, n_features=1)
    assert plan.inner == ()
    outcome = cross_validate(plan, features, jobs=1)
    assert sum(outcome.warnings.values()) == 3
    assert "ConvergenceWarning: Maximum number of iteration" in next(iter(outcome.warnings))
    assert np.isnan(outcome.inner).all()
    negative = make_plan(
        load_probe("sklearn.naive_bayes.MultinomialNB"), task.y, task.groups, seeds=[0], folds=3, n_features=1
    )
    with pytest.raises(ParameterError, match="MultinomialNB could not be fitted: Negative values"):
        cross_validate(negative, features, jobs=1)
