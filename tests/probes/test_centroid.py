"""Nearest centroid: scikit-learn's answers, cosine, and tags."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import scale

from probes.base import Problem, predictions, score_one_by_one, score_settings
from probes.centroid import CentroidProbe

GRID = CentroidProbe.grid


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer])
def test_euclidean_is_scikit_learns_and_cosine_its_definition(load: object) -> None:
    """All rows, many classes and two, both metrics from one call."""
    x, y = load(return_X_y=True)  # type: ignore[operator]
    x = scale(x)
    problem = Problem(x[::2], y[::2], x[1::2], np.arange(len(x[::2])))
    (scores,) = score_settings(CentroidProbe(), [problem], GRID)
    plain = NearestCentroid().fit(x[::2], y[::2])
    assert (predictions(scores[0]) == plain.predict(x[1::2])).all()
    for ours, metric in zip(scores, ("euclidean", "cosine"), strict=True):
        due = -cdist(x[1::2], plain.centroids_, metric)
        assert ours - ours[:, :1] == pytest.approx(due - due[:, :1])
    assert scores == pytest.approx(score_one_by_one(CentroidProbe(), [problem], GRID)[0])


def test_a_tag_is_compared_with_its_absence() -> None:
    """The difference of the two distances, by hand."""
    x, y = np.array([[0.0], [2.0], [6.0]]), np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]])
    (scores,) = score_settings(CentroidProbe(), [Problem(x, y, np.array([[2.0]]), np.arange(3))], [{"metric": "l2"}])
    assert scores[0].tolist() == [[4 - 1, 0, 2 - 2]]


def test_what_makes_no_sense_is_refused() -> None:
    """An unknown metric, by both ways; a single class."""
    x, y = np.eye(2), np.array([0, 1])
    with pytest.raises(ValueError, match="known: cosine, l2"):
        CentroidProbe("l1").fit(x, y)
    with pytest.raises(ValueError, match="known: cosine, l2"):
        score_settings(CentroidProbe(), [Problem(x, y, x, y)], [{"metric": "l1"}])
    with pytest.raises(ValueError, match="at least 2 classes"):
        CentroidProbe().fit(x, [1, 1])
