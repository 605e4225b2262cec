"""What the two decoders have in common."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecoderStopped", "Source", "clean"]


@dataclass(frozen=True)
class Source:
    """An open file.

    Attributes
    ----------
    blocks : generator of float32 arrays, each shape (n, channels)
        Ends in `DecoderStopped` where the decoder gives up; closing it closes the file.
    sample_rate, channels : int
        Of the file.
    decoder : str
        Library and version.
    promised : int
        Frames that the header promises, 0 where it states none.
    slack : int
        So many of them may be missing without a word.
    warnings : tuple of str
        What the container shows before decoding.
    """

    blocks: Generator[NDArray[np.float32]]
    sample_rate: int
    channels: int
    decoder: str
    promised: int
    slack: int
    warnings: tuple[str, ...] = ()


class DecoderStopped(Exception):  # noqa: N818 - a signal between modules of this room, never raised to a caller
    """A decoder refused a file, or gave up inside it; the text is the decoder's reason."""


def clean(text: str) -> str:
    """Make one line of a library's message, without its closing stop.

    >>> clean("Error : flac decoder lost sync.")
    'flac decoder lost sync'
    """
    return " ".join(text.split()).removeprefix("Error : ").rstrip(". ")
