"""Leave-one-out for k nearest neighbours: each track judged by all of the others, but for its own group.

Only two matrix products more than without, although every group held out has its own mean and deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from embedstore.errors import ParameterError
from probes.base import Ints, Matrix
from probes.knn import KNNProbe, ballots_of, blocks, complete, vote

__all__ = ["leave_one_group_out"]


def leave_one_group_out(
    x: NDArray[Any],
    y: Ints,
    groups: Ints,
    settings: Sequence[Mapping[str, Any]],
    n_classes: int,
    *,
    standardise: bool = True,
) -> Matrix:
    """Score each row by the votes of all rows of other groups, for every setting of a `KNNProbe`.

    Parameters
    ----------
    x : float array, shape (n, dim)
    y : int64 array, shape (n,), or (n, n_classes) with 1 where a tag is given
    groups : int64 array, shape (n,)
        All different: leave one out.
    settings : sequence of dict
        Parameters of `KNNProbe`; what one leaves out has its default.
    n_classes : int
    standardise : bool
        Scale by mean and deviation of the rows of the other groups, for each group anew; or leave rows as they are.

    Returns
    -------
    float64 array, shape (n_settings, n, n_classes)
        As from `KNNProbe.score_settings`.

    Raises
    ------
    ParameterError
        All rows are of one group.

    Notes
    -----
    With m and w, the mean and inverse variance of the others, <a, b> = sum_d w_d (a_d - m_d)(b_d - m_d) of scaled rows is
    the product of w (a - m) with b, less a number; their squared lengths are products of (w, -2 w m) with (b^2, b).
    """
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ParameterError(f"leave-one-group-out needs at least 2 groups; all {len(x)} rows are of one")
    filled, ballots, dim = complete(settings, KNNProbe().get_params()), ballots_of(y, n_classes), x.shape[1]
    x = x.astype(np.float64)
    offset = np.zeros(dim)
    if standardise:  # by all rows first, so that nothing below is lost to rounding
        mean, deviation = x.mean(0), x.std(0)
        varies = deviation > 1e-10 * np.abs(mean)
        x, offset = (x - mean)[:, varies] / deviation[varies], mean[varies] / deviation[varies]
    both, member = np.hstack([x**2, x]), csr_array((np.ones(len(x)), (codes, np.arange(len(x)))))
    scores = np.empty((len(settings), len(x), n_classes))
    order = np.argsort(codes, kind="stable")
    for block in blocks(len(x), len(x)):
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
        scores[:, rows] = vote(inner, np.vecdot(scaled, away), theirs[of], dim, ballots, filled, barred)
    shown = ballots[:, :-1] > 0
    others = shown.sum(0) - (member @ shown)[codes]
    untaught = (others == 0) | (others == (len(x) - sizes[codes])[:, None]) if y.ndim == 2 else others == 0
    scores[:, untaught] = 0 if y.ndim == 2 else -np.inf
    return scores


def _scales(both: Matrix, codes: Ints, member: Any, held: Ints, offset: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and inverse variance (0 for a constant) of the rows outside each held group, shapes (n_held, dim)."""
    left = len(both) - member.sum(1)[:, None]
    squares, mean = np.hsplit((both.sum(0) - member @ both) / left, 2)
    variance = squares - mean**2
    for group, d in np.argwhere(variance < 1e-6):  # nearly all of it was the group's: the difference above is rounding
        rest = both[codes != held[group], len(offset) + d]
        mean[group, d], variance[group, d] = rest.mean(), rest.var()
    varies = (
        variance > (1e-10 * (np.abs(offset + mean) + np.abs(mean))) ** 2
    )  # `standardise`'s rule, and above rounding
    return mean, np.divide(1, variance, out=np.zeros_like(variance), where=varies)
