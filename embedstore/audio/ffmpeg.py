"""Decode through FFmpeg (torchcodec): MP4 audio, AAC, WMA, and what libsndfile refuses.

Native rate and channels only: FFmpeg's own downmix has a gain of sqrt(2), and its resampling aliases. Files go in as
open handles, so their names need not be UTF-8 and are never read as URLs.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedstore.audio.source import DecoderStopped, Source, clean

__all__ = ["open_ffmpeg"]

_WHOLE = 600.0  # seconds: up to here one call decodes all, above it pieces keep the memory flat
_PIECE = 30.0  # seconds
_SMALL_PIECE = 1.0  # seconds: in a damaged file the piece with the damage is lost
_REFUSALS = (RuntimeError, ValueError, OSError)  # OSError: a broken header sent the decoder to seek nowhere
_INSTALL = 'pip install "embedstore-mir[codecs]", and install FFmpeg (apt-get install ffmpeg, brew install ffmpeg)'


def open_ffmpeg(path: Path, kind: str) -> Source:
    """Open a file.

    Parameters
    ----------
    path : Path
    kind : str
        What `signatures.identify` called it.

    Raises
    ------
    DecoderStopped
        FFmpeg refuses the file, or cannot be used; then the reason holds the install line.
    """
    try:
        import torchcodec
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:  # the latter two: FFmpeg's libraries are not there
        state = "is not installed" if isinstance(error, ModuleNotFoundError) else "does not load"
        raise DecoderStopped(f"FFmpeg may read it, but torchcodec {state}; run: {_INSTALL}") from error
    file = path.open("rb")  # the blocks close it
    try:
        decoder = AudioDecoder(file)
    except _REFUSALS as error:
        file.close()
        raise DecoderStopped(_reason(error)) from error
    about = decoder.metadata
    # raw AAC states no length: FFmpeg guesses one from the bit rate
    seconds = 0.0 if kind == "aac" else float(about.duration_seconds_from_header or 0)
    in_one = 0 < seconds <= _WHOLE or str(about.codec).startswith("wma")  # torchcodec 0.17 loses its place in ASF
    return Source(
        blocks=_blocks(decoder, file, in_one=in_one),
        sample_rate=int(about.sample_rate),
        channels=int(about.num_channels),
        decoder=f"FFmpeg through torchcodec {torchcodec.__version__}",
        promised=round(seconds * about.sample_rate),
        slack=round((0.5 + 0.02 * seconds) * about.sample_rate),  # containers round, and count the encoder's delay
    )


def _blocks(decoder: Any, file: BinaryIO, *, in_one: bool) -> Generator[NDArray[np.float32]]:
    with file:
        if in_one:
            try:
                yield decoder.get_all_samples().data.numpy().T
            except _REFUSALS:  # one bad packet spoils the whole call: get what lies before it
                yield from _pieces(decoder, _SMALL_PIECE)
        else:
            yield from _pieces(decoder, _PIECE)


def _pieces(decoder: Any, seconds: float) -> Generator[NDArray[np.float32]]:
    start = 0.0
    while True:
        try:
            piece = decoder.get_samples_played_in_range(start, start + seconds).data.numpy().T
        except _REFUSALS as error:
            if start and "No audio frames were decoded" in str(error):
                return  # torchcodec's way to say that the stream has ended
            raise DecoderStopped(_reason(error)) from error
        if not len(piece):
            return
        yield piece
        start += seconds


def _reason(error: Exception) -> str:
    """Keep the first sentence of a C++ message, without function, file and line."""
    return "FFmpeg: " + clean(re.split(r"\.cpp:\d+, ", str(error))[-1].split(". ")[0])
