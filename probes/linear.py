"""What linear probes share: scores from weights, a batch of settings per problem, and principal axes.

Rows are rotated to the axes of their own span. This is exact: with fewer rows than dimensions the weights of a penalised
model have nothing outside it (Hastie and Tibshirani 2004, Biostatistics 5:329). One rotation serves every setting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from probes.base import Ints, Matrix, Problem, Setting, at_least_two, both_sides, indicators, score_one_by_one
from probes.classifier import Classifier

__all__ = ["Axes", "LinearProbe", "Solution"]

Solution = tuple[Matrix, Matrix, int]  # weights (n_columns, dim), intercepts (n_columns,), steps taken


class LinearProbe(Classifier):
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
    learned = ("coef_", "intercept_")

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
        X, codes = self._read(X, y)  # noqa: N806
        given = _columns(codes, np.arange(len(self.classes_)))
        values = [getattr(self, self.shared)]
        self.coef_, self.intercept_, self.n_iter_ = next(self._solve(X, given, values, apart=given.shape[1] == 1))
        return self

    def decision_function(self, X: Any) -> Matrix:  # noqa: N803
        """Scores, shape (n_eval, n_classes); of the second class, shape (n_eval,), for two classes."""
        scores = np.asarray(self._rows(X) @ self.coef_.T + self.intercept_)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def score_settings(self, problems: Iterable[Problem], settings: Sequence[Setting]) -> list[Matrix]:
        """Score with every value of the shared parameter after one rotation per problem."""
        if any(set(setting) - {self.shared} for setting in settings):
            return score_one_by_one(self, problems, settings)
        values = [setting.get(self.shared, getattr(self, self.shared)) for setting in settings]
        return [self._score(problem, values) for problem in problems]

    def _score(self, problem: Problem, values: Sequence[float]) -> Matrix:
        tags, taught = problem.multilabel, problem.taught
        if tags and not len(taught):
            return np.zeros((len(values), len(problem.x_eval), problem.n_classes))
        two = not tags and len(taught) == 2
        given = (indicators if tags else _columns)(problem.y_train, taught)
        fits = self._solve(problem.x_train, given, values, apart=tags or two)
        scores = np.stack([problem.x_eval @ coef.T + intercept for coef, intercept, _ in fits])
        return problem.spread(both_sides(scores[..., 0]) if two else scores)


def _columns(codes: Ints, taught: Ints) -> Matrix:
    """One column per class, shape (n, n_classes); for two classes that of the second."""
    at_least_two(taught)
    return indicators(codes, taught[1:] if len(taught) == 2 else taught)


@dataclass(frozen=True, repr=False)
class Axes:
    """Principal axes of some rows, as arrays of numpy or torch.

    Attributes
    ----------
    x : array, shape (n, dim)
        The rows.
    vectors : array, shape (min(n, dim), rank)
        Eigenvectors of ``x @ x.T`` where there are fewer rows than dimensions, else of ``x.T @ x``.
    squares : array, shape (rank,)
        Sum of squares of the rows along each axis.
    """

    x: Any
    vectors: Any
    squares: Any

    @classmethod
    def of(cls, x: Any, xp: Any = np) -> Self:
        """Rotate rows with the functions of `xp`: numpy or torch."""
        squares, vectors = xp.linalg.eigh(x @ x.T if len(x) < x.shape[1] else x.T @ x)
        # an axis with less than 1e-14 of the largest's square is rounding; it could not move a logit by more than 1e-7
        kept = squares > 1e-14 * squares[-1]
        return cls(x, vectors[:, kept], squares[kept])

    @property
    def wide(self) -> bool:
        """Whether there are fewer rows than dimensions."""
        return len(self.x) < int(self.x.shape[1])

    @property
    def rows(self) -> Any:
        """Coordinates of the rows, shape (n, rank)."""
        return self.vectors * self.squares**0.5 if self.wide else self.x @ self.vectors

    def along(self, y: Any) -> Any:
        """Multiply the coordinates with columns: ``rows.T @ y``, shape (rank, n_columns)."""
        if self.wide:
            return self.squares[:, None] ** 0.5 * (self.vectors.T @ y)
        return self.vectors.T @ (self.x.T @ y)

    def back(self, weights: Any) -> Any:
        """Turn weights of the coordinates, shape (rank, n_columns), into weights of the dimensions."""
        return self.x.T @ (self.vectors / self.squares**0.5 @ weights) if self.wide else self.vectors @ weights
