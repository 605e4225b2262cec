"""From layers to the rows that a probe sees: each on one scale, and of several a learned mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from probes.base import Ints, Matrix
from probes.mix import LayerMix

__all__ = ["Preparation", "Scale", "standardise"]


@dataclass(frozen=True, repr=False, eq=False)
class Scale:
    """Mean and deviation of each dimension over training rows, shape (..., 1, dim); deviation inf: a constant.

    Examples
    --------
    >>> Scale.of(np.array([[1.0, 7.0], [3.0, 7.0]]))(np.array([[4.0, 9.0]]))
    array([[2., 0.]])
    """

    mean: Matrix
    deviation: Matrix

    @classmethod
    def of(cls, x: NDArray[Any]) -> Self:
        """Measure rows, shape (..., n, dim)."""
        x = np.asarray(x, dtype=np.float64)
        mean, deviation = x.mean(-2, keepdims=True), x.std(-2, keepdims=True)
        deviation[deviation <= 1e-10 * np.abs(mean)] = np.inf  # below float32's resolution: rounding, not variation
        return cls(mean, deviation)

    def __call__(self, x: NDArray[Any]) -> Matrix:
        """Scale rows, shape (..., n, dim); a constant dimension becomes 0."""
        return np.asarray((x - self.mean) / self.deviation)

    def state(self, prefix: str = "") -> dict[str, Matrix]:
        """Give the arrays, shape (..., dim); of a constant the deviation is 0."""
        deviation = np.where(np.isinf(self.deviation), 0.0, self.deviation)
        return {f"{prefix}mean": self.mean[..., 0, :], f"{prefix}deviation": deviation[..., 0, :]}


@dataclass(frozen=True, repr=False, eq=False)
class Preparation:
    """What was learned of a training part before the probe: scales, and the weights of layers in a mix.

    Attributes
    ----------
    scale : Scale
        Of each layer.
    weights : float64 array, shape (n_layers,), or None
        Of several layers.
    mixed : Scale or None
        Of their weighted sum.
    """

    scale: Scale
    weights: Matrix | None = None
    mixed: Scale | None = None

    @classmethod
    def fit(cls, layers: NDArray[Any], y: Ints) -> Self:
        """Learn from the training rows of layers, shape (n_layers, n, dim), and their classes or tags."""
        scale = Scale.of(layers)
        if len(layers) == 1:
            return cls(scale)
        mix = LayerMix().fit(x := scale(layers), y)
        return cls(scale, mix.weights_, Scale.of(mix.transform(x)[None]))

    def __call__(self, layers: NDArray[Any]) -> Matrix:
        """Give the rows of a probe, shape (n, dim), from those of layers, shape (n_layers, n, dim)."""
        x = self.scale(layers)
        if self.weights is None or self.mixed is None:
            return np.asarray(x[0])
        return np.asarray(self.mixed(np.tensordot(self.weights, x, 1)[None])[0])

    def state(self) -> dict[str, Matrix]:
        """Give all arrays by name."""
        found = self.scale.state()
        if self.weights is not None and self.mixed is not None:
            found |= {"weights": self.weights, **self.mixed.state("mixed.")}
        return found


def standardise(values: NDArray[Any], train: Ints, evaluate: Ints) -> tuple[Matrix, Matrix]:
    """Scale the rows `train` and `evaluate` of layers, shape (n_layers, n, dim), by the former's mean and deviation."""
    scale = Scale.of(x := values[:, train])
    return scale(x), scale(values[:, evaluate])
