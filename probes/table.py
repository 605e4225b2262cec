"""The rows of one table: what each layer, the nested choice and each baseline said about the same tracks, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.base import Ints
from probes.measures import average_precision, confusion, f1_per_class, macro_f1, mean_over_tags, tally
from probes.plan import Plan
from probes.results import Comparison, Interval
from probes.significance import compare
from probes.statistics import Samples, cluster_bootstrap, cluster_bootstrap_tags

__all__ = ["Table", "said", "tabulate"]

Array = NDArray[Any]
_RESAMPLES_OF_TAGS = 1000  # a ranking of thousands of tracks costs more than a count


@dataclass(frozen=True, repr=False, eq=False)
class Table:
    """Rows on the same tracks.

    Attributes
    ----------
    y : int64 array, shape (n,) or (n, n_classes)
        Truth.
    groups : int64 array, shape (n,)
        Without gaps from 0.
    values : array, shape (n_rows, n_seeds, n), or (n_rows, n_seeds, n, n_classes)
        Class numbers; with several tags a track: scores, higher is likelier.
    n_classes, resamples : int
    seed : int64 array, shape (n,), or None
        Where each seed tested other tracks, all stand in one row: whose each is.
    """

    y: Ints
    groups: Ints
    values: Array
    n_classes: int
    resamples: int
    seed: Ints | None = None

    @cached_property
    def samples(self) -> Samples:
        """Measures of all rows, observed and resampled."""
        if self.y.ndim == 2:
            fewer = min(self.resamples, _RESAMPLES_OF_TAGS)
            return cluster_bootstrap_tags(self.y, self.values, self.groups, resamples=fewer)
        return cluster_bootstrap(self.y, self.values, self.groups, n_classes=self.n_classes, resamples=self.resamples)

    def score(self, row: int) -> dict[str, Any]:
        """Give the fields of a `probes.results.Score`."""
        measures = {name: self.samples.interval(name, row) for name in self.samples}
        return {"measures": measures, "by_seed": tuple(self._by_seed(row).tolist())}

    def _by_seed(self, row: int) -> Array:
        if self.seed is None:
            return np.asarray(self.samples.observed[self.samples.main][row])
        parts = [self.seed == seed for seed in np.unique(self.seed)]
        return np.concatenate([self._main(self.y[mine], self.values[row][:, mine]) for mine in parts])

    def _main(self, y: Ints, values: Array) -> Array:
        if y.ndim == 2:
            return np.asarray(mean_over_tags(average_precision(y, values)))
        return np.asarray(macro_f1(tally(y, values, self.n_classes)))

    def difference(self, first: int, second: int) -> Interval:
        """Give the main measure of one row less that of another."""
        return self.samples.difference(first, second)

    def per_class(self, row: int) -> NDArray[np.float64]:
        """Give F1 of each class, or average precision of each tag, mean over seeds, shape (n_classes,)."""
        if self.y.ndim == 2:
            return np.asarray(np.nan_to_num(average_precision(self.y, self.values[row])).mean(0))
        return np.asarray(f1_per_class(tally(self.y, self.values[row], self.n_classes)).mean(0))

    def confusion(self, row: int) -> Ints:
        """Count tracks by true and predicted class, all seeds together."""
        return np.asarray(sum(confusion(self.y, one_seed, self.n_classes) for one_seed in self.values[row]))

    def compare(self, pairs: Sequence[tuple[int, int]], names: Sequence[str]) -> tuple[Comparison, ...]:
        """Compare rows in pairs, one family of tests; `names` are those of all rows."""
        if not pairs:
            return ()
        predictions = None if self.y.ndim == 2 else self.values
        return compare(
            names,
            pairs,
            self.samples,
            y=self.y,
            predictions=predictions,
            groups=self.groups,
            resamples=self.resamples,
        )


def said(predictions: Ints, scores: Array, *, multilabel: bool) -> Array:
    """Take what a table is made of: class numbers, or scores where a track may have several tags."""
    return scores if multilabel else predictions


def tabulate(plan: Plan, values: Array, resamples: int) -> Table:
    """Make the table of a plan's tested tracks from rows of shape (n_rows, n_seeds, n, ...)."""
    tested = plan.folds >= 0
    same = bool((tested == tested[0]).all())  # every seed tests the same tracks
    seed, rows = (None, np.flatnonzero(tested[0])) if same else np.nonzero(tested)
    chosen = values[:, :, rows] if seed is None else values[:, seed, rows][:, None]
    groups = np.unique(plan.groups[rows], return_inverse=True)[1]
    return Table(plan.y[rows], groups, chosen, plan.n_classes, resamples, seed)
