"""Nearest centroid: a class is the mean of its rows. Nothing to tune but the metric, and sound on a handful of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from embedstore.errors import ParameterError
from probes.base import Matrix, Problem, Setting, at_least_two, both_sides, indicators
from probes.classifier import Classifier
from probes.knn import METRICS

__all__ = ["CentroidProbe"]


class CentroidProbe(Classifier):
    """The class whose mean is nearest; of a tag, the mean with it against the mean without it.

    Parameters
    ----------
    metric : {"l2", "cosine"}
        Scores are minus the Euclidean distance to the mean, as in scikit-learn's ``NearestCentroid``; or the cosine with it,
        which on standardised features is the angle seen from the middle of the training rows.

    Attributes
    ----------
    centroids_ : float64 array, shape (n_classes, dim)

    Examples
    --------
    >>> CentroidProbe().fit([[0.0], [1.0], [5.0]], ["a", "a", "b"]).predict([[2.0], [3.0]])
    array(['a', 'b'], dtype='<U1')
    """

    grid = ({"metric": "l2"}, {"metric": "cosine"})
    learned = ("centroids_",)

    def __init__(self, metric: str = "l2") -> None:
        self.metric = metric

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Average rows X, shape (n, dim), by their classes y, shape (n,)."""
        _check(self.metric)
        X, codes = self._read(X, y)  # noqa: N806
        at_least_two(self.classes_)
        self.centroids_ = _means(X, indicators(codes, np.arange(len(self.classes_))))
        return self

    def decision_function(self, X: Any) -> Matrix:  # noqa: N803
        """Nearness, shape (n_eval, n_classes); of the second class less the first, shape (n_eval,), for two classes."""
        near = _nearness(self._rows(X), self.centroids_, self.metric)
        return near[:, 1] - near[:, 0] if len(self.classes_) == 2 else near

    def score_settings(self, problems: Iterable[Problem], settings: Sequence[Setting]) -> list[Matrix]:
        """Score with every metric from one set of means per problem."""
        metrics = [_check(setting.get("metric", self.metric)) for setting in settings]
        return [np.stack([_score(problem, metric) for metric in metrics]) for problem in problems]


def _score(problem: Problem, metric: str) -> Matrix:
    given = indicators(problem.y_train, problem.taught)
    scores = _nearness(problem.x_eval, _means(problem.x_train, given), metric)
    if problem.multilabel:
        scores -= _nearness(problem.x_eval, _means(problem.x_train, 1 - given), metric)
    elif scores.shape[1] == 2:  # one difference, as in `decision_function`
        scores = both_sides(scores[:, 1] - scores[:, 0])
    return problem.spread(scores)


def _means(x: Matrix, given: Matrix) -> Matrix:
    """Mean of the rows of each column of `given`, shape (n_columns, dim)."""
    return np.asarray(given.T @ x / given.sum(0)[:, None])


def _nearness(x: Matrix, centroids: Matrix, metric: str) -> Matrix:
    """Compare each row with each centroid, shape (n_eval, n_centroids): higher is nearer."""
    from scipy.spatial.distance import cdist
    from sklearn.metrics.pairwise import cosine_similarity

    return np.asarray(-cdist(x, centroids) if metric == "l2" else cosine_similarity(x, centroids))


def _check(metric: str) -> str:
    if metric not in METRICS:
        raise ParameterError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    return metric
