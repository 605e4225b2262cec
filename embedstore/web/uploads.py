"""Sounds that are sent to the service: each a file until it is answered, few of them decoded at a time."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from embedstore.errors import AudioError, TrackNotFoundError
from embedstore.search import Searcher
from embedstore.search.seeds import Heard
from embedstore.store import EmbeddingStore
from embedstore.types import LayerEmbeddings, track_id
from embedstore.web.extension import Guessed
from embedstore.web.models import Upload

__all__ = ["Bodies", "Uploads"]

_REMEMBERED = 50  # sounds


class Bodies:
    """Receives the bodies of requests.

    A body is received first and takes one of the places afterwards: who sends slowly, or nothing, keeps nobody waiting.

    Parameters
    ----------
    places : int
        Answered at once: each holds a thread and a decoder.
    most : int
        Bytes of all files together, those that wait for a place included; where they lie is often memory.
    pause, longest : float
        Seconds until more must have come, and until all must have.
    """

    def __init__(self, places: int, most: int, pause: float = 10, longest: float = 300) -> None:
        self._places = asyncio.Semaphore(places)
        self._most, self._held = most, 0
        self._pause, self._longest = pause, longest

    async def __call__(self, request: Request) -> AsyncIterator[Path]:
        """Write a body to a file, which lives until the answer is sent.

        Raises
        ------
        HTTPException
            408: it comes too slowly; 503: too much is held already.
        """
        size = 0
        try:
            with tempfile.NamedTemporaryFile(prefix="embedstore-") as file:
                try:
                    async with asyncio.timeout(self._pause) as patience:
                        now = asyncio.get_running_loop().time
                        end = now() + self._longest
                        async for piece in request.stream():
                            size += len(piece)
                            self._held += len(piece)
                            if self._held > self._most:
                                raise HTTPException(503, "too many uploads at once; try again", {"Retry-After": "2"})
                            await run_in_threadpool(file.write, piece)
                            patience.reschedule(min(now() + self._pause, end))
                        await run_in_threadpool(file.flush)
                except TimeoutError:
                    why = f"the upload stopped for {self._pause:g} s, or took longer than {self._longest:g} s"
                    raise HTTPException(408, why, {"Connection": "close"}) from None
                async with self._places:
                    yield Path(file.name)
        finally:
            self._held -= size


class Uploads:
    """The sounds that were sent last, as vectors of all layers; the sounds themselves are gone.

    Parameters
    ----------
    searcher : Searcher
        That hears them.
    guesses : sequence of functions
        See `Extension`; the first that has something to say is believed.
    """

    def __init__(
        self,
        searcher: Searcher,
        guesses: Sequence[Callable[[EmbeddingStore, LayerEmbeddings], Guessed | None]] = (),
    ) -> None:
        self._searcher, self._store, self._guesses = searcher, searcher.store, guesses
        self._lock, self._heard = threading.Lock(), dict[str, Heard]()

    def hear(self, path: Path, name: str) -> Upload:
        """Hear a file, and remember it.

        Raises
        ------
        AudioError, EncoderError, EncoderMismatchError
            It cannot be encoded as the tracks of the store were.
        """
        try:
            heard = self._searcher.hear(path)
        except AudioError as error:
            raise AudioError(str(error).removeprefix(f"{path}: "), stage=error.stage) from None
        found = next((one for guess in self._guesses if (one := guess(self._store, heard.embeddings))), None)
        stored = track_id(heard.report.key) if (np.isin(heard.report.key, self._store.keys())) else None
        new = secrets.token_hex(6)
        with self._lock:
            self._heard[f"upload:{new}"] = heard
            while len(self._heard) > _REMEMBERED:
                self._heard.pop(next(iter(self._heard)))
        genres, probe, notes = (found.genres, found.probe, found.notes) if found else ((), None, ())
        return Upload(new, name, heard.report.seconds, genres, probe, stored, (*heard.report.warnings, *notes))

    def heard(self) -> dict[str, Heard]:
        """Give those that are remembered, as seeds name them."""
        return self._heard.copy()

    def name(self, upload: str) -> str:
        """Say what a seed calls an upload.

        Raises
        ------
        TrackNotFoundError
            There is none, or it was forgotten.
        """
        if f"upload:{upload}" not in self._heard:
            raise TrackNotFoundError(f"no upload {upload!r:.80} is remembered; send it again")
        return f"upload:{upload}"
