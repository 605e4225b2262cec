"""k nearest neighbours by cosine similarity; all k from one product and one sort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.base import Ints, Matrix, Problem

__all__ = ["KNNProbe"]


class KNNProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Vote of the k training rows with the highest cosine similarity.

    Of classes with equally many votes, the one with the nearest voter wins; of rows equally near, the earlier is taken
    first. Cosine needs features on one scale, or a few large ones decide: the sweep standardises before it calls.

    Parameters
    ----------
    n_neighbors : int
        k; all rows vote where the training part has fewer.

    Examples
    --------
    >>> probe = KNNProbe(n_neighbors=1).fit([[1.0, 0.1], [0.1, 1.0]], ["a", "b"])
    >>> probe.predict([[5.0, 1.0]])
    array(['a'], dtype='<U1')
    """

    grid: ClassVar[Sequence[Mapping[str, Any]]] = tuple({"n_neighbors": k} for k in (20, 10, 5, 3, 1))

    def __init__(self, n_neighbors: int = 5) -> None:
        self.n_neighbors = n_neighbors

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Keep the training rows, shape (n, dim), and their classes, shape (n,)."""
        if self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be at least 1; got {self.n_neighbors}")
        X, y = validate_data(self, X, y, dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        self.classes_, self._y = np.unique(y, return_inverse=True)
        self._rows = _unit(X)
        return self

    def predict_proba(self, X: Any) -> Matrix:  # noqa: N803
        """Share of votes of each class, shape (n_eval, n_classes); the tie rule shows as a millionth of a vote."""
        check_is_fitted(self, "classes_")
        X = validate_data(self, X, reset=False, dtype=np.float64)  # noqa: N806
        votes = _votes(_unit(X) @ self._rows.T, self._y, len(self.classes_), [self.n_neighbors])[0]
        return np.asarray(votes / votes.sum(1, keepdims=True))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Class of each row, shape (n_eval,)."""
        shares = self.predict_proba(X)
        return np.asarray(self.classes_[shares.argmax(1)])

    def predict_settings(self, problems: Iterable[Problem], settings: Sequence[Mapping[str, Any]]) -> list[Ints]:
        """Predict with every k from one similarity product per problem."""
        ks = [setting.get("n_neighbors", self.n_neighbors) for setting in settings]
        results = []
        for problem in problems:
            classes, y = np.unique(problem.y_train, return_inverse=True)
            similarity = _unit(problem.x_eval) @ _unit(problem.x_train).T
            results.append(classes[_votes(similarity, y, len(classes), ks).argmax(-1)])
        return results


def _unit(x: Matrix) -> Matrix:
    """Scale rows to length 1; a zero row stays zero, equally unlike everything."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, norms, out=np.zeros_like(x), where=norms > 0))


def _votes(similarity: Matrix, y: Ints, n_classes: int, ks: Sequence[int]) -> Matrix:
    """Count votes for each k, shape (n_ks, n_eval, n_classes), the nearer class ahead by a millionth."""
    most = min(max(ks), len(y))
    nearest = y[np.argsort(-similarity, axis=1, kind="stable")[:, :most]]
    ballots = nearest[:, :, None] == np.arange(n_classes)
    first = np.where(ballots.any(1), ballots.argmax(1), most)  # rank of each class' nearest voter
    counts = np.cumsum(ballots, axis=1, dtype=np.float64)
    chosen = np.stack([counts[:, min(k, most) - 1] for k in ks])
    return np.asarray(chosen + np.where(chosen > 0, 1e-6 * (1 - first / most), 0))
