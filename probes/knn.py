"""k nearest neighbours; every k, metric and temperature from one matrix product.

Squared distances and cosines both come from the inner products of the rows, votes for each k and temperature from one
partial sort. Leaving each group of rows out in turn takes two products more, although every group held out leaves another
mean and deviation to the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from embedstore.errors import ParameterError
from probes.base import Ints, Matrix, Problem, Setting, indicators
from probes.classifier import Classifier
from probes.scaling import Scale

__all__ = ["METRICS", "KNNProbe"]

METRICS = ("cosine", "l2")
_BLOCK = 2**23  # similarities at once: 64 MB
_TIE = 1e-9  # of a vote: far less than one vote in a million neighbours


class KNNProbe(Classifier):
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

    grid = tuple({"n_neighbors": k} for k in (20, 10, 5, 3, 1))
    learned = ("_x", "_y")

    def __init__(self, n_neighbors: int = 5, metric: str = "cosine", temperature: float | None = None) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.temperature = temperature

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Keep the training rows, shape (n, dim), and their classes, shape (n,)."""
        self._complete([{}])
        self._x, self._y = self._read(X, y)
        return self

    def predict_proba(self, X: Any) -> Matrix:  # noqa: N803
        """Share of votes of each class, shape (n_eval, n_classes); the tie rule shows as a billionth of a vote."""
        x = self._rows(X)
        return np.asarray(_shares(self._x, _ballots(self._y, np.arange(len(self.classes_))), x, [self.get_params()])[0])

    def score_settings(self, problems: Iterable[Problem], settings: Sequence[Setting]) -> list[Matrix]:
        """Score with every setting from one product per problem: shares of votes; of tags, share for less share against."""
        filled = self._complete(settings)
        return [p.spread(_shares(p.x_train, _ballots(p.y_train, p.taught), p.x_eval, filled)) for p in problems]

    def score_left_out(
        self,
        x: NDArray[Any],
        y: Ints,
        groups: Ints,
        settings: Sequence[Setting],
        n_classes: int,
        *,
        standardise: bool = True,
    ) -> Matrix:
        """Score each row by the votes of all rows of other groups, for every setting.

        Parameters
        ----------
        x : float array, shape (n, dim)
        y : int64 array, shape (n,), or (n, n_classes) with 1 where a tag is given
        groups : int64 array, shape (n,)
            All different: leave one out.
        settings : sequence of dict
            What one leaves out is the probe's own.
        n_classes : int
        standardise : bool
            Scale by mean and deviation of the rows of the other groups, for each group anew; or leave rows as they are.

        Returns
        -------
        float64 array, shape (n_settings, n, n_classes)
            As from `score_settings`.

        Raises
        ------
        ParameterError
            All rows are of one group.

        Notes
        -----
        With m and w, the mean and inverse variance of the others, <a, b> = sum_d w_d (a_d - m_d)(b_d - m_d) of scaled rows
        is the product of w (a - m) with b, less a number; their squared lengths are products of (w, -2 w m) with (b^2, b).
        """
        _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        if len(sizes) < 2:
            raise ParameterError(f"leave-one-group-out needs at least 2 groups; all {len(x)} rows are of one")
        filled, ballots, dim = self._complete(settings), _ballots(y, np.arange(n_classes)), x.shape[1]
        x, offset = x.astype(np.float64), np.zeros(dim)
        if standardise:  # by all rows first, so that nothing below is lost to rounding
            scale = Scale.of(x)
            varies = np.isfinite(scale.deviation[0])
            x, offset = scale(x)[:, varies], (scale.mean / scale.deviation)[0, varies]
        both, member = np.hstack([x**2, x]), csr_array((np.ones(len(x)), (codes, np.arange(len(x)))))
        scores = np.empty((len(settings), len(x), n_classes))
        order = np.argsort(codes, kind="stable")
        for block in _blocks(len(x), len(x)):
            rows = order[block]
            held, of = np.unique(codes[rows], return_inverse=True)
            if standardise:
                middle, weight = _scales(both, codes, member[held], held, offset)
            else:
                of, middle, weight = np.zeros_like(of), np.zeros((1, dim)), np.ones((1, dim))
            away = x[rows] - middle[of]
            scaled = away * weight[of]
            inner = scaled @ x.T - np.vecdot(scaled, middle[of])[:, None]
            theirs = np.hstack([weight, -2 * weight * middle]) @ both.T + np.vecdot(weight, middle**2)[:, None]
            barred = codes[rows, None] == codes
            scores[:, rows] = _vote(inner, np.vecdot(scaled, away), theirs[of], dim, ballots, filled, barred)
        shown = ballots[:, :-1] > 0
        others = shown.sum(0) - (member @ shown)[codes]
        untaught = (others == 0) | (others == (len(x) - sizes[codes])[:, None]) if y.ndim == 2 else others == 0
        scores[:, untaught] = 0 if y.ndim == 2 else -np.inf
        return scores

    def _complete(self, settings: Sequence[Setting]) -> list[dict[str, Any]]:
        """Fill in what the settings leave out, and check them."""
        filled = [{**self.get_params(), **setting} for setting in settings]
        for setting in filled:
            k, metric, temperature = setting["n_neighbors"], setting["metric"], setting["temperature"]
            if k < 1:
                raise ParameterError(f"n_neighbors must be at least 1; got {k}")
            if metric not in METRICS:
                raise ParameterError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
            if temperature is not None and not temperature > 0:
                raise ParameterError(f"temperature must be above 0, or None for plain votes; got {temperature}")
        return filled


