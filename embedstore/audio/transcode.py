"""FLAC for players that cannot read a file's own format, written by a process: ``python -m embedstore.audio.transcode SOURCE TARGET``.

It says on stdout what went wrong, as ``{"error": text, "stage": stage}``, or nothing went wrong, as ``{}``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.audio.decode import open_source
from embedstore.audio.source import DecoderStopped, clean
from embedstore.audio.worker import limit
from embedstore.child import Child
from embedstore.errors import AudioError

__all__ = ["transcode"]

_RATES = (8_000, 96_000)  # Hz that players know; others become the next
_RATE = 48_000
_MEMORY = 4 * 2**30


def transcode(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    most: int,
    timeout: float = 300,
    started: Callable[[Child], object] = lambda _: None,
) -> None:
    """Write the sound of a file as FLAC: 16 bits, its own rate from 8 to 96 kHz, else 48 kHz; of more than two channels, the mean.

    A decoder that stops early costs the rest of the sound.

    Parameters
    ----------
    path : path
    target : path
        Replaced if it is there; what is left of a failure is taken away.
    most : int
        Bytes that it may have.
    timeout : float
        Seconds after which the process is killed.
    started : callable
        Given the process, which may be killed at any time.

    Raises
    ------
    AudioError
        There is no sound in it; its stage is "limit" when the process died, or had to be killed.
    """
    child = Child(["-m", "embedstore.audio.transcode", os.path.abspath(path), os.path.abspath(target), str(most)])
    late = threading.Event()

    def stop() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(timeout, stop)
    timer.start()
    try:
        started(child)
        said = json.loads(child.stdout.read() or "null")
        if said is None:
            why = f"took longer than {timeout:g} s" if late.is_set() else f"died ({clean(child.death())})"
            said = {"error": f"the process that decodes it {why}", "stage": "limit"}
    finally:
        timer.cancel()
        child.end()
    if said:
        Path(target).unlink(missing_ok=True)
        raise AudioError(said["error"], stage=said["stage"])


def _write(path: str, target: str) -> None:
    import soundfile
    import soxr

    source = open_source(Path(path))
    channels = source.channels if source.channels <= 2 else 1
    rate = source.sample_rate if _RATES[0] <= source.sample_rate <= _RATES[1] else _RATE
    moved = soxr.ResampleStream(source.sample_rate, rate, channels, dtype="float32", quality="HQ")
    frames = 0

    def put(block: NDArray[np.float32], *, last: bool = False) -> int:
        ready = block if rate == source.sample_rate else moved.resample_chunk(block, last=last)
        try:
            out.write(ready)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"there is no room for it as FLAC ({clean(error.error_string)})", stage="limit") from error
        return len(ready)

    with (
        closing(source.blocks) as blocks,
        soundfile.SoundFile(target, "w", rate, channels, "PCM_16", format="FLAC") as out,
    ):
        with suppress(DecoderStopped):  # what came before it can be heard
            for block in blocks:
                heard = np.nan_to_num(block if channels == source.channels else block.mean(axis=1, keepdims=True))
                frames += put(heard)
        frames += put(np.empty((0, channels), np.float32), last=True)
    if not frames:
        raise AudioError("no sound in it: 0 frames decoded")


def main(path: str, target: str, most: str) -> None:
    """Do it."""
    limit(_MEMORY, int(most))
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not break the conversation
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    said: dict[str, Any] = {}
    try:
        _write(path, target)
    except AudioError as error:
        said = {"error": str(error), "stage": error.stage}
    except MemoryError:
        said = {"error": "decoding it needs more memory than the limit", "stage": "limit"}
    except Exception as error:  # noqa: BLE001 - a decoder that fails in a new way costs one file
        said = {"error": clean(f"{type(error).__name__}: {error}"), "stage": "decode"}
    json.dump(said, output)
    output.flush()
    os._exit(0)  # without waiting for the reader of stdin


if __name__ == "__main__":
    main(*sys.argv[1:])
