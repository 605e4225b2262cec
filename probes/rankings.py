"""Whole rankings of a library by cosine, query after query: where the tracks of the query's genre stand, who is near to whom.

A query ranks all other tracks, the most similar first; a track that has a genre of the query is a hit. It is scored twice: among
all tracks, and without those of its own group (artist), which a genre should not need. Scores of one query, with R hits among N:

=============  ====================================================================================================
map            average precision: mean, over those R, of the share of hits among all that stand no lower
r_precision    share of hits among the first R
precision_at_k share of hits among the first k, or among all N if these are fewer
=============  ====================================================================================================

Similarities that differ by no more than float32 can tell are equal, and equal ones stand in any order: scores are their expected
values over all orders of equals (McSherry and Najork 2008, ECIR), and so are the occurrences behind hubness. With s tracks in front
of n equals, and h and r hits in both, place i among the equals holds a hit in r / n of all orders, and each equal before it then in
(r - 1) / (n - 1); so the equals add, to the sum over hits of the share of hits, with d = (r - 1) / (n - 1) and H the harmonic
numbers, r / n ((h + 1 - (s + 1) d) (H(s + n) - H(s)) + n d).

Of a random order of all tracks the expected scores follow from that: s = h = 0. But tracks of one artist stand together in a
ranking and have few genres, so that even an order of artists that knows nothing of genre reaches a higher average precision:
`expected_by_group` draws such orders. A score should be above that, too.

For the jackknife (`probes.jackknife`) each ranking is scored again without the tracks of each part of the library. Nothing is ranked
again: the tracks of a part that stand in front of each hit are counted, for all parts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "Rankings", "expected", "expected_by_group", "measures", "rank", "skewness"]

Ints = NDArray[np.int64]
Counts = NDArray[np.int32]
Floats = NDArray[np.float64]
KINDS = ("filtered", "unfiltered")  # without the tracks of the query's own group, and with them
_CELLS = 2**21  # similarities at a time: 16 MB as they are sorted
_SCORED = 2**14  # places at a time: what is counted of them stays near the processor
_STEPS = 2**22  # similarities that are told apart, from 0 to 1
_ERROR = 4e-4  # of what is drawn: three digits are shown
_DRAWN = 2**24  # places of orders, at most


@dataclass(frozen=True, repr=False, eq=False)
class Rankings:
    """What m queries found.

    Attributes
    ----------
    scores : float64 array, shape (2, n_measures, m)
        By `KINDS`, by `measures`.
    without : float64 array, shape (2, n_measures, G + 1)
        Means over queries without each part of the library, as queries and as what is found, and at the end with all. A query that
        another artist's tracks no longer answer is left out; NaN where none is left.
    relevant, candidates : int64 arrays, shape (2, m)
        How many hits there were to find, among how many.
    occurrences : float64 array, shape (n,), or None
        Among the first `near` of how many tracks each track was, those of one group included.
    """

    scores: Floats
    without: Floats
    relevant: Ints
    candidates: Ints
    occurrences: Floats | None

    def __repr__(self) -> str:
        return f"Rankings({self.scores.shape[2]} queries)"


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
    parts: Ints | None = None,
    near: int = 0,
    tick: Callable[[int], object] | None = None,
) -> Rankings:
    """Rank all rows for some of them.

    Parameters
    ----------
    rows : float32 array, shape (n, dim)
        Of length 1, or 0; n is below 2**30.
    y : int64 array, shape (n, n_genres)
        1 where a track has a genre.
    groups : int64 array, shape (n,)
    queries : int64 array, shape (m,)
        Row numbers, rising.
    ks : sequence of int
        Of precision at k.
    parts : int64 array, shape (n,), optional
        Part of the library that each row is deleted with, from 0 to G - 1: see `probes.jackknife.deal`.
    near : int
        Neighbours behind `Rankings.occurrences`, for which all rows are ranked for all; 0: for queries only, no occurrences.
    tick : callable, optional
        Called with the number of rows that are done.

    Notes
    -----
    Time n (2 dim / speed of a product + some 50 ns) and, with 60 parts, 1 µs a hit, for each query.

    Examples
    --------
    >>> rows = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
    >>> found = rank(rows, np.array([[1, 0], [0, 1], [1, 0]]), np.arange(3), np.array([0]), [1])
    >>> found.scores[0].ravel()
    array([0.5, 0. , 0. ])
    """
    n, m = len(rows), len(queries)
    parts = np.zeros(n, np.int64) if parts is None else parts
    scores, sums = np.empty((2, len(measures(ks)), m)), np.zeros((2, len(measures(ks)), int(parts.max(initial=0)) + 2))
    counts = np.zeros(sums.shape[2])
    relevant, candidates = np.empty((2, m), np.int64), np.empty((2, m), np.int64)
    occurrences = np.zeros(n)
    tags, place = y.astype(np.float32), np.arange(n, dtype=np.int64) << 2
    asks = np.isin(np.arange(n), queries)
    ranked, done = np.arange(n) if near else queries, 0
    for start in range(0, len(ranked), size := max(_CELLS // n, 1)):
        mine = ranked[start : start + size]
        hits, own = tags[mine] @ tags.T > 0, groups[mine, None] == groups
        order = -np.rint(rows[mine] @ rows.T * np.float32(_STEPS)).astype(np.int64) << 32
        order |= place | hits.astype(np.int64) << 1 | own
        order[np.arange(len(mine)), mine] = np.iinfo(np.int64).max
        order.sort(axis=1)
        order = order[:, :-1]  # the query itself comes last
        if near and n > 1:
            occurrences += _occurrences(order >> 32, (order & 0xFFFFFFFF) >> 2, near, n)
        asked = np.flatnonzero(asks[mine])
        step = max(_SCORED // n, 1)
        for some in (asked[at : at + step] for at in range(0, len(asked), step)):
            now, done = slice(done, done + len(some)), done + len(some)
            ordered = order[some]
            level, found, of = ordered >> 32, (ordered & 2) > 0, parts[(ordered & 0xFFFFFFFF) >> 2]
            kept = np.stack([(ordered & 1) == 0, np.ones(ordered.shape, bool)])
            for kind in range(2):
                values, total, left = _score(level, found, of, kept[kind], sums.shape[2] - 1, ks)
                if not kind:  # who deletes a query's artist deletes the query
                    counted = (total > 0) & (parts[mine[some], None] != np.arange(sums.shape[2]))
                    counts += counted.sum(0)
                sums[kind] += (values * counted).sum(1)
                scores[kind, :, now], relevant[kind, now], candidates[kind, now] = (
                    values[..., -1],
                    total[:, -1],
                    left[:, -1],
                )
        if tick:
            tick(start + len(mine))
    with np.errstate(invalid="ignore"):
        return Rankings(scores, sums / counts, relevant, candidates, occurrences if near else None)


def _occurrences(level: Ints, place: Ints, near: int, n: int) -> Floats:
    """Count who is among the first `near` of each ranking, shape (m, n - 1); equals at the end share the places that are left."""
    last = level[:, min(near, level.shape[1]) - 1, None]
    query, at = np.nonzero(level <= last)
    before, equal = (level < last).sum(1), (level == last).sum(1)
    share = np.where(level[query, at] < last[query, 0], 1, ((min(near, level.shape[1]) - before) / equal)[query])
    return np.asarray(np.bincount(place[query, at], share, minlength=n), np.float64)


def _score(
    level: Ints, hits: NDArray[np.bool_], parts: Ints, kept: NDArray[np.bool_], n_parts: int, ks: Sequence[int]
) -> tuple[Floats, Ints, Ints]:
    """Score rankings, of which only what is `kept` counts, without each part and with all.

    Parameters
    ----------
    level : int64 array, shape (m, n)
        Rising; equal where tracks are equally similar.
    hits, parts, kept : arrays, shape (m, n)

    Returns
    -------
    values : float64 array, shape (n_measures, m, n_parts + 1)
    relevant, candidates : int64 arrays, shape (m, n_parts + 1)
    """
    lengths = kept.sum(1)
    level, hits, parts = level[kept], hits[kept], parts[kept]
    query = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.flatnonzero((np.diff(level, prepend=0) != 0) | (np.diff(query, prepend=-1) != 0))
    equals = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(level)))
    holds = np.zeros(len(starts), np.int64)
    holds[equals[hits]] = 1
    # a slot is a gap and the equals with a hit that follow it; each query has one more, which ends with a gap
    slot = (np.cumsum(holds) - holds)[equals] + query
    sizes = np.bincount(query[starts], holds, minlength=len(lengths)).astype(np.int64) + 1
    first = np.cumsum(sizes) - sizes

    def left(bins: Ints, of: Ints, size: int) -> Counts:
        table = np.bincount(bins * n_parts + of, minlength=size * n_parts).astype(np.int32).reshape(size, n_parts)
        whole = table.sum(1, keepdims=True, dtype=np.int32)
        return np.concatenate([whole - table, whole], axis=1)

    def through(counts: Counts, scale: int) -> Counts:
        starts = first[1:] * scale
        counts[starts] -= np.add.reduceat(counts, first * scale, axis=0, dtype=np.int32)[:-1]  # each query starts at 0
        return np.cumsum(counts, axis=0, dtype=np.int32)

    tracks = through(left(2 * slot + holds[equals], parts, 2 * sizes.sum()), 2)
    r = left(slot[hits], parts[hits], sizes.sum())
    s, end, h = tracks[::2], tracks[1::2], through(r.copy(), 1) - r
    n = end - s
    last = first + sizes - 1
    relevant, candidates = h[last], end[last]
    if n.max() < 2:
        shares = r * (h + 1) / np.maximum(end, 1)
    else:
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(level) + 1))])
        d = (r - 1) / np.maximum(n - 1, 1)
        shares = r / np.maximum(n, 1) * ((h + 1 - (s + 1) * d) * (harmonic[end] - harmonic[s]) + n * d)

    def among(k: Ints) -> Floats:
        """Give the expected share of hits among the first k, shape (m, n_parts + 1)."""
        whole = np.add.reduceat(end < np.repeat(k, sizes, axis=0), first, axis=0, dtype=np.int64)
        at = first[:, None] + whole, np.arange(n_parts + 1)
        reached = np.clip((k - s[at]) / np.maximum(n[at], 1), 0, 1)
        return np.asarray((h[at] + r[at] * reached) / np.maximum(k, 1))

    mean = np.add.reduceat(shares, first, axis=0) / np.maximum(relevant, 1)
    cut = [among(np.minimum(k, candidates)) for k in ks]
    return np.stack([mean, among(relevant), *cut]), relevant, candidates


def expected(found: Rankings, ks: Sequence[int]) -> Floats:
    """Give the expected scores of random orders, exactly, mean over queries: shape (2, n_measures)."""
    share = found.relevant / np.maximum(found.candidates, 1)
    precision = _expected_precision(found.relevant, found.candidates)
    return np.stack([precision.mean(1), *[share.mean(1)] * (1 + len(ks))], axis=1)


def _expected_precision(relevant: Ints, candidates: Ints) -> Floats:
    """Give the average precision of R hits among N in random order."""
    sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, candidates.max(initial=0) + 1))])[candidates]
    d = (relevant - 1) / np.maximum(candidates - 1, 1)
    return np.asarray((relevant > 0) * ((1 - d) * sums / np.maximum(candidates, 1) + d))


def expected_by_group(y: Ints, groups: Ints, queries: Ints, found: Rankings, seed: int = 0) -> tuple[float, float]:
    """Estimate the expected average precision, filtered, where whole groups stand in random order, their tracks in any.

    Parameters
    ----------
    y, groups, queries
        As of `rank`.
    found : Rankings
        What it gave.

    Returns
    -------
    mean, error : float
        Orders are drawn, for queries drawn at random, until the standard error of the mean is 0.0004, for some seconds at most.
        What is averaged is by how much a query's score differs from that expected of single tracks, which is known.
    """
    tags, n, n_groups = y.astype(np.float32), len(y), int(groups.max()) + 1
    rng = np.random.default_rng([seed, 0xA127])
    alone = _expected_precision(found.relevant[0], found.candidates[0])
    count, total, squares, error = 0, 0.0, 0.0, 1.0
    size = max(_SCORED // n, 1)
    while count < 200 or (error > _ERROR and count * n < _DRAWN):
        some, shuffled = rng.integers(len(queries), size=size), rng.permutation(n)
        mine = queries[some]
        order = shuffled[np.argsort(rng.random((size, n_groups))[:, groups[shuffled]], axis=1, kind="stable")]
        hits, place = (
            (tags[mine] @ tags.T > 0)[np.arange(size)[:, None], order],
            np.broadcast_to(np.arange(n), order.shape),
        )
        values, *_ = _score(place, hits, np.zeros_like(order), groups[order] != groups[mine, None], 1, ())
        apart = values[0, :, -1] - alone[some]
        count, total, squares = count + size, total + float(apart.sum()), squares + float((apart**2).sum())
        error = np.sqrt(max(squares / count - (total / count) ** 2, 0) / count)
    return float(alone.mean() + total / count), float(error)


def skewness(counts: NDArray[Any]) -> float:
    """Third standardised moment; 0 where all counts are equal.

    >>> round(skewness(np.array([0, 0, 0, 4])), 3)
    1.155
    """
    apart = counts - counts.mean()
    spread = float((apart**2).mean())
    return float((apart**3).mean() / spread**1.5) if spread > 1e-18 else 0.0
