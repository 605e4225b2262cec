"""What every label reader shares: the table it returns, the cleaning of text, the collecting of problems."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from embedstore.types import TrackLabels

__all__ = ["Columns", "DataSet", "LabelTable", "Problems", "clean", "unite", "unsafe"]

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
    split: str | None = None
    year: str | None = None


@dataclass(frozen=True)
class DataSet:
    """What is known of a published data set, whoever has it.

    Attributes
    ----------
    name, licence, citation, url : str
    splits : tuple of str
        Its official splits, each in a few words.
    faults : tuple of str
        What others have found wrong with it.
    """

    name: str
    licence: str
    citation: str
    url: str
    splits: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class LabelTable:
    """The labels of a set of files.

    Attributes
    ----------
    source : str
        The absolute path of a CSV, or the reader's name, with a colon and the absolute path of what it reads, if any.
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
    dataset : DataSet or None
        Whose labels they are, if they are published ones.
    """

    source: str
    by_path: Mapping[str, TrackLabels]
    files: int
    rows: int
    used_rows: int
    problems: tuple[str, ...] = ()
    dataset: DataSet | None = None

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
        self._notes: list[str] = []

    def note(self, line: str) -> None:
        """Add a line that stands for all it counts."""
        self._notes.append(line)

    def add(self, kind: str, where: str) -> None:
        """Note that `kind` happened at `where`."""
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= _SHOWN:
            self._found.setdefault(kind, []).append(where)

    def lines(self) -> tuple[str, ...]:
        """One line per kind, in order of appearance, then the notes."""
        lines: list[str] = []
        for kind, shown in self._found.items():
            more = self._counts[kind] - len(shown)
            lines.append(f"{self._counts[kind]} x {kind}: {', '.join(shown)}" + (f" and {more} more" if more else ""))
        return (*lines, *self._notes)


def unsafe(text: str) -> bool:
    """Tell whether text holds what `clean` takes out."""
    return not text.isprintable() and _UNSAFE.search(text) is not None


def clean(text: str) -> str:
    r"""Make text safe to print and to store: no control characters, no terminal escapes, single spaces.

    >>> clean("blues\x1b[31m\x00  rock")
    'blues rock'
    """
    return " ".join((_UNSAFE.sub("", text) if unsafe(text) else text).split())


def unite(*several: TrackLabels) -> TrackLabels:
    """Join descriptions of one track: all genres, all artists, the first album and title that are not empty.

    A track that is said to be on two sides of a split is on none; of several years the first is that of its first release.

    >>> unite(TrackLabels(("blues",), split="test"), TrackLabels(("rock", "blues"), title="Crossroads"))
    TrackLabels(genres=('blues', 'rock'), artists=(), album='', title='Crossroads', split='test', year=0)
    """
    if len(several) == 1:
        return several[0]
    splits = {labels.split for labels in several if labels.split}
    return TrackLabels(
        tuple(dict.fromkeys(genre for labels in several for genre in labels.genres)),
        tuple(dict.fromkeys(artist for labels in several for artist in labels.artists)),
        next((labels.album for labels in several if labels.album), ""),
        next((labels.title for labels in several if labels.title), ""),
        next((labels.source for labels in several if labels.source), ""),
        splits.pop() if len(splits) == 1 else "",
        min((labels.year for labels in several if labels.year), default=0),
    )
