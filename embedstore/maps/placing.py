"""Tracks that came after a map was made."""

from __future__ import annotations

import numpy as np

from embedstore.errors import UnknownNameError
from embedstore.index import LayerSearch
from embedstore.index.rows import BLOCK
from embedstore.maps.values import Map
from embedstore.types import Floats, Keys

__all__ = ["place"]

_BESIDE = 5  # tracks that a new one is put between


def place(found: Map, live: LayerSearch, layer: int, keys: Keys) -> Floats:
    """Say where tracks lie on one layer of a map; those that it does not hold, between the most similar that it does.

    A track that is new is put at the mean of its five nearest mapped tracks, each weighted by how near it is; without any, at
    the centre.

    Parameters
    ----------
    found : Map
    live : LayerSearch
        Of the same layer.
    layer : int
        Number of the layer.
    keys : int64 array, shape (m,)

    Returns
    -------
    float32 array, shape (m, 2)
        From 0 to 1, in the order of `keys`.

    Raises
    ------
    UnknownNameError
        The map has no such layer.
    TrackNotFoundError
        A key is neither on the map nor in the store.
    """
    if layer not in found.layers:
        raise UnknownNameError(f"the map has no layer {layer!r}; it has {', '.join(map(str, found.layers))}")
    positions, keys = found.positions[found.layers.index(layer)], np.asarray(keys, np.int64)
    placed = np.full((len(keys), 2), 0.5, np.float32)
    if not len(found):
        return placed
    at = np.minimum(np.searchsorted(found.keys, keys), len(found) - 1)
    known = found.keys[at] == keys
    placed[known] = positions[at[known]]
    new = np.flatnonzero(~known)
    for start in range(0, len(new), BLOCK):
        some = new[start : start + BLOCK]
        near = live.search(live.vectors(keys[some]), _BESIDE, allowed=found.keys)
        real = near.keys >= 0
        apart = 2 - 2 * np.where(real, near.scores, -1).astype(np.float64)  # squared, between vectors of length 1
        weights = np.where(real, 1 / (np.maximum(apart, 0) + 1e-3), 0)
        beside = positions[np.where(real, np.searchsorted(found.keys, near.keys), 0)]
        total = weights.sum(axis=1)
        some, weights, beside = some[total > 0], weights[total > 0], beside[total > 0]
        placed[some] = (weights[:, :, None] * beside).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    return placed
