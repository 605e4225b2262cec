"""Sound makers that every room's tests share."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import soundfile

# a suite in the background has these ignored, and so would have the programs that it interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

FORMATS = {
    ".opus": {"format": "OGG", "subtype": "OPUS"},
    ".oga": {"format": "OGG"},
    ".aif": {"format": "AIFF"},
}


class WriteAudio(Protocol):
    """What the `write_audio` fixture is."""

    def __call__(
        self,
        path: str | Path,
        seconds: float = 1.0,
        sample_rate: int = 16000,
        channels: int = 1,
        frequency: float = 440.0,
        *,
        samples: np.ndarray | None = None,
        **options: Any,
    ) -> Path:
        """Return where the file lies."""


def tone(seconds: float = 1.0, sample_rate: int = 16000, channels: int = 1, frequency: float = 440.0) -> np.ndarray:
    """Sines at amplitude 0.5: float32 (n,) for one channel, else (n, channels) with `frequency` * (channel + 1)."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    sound = 0.5 * np.sin(2 * np.pi * frequency * np.arange(1, channels + 1) * time[:, None])
    return np.ascontiguousarray(sound[:, 0] if channels == 1 else sound, dtype=np.float32)


@pytest.fixture
def write_audio(tmp_path: Path) -> WriteAudio:
    """Write sines (or `samples`) with soundfile: format by suffix or `format=`/`subtype=`; relative paths lie in tmp_path.

    Two files are the same sound (the same key) unless they differ in seconds, rate, channels or frequency.
    """

    def write(
        path: str | Path,
        seconds: float = 1.0,
        sample_rate: int = 16000,
        channels: int = 1,
        frequency: float = 440.0,
        *,
        samples: np.ndarray | None = None,
        **options: Any,
    ) -> Path:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        sound = tone(seconds, sample_rate, channels, frequency) if samples is None else samples
        with target.open("wb") as file:  # a handle, so that names that are not UTF-8 work too
            soundfile.write(
                file, sound, sample_rate, **{**FORMATS.get(target.suffix, {"format": target.suffix[1:]}), **options}
            )
        return target

    return write
