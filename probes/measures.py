"""Scores of a classification, from counts: hits, support and predictions of each class.

Conventions. Every measure works along the last axis (classes) and broadcasts over the others, so that one call scores
all layers, seeds and bootstrap resamples. A class that was neither true nor predicted has F1 0, as in scikit-learn with
``zero_division=0``; `macro_f1` then averages over all classes, or with ``absent="skip"`` over those with support.
Balanced accuracy is the mean recall over the classes with support, as in scikit-learn.
Macro-F1 is the mean of the classes' F1, not the F1 of mean precision and recall (Opitz and Burst 2019, arXiv:1911.03347).

With several tags a track, each tag ranks the tracks by its score. Tracks with equal scores share a place: they enter the
precision of `average_precision` together, and count half in `roc_auc` (Hanley and McNeil 1982, Radiology 143:29), both as
in scikit-learn. A tag that no track has, or that all have, cannot be ranked: its measures are nan, and `mean_over_tags`
leaves it out; ``rankable(y).sum()`` tells over how many tags the mean goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Tallies",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "confusion",
    "f1_per_class",
    "macro_f1",
    "mean_over_tags",
    "rankable",
    "roc_auc",
    "tally",
]

Ints = NDArray[np.int64]
Array = NDArray[Any]


@dataclass(frozen=True, repr=False)
class Tallies:
    """Counts of each class along the last axis, shape (..., n_classes); whole numbers of any dtype.

    Attributes
    ----------
    hits : rows of the class that were predicted as the class.
    support : rows of the class.
    predicted : rows predicted as the class.
    """

    hits: Array
    support: Array
    predicted: Array


def tally(y_true: Ints, y_pred: Ints, n_classes: int) -> Tallies:
    """Count hits, support and predictions of each class.

    Parameters
    ----------
    y_true : int64 array, shape (n,)
    y_pred : int64 array, shape (..., n)
        Class numbers 0..n_classes - 1.
    """
    predicted = _count(y_pred, n_classes)
    # a miss is counted in a class of its own, which is dropped
    hits = _count(np.where(y_pred == y_true, y_true, n_classes), n_classes + 1)[..., :n_classes]
    return Tallies(hits, np.bincount(y_true, minlength=n_classes), predicted)


def _count(values: Ints, n: int) -> Ints:
    flat = values.reshape(-1, values.shape[-1])
    index = flat + n * np.arange(len(flat))[:, None]
    return np.bincount(index.ravel(), minlength=n * len(flat)).reshape(*values.shape[:-1], n)


def confusion(y_true: Ints, y_pred: Ints, n_classes: int) -> Ints:
    """Count rows by true (first axis) and predicted class (second axis).

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    return np.bincount(y_true * n_classes + y_pred, minlength=n_classes**2).reshape(n_classes, n_classes)


def f1_per_class(t: Tallies) -> Array:
    """F1 of each class, shape (..., n_classes): 2 hits / (support + predicted), 0 where that is 0 / 0."""
    rows = t.support + t.predicted
    return np.asarray(2 * t.hits / np.maximum(rows, 1))


def macro_f1(t: Tallies, *, absent: Literal["zero", "skip"] = "zero") -> Array:
    """Mean F1 over classes.

    Parameters
    ----------
    t : Tallies
    absent : {"zero", "skip"}
        A class without support counts as 0, or is left out of the mean.

    >>> macro_f1(tally(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)).round(3)
    np.float64(0.444)
    """
    if absent == "zero":
        return np.asarray(f1_per_class(t).mean(-1))[()]
    return _mean_over_present(f1_per_class(t), t.support)


def accuracy(t: Tallies) -> Array:
    """Share of rows predicted as their class."""
    return np.asarray(t.hits.sum(-1) / np.maximum(t.support.sum(-1), 1))[()]


def balanced_accuracy(t: Tallies) -> Array:
    """Mean recall over the classes with support."""
    return _mean_over_present(t.hits / np.maximum(t.support, 1), t.support)


def _mean_over_present(values: Array, support: Array) -> Array:
    present = support > 0
    return np.asarray((values * present).sum(-1) / np.maximum(present.sum(-1), 1))[()]


def rankable(y: Ints) -> NDArray[np.bool_]:
    """Tell which tags some tracks of `y`, shape (n, n_tags), have and some have not."""
    return np.asarray((y.min(0) == 0) & (y.max(0) == 1))


def mean_over_tags(values: Array) -> Array:
    """Average the last axis without its nan: mAP of average precisions, macro ROC-AUC of areas; nan if nothing is left."""
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0).sum(-1) / np.where(known.any(-1), known.sum(-1), np.nan))[()]


def average_precision(y: Ints, scores: Array) -> Array:
    """Mean over a tag's tracks of the precision among all tracks that score no lower.

    Parameters
    ----------
    y : int64 array, shape (n, n_tags)
        1 where a track has a tag, else 0.
    scores : float array, shape (..., n, n_tags)
        Higher is likelier.

    Returns
    -------
    float64 array, shape (..., n_tags)
        As `sklearn.metrics.average_precision_score`; nan for tags that are not `rankable`.

    >>> average_precision(np.array([[1], [0], [1]]), np.array([[0.9], [0.5], [0.1]])).round(3)
    array([0.833])
    """
    hits, _, last = _ranked(y, scores)
    precision = np.take_along_axis(hits.cumsum(-1), last, -1) / (last + 1)
    found = hits.sum(-1)
    return np.where(rankable(y), (hits * precision).sum(-1) / np.maximum(found, 1), np.nan)


def roc_auc(y: Ints, scores: Array) -> Array:
    """Chance that a track with the tag scores higher than one without, equal scores counted half.

    Shapes as in `average_precision`; equals `sklearn.metrics.roc_auc_score`.

    >>> roc_auc(np.array([[1], [0], [1]]), np.array([[0.9], [0.5], [0.1]]))
    array([0.5])
    """
    hits, first, last = _ranked(y, scores)
    found = hits.sum(-1)
    above = (hits * (first + last)).sum(-1) / 2 - found * (found - 1) / 2  # tracks without the tag that come before
    return np.where(rankable(y), 1 - above / np.maximum(found * (len(y) - found), 1), np.nan)


def _ranked(y: Ints, scores: Array) -> tuple[Ints, Ints, Ints]:
    """Sort each tag's tracks, highest score first: whether they have it, first and last place of the equals of each."""
    columns = np.ascontiguousarray(scores.swapaxes(-1, -2))
    order = np.argsort(-columns, axis=-1)
    columns = np.take_along_axis(columns, order, -1)
    places = np.arange(len(y))
    differs = columns[..., 1:] != columns[..., :-1]
    edge = np.ones((*columns.shape[:-1], 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, differs], -1), places, 0), axis=-1)
    last = np.where(np.concatenate([differs, edge], -1), places, len(y))
    last = np.minimum.accumulate(last[..., ::-1], axis=-1)[..., ::-1]
    return np.take_along_axis(np.broadcast_to(y.T, order.shape), order, -1), first, last
