"""Sounds that are sent to the service: each a file until it is answered, few of them decoded at a time."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from embedstore.errors import AudioError, TrackNotFoundError
from embedstore.search import Searcher
from embedstore.search.seeds import Heard
from embedstore.store import EmbeddingStore
from embedstore.types import LayerEmbeddings, track_id
from embedstore.web.models import Upload
from embedstore.web.offers import Guessed

__all__ = ["Bodies", "Sent", "Uploads"]

_REMEMBERED = 50  # sounds
_LONGEST = 2 * 3600  # seconds of a sound


@dataclass(frozen=True)
class Sent:
    """The body of a request.

    Attributes
    ----------
    path : Path
        Where it lies until the answer is sent.
    gone : threading.Event
        Whether the sender has hung up.
    """

    path: Path
    gone: threading.Event


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

    async def __call__(self, request: Request) -> AsyncIterator[Sent]:
        """Write a body to a file, which lives until the answer is sent.

        Raises
        ------
        HTTPException
            408: it comes too slowly; 503: too much is held already.
        ClientDisconnect
            Who sent it did not wait for its place.
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
                gone = threading.Event()
                watching = asyncio.create_task(_watch(request, gone))
                try:
                    async with self._places:
                        if gone.is_set():
                            raise ClientDisconnect
                        yield Sent(Path(file.name), gone)
                finally:
                    watching.cancel()
        finally:
            self._held -= size


async def _watch(request: Request, gone: threading.Event) -> None:
    """Wait until who asks has hung up."""
    if (await request.receive())["type"] == "http.disconnect":  # all of the body has come: nothing else does
        gone.set()


class Uploads:
    """The sounds that were sent last, as vectors of all layers; the sounds themselves are gone.

    Parameters
    ----------
    searcher : Searcher
        That hears them.
    guesses : sequence of functions
        See `Extension`; the first that has something to say is believed.
    closed : threading.Event
        Whether the service ends: nothing is heard any more.
    """

    def __init__(
        self,
        searcher: Searcher,
        guesses: Sequence[Callable[[EmbeddingStore, LayerEmbeddings, int | None], Guessed | None]],
        closed: threading.Event,
    ) -> None:
        self._closed = closed
        self._searcher, self._store, self._guesses = searcher, searcher.store, guesses
        self._lock, self._heard = threading.Lock(), dict[str, Heard]()

    def listen(self, sent: Sent, *, keep_windows: bool = False) -> Heard:
        """Hear a sound of up to 2 h, for as long as its sender waits and the service runs.

        Raises
        ------
        AudioError, EncoderError, EncoderMismatchError
            It cannot be encoded as the tracks of the store were; the first without the name that it has here.
        """

        def wanted() -> bool:
            return not (sent.gone.is_set() or self._closed.is_set())

        try:
            return self._searcher.hear(sent.path, keep_windows=keep_windows, longest=_LONGEST, wanted=wanted)
        except AudioError as error:
            raise AudioError(str(error).removeprefix(f"{sent.path}: "), stage=error.stage) from None

    def hear(self, sent: Sent, name: str) -> Upload:
        """Hear a sound, and remember it; raises what `listen` does."""
        heard = self.listen(sent)
        key = heard.report.key
        found = next((one for guess in self._guesses if (one := guess(self._store, heard.embeddings, key))), None)
        stored = track_id(key) if np.isin(key, self._store.keys()) else None
        new = secrets.token_hex(6)
        with self._lock:
            self._heard[f"upload:{new}"] = heard
            while len(self._heard) > _REMEMBERED:
                self._heard.pop(next(iter(self._heard)))
        genres, probe, sure, notes = (
            (found.genres, found.probe, found.sure, found.notes) if found else ((), None, False, ())
        )
        return Upload(new, name, heard.report.seconds, genres, probe, sure, stored, (*heard.report.warnings, *notes))

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
