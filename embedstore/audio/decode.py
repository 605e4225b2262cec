"""From a file to mono sound: native rate, mean over channels, soxr HQ; what was read is checked against what was promised."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.audio.ffmpeg import open_ffmpeg
from embedstore.audio.libsndfile import open_libsndfile
from embedstore.audio.signatures import identify
from embedstore.audio.source import DecoderStopped, Source
from embedstore.errors import AudioError, ParameterError
from embedstore.types import Waveform

__all__ = [
    "DECODE_RECIPE",
    "Moments",
    "Resampler",
    "Sound",
    "SoundHash",
    "SoundReport",
    "check_rate",
    "open_source",
    "read_audio",
]

Floats = NDArray[np.float32]

DECODE_RECIPE = "native rate, mean over channels, soxr HQ"
_RATES = (1_000, 768_000)  # Hz; outside, a header is broken or hostile


@dataclass(frozen=True)
class SoundReport:
    """What one full decode found.

    Attributes
    ----------
    key : int
        63-bit hash of the sound at its native rate and of that rate: equal for all files that decode to this sound.
    sample_rate, channels : int
        Of the file.
    frames : int
        Samples per channel that were decoded.
    decoder : str
        Library and version.
    warnings : tuple of str
        What was wrong but not fatal, e.g. a decoder that stopped early.
    mean, deviation : float
        Mean and standard deviation of the samples at the rate that was asked for.
    """

    key: int
    sample_rate: int
    channels: int
    frames: int
    decoder: str
    warnings: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 0.0

    @property
    def seconds(self) -> float:
        """Duration of what was decoded."""
        return self.frames / self.sample_rate

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SoundReport:
        """Read what `to_dict` wrote."""
        return cls(**{**data, "warnings": tuple(data["warnings"])})


class SoundHash:
    """The key of a sound: 63 bits of BLAKE2b over its mono float32 samples (little-endian) and its sample rate.

    >>> sound = SoundHash()
    >>> sound.update(np.zeros(3, np.float32))
    >>> f"{sound.key(8000):016x}"
    '6de84d2f27b47449'
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def update(self, samples: Floats) -> None:
        """Take the next samples."""
        self._hash.update(np.ascontiguousarray(samples, dtype="<f4").data)

    def key(self, sample_rate: int) -> int:
        """Finish."""
        self._hash.update(sample_rate.to_bytes(8, "little"))
        return int.from_bytes(self._hash.digest(), "little") >> 1


class Moments:
    """Mean and variance of a stream, in float64: block by block, without the loss of a sum of squares.

    >>> moments = Moments()
    >>> for block in ([1.0, 2.0], [], [6.0]):
    ...     moments.update(np.array(block, np.float32))
    >>> moments.mean, round(moments.deviation, 3)
    (3.0, 2.16)
    """

    def __init__(self) -> None:
        self._count, self.mean, self._squares = 0, 0.0, 0.0  # squares: of the distances from the mean

    def update(self, samples: Floats) -> None:
        """Take the next samples."""
        if count := len(samples):
            exact = samples.astype(np.float64)
            mean = float(exact.mean())
            exact -= mean
            away, total = mean - self.mean, self._count + count
            self._squares += float(exact @ exact) + away**2 * self._count * count / total
            self.mean += away * count / total
            self._count = total

    @property
    def deviation(self) -> float:
        """Standard deviation so far."""
        return math.sqrt(self._squares / max(1, self._count))


