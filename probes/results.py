"""What a sweep found: plain frozen values, ready for a table or for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "LayerResult", "ProbeReport", "Score"]

_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A score within 0..1 and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: NDArray[np.float64], *, widen: float = 1.0) -> Interval:
        """Take the interval from bootstrap samples of the score, shape (n_resamples,).

        The samples are moved so that their mean is the score, and spread about it by `widen`: see `probes.statistics`.
        """
        low, high = value + widen * (np.percentile(samples, _PERCENTILES) - samples.mean())
        return cls(float(value), float(max(low, 0.0)), float(min(high, 1.0)))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of the pooled out-of-fold predictions, mean over seeds.

    Attributes
    ----------
    macro_f1, accuracy, balanced_accuracy : Interval
    by_seed : tuple of float
        Macro-F1 of each seed.
    """

    macro_f1: Interval
    accuracy: Interval
    balanced_accuracy: Interval
    by_seed: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(_plain(self))


@dataclass(frozen=True, kw_only=True)
class LayerResult(Score):
    """One layer (or mean, mix, or the nested choice), its settings chosen inside each training part.

    Attributes
    ----------
    layer : int or str
        Number of the layer, ``"mean"`` or ``"mix"``; of the nested choice: the layer chosen most often.
    name : str
    per_class : dict
        F1 of each genre, mean over seeds.
    inner_f1 : float or None
        Mean macro-F1 inside the training parts, by which layers are chosen; None where there was nothing to choose.
    settings : dict
        How often each setting was chosen, most often first.
    layers : dict
        Of the nested choice: how often each layer was chosen.
    weights : dict
        Of a learned mix: mean and standard deviation of each layer's weight over folds and seeds.
    """

    layer: int | str
    name: str
    per_class: Mapping[str, float]
    inner_f1: float | None = None
    settings: Mapping[str, int]
    layers: Mapping[str, int] | None = None
    weights: Mapping[str, tuple[float, float]] | None = None


@dataclass(frozen=True)
class ProbeReport:
    """A finished probe.

    Attributes
    ----------
    probe : str
    source : dict
        Encoder and store, where known.
    genres : tuple of str
    tracks_per_genre : dict
    n_tracks : int
    excluded : dict
        Tracks and genres that were left out, by reason.
    protocol : dict
        Folds, seeds, grouping, inner choice, scaling, bootstrap, settings: enough to do it again.
    results : tuple of LayerResult
        One per layer.
    selected : LayerResult
        Layer and setting chosen inside each training part: the score to quote.
    best_layer : int or str
        The layer with the best mean inner score, over all folds and seeds. Every track takes part in that choice, so the
        score of this layer's own row is optimistic; `selected` is the score of choosing, done without the test fold.
    confusion : dict
        ``labels`` and ``matrix`` (rows: true genre) of `selected`: counts summed over seeds.
    baselines : dict of Score
        ``majority`` and ``shuffled_labels`` (same probe, best layer, training labels permuted).
    notes : tuple of str
        What a reader must know, in words.
    versions : dict
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
    confusion: Mapping[str, Any]
    baselines: Mapping[str, Score]
    notes: tuple[str, ...]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(_plain(self))

    def __repr__(self) -> str:
        return (
            f"ProbeReport({self.probe}, {len(self.results)} layers, {self.n_tracks} tracks, {len(self.genres)} genres, "
            f"macro-F1 {self.selected.macro_f1})"
        )


def _plain(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into what JSON has; leaves out optional fields that are not there."""
    if isinstance(value, (Score, Interval, ProbeReport)):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        # the layer comes first, for people who read the file
        order = sorted(named, key=lambda name: name not in ("layer", "name"))
        return {name: _plain(named[name]) for name in order if named[name] is not None}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
