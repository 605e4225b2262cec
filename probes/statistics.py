"""Intervals: a bootstrap that draws whole groups (artists), not rows.

Two tracks of an artist are not two independent witnesses, so a resample draws groups with replacement, as many as there
are, and scores the pooled out-of-fold predictions of the rows that came with them (Field and Welsh 2007, J. R. Stat. Soc.
B 69:369). Every row, layer and seed sees the same resamples, so that differences between layers are paired.

A resample is a vector of counts over groups; a score needs only sums over groups of each class's hits, support and
predictions: ten thousand resamples of all layers are one matrix product. Rankings (several tags a track) need the tracks
in front of each track that has the tag: again sums over groups, from one sort for all resamples.

A class that a resample happens to miss is left out of that resample's mean; counting it as 0 pulls the scores down where
classes have few groups. Even so F1 is biased down in resamples (and average precision up), and few groups a class vary
too little. So the samples are moved to have the score as their mean (Efron and Tibshirani 1993, section 10.6) and spread
about it, by the usual correction of a variance that was estimated within strata: see `widening` and `widening_of_tags`.
In simulations of artists who differ in how well they are recognised (tests/probes/test_simulated.py) plain percentiles
held the expected macro-F1 in 89 to 94 of 100 cases, these intervals in 94 to 96 (4 to 20 genres of 4 to 20 artists; 97
where some genres have 3 artists and others 60), and the expected mAP in 94 to 96 (40 or 100 artists, 5 or 10 tags).

The first 2,000 resamples also give the interval of each class by itself, spread by the groups behind that class alone and
by Student's t for their number. Of a class that is never recognised, or always, they can tell nothing: all agree, however few
groups it has. So there is an interval only where at least 5 groups stand behind the class, as they weigh, and no 8 % of the
resamples share the lowest or the highest score: 0 is the score of nearly 5 % if the class was recognised in 3 groups only, of
13 % if in 2, however many it has. In simulations with a genre of recall 0.15, or all of 0.97 to 0.99, such intervals held the
expected F1 of a genre in 91 to 100 of 100 cases (4 genres of 6 to 40 artists; the lowest: the hard genre, 20 artists with
most tracks by few), and the expected average precision of tags in 94 to 98. With 12 artists the hard genre had one in 9 of
10 cases, the easy ones in 3 to 5. Plain ones, without the conditions and Student's t, held the hard genre in 76 to 87 with 3
to 6 artists, often with no width at all.

The interval tells how the score would move with other tracks and artists to test on; it does not include another draw of
the training set, nor of the seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from probes.measures import (
    Ints,
    Tallies,
    accuracy,
    balanced_accuracy,
    f1_per_class,
    macro_f1,
    mean_over_tags,
    rankable,
    tally,
)
from probes.results import Interval
from probes.splits import groups_per_class

__all__ = [
    "Samples",
    "blocks",
    "bootstrap_units",
    "cluster_bootstrap",
    "cluster_bootstrap_tags",
    "group_tallies",
    "resample_counts",
    "widening",
    "widening_of_tags",
]

Array = NDArray[Any]
Floats = NDArray[np.float64]
_MEASURES = {"macro_f1": macro_f1, "accuracy": accuracy, "balanced_accuracy": balanced_accuracy}
_CELLS = 2**22  # numbers in one block of resamples
_OF_CLASSES = 2000  # resamples kept of each class: hundreds of classes are a lot of numbers
_FEWEST = 5  # groups behind a class with an interval of its own
_AT_ONE_END = 0.08  # share of its resamples that may be all wrong, or all right: between exp(-3) and exp(-2)


@dataclass(frozen=True, repr=False, eq=False)
class Samples:
    """Scores of every row, as observed and in each resample; ``samples["macro_f1"]`` are the resampled ones.

    Attributes
    ----------
    resampled : dict of float64 arrays, each shape (n_resamples, n_rows)
        By measure, the main one first; mean over seeds.
    observed : dict of float64 arrays, each shape (n_rows, n_seeds)
    widen : float
        Factor by which intervals are spread.
    by_class : float32 array, shape (up to 2,000, n_rows, n_classes)
        F1 of each class, or average precision of each tag, in the first resamples, mean over seeds; nan where a resample
        has none of it.
    widen_class : float64 array, shape (n_classes,)
        The factors of these; nan where too few groups stand behind a class for an interval.
    """

    resampled: Mapping[str, Floats]
    observed: Mapping[str, Floats]
    widen: float
    by_class: NDArray[np.float32]
    widen_class: Floats

    def __getitem__(self, measure: str) -> Floats:
        return self.resampled[measure]

    def __iter__(self) -> Iterator[str]:
        return iter(self.resampled)

    def __len__(self) -> int:
        """Count the resamples."""
        return len(self[self.main])

    @property
    def main(self) -> str:
        """Name of the main measure."""
        return next(iter(self))

    def interval(self, measure: str, row: int) -> Interval:
        """Give a row's score, mean over seeds, with its interval."""
        return Interval.of(np.nanmean(self.observed[measure][row]), self[measure][:, row], widen=self.widen)

    def class_intervals(self, row: int, scores: Floats) -> list[Interval | None]:
        """Give each class's score, shape (n_classes,), with its interval; None where there can be no honest one."""
        found: list[Interval | None] = []
        for value, moved, widen in zip(scores.tolist(), self.by_class[:, row].T, self.widen_class, strict=True):
            known = moved[~np.isnan(moved)]
            ends = [known.min(), known.max()] if known.size and np.isfinite(widen) else []
            told = ends and max(np.mean(known == end) for end in ends) < _AT_ONE_END
            found.append(Interval.of(value, known, widen=widen) if told else None)
        return found

    def difference(self, first: int, second: int) -> Interval:
        """Give the main measure of one row less that of another, with the interval of the paired resamples."""
        scores, samples = np.nanmean(self.observed[self.main], axis=1), self[self.main]
        moved = samples[:, first] - samples[:, second]
        return Interval.of(scores[first] - scores[second], moved, widen=self.widen, least=-1.0)


