"""Tracks in a format that every browser plays: written when first asked for, and kept while there is room."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet, WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from embedstore.audio import transcode
from embedstore.child import Child
from embedstore.types import Track
from embedstore.web.audio import open_as_stored

__all__ = ["Copies"]


class Copies:
    """Keeps them.

    Parameters
    ----------
    folder : Path
        That is there, and goes with the service.
    most : int
        Bytes of all together, and of each.
    places : int
        That are written at once; the others wait, and keep no thread.
    """

    def __init__(self, folder: Path, most: int = 2**30, places: int = 2) -> None:
        self._folder, self._most = folder, most
        self._places, self._lock = asyncio.Semaphore(places), threading.Lock()
        self._sizes = dict[Path, int]()  # those used last are last
        self._making = WeakValueDictionary[Path, asyncio.Lock]()
        self._writing, self._closed = WeakSet[Child](), False

    def close(self) -> None:
        """Stop what is written, and write no more."""
        with self._lock:
            self._closed = True
            for child in self._writing:
                child.kill()

    async def open(self, track: Track) -> int:
        """Give the copy of a track as an open file.

        Raises
        ------
        HTTPException
            410: no file is there as it was stored; 503: there is no place for a copy.
        AudioError
            It cannot be decoded.
        """
        handle, file = await run_in_threadpool(open_as_stored, track)
        os.close(handle)
        name = hashlib.sha256(os.fsencode(f"{file.size} {file.mtime_ns} {file.full_path}")).hexdigest()
        copy = self._folder / f"{name}.flac"
        if (kept := self._take(copy)) is not None:
            return kept
        making = self._making.setdefault(copy, asyncio.Lock())
        async with making, self._places:
            if (kept := self._take(copy)) is not None:  # somebody else had it written
                return kept
            return await run_in_threadpool(self._write, file.full_path, copy)

    def _take(self, copy: Path) -> int | None:
        with self._lock:
            try:
                handle = os.open(copy, os.O_RDONLY)
            except FileNotFoundError:  # not yet written, or taken by who cleans up temporary files
                self._sizes.pop(copy, None)
                return None
            self._sizes[copy] = self._sizes.pop(copy, os.fstat(handle).st_size)
            return handle

    def _write(self, path: str, copy: Path) -> int:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)  # it may be taken as the copies in it are
            return self._written(path, copy)
        except OSError as error:
            raise HTTPException(503, f"no copy can be written: {error.strerror or error}") from error

    def _written(self, path: str, copy: Path) -> int:
        new = copy.with_suffix(".part")
        transcode(path, new, most=self._most, started=self._hold)
        with self._lock:
            new.replace(copy)
            handle = os.open(copy, os.O_RDONLY)
            self._sizes[copy] = os.fstat(handle).st_size
            while sum(self._sizes.values()) > self._most:  # who reads one goes on reading
                oldest = next(iter(self._sizes))
                del self._sizes[oldest]
                with suppress(OSError):
                    oldest.unlink()
        return handle

    def _hold(self, child: Child) -> None:
        with self._lock:
            self._writing.add(child)
            if self._closed:
                child.kill()
