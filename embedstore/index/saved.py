"""Indices on disk: ``indices/LAYER-KIND/`` holds ``index.faiss`` and the ``meta.json`` that says what it is.

An index is a cache. The meta is written last; the index is read only if the meta is ours, of this store, and holds the
file's sum. Anything else makes an index unusable, never wrong: search then scans the store.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from embedstore.errors import EmbedstoreError, IndexFormatError, StoreFormatError
from embedstore.index.base import Index
from embedstore.registry import known, resolve
from embedstore.store import EmbeddingStore
from embedstore.store.disk import explained, plain_file, refuse_link, write_file
from embedstore.store.records import parse, take

__all__ = [
    "BUILTIN",
    "IndexReport",
    "check_index",
    "folders",
    "label_of",
    "layer_of",
    "load_index",
    "read_report",
    "save_index",
]

# name -> class; see `Index` for what it promises
BUILTIN = {
    "exact": "embedstore.index.exact:ExactIndex",
    "flat": "embedstore.index.faisskinds:FlatIndex",
    "ivf": "embedstore.index.faisskinds:IvfIndex",
}
_FORMAT = {"format": 1, "metric": "cosine"}
_LARGEST = 2**25  # bytes of a meta; the shards of 100 million tracks take less
_TYPES = {"int": int, "str": str, "float": float, "tuple[str, ...]": list, "dict[str, Any]": dict}


@dataclass(frozen=True)
class IndexReport:
    """What an index is and how good it was when it was built: the content of ``meta.json``.

    Attributes
    ----------
    kind : str
    layer : str
        Number of the layer, or ``"mean"``.
    rows, dim : int
    recall_at_10 : float
        Share of the ten true neighbours of up to 1,000 stored rows (themselves left out) that it finds; a row that ties
        with the tenth counts. 1 if there is only one row.
    latency_ms : float
        Median time of one query, in milliseconds.
    seconds : float
        That building took, without measuring.
    params : dict
        The kind's own, e.g. FAISS's factory string.
    seed : int
    fingerprint : str
        Of the store's recipe.
    shards : tuple of str
        Where the tracks that it holds were first committed (`ShardInfo.origins`).
    bytes : int
        Of the index file.
    sha256 : str
        Of the index file.
    path : str
        Absolute folder of the index.
    """

    kind: str
    layer: str
    rows: int
    dim: int
    recall_at_10: float
    latency_ms: float
    seconds: float
    params: dict[str, Any]
    seed: int
    fingerprint: str
    shards: tuple[str, ...] = field(repr=False)
    bytes: int = 0
    sha256: str = ""
    path: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the shards."""
        data = asdict(self) | {"layer": layer_of(self.layer)}
        del data["shards"]
        return data


def label_of(store: EmbeddingStore, layer: int | str | None) -> str:
    """Name a layer as indices do: by its number, or ``"mean"``."""
    if layer == "mean":
        return layer
    return str(store.card.layer(store.card.default_layer if layer is None else layer).number)


def layer_of(label: str) -> int | str:
    """Give the number behind a label; ``"mean"`` stays.

    >>> layer_of("6"), layer_of("mean")
    (6, 'mean')
    """
    return label if label == "mean" else int(label)


def folders(store: EmbeddingStore, label: str = "*") -> Iterator[Path]:
    """List the folders of the indices of one layer, or of all."""
    base = store.path / "indices"
    files = () if base.is_symlink() else sorted(base.glob(f"{label}-*/meta.json"))
    return (file.parent for file in files if not file.parent.is_symlink())


def save_index(index: Index, report: IndexReport) -> IndexReport:
    """Write an index to ``report.path`` and then its meta, each whole or not at all.

    Raises
    ------
    StoreError
        The disk refused.
    """
    stream = io.BytesIO()
    index.save(stream)
    data = stream.getvalue()
    report = replace(report, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    folder = Path(report.path)
    with explained(f"cannot write the index {folder}"):
        for place in (folder.parent, folder):
            refuse_link(place)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "index.faiss", data)
        write_file(folder / "meta.json", json.dumps(asdict(report) | _FORMAT).encode())
    return report


def read_report(folder: Path, store: EmbeddingStore) -> IndexReport:
    """Read and check a meta.

    Raises
    ------
    IndexFormatError
        It is not one of ours, not of this store, or not of this folder.
    """
    try:
        with _opened(folder / "meta.json", _LARGEST) as file:
            data = parse(file.read(), "meta.json")
        found = {item.name: take(data, item.name, _TYPES[str(item.type)]) for item in fields(IndexReport)}
        report = IndexReport(**found | {"path": str(folder), "shards": tuple(found["shards"])})
    except StoreFormatError as error:
        raise IndexFormatError(f"{error}") from error
    if {name: data.get(name) for name in _FORMAT} != _FORMAT:
        raise IndexFormatError(f"its format is not {_FORMAT}")
    if report.fingerprint != store.fingerprint:
        raise IndexFormatError("it belongs to a store with another recipe")
    dims = {str(layer.number): layer.dim for layer in store.card.layers} | {"mean": store.card.layers[0].dim}
    if folder.name != f"{report.layer}-{report.kind}" or report.kind not in known("indexes", BUILTIN):
        raise IndexFormatError(f"it says that it is {report.layer!r:.40}-{report.kind!r:.40}")
    if report.dim != dims.get(report.layer):
        raise IndexFormatError(f"its rows have {report.dim} values, the layer's have {dims.get(report.layer)}")
    figures = (report.recall_at_10, report.latency_ms, report.seconds)
    if not all(isinstance(shard, str) for shard in report.shards) or not all(0 <= n < 2**63 for n in figures):
        raise IndexFormatError("its shards are not names, or its figures not numbers")
    if report.rows > 2 * len(store) + 1000 or report.bytes > report.rows * (8 * report.dim + 1000) + 2**20:
        raise IndexFormatError(f"{report.rows} rows in {report.bytes} bytes do not fit a store of {len(store)} tracks")
    return report


def load_index(report: IndexReport) -> Index:
    """Read an index whose file has the sum that its meta promises; nothing is parsed before that is known.

    Raises
    ------
    IndexFormatError
        It has not, or does not hold what the meta says.
    """
    with _opened(Path(report.path) / "index.faiss", report.bytes) as file:
        data = file.read()
    _check_sum(hashlib.sha256(data), report)
    try:
        index: Index = resolve("indexes", BUILTIN, report.kind).load(io.BytesIO(data), report.params)
    except EmbedstoreError as error:
        raise IndexFormatError(f"{error}") from error
    if (len(index), index.dim) != (report.rows, report.dim):
        raise IndexFormatError(f"it holds {len(index)} rows of width {index.dim}, not {report.rows} of {report.dim}")
    return index


def check_index(report: IndexReport) -> None:
    """Compare an index's file with the sum that its meta promises, without loading it.

    Raises
    ------
    IndexFormatError
        It has another one.
    """
    with _opened(Path(report.path) / "index.faiss", report.bytes) as file:
        _check_sum(hashlib.file_digest(file, "sha256"), report)


def _check_sum(found: Any, report: IndexReport) -> None:
    if found.hexdigest() != report.sha256:
        raise IndexFormatError("index.faiss does not have the sum that meta.json promises")


@contextmanager
def _opened(path: Path, most: int) -> Iterator[io.BufferedReader]:
    """Open a plain file of at most `most` bytes; never through a link, a pipe or a device."""
    try:
        with plain_file(path, most) as file:
            yield file
    except OSError as error:
        raise IndexFormatError(f"{path.name} cannot be read: {error.strerror}") from error
