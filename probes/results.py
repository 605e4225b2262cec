"""What a sweep found: plain frozen values, ready for a table or for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "CurvePoint", "Interval", "LayerResult", "PerTrack", "ProbeReport", "Score", "Study", "plain"]

_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of scores, and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(
        cls, value: float, samples: NDArray[np.float64], *, widen: float = 1.0, least: float = 0.0, most: float = 1.0
    ) -> Interval:
        """Take the interval from bootstrap samples of the score, shape (n_resamples,), within `least`..`most`.

        The samples are moved so that their mean is the score, and spread about it by `widen`: see `probes.statistics`.
        """
        low, high = value + widen * (np.percentile(samples, _PERCENTILES) - samples.mean())
        return cls(float(value), float(max(low, least)), float(min(high, most)))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of the pooled out-of-fold predictions, mean over seeds.

    Attributes
    ----------
    measures : dict of Interval
        By name, the main one first: ``macro_f1``, ``accuracy``, ``balanced_accuracy``; with several tags a track ``map``
        (mean average precision) and ``roc_auc`` (macro).
    by_seed : tuple of float
        The main measure of each seed.
    """

    measures: Mapping[str, Interval]
    by_seed: tuple[float, ...]

    def __getitem__(self, measure: str) -> Interval:
        return self.measures[measure]

    @property
    def main(self) -> Interval:
        """The main measure."""
        return next(iter(self.measures.values()))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(plain(self))


@dataclass(frozen=True, kw_only=True)
class LayerResult(Score):
    """One layer (or mean, concatenation, mix, or the nested choice), its settings chosen inside each training part.

    Attributes
    ----------
    layer : int or str
        Number of the layer, ``"mean"``, ``"concat"`` or ``"mix"``; of the nested choice: the layer chosen most often.
    name : str
    per_class : dict
        F1 of each genre, or average precision of each tag, mean over seeds.
    inner : float or None
        Mean of the main measure inside the training parts, by which layers are chosen; None where there was nothing to
        choose.
    settings : dict
        How often each setting was chosen, most often first.
    layers : dict
        Of the nested choice: how often each layer was chosen.
    weights : dict
        Of a learned mix: mean and standard deviation of each layer's weight over folds and seeds.
    per_class_intervals : dict of Interval
        `per_class` with intervals, from the resamples of the scores; without genres of which these cannot tell, as too few
        groups stand behind them or were ever recognised (`probes.statistics`).
    """

    layer: int | str
    name: str
    per_class: Mapping[str, float]
    inner: float | None = None
    settings: Mapping[str, int]
    layers: Mapping[str, int] | None = None
    weights: Mapping[str, tuple[float, float]] | None = None
    per_class_intervals: Mapping[str, Interval] | None = None


