"""Cut a stream of sound into the windows an encoder takes, with memory for about one window.

Where the windows lie depends on the sound alone, never on how it was split into blocks::

    sound      |------------------------------------------|
    reflected  pad|---------------------------------------|pad
    windows    |--------|                                        starts at 0, hop, 2 hop, ...
                        |--------|
                                 ...           |----------|     last piece: own window, joined (merge), or left out (drop)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import AudioError, ParameterError
from embedstore.types import Windowing

__all__ = ["cut_windows", "window_spans"]

Floats = NDArray[np.float32]


def cut_windows(
    blocks: Iterable[Floats],
    windowing: Windowing,
    *,
    sample_rate: int | None = None,
    mean: float | None = None,
    deviation: float | None = None,
) -> Iterator[Floats]:
    """Cut blocks of one track into windows.

    Windows start at multiples of ``hop``. The last piece is what the next window would hold, if that has any sound
    that no full window holds. With ``short="repeat"`` the sound itself is repeated until, with the reflected ends, it
    fills one window.

    Parameters
    ----------
    blocks : iterable of float32 arrays, each shape (n,)
        The track, in order, split anyhow.
    windowing : Windowing
    sample_rate : int, optional
        Hz; only lets the error speak in seconds.
    mean, deviation : float, optional
        Of the whole track's samples (see `SoundReport`); needed, and used, only with ``normalise="file"``.

    Yields
    ------
    float32 array, shape (window,)
        A copy that the caller owns.

    Raises
    ------
    AudioError
        The track is shorter than ``windowing.minimum`` (stage "check").
    ParameterError
        The track is to be normalised, and `mean` or `deviation` is missing.

    Examples
    --------
    >>> blocks = [np.arange(4, dtype=np.float32), np.arange(4, 11, dtype=np.float32)]
    >>> [len(window) for window in cut_windows(blocks, Windowing(length=4, hop=4, min_tail=2))]
    [4, 4, 3]
    >>> [len(window) for window in cut_windows(blocks, Windowing(length=5, hop=5, min_tail=2))]
    [5, 6]
    """
    if windowing.normalise == "file":
        if mean is None or deviation is None:
            raise ParameterError("to normalise a file takes the mean and deviation of its samples; see Decoder.inspect")
        blocks = _standardised(blocks, mean, deviation)
    sound = _reflected(blocks, windowing, sample_rate)
    length, hop = windowing.length, windowing.hop
    if length is None:
        yield np.concatenate(list(sound))
        return
    joins = min(windowing.min_tail, length) if windowing.tail == "merge" else 0
    # with so much sound from its start on, a window will not be joined by the last piece
    certain = max(length, hop + joins)
    parts: list[Floats] = []
    held, cut_any = 0, False
    for block in sound:
        parts.append(block)
        held += len(block)
        if held < certain:
            continue
        joined, start = np.concatenate(parts), 0
        while held - start >= certain:
            yield joined[start : start + length].copy()
            start += hop
        parts, held, cut_any = [joined[start:]], held - start, True
    for window in _last_windows(np.concatenate(parts), windowing, length, joins, cut_any=cut_any):
        yield window.copy()


def window_spans(n_samples: int, windowing: Windowing, count: int | None = None) -> NDArray[np.int64]:
    """Say where the windows lie that `cut_windows` cuts from a track.

    Reflected and repeated sound does not count: a span ends where the track does.

    Parameters
    ----------
    n_samples : int
        Length of the track.
    windowing : Windowing
    count : int, optional
        How many windows there are, for those who know it and know `n_samples` only to rounding.

    Returns
    -------
    int64 array, shape (n_windows, 2)
        First sample of each, and the one after its last.

    Examples
    --------
    >>> window_spans(11, Windowing(length=4, hop=4, min_tail=2)).tolist()
    [[0, 4], [4, 8], [8, 11]]
    >>> window_spans(11, Windowing(length=5, hop=5, min_tail=2)).tolist()
    [[0, 5], [5, 11]]
    """
    length, hop, total = windowing.length, windowing.hop, n_samples + 2 * windowing.pad
    if length is None or total <= length:
        length = hop = total = max(total, length or 1)
    if count is None:
        rest = (total - length) % hop  # after the last full window
        extra = windowing.tail == "merge" and rest > 0 and rest + length - hop >= windowing.min_tail
        count = 1 + (total - length) // hop + extra
    starts = np.arange(count) * hop
    ends = starts + length
    if windowing.tail == "merge":
        ends[-1] = total
    return np.clip(np.stack([starts, ends], axis=1) - windowing.pad, 0, n_samples)


def _standardised(blocks: Iterable[Floats], mean: float, deviation: float) -> Iterator[Floats]:
    """Bring a track to zero mean and unit variance, with the constant of Wav2Vec2FeatureExtractor against silence."""
    offset, scale = np.float32(mean), np.float32(math.sqrt(deviation**2 + 1e-7))
    for block in blocks:
        yield (block - offset) / scale


def _last_windows(rest: Floats, windowing: Windowing, length: int, joins: int, *, cut_any: bool) -> Iterator[Floats]:
    """Cut what is left when the track has ended; `rest` begins where the next window starts."""
    start = 0
    while len(rest) - start >= length:
        new_sound = len(rest) > start + length
        if new_sound and len(rest) - (start + windowing.hop) < joins:
            yield rest[start:]
            return
        yield rest[start : start + length]
        start, cut_any = start + windowing.hop, True
    overlap = length - windowing.hop
    if not cut_any or (windowing.tail == "merge" and len(rest) - start > overlap):
        yield rest[start:]


def _reflected(blocks: Iterable[Floats], windowing: Windowing, sample_rate: int | None) -> Iterator[Floats]:
    """Pass the track on with ``pad`` mirrored samples at both ends; check its length, repeat it if that is asked."""
    pad = windowing.pad
    fill = windowing.length - 2 * pad if windowing.length is not None and windowing.short == "repeat" else 0
    stream = iter(blocks)
    parts, held = [np.empty(0, np.float32)], 0
    while held < max(windowing.minimum, pad + 1, fill) and (block := next(stream, None)) is not None:
        parts.append(block)
        held += len(block)
    head = np.concatenate(parts)
    if held < windowing.minimum:
        raise AudioError(_too_short(held, windowing.minimum, sample_rate), stage="check")
    if held < fill:
        head = np.resize(head, fill)
    if len(head) <= pad:  # so short that the mirror image is mirrored again
        yield np.pad(head, pad, mode="reflect")
        return
    if not pad:
        yield head
        yield from stream
        return
    yield head[pad:0:-1]
    yield head
    tail = head[-pad - 1 :]
    for block in stream:
        yield block
        tail = np.concatenate([tail, block])[-pad - 1 :]
    yield tail[-2::-1]


def _too_short(found: int, needed: int, sample_rate: int | None) -> str:
    if sample_rate is None:
        return f"too short: {found:,} samples, and the encoder needs {needed:,}"
    return f"too short: {found / sample_rate:.3f} s, and the encoder needs {needed / sample_rate:.3f} s"
