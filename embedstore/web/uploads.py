"""Sounds that are sent to the service: each a file until it is answered, few of them decoded at a time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

__all__ = ["Uploads"]


class Uploads:
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
