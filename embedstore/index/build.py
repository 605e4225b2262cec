"""Build an index of one layer, measure it against exact search, keep it beside the store."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from embedstore.errors import IndexFormatError, ParameterError
from embedstore.index.base import Index, unit
from embedstore.index.exact import ExactIndex
from embedstore.index.saved import (
    BUILTIN,
    IndexReport,
    check_index,
    folders,
    label_of,
    layer_of,
    read_report,
    save_index,
)
from embedstore.registry import known, resolve, unknown_name
from embedstore.store import EmbeddingStore
from embedstore.types import LayerMatrix

__all__ = ["build_index", "index_coverage"]

_FLAT_UP_TO = 100_000
_MEASURED_ON, _TIMED = 1000, 50


def build_index(
    store: EmbeddingStore, layer: int | str | None = None, kind: str = "auto", seed: int = 0
) -> IndexReport:
    """Build an index of one layer and keep it in the store's folder; it replaces one of the same layer and kind.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int or str, optional
        Number or name of a layer, or ``"mean"``; default: the encoder's choice.
    kind : str
        ``"flat"``, ``"ivf"``, ``"exact"`` or a plug-in's; ``"auto"``: flat up to 100,000 tracks, ivf above.
    seed : int
        Of training, and of the rows that the index is measured on.

    Raises
    ------
    ParameterError
        The store is empty, or `seed` is negative.
    UnknownNameError
        No such kind or layer.
    StoreError
        The disk refused.

    Examples
    --------
    >>> build_index(EmbeddingStore.open("my-store"), layer=6).recall_at_10  # doctest: +SKIP
    1.0
    """
    kinds = known("indexes", BUILTIN)
    if kind != "auto" and kind not in kinds:
        raise unknown_name("index kind", kind, ["auto", *kinds])
    if seed < 0:
        raise ParameterError(f"a seed is at least 0; got {seed}")
    label = label_of(store, layer)
    shards = tuple(
        name for shard in store.shards() for name in shard.origins
    )  # before the rows: what is committed in between is not claimed
    read = store.layer(layer)
    matrix = LayerMatrix(read.layer, read.name, read.keys, unit(read.values))
    del read
    if not len(matrix):
        raise ParameterError(f"the store {store.path} holds no tracks; build first")
    if kind == "auto":
        kind = "flat" if len(matrix) <= _FLAT_UP_TO else "ivf"
    chosen: type[Index] = resolve("indexes", BUILTIN, kind)
    began = time.perf_counter()
    index = chosen.build(matrix, seed=seed)
    seconds = time.perf_counter() - began
    recall, latency = _measure(index, matrix, seed)
    report = IndexReport(
        kind=kind,
        layer=label,
        rows=len(index),
        dim=index.dim,
        recall_at_10=recall,
        latency_ms=latency,
        seconds=seconds,
        params=dict(index.params),
        seed=seed,
        fingerprint=store.fingerprint,
        shards=shards,
        path=str(store.path / "indices" / f"{label}-{kind}"),
    )
    return save_index(index, report)


def _measure(index: Index, matrix: LayerMatrix, seed: int) -> tuple[float, float]:
    """Recall at 10 against the exact kind, and the median latency in milliseconds."""
    n = len(matrix)
    rows = np.random.default_rng(seed).permutation(n)[
        -_MEASURED_ON:
    ]  # ivf tunes on the first: others, from 1,500 rows on
    queries = matrix.values[rows]
    k = min(10, n - 1)
    hits = 0
    if k:
        true, found = ExactIndex.build(matrix).search(queries, k + 1), index.search(queries, k + 1)
        for own, *answers in zip(matrix.keys[rows], true.keys, true.scores, found.keys, found.scores, strict=True):
            worst = answers[1][answers[0] != own][:k].min()
            hits += int((answers[3][answers[2] != own][:k] >= worst - 1e-6).sum())
    times = []
    for query in queries[:_TIMED]:
        began = time.perf_counter()
        index.search(query[None], 10)
        times.append(time.perf_counter() - began)
    return hits / (k * len(rows)) if k else 1.0, 1000 * float(np.median(times))


def index_coverage(store: EmbeddingStore) -> list[dict[str, Any]]:
    """Say what each saved index covers: plain data for `info`.

    Returns
    -------
    list of dict
        ``layer``, ``kind``, ``covers`` (tracks of the store that it answers for), ``of`` (tracks in the store; those that
        it does not cover are scanned), ``stale`` (its rows that are no tracks of the store any more), ``recall_at_10``,
        ``latency_ms``, ``bytes``, whose sum was checked; for an unusable one its ``name`` and ``problem``.
    """
    listed: list[dict[str, Any]] = []
    for folder in folders(store):
        try:
            report = read_report(folder, store)
            check_index(report)
        except IndexFormatError as error:
            listed.append({"name": folder.name, "problem": str(error)})
            continue
        covers = min(len(store.keys_in(report.shards)), report.rows)  # a track that was hidden then is not in it
        counts = {"covers": covers, "of": len(store), "stale": report.rows - covers}
        figures = {"recall_at_10": report.recall_at_10, "latency_ms": report.latency_ms, "bytes": report.bytes}
        listed.append({"layer": layer_of(report.layer), "kind": report.kind, **counts, **figures})
    return listed
