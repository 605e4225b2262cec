"""Decode and encode many files at once; one broken file costs one file.

A *lane* is a thread that calls the encoder, fed by a second thread that drives the lane's own decoder process. There
is one lane per core, with one arithmetic thread each: torch releases the interpreter lock, and all lanes share one set
of weights. Windows stream through a lane, so memory does not grow with the length of a track.
"""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from embedstore.audio import Decoder, SoundReport, cut_windows
from embedstore.encoders import Encoder, MeanPool
from embedstore.errors import AudioError, EncoderError
from embedstore.types import AudioFile, Floats, LayerEmbeddings

__all__ = ["Known", "Outcome", "Stopwatch", "cores", "encode_file", "run_lanes", "use_one_thread"]

WAITING = object()
BATCH = 4  # windows given to an encoder at once: bounds the memory of a lane, and the wait after Ctrl-C


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes
    ----------
    file : AudioFile
    kind : {"added", "known", "failed", "vanished"}
        New sound; sound that the store holds already; unusable; gone since the folder was listed.
    file_hash : str
        Of the file's bytes; empty if it could not be read.
    key : int or None
        Of the sound, unless it failed.
    report : SoundReport or None
        What decoding found, for new sound.
    embeddings : LayerEmbeddings or None
        Of the whole track, for new sound.
    stage, reason : str
        Where and why it failed.
    """

    file: AudioFile
    kind: Literal["added", "known", "failed", "vanished"]
    file_hash: str = ""
    key: int | None = None
    report: SoundReport | None = None
    embeddings: LayerEmbeddings | None = None
    stage: str = ""
    reason: str = ""


@dataclass
class Known:
    """Sounds that need no encoding. Lanes only look; the writing thread adds."""

    keys: set[int] = field(default_factory=set)
    key_of_hash: dict[str, int] = field(default_factory=dict)


@dataclass
class Stopwatch:
    """Seconds summed over lanes: inside the encoder, and in all."""

    encoding: float = 0.0
    total: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, encoding: float = 0.0, total: float = 0.0) -> None:
        """Take in a lane's share."""
        with self._lock:
            self.encoding += encoding
            self.total += total


@dataclass(frozen=True)
class _Begin:
    """The windows that follow belong to this file."""

    file: AudioFile
    file_hash: str
    report: SoundReport


class _End:
    """All windows of the file were given."""


_Piece = _Begin | Floats | _End | Outcome


class _Stopped(Exception):  # noqa: N818 - not an error
    """Nobody listens any more."""


