"""Whole rankings of a library by cosine, query after query: where the tracks of the query's genre stand, who is near to whom.

A query ranks all other tracks, the most similar first; of equally similar ones the first of the rows comes first, as in a
search. It is scored twice: among all tracks, and without those of its own group (artist), which a genre should not need.
Scores of one query, with R tracks of its genre among N:

=============  ====================================================================================================
map            average precision: mean, over those R, of the share of hits among all that stand no lower
r_precision    share of hits among the first R
precision_at_k share of hits among the first k, or among all N if these are fewer
=============  ====================================================================================================

Of a random order the expected share of hits is R / N, and the expected average precision, with H the N-th harmonic number,
(H + (R - 1) (N - H) / (N - 1)) / N: place i holds a hit in R / N of all orders, and each of the i - 1 places before it then in
(R - 1) / (N - 1) of these. `expected` gives these; nothing is drawn. But tracks of one artist stand together in a ranking and
have one genre, so that even an order of artists that knows nothing of genre reaches a higher average precision, which
`expected_by_group` gives. A score should be above that, too.

All similarities of a block of queries are one product, and one sort of 64-bit numbers orders them: score, then row, and at the
end whether the row is a hit and whether it is of the own group, so that nothing has to be looked up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "Rankings", "expected", "expected_by_group", "measures", "rank", "skewness"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
KINDS = ("filtered", "unfiltered")  # without the tracks of the query's own group, and with them
_CELLS = 2**21  # similarities at a time: 16 MB as they are sorted


@dataclass(frozen=True, repr=False, eq=False)
class Rankings:
    """What m queries found.

    Attributes
    ----------
    scores : float64 array, shape (2, n_measures, m)
        By `KINDS`, by `measures`.
    relevant, candidates : int64 arrays, shape (2, m)
        How many tracks of the query's genre there were to find, among how many.
    occurrences : int64 array, shape (n,)
        Among the `near` first of how many queries each track was, those of one group included.
    """

    scores: Floats
    relevant: Ints
    candidates: Ints
    occurrences: Ints

    def __repr__(self) -> str:
        return f"Rankings({self.scores.shape[2]} queries of {len(self.occurrences)} tracks)"


def measures(ks: Sequence[int]) -> tuple[str, ...]:
    """Name the scores of a query, the main one first."""
    return ("map", "r_precision", *(f"precision_at_{k}" for k in ks))


def rank(
    rows: NDArray[np.float32],
    y: Ints,
    groups: Ints,
    queries: Ints,
    ks: Sequence[int],
    *,
    near: int = 10,
    tick: Callable[[int], object] | None = None,
) -> Rankings:
    """Rank all rows for some of them.

    Parameters
    ----------
    rows : float32 array, shape (n, dim)
        Of length 1, or 0; n is below 2**30.
    y : int64 array, shape (n, n_genres)
        1 where a track has a genre; two tracks that share one are hits for each other. Without genres nothing is a hit.
    groups : int64 array, shape (n,)
    queries : int64 array, shape (m,)
        Row numbers.
    ks : sequence of int
        Of precision at k.
    near : int
        Neighbours behind `Rankings.occurrences`.
    tick : callable, optional
        Called with the number of queries that are done.

    Notes
    -----
    Time m n (2 dim / speed of a product + some 50 ns); memory a few times 16 MB.

    Examples
    --------
    >>> rows = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
    >>> found = rank(rows, np.array([[1, 0], [0, 1], [1, 0]]), np.arange(3), np.array([0]), [1])
    >>> found.scores[0].ravel()
    array([0.5, 0. , 0. ])
    """
    n, m = len(rows), len(queries)
    scores = np.empty((2, len(measures(ks)), m))
    relevant, candidates = np.empty((2, m), np.int64), np.empty((2, m), np.int64)
    occurrences = np.zeros(n, np.int64)
    tags, place = y.astype(np.float32), np.arange(n, dtype=np.int64) << 2
    size = max(_CELLS // n, 1)
    for start in range(0, m, size):
        some, mine = slice(start, start + size), queries[start : start + size]
        similar = rows[mine] @ rows.T
        similar += 0.0  # no negative zeros
        similar[np.arange(len(mine)), mine] = -np.inf
        hits, own = tags[mine] @ tags.T > 0, groups[mine, None] == groups
        bits = similar.view(np.int32)
        order = ~(bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32  # rises as the similarity falls
        order |= place | hits.astype(np.int64) << 1 | own
        order.sort(axis=1)
        order = order[:, :-1]  # the query itself comes last
        occurrences += np.bincount((order[:, :near] & 0xFFFFFFFF).ravel() >> 2, minlength=n)
        hit, own = (order & 2) > 0, (order & 1) > 0
        before = np.cumsum(own, axis=1, dtype=np.int32)
        candidates[:, some] = n - 1 - np.stack([before[:, -1] if n > 1 else 0 * mine, 0 * mine])
        for kind, (found, gone) in enumerate(((hit & ~own, before), (hit, None))):
            scores[kind, :, some], relevant[kind, some] = _score(found, gone, candidates[kind, some], ks)
        if tick:
            tick(start + len(mine))
    return Rankings(scores, relevant, candidates, occurrences)


def _score(hits: NDArray[np.bool_], gone: Any, candidates: Ints, ks: Sequence[int]) -> tuple[Floats, Ints]:
    """Score rankings, shape (m, n), of which `gone` rows before each place are left out; also count the hits."""
    query, place = np.nonzero(hits)
    at = place + 1 if gone is None else place + 1 - gone[query, place]
    total = np.bincount(query, minlength=len(hits))
    nth = np.arange(1, len(query) + 1) - (np.cumsum(total) - total)[query]

    def mean(values: Any, of: Ints) -> Floats:
        return np.asarray(np.bincount(query, values, minlength=len(hits)) / np.maximum(of, 1))

    shares = [mean(at <= k, np.minimum(k, candidates)) for k in ks]
    return np.stack([mean(nth / at, total), mean(at <= total[query], total), *shares]), total


def expected(found: Rankings, ks: Sequence[int]) -> Floats:
    """Give the expected scores of random orders, exactly, mean over queries: shape (2, n_measures)."""
    share = found.relevant / np.maximum(found.candidates, 1)
    precision = _expected_precision(found.relevant, found.candidates)
    return np.stack([precision.mean(1), *[share.mean(1)] * (1 + len(ks))], axis=1)


def expected_by_group(y: Ints, groups: Ints, queries: Ints) -> float:
    """Give the expected average precision, filtered, where whole groups stand in random order.

    Exact where all groups are equally large and of one genre; else as if all had the mean size.
    """
    held = np.zeros((int(groups.max()) + 1, y.shape[1]), np.int64)
    np.maximum.at(held, groups, y)
    asked, which = np.unique(y[queries], axis=0, return_inverse=True)
    others = (asked @ held.T > 0).sum(1)[which.reshape(-1)] - 1
    size = max(round(len(y) / len(held)), 1)
    return float(_expected_precision(others, np.full(len(queries), len(held) - 1), size).mean())


def _expected_precision(relevant: Ints, candidates: Ints, size: int = 1) -> Floats:
    """Give that of R among N units, each of `size` tracks that stand together.

    With p the place and t the place in its unit, the sum over all places of the share of hits that is expected up to a hit,
    r + (1 - r) t / p, r = (R - 1) / (N - 1).
    """
    place = np.arange(1, candidates.max(initial=1) * size + 1)
    sums = np.concatenate([[0.0], np.cumsum(((place - 1) % size + 1) / place)])[candidates * size]
    others = (relevant - 1) / np.maximum(candidates - 1, 1)
    found = others + (1 - others) * sums / np.maximum(candidates * size, 1)
    return np.asarray(found * (relevant > 0))


def skewness(counts: NDArray[Any]) -> float:
    """Third standardised moment; 0 where all counts are equal.

    >>> round(skewness(np.array([0, 0, 0, 4])), 3)
    1.155
    """
    apart = counts - counts.mean()
    spread = float((apart**2).mean())
    return float((apart**3).mean() / spread**1.5) if spread else 0.0
