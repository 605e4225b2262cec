"""What is asked about a store as a whole, worked out once for each state of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from embedstore.errors import ParameterError, TrackNotFoundError
from embedstore.search import Searcher, Seed
from embedstore.search.columns import fold
from embedstore.store import EmbeddingStore
from embedstore.types import Keys, Track, key_from_id, track_id

__all__ = ["Kept", "Library", "modified"]

T = TypeVar("T")
_WORDS = 20  # that a text may have
_REST = 10  # times as long as it took, a result is good for although the store has grown


class Kept(Generic[T]):
    """A result that is worked out again when the store has changed, but takes a tenth of the time at most.

    Whoever asks while others work on a newer one gets the one before.
    """

    def __init__(self, store: EmbeddingStore, work: Callable[[], T]) -> None:
        self._store, self._work = store, work
        self._lock = threading.Lock()
        self._found: tuple[object, float, T] | None = None  # of which state, good until when

    def __call__(self) -> T:
        """Give it."""
        found = self._found
        if found is not None and (time.monotonic() < found[1] or found[0] == self._state()):
            return found[2]
        if not self._lock.acquire(blocking=found is None) and found is not None:
            return found[2]
        try:
            if self._found is None or self._found is found:  # else others were quicker
                state, start = self._state(), time.monotonic()
                result = self._work()
                end = time.monotonic()
                self._found = (state, end + _REST * (end - start), result)
            return self._found[2]
        finally:
            self._lock.release()

    def _state(self) -> object:
        """Tell apart two states of the store and its indices."""
        catalog = self._store.catalog  # another one, once this process has written
        return catalog, catalog.version(), modified(self._store.path / "indices")


def modified(path: Path) -> int:
    """Say when something was written into a folder, in nanoseconds; 0 if it is not there."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


class Library:
    """The tracks of a searcher's store, by id, page and text; what comes over the network never names a file to open."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher, self._store = searcher, searcher.store
        self._texts = Kept(self._store, self._read_texts)

    def track(self, name: str) -> Track:
        """Find a track by its id.

        Raises
        ------
        TrackNotFoundError
            With the id that is like it, where one is.
        """
        key = key_from_id(name)
        if key is None:
            raise TrackNotFoundError(
                f"{name!r:.80} is no track id (16 hexadecimal digits); /api/tracks?q=TEXT finds tracks by their names"
            )
        if found := self._tracks(np.array([key])):
            return found[0]
        keys = self._store.keys()
        apart = sum(((keys ^ key) >> place & 15 != 0).astype(np.int8) for place in range(0, 64, 4))
        close = f"; did you mean {track_id(int(keys[np.argmin(apart)]))}?" if len(keys) and apart.min() < 4 else ""
        raise TrackNotFoundError(f"no stored track has the id {name} ({len(keys)} tracks){close}")

    def of(self, names: Sequence[str]) -> list[Track]:
        """Find some tracks by their ids, in this order.

        Raises
        ------
        TrackNotFoundError
            Of the first that is not there.
        """
        keys = {key for name in names if (key := key_from_id(name)) is not None}
        found = {track.id: track for track in self._tracks(np.array([*keys], np.int64))}
        return [found.get(name) or self.track(name) for name in names]

    def seed(self, wanted: Seed) -> Seed:
        """Name a seed's track, which may be named by words of its artist and title, by its id.

        Raises
        ------
        TrackNotFoundError, ParameterError
            As `Columns.meant`; or a moment is asked for, and the store keeps no windows.
        """
        name = wanted.what
        if key_from_id(name) is None:
            key, _ = self._searcher.view().columns().meant(name)
            name = track_id(key)
        if wanted.at is not None and not self._store.keeps_windows:
            raise ParameterError("the store keeps no windows, so no moment of a track can be asked for")
        return replace(wanted, what=self.track(name).id)

    def page(self, text: str, offset: int, limit: int) -> tuple[int, list[Track]]:
        """Count the tracks whose names hold each word of a text, and give some of them, in the order of the store.

        Raises
        ------
        ParameterError
            Too many words.
        """
        keys = self.matching(text)
        return len(keys), self._tracks(keys[offset : offset + limit])

    def matching(self, text: str) -> Keys:
        """Find the keys of the tracks whose names hold each word of a text, in the order of the store.

        Raises
        ------
        ParameterError
            Too many words.
        """
        keys = self._store.keys()
        if words := sorted({*fold(text).split()}, key=len, reverse=True):  # the longest is the rarest
            if len(words) > _WORDS:
                raise ParameterError(f"tracks are found by up to {_WORDS} words; got {len(words)}")
            keys, texts = self._texts()
            for word in words:
                left = [place for place, said in enumerate(texts) if word in said]
                keys, texts = keys[left], [texts[place] for place in left]
        return keys

    def _tracks(self, keys: Keys) -> list[Track]:
        return [track for track, _ in self._store.described(keys)]

    def _read_texts(self) -> tuple[Keys, list[str]]:
        columns, keys = self._searcher.view().columns(), self._store.keys()
        places = columns.places(keys)
        return keys[places >= 0], [columns.said(place) for place in places[places >= 0].tolist()]