def widening(n_groups: int, n_classes: int) -> float:
    """Give the factor by which an interval over few groups must be spread: sqrt(G / (G - K)).

    G groups, counted once in each of their classes, K classes.

    >>> round(widening(30, 10), 3)
    1.225
    """
    return float(np.sqrt(n_groups / max(n_groups - n_classes, 1)))


def widening_of_tags(y: Ints, groups: Ints) -> float:
    """Give the same for a mean over tags, some of which may be rare.

    A tag's variance is taken to go with 1 / g and to come out too small by (g - 1) / g, where g is the number of groups
    behind its tracks, as they weigh: (sum of m)^2 / sum of m^2 for groups of m tracks (Kish 1965). One group alone shows
    no variance; it counts as one and a half.

    >>> round(widening_of_tags(np.eye(5, dtype=np.int64)[np.arange(20) % 5], np.arange(20)), 3)
    1.155
    """
    g = _groups_behind(y[:, y.any(0)], groups)
    return float(np.sqrt((1 / g).sum() / ((g - 1) / g**2).sum()))


def _groups_behind(y: Ints, groups: Ints) -> Floats:
    """Count the groups behind each tag, as they weigh, shape (n_tags,); at least one and a half."""
    sizes = np.zeros((int(groups.max()) + 1, y.shape[1]))
    np.add.at(sizes, groups, y)
    return np.asarray(np.maximum(sizes.sum(0) ** 2 / np.maximum((sizes**2).sum(0), 1), 1.5))


