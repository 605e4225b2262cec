"""k nearest neighbours; every k, metric and temperature from one matrix product.

Squared distances and cosines both come from the inner products of the rows, votes for each k and temperature from one
partial sort.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.base import Ints, Matrix, Problem

__all__ = ["METRICS", "KNNProbe"]

METRICS = ("cosine", "l2")
_BLOCK = 2**23  # similarities at once: 64 MB
_TIE = 1e-9  # of a vote: far less than one vote in a million neighbours


class KNNProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Vote of the k most similar training rows.

    Of classes with equally many votes, the one with the nearest voter wins; of rows equally near, the earlier is taken
    first. Features belong on one scale, or a few large ones decide: the sweep standardises before it calls.

    Parameters
    ----------
    n_neighbors : int
        k; all rows vote where the training part has fewer.
    metric : {"cosine", "l2"}
        How near two rows are: the cosine of their angle; or minus their squared distance by twice the number of
        dimensions. Standardised rows that have nothing to do with each other are at 0 by the first, at -1 by the second,
        equal rows at 1 and 0: a temperature means about the same for both.
    temperature : float or None
        None: one row, one vote. T: a vote counts exp(similarity / T), as in the weighted kNN of DINO (Caron et al. 2021,
        ICCV, appendix F.1; there T = 0.07 and k = 20).

    Examples
    --------
    >>> probe = KNNProbe(n_neighbors=1).fit([[1.0, 0.1], [0.1, 1.0]], ["a", "b"])
    >>> probe.predict([[5.0, 1.0]])
    array(['a'], dtype='<U1')
    """

    grid: ClassVar[Sequence[Mapping[str, Any]]] = tuple({"n_neighbors": k} for k in (20, 10, 5, 3, 1))
    multilabel: ClassVar[bool] = True

    def __init__(self, n_neighbors: int = 5, metric: str = "cosine", temperature: float | None = None) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.temperature = temperature

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Keep the training rows, shape (n, dim), and their classes, shape (n,)."""
        complete([{}], self.get_params())
        X, y = validate_data(self, X, y, dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        self.classes_, self._y = np.unique(y, return_inverse=True)
        self._x = X
        return self

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the training rows and the numbers of their classes."""
        return {"x": self._x, "y": self._y}

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take what `state` gave."""
        self._x, self._y = arrays["x"], arrays["y"]
        return self

    def predict_proba(self, X: Any) -> Matrix:  # noqa: N803
        """Share of votes of each class, shape (n_eval, n_classes); the tie rule shows as a billionth of a vote."""
        check_is_fitted(self, "classes_")
        X = validate_data(self, X, reset=False, dtype=np.float64)  # noqa: N806
        return np.asarray(_shares(self._x, ballots_of(self._y, len(self.classes_)), X, [self.get_params()])[0])

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Class of each row, shape (n_eval,)."""
        shares = self.predict_proba(X)
        return np.asarray(self.classes_[shares.argmax(1)])

    def score_settings(self, problems: Iterable[Problem], settings: Sequence[Mapping[str, Any]]) -> list[Matrix]:
        """Score with every setting from one product per problem: shares of votes; of tags, share for less share against."""
        filled = complete(settings, self.get_params())
        return [
            p.spread(_shares(p.x_train, ballots_of(p.y_train, p.n_classes)[:, [*p.taught, -1]], p.x_eval, filled))
            for p in problems
        ]


