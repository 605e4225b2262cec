"""The rows of one table: what each layer, the nested choice and each baseline said about the same tracks, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.base import Ints
from probes.measures import average_precision, confusion, f1_per_class, tally
from probes.plan import Plan
from probes.results import Comparison, Interval
from probes.significance import compare
from probes.statistics import Samples, bootstrap_units, cluster_bootstrap, cluster_bootstrap_tags

__all__ = ["Table", "tabulate"]

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
    unit : int64 array, shape (n,), or None
        Where tracks cannot be scored together, as each seed tested others, or as each fold's scores of tags have a scale of
        their own, all stand in one row (one seed), and measures are averaged over units: the unit of each track.
    per_seed : int
        Units of each seed.
    """

    y: Ints
    groups: Ints
    values: Array
    n_classes: int
    resamples: int
    unit: Ints | None = None
    per_seed: int = 1

    @cached_property
    def samples(self) -> Samples:
        """Measures of all rows, observed and resampled."""
        tags = self.y.ndim == 2
        options = {"resamples": min(self.resamples, _RESAMPLES_OF_TAGS)} if tags else {"resamples": self.resamples}
        options |= {} if tags else {"n_classes": self.n_classes}
        if self.unit is not None:
            return bootstrap_units(self.y, self.values, self.groups, self.unit, **options)
        bootstrap = cluster_bootstrap_tags if tags else cluster_bootstrap
        return bootstrap(self.y, self.values, self.groups, **options)

    def score(self, row: int) -> dict[str, Any]:
        """Give the fields of a `probes.results.Score`."""
        measures = {name: self.samples.interval(name, row) for name in self.samples}
        by_unit = self.samples.observed[self.samples.main][row].reshape(-1, self.per_seed)
        return {"measures": measures, "by_seed": tuple(np.nanmean(by_unit, axis=1).tolist())}

    def difference(self, first: int, second: int) -> Interval:
        """Give the main measure of one row less that of another."""
        return self.samples.difference(first, second)

    def per_class(self, row: int) -> NDArray[np.float64]:
        """Give F1 of each class, or average precision of each tag, mean over seeds and units, shape (n_classes,)."""
        units = [slice(None)] if self.unit is None else [self.unit == unit for unit in np.unique(self.unit)]
        found = [self._per_class(self.y[mine], self.values[row][:, mine]) for mine in units]
        known = ~np.isnan(found)
        return np.asarray(np.nansum(found, axis=0) / np.maximum(known.sum(0), 1))

    def _per_class(self, y: Ints, values: Array) -> Array:
        if y.ndim == 2:
            return np.asarray(average_precision(y, values).mean(0))
        return np.asarray(f1_per_class(tally(y, values, self.n_classes)).mean(0))

    def class_intervals(self, row: int) -> list[Interval | None]:
        """Give the same with their intervals; None where there can be no honest one."""
        return self.samples.class_intervals(row, self.per_class(row))

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


def tabulate(plan: Plan, values: Array, resamples: int) -> Table:
    """Make the table of a plan's tested tracks from rows of shape (n_rows, n_seeds, n, ...)."""
    tested = plan.folds >= 0
    same = bool((tested == tested[0]).all())  # every seed tests the same tracks
    if same and (plan.n_folds == 1 or not plan.multilabel):
        rows = np.flatnonzero(tested[0])
        chosen, unit, per_seed = values[:, :, rows], None, 1
    else:
        seed, rows = np.nonzero(tested)
        per_seed = plan.n_folds if plan.multilabel else 1
        unit = seed * per_seed + (plan.folds[seed, rows] if plan.multilabel else 0)
        chosen = values[:, seed, rows][:, None]
    groups = np.unique(plan.groups[rows], return_inverse=True)[1]
    return Table(plan.y[rows], groups, chosen, plan.n_classes, resamples, unit, per_seed)
