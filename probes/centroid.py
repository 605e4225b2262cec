"""Nearest centroid: a class is the mean of its rows. Nothing to tune but the metric, and sound on a handful of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.base import Matrix, Problem
from probes.knn import METRICS

__all__ = ["CentroidProbe"]


class CentroidProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
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

    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({"metric": "l2"}, {"metric": "cosine"})
    multilabel: ClassVar[bool] = True

    def __init__(self, metric: str = "l2") -> None:
        self.metric = metric

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Average rows X, shape (n, dim), by their classes y, shape (n,)."""
        _check(self.metric)
        X, y = validate_data(self, X, y, dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs at least 2 classes; got 1 class")
        self.centroids_ = _means(X, codes[:, None] == np.arange(len(self.classes_)))
        return self

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the means."""
        return {"centroids": self.centroids_}

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take what `state` gave."""
        self.centroids_ = arrays["centroids"]
        return self

    def decision_function(self, X: Any) -> Matrix:  # noqa: N803
        """Nearness, shape (n_eval, n_classes); of the second class less the first, shape (n_eval,), for two classes."""
        check_is_fitted(self, "centroids_")
        X = validate_data(self, X, reset=False, dtype=np.float64)  # noqa: N806
        near = _nearness(X, self.centroids_, self.metric)
        return near[:, 1] - near[:, 0] if len(self.classes_) == 2 else near

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Class of each row, shape (n_eval,)."""
        near = self.decision_function(X)
        return np.asarray(self.classes_[(near > 0).astype(int) if near.ndim == 1 else near.argmax(1)])

    def score_settings(self, problems: Iterable[Problem], settings: Sequence[Mapping[str, Any]]) -> list[Matrix]:
        """Score with every metric from one set of means per problem."""
        metrics = [_check(setting.get("metric", self.metric)) for setting in settings]
        return [np.stack([_score(problem, metric) for metric in metrics]) for problem in problems]


def _score(problem: Problem, metric: str) -> Matrix:
    y, taught = problem.y_train, problem.taught
    given = y[:, taught] == 1 if problem.multilabel else y[:, None] == taught
    scores = _nearness(problem.x_eval, _means(problem.x_train, given), metric)
    if problem.multilabel:
        scores -= _nearness(problem.x_eval, _means(problem.x_train, ~given), metric)
    elif len(taught) == 2:  # one difference, as in `decision_function`
        scores = (scores[:, 1] - scores[:, 0])[:, None] * [-0.5, 0.5]
    return problem.spread(scores)


def _means(x: Matrix, given: NDArray[np.bool_]) -> Matrix:
    """Mean of the rows of each column of `given`, shape (n_columns, dim)."""
    return np.asarray(given.T.astype(np.float64) @ x / given.sum(0)[:, None])


def _nearness(x: Matrix, centroids: Matrix, metric: str) -> Matrix:
    """Compare each row with each centroid, shape (n_eval, n_centroids): higher is nearer."""
    from scipy.spatial.distance import cdist
    from sklearn.metrics.pairwise import cosine_similarity

    return np.asarray(-cdist(x, centroids) if metric == "l2" else cosine_similarity(x, centroids))


def _check(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    return metric
