"""The map as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from embedstore.types import Floats, Keys

__all__ = ["Map"]


@dataclass(frozen=True, repr=False, eq=False)
class Map:
    """Where the tracks of a library lie in the plane, in each of its layers.

    All layers share one frame, and each is turned so that it fits the one before: from layer to layer points move, and do not
    jump. Distances mean something near by only, and the axes mean nothing.

    Attributes
    ----------
    method : str
        ``"umap"`` or ``"pca"``.
    layers : tuple of int, length n_layers
        Numbers of the store's layers.
    keys : int64 array, shape (n,)
        Of the tracks, by rising key.
    positions : float32 array, shape (n_layers, n, 2)
        From 0 to 1.
    clusters : int16 array, shape (n_layers, n)
        Group of a track among its layer's vectors; -1: none. A number means about the same tracks in every layer.
    seed : int
    neighbors : int
        Of a track that UMAP tries to keep beside it; PCA does not use it.
    seconds : float
        That making it took.
    notes : tuple of str
        What was not as asked, such as a map that could not be kept.

    Raises
    ------
    ParameterError
        Shapes or values are not these.
    """

    method: str
    layers: tuple[int, ...]
    keys: Keys
    positions: Floats
    clusters: NDArray[np.int16]
    seed: int
    neighbors: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.layers), len(self.keys))
        found = {name: getattr(self, name) for name in ("keys", "positions", "clusters")}
        types = {"keys": np.int64, "positions": np.float32, "clusters": np.int16}
        shapes = {"keys": shape[1:], "positions": (*shape, 2), "clusters": shape}
        for name, values in found.items():
            if values.shape != shapes[name] or values.dtype != types[name]:
                wanted = f"{np.dtype(types[name])} {shapes[name]}"
                raise ParameterError(f"a map's {name} are {wanted}; got {values.dtype} {values.shape}")
        if not (np.diff(self.keys) > 0).all():
            raise ParameterError("a map lists each key once, by rising key")
        if not ((self.positions >= 0) & (self.positions <= 1)).all():
            raise ParameterError("a map's positions lie between 0 and 1")
        if (self.clusters < -1).any():
            raise ParameterError("a map's clusters are numbers from 0, or -1")

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Map({self.method}, {len(self.layers)} layers of {len(self)} tracks)"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the points."""
        told = {name: getattr(self, name) for name in ("method", "seed", "neighbors", "seconds")}
        return told | {"layers": list(self.layers), "tracks": len(self), "notes": list(self.notes)}
