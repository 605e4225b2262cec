"""Features of a probe: each layer, the mean of layers, or a learned mix of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, UnknownNameError
from embedstore.types import Layer, LayerMatrix, TrackLabels

__all__ = ["Feature", "LayerMix", "Source", "load_features", "open_source"]

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, repr=False, eq=False)
class Feature:
    """What one row of the report is computed from.

    Attributes
    ----------
    layer : int or str
        Number, ``"mean"`` or ``"mix"``.
    name : str
    values : float32 array, shape (n_layers, n_tracks, dim)
        One layer, or for a mix all of them.
    parts : tuple of str
        Names of those layers.
    """

    layer: int | str
    name: str
    values: Floats
    parts: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Feature({self.name}, {self.values.shape})"


@dataclass(frozen=True, repr=False)
class Source:
    """Where vectors and labels come from: a store, or matrices in memory."""

    keys: Ints
    layers: tuple[Layer, ...]
    read: Callable[[int], LayerMatrix]
    labels: Mapping[int, TrackLabels]
    about: Mapping[str, Any]


def open_source(source: Any, labels: Mapping[int, TrackLabels] | None = None) -> Source:
    """See a store, or matrices with labels, in one way.

    Parameters
    ----------
    source : EmbeddingStore, or mapping of anything to LayerMatrix, or sequence of LayerMatrix
    labels : mapping of key to TrackLabels, optional
        In place of the store's; needed with matrices.
    """
    if hasattr(source, "card") and hasattr(source, "layer"):
        about = {"encoder": source.card.name, "model": source.card.model, "store": str(getattr(source, "path", ""))}
        fingerprint = getattr(source, "fingerprint", None)
        about |= {"fingerprint": str(fingerprint)} if fingerprint else {}
        found = source.labels() if labels is None else labels
        return Source(np.asarray(source.keys()), tuple(source.card.layers), source.layer, found, about)
    matrices = list(source.values() if isinstance(source, Mapping) else source)
    if not matrices or not all(isinstance(matrix, LayerMatrix) for matrix in matrices):
        raise ParameterError(f"a probe reads an open store, or LayerMatrix objects; got {type(source).__name__}")
    if labels is None:
        raise ParameterError("matrices have no labels of their own: pass labels={key: TrackLabels(...)}")
    by_number = {matrix.layer: matrix for matrix in matrices}
    if len(by_number) < len(matrices):
        raise ParameterError(f"two matrices are of the same layer; got layers {[m.layer for m in matrices]}")
    if any(not np.array_equal(np.sort(matrix.keys), np.sort(matrices[0].keys)) for matrix in matrices):
        raise ParameterError(
            f"each layer needs the same keys; got {[len(matrix) for matrix in matrices]} rows, or others"
        )
    layers = tuple(Layer(m.layer, m.name, m.values.shape[1]) for _, m in sorted(by_number.items()))
    return Source(matrices[0].keys, layers, by_number.__getitem__, labels, {})


def load_features(source: Source, which: int | str | Sequence[int | str], keys: Ints) -> tuple[Feature, ...]:
    """Read what ``--layer`` asks for, rows in the order of `keys`.

    Parameters
    ----------
    source : Source
    which : int, str, or sequence of them
        ``"all"`` (one feature per layer), a number, a name, several of these, ``"mean"``, or ``"mix"``.
    keys : int64 array, shape (n_tracks,)

    Raises
    ------
    UnknownNameError
        No such layer; the message lists those there are.
    ParameterError
        Mean or mix of layers of different width; rows that are missing or not finite.
    """
    if which in ("mean", "mix"):
        widths = {layer.dim for layer in source.layers}
        if len(widths) > 1:
            listed = ", ".join(f"{_title(layer)}: {layer.dim}" for layer in source.layers)
            raise ParameterError(
                f"the {which} of layers needs layers of one width; here the widths are {listed}; use --layer all or a number"
            )
        stack = np.stack([_rows(source, layer, keys) for layer in source.layers])
        values = stack.mean(0, keepdims=True, dtype=np.float64).astype(np.float32) if which == "mean" else stack
        return (
            Feature(which, f"{which} of {len(stack)} layers", values, tuple(layer.name for layer in source.layers)),
        )
    if isinstance(which, str):
        which = [part.strip() for part in which.split(",")]
    asked = (
        list(source.layers) if which == ["all"] else _find(source.layers, [which] if isinstance(which, int) else which)
    )
    if not asked:
        raise ParameterError("no layer is asked for; give 'all', a number or a name")
    return tuple(Feature(layer.number, layer.name, _rows(source, layer, keys)[None], (layer.name,)) for layer in asked)


def _find(layers: Sequence[Layer], asked: Iterable[int | str]) -> list[Layer]:
    found = []
    for which in asked:
        hits = [layer for layer in layers if which in (layer.number, layer.name, str(layer.number))]
        if not hits:
            listed = ", ".join(_title(layer) for layer in layers)
            raise UnknownNameError(f"there is no layer {which!r}; known: all, mean, mix, {listed}")
        found += [layer for layer in hits if layer not in found]
    return sorted(found, key=lambda layer: layer.number)


def _title(layer: Layer) -> str:
    return f"{layer.number}" if layer.name == f"layer {layer.number}" else f"{layer.number} ({layer.name})"


def _rows(source: Source, layer: Layer, keys: Ints) -> Floats:
    matrix = source.read(layer.number)
    order = np.argsort(matrix.keys, kind="stable")
    place = np.minimum(np.searchsorted(matrix.keys, keys, sorter=order), max(len(order) - 1, 0))
    if not len(order) or (matrix.keys[order[place]] != keys).any():
        raise ParameterError(f"layer {_title(layer)} lacks rows of some tracks: each layer needs the same keys")
    values = np.asarray(matrix.values[order[place]], dtype=np.float32)
    bad = int((~np.isfinite(values)).any(1).sum())
    if bad:
        raise ParameterError(f"layer {_title(layer)} has {bad} rows that are not finite (NaN or infinite)")
    return values


class LayerMix:
    """Softmax-weighted sum of layers, the weights learned together with a linear classifier.

    The objective is that of a logistic regression on the mix (mean cross-entropy + |w|^2 / (2 C n)), minimised over the
    classifier and the layer weights at once by L-BFGS; the start is equal weights. Two matrix products per step, over all
    layers at once. (The idea: Peters et al. 2018, arXiv:1802.05365, section 3.2; SUPERB uses it to probe speech models.)

    Attributes
    ----------
    weights_ : float64 array, shape (n_layers,)
        Positive, with sum 1.
    loss_ : float
        Objective reached.
    """

    def __init__(self, C: float = 0.01, tol: float = 1e-5, max_iter: int = 500) -> None:  # noqa: N803
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, layers: Matrix, y: Ints) -> LayerMix:
        """Learn from standardised layers, shape (n_layers, n, dim), and class numbers, shape (n,)."""
        from scipy.optimize import minimize
        from scipy.special import log_softmax, softmax

        n_layers, n, dim = layers.shape
        classes, codes = np.unique(y, return_inverse=True)
        target = np.eye(len(classes))[codes]
        flat = layers.reshape(n_layers * n, dim)
        penalty = 1 / (self.C * n)

        def objective(point: Matrix) -> tuple[float, Matrix]:
            mixing = softmax(point[:n_layers])
            head = point[n_layers:].reshape(dim + 1, len(classes))
            each = (flat @ head[1:]).reshape(n_layers, n, -1)
            logs = log_softmax(np.tensordot(mixing, each, 1) + head[0], axis=1)
            error = (np.exp(logs) - target) / n
            loss = -(logs * target).sum() / n + 0.5 * penalty * (head[1:] ** 2).sum()
            toward = np.tensordot(each, error, 2)  # of each layer's weight
            slope = flat.T @ (mixing[:, None, None] * error).reshape(n_layers * n, -1) + penalty * head[1:]
            gradient = [mixing * (toward - mixing @ toward), error.sum(0), slope.ravel()]
            return float(loss), np.concatenate(gradient)

        start = np.zeros(n_layers + (dim + 1) * len(classes))
        options = {"gtol": self.tol, "ftol": 1e-10, "maxiter": self.max_iter, "maxfun": 2 * self.max_iter}
        end = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.weights_, self.loss_ = softmax(end.x[:n_layers]), float(end.fun)
        return self

    def transform(self, layers: Matrix) -> Matrix:
        """Mix layers, shape (n_layers, n, dim), into (n, dim)."""
        return np.asarray(np.tensordot(self.weights_, layers, 1))