def complete(settings: Sequence[Mapping[str, Any]], rest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Fill in what the settings leave out, and check them."""
    filled = [{**rest, **setting} for setting in settings]
    for setting in filled:
        k, metric, temperature = setting["n_neighbors"], setting["metric"], setting["temperature"]
        if k < 1:
            raise ValueError(f"n_neighbors must be at least 1; got {k}")
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be above 0, or None for plain votes; got {temperature}")
    return filled


def ballots_of(y: Ints, n_classes: int) -> Matrix:
    """Say for which classes each row votes (1) and, of tags, against which (-1); the last column counts its votes."""
    votes = 2 * y - 1 if y.ndim == 2 else y[:, None] == np.arange(n_classes)
    return np.hstack([votes, np.ones((len(y), 1))])


def blocks(n_eval: int, n_train: int) -> Iterator[slice]:
    size = max(1, _BLOCK // n_train)
    return (slice(start, start + size) for start in range(0, n_eval, size))


def _shares(x: Matrix, ballots: Matrix, x_eval: Matrix, settings: Sequence[Mapping[str, Any]]) -> Matrix:
    """Shares of votes, shape (n_settings, n_eval, n_classes)."""
    shares = np.empty((len(settings), len(x_eval), ballots.shape[1] - 1))
    theirs = np.vecdot(x, x)[None]
    for block in blocks(len(x_eval), len(x)):
        rows = x_eval[block]
        shares[:, block] = vote(rows @ x.T, np.vecdot(rows, rows), theirs, x.shape[1], ballots, settings)
    return shares


def vote(
    inner: Matrix,
    own: Matrix,
    theirs: Matrix,
    dim: int,
    ballots: Matrix,
    settings: Sequence[Mapping[str, Any]],
    barred: NDArray[np.bool_] | None = None,
) -> Matrix:
    """Shares of votes from inner products (n_eval, n), squared lengths (n_eval,) and (n_eval or 1, n), and who may not vote."""
    shares = np.empty((len(settings), len(inner), ballots.shape[1] - 1))
    for metric in METRICS:
        chosen = [number for number, setting in enumerate(settings) if setting["metric"] == metric]
        if not chosen:
            continue
        if metric == "l2":
            similarity = (inner - (own[:, None] + theirs) / 2) / dim
        else:
            similarity = inner * _inverse_length(own)[:, None] * _inverse_length(theirs)
        if barred is not None:
            similarity[barred] = -np.inf
        shares[chosen] = _count(similarity, ballots, [settings[number] for number in chosen])
    return shares


def _inverse_length(squares: Matrix) -> Matrix:
    """Make a zero row equally unlike everything, not an error."""
    return np.divide(
        1, np.sqrt(squares, where=squares > 0, out=np.ones_like(squares)), where=squares > 0, out=np.zeros_like(squares)
    )


def _count(similarity: Matrix, ballots: Matrix, settings: Sequence[Mapping[str, Any]]) -> Matrix:
    """Count the votes of the k most similar for each k and temperature, the nearer class ahead by a hair."""
    n = similarity.shape[1]
    ends = sorted({min(setting["n_neighbors"], n) for setting in settings})
    temperatures = list(dict.fromkeys(setting["temperature"] for setting in settings))
    near = _nearest(similarity, ends[-1])
    value, cast = np.take_along_axis(similarity, near, 1), ballots[near]
    weights = np.stack(
        [value > -np.inf if t is None else np.exp((value - value[:, :1]) / t) for t in temperatures],
        1,
        dtype=np.float64,
    )
    parts = [weights[:, :, start:end] @ cast[:, start:end] for start, end in pairwise([0, *ends])]
    sums = np.cumsum(parts, axis=0)  # (n_ends, n_eval, n_temperatures, n_classes + 1)
    votes = cast[:, :, :-1] > 0
    first = np.where(votes.any(1), votes.argmax(1), ends[-1])  # rank of each class' nearest voter
    shares = sums[..., :-1] / sums[..., -1:] + _TIE * (1 - first / ends[-1])[:, None]
    pick = [(ends.index(min(s["n_neighbors"], n)), temperatures.index(s["temperature"])) for s in settings]
    return np.stack([shares[end, :, temperature] for end, temperature in pick])


def _nearest(similarity: Matrix, k: int) -> Ints:
    """Columns of the k highest of each row, the highest first, of equals the first: shape (n_eval, k)."""
    n = similarity.shape[1]
    if k == n:
        return np.argsort(-similarity, axis=1, kind="stable")
    near = np.sort(np.argpartition(similarity, n - k, axis=1)[:, n - k :], axis=1)
    value = np.take_along_axis(similarity, near, 1)
    last = value.min(1, keepdims=True)
    cut = np.flatnonzero((similarity >= last).sum(1) > k)  # equals on both sides of the cut: any of them were taken
    near[cut] = np.sort(np.argsort(-similarity[cut], axis=1, kind="stable")[:, :k], axis=1)
    value[cut] = np.take_along_axis(similarity[cut], near[cut], 1)
    return np.take_along_axis(near, np.argsort(-value, axis=1, kind="stable"), 1)