class _Channel(queue.Queue[Any]):
    """A bounded queue that lets go of a blocked thread once `stop` is set."""

    def __init__(self, maxsize: int, stop: threading.Event) -> None:
        super().__init__(maxsize)
        self._stop = stop

    def send(self, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return self.put(item, timeout=0.2)
            except queue.Full:
                continue
        raise _Stopped

    def receive(self, patience: float = math.inf) -> Any:
        """Give the next item; `WAITING` if there is none for `patience` seconds."""
        since = time.monotonic()
        while not self._stop.is_set():
            try:
                return self.get(timeout=0.2)
            except queue.Empty:
                if time.monotonic() - since > patience:
                    return WAITING
        raise _Stopped


def run_lanes(
    files: list[AudioFile], encoder: Encoder, known: Known, *, jobs: int, timeout: float, watch: Stopwatch
) -> Generator[Outcome | None, None, None]:
    """Decode and encode `files` in `jobs` lanes; outcomes come as they are ready, in any order.

    None comes about every second in which nothing got ready, so that the consumer can see to its own business.

    Closing the iterator, or an exception in its consumer, stops the lanes and their decoder processes.

    Raises
    ------
    Exception
        Whatever stopped a lane that was not the fault of one file.
    """
    stop = threading.Event()
    todo: queue.SimpleQueue[AudioFile] = queue.SimpleQueue()
    for file in files:
        todo.put(file)
    outcomes = _Channel(4 * jobs, stop)

    def lane() -> None:
        began = time.perf_counter()
        last: Exception | None = None
        try:
            use_one_thread()
            with Decoder(encoder.card.sample_rate, timeout=timeout) as decoder:
                pieces = _Channel(4 * BATCH, stop)
                threading.Thread(target=_decode, args=(decoder, todo, known, encoder, pieces), daemon=True).start()
                for outcome in _encode(pieces, encoder, watch):
                    outcomes.send(outcome)
        except _Stopped:
            return
        except Exception as error:  # noqa: BLE001 - handed to the consumer, who raises it
            last = error
        watch.add(total=time.perf_counter() - began)
        with suppress(_Stopped):
            outcomes.send(last)

    threads = [threading.Thread(target=lane, name=f"lane-{number}", daemon=True) for number in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        running = jobs
        while running:
            item = outcomes.receive(patience=1.0)
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield None if item is WAITING else item
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_one_thread() -> None:
    """Let this thread's tensor products use one core: the other cores have lanes of their own."""
    if (torch := sys.modules.get("torch")) is not None:  # an encoder without torch need not load it
        torch.set_num_threads(1)


def encode_file(path: str, encoder: Encoder, *, timeout: float = 60.0) -> tuple[SoundReport, LayerEmbeddings]:
    """Encode one file, the same way as `run_lanes` does.

    Raises
    ------
    AudioError
        The file cannot be decoded, or is too short for the encoder.
    EncoderError
        The encoder gave no finite vectors.
    """
    batch: list[Floats] = []
    pool = MeanPool()
    with Decoder(encoder.card.sample_rate, timeout=timeout) as decoder:
        report = decoder.inspect(path)
        for window in _windows(decoder, path, encoder):
            batch.append(window)
            if len(batch) == BATCH:
                _pool(batch, encoder, pool)
        _pool(batch, encoder, pool)
    return report, pool.result()


def _windows(decoder: Decoder, path: str, encoder: Encoder) -> Iterator[Floats]:
    return cut_windows(decoder.blocks(path), encoder.windowing, sample_rate=encoder.card.sample_rate)


def _pool(batch: list[Floats], encoder: Encoder, pool: MeanPool) -> None:
    """Encode the windows of `batch`, add them to `pool`, and empty the batch."""
    if batch:
        for window in encoder.encode(batch):
            pool.add(window)
        batch.clear()


def _decode(
    decoder: Decoder, todo: queue.SimpleQueue[AudioFile], known: Known, encoder: Encoder, pieces: _Channel
) -> None:
    """Drive one decoder process until no file is left; None ends the stream, an exception breaks it."""
    last: Exception | None = None
    with suppress(_Stopped):
        try:
            while not todo.empty():
                for piece in _pieces(decoder, todo.get_nowait(), known, encoder):
                    pieces.send(piece)
        except queue.Empty:  # another lane took the last file
            pass
        except _Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - travels to the lane, and from there to the consumer
            last = error
        pieces.send(last)


def _pieces(decoder: Decoder, file: AudioFile, known: Known, encoder: Encoder) -> Iterator[_Piece]:
    """Take one file as far as it must go: known bytes, known sound, or all of its windows."""
    file_hash = ""
    try:
        file_hash = decoder.file_hash(file.full_path)
        if (key := known.key_of_hash.get(file_hash)) is not None:
            yield Outcome(file, "known", file_hash, key)
            return
        report = decoder.inspect(file.full_path)
        if report.key in known.keys:
            yield Outcome(file, "known", file_hash, report.key)
            return
        yield _Begin(file, file_hash, report)
        yield from _windows(decoder, file.full_path, encoder)
        yield _End()
    except AudioError as error:
        kind: Literal["failed", "vanished"] = "failed" if os.path.lexists(file.full_path) else "vanished"
        yield Outcome(file, kind, file_hash, stage=error.stage, reason=str(error))


def _encode(pieces: _Channel, encoder: Encoder, watch: Stopwatch) -> Iterator[Outcome]:
    """Turn a lane's pieces into outcomes."""
    begin: _Begin | None = None
    batch: list[Floats] = []
    pool = MeanPool()
    while (piece := pieces.receive()) is not None:
        if isinstance(piece, Exception):
            raise piece
        if isinstance(piece, Outcome):  # also ends a file whose decoder failed after its first windows
            begin = None
            yield piece
        elif isinstance(piece, _Begin):
            begin, pool, batch = piece, MeanPool(), []
        elif begin is not None:  # else the file has failed already: let its windows pass
            ended = isinstance(piece, _End)
            if not ended:
                batch.append(piece)
            if not ended and len(batch) < BATCH:
                continue
            outcome = None
            began = time.perf_counter()
            try:
                _pool(batch, encoder, pool)
                if ended:
                    outcome = Outcome(
                        begin.file, "added", begin.file_hash, begin.report.key, begin.report, pool.result()
                    )
            except (EncoderError, ArithmeticError, MemoryError, RuntimeError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                scarce = isinstance(error, MemoryError) or "memory" in reason  # torch raises RuntimeError for it
                stage = "limit" if scarce else "encode"
                outcome = Outcome(begin.file, "failed", begin.file_hash, stage=stage, reason=reason)
            watch.add(encoding=time.perf_counter() - began)
            if outcome is not None:
                begin = None
                yield outcome