class Resampler:
    """Resample a stream with soxr HQ: the same as resampling the sound in one go, to float32 rounding."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        import soxr

        same = from_rate == to_rate
        self._stream = None if same else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")

    def push(self, block: Floats) -> Floats:
        """Give the next samples, get what is ready (perhaps nothing yet)."""
        return block if self._stream is None else self._stream.resample_chunk(block)

    def finish(self) -> Floats:
        """Get the rest."""
        empty = np.empty(0, np.float32)
        return empty if self._stream is None else self._stream.resample_chunk(empty, last=True)


class Sound:
    """One pass over a file.

    Parameters
    ----------
    path : path
        A regular file.
    longest : float
        Seconds of sound that it may have.

    Attributes
    ----------
    sample_rate, channels : int
        Of the file.
    decoder : str
        Library and version.
    frames : int
        Samples per channel decoded so far.
    warnings : tuple of str
        Complete once `blocks` is used up.

    Raises
    ------
    AudioError
        The file cannot be opened (stage "open"), is no audio that can be decoded (stage "decode"), or states an absurd
        sample rate or too many seconds (stage "check").
    """

    def __init__(self, path: str | os.PathLike[str], longest: float = math.inf) -> None:
        self._source = source = open_source(Path(path).absolute())  # a bare "-" would mean stdin
        self.sample_rate, self.channels, self.decoder = source.sample_rate, source.channels, source.decoder
        self.frames, self.warnings = 0, source.warnings
        self._longest = longest
        if not _RATES[0] <= self.sample_rate <= _RATES[1]:
            source.blocks.close()
            raise AudioError(
                f"its header states {self.sample_rate:,} Hz, outside {_RATES[0]:,}..{_RATES[1]:,}", stage="check"
            )
        try:
            self._check_length(source.promised)
        except AudioError:
            source.blocks.close()
            raise

    def blocks(self) -> Iterator[Floats]:
        """Decode, once: mono float32 blocks at the native rate.

        Raises
        ------
        AudioError
            There is no sound in the file (stage "decode"), or a sample is not finite, or there are too many (stage "check").
        """
        reason = ""
        with closing(self._source.blocks) as blocks:
            try:
                for block in blocks:
                    mono = _downmix(block)
                    self._check_finite(mono)
                    self.frames += len(mono)
                    self._check_length(self.frames)  # headers lie
                    yield mono
            except DecoderStopped as stopped:
                reason = f" ({stopped})"
        if not self.frames:
            raise AudioError(f"no sound in it: 0 frames decoded{reason}")
        if reason or self._source.promised - self.frames > self._source.slack:
            kept, promised = self.frames / self.sample_rate, self._source.promised / self.sample_rate
            of = f" of {promised:.2f} s" if promised > kept else ""
            self.warnings += (f"the decoder stopped early: {kept:.2f} s{of} kept{reason}",)

    def _check_length(self, frames: int) -> None:
        if frames > self._longest * self.sample_rate:
            raise AudioError(f"the sound is longer than {self._longest / 3600:g} h", stage="check")

    def _check_finite(self, mono: Floats) -> None:
        finite = np.isfinite(mono)
        if not finite.all():
            at = (self.frames + int(np.argmin(finite))) / self.sample_rate
            raise AudioError(f"the sample at {at:.3f} s is not a finite number", stage="check")


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16_000) -> Waveform:
    """Read a whole file as mono sound: the recipe of `Decoder`, inside this process.

    Parameters
    ----------
    path : path
        Any audio file.
    sample_rate : int
        Hz wanted.

    Raises
    ------
    AudioError
        The file cannot become a waveform.

    Examples
    --------
    >>> import soundfile, tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".wav") as file:
    ...     soundfile.write(file, np.zeros((44100, 2)), 44100, format="WAV")
    ...     file.flush()
    ...     read_audio(file.name)
    Waveform(1.00 s at 16000 Hz)
    """
    check_rate(sample_rate)
    sound = Sound(path)
    stream = Resampler(sound.sample_rate, sample_rate)
    return Waveform(np.concatenate([*map(stream.push, sound.blocks()), stream.finish()]), sample_rate)


def check_rate(sample_rate: int) -> None:
    """Refuse a sample rate that makes no sense for sound."""
    if not _RATES[0] <= sample_rate <= _RATES[1]:
        raise ParameterError(f"the sample rate is in Hz, {_RATES[0]:,}..{_RATES[1]:,}; got {sample_rate!r}")


def open_source(path: Path) -> Source:
    """Open a file with libsndfile, or FFmpeg if it has an audio signature.

    Raises
    ------
    AudioError
        It cannot be opened, or is no audio that can be decoded.
    """
    kind, refusal = _look(path), ""
    if kind not in {"mp4", "asf", "aac"}:
        try:
            return open_libsndfile(path)
        except DecoderStopped as stopped:
            refusal = f"libsndfile: {stopped}"
            if kind is None:
                raise AudioError("not audio: no known signature, and libsndfile cannot read it") from stopped
    try:
        return open_ffmpeg(path, kind or "")
    except DecoderStopped as stopped:
        raise AudioError("; ".join(filter(None, [refusal, str(stopped)]))) from stopped


def _look(path: Path) -> str | None:
    """Name the file's container; refuse what is no file with something in it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # before opening: a FIFO would wait for its writer
            raise AudioError("not a regular file", stage="open")
        if not status.st_size:
            raise AudioError("the file is empty (0 bytes)", stage="open")
        with path.open("rb") as file:
            return identify(file)
    except OSError as error:
        raise AudioError(f"cannot be opened: {error.strerror or error}", stage="open") from error


def _downmix(block: Floats) -> Floats:
    """Mean over channels, summed in channel order: float32 (n, channels) -> (n,)."""
    mono = np.array(block[:, 0])
    with np.errstate(over="ignore", invalid="ignore"):  # the check for finite samples finds it
        for channel in range(1, block.shape[1]):
            mono += block[:, channel]
        mono /= np.float32(block.shape[1])
    return mono
