"""What every form of export is made from: the store's columns, piece by piece."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from embedstore import __version__
from embedstore.errors import ParameterError, StoreError, TrackNotFoundError
from embedstore.store import EmbeddingStore
from embedstore.types import Track

__all__ = ["Column", "Content", "ExportReport", "form_of", "plain"]

F = TypeVar("F")
ROWS = 256  # of a chunk of HDF5; a piece has up to 16 times as many
_AT_ONCE = 2**24  # bytes of vectors in a piece


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes
    ----------
    to : str
        ``"h5"``, ``"parquet"`` or ``"milvus"``.
    target : str
        Absolute path, or the address of the server.
    layers : tuple of str
        Names of the columns with vectors, such as ``"layer_05"``.
    rows : int
        Tracks.
    bytes : int
        Of the file; for Milvus, of the vectors that were sent.
    seconds : float
        That it took.
    collection : str
        Of Milvus; else empty.
    deleted : int
        Rows that were taken out of the collection, because the store does not hold their tracks any more.
    problems : tuple of str
        Damaged or missing shards of the store: their tracks are not in it.
    """

    to: str
    target: str
    layers: tuple[str, ...]
    rows: int
    bytes: int
    seconds: float
    collection: str = ""
    deleted: int = 0
    problems: tuple[str, ...] = ()


class Column(NamedTuple):
    """A layer as it is exported: name of the column, what the store calls it, the layer's own name, width."""

    name: str
    which: int | str
    title: str
    dim: int


@dataclass(frozen=True)
class Content:
    """Some layers of all tracks of a store, to be read until `stop` is set. Made by `of`."""

    store: EmbeddingStore
    columns: tuple[Column, ...]
    progress: Callable[[int, int], None] | None
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(
        cls, store: EmbeddingStore, layers: Sequence[int | str], progress: Callable[[int, int], None] | None = None
    ) -> Content:
        """Look up the layers; each is taken once, in the order asked for.

        Raises
        ------
        UnknownNameError
            No such layer is stored.
        ParameterError
            A mean over layers of different widths.
        """
        columns = {}
        for asked in layers:
            for which in [layer.number for layer in store.card.layers] if asked == "all" else [asked]:
                if which == "mean":
                    dim = store.vectors(store.keys()[:1], which).shape[1]
                    column = Column("layer_mean", which, "mean over all layers", dim)
                else:
                    layer = store.card.layer(which)
                    column = Column(f"layer_{layer.number:02d}", layer.number, plain(layer.name), layer.dim)
                columns[column.name] = column
        return cls(store, tuple(columns.values()), progress)

    @property
    def width(self) -> int:
        """Values that a track has in all layers."""
        return sum(column.dim for column in self.columns)

    def about(self) -> dict[str, str]:
        """Say where the vectors come from; objects as JSON."""
        store = self.store
        return {
            "embedstore_version": __version__,
            "embedstore_fingerprint": store.fingerprint,
            "embedstore_licence": plain(store.card.licence),
            "embedstore_encoder": json.dumps(store.card.to_dict()),
            "embedstore_recipe": json.dumps(store.recipe),
        }

    def written(self, write: Callable[..., dict[str, Any]], target: str, **options: Any) -> dict[str, Any]:
        """Have a form written in a thread of its own, which sees `stop` when a Ctrl-C comes.

        Python delivers no signals there: inside of HDF5 one would be a segmentation fault.
        """
        with ThreadPoolExecutor(1) as thread:
            thread.submit(int).result()  # an interrupted start would not be waited for: have it behind us
            try:
                return thread.submit(write, self, target, **options).result()
            finally:
                self.stop.set()

    def check(self) -> None:
        """Raise KeyboardInterrupt if `stop` was set."""
        if self.stop.is_set():
            raise KeyboardInterrupt

    def pieces(self) -> Iterator[dict[str, Any]]:
        """Read all tracks that are stored now, in the order of ``store.keys()``, with bounded memory.

        Yields
        ------
        dict
            Columns of n rows: ``key`` int64 (n,), ``track_id``, ``path``, ``album``, ``title``, ``split`` lists of str, ``genres``
            and ``artists`` lists of lists of str, ``seconds`` float64 (n,), ``year`` int32 (n,), 0 if unknown, and of each layer,
            by its column's name, float32 (n, dim).

        Raises
        ------
        StoreError
            Another process took tracks away in the meantime.
        KeyboardInterrupt
            `stop` was set.
        """
        done, chunks = 0, _AT_ONCE // (4 * self.width * ROWS)
        for tracks in self.store.iter_tracks(min(max(chunks, 1), 16) * ROWS):
            keys = np.array([track.key for track in tracks], np.int64)
            try:
                vectors = {column.name: self.store.vectors(keys, column.which) for column in self.columns}
            except TrackNotFoundError as error:
                raise StoreError(f"{self.store.path} lost tracks while it was read; export again") from error
            self.check()
            yield {"key": keys, **_described(tracks), **vectors}
            done += len(keys)
            if self.progress:
                self.progress(done, max(done, len(self.store)))


def _described(tracks: Sequence[Track]) -> dict[str, Any]:
    return {
        "track_id": [track.id for track in tracks],
        "path": [plain(track.path) for track in tracks],
        "seconds": np.array([track.seconds for track in tracks], np.float64),
        "genres": [[plain(genre) for genre in track.labels.genres] for track in tracks],
        "artists": [[plain(artist) for artist in track.labels.artists] for track in tracks],
        "album": [plain(track.labels.album) for track in tracks],
        "title": [plain(track.labels.title) for track in tracks],
        "split": [track.labels.split for track in tracks],
        "year": np.array([track.labels.year for track in tracks], np.int32),
    }


def form_of(target: str, forms: Mapping[str, F]) -> F:
    """Choose among forms, given by the endings of file names.

    Raises
    ------
    ParameterError
        No form has this ending.
    """
    try:
        return forms[os.path.splitext(target)[1].lower()]  # noqa: PTH122 - a text
    except KeyError:
        raise ParameterError(f"{target!r} does not say what to write: name it *{', *'.join(forms)}") from None


def plain(text: str) -> str:
    r"""Make text that is valid UTF-8 without NUL: a byte of a path that is not UTF-8 reads ``\udcXX``, as in JSON.

    >>> print(plain("caf\udce9.mp3"))
    caf\udce9.mp3
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
