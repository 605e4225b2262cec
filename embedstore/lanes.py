"""Decode and encode many files at once; one broken file costs one file.

A *lane* is a thread that calls the encoder, fed through one channel by threads that drive a decoder process each::

    file -> decoder process -> decoder thread --+
    file -> decoder process -> decoder thread --+-- channel --> lane: batch -> encoder -> one pool per file -> outcome

On a CPU there is a lane per core with one decoder and one arithmetic thread each: torch releases the interpreter lock,
and all lanes share one set of weights. Any other device has one lane with many decoders. Windows stream through a lane,
each with the ticket of its file, so a batch may hold windows of several files, and memory does not grow with the length
of a track.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from embedstore.audio import Decoder, SoundReport, cut_windows
from embedstore.channel import WAITING, Channel, Stopped, gather, plain
from embedstore.encoders import Encoder, MeanPool
from embedstore.errors import AudioError, EncoderError
from embedstore.types import AudioFile, Floats, LayerEmbeddings

__all__ = ["Known", "Outcome", "Seconds", "cores", "encode_file", "lanes_for", "on_cpu", "run_lanes", "use_one_thread"]

BATCH = 4  # windows for an encoder that does not say how many it likes: bounds the wait after Ctrl-C
SOUND = 2**24  # samples that may wait in a lane's channel, and be in its batch: 64 MB each
MOMENT = 0.02  # seconds without a new window after which a batch that is not full is encoded
MOST_DECODERS = 16  # of one lane, unless more are asked for


@dataclass
class Seconds:
    """Where the time went that a file took.

    Attributes
    ----------
    hashing : float
        Reading it, and decoding it once for its key and its faults.
    decoding : float
        Getting its windows.
    waiting : float
        The lane, before it, outside the encoder: waiting for sound, pooling, handing over.
    encoding : float
        Inside the encoder; of a batch, its share by samples.
    """

    hashing: float = 0.0
    decoding: float = 0.0
    waiting: float = 0.0
    encoding: float = 0.0

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Add what the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - began)


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
    seconds : Seconds
    """

    file: AudioFile
    kind: Literal["added", "known", "failed", "vanished"]
    file_hash: str = ""
    key: int | None = None
    report: SoundReport | None = None
    embeddings: LayerEmbeddings | None = None
    stage: str = ""
    reason: str = ""
    seconds: Seconds = field(default_factory=Seconds)

    @property
    def weight(self) -> int:
        """Room that it takes in a channel, in numbers: those of its vectors, and some for itself."""
        heard = (self.embeddings, *self.embeddings.windows) if self.embeddings else ()
        return 2**14 + sum(vector.size for one in heard for vector in one.vectors)


@dataclass
class Known:
    """Sounds that need no encoding. Lanes only look; the writing thread adds."""

    keys: set[int] = field(default_factory=set)
    key_of_hash: dict[str, int] = field(default_factory=dict)


class _Ticket:
    """What a file gathers on its way through a lane."""

    def __init__(self, *, keep_windows: bool) -> None:
        self.pool, self.seconds = MeanPool(keep=keep_windows), Seconds()
        self.error: Exception | None = None  # the first

    def take(self, heard: LayerEmbeddings | Exception) -> None:
        """Take in what the encoder made of a window."""
        if isinstance(heard, Exception):
            self.error = self.error or heard
            return
        try:
            self.pool.add(heard)
        except EncoderError as error:
            self.error = self.error or error

    def stamp(self, outcome: Outcome) -> Outcome:
        """Complete an outcome when all windows of its file are in."""
        outcome = replace(outcome, seconds=self.seconds)
        if outcome.kind != "added":
            return outcome
        if self.error is None:
            return replace(outcome, embeddings=self.pool.result())
        reason = " ".join(str(self.error).split())
        if not isinstance(self.error, EncoderError):
            reason = f"{type(self.error).__name__}: {reason}"
        scarce = isinstance(self.error, MemoryError) or "memory" in reason  # torch raises RuntimeError for it
        stage = "limit" if scarce else "encode"
        return Outcome(outcome.file, "failed", outcome.file_hash, stage=stage, reason=reason, seconds=self.seconds)


_Piece = tuple[_Ticket, Floats | Outcome]  # a file's windows in order, then what else is known of it