def _ballots(y: Ints, classes: Ints) -> Matrix:
    """Say for which classes each row votes (1) and, of tags, against which (-1); the last column counts its votes."""
    given = indicators(y, classes)
    return np.hstack([2 * given - 1 if y.ndim == 2 else given, np.ones((len(y), 1))])


def _blocks(n_eval: int, n_train: int) -> Iterator[slice]:
    size = max(1, _BLOCK // n_train)
    return (slice(start, start + size) for start in range(0, n_eval, size))


def _shares(x: Matrix, ballots: Matrix, x_eval: Matrix, settings: Sequence[Setting]) -> Matrix:
    """Shares of votes, shape (n_settings, n_eval, n_classes)."""
    shares = np.empty((len(settings), len(x_eval), ballots.shape[1] - 1))
    theirs = np.vecdot(x, x)[None]
    for block in _blocks(len(x_eval), len(x)):
        rows = x_eval[block]
        shares[:, block] = _vote(rows @ x.T, np.vecdot(rows, rows), theirs, x.shape[1], ballots, settings)
    return shares


def _vote(
    inner: Matrix,
    own: Matrix,
    theirs: Matrix,
    dim: int,
    ballots: Matrix,
    settings: Sequence[Setting],
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


def _count(similarity: Matrix, ballots: Matrix, settings: Sequence[Setting]) -> Matrix:
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


def _scales(both: Matrix, codes: Ints, member: Any, held: Ints, offset: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and inverse variance (0 for a constant) of the rows outside each held group, shapes (n_held, dim)."""
    left = len(both) - member.sum(1)[:, None]
    squares, mean = np.hsplit((both.sum(0) - member @ both) / left, 2)
    variance = squares - mean**2
    for group, d in np.argwhere(variance < 1e-6):  # nearly all of it was the group's: the difference above is rounding
        rest = both[codes != held[group], len(offset) + d]
        mean[group, d], variance[group, d] = rest.mean(), rest.var()
    least = 1e-10 * (np.abs(offset + mean) + np.abs(mean))  # the rule of `Scale`, and above rounding
    varies = variance > least**2
    return mean, np.divide(1, variance, out=np.zeros_like(variance), where=varies)
