"""Everything embedstore raises on purpose.

Each leaf is also the builtin that a caller expects, so ``except ValueError`` keeps working. A message says what was
asked, what was found, and what to do; `cli.py` prints it as one line and exits with 1.
"""

from __future__ import annotations

__all__ = [
    "AudioError",
    "EmbedstoreError",
    "EncoderError",
    "EncoderMismatchError",
    "IndexFormatError",
    "LabelsError",
    "MissingDependencyError",
    "ParameterError",
    "StoreError",
    "StoreFormatError",
    "StoreLockedError",
    "TrackNotFoundError",
    "UnknownNameError",
    "WeightsError",
]


class EmbedstoreError(Exception):
    """Root of the tree: catch this to catch everything embedstore raises on purpose."""


class ParameterError(EmbedstoreError, ValueError):
    """An argument is outside what the call accepts."""


class UnknownNameError(EmbedstoreError, LookupError):
    """A name (encoder, probe, layer, genre, ...) is not among the known ones."""


class MissingDependencyError(EmbedstoreError, ImportError):
    """An optional library is not installed; the message holds the install line."""


class AudioError(EmbedstoreError, ValueError):
    """A file cannot become a waveform.

    Parameters
    ----------
    message : str
        What was found and what to do, without the path.
    stage : str
        Where it happened: ``"open"``, ``"decode"``, ``"check"`` or ``"limit"`` (crash, time, memory).
    """

    def __init__(self, message: str, *, stage: str = "decode") -> None:
        super().__init__(message)
        self.stage = stage


class EncoderError(EmbedstoreError, ValueError):
    """An encoder cannot be set up, or gave vectors that are not finite."""


class WeightsError(EncoderError):
    """The weights of an encoder cannot be had, or are not what was promised."""


class StoreError(EmbedstoreError, OSError):
    """The store cannot be read or written (missing, read-only, full disk)."""


class StoreFormatError(EmbedstoreError, ValueError):
    """A file of the store is not what the format says."""


class StoreLockedError(EmbedstoreError, RuntimeError):
    """Another process is writing to the store."""


class EncoderMismatchError(EmbedstoreError, ValueError):
    """The store was written with another recipe; the message names the fields that differ."""


class TrackNotFoundError(EmbedstoreError, KeyError):
    """No stored track answers to that id or path."""

    __str__ = Exception.__str__  # KeyError would print the repr of its message


class LabelsError(EmbedstoreError, ValueError):
    """A label source cannot be read; the message holds the line number."""


class IndexFormatError(EmbedstoreError, ValueError):
    """An index file is not one of ours, or not of this store."""