def run_lanes(
    files: Iterable[AudioFile],
    encoder: Encoder,
    known: Known,
    *,
    jobs: int | None = None,
    timeout: float = 60.0,
    longest: float = math.inf,
    keep_windows: bool = False,
) -> Generator[Outcome | None, None, None]:
    """Decode and encode `files`; outcomes come as they are ready, in any order.

    None comes about every second in which nothing got ready, so that the consumer can see to its own business.

    Closing the iterator, or an exception in its consumer, stops the lanes and their decoder processes.

    Raises
    ------
    Exception
        Whatever stopped a lane that was not the fault of one file.
    """
    stop, lock, todo = threading.Event(), threading.Lock(), iter(files)
    lanes, decoders = lanes_for(encoder, jobs)

    def take() -> AudioFile | None:
        with lock:
            return next(todo, None)

    def lane(outcomes: Channel) -> None:
        use_one_thread()
        with ExitStack() as stack:
            pieces = Channel(SOUND, stop)
            for _ in range(decoders):
                decoder = stack.enter_context(Decoder(encoder.card.sample_rate, timeout=timeout, longest=longest))
                work = (decoder, take, known, encoder, pieces, keep_windows)
                threading.Thread(target=_decode, args=work, daemon=True).start()
            for outcome in _encode(pieces, decoders, encoder):
                outcomes.send(outcome, outcome.weight)

    return gather([lane] * lanes, stop)


def lanes_for(encoder: Encoder, jobs: int | None = None) -> tuple[int, int]:
    """Say how many lanes an encoder gets for so many files at a time, and how many decoders each lane.

    >>> from embedstore import load_encoder
    >>> lanes_for(load_encoder("mfcc", device="cpu"), jobs=3)
    (3, 1)
    """
    return (jobs or cores(), 1) if on_cpu(encoder) else (1, jobs or min(cores(), MOST_DECODERS))


def on_cpu(encoder: Encoder) -> bool:
    """Whether an encoder keeps a core busy; one that does not say so does."""
    return str(getattr(encoder, "device", "cpu")) == "cpu"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_one_thread() -> None:
    """Let this thread's tensor products use one core: the other cores have lanes of their own."""
    if (torch := sys.modules.get("torch")) is not None:  # an encoder without torch need not load it
        torch.set_num_threads(1)


def encode_file(
    path: str,
    encoder: Encoder,
    *,
    timeout: float = 60.0,
    keep_windows: bool = False,
    longest: float = math.inf,
    wanted: Callable[[], bool] = lambda: True,
) -> tuple[SoundReport, LayerEmbeddings]:
    """Encode one file, the same way as `run_lanes` does.

    It may have `longest` seconds of sound. `wanted` is asked about every second; once it says no, all that works on it ends.

    Raises
    ------
    AudioError
        The file cannot be decoded, is too short for the encoder, is too long, or is not wanted any more.
    EncoderError
        The encoder gave no finite vectors.
    """
    file = AudioFile(*os.path.split(os.path.abspath(path)), size=0, mtime_ns=0)
    lanes = run_lanes([file], encoder, Known(), jobs=1, timeout=timeout, longest=longest, keep_windows=keep_windows)
    with closing(lanes):
        while (outcome := next(lanes)) is None:
            if not wanted():
                raise AudioError("nobody waits for it any more", stage="limit")
    if outcome.report is not None and outcome.embeddings is not None:
        return outcome.report, outcome.embeddings
    if outcome.stage == "encode":
        raise EncoderError(outcome.reason)
    raise AudioError(outcome.reason, stage=outcome.stage)


def _windows(decoder: Decoder, path: str, encoder: Encoder, report: SoundReport) -> Iterator[Floats]:
    return cut_windows(
        decoder.blocks(path),
        encoder.windowing,
        sample_rate=encoder.card.sample_rate,
        mean=report.mean,
        deviation=report.deviation,
    )


def _decode(
    decoder: Decoder,
    take: Callable[[], AudioFile | None],
    known: Known,
    encoder: Encoder,
    pieces: Channel,
    keep_windows: bool,
) -> None:
    """Drive one decoder process until no file is left; None ends the stream, an exception breaks it."""
    last: Exception | None = None
    try:
        while (file := take()) is not None:
            ticket = _Ticket(keep_windows=keep_windows)
            for piece in _pieces(decoder, file, known, encoder, ticket.seconds):
                pieces.send((ticket, piece), 1 if isinstance(piece, Outcome) else len(piece))
    except Stopped:
        return
    except BaseException as error:  # noqa: BLE001 - travels to the lane, and from there to the consumer
        last = plain(error)
    with suppress(Stopped):
        pieces.send(last)


