"""The sound of a stored track, in pieces as a player asks for them."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from embedstore.store.disk import plain_file
from embedstore.types import AudioFile, Track

__all__ = ["open_as_stored", "send_audio", "send_open"]

_CHUNK = 2**18  # bytes that are read at once
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def send_audio(track: Track, headers: Headers, *, only_head: bool = False) -> Response:
    """Send the first of a track's files that is still as it was stored, or the part of it that ``Range`` names.

    Several ranges at once, and what is no range, are answered with the whole file, as RFC 9110 allows. Where only the head
    of the answer is wanted it is that of the whole file, and the file is not read.

    Raises
    ------
    HTTPException
        410: no file is there as it was stored; 416: the part lies behind the end.
    """
    handle, file = open_as_stored(track)
    return send_open(handle, mimetypes.guess_type(file.path)[0] or "", headers, only_head=only_head)


def send_open(handle: int, kind: str, headers: Headers, *, only_head: bool = False) -> Response:
    """Send an open file of some media type in the same way; it is closed afterwards."""
    try:
        return _answer(handle, os.fstat(handle), kind, Headers() if only_head else headers, only_head=only_head)
    except BaseException:
        os.close(handle)
        raise


def open_as_stored(track: Track) -> tuple[int, AudioFile]:
    """Open the first of a track's files that is still as it was stored: its handle, and which it is.

    Raises
    ------
    HTTPException
        410: there is none.
    """
    reasons = []
    for file in track.files:
        try:
            return _open_as_stored(file), file
        except OSError as error:
            reasons.append(f"{file.path}: {error.strerror or error}")
    raise HTTPException(410, "; ".join(reasons))


def _open_as_stored(file: AudioFile) -> int:
    """Open a file that lies below its root, through links or not, and has the size and time that are stored."""
    path, root = os.path.realpath(file.full_path), os.path.realpath(file.root)
    if os.path.commonpath([path, root]) != root:
        raise OSError("it is now a link that leaves its folder")
    with plain_file(Path(path), file.size) as opened:
        status = os.fstat(opened.fileno())
        if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
            raise OSError("it has changed since it was stored; build again")
        return os.dup(opened.fileno())


def _answer(handle: int, status: os.stat_result, kind: str, headers: Headers, *, only_head: bool) -> Response:
    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    about = {"Accept-Ranges": "bytes", "ETag": tag, "Last-Modified": formatdate(status.st_mtime, usegmt=True)}
    start, stop, code = 0, status.st_size, 200
    asked = _RANGE.fullmatch(headers.get("range", "").strip())
    if asked and any(asked.groups()) and headers.get("if-range", tag) in (tag, about["Last-Modified"]):
        first, last = asked.groups()
        if first:
            start, stop = int(first), min(int(last) + 1 if last else stop, stop)
        else:
            start = max(0, stop - int(last))
        if start >= status.st_size:
            raise HTTPException(416, "the range lies behind the end", {"Content-Range": f"bytes */{status.st_size}"})
        if start < stop:
            code, about["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{status.st_size}"
        else:  # it ends before it begins: no range
            start, stop = 0, status.st_size
    about["Content-Length"] = str(stop - start)
    kind = kind if kind.startswith(("audio/", "video/")) else "application/octet-stream"
    return _Sound(handle, range(start, start if only_head else stop), code, about, kind)


class _Sound(StreamingResponse):
    """Sends bytes of an open file, and closes it, also if nobody listens to the end."""

    def __init__(self, handle: int, places: range, code: int, headers: dict[str, str], kind: str) -> None:
        super().__init__(self._pieces(places), code, headers, kind)
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._handle)

    def _pieces(self, places: range) -> Iterator[bytes]:
        while places and (piece := os.pread(self._handle, min(_CHUNK, len(places)), places[0])):
            places = places[len(piece) :]
            yield piece
