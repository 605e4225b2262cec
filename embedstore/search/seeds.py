"""From what a person names to a vector: a stored track, a file that is heard now, a moment in either."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.audio import SoundReport, window_spans
from embedstore.errors import ParameterError, StoreError, TrackNotFoundError
from embedstore.index import LayerSearch
from embedstore.search.columns import Columns
from embedstore.search.values import Seed
from embedstore.store import EmbeddingStore
from embedstore.terminal import clock
from embedstore.types import Floats, Keys, LayerEmbeddings, Mix, Track, TrackLabels, Windowing, track_id

if TYPE_CHECKING:
    from embedstore.encoders import Encoder

__all__ = ["Ear", "Heard", "Sound"]

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Sound:
    """What a seed sounds like.

    Attributes
    ----------
    key : int or None
        Of the stored track; None if the sound is not stored.
    vector : float32 array, shape (dim,)
        Placed: of length 1, or zeros.
    seconds : float
        Duration of the whole track.
    labels : TrackLabels
    notes : tuple of str
        What was wrong but not fatal.
    """

    key: int | None
    vector: Floats
    seconds: float
    labels: TrackLabels
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heard:
    """A file, encoded.

    Attributes
    ----------
    report : SoundReport
        What decoding it found.
    embeddings : LayerEmbeddings
        Of all layers of the store; with windows if these were asked for.
    windowing : Windowing
        How it was cut.
    """

    report: SoundReport
    embeddings: LayerEmbeddings
    windowing: Windowing


class Ear:
    """Hears what a store holds, and files with its encoder, which is loaded when it is first needed, once.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int, str or Mix, optional
        As `EmbeddingStore.layer` takes it.
    options
        As `encoder_of` takes them.
    """

    def __init__(self, store: EmbeddingStore, layer: int | str | Mix | None, **options: Any) -> None:
        self.store, self.layer, self._options = store, layer, options
        self._loaded: list[Encoder] = []  # at most one, which copies share
        self._lock = threading.Lock()

    def of(self, layer: int | str | Mix | None) -> Ear:
        """Hear another layer with the same encoder."""
        other = copy(self)
        other.layer = layer
        return other

    def hear(
        self, seed: Seed, live: LayerSearch, columns: Callable[[], Columns], heard: Mapping[str, Heard] | None = None
    ) -> Sound:
        """Get what a seed sounds like; `heard` are files that were encoded before, by what seeds call them.

        Raises
        ------
        TrackNotFoundError, ParameterError
            As `Columns.meant`; a moment beyond the end.
        StoreError
            A moment of a stored track, and no windows are kept.
        AudioError, EncoderError, EncoderMismatchError
            A file that cannot be encoded as the store's tracks were.
        """
        if heard and (before := heard.get(seed.what)):
            return self._file(seed, live, before)
        track, notes = self._stored(seed.what, columns)
        if track is not None:
            return self._track(seed, track, live, notes)
        return self._file(seed, live, self.encode(seed.what, keep_windows=seed.at is not None))

    def _stored(self, what: str, columns: Callable[[], Columns]) -> tuple[Track | None, tuple[str, ...]]:
        """Find the track that is meant; None if it is a file that is not stored."""
        track = self.store.find(what)
        if track is not None and track.id == what:
            return track, ()  # whatever lies in the current folder: an id names no file
        if os.path.isfile(what):  # noqa: PTH113 - unlike Path's, never raises
            path = os.path.abspath(what)
            same = [file for file in track.files if file.full_path == path] if track else []
            if not same:
                return None, ()  # though a stored one may be called so
            found = os.stat(what)  # noqa: PTH116 - a text
            if (same[0].size, same[0].mtime_ns) == (found.st_size, found.st_mtime_ns):
                return track, ()
            return track, (
                f"{what} has changed since it was stored; this is what the stored sound is near to; build again",
            )
        if track is None:
            try:
                key, words = columns().meant(what)
            except TrackNotFoundError as error:
                raise TrackNotFoundError(f"{error}; and there is no file of that name") from error
            if (track := self.store.find(track_id(key))) is None:
                raise TrackNotFoundError(f"{what!r} was stored, and is not any more")
            return track, (f"{what!r} is taken to mean {words}",) if words else ()
        return track, ()

    def _track(self, seed: Seed, track: Track, live: LayerSearch, notes: tuple[str, ...]) -> Sound:
        key = np.array([track.key])
        if seed.at is None:
            vector = live.vectors(key)[0]
        else:
            try:
                windows = self.store.windows(self.layer, key)
            except StoreError as error:
                raise StoreError(f"there is no moment {clock(seed.at)} of {seed.what}: {error}") from error
            place = _around(seed, track.seconds, windows.starts, windows.ends)
            vector = live.place(windows.values[place : place + 1])[0]
        return Sound(track.key, vector, track.seconds, track.labels, notes)

    def encode(self, path: str, **options: Any) -> Heard:
        """Encode a file, with options as `encode_file` takes them.

        Raises
        ------
        AudioError, EncoderError, EncoderMismatchError
            It cannot be encoded as the store's tracks were.
        """
        from embedstore.options import encoder_of, hear_file

        with self._lock:
            if not self._loaded:
                self._loaded.append(encoder_of(self.store, **self._options))
        return Heard(*hear_file(self._loaded[0], path, **options), self._loaded[0].windowing)

    def _file(self, seed: Seed, live: LayerSearch, heard: Heard) -> Sound:
        report, embeddings = heard.report, heard.embeddings
        notes = tuple(f"{seed.what}: {warning}" for warning in report.warnings)
        stored = next((track for track, _ in self.store.described(np.array([report.key]))), None)
        if stored is not None and seed.at is None:
            return self._track(seed, stored, live, notes)
        if seed.at is not None:
            if not embeddings.windows:
                raise ParameterError(f"the windows of {seed.what} were not kept, so no moment of it can be asked for")
            rate = self.store.card.sample_rate
            spans = window_spans(round(report.seconds * rate), heard.windowing, len(embeddings.windows)) / rate
            embeddings = embeddings.windows[_around(seed, report.seconds, spans[:, 0], spans[:, 1])]
        vector = live.place(self._values(embeddings)[None])[0]
        labels = stored.labels if stored else TrackLabels()
        return Sound(stored.key if stored else None, vector, report.seconds, labels, notes)

    def _values(self, heard: LayerEmbeddings) -> Floats:
        if isinstance(self.layer, Mix):
            return self.layer(heard.vectors)
        if self.layer == "mean":
            return np.asarray(np.mean(heard.vectors, axis=0, dtype=np.float32))
        card = self.store.card
        chosen = card.layer(card.default_layer if self.layer is None else self.layer)
        return heard.vectors[card.layers.index(chosen)].astype(np.float32)

    def nearest_moments(self, keys: Keys, vector: Floats, live: LayerSearch) -> dict[int, tuple[float, float]]:
        """Say where in stored tracks the window lies that is nearest to a placed vector: start and end, in seconds."""
        moments = {}
        for windows in self.store.iter_windows(self.layer, keys):
            place = int(np.argmax(live.place(windows.values) @ vector))
            moments[int(windows.keys[0])] = (float(windows.starts[place]), float(windows.ends[place]))
        return moments


def _around(seed: Seed, seconds: float, starts: Times, ends: Times) -> int:
    """Find the window that holds a moment, in its middle if there are several."""
    at = seed.at or 0.0
    if at > seconds:
        raise ParameterError(f"{seed.what} ends at {clock(seconds)}; there is no moment {clock(at)}")
    away = np.abs((starts + ends) / 2 - at)
    return int(np.argmin(np.where((starts <= at) & (at <= ends), away, away + seconds + 1)))
