"""What a layer is worth before anything is trained on it, and how alike layers are.

A linear model of standardised rows X (n, d) is known from the eigenvalues s of X'X and the shares P = U'Y of the classes
along its left singular vectors U, whatever is asked of it: one decomposition, of the smaller of X'X and XX', serves
LogME and the H-score of all classes. All measures take rows as independent, and none holds an artist out: a layer that
knows the artists looks better here than in a grouped probe. They rank layers; they are not scores to quote.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from probes.base import Ints, Matrix, indicators
from probes.layers import Feature
from probes.linear import Axes
from probes.results import plain
from probes.scaling import Scale

__all__ = ["cka", "fisher_ratio", "h_score", "intrinsic_dimension", "layer_quality", "logme", "screen", "silhouette"]

_MOST_ROWS = 2000  # of measures that compare each row with each other
_BLOCK = 256


@dataclass(frozen=True, repr=False, eq=False)
class _Spectrum:
    """Standardised rows seen from their principal axes.

    Attributes
    ----------
    variance : float64 array, shape (rank,)
        Eigenvalues of X'X.
    shares : float64 array, shape (rank, n_classes)
        Products of the left singular vectors with the centred indicators of the classes.
    rest : float64 array, shape (n_classes,)
        Sum of squares of the indicators that no direction of X reaches.
    """

    variance: Matrix
    shares: Matrix
    rest: Matrix

    @classmethod
    def of(cls, x: Matrix, y: Ints) -> _Spectrum:
        given, axes = _given(y), Axes.of(x)
        centred = given - given.mean(0)
        shares = axes.along(centred) / np.sqrt(axes.squares)[:, None]
        return cls(axes.squares, shares, ((centred**2).sum(0) - (shares**2).sum(0)).clip(min=0))


def _given(y: Ints) -> Matrix:
    """Write classes or tags as columns of 0 and 1, those that all or no rows have left out."""
    given = indicators(y, np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y))
    given = given[:, given.any(0) & ~given.all(0)]
    if not given.size:
        raise ParameterError(f"layers are told apart by at least 2 genres; all {len(y)} tracks are of one")
    return given


def logme(x: Matrix, y: Ints) -> float:
    """Measure how well a Bayesian linear model explains the classes: log evidence per track, mean over classes or tags.

    The evidence is that of You et al. 2021 (arXiv:2102.11005), with a free intercept for each class, as rows are centred:
    n - 1 numbers are left to explain. With the noise at its optimum it depends on one number, the ratio of prior precision
    to noise precision, and is maximised over that by a grid that narrows, where fixed-point iterations may stall.

    Parameters
    ----------
    x : float64 array, shape (n, dim)
        Standardised.
    y : int64 array, shape (n,) or (n, n_tags)
    """
    return _logme(_Spectrum.of(x, y), len(x))


def _logme(spectrum: _Spectrum, n: int) -> float:
    variance, shares, rest = spectrum.variance[:, None, None], spectrum.shares[:, :, None] ** 2, spectrum.rest[:, None]

    def evidence(log_ratio: Matrix) -> Matrix:  # (n_classes, n_ratios)
        kept = 1 / (1 + variance / np.exp(log_ratio))
        misfit = (kept * shares).sum(0) + rest  # squared error + penalty, at the most likely weights
        free = n - 1
        return np.asarray((np.log(kept).sum(0) - free * (np.log(2 * np.pi * misfit / free) + 1)) / (2 * n))

    centre, reach = np.full((shares.shape[1], 1), np.log(n)), 25.0
    for _ in range(5):
        tried = centre + np.linspace(-reach, reach, 33)
        found = evidence(tried)
        centre = np.take_along_axis(tried, found.argmax(1)[:, None], 1)
        reach /= 12
    return float(found.max(1).mean())


def h_score(x: Matrix, y: Ints) -> float:
    """Measure how much of the rows' covariance lies between classes: tr(S^-1 B), 0 .. n_classes - 1.

    Bao et al. 2019 (ICIP, An information-theoretic approach to transferability). S is shrunk as Ledoit and Wolf do, and B
    with it (Ibrahim et al. 2021, arXiv:2110.06893): the plain score is n_classes - 1 for any layer with dim >= n.

    Parameters
    ----------
    x : float64 array, shape (n, dim)
        Standardised.
    y : int64 array, shape (n,)
    """
    return _h_score(_Spectrum.of(x, y), x, y)


def _h_score(spectrum: _Spectrum, x: Matrix, y: Ints) -> float:
    n, dim = x.shape
    variance = spectrum.variance / n
    target, square = variance.sum() / dim, (variance**2).sum()
    if not target:
        return 0.0
    spread = square - dim * target**2
    noise = (((x**2).sum(1) ** 2).sum() / n - square) / n
    shrinkage = min(noise / spread, 1.0) if spread > 0 else 1.0
    tracks = np.unique(y, return_counts=True)[1]
    between = variance * (spectrum.shares**2 / tracks).sum(1)  # of the class means, along each axis
    return float((1 - shrinkage) * (between / ((1 - shrinkage) * variance + shrinkage * target)).sum())


def fisher_ratio(x: Matrix, y: Ints) -> float:
    """Divide the variance between class means by that within classes, both summed over dimensions.

    Parameters
    ----------
    x : float64 array, shape (n, dim)
        Standardised.
    y : int64 array, shape (n,) or (n, n_tags)
        Of tags: the mean over tags, each against its absence.
    """
    given = _given(y)
    count, total, centre = given.sum(0), (x**2).sum(), x.mean(0)
    total -= len(x) * (centre**2).sum()
    apart = ((given.T @ x / count[:, None] - centre) ** 2).sum(1) * count
    between = apart * len(x) / (len(x) - count) if y.ndim == 2 else apart.sum()
    within = total - between
    return float(np.mean(np.divide(between, within, out=np.zeros_like(within), where=within > 1e-12 * total)))


def silhouette(x: Matrix, y: Ints) -> float | None:
    """Tell whether genres are clusters by cosine, -1 .. 1 (Rousseeuw 1987), and so whether near tracks are of one genre.

    Of more than 2,000 rows a seeded sample is used; None where it is not defined (each row alone in its class).
    """
    from sklearn.metrics import silhouette_score

    rows = _sample(len(x))
    if not 2 <= len(np.unique(y[rows])) < len(rows):
        return None
    return float(silhouette_score(x[rows].astype(np.float32), y[rows], metric="cosine"))


def intrinsic_dimension(x: Matrix) -> float | None:
    """Estimate along how many directions rows vary near a row: TwoNN (Facco et al. 2017, Scientific Reports 7:12140).

    The slope, through the origin, of -log(1 - F) against log(r2 / r1), the distances to the second and first neighbour,
    without the largest tenth. Equal rows count once. Of more than 2,000 rows a seeded sample is used; None of fewer than
    three different rows.
    """
    from sklearn.neighbors import NearestNeighbors

    x = np.unique(x[_sample(len(x))], axis=0)
    if len(x) < 3:
        return None
    apart = NearestNeighbors(n_neighbors=2).fit(x).kneighbors()[0]
    ratio = np.sort(np.log(apart[:, 1] / np.maximum(apart[:, 0], np.finfo(np.float64).tiny)))
    ratio = ratio[: max(int(0.9 * len(x)), 2)]
    rank = -np.log1p(-np.arange(1, len(ratio) + 1) / len(x))
    return float((ratio * rank).sum() / (ratio**2).sum()) if ratio.any() else None


def _sample(n: int) -> Ints:
    if n <= _MOST_ROWS:
        return np.arange(n)
    return np.sort(np.random.default_rng([0, n]).choice(n, _MOST_ROWS, replace=False))


def cka(layers: Sequence[NDArray[Any]]) -> Matrix:
    """Compare layers with each other: linear CKA (Kornblith et al. 2019, arXiv:1905.00414), 1 for a rotated, scaled copy.

    Without the bias of the plain estimate, which finds unrelated layers alike when they have about as many dimensions as
    rows (Nguyen et al. 2021, arXiv:2010.15327; Song et al. 2012, JMLR 13:1393, equation 5): 0 means unrelated, and noise may
    fall a little below. |X'Y|^2 is summed from products of rows, or of columns, whichever are fewer.

    Parameters
    ----------
    layers : sequence of float arrays, shapes (n, dim of the layer)
        Centred, n > 3.

    Returns
    -------
    float64 array, shape (n_layers, n_layers)
        nan of a constant layer.
    """
    n = len(layers[0])
    if n < 4:
        raise ParameterError(f"layers are compared over at least 4 tracks; got {n}")
    stack = [np.ascontiguousarray(x, dtype=np.float32) for x in layers]
    size = np.stack([(x.astype(np.float64) ** 2).sum(1) for x in stack])
    together = _products_of_rows(stack) if 2 * n < sum(x.shape[1] for x in stack) else _products_of_columns(stack)
    # a row with itself is no evidence of likeness: the diagonals of both Grams go, and what centring mixed of them
    likeness = together - n / (n - 2) * size @ size.T + np.outer(size.sum(1), size.sum(1)) / ((n - 1) * (n - 2))
    own = np.diag(likeness).copy()
    own[own <= 1e-6 * np.diag(together)] = np.nan
    return np.asarray(likeness / np.sqrt(np.outer(own, own)))


def _products_of_rows(layers: Sequence[NDArray[np.float32]]) -> Matrix:
    n = len(layers[0])
    total = np.zeros((len(layers), len(layers)))
    for start in range(0, n, _BLOCK):
        grams = np.stack([(x[start : start + _BLOCK] @ x.T).ravel() for x in layers])
        total += grams @ grams.T
    return total


def _products_of_columns(layers: Sequence[NDArray[np.float32]]) -> Matrix:
    total = np.zeros((len(layers), len(layers)))
    for a, first in enumerate(layers):
        for b, second in enumerate(layers[: a + 1]):
            total[a, b] = total[b, a] = (np.asarray(first.T @ second, dtype=np.float64) ** 2).sum()
    return total


def screen(layers: Sequence[Matrix], y: Ints) -> Matrix:
    """Rank layers on a training part: `logme` of each, higher is better, shape (n_layers,).

    Parameters
    ----------
    layers : sequence of float64 arrays, shapes (n_train, dim of the layer)
        Standardised on these rows.
    y : int64 array, shape (n_train,) or (n_train, n_tags)
    """
    return np.array([logme(x, y) for x in layers])


def layer_quality(features: Sequence[Feature], y: Ints) -> Mapping[str, Any]:
    """Describe layers without training: measures of each, and how alike they are.

    Parameters
    ----------
    features : sequence of Feature
        Those of several layers (a mix) are taken apart.
    y : int64 array, shape (n,) or (n, n_tags)

    Returns
    -------
    dict
        ``layers``: of each layer ``logme``, ``fisher``, ``intrinsic_dimension``, and with one genre a track ``h_score`` and
        ``silhouette``; None where a measure is not defined. ``cka``: ``layers`` and their ``matrix``.
    """
    named = {
        name: Scale.of(values)(values)
        for feature in features
        for name, values in zip(
            feature.parts if len(feature.values) > 1 else [feature.layer], feature.values, strict=True
        )
    }
    alike = cka(list(named.values()))
    return {
        "layers": {name: _measures(x, y) for name, x in named.items()},
        "cka": {"layers": list(named), "matrix": plain(alike.tolist())},
    }


def _measures(x: Matrix, y: Ints) -> Any:
    spectrum, single = _Spectrum.of(x, y), y.ndim == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = {
            "logme": _logme(spectrum, len(x)),
            "h_score": _h_score(spectrum, x, y) if single else None,
            "fisher": fisher_ratio(x, y),
            "silhouette": silhouette(x, y) if single else None,
            "intrinsic_dimension": intrinsic_dimension(x),
        }
    return plain(found)
