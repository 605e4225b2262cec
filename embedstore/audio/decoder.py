"""The client of the decoding process: a decoder that crashes, hangs or swells costs one file."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.audio.decode import SoundReport, check_rate
from embedstore.audio.source import clean
from embedstore.child import Child
from embedstore.errors import AudioError, ParameterError

__all__ = ["Decoder"]

AnyPath = str | os.PathLike[str]

_WATCH = 0.05  # seconds between two looks at a process that may hang


class Decoder:
    """Decodes files in a process of its own, which is started when needed and replaced when it dies.

    For one thread at a time; use it as a context manager.

    Parameters
    ----------
    sample_rate : int
        Hz of the blocks.
    timeout : float
        Seconds without a sign of life after which the process is killed. A long file that is being decoded is not silent.
    memory_limit : int
        Bytes that the process may allocate (where the system can limit it).
    longest : float
        Seconds of sound that a file may have.

    Examples
    --------
    >>> import soundfile, tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".wav") as file, Decoder(16000) as decoder:
    ...     soundfile.write(file, np.zeros((44100, 2)), 44100, format="WAV")
    ...     file.flush()
    ...     decoder.inspect(file.name).seconds, sum(map(len, decoder.blocks(file.name)))
    (1.0, 16000)
    """

    def __init__(
        self, sample_rate: int, *, timeout: float = 60.0, memory_limit: int = 4 * 2**30, longest: float = math.inf
    ) -> None:
        check_rate(sample_rate)
        if timeout <= 0 or memory_limit <= 0:
            raise ParameterError(f"timeout (s) and memory_limit (bytes) are positive; got {timeout} and {memory_limit}")
        self._settings, self._timeout = [str(sample_rate), str(memory_limit), str(longest)], timeout
        self._worker: _Process | None = None
        self._busy = False  # the last request is not answered to its end
        self._turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a later request starts a new one."""
        worker, self._worker, self._busy = self._worker, None, False
        if worker:
            worker.end()

    @staticmethod
    def stamp(path: AnyPath) -> tuple[int, int]:
        """Give a file's size in bytes and modification time in nanoseconds: other ones tell that it changed.

        Raises
        ------
        AudioError
            It is not there (stage "open").
        """
        try:
            status = Path(path).stat()
        except OSError as error:
            raise AudioError(f"cannot be opened: {error.strerror}", stage="open") from error
        return status.st_size, status.st_mtime_ns

    def file_hash(self, path: AnyPath) -> str:
        """Hash a file's bytes: BLAKE2b, 128 bits, hexadecimal.

        Raises
        ------
        AudioError
            The file cannot be read.
        """
        self._ask("hash", path)
        return str(self._answer()["hash"])

    def inspect(self, path: AnyPath) -> SoundReport:
        """Decode all of a file, to learn its key and what is wrong with it.

        Raises
        ------
        AudioError
            The file cannot become a waveform; its stage is "limit" when the process died or had to be killed.
        """
        self._ask("inspect", path)
        return SoundReport.from_dict(self._answer()["report"])

    def tags(self, path: AnyPath) -> dict[str, list[str]]:
        """Read genre, artist, album, title and year from the tags inside a file, as far as they are there.

        Raises
        ------
        AudioError
            The file, or its tags, cannot be read.
        """
        self._ask("tags", path)
        tags: dict[str, list[str]] = self._answer()["tags"]
        return tags

    def blocks(self, path: AnyPath) -> Iterator[NDArray[np.float32]]:
        """Give a file's sound: mono float32 blocks at the decoder's sample rate.

        Right after `inspect`, a file of up to 15 minutes is not decoded again. Longer ones stream, with back-pressure.

        Raises
        ------
        AudioError
            As `inspect`; also in the middle of a file.
        ParameterError
            Another file was asked for before this one was used up.
        """
        self._ask("blocks", path)
        turn = self._turn
        while "end" not in (message := self._answer()):
            yield message["samples"]
            if turn != self._turn:
                raise ParameterError("a Decoder gives one file at a time; this one was left for another")

    def _ask(self, do: str, path: AnyPath) -> None:
        if self._busy or (self._worker and not self._worker.is_alive()):  # an old answer must not meet a new request
            self.close()
        self._worker = self._worker or _Process(self._settings)
        self._turn += 1
        self._busy = True
        self._worker.send({"do": do, "path": str(Path(path).absolute())})

    def _answer(self) -> dict[str, Any]:
        """Read the next message that says something; samples come as an array."""
        worker = self._worker
        if worker is None:
            raise ParameterError("the Decoder was closed while it gave a file")
        try:
            message = worker.receive(self._timeout)
            while "alive" in message:
                message = worker.receive(self._timeout)
        except BaseException:  # a dead worker, or Ctrl-C: the rest of this answer must not meet the next request
            self.close()
            raise
        self._busy = "samples" in message
        if "error" in message:
            raise AudioError(message["error"], stage=message["stage"])
        return message


class _Process(Child):
    """One worker process and its conversation."""

    def __init__(self, settings: list[str]) -> None:
        super().__init__(["-m", "embedstore.audio.worker", *settings])
        self._deadline, self._hung = math.inf, False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Kill the process when it has been silent for too long; a timer for each message would cost more than it."""
        while self.is_alive():
            if time.monotonic() > self._deadline:
                self._hung = True
                self.kill()
            time.sleep(_WATCH)

    def send(self, request: dict[str, str]) -> None:
        with contextlib.suppress(BrokenPipeError):  # died at once: `receive` finds out why
            self.stdin.write(json.dumps(request).encode() + b"\n")
            self.stdin.flush()

    def receive(self, timeout: float) -> dict[str, Any]:
        """Read one message; raise AudioError when the worker dies or says nothing for `timeout` seconds."""
        self._deadline = time.monotonic() + timeout
        message = self._read()
        self._deadline = math.inf
        if message is None:
            raise AudioError(
                f"no sign of life from the decoder for {timeout:g} s; it was stopped"
                if self._hung
                else f"the decoder process died ({clean(self.death())})",
                stage="limit",
            )
        return message

    def _read(self) -> dict[str, Any] | None:
        """One message, None at the end of the pipe (also in the middle of a message)."""
        line = self.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        if "samples" in message:
            samples = np.empty(message["samples"], np.float32)
            if self.stdout.readinto(samples.data.cast("B")) < samples.nbytes:  # type: ignore[attr-defined]  # buffered
                return None
            message["samples"] = samples
        return message