def _pieces(
    decoder: Decoder, file: AudioFile, known: Known, encoder: Encoder, seconds: Seconds
) -> Iterator[Floats | Outcome]:
    """Take one file as far as it must go: known bytes, known sound, or all of its windows; an outcome is the last."""
    file_hash = ""
    try:
        before = decoder.stamp(file.full_path)
        with seconds.during("hashing"):
            file_hash = decoder.file_hash(file.full_path)
            key = known.key_of_hash.get(file_hash)
            report = decoder.inspect(file.full_path) if key is None else None
        if report is None or report.key in known.keys:
            _check_unchanged(decoder, file, before)
            yield Outcome(file, "known", file_hash, report.key if report else key)
            return
        windows = _windows(decoder, file.full_path, encoder, report)
        while True:
            with seconds.during("decoding"):
                window = next(windows, None)
            if window is None:
                break
            yield window
        _check_unchanged(decoder, file, before)
        yield Outcome(file, "added", file_hash, report.key, report)
    except AudioError as error:
        kind: Literal["failed", "vanished"] = "failed" if os.path.lexists(file.full_path) else "vanished"
        yield Outcome(file, kind, file_hash, stage=error.stage, reason=str(error))


def _check_unchanged(decoder: Decoder, file: AudioFile, before: tuple[int, int]) -> None:
    """Refuse what was read from a file while something wrote to it: its bytes, key and windows are of different sounds."""
    if decoder.stamp(file.full_path) != before:
        raise AudioError("it changed while it was read", stage="open")


def _encode(pieces: Channel, decoders: int, encoder: Encoder) -> Iterator[Outcome]:
    """Turn a lane's pieces into outcomes."""
    free_since = time.perf_counter()
    for batch in _batches(pieces, decoders, getattr(encoder, "batch", BATCH)):
        windows = [(ticket, piece) for ticket, piece in batch if not isinstance(piece, Outcome) and not ticket.error]
        if windows:
            began = time.perf_counter()
            results = _hear([window for _, window in windows], encoder)
            ended = time.perf_counter()
            samples = sum(len(window) for _, window in windows)
            for (ticket, window), heard in zip(windows, results, strict=True):
                ticket.seconds.waiting += (began - free_since) * len(window) / samples
                ticket.seconds.encoding += (ended - began) * len(window) / samples
                ticket.take(heard)
            free_since = ended
        for ticket, piece in batch:
            if isinstance(piece, Outcome):
                yield ticket.stamp(piece)


def _batches(pieces: Channel, decoders: int, size: int) -> Iterator[list[_Piece]]:
    """Gather pieces until `size` windows or much sound are there, nothing comes for a moment, or all decoders are done."""
    batch: list[_Piece] = []
    windows = samples = 0
    while decoders:
        piece = pieces.receive(MOMENT if batch else math.inf)
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            decoders -= 1
        elif piece is not WAITING:
            batch.append(piece)
            if isinstance(piece[1], np.ndarray):
                windows, samples = windows + 1, samples + len(piece[1])
        full = windows >= size or samples >= SOUND or not windows  # without a window there is nothing to wait for
        if batch and (full or piece is WAITING or not decoders):
            yield batch
            batch, windows, samples = [], 0, 0


def _hear(windows: list[Floats], encoder: Encoder) -> list[LayerEmbeddings | Exception]:
    """Encode windows; where that fails, one by one, so that each fault meets the window that it is about."""
    try:
        results = encoder.encode(windows)
    except Exception as error:  # whatever a network makes of some sound costs one file
        if "CUDA error" in str(error):  # no sound is to blame: this process has lost its device
            why = str(error).split("\n", 1)[0]
            raise EncoderError(f"the device gave up ({why}); the same command goes on from here") from error
        if len(windows) == 1:
            return [error]
        return [result for window in windows for result in _hear([window], encoder)]
    if len(results) != len(windows):
        raise EncoderError(f"the encoder gave {len(results)} results for {len(windows)} windows: it is broken")
    return [*results]
