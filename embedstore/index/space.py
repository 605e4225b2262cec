"""What is compared in a search: a layer, the mean or a mix of layers; as it is, or moved so that differences show.

The vectors of a self-supervised model lie in a narrow cone: any two tracks look alike, and a few directions hold most of what
differs. Taking the library's mean away (*centre*), giving every value the same spread (*standardise*), or every direction
(*whiten*) undoes that. No labels are used: what is learned comes from the vectors of the library alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from embedstore.errors import IndexFormatError, ParameterError
from embedstore.registry import unknown_name
from embedstore.store import EmbeddingStore
from embedstore.store.disk import plain_file
from embedstore.types import Floats, Keys, Mix

__all__ = ["TRANSFORMS", "Space", "Transform", "fitted_on"]

TRANSFORMS = ("none", "centre", "standardise", "whiten")
_FITTED_ON = 20_000  # rows


def fitted_on(keys: Keys) -> Keys:
    """Choose the tracks that a transform is learned from, by rising key: the same ones in whatever order they are stored."""
    keys = np.sort(keys)
    return keys[np.sort(np.random.default_rng(0).permutation(len(keys))[:_FITTED_ON])]


@dataclass(frozen=True, eq=False)
class Transform:
    """A shift, then a scale for each value or a matrix: ``(x - mean) * scale`` or ``(x - mean) @ scale``.

    Attributes
    ----------
    mean : float32 array, shape (dim,)
    scale : float32 array, shape (dim,) or (dim, dim)
    """

    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, values: Floats, kind: str) -> Self | None:
        """Learn from vectors, shape (n, dim); None for ``"none"``.

        Whitening takes the inverse square root of the covariance, shrunk towards a sphere as far as Ledoit & Wolf (2004) find
        best for so many rows: with few rows it comes near to centring, and never divides by nothing.

        Raises
        ------
        UnknownNameError
            No such transform.

        Examples
        --------
        >>> moved = Transform.fit(np.array([[1, 0], [3, 0]], np.float32), "centre")
        >>> moved(np.array([[3, 1]], np.float32))
        array([[1., 1.]], dtype=float32)
        """
        if kind not in TRANSFORMS:
            raise unknown_name("transform", kind, TRANSFORMS)
        if kind == "none":
            return None
        wide = values.astype(np.float64) if len(values) else np.zeros((1, values.shape[1]))
        mean = wide.mean(axis=0)
        scale = np.ones(len(mean))
        if kind == "standardise":
            deviation = wide.std(axis=0)
            differs = deviation > 1e-6 * np.abs(wide).max(initial=0)  # a value that never does tells nothing
            scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=differs)
        if kind == "whiten" and len(wide) > 1:
            from sklearn.covariance import ledoit_wolf

            spread, directions = np.linalg.eigh(ledoit_wolf(wide - mean, assume_centered=True)[0])
            scale = (directions / np.sqrt(np.maximum(spread, 1e-12 * max(spread[-1], 1e-30)))) @ directions.T
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def __call__(self, values: Floats) -> Floats:
        """Move vectors, shape (n, dim)."""
        centred: Floats = values.astype(np.float32)
        centred -= self.mean
        return centred @ self.scale if self.scale.ndim == 2 else centred * self.scale

    def save(self, path: Path) -> None:
        """Write a safetensors file that `load` reads."""
        from safetensors.numpy import save_file

        save_file({"mean": self.mean, "scale": np.ascontiguousarray(self.scale)}, path)

    @classmethod
    def load(cls, path: Path, dim: int) -> Self:
        """Read what `save` wrote, for vectors of width `dim`.

        Raises
        ------
        IndexFormatError
            It is something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            with plain_file(path, 4 * dim * (dim + 1) + 2**16) as file:
                found = load(file.read())
            mean, scale = found["mean"], found["scale"]
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise IndexFormatError(f"{path.name} cannot be read: {error}") from error
        right = mean.shape == (dim,) and scale.shape in {(dim,), (dim, dim)} and mean.dtype == scale.dtype == np.float32
        if not right or not (np.isfinite(mean).all() and np.isfinite(scale).all()):
            raise IndexFormatError(f"{path.name} does not move vectors of width {dim}")
        return cls(mean, scale)


@dataclass(frozen=True)
class Space:
    """Which layer of a store is compared, and how its vectors are moved.

    Attributes
    ----------
    which : int, str or Mix
        Number of a layer, ``"mean"``, or a mix.
    kind : str
        One of `TRANSFORMS`.
    dim : int
        Width of a vector.
    """

    which: int | str | Mix
    kind: str
    dim: int

    @classmethod
    def of(cls, store: EmbeddingStore, layer: int | str | Mix | None = None, transform: str = "none") -> Self:
        """Resolve what a person asked for.

        Raises
        ------
        UnknownNameError
            No such layer or transform.
        ParameterError
            A mean over layers of different widths, or a mix of another encoder's layers.
        """
        if transform not in TRANSFORMS:
            raise unknown_name("transform", transform, TRANSFORMS)
        dims = [one.dim for one in store.card.layers]
        if isinstance(layer, Mix):
            if layer.scales.shape != (len(dims), dims[0]) or len(set(dims)) > 1:
                raise ParameterError(
                    f"{layer!r} does not fit the store's layers, {len(dims)} of width {sorted(set(dims))}"
                )
            return cls(layer, transform, dims[0])
        if layer == "mean":
            return cls(layer, transform, dims[0])
        chosen = store.card.layer(store.card.default_layer if layer is None else layer)
        return cls(chosen.number, transform, chosen.dim)

    @property
    def layer(self) -> int | str:
        """Number of the layer, ``"mean"`` or ``"mix"``."""
        return "mix" if isinstance(self.which, Mix) else self.which

    @property
    def label(self) -> str:
        """Its name in the folder of indices, e.g. ``"6"``, ``"mean+whiten"``, ``"mix-1a2b3c4d"``."""
        name = f"mix-{self.which.digest[:8]}" if isinstance(self.which, Mix) else str(self.which)
        return name + f"+{self.kind}" * (self.kind != "none")

    @property
    def half(self) -> bool:
        """Whether float16 holds its vectors exactly: what the store holds, unmoved."""
        return isinstance(self.which, int) and self.kind == "none"

    def fit(self, store: EmbeddingStore) -> Transform | None:
        """Learn its transform from up to 20,000 tracks of a store."""
        if self.kind == "none":
            return None
        return Transform.fit(store.vectors(fitted_on(store.keys()), self.which), self.kind)

    def reader(self, store: EmbeddingStore, transform: Transform | None) -> Callable[[Any], Floats]:
        """Give the function from keys to moved vectors."""
        if transform is None:
            return lambda keys: store.vectors(keys, self.which)
        return lambda keys: transform(store.vectors(keys, self.which))