def _widening_of_each(y: Ints, groups: Ints) -> Floats:
    """Give the factor of each tag by itself, shape (n_tags,); nan where too few groups stand behind it."""
    from scipy.special import stdtrit

    g = _groups_behind(y, groups)
    student = stdtrit(g - 1, 0.975) / stdtrit(np.inf, 0.975)
    return np.asarray(np.where(g >= _FEWEST, np.sqrt(g / (g - 1)) * student, np.nan))


def resample_counts(n_groups: int, resamples: int, rng: np.random.Generator) -> Ints:
    """Draw `n_groups` groups with replacement, `resamples` times: counts of shape (resamples, n_groups)."""
    drawn = rng.integers(n_groups, size=(resamples, n_groups)) + n_groups * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n_groups).reshape(resamples, n_groups)


def blocks(total: int, width: int) -> Iterator[int]:
    """Divide `total` resamples, each of `width` numbers, into blocks of about 16 MB: yields their sizes."""
    size = max(_CELLS // width, 1)
    for start in range(0, total, size):
        yield min(size, total - start)


def group_tallies(y: Ints, predictions: Ints, groups: Ints, n_classes: int, n_groups: int = 0) -> tuple[Array, Array]:
    """Count by group and class.

    Returns
    -------
    support : float32 array, shape (n_groups, n_classes)
    answered : float32 array, shape (n_groups, 2, n_rows, n_seeds, n_classes)
        Hits, then predictions. Whole numbers: float32 holds them exactly up to 16.7 million, and its products are fast.
    """
    n_groups = max(n_groups, int(groups.max()) + 1)
    cell = groups * n_classes

    def count(classes: Ints, weights: Array | None = None) -> Array:
        counts = np.bincount(cell + classes, weights=weights, minlength=n_groups * n_classes)
        return counts.reshape(n_groups, n_classes).astype(np.float32)

    flat = predictions.reshape(-1, len(y))
    answered = np.stack([*(count(y, p == y) for p in flat), *(count(p) for p in flat)], axis=1)
    return count(y), answered.reshape(n_groups, 2, *predictions.shape[:-1], n_classes)


def cluster_bootstrap(
    y: Ints,
    predictions: Ints,
    groups: Ints,
    *,
    n_classes: int,
    resamples: int = 10_000,
    seed: int = 0,
    n_groups: int = 0,
) -> Samples:
    """Score resamples of groups, for every row at once: macro-F1, accuracy and balanced accuracy.

    Parameters
    ----------
    y : int64 array, shape (n,)
        True class numbers.
    predictions : int64 array, shape (n_rows, n_seeds, n)
        Predicted class numbers; a row is a layer, a baseline, ...
    groups : int64 array, shape (n,)
        Group of each track; numbers without gaps from 0.
    n_classes, resamples, seed : int
    n_groups : int
        Groups to draw from, where some have no track here; 0: those that `groups` shows.

    Notes
    -----
    Memory: 8 n_groups n_rows n_seeds n_classes bytes for the counts; resamples pass in blocks of about 16 MB.
    """
    n_rows, n_seeds, _ = predictions.shape
    support, answered = group_tallies(y, predictions, groups, n_classes, n_groups)
    table = np.concatenate([support, answered.reshape(len(support), -1)], axis=1)
    rng = np.random.default_rng([seed, 0xB007])
    scores: dict[str, list[Array]] = {name: [] for name in _MEASURES}
    by_class = np.full((min(resamples, _OF_CLASSES), n_rows, n_classes), np.nan, dtype=np.float32)
    done = 0
    for size in blocks(resamples, max(table.shape)):
        counts = resample_counts(len(table), size, rng)
        sums = (counts.astype(np.float32) @ table).astype(np.float64)
        hits, predicted = sums[:, n_classes:].reshape(size, 2, n_rows, n_seeds, n_classes).swapaxes(0, 1)
        tallies = Tallies(hits, sums[:, None, None, :n_classes], predicted)
        for name, measure in _MEASURES.items():
            values = macro_f1(tallies, absent="skip") if name == "macro_f1" else measure(tallies)
            scores[name].append(values.mean(-1))  # mean over seeds
        first = slice(0, max(len(by_class) - done, 0))
        each = f1_per_class(Tallies(tallies.hits[first], tallies.support[first], tallies.predicted[first]))
        by_class[done : done + size] = np.where(tallies.support[first, 0] > 0, each.mean(2), np.nan)
        done += size
    whole = tally(y, predictions, n_classes)
    observed = {name: np.asarray(measure(whole)) for name, measure in _MEASURES.items()}
    counted = groups_per_class(y, groups)
    widen = widening(int(counted.sum()), int(np.count_nonzero(counted)))
    resampled = {name: np.concatenate(parts) for name, parts in scores.items()}
    return Samples(resampled, observed, widen, by_class, _widening_of_each(np.eye(n_classes, dtype=int)[y], groups))


def cluster_bootstrap_tags(
    y: Ints, scores: Array, groups: Ints, *, resamples: int = 1000, seed: int = 0, n_groups: int = 0
) -> Samples:
    """Rank resamples of groups, for every row and tag: mean average precision and macro ROC-AUC.

    Parameters
    ----------
    y : int64 array, shape (n, n_tags)
        1 where a track has a tag, else 0.
    scores : float array, shape (n_rows, n_seeds, n, n_tags)
        Higher is likelier. Equal scores share a place, as in `probes.measures.average_precision`.
    groups, resamples, seed, n_groups
        As in `cluster_bootstrap`.

    Raises
    ------
    ParameterError
        No tag has both tracks with it and tracks without.

    Notes
    -----
    Time grows with rows x seeds x tags x tracks x resamples, about 1 ns for each on one core: 1,000 resamples of 13 rows
    of 10,000 tracks and 87 tags take some 10 s a seed. 1,000 are enough for intervals; take 10,000 for smaller tasks.
    Memory: resamples pass in blocks of at most about 100 MB.
    """
    n_rows, n_seeds, n, _ = scores.shape
    tags = np.flatnonzero(rankable(y))
    if not len(tags):
        raise ParameterError(f"none of {y.shape[1]} tags has both tracks with it and tracks without: nothing to rank")
    sizes = np.bincount(groups, minlength=n_groups)
    rng = np.random.default_rng([seed, 0xB007])
    found, by_class, done = [], np.full((min(resamples, _OF_CLASSES), n_rows, y.shape[1]), np.nan, dtype=np.float32), 0
    for size in blocks(resamples, 2 * n):
        # the first column is the sample as observed, each group once
        counts = np.concatenate([np.ones((1, len(sizes))), resample_counts(len(sizes), size, rng)])
        counts = np.ascontiguousarray(counts.T, dtype=np.float32)
        tracks = sizes @ counts
        part = np.empty((2, size + 1, n_rows, n_seeds))
        each = np.zeros((max(min(size, len(by_class) - done), 0), n_rows, len(tags)))
        for row, of_seed in np.ndindex(n_rows, n_seeds):
            ranked = np.stack(
                [_rank(y[:, tag], scores[row, of_seed, :, tag], groups, counts, tracks) for tag in tags], -1
            )
            part[:, :, row, of_seed] = mean_over_tags(ranked)
            each[:, row] += ranked[0, 1 : len(each) + 1] / n_seeds
        by_class[done : done + len(each), :, tags] = each
        done += size
        found.append(part)
    resampled = np.concatenate([part[:, 1:] for part in found], axis=1).mean(-1)
    names = ("map", "roc_auc")
    return Samples(
        dict(zip(names, resampled, strict=True)),
        dict(zip(names, found[0][:, 0], strict=True)),
        widening_of_tags(y[:, tags], groups),
        by_class,
        _widening_of_each(y, groups),
    )


def bootstrap_units(y: Ints, values: Array, groups: Ints, unit: Ints, **options: Any) -> Samples:
    """Average the measures of units that cannot be pooled, all resampled alike.

    Such are repeats that test other tracks, and folds whose scores have other scales and so cannot be ranked together.

    Parameters
    ----------
    y, values, groups
        As of `cluster_bootstrap`, or with several tags a track of `cluster_bootstrap_tags`; one seed.
    unit : int64 array, shape (n,)
        Unit of each track; one without a tag to rank is left out.
    **options
        Of these functions.

    Returns
    -------
    Samples
        ``observed`` has a column for each unit in place of each seed, in rising order; nan for one left out.
    """
    tags, n_groups = y.ndim == 2, int(groups.max()) + 1
    bootstrap = cluster_bootstrap_tags if tags else cluster_bootstrap
    masks = [unit == number for number in np.unique(unit)]
    parts = {
        number: bootstrap(y[mine], values[:, :, mine], groups[mine], n_groups=n_groups, **options)
        for number, mine in enumerate(masks)
        if not tags or rankable(y[mine]).any()
    }
    if not parts:
        raise ParameterError(f"none of {y.shape[1]} tags has both tracks with it and tracks without: nothing to rank")
    first = next(iter(parts.values()))
    observed = {name: np.full((values.shape[0], len(masks)), np.nan) for name in first}
    for number, part in parts.items():
        for name, scores in observed.items():
            scores[:, number] = part.observed[name][:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample without any track of some unit
        resampled = {name: np.nanmean([part[name] for part in parts.values()], axis=0) for name in first}
        by_class = np.nanmean([part.by_class for part in parts.values()], axis=0)
    counted = groups_per_class(y, groups)
    widen = (
        widening_of_tags(y[:, rankable(y)], groups)
        if tags
        else widening(int(counted.sum()), int(np.count_nonzero(counted)))
    )
    each = y if tags else np.eye(by_class.shape[-1], dtype=int)[y]
    return Samples(resampled, observed, widen, by_class, _widening_of_each(each, groups))


def _rank(y: Ints, scores: Array, groups: Ints, counts: Array, tracks: Array) -> Floats:
    """Give average precision and ROC-AUC of one tag, shape (2, n), where groups count as in `counts`, (n_groups, n).

    `tracks`, shape (n,), are all tracks there are then.

    Only the places of tracks with the tag matter: equals among which there is one form a bin, and so do all tracks
    between two such bins. What is in each bin is a sparse product, the same for all resamples.
    """
    from scipy.sparse import csr_array

    order = np.argsort(-scores)
    sorted_scores, hit, group = scores[order], y[order] == 1, groups[order]
    equals = np.cumsum(np.diff(sorted_scores, prepend=sorted_scores[0]) != 0)
    has_hit = np.zeros(equals[-1] + 1, dtype=np.int64)
    has_hit[equals[hit]] = 1
    bins = 2 * (np.cumsum(has_hit) - has_hit)[equals] + has_hit[equals]
    n_bins = 2 * has_hit.sum()

    def in_bins(chosen: Array, number: Ints, size: int) -> Array:
        starts = np.searchsorted(number[chosen], np.arange(size + 1))
        ones = np.ones(starts[-1], dtype=np.float32)
        return np.asarray(csr_array((ones, group[chosen][: starts[-1]], starts), shape=(size, len(counts))) @ counts)

    hits = in_bins(hit, bins // 2, n_bins // 2).astype(np.float64)
    through = np.cumsum(in_bins(np.ones_like(hit), bins, n_bins), axis=0, dtype=np.float64)
    before, through = through[::2], through[1::2]
    found = np.cumsum(hits, axis=0)
    total = found[-1]
    others = tracks - total
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = (hits * found / np.maximum(through, 1)).sum(0) / total
        # tracks without the tag that come before, half of those that share the place
        ahead = (hits * (before + through - 2 * found + hits)).sum(0) / 2
        area = 1 - ahead / (total * others)
    return np.asarray(np.where((total > 0) & (others > 0), [precision, area], np.nan))
