"""kNN: the tie rule, cosine, and every k from one product."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import scale

from probes.base import Problem, predict_one_by_one, predict_settings
from probes.knn import KNNProbe


def _simple(x_train: np.ndarray, y_train: np.ndarray, query: np.ndarray, k: int) -> int:
    """Vote as the definition says: count, then among the most frequent classes the one met first."""
    near = np.argsort(-(x_train @ query) / np.linalg.norm(x_train, axis=1), kind="stable")[:k]
    votes = Counter(y_train[near].tolist())
    return next(int(y) for y in y_train[near] if votes[int(y)] == max(votes.values()))


@pytest.mark.parametrize("load", [load_digits, load_wine])
def test_predicts_what_the_definition_says(load: object) -> None:
    """Every k at once, one at a time, and the plain definition agree, ties included."""
    x, y = load(return_X_y=True)  # type: ignore[operator]
    x, y = scale(x)[::3], y[::3]
    half = len(x) // 2
    problem = Problem(x[:half], y[:half], x[half:], np.arange(half))
    probe = KNNProbe()
    together = predict_settings(probe, [problem], probe.grid)[0]
    assert (together == predict_one_by_one(probe, [problem], probe.grid)[0]).all()
    simple = [[_simple(x[:half], y[:half], query, s["n_neighbors"]) for query in x[half:]] for s in probe.grid]
    assert (together == simple).all()
    nearest = KNeighborsClassifier(1, metric="cosine").fit(x[:half], y[:half]).predict(x[half:])
    assert (together[-1] == nearest).all()


def test_the_nearest_of_tied_classes_wins() -> None:
    """With one vote each the nearest class wins, not the lowest label; with two votes the majority does."""
    x = np.array([[1, 0.3], [1, 0.2], [1, 0.1]])
    tied = KNNProbe(3).fit(x, [0, 1, 2])
    assert tied.predict([[1, 0]]) == [2]
    assert KNNProbe(3).fit(x, [0, 0, 2]).predict([[1, 0]]) == [0]
    assert tied.predict_proba([[1, 0]])[0] == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_k_beyond_the_training_part_takes_all_of_it() -> None:
    """Fifty neighbours of four rows are four."""
    x, y = np.eye(4), np.array([0, 0, 0, 1])
    assert KNNProbe(50).fit(x, y).predict([[0, 0, 0, 1.0]]) == [0]
    with pytest.raises(ValueError, match="at least 1"):
        KNNProbe(0).fit(x, y)


def test_length_does_not_matter() -> None:
    """Cosine: a vector and its multiple are one neighbour, a zero vector is no error."""
    probe = KNNProbe(1).fit([[100.0, 1.0], [0.01, 0.1]], ["a", "b"])
    assert probe.predict([[0.001, 0.0], [0.0, 50.0], [0.0, 0.0]]).tolist() == ["a", "b", "a"]
