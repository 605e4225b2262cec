"""Make a map: reduce each layer's vectors, lay them out, turn each layer to fit the one before."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, StoreError
from embedstore.index import unit
from embedstore.index.rows import BLOCK
from embedstore.maps.layout import INSTALL, graph, lay_out
from embedstore.maps.saved import NOTE, keep, open_map
from embedstore.maps.values import Map
from embedstore.registry import require, unknown_name
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys

__all__ = ["METHODS", "estimate_seconds", "make_map"]

METHODS = ("umap", "pca")
_WIDTH = 50  # directions that are kept of a layer's vectors
_FITTED_ON = 20_000  # tracks that these, and the clusters, are learned from
_MOST = 200_000  # tracks that UMAP lays out; it puts others between their nearest of these
_CLUSTERS = 12  # as many as people tell colours apart
_FEW = 4  # tracks that have too few neighbours for UMAP


def estimate_seconds(n_tracks: int, n_layers: int, method: str) -> float:
    """Say about how long `make_map` takes on two cores."""
    seconds = n_layers * (0.1 + 3e-5 * n_tracks)
    if method == "umap":
        laid = min(n_tracks, _MOST)
        seconds += 15 + 4e-4 * laid + n_layers * (2.5e-4 * laid + 1e-4 * (n_tracks - laid))
    return seconds


def make_map(
    store: EmbeddingStore,
    method: str = "umap",
    *,
    seed: int = 0,
    neighbors: int = 15,
    progress: Callable[[int, int, str], None] | None = None,
    instead: Path | None = None,
) -> Map:
    """Make the map of all tracks in all layers, and keep it in the store's folder ``maps`` in place of the one before.

    If that one is of the same tracks, seed and neighbours, it is returned at once. Tracks are near if a search finds them near: by
    the cosine, in the 50 directions in which the layer differs most. The same seed gives the same map, whatever the number of cores.

    Parameters
    ----------
    store : EmbeddingStore
    method : str
        ``"umap"``, or ``"pca"``: quick, and coarse.
    seed : int
        From 0 to 2^32 - 1.
    neighbors : int
        Of each track, that UMAP tries to keep beside it: fewer show small groups, more the whole.
    progress : callable, optional
        Called with (steps done, steps in all, what comes now).
    instead : path, optional
        Folder that it is kept below where the store cannot be written.

    Raises
    ------
    ParameterError
        The store is empty; `seed` or `neighbors` is out of range.
    UnknownNameError
        No such method.
    MissingDependencyError
        umap-learn is not installed.
    TrackNotFoundError, StoreFormatError
        The store lost tracks meanwhile.
    StoreError
        Nor can `instead` be written.

    Examples
    --------
    >>> make_map(EmbeddingStore.open("my-store"), "pca")  # doctest: +SKIP
    Map(pca, 13 layers of 112 tracks)
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if not 0 <= seed < 2**32 or not 2 <= neighbors <= 200:
        raise ParameterError(f"a seed is from 0 to 2^32 - 1, neighbors from 2 to 200; got {seed} and {neighbors}")
    keys = store.keys()
    if not len(keys):
        raise ParameterError(f"the store {store.path} holds no tracks; build first")
    kept = open_map(store, method)
    if kept and (kept.seed, kept.neighbors) == (seed, neighbors) and np.array_equal(kept.keys, np.sort(keys)):
        return kept
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1), warnings.catch_warnings():  # one thread: sums do not depend on the cores
        warnings.simplefilter("ignore")  # fewer points than clusters or neighbours is no news
        made = _make(store, keys, method, seed, neighbors, progress or (lambda _done, _steps, _doing: None))
    try:
        keep(store, made)
    except StoreError as error:
        made = replace(made, notes=(*made.notes, f"the map could not be kept for next time: {error}"[:NOTE]))
        if instead is not None:
            keep(store, made, instead)
    return made


