"""Build an index over one space, or add to it; measure it against exact search, keep it beside the store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import IndexFormatError, ParameterError
from embedstore.index.base import Goal, Index
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import BLOCK, Rows, write_rows
from embedstore.index.saved import (
    IndexReport,
    check_index,
    folders,
    kind_class,
    load_index,
    new_folder,
    publish,
    read_report,
    usable_indices,
)
from embedstore.index.space import Space, Transform
from embedstore.store import EmbeddingStore
from embedstore.types import Keys, Mix

__all__ = ["build_index", "index_coverage", "update_index"]

_MEASURED_ON, _TIMED = 1000, 50
_DEAD = 0.2  # share of rows that are no tracks any more, above which an update builds anew


def build_index(
    store: EmbeddingStore,
    layer: int | str | Mix | None = None,
    kind: str = "auto",
    *,
    transform: str = "none",
    goal: Goal | None = None,
    seed: int = 0,
) -> IndexReport:
    """Build an index of one layer and keep it in the store's folder; it replaces one of the same layer, transform and kind.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int, str or Mix, optional
        Number or name of a layer, ``"mean"`` or a mix; default: the encoder's choice.
    kind : str
        ``"flat"``, ``"ivf"``, ``"rabitq"``, ... (see `BUILTIN`), a plug-in's, or a FAISS factory string such as
        ``"IVF256,SQ8"``; ``"auto"`` goes by rows, memory and the wanted recall.
    transform : str
        See `TRANSFORMS`.
    goal : Goal, optional
        What an approximate kind is tuned to.
    seed : int
        Of training, and of the rows that the index is measured on.

    Raises
    ------
    ParameterError
        The store is empty, or `seed` is negative.
    UnknownNameError
        No such kind, layer or transform.
    StoreError
        The disk refused.

    Examples
    --------
    >>> build_index(EmbeddingStore.open("my-store"), layer=6).recall_at_10  # doctest: +SKIP
    1.0
    """
    if kind != "auto":
        kind_class(kind)
    if seed < 0:
        raise ParameterError(f"a seed is at least 0; got {seed}")
    space = Space.of(store, layer, transform)
    # before the rows: what is committed in between is not claimed
    shards, keys = _origins(store), store.keys()
    if not len(keys):
        raise ParameterError(f"the store {store.path} holds no tracks; build first")
    with new_folder(store) as folder:
        moved = space.fit(store)
        if moved is not None:
            moved.save(folder / "transform")
        rows = _write(store, space, moved, keys, folder)
        goal = goal or Goal()
        if kind == "auto":
            kind = _choose(rows, goal)
        began = time.perf_counter()
        index = kind_class(kind).build(rows, folder, goal=goal, seed=seed)
        seconds = time.perf_counter() - began
        recall, latency = _measure(index, seed)
        report = IndexReport(
            kind=kind,
            layer=space.label,
            transform=transform,
            rows=len(rows),
            dim=rows.dim,
            recall_at_10=recall,
            latency_ms=latency,
            seconds=seconds,
            params=dict(index.params),
            seed=seed,
            goal=asdict(goal),
            fingerprint=store.fingerprint,
            shards=shards,
        )
        return publish(store, folder, report)


def update_index(
    store: EmbeddingStore, layer: int | str | Mix | None = None, kind: str = "auto", *, transform: str = "none"
) -> IndexReport:
    """Bring a saved index up to what the store holds now, without learning anew where its kind can add to itself.

    If more than a fifth of its rows are no tracks any more, or its kind cannot, it is built again, to the same goal.

    Parameters
    ----------
    store, layer, transform
        As in `build_index`.
    kind : str
        ``"auto"``: the index that covers most.

    Raises
    ------
    ParameterError
        There is no usable index to add to.
    UnknownNameError, StoreError
        As `build_index`.
    """
    space = Space.of(store, layer, transform)
    usable, problems = usable_indices(store, space.label)
    usable = [report for report in usable if kind in ("auto", report.kind)]
    if not usable:
        why = f" ({'; '.join(problems)})" if problems else ""
        raise ParameterError(
            f"there is no {'' if kind == 'auto' else kind + ' '}index of layer {space.label} to add to{why}; build one without --update"
        )
    report = max(usable, key=lambda one: len(store.keys_in(one.shards)))
    shards, keys = _origins(store), store.keys()
    saved = load_index(report)
    old = saved.index.rows.keys
    added = keys[~np.isin(keys, old)]
    dead = ~np.isin(old, store.keys_in(report.shards))  # also what was encoded again, elsewhere
    if not len(added) and not dead.any() and set(shards) == set(report.shards):
        return report
    extend = getattr(saved.index, "extend", None)
    again = np.isin(keys, old[dead]).any()
    if extend is None or again or dead.sum() > _DEAD * len(old):
        return build_index(store, layer, report.kind, transform=transform, goal=Goal(**report.goal), seed=report.seed)
    with new_folder(store) as folder:
        if saved.transform is not None:
            saved.transform.save(folder / "transform")
        rows = _write(store, space, saved.transform, added, folder, saved.index.rows)
        began = time.perf_counter()
        index = extend(rows, folder)
        seconds = time.perf_counter() - began
        recall, latency = _measure(index, report.seed)
        return publish(
            store,
            folder,
            replace(
                report,
                rows=len(rows),
                recall_at_10=recall,
                latency_ms=latency,
                seconds=seconds,
                params=dict(index.params),
                shards=shards,
                files={},
                path="",
            ),
        )


def _origins(store: EmbeddingStore) -> tuple[str, ...]:
    return tuple(name for shard in store.shards() for name in shard.origins)


def _choose(rows: Rows, goal: Goal) -> str:
    from embedstore.index.tune import choose

    return choose(rows, goal)


def _write(
    store: EmbeddingStore, space: Space, moved: Transform | None, keys: Keys, folder: Path, before: Rows | None = None
) -> Rows:
    """Write the rows of some tracks, behind those of an index, and map them."""
    read = space.reader(store, moved)
    blocks: Iterable[Any] = (read(keys[start : start + BLOCK]) for start in range(0, len(keys), BLOCK))
    known = np.empty(0, np.int64)
    if before is not None:
        known = before.keys
        blocks = chain((before.values[start : start + BLOCK] for start in range(0, len(known), BLOCK)), blocks)
    write_rows(folder / "rows", np.append(known, keys), space.dim, blocks, half=space.half)
    return Rows.open(folder / "rows")


def _measure(index: Index, seed: int) -> tuple[float, float]:
    """Recall at 10 against the exact kind, and the median latency in milliseconds."""
    rows = index.rows
    n = len(rows)
    chosen = np.random.default_rng([seed, 1]).permutation(n)[:_MEASURED_ON]  # kinds are tuned on others
    queries, k = rows.unit(chosen), min(10, n - 1)
    hits = 0
    if k:
        true, found = ExactIndex(rows).search(queries, k + 1), index.search(queries, k + 1)
        for own, *answers in zip(rows.keys[chosen], true.keys, true.scores, found.keys, found.scores, strict=True):
            worst = answers[1][answers[0] != own][:k].min()
            hits += int((answers[3][answers[2] != own][:k] >= worst - 1e-6).sum())
    times = []
    for query in queries[:_TIMED]:
        began = time.perf_counter()
        index.search(query[None], 10)
        times.append(time.perf_counter() - began)
    return hits / (k * len(chosen)) if k else 1.0, 1000 * float(np.median(times))


def index_coverage(store: EmbeddingStore) -> list[dict[str, Any]]:
    """Say what each saved index covers: plain data for `info`.

    Returns
    -------
    list of dict
        ``layer``, ``transform``, ``kind``, ``covers`` (tracks of the store that it answers for), ``of`` (tracks in the store;
        those that it does not cover are scanned), ``stale`` (its rows that are no tracks of the store any more),
        ``recall_at_10``, ``latency_ms``, ``bytes``, ``memory``; for an unusable one its ``name`` and ``problem``.
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
        told = report.to_dict()
        figures = ("layer", "transform", "kind", "recall_at_10", "latency_ms", "bytes", "memory")
        counts = {"covers": covers, "of": len(store), "stale": report.rows - covers}
        listed.append({name: told[name] for name in figures} | counts)
    return listed
