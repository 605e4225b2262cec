"""The process that decodes: ``python -m embedstore.audio.worker SAMPLE_RATE MEMORY_LIMIT LONGEST``.

Requests come as JSON lines on stdin: ``{"do": "hash" | "inspect" | "blocks" | "tags", "path": ...}``. Answers go to stdout as
JSON lines; ``{"samples": n}`` is followed by n float32. ``{"alive": true}`` may come at any time before an answer.

=========  ==========================================================
request    answer
=========  ==========================================================
hash       ``{"hash": hex}``
inspect    ``{"report": {...}}``
tags       ``{"tags": {...}}``
blocks     ``{"samples": n}`` + data, as often as needed; ``{"end": true}``
any        ``{"error": text, "stage": stage}``
=========  ==========================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedstore.audio.decode import Moments, Resampler, Sound, SoundHash, SoundReport
from embedstore.audio.tags import read_tags
from embedstore.errors import AudioError

__all__ = ["Worker", "limit", "main"]

Floats = NDArray[np.float32]

SPOOL_SECONDS = 900  # the sound of shorter files is kept between "inspect" and "blocks"
_SEND = 65_536  # samples in a message
_LOG_BYTES = 16 * 2**20  # the most that anything here may write to one file, its log


class Worker:
    """Answers requests, one at a time.

    Parameters
    ----------
    sample_rate : int
        Hz of the blocks.
    output : binary file
        Where answers go.
    longest : float
        Seconds of sound that a file may have.
    """

    def __init__(self, sample_rate: int, output: BinaryIO, longest: float) -> None:
        self._sample_rate, self._output, self._longest = sample_rate, output, longest
        self._spooled: tuple[object, list[Floats]] = (None, [])
        self._spoke = 0.0

    def answer(self, request: dict[str, str]) -> None:
        """Do what is asked; whatever goes wrong with a file is an answer too."""
        do = {"hash": self._hash, "inspect": self._inspect, "blocks": self._blocks, "tags": self._tags}[request["do"]]
        try:
            do(Path(request["path"]))
        except AudioError as error:
            self._say({"error": str(error), "stage": error.stage})
        except MemoryError:
            self._spooled = (None, [])
            self._say({"error": "decoding it needs more memory than the limit", "stage": "limit"})
        except BrokenPipeError:
            raise
        except OSError as error:
            self._say({"error": f"cannot be read: {error.strerror or error}", "stage": "open"})
        except Exception as error:  # noqa: BLE001 - a decoder that fails in a new way costs one file, not the run
            self._say({"error": f"{type(error).__name__}: {error}", "stage": "decode"})

    def _hash(self, path: Path) -> None:
        digest = hashlib.blake2b(digest_size=16)
        if not stat.S_ISREG(path.stat().st_mode):  # it was a plain file when it was listed
            raise AudioError("not a regular file", stage="open")
        with path.open("rb") as file:
            while data := file.read(2**20):
                digest.update(data)
                self._live()
        self._say({"hash": digest.hexdigest()})

    def _inspect(self, path: Path) -> None:
        self._spooled = (None, [])
        stamp, sound, digest = _stamp(path), Sound(path, self._longest), SoundHash()
        stream, moments = Resampler(sound.sample_rate, self._sample_rate), Moments()
        spool: list[Floats] = []

        def take(resampled: Floats) -> None:
            moments.update(resampled)
            if sound.frames <= SPOOL_SECONDS * sound.sample_rate:
                spool.append(resampled)
            else:
                spool.clear()

        for block in sound.blocks():
            self._live()
            digest.update(block)
            take(stream.push(block))
        take(stream.finish())
        if spool:
            self._spooled = (stamp, spool)
        report = SoundReport(
            digest.key(sound.sample_rate),
            sound.sample_rate,
            sound.channels,
            sound.frames,
            sound.decoder,
            sound.warnings,
            moments.mean,
            moments.deviation,
        )
        self._say({"report": report.to_dict()})

    def _tags(self, path: Path) -> None:
        self._say({"tags": read_tags(path)})

    def _blocks(self, path: Path) -> None:
        stamp, spool = self._spooled
        for block in _joined(spool if stamp == _stamp(path) else self._decoded(path)):
            self._say({"samples": len(block)}, block)
        self._say({"end": True})

    def _decoded(self, path: Path) -> Iterator[Floats]:
        sound = Sound(path, self._longest)
        stream = Resampler(sound.sample_rate, self._sample_rate)
        for block in sound.blocks():
            yield stream.push(block)
        yield stream.finish()

    def _live(self) -> None:
        """Tell the client now and then that nothing hangs."""
        if time.monotonic() - self._spoke > 1:
            self._say({"alive": True})

    def _say(self, message: dict[str, Any], samples: Floats | None = None) -> None:
        self._output.write(json.dumps(message).encode() + b"\n")  # ASCII: names and texts may hold any character
        if samples is not None:
            self._output.write(np.ascontiguousarray(samples).data)
        self._output.flush()
        self._spoke = time.monotonic()


def _stamp(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise AudioError(f"cannot be opened: {error.strerror}", stage="open") from error
    return path, status.st_size, status.st_mtime_ns


def _joined(blocks: Iterable[Floats]) -> Iterator[Floats]:
    """Join blocks to a size worth a message."""
    parts: list[Floats] = []
    for block in blocks:
        parts.append(block)
        if sum(map(len, parts)) >= _SEND:
            yield np.concatenate(parts)
            parts = []
    if any(map(len, parts)):
        yield np.concatenate(parts)


def limit(memory: int, file: int = _LOG_BYTES) -> None:
    """Bound the bytes that a hostile file can make a decoder allocate, or write to one file; where the system can."""
    try:
        import resource
    except ImportError:
        return
    # data, not address space: torch alone maps 4 GB of libraries
    for what, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, file), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _read_requests(requests: SimpleQueue[bytes]) -> None:
    """Pass requests on; when the client is gone, so are we, whatever a decoder is doing."""
    for line in sys.stdin.buffer:
        with contextlib.suppress(OSError):  # a terminal, when started by hand
            os.ftruncate(2, 0)  # the log is about one file
            os.lseek(2, 0, os.SEEK_SET)
        requests.put(line)
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Serve until stdin ends."""
    sample_rate, memory, longest = arguments
    limit(int(memory))
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the conversation
    worker, requests = Worker(int(sample_rate), output, float(longest)), SimpleQueue[bytes]()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    while True:
        worker.answer(json.loads(requests.get()))


if __name__ == "__main__":
    main(sys.argv[1:])
