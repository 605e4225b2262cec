"""UMAP over the layers of a library: positions that follow each layer, and move as little as they can from one to the next.

Laid out alone, each layer turns and folds its own way, and points jump. So the graph of each layer's neighbours (McInnes, Healy &
Melville 2018) takes a quarter of its weight from the layers beside it, the sum of all graphs is laid out first, and each layer then
goes on from where the one before ended, at a quarter of the usual rate. That holds points about as well as UMAP's own alignment
(`AlignedUMAP`) in a fraction of its time, which grows with the tracks alone: see ``benchmarks/map_speed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from embedstore.registry import require
from embedstore.types import Floats

__all__ = ["INSTALL", "graph", "lay_out"]

INSTALL = "pip install 'embedstore-mir[web]'"
_BESIDE = 0.25  # share of a graph's weight that comes from the layers beside it
_EPOCHS, _RATE = 100, 0.25  # of each layer, which starts where the one before ended
_BEST = 5  # rows that another one is put between: all that is kept of it until the end
_MIN_DIST = 0.1  # UMAP's own: how near points may lie


def graph(values: Floats, others: Floats, neighbors: int, seed: int) -> tuple[Any, Any]:
    """Join rows to their nearest ones by how surely they belong together; and other rows to the nearest of these.

    Parameters
    ----------
    values : float32 array, shape (n, width)
        At least 3 rows.
    others : float32 array, shape (m, width)

    Returns
    -------
    sparse array, shape (n, n)
        Symmetric, from 0 to 1.
    sparse array, shape (m, n)
        The five surest of each row, which sum to 1.
    """
    from scipy.sparse import csr_array

    umap = require("umap", INSTALL)
    near = min(neighbors, len(values) - 1)
    model = umap.UMAP(n_neighbors=near, transform_mode="graph", random_state=seed, n_jobs=1).fit(values)
    if not len(others):
        return model.graph_, csr_array((0, len(values)))
    beside = csr_array(model.transform(others))
    rows = np.repeat(np.arange(len(others), dtype=np.int32), np.diff(beside.indptr))
    order = np.lexsort((-beside.data, rows))  # of each row the surest first
    best = order[np.arange(len(order)) - beside.indptr[rows] < _BEST]
    kept = csr_array((beside.data[best], (rows[best], beside.indices[best])), beside.shape)
    kept.data /= kept.sum(axis=1)[rows[best]]
    return model.graph_, kept


def lay_out(graphs: Sequence[Any], start: Floats, seed: int, tell: Callable[[], None]) -> Iterator[Floats]:
    """Place the rows of all layers, one layer after the other.

    Parameters
    ----------
    graphs : sequence of sparse array, shape (n, n)
    start : float32 array, shape (n, 2)
        Where to begin.
    tell : callable
        Called before each layout: one for all, then one for each layer.

    Yields
    ------
    float32 array, shape (n, 2)
    """
    last = len(graphs) - 1
    tell()
    positions = _optimise(sum(graphs[1:], graphs[0]), start, None, 1.0, seed)
    for i, own in enumerate(graphs):
        tell()
        beside = [graphs[j] for j in (i - 1, i + 1) if 0 <= j <= last]
        mixed = sum((one * (_BESIDE / len(beside)) for one in beside), own * (1 - _BESIDE))
        positions = _optimise(mixed, positions, _EPOCHS, _RATE, seed)
        yield positions


def _optimise(weights: Any, start: Floats, epochs: int | None, rate: float, seed: int) -> Floats:
    """Move points by UMAP's gradient descent; reproducible, so in one thread."""
    umap = require("umap.umap_", INSTALL)
    a, b = umap.find_ab_params(1.0, _MIN_DIST)
    positions, _ = umap.simplicial_set_embedding(
        data=None,
        graph=weights.tocoo(),
        n_components=2,
        initial_alpha=rate,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=epochs,
        init=start.copy(),
        random_state=np.random.RandomState(seed),
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    found: Floats = positions
    return found