@dataclass(frozen=True, repr=False)
class PerTrack:
    """What `ProbeReport.selected`, or the strictest grouping of an audit, said of each tested track.

    Attributes
    ----------
    keys : tuple of int, shape (n,)
        Track keys.
    genres : tuple of tuple of int, shape (n, at least 1)
        The track's genres, as numbers of those of the report.
    predicted : tuple of tuple of int, shape (n_seeds, n)
        The genre that was named, or the tag that scored highest; -1 where a seed did not test the track.
    """

    keys: tuple[int, ...]
    genres: tuple[tuple[int, ...], ...]
    predicted: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two rows of one table on the same tracks, folds, seeds and resamples.

    Attributes
    ----------
    first, second : str
        What is compared, such as ``"layer 6"``, ``"logistic"`` or the name of an encoder.
    difference : Interval
        Main measure of the first less that of the second.
    p : float
        Of a paired test over groups: how often chance alone gives a difference at least as large.
    p_holm : float
        The same after Holm's correction for all comparisons of its family.
    odds : float or None
        Effect size: how much more often the first is right where only one of the two is (0.5 added to both counts); None with
        several tags a track.
    """

    first: str
    second: str
    difference: Interval
    p: float
    p_holm: float
    odds: float | None = None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Scores at one size of the training part.

    Attributes
    ----------
    size : int
        Training tracks as asked; of few-shot probes: tracks per genre.
    shots : bool
        Whether `size` counts tracks per genre.
    n_train : float
        Mean number of training tracks there were.
    selected : LayerResult
        Layer and setting chosen inside each training part.
    results : tuple of LayerResult
        One per layer.
    """

    size: int
    shots: bool
    n_train: float
    selected: LayerResult
    results: tuple[LayerResult, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """A finished probe.

    Attributes
    ----------
    probe : str
    source : dict
        Encoder, model, store, fingerprint, citation, licence, where known.
    genres : tuple of str
        Classes or tags.
    tracks_per_genre : dict
    n_tracks : int
    excluded : dict
        Tracks and genres that were left out, by reason.
    protocol : dict
        Task (``"single-label"`` or ``"multi-label"``), split, folds, seeds, grouping, inner choice, scaling, bootstrap,
        settings: enough to do it again.
    results : tuple of LayerResult
        One per layer.
    selected : LayerResult
        Layer and setting chosen inside each training part: the score to quote.
    best_layer : int or str
        The layer with the best mean inner score, over all folds and seeds. Every track takes part in that choice, so the
        score of this layer's own row is optimistic; `selected` is the score of choosing, done without the test fold.
    confusion : dict or None
        ``labels`` and ``matrix`` (rows: true genre) of `selected`: counts summed over seeds. None with several tags.
    baselines : dict of Score
        ``majority``, ``shuffled_labels`` (same probe, best layer, training labels permuted), and where such stores were
        given ``mfcc``, ``random_weights``, each chosen and tested in the same way on the same tracks and folds.
    selectivity : Interval or None
        Score of the preferred layer less that of the shuffled labels (Hewitt and Liang 2019, arXiv:1909.03368).
    comparisons : tuple of Comparison
        The preferred layer against each other layer, and the selected score against baselines.
    indistinct : tuple of int or str, or None
        Layers that the tests cannot tell from the preferred one; None where none was tested.
    curve : tuple of CurvePoint
        Learning curve, smaller training parts first; empty if none was asked.
    quality : dict or None
        What is known of the layers without training: ``layers`` (of each layer a dict of measures) and ``cka`` (matrix).
    command : str
        The command line that made it, where known.
    notes : tuple of str
        What a reader must know, in words.
    versions : dict
    tested : PerTrack or None
        Track by track; no part of `to_dict`.
    """

    probe: str
    source: Mapping[str, Any]
    genres: tuple[str, ...]
    tracks_per_genre: Mapping[str, int]
    n_tracks: int
    excluded: Mapping[str, Any]
    protocol: Mapping[str, Any]
    results: tuple[LayerResult, ...]
    selected: LayerResult
    best_layer: int | str
    confusion: Mapping[str, Any] | None
    baselines: Mapping[str, Score]
    selectivity: Interval | None = None
    comparisons: tuple[Comparison, ...] = ()
    indistinct: tuple[int | str, ...] | None = None
    curve: tuple[CurvePoint, ...] = ()
    quality: Mapping[str, Any] | None = None
    command: str = ""
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    tested: PerTrack | None = field(default=None, compare=False, metadata={"untold": True})

    @property
    def measure(self) -> str:
        """Name of the main measure."""
        return next(iter(self.selected.measures))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(plain(self))

    def __repr__(self) -> str:
        return (
            f"ProbeReport({self.probe}, {len(self.results)} layers, {self.n_tracks} tracks, {len(self.genres)} genres, "
            f"{self.measure} {self.selected.main})"
        )


@dataclass(frozen=True, kw_only=True)
class Study:
    """Several probes or encoders on the same tracks, folds and seeds.

    Attributes
    ----------
    reports : tuple of ProbeReport
        One for each encoder and probe.
    comparisons : tuple of Comparison
        What they chose (`ProbeReport.selected`) against each other, in pairs.
    """

    reports: tuple[ProbeReport, ...]
    comparisons: tuple[Comparison, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(plain(self))


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into what JSON has; leaves out optional fields that are not there, or untold."""
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value) if "untold" not in field.metadata}
        # the layer comes first and each measure stands by its name, for people who read the file
        first = {name: named.pop(name) for name in ("layer", "name") if name in named}
        named = first | dict(named.pop("measures", {})) | named
        return {name: plain(item) for name, item in named.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(
        value
    ):  # JSON has none: the whole report would fail for one number
        return None
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value