def _make(
    store: EmbeddingStore, keys: Keys, method: str, seed: int, neighbors: int, tell: Callable[[int, int, str], None]
) -> Map:
    began, layers, n = time.perf_counter(), store.card.layers, len(keys)
    flows = method == "umap" and n >= _FEW
    notes = (
        (f"{n} track{'s are' if n > 1 else ' is'} too few for UMAP: placed by PCA",)
        if method == "umap" and not flows
        else ()
    )
    steps, done = len(layers) * (1 + flows) + flows, count()
    axes, clusters = np.empty((len(layers), n, 2), np.float32), np.empty((len(layers), n), np.int16)
    laid = _some(n, _MOST, seed)
    rest = np.setdiff1d(np.arange(n), laid, assume_unique=True)
    graphs = []
    if flows:
        tell(0, steps, "loading UMAP")
        require("umap", INSTALL)
    for i, layer in enumerate(layers):
        first = " (UMAP compiles itself first)" if flows and not i else ""
        tell(next(done), steps, f"{'neighbours in ' * flows}{layer.name}{first}")
        reduced = _reduced(store, keys, layer.number, seed)
        axes[i] = reduced[:, :2]
        clusters[i] = _clustered(reduced, clusters[i - 1] if i else None, seed)
        if flows:
            graphs.append(graph(reduced[laid], reduced[rest], neighbors, seed))
    positions = _turned(axes, None)
    if flows:
        middle = positions.mean(axis=0)
        start = middle[laid]
        start += np.random.default_rng(seed).normal(0, 1e-3, start.shape)  # points at one place would stay together
        names = iter(["all layers", *(layer.name for layer in layers)])
        moves = lay_out(
            [one for one, _ in graphs], start, seed, lambda: tell(next(done), steps, f"placing {next(names)}")
        )
        for i, found in enumerate(moves):
            positions[i, laid] = found
            positions[i, rest] = graphs[i][1] @ found
        positions = _turned(positions, middle)
    tell(steps, steps, "")
    numbers, seconds = tuple(layer.number for layer in layers), time.perf_counter() - began
    return Map(method, numbers, np.sort(keys), _framed(positions), clusters, seed, neighbors, seconds, notes)


def _some(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """Choose up to so many of n rows by chance, in order; the same for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def _reduced(store: EmbeddingStore, keys: Keys, layer: int, seed: int) -> Floats:
    """Read a layer's vectors, scaled to length 1 as a search compares them, along the directions in which they differ most.

    Shape (n, width), 2 <= width <= 50, by rising key. What the directions are is learned from up to 20,000 of them.
    """
    from sklearn.decomposition import PCA

    places = np.argsort(np.argsort(keys))  # to be read in the order in which they lie on the disk
    sample = unit(store.vectors(np.sort(keys)[_some(len(keys), _FITTED_ON, seed)], layer))
    middle = sample.mean(axis=0)
    width = min(_WIDTH, *sample.shape)
    reduced = np.zeros((len(keys), max(2, width)), np.float32)
    if len(keys) == 1:
        return reduced
    directions = PCA(width, svd_solver="covariance_eigh").fit(sample - middle)
    for start in range(0, len(keys), BLOCK):
        values = unit(store.vectors(keys[start : start + BLOCK], layer))
        reduced[places[start : start + BLOCK], :width] = directions.transform(values - middle)
    return reduced


def _clustered(values: Floats, before: NDArray[np.int16] | None, seed: int) -> NDArray[np.int16]:
    """Divide rows into groups by k-means; a group takes the number of that of the layer before with which it shares most tracks."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    groups = min(_CLUSTERS, max(1, round((len(values) / 2) ** 0.5)))
    model = KMeans(groups, n_init=1, random_state=seed).fit(values[_some(len(values), _FITTED_ON, seed)])
    found: NDArray[Any] = model.predict(values)
    if before is not None:
        shared = np.zeros((groups, groups), np.int64)
        np.add.at(shared, (found, before), 1)
        found = linear_sum_assignment(shared, maximize=True)[1][found]
    numbered: NDArray[np.int16] = found.astype(np.int16)
    return numbered


def _turned(positions: Floats, onto: Floats | None) -> Floats:
    """Centre each layer, give it the spread 1, and turn or mirror it so that points move least from the layer before.

    The first is turned onto `onto`, if given (Schönemann 1966, the orthogonal Procrustes problem).
    """
    turned = np.zeros(positions.shape)
    for i, raw in enumerate(positions):
        points = raw - raw.mean(axis=0, dtype=np.float64)
        spread = np.sqrt(np.square(points).sum(axis=1).mean())
        points /= spread if spread > 1e-6 else 1.0  # else they are one point
        if i or onto is not None:
            left, _, right = np.linalg.svd(points.T @ (turned[i - 1] if i else onto))
            points = points @ (left @ right)
        turned[i] = points
    return turned.astype(np.float32)


def _framed(positions: Floats) -> Floats:
    """Turn all layers alike, wider than high as screens are, and fit them by one scale into the square from 0 to 1."""
    points = positions.reshape(-1, 2).astype(np.float64)
    across = np.linalg.eigh(points.T @ points)[1][:, ::-1]
    positions = (positions @ (across * np.where(across.sum(axis=0) < 0, -1, 1))).astype(np.float32)
    low, high = positions.min(axis=(0, 1)), positions.max(axis=(0, 1))
    size = (high - low).max() or 1.0
    framed: Floats = (0.5 + (positions - (low + high) / 2) / size).clip(0, 1)
    return framed
