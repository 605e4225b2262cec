"""Paired tests: whether the difference between two rows (layers, probes, encoders) is more than chance.

One track is right or wrong in both rows, and tracks of one artist go together, so that rows are compared artist by artist:
if the two were equally good, swapping the answers of the two for a whole group would make no difference. `paired_tests`
swaps them for a random half of the groups, again and again, and counts how often the difference comes out at least as
large as it is (approximate randomisation: Noreen 1989, Computer-Intensive Methods for Testing Hypotheses; Yeh 2000, COLING,
C00-2137). Scores of rankings are not swapped between probes, whose scores may lie anywhere: there `shift_tests`
asks how often the resampled difference, moved to have the mean 0, is at least as large (Efron and Tibshirani 1993, chapter
16). Both are two-sided, and count the observed case (Phipson and Smyth 2010, arXiv:1603.05766): no p is 0.

Among simulated artists (tests/probes/test_simulated.py) of two rows that are equally good, the swap finds a difference at
the 5 % level in 4 to 5 of 100 cases, where swapping single tracks would in 12 to 15; the test of rankings in 5 to 6. Where
each row knows other genres, the swap is careful: 1 of 100.

All tests of one table are one family, corrected by `holm` (Holm 1979, Scand. J. Statist. 6:65). A difference that no test
finds is not shown to be none: read its interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.measures import Ints, Tallies, macro_f1
from probes.results import Comparison
from probes.statistics import Samples, blocks, group_tallies

__all__ = ["compare", "holm", "indistinct", "matched_odds", "paired_tests", "shift_tests"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Pairs = Sequence[tuple[int, int]]
_EQUAL = 1e-9  # sums in another order differ by less


def compare(
    names: Sequence[str],
    pairs: Pairs,
    samples: Samples,
    *,
    y: Ints,
    predictions: Ints | None,
    groups: Ints,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare rows of one table, all pairs as one family.

    Parameters
    ----------
    names : sequence of str
        Of each row.
    pairs : sequence of (int, int)
        Numbers of the rows to compare.
    samples : Samples
        Of these rows, from `cluster_bootstrap` or `cluster_bootstrap_tags`: gives the difference and its interval.
    y, predictions, groups
        As in `cluster_bootstrap`. Without predictions (several tags a track), the test is `shift_tests`, and there are no
        odds.
    resamples, seed : int
        Of `paired_tests`.
    """
    if predictions is None:
        p = shift_tests(samples, pairs)
    else:
        p = paired_tests(y, predictions, groups, pairs, resamples=resamples, seed=seed)
    return tuple(
        Comparison(
            first=names[first],
            second=names[second],
            difference=samples.difference(first, second),
            p=float(plain),
            p_holm=float(corrected),
            odds=None if predictions is None else matched_odds(y, predictions[first], predictions[second]),
        )
        for (first, second), plain, corrected in zip(pairs, p, holm(p), strict=True)
    )


def indistinct(comparisons: Iterable[Comparison], level: float = 0.05) -> tuple[str, ...]:
    """Name the second rows that the tests, corrected, cannot tell from the first."""
    return tuple(one.second for one in comparisons if one.p_holm > level)


def paired_tests(
    y: Ints, predictions: Ints, groups: Ints, pairs: Pairs, *, resamples: int = 10_000, seed: int = 0
) -> Floats:
    """Test differences of macro-F1, mean over seeds, by swapping the predictions of whole groups.

    Parameters
    ----------
    y, predictions, groups
        As in `probes.statistics.cluster_bootstrap`; all seeds of a group are swapped together.
    pairs : sequence of (int, int)
        Numbers of the rows to compare.
    resamples, seed : int

    Returns
    -------
    float64 array, shape (n_pairs,)
        p, two-sided, uncorrected; 1 for equal predictions.

    Examples
    --------
    >>> y = np.arange(60) % 3
    >>> wrong = np.where(np.arange(60) < 20, (y + 1) % 3, y)
    >>> paired_tests(y, np.stack([y, y, wrong])[:, None], np.arange(60), [(0, 1), (0, 2)], resamples=999)
    array([1.   , 0.001])
    """
    n_classes = int(max(y.max(), predictions.max())) + 1
    support, answered = group_tallies(y, predictions, groups, n_classes)
    table = answered.reshape(len(answered), -1)
    whole, has = answered.sum(0, dtype=np.float64), support.sum(0, dtype=np.float64)

    def difference(first: Array, second: Array) -> Array:
        one, other = (macro_f1(Tallies(t[..., 0, :, :], has, t[..., 1, :, :])) for t in (first, second))
        return np.asarray(np.abs((one - other).mean(-1)))

    rng = np.random.default_rng([seed, 0x5AAB])
    as_large = np.zeros(len(pairs), dtype=np.int64)
    for size in blocks(resamples, max(table.shape)):
        swapped = rng.integers(2, size=(size, len(table))).astype(np.float32)
        sums = (swapped @ table).astype(np.float64).reshape(size, *whole.shape)
        for number, (a, b) in enumerate(pairs):
            moved = sums[:, :, b] - sums[:, :, a]
            found = difference(whole[:, a] + moved, whole[:, b] - moved)
            as_large[number] += np.count_nonzero(found >= difference(whole[:, a], whole[:, b]) - _EQUAL)
    return (1 + as_large) / (resamples + 1)


def shift_tests(samples: Samples, pairs: Pairs) -> Floats:
    """Test differences of the main measure by its resamples, moved to the mean 0 and spread as for intervals.

    Returns
    -------
    float64 array, shape (n_pairs,)
        p, two-sided, uncorrected; at least 1 / (resamples + 1).
    """
    first, second = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    scores = np.nanmean(samples.observed[samples.main], axis=1)
    moved = samples[samples.main][:, first] - samples[samples.main][:, second]
    chance = samples.widen * np.abs(moved - moved.mean(0))
    as_large = np.count_nonzero(chance >= np.abs(scores[first] - scores[second]) - _EQUAL, axis=0)
    return np.asarray((1 + as_large) / (len(samples) + 1))


def holm(p: Floats) -> Floats:
    """Correct a family of p for being many, step by step: the smallest times m, the next times m - 1, ..., never falling.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def matched_odds(y: Ints, first: Ints, second: Ints) -> float:
    """Give how much more often the first is right where only one of the two is, over tracks and seeds.

    The odds ratio of matched pairs (Agresti 2013, Categorical Data Analysis, section 11.2), 0.5 added to both counts so
    that it exists when one of them is 0 (Haldane 1956). 1: equal; 2: twice as often.

    Parameters
    ----------
    y : int64 array, shape (n,)
    first, second : int64 arrays, shape (n_seeds, n)

    >>> matched_odds(np.array([0, 0, 0]), np.array([[0, 0, 1]]), np.array([[1, 1, 0]]))
    1.6666666666666667
    """
    one, other = first == y, second == y
    return float((np.count_nonzero(one & ~other) + 0.5) / (np.count_nonzero(other & ~one) + 0.5))
