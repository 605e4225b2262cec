"""The map of the library as a page draws it: which tracks there are, and where they lie."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from embedstore.errors import UnknownNameError
from embedstore.maps import METHODS, Map, estimate_seconds, make_map, open_map, place
from embedstore.maps.saved import where
from embedstore.search.columns import Columns
from embedstore.store import EmbeddingStore
from embedstore.types import Keys, track_id
from embedstore.web.answers import Answer
from embedstore.web.jobs import Jobs
from embedstore.web.library import Kept, modified
from embedstore.web.mapmodels import MapLayer, MapMethod, MapPositions, MapState, MapTracks, NamedCodes
from embedstore.web.searchers import Searchers
from embedstore.web.work import Progress

__all__ = ["MapOptions", "Mapping", "make"]

_MEMORY = 2**28  # bytes of layouts that are remembered: of 100,000 tracks 1.5 MB each
_PLACES = 65_535  # a position is a number from 0 to this


class MapOptions(BaseModel):
    """How a map is made.

    Attributes
    ----------
    method : {"umap", "pca"}
        The second is quick and coarse.
    seed : int
        The same seed makes the same map.
    neighbors : int
        Of a track that UMAP tries to keep beside it.
    """

    model_config = ConfigDict(extra="forbid")

    method: Literal["umap", "pca"] = "umap"
    seed: int = Field(0, ge=0, lt=2**32)
    neighbors: int = Field(15, ge=2, le=200)


def make(store: str, progress: Progress, method: str, seed: int, neighbors: int) -> str:
    """Make a map: a job. Where the store cannot be written, it is kept for as long as the service runs."""
    instead = Path(tempfile.gettempdir())
    make_map(EmbeddingStore.open(store), method, seed=seed, neighbors=neighbors, progress=progress, instead=instead)
    return method


@dataclass(frozen=True, eq=False)
class _Rows:
    """The tracks of the map at one moment.

    Attributes
    ----------
    version : str
        Of what is said about them.
    keys : int64 array, shape (n,)
        In order.
    body : bytes
        The answer that lists them.
    """

    version: str
    keys: Keys
    body: bytes


class Mapping:
    """Answers what a page asks about the map.

    Parameters
    ----------
    searchers : Searchers
    jobs : Jobs
        That make maps.
    """

    def __init__(self, searchers: Searchers, jobs: Jobs) -> None:
        self._store, self._searchers, self._jobs = searchers.store, searchers, jobs
        self._rows = Kept(self._store, self._read)
        self._lock = threading.Lock()
        self._kept = dict[str, tuple[str, Map | None]]()  # by method: when it was written, and what it is
        # by method and layer: of which rows and map, and the answer; the newest are last
        self._laid = dict[object, tuple[object, bytes]]()

    def _read(self) -> _Rows:
        view = self._searchers.default.view()
        columns, keys = view.columns(), view.live.keys
        places = columns.places(keys)
        told = _tell(columns, places[places >= 0])
        version = hashlib.blake2b(Answer(told).body, digest_size=8).hexdigest()
        return _Rows(version, keys[places >= 0], bytes(Answer(replace(told, version=version)).body))

    def tracks(self) -> bytes:
        """List the tracks: a `MapTracks`."""
        return self._rows().body

    def rows(self, keys: Keys, version: str) -> list[int]:
        """Find the rows of tracks, in order; those that the map does not have are left out.

        Raises
        ------
        HTTPException
            409: the version is not the present one.
        """
        rows = self._of(version)
        return np.flatnonzero(np.isin(rows.keys, keys)).tolist()

    def state(self) -> MapState:
        """Tell what may be drawn."""
        rows, card = self._rows(), self._store.card
        numbers = [layer.number for layer in card.layers]
        busy = self._jobs.running()
        making = busy.options["method"] if busy and busy.kind == "map" else ""
        methods, notes = list[MapMethod](), self._searchers.default.view().notes
        for method in METHODS:
            stamp, found = self._open(method)
            covers = 0 if found is None else int(np.isin(found.keys, rows.keys).sum())
            state: Any = "ready" if covers else "making" if method == making else "missing"
            seconds = round(estimate_seconds(len(rows.keys), len(numbers), method), 1)
            notes += found.notes if found is not None and covers else ()
            methods.append(MapMethod(method, state, covers, seconds, stamp if covers else ""))
        shown = self._searchers.default.layer
        return MapState(
            rows.version,
            len(rows.keys),
            tuple(MapLayer(layer.number, layer.name) for layer in card.layers),
            shown if isinstance(shown, int) and shown in numbers else card.default_layer,
            tuple(methods),
            tuple(dict.fromkeys(notes)),
        )

    def map(self, method: str) -> Map | None:
        """Give the map of a method; None: it is to be made."""
        return self._open(method)[1]

    def _open(self, method: str) -> tuple[str, Map | None]:
        """Read the newest map of the store and the jobs; with when they were written."""
        with self._lock:
            before = self._kept.get(method)
            places = [(modified(where(place, method)), place) for place in (self._store.path, self._jobs.folder)]
            stamp = "-".join(f"{when:x}" for when, _ in places)
            if before is None or before[0] != stamp:
                maps = (open_map(self._store, method, place) for _, place in sorted(places, reverse=True))
                self._kept[method] = before = stamp, next(filter(None, maps), None)
            return before

    def positions(self, method: str, layer: int, version: str) -> bytes:
        """Say where the tracks lie: a `MapPositions`.

        Raises
        ------
        HTTPException
            409: the version is not the present one; 404: this map is to be made, perhaps again.
        UnknownNameError
            No such layer or method.
        """
        if method not in METHODS:
            raise UnknownNameError(f"there is no map {method!r:.80}; known: {', '.join(METHODS)}")
        number = self._store.card.layer(layer).number
        rows, (stamp, found) = self._of(version), self._open(method)
        if found is None:
            raise HTTPException(404, f"no map by {method} is made; POST /api/jobs makes it")
        laid = self._laid.get((method, number))
        if laid is None or laid[0] != (version, stamp):
            laid = (version, stamp), self._lay_out(found, number, rows)
            with self._lock:
                self._laid.pop((method, number), None)
                self._laid[method, number] = laid
                while sum(len(body) for _, body in self._laid.values()) > _MEMORY:
                    del self._laid[next(iter(self._laid))]
        return laid[1]

    def _of(self, version: str) -> _Rows:
        rows = self._rows()
        if rows.version != version:
            raise HTTPException(409, "the library has changed; ask /api/map/tracks again")
        return rows

    def _lay_out(self, found: Map, layer: int, rows: _Rows) -> bytes:
        at = found.layers.index(layer)
        known = np.isin(rows.keys, found.keys)
        if not known.any():
            raise HTTPException(
                404, f"the map by {found.method} has none of these tracks; POST /api/jobs makes it again"
            )
        mapped = np.searchsorted(found.keys, rows.keys[known])
        places = np.full((len(rows.keys), 2), 0.5, np.float32)
        clusters = np.full(len(rows.keys), -1, np.int16)
        places[known], clusters[known] = found.positions[at, mapped], found.clusters[at, mapped]
        if not known.all():
            live = self._searchers.of(layer).view().live
            new = ~known & np.isin(rows.keys, live.keys)  # which may have lost some
            places[new] = place(found, live, layer, rows.keys[new])
        x, y = np.rint(places * _PLACES).astype(np.int64).T.tolist()
        return bytes(Answer(MapPositions(rows.version, found.method, layer, x, y, clusters.tolist())).body)


def _tell(columns: Columns, places: NDArray[np.int64]) -> MapTracks:
    chosen = places.tolist()
    labels = [columns.labels[place] for place in chosen]
    return MapTracks(
        version="",
        tracks=[track_id(key) for key in columns.keys[places].tolist()],
        titles=[columns.short(place) for place in chosen],
        genres=_code([one.genres for one in labels]),
        artists=_code([one.artists for one in labels]),
        years=[one.year or None for one in labels],
        seconds=columns.seconds[places].round(1).tolist(),
    )


def _code(told: list[tuple[str, ...]]) -> NamedCodes:
    """Give each name a number, the most frequent first; -1: none."""
    counts = Counter(name for one in told for name in one)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    numbers = {name: number for number, name in enumerate(names)}
    codes = [numbers[one[0]] if one else -1 for one in told]
    return NamedCodes(names, codes, [(row, numbers[name]) for row, one in enumerate(told) for name in one[1:]])
