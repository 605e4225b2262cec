"""What linear probes share: scores from weights, a batch of settings per problem, and principal axes.

Rows are rotated to the axes of their own span. This is exact: with fewer rows than dimensions the weights of a penalised
model have nothing outside it (Hastie and Tibshirani 2004, Biostatistics 5:329). One rotation serves every setting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.base import Ints, Matrix, Problem, score_one_by_one

__all__ = ["Axes", "LinearProbe", "Solution"]

Solution = tuple[Matrix, Matrix, int]  # weights (n_columns, dim), intercepts (n_columns,), steps taken


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A classifier whose scores are ``X @ coef_.T + intercept_``.

    Attributes
    ----------
    coef_ : float64 array, shape (n_classes, dim), or (1, dim) for two classes
    intercept_ : float64 array, shape (n_classes,) or (1,)
    n_iter_ : int
        Steps of the solver.
    """

    shared: ClassVar[str]
    """The parameter whose values are tried together."""
    multilabel: ClassVar[bool] = True

    @abstractmethod
    def _solve(self, x: Matrix, given: Matrix, values: Sequence[float], *, apart: bool) -> Iterator[Solution]:
        """Fit each value of the shared parameter.

        Parameters
        ----------
        x : float64 array, shape (n, dim)
        given : float64 array, shape (n, n_columns)
            1 where a row has the column's class or tag, else 0.
        values : sequence of float
        apart : bool
            Columns are questions of their own (one against the rest), or classes of which each row has one.
        """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Fit on rows X, shape (n, dim), and classes y, shape (n,)."""
        X, y = validate_data(self, X, y, dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        given = _columns(codes, np.arange(len(self.classes_)))
        values = [getattr(self, self.shared)]
        self.coef_, self.intercept_, self.n_iter_ = next(self._solve(X, given, values, apart=given.shape[1] == 1))
        return self

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the weights."""
        return {"coef": self.coef_, "intercept": self.intercept_}

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take what `state` gave."""
        self.coef_, self.intercept_ = arrays["coef"], arrays["intercept"]
        return self

    def decision_function(self, X: Any) -> Matrix:  # noqa: N803
        """Scores, shape (n_eval, n_classes); of the second class, shape (n_eval,), for two classes."""
        check_is_fitted(self, "coef_")
        X = validate_data(self, X, reset=False, dtype=np.float64)  # noqa: N806
        scores = np.asarray(X @ self.coef_.T + self.intercept_)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Class of each row, shape (n_eval,)."""
        scores = self.decision_function(X)
        return np.asarray(self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)])

    def score_settings(self, problems: Iterable[Problem], settings: Sequence[Mapping[str, Any]]) -> list[Matrix]:
        """Score with every value of the shared parameter after one rotation per problem."""
        if any(set(setting) - {self.shared} for setting in settings):
            return score_one_by_one(self, problems, settings)
        values = [setting.get(self.shared, getattr(self, self.shared)) for setting in settings]
        return [self._score(problem, values) for problem in problems]

    def _score(self, problem: Problem, values: Sequence[float]) -> Matrix:
        tags, taught = problem.multilabel, problem.taught
        if tags and not len(taught):
            return np.zeros((len(values), len(problem.x_eval), problem.n_classes))
        given = problem.y_train[:, taught].astype(np.float64) if tags else _columns(problem.y_train, taught)
        fits = self._solve(problem.x_train, given, values, apart=tags or len(taught) == 2)
        scores = np.stack([problem.x_eval @ coef.T + intercept for coef, intercept, _ in fits])
        return problem.spread(
            np.concatenate([-scores, scores], axis=2) / 2 if not tags and len(taught) == 2 else scores
        )


def _columns(codes: Ints, taught: Ints) -> Matrix:
    """One column per class, shape (n, n_classes); for two classes that of the second."""
    if len(taught) < 2:
        raise ValueError(f"a classifier needs at least 2 classes; got {len(taught)} class")
    return np.asarray(codes[:, None] == (taught[1:] if len(taught) == 2 else taught), dtype=np.float64)


@dataclass(frozen=True, repr=False)
class Axes:
    """Principal axes of some rows, as arrays of numpy or torch.

    Coordinates after a column of ones (n, 1 + rank), orthonormal basis (dim, rank), sum of squares along each axis (rank,).
    """

    rows: Any
    basis: Any
    squares: Any

    @classmethod
    def of(cls, x: Any, xp: Any = np) -> Axes:
        """Rotate rows, shape (n, dim), with the functions of `xp`: numpy or torch."""
        wide = len(x) < x.shape[1]
        squares, vectors = xp.linalg.eigh(x @ x.T if wide else x.T @ x)
        # an axis with less than 1e-14 of the largest's square is rounding; it could not move a logit by more than 1e-7
        kept = squares > 1e-14 * squares[-1]
        squares, vectors = squares[kept], vectors[:, kept]
        lengths = xp.sqrt(squares)
        basis = x.T @ (vectors / lengths) if wide else vectors
        rows = vectors * lengths if wide else x @ vectors
        return cls(xp.concatenate([xp.ones_like(x[:, :1]), rows], axis=1), basis, squares)
