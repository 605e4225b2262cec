"""The graph of nearest neighbours: for each track of a store those it sounds most like, as a table of edges."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from embedstore.errors import IndexFormatError, ParameterError, StoreError, TrackNotFoundError
from embedstore.exports.base import Content, form_of
from embedstore.index import LayerSearch, Space
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import BLOCK, Rows, write_rows
from embedstore.index.saved import check_sums, usable_indices
from embedstore.registry import require
from embedstore.store import EmbeddingStore
from embedstore.store.disk import explained, new_file
from embedstore.types import Floats, Keys, Mix, Neighbors, track_id

__all__ = ["GraphReport", "knn_graph"]

_QUERIES = 256  # at once: what an exact search takes in one pass over the rows
_COVERED = 0.9  # share of the tracks that an index must hold: the others are held in memory
_EDGES = 2**17  # of a row group
_COLUMNS = ("source", "target", "rank", "score")


@dataclass(frozen=True)
class GraphReport:
    """What was written.

    Attributes
    ----------
    target : str
        Absolute path.
    tracks, edges : int
    k : int
        Neighbours of each track, where there are so many.
    layer : int or str
    transform : str
    index : str
        Kind of the index that found the neighbours; ``"exact"`` if every two tracks were compared.
    recall : float
        At 10, as it was measured when that index was built; 1 for exact.
    bytes : int
    seconds : float
        That it took.
    notes : tuple of str
        Why an index was not used, or how many neighbours it did not find.
    problems : tuple of str
        Damaged or missing shards of the store: their tracks are not in it.
    """

    target: str
    tracks: int
    edges: int
    k: int
    layer: int | str
    transform: str
    index: str
    recall: float
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def knn_graph(
    store: EmbeddingStore,
    target: str | os.PathLike[str],
    *,
    k: int = 10,
    layer: int | str | Mix | None = None,
    transform: str = "none",
    exact: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> GraphReport:
    """Write each track's nearest neighbours: a row for each, track after track.

    Columns: ``source`` and ``target`` (track ids), ``rank`` (1 is the nearest; the track itself is left out) and ``score`` (the
    cosine, higher is nearer). The metadata of the Parquet schema say of what: ``embedstore_store``, ``_layer``,
    ``_transform``, ``_k``, ``_index``, ``_recall``, and where the vectors come from. A saved index answers, if one holds nine
    tenths of the tracks and takes less time for one than it takes to compare it with all, many at once; else all tracks are
    compared, from a temporary file of their vectors, so that memory does not grow with the store.

    Parameters
    ----------
    store : EmbeddingStore
    target : str or path
        ``*.parquet``, or ``*.csv``, which has no metadata.
    k : int
        Neighbours of each track.
    layer, transform
        As `LayerSearch` takes them.
    exact : bool
        Compare all tracks, even where there is an index.
    overwrite : bool
        Replace the file if there is one.
    progress : callable, optional
        Called with (tracks done, tracks in all).

    Raises
    ------
    ParameterError
        The store is empty; `k` < 1; the target has another ending, exists, or lies in the store.
    UnknownNameError
        No such layer or transform.
    MissingDependencyError
        pyarrow is not installed.
    StoreError
        The disk refused, or the store lost tracks meanwhile; no file is left behind.

    Examples
    --------
    >>> knn_graph(EmbeddingStore.open("my-store"), "near.parquet", k=10).edges  # doctest: +SKIP
    1120
    """
    target = os.fspath(target)
    begin = form_of(target, _FORMS)
    if k < 1:
        raise ParameterError(f"k must be at least 1; got {k}")
    if not len(store):
        raise ParameterError(f"the store {store.path} holds no tracks; build first")
    began = time.perf_counter()
    space = Space.of(store, layer, transform)
    indexed, notes = (False, ()) if exact else _index_serves(store, space)

    def write(content: Content, target: str, *, overwrite: bool) -> dict[str, Any]:
        with (
            new_file(target, content.store.path, overwrite=overwrite) as handle,
            (_indexed if indexed else _compared)(content, space) as graph,
        ):
            about = {"store": store.id, "layer": str(space.layer), "transform": transform, "k": str(k)}
            about |= {"index": graph.kind, "recall": f"{graph.recall:.4f}"}
            edges = 0
            with open(handle, "wb", closefd=False) as file:
                with begin(file, content.about() | {f"embedstore_{name}": text for name, text in about.items()}) as add:
                    for columns in _gathered(_edges(content, graph, k)):
                        add(columns)
                        edges += len(columns["source"])
                file.flush()
            n, missing = len(graph.keys), len(graph.keys) * min(k, len(graph.keys) - 1) - edges
            size = os.fstat(handle).st_size
        lost = (f"the index did not find {missing} of {missing + edges} neighbours",) if missing else ()
        told = {"index": graph.kind, "recall": graph.recall, "notes": ((graph.notes if indexed else notes) + lost)}
        return {"target": os.path.abspath(target), "tracks": n, "edges": edges, "bytes": size, **told}

    done = Content(store, (), progress).written(write, target, overwrite=overwrite)
    seconds = time.perf_counter() - began
    return GraphReport(k=k, layer=space.layer, transform=transform, seconds=seconds, problems=store.problems, **done)


def _index_serves(store: EmbeddingStore, space: Space) -> tuple[bool, tuple[str, ...]]:
    """Tell whether the index that `LayerSearch` takes should answer; if not, why."""
    usable, problems = usable_indices(store, space.label)
    notes, keys = [f"{one}; build it again with 'embedstore index'" for one in problems], store.keys()
    for held, report in usable:
        count = len(held)
        alone = _milliseconds(len(keys), space.dim)
        if count < _COVERED * len(keys):
            notes.append(f"the {report.kind} index was not used: it covers {count} of {len(keys)} tracks")
        elif report.latency_ms >= alone:
            notes.append(
                f"the {report.kind} index was not used: {report.latency_ms:.2g} ms a track, comparing all {alone:.2g} ms"
            )
        else:
            try:
                check_sums(report)
            except IndexFormatError as error:
                notes.append(f"the {report.kind} index is not usable: {error}; build it again with 'embedstore index'")
                continue
            return True, ()
        break
    return False, tuple(notes)


def _milliseconds(n: int, dim: int) -> float:
    """Measure how long a track takes if many at once are compared with n tracks, on a part of so many."""
    values = np.random.default_rng(0).standard_normal((min(n, 4 * BLOCK), dim), np.float32)
    index, times = ExactIndex(Rows(np.arange(len(values)), values)), []
    for _ in range(3):
        began = time.perf_counter()
        index.search(values[:_QUERIES], 10)
        times.append(time.perf_counter() - began)
    return 1000 * min(times) / min(n, _QUERIES) * n / len(values)


class _Graph(NamedTuple):
    """What can be asked for the neighbours of all its tracks."""

    keys: Keys
    vectors: Callable[[int, int], Floats]  # of the keys from the one place to the other
    search: Callable[[Floats, int], Neighbors]
    kind: str
    recall: float
    notes: tuple[str, ...] = ()


@contextmanager
def _indexed(content: Content, space: Space) -> Iterator[_Graph]:
    live = LayerSearch(content.store, space.which, space.kind)
    kind, recall = (live.report.kind, live.report.recall_at_10) if live.report else ("exact", 1.0)
    yield _Graph(
        live.keys, lambda start, stop: live.vectors(live.keys[start:stop]), live.search, kind, recall, live.notes
    )


@contextmanager
def _compared(content: Content, space: Space) -> Iterator[_Graph]:
    store, keys = content.store, content.store.keys()

    def blocks(read: Callable[[Keys], Floats]) -> Iterator[Floats]:
        for start in range(0, len(keys), BLOCK):
            content.check()
            yield read(keys[start : start + BLOCK])

    with tempfile.TemporaryDirectory(prefix="embedstore-") as folder:
        path = Path(folder) / "rows"
        try:
            read = space.reader(store, space.fit(store))
            with explained(f"cannot write the vectors to compare to {folder}"):
                write_rows(path, keys, space.dim, blocks(read), half=space.half)
        except TrackNotFoundError as error:
            raise StoreError(f"{store.path} lost tracks while it was read; try again") from error
        rows = Rows.open(path)
        yield _Graph(keys, lambda start, stop: rows.unit(np.arange(start, stop)), ExactIndex(rows).search, "exact", 1.0)


def _edges(content: Content, graph: _Graph, k: int) -> Iterator[dict[str, Any]]:
    """Find the neighbours of all tracks, a batch at a time: columns of edges, keys for tracks."""
    n = len(graph.keys)
    for start in range(0, n, _QUERIES):
        keys = graph.keys[start : start + _QUERIES]
        found = graph.search(graph.vectors(start, start + len(keys)), min(k + 1, n))
        real = (found.keys >= 0) & (found.keys != keys[:, None])
        rank = np.cumsum(real, axis=1)
        rows, places = np.nonzero(real & (rank <= k))
        content.check()
        columns = (
            keys[rows],
            found.keys[rows, places],
            rank[rows, places].astype(np.int32),
            found.scores[rows, places],
        )
        yield dict(zip(_COLUMNS, columns, strict=True))
        if content.progress:
            content.progress(min(start + _QUERIES, n), n)


def _gathered(pieces: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Join pieces until they are worth a row group; write keys as track ids."""
    held: list[dict[str, Any]] = []

    def joined() -> dict[str, Any]:
        columns = {name: np.concatenate([piece[name] for piece in held]) for name in _COLUMNS}
        held.clear()
        return columns | {name: [track_id(key) for key in columns[name].tolist()] for name in ("source", "target")}

    for piece in pieces:
        held.append(piece)
        if sum(len(one["rank"]) for one in held) >= _EDGES:
            yield joined()
    if held:
        yield joined()


Add = Callable[[dict[str, Any]], object]


@contextmanager
def _parquet(file: BinaryIO, about: dict[str, str]) -> Iterator[Add]:
    install = "pip install 'embedstore-mir[parquet]'"
    pa, parquet = require("pyarrow", install), require("pyarrow.parquet", install)
    types = {"source": pa.string(), "target": pa.string(), "rank": pa.int32(), "score": pa.float32()}
    schema = pa.schema(types, metadata=about)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda columns: writer.write_table(pa.table(columns, schema=schema))


@contextmanager
def _csv(file: BinaryIO, about: dict[str, str]) -> Iterator[Add]:  # noqa: ARG001 - a CSV has no place for it
    def add(rows: Iterable[Sequence[object]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        file.write(text.getvalue().encode())

    add([_COLUMNS])
    yield lambda columns: add(zip(*columns.values(), strict=True))


_FORMS = {".parquet": _parquet, ".csv": _csv}
