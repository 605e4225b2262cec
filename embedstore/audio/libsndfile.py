"""Decode through libsndfile: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU, CAF.

Read plainly through soundfile, files can come out wrong or short without an error. What is done about it:

- soundfile seeks to where it already is after every block. In an MP3 that drops the bit reservoir, and the next frames
  come out damaged or silent (measured: 1 % of the samples of ordinary files, 20 % of a pure tone). We never seek.
- An MP3 stream that does not state its length (no Xing, Info or VBRI frame): libsndfile guesses the length from the
  first frame's bit rate and stops there, which can be half of the music. Fed through a pipe it reads on to the end.
- A WAV, AIFF or AU file that is cut short: the header's count is replaced in silence by what is there; only its log tells.
- An Ogg stream that is cut short: the length is taken from the last page that is there, whichever it is.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.audio.signatures import mpeg_start
from embedstore.audio.source import DecoderStopped, Source, clean

__all__ = ["open_libsndfile"]

_BLOCK = 16_384  # frames; what the decoder had of a block when it failed is lost, so not larger
_CHUNK = re.compile(r": (\d+) \(should be (\d+)\)")  # libsndfile's log: bytes stated, bytes there
_UNKNOWN_LENGTH = 0x7FFF0000  # bytes; writers to a pipe leave 0x7FFFFFFF, 0xFFFFFFFF or so


def open_libsndfile(path: Path) -> Source:
    """Open a file.

    Raises
    ------
    DecoderStopped
        libsndfile refuses it.
    """
    import soundfile

    # by name, since the suffix is libsndfile's hint for an MP3 with rubbish in front; bytes, since it need not be UTF-8
    target: str | bytes | int = str(path) if os.name == "nt" else os.fsencode(path)
    if path.suffix.lower() == ".raw":  # by that name, soundfile would want to be told the rate
        target = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        file = soundfile.SoundFile(target)
    except soundfile.LibsndfileError as error:
        raise DecoderStopped(clean(error.error_string)) from error
    promised, frames = int(file.frames), max(1, min(_BLOCK, 8 * _BLOCK // file.channels))
    warnings: tuple[str, ...] = ()
    if file.format == "MP3":
        start = _start_if_length_unstated(path)
        if start is not None:
            file.close()
            file, promised = _open_by_pipe(path, start), 0
            frames = 1152  # one MPEG frame: tags at the end may end the stream in an error
    elif file.format == "OGG":
        warnings = _missing_end(path)
    else:
        promised = _promised_by_chunks(file)
    file.seekable = lambda: False  # no seeking after every block, see above
    return Source(
        blocks=_blocks(file, frames),
        sample_rate=file.samplerate,
        channels=file.channels,
        decoder=f"libsndfile {soundfile.__libsndfile_version__}",
        promised=promised,
        slack=max(file.samplerate // 10, 2304),  # encoder delay and padding are not always counted alike
        warnings=warnings,
    )


def _blocks(file: Any, frames: int) -> Generator[NDArray[np.float32]]:
    import soundfile

    with file:
        while True:
            try:
                block = file.read(frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise DecoderStopped(clean(error.error_string)) from error
            if not len(block):
                return
            yield block


def _start_if_length_unstated(path: Path) -> int | None:
    """Offset of the first MPEG frame when that frame does not state the stream's length."""
    with path.open("rb") as file:
        found = mpeg_start(file)
    return found[0] if found and not found[1] else None


def _open_by_pipe(path: Path, start: int) -> Any:
    """Open an MPEG stream that libsndfile can not seek in, so that it has no length to stop at."""
    import soundfile

    reader, writer = os.pipe()

    def feed() -> None:
        with path.open("rb") as source, os.fdopen(writer, "wb", buffering=0) as sink:
            source.seek(start)
            try:
                while data := source.read(65_536):
                    sink.write(data)
            except OSError:
                return  # the decoder has closed its end

    threading.Thread(target=feed, daemon=True).start()
    try:
        return soundfile.SoundFile(reader)  # which owns the descriptor from here on
    except soundfile.LibsndfileError as error:
        raise DecoderStopped(clean(error.error_string)) from error


def _missing_end(path: Path) -> tuple[str, ...]:
    """Warn when the last Ogg page is incomplete, or not marked as the end of its stream (RFC 3533, 6)."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 131_072))  # a page has at most 65,307 bytes
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    whole = len(page) > 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    if whole and page[5] & 4:
        return ()
    return ("the stream has no end mark: it was cut short, or recorded from a broadcast",)


def _promised_by_chunks(file: Any) -> int:
    """Frames that the header promised before libsndfile cut the count down to the size of the file."""
    sizes = [(int(stated), int(there)) for stated, there in _CHUNK.findall(file.extra_info)]
    cut = [(stated, there) for stated, there in sizes if 0 < there < stated < _UNKNOWN_LENGTH]
    stated, there = cut[-1] if cut else (1, 1)  # the last, innermost chunk holds the samples
    return int(file.frames) * stated // there
