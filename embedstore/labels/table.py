"""What every label reader shares: the table it returns, the cleaning of text, the collecting of problems."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from embedstore.types import TrackLabels

__all__ = ["Columns", "LabelTable", "Problems", "clean", "unite", "unsafe"]

# terminal escape sequences whole; then control characters and marks that reorder text; then halves of characters
# (file names that are not UTF-8 arrive with those, and nothing could write them out again)
_UNSAFE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHOWN = 5  # items named per kind of problem; the rest are counted


@dataclass(frozen=True)
class Columns:
    """Names of a CSV's columns; None takes the plain name or one of its usual synonyms."""

    path: str | None = None
    track_id: str | None = None
    genre: str | None = None
    artist: str | None = None
    album: str | None = None
    title: str | None = None


@dataclass(frozen=True, repr=False)
class LabelTable:
    """The labels of a set of files.

    Attributes
    ----------
    source : str
        The reader's name, or the absolute path of the CSV.
    by_path : mapping of str to TrackLabels
        Absolute path of a file -> its labels; files without labels are absent.
    files : int
        How many files were asked for.
    rows : int
        How many rows the source holds; for folders, the files.
    used_rows : int
        How many of the rows labelled a file.
    problems : tuple of str
        One line for each kind of problem: how often, and where (line numbers).
    """

    source: str
    by_path: Mapping[str, TrackLabels]
    files: int
    rows: int
    used_rows: int
    problems: tuple[str, ...] = ()

    @property
    def coverage(self) -> str:
        """One line: how much of the files and of the source found each other."""
        return f"{len(self.by_path)} of {self.files} files labelled; {self.used_rows} of {self.rows} rows used"

    def __repr__(self) -> str:
        return f"LabelTable({self.source}: {self.coverage}; {len(self.problems)} kinds of problem)"


class Problems:
    """Collects problems by kind, so that 100,000 rows without a file make one line."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, where: str) -> None:
        """Note that `kind` happened at `where`."""
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= _SHOWN:
            self._found.setdefault(kind, []).append(where)

    def lines(self) -> tuple[str, ...]:
        """One line per kind, in order of appearance."""
        lines = []
        for kind, shown in self._found.items():
            more = self._counts[kind] - len(shown)
            lines.append(f"{self._counts[kind]} x {kind}: {', '.join(shown)}" + (f" and {more} more" if more else ""))
        return tuple(lines)


def unsafe(text: str) -> bool:
    """Tell whether text holds what `clean` takes out."""
    return not text.isprintable() and _UNSAFE.search(text) is not None


def clean(text: str) -> str:
    r"""Make text safe to print and to store: no control characters, no terminal escapes, single spaces.

    >>> clean("blues\x1b[31m\x00  rock")
    'blues rock'
    """
    return " ".join((_UNSAFE.sub("", text) if unsafe(text) else text).split())


def unite(first: TrackLabels, second: TrackLabels) -> TrackLabels:
    """Join two descriptions of one track: all genres, all artists, the first album and title that are not empty.

    >>> unite(TrackLabels(("blues",)), TrackLabels(("rock", "blues"), title="Crossroads"))
    TrackLabels(genres=('blues', 'rock'), artists=(), album='', title='Crossroads')
    """
    return TrackLabels(
        tuple(dict.fromkeys(first.genres + second.genres)),
        tuple(dict.fromkeys(first.artists + second.artists)),
        first.album or second.album,
        first.title or second.title,
        first.source or second.source,
    )
