"""What the readers of tables share: rows of a file, the audio files that a row means, and how both come together."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from embedstore.errors import LabelsError
from embedstore.labels.table import LabelTable, Problems, clean, unite, unsafe
from embedstore.types import AudioFile, TrackLabels

__all__ = [
    "Entry",
    "Places",
    "by_stem",
    "by_words",
    "match",
    "part_options",
    "plain_word",
    "read_rows",
    "split_of",
    "stem_of",
    "year_of",
]

_SPLITS = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"}
_YEAR = re.compile(r"(?<!\d)(\d{4})(?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))?(?!\d)", re.ASCII)  # or YYYYMMDD
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_MAX_CHARS = 2**30
_MAX_LINE = 2**24


class Entry(NamedTuple):
    """A row of a source: where it stands, what it says, and of which file, by path or by id."""

    where: str
    labels: TrackLabels
    path: str = ""
    id: str = ""


def read_rows(source: str, delimiter: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, the header first, with the number of the line it starts on.

    Lines are read one at a time: a table of any size takes little memory. Without a `delimiter`, it is the most frequent
    one of comma, semicolon and tab in the first line.

    Raises
    ------
    LabelsError
        Not there, empty, not UTF-8, or with endless lines or cells.
    """
    start = 1
    try:
        with io.TextIOWrapper(Path(source).open("rb"), "utf-8-sig", "surrogateescape", newline="") as text:
            lines = _lines(source, text)
            skipped, head = next(((i, line) for i, line in enumerate(lines) if line.strip()), (0, ""))
            # a tie takes the comma
            delimiter = delimiter or max(",;\t", key=lambda mark: len(next(csv.reader([head], delimiter=mark))))
            reader = csv.reader(itertools.chain([head], lines), delimiter=delimiter)
            start += skipped
            empty = True
            for row in reader:
                if any(row):
                    yield start, row
                    empty = False
                start = skipped + reader.line_num + 1
        if empty:
            raise LabelsError(f"{source}, line 1: the file is empty; it needs a header")  # noqa: TRY301 - as its lines
    except csv.Error as error:
        raise LabelsError(f"{source}, line {start}: {error}; is a quote left open?") from error
    except LabelsError:
        raise
    except (OSError, ValueError) as error:  # the latter: no path has such characters
        raise LabelsError(f"cannot read the labels {source}: {getattr(error, 'strerror', error)}") from error


def _lines(source: str, text: TextIO) -> Iterator[str]:
    room = _MAX_CHARS
    for number, line in enumerate(iter(lambda: text.readline(_MAX_LINE), ""), 1):
        room -= len(line)
        if len(line) == _MAX_LINE:
            raise LabelsError(f"{source}, line {number}: it is over {_MAX_LINE >> 20} MiB long; is this a table?")
        if room < 0:
            raise LabelsError(
                f"the labels {source} are over {_MAX_CHARS >> 30} GiB; keep only the columns that are needed"
            )
        if not line.isascii() and (bad := _NOT_UTF8.search(line)):
            byte = ord(bad[0]) - 0xDC00
            raise LabelsError(f"{source}, line {number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8")
        yield line


def match(
    source: str,
    files: Sequence[AudioFile],
    entries: Iterable[Entry | None],
    places: Places,
    problems: Problems,
    *,
    covers: bool = False,
) -> LabelTable:
    """Give each file the labels of its rows.

    Parameters
    ----------
    source : str
    files : sequence of AudioFile
    entries : iterable of Entry or None
        None: a row that could not be used.
    places : Places
    problems : Problems
        May hold some already, and may be added to by `entries`.
    covers : bool
        The table is that of a data set: it is normal that it has rows whose files are not there, and a track in several.

    Raises
    ------
    LabelsError
        There are files, and no row means any of them.
    """
    said: dict[str, list[TrackLabels]] = {}
    total = used = 0
    lost = ""
    for entry in entries:
        total += 1
        if entry is None:
            continue
        found = places.find(entry.path, entry.id)
        if not found:
            meant = " / ".join(clean(name)[:60] for name in (entry.path, entry.id) if name)
            lost = lost or f"{meant} in {entry.where}"
            if not covers:
                problems.add("row that matches no file", f"{entry.where} ({meant})")
        used += bool(found)
        for path in found:
            before = said.setdefault(path, [])
            if before and not covers:
                new = set(entry.labels.genres).difference(*(labels.genres for labels in before))
                problems.add(f"file listed again{' under another genre (genres united)' if new else ''}", entry.where)
            before.append(entry.labels)
    if not total:
        raise LabelsError(f"{source}, line 1: a header and no rows; add one row for each file")
    if files and not used:
        wrong = f"the first row is {lost}" if covers else "; ".join(problems.lines())
        hint = (
            "is this the data set's audio?"
            if covers
            else "paths are relative to the audio folder or to the CSV's folder"
        )
        raise LabelsError(
            f"{source}: none of its rows labels any of the {len(files)} files ({wrong}; the first file is "
            f"{clean(files[0].path)!r}); {hint}"
        )
    for file in files if len(said) < len(files) else ():
        if file.full_path not in said:
            problems.add("file without a row", clean(file.path))
    below = {file.full_path: file.path for file in files}
    for path, several in said.items():
        if len({labels.split for labels in several if labels.split}) > 1:
            problems.add("file on two sides of the split (it gets none)", clean(below[path]))
    by_path = {path: unite(*several) for path, several in said.items()}
    return LabelTable(source, by_path, len(files), total, used, problems.lines())


class Places:
    """Finds the files that a row means.

    Parameters
    ----------
    files : sequence of AudioFile
    source : str, optional
        The table, if its rows have paths: they may be relative to its folder.
    ids : mapping of str to sequence of str, optional
        Id -> absolute paths of its files.
    """

    def __init__(
        self, files: Sequence[AudioFile], *, source: str = "", ids: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._paths: dict[str, str] = {}
        self._ids = ids or {}
        if source:  # later ones win: an exact place is worth more than a bare name
            self._folders = {str(Path(source).parent), str(Path(source).resolve().parent)}
            below = [(_same(file.path), file.full_path) for file in files]
            names = _single([(path.rpartition("/")[2], full) for path, full in below])
            self._paths = names | dict(below) | {_same(full): full for _, full in below}

    def find(self, path: str, known_as: str) -> Sequence[str]:
        """Absolute paths; empty if no file or no single file answers to the path."""
        for spelling in self._spellings(_same(path.strip())) if self._paths else ():
            if spelling in self._paths:
                return (self._paths[spelling],)
        return self._ids.get(_same(clean(known_as)), ()) if known_as else ()

    def _spellings(self, path: str) -> Iterator[str]:
        if path:
            yield path
            path = os.path.normpath((clean(path) if unsafe(path) else path).replace("\\", "/"))
            yield path
            for folder in self._folders:
                yield os.path.normpath(f"{folder}/{path}")


def part_options(source: str, *choices: Sequence[str]) -> tuple[str, list[str]]:
    """Part a path from what was chosen after a ``#``: one word of each list, empty where none was.

    >>> part_options("/no/tracks.csv#split-1", ["split-0", "split-1"], ["genre", "mood"])
    ('/no/tracks.csv', ['split-1', ''])

    Raises
    ------
    LabelsError
        A word that is in no list, or two of one.
    """
    place, mark, asked = source.rpartition("#")
    if not mark or os.path.exists(source):  # noqa: PTH110 - unlike Path's, never raises
        return source, ["" for _ in choices]
    words = asked.split(",")
    chosen = [[word for word in words if word in some] for some in choices]
    if sum(map(len, chosen)) < len(words) or any(len(some) > 1 for some in chosen):
        expected = " and ".join(f"one of {', '.join(some)}" for some in choices)
        raise LabelsError(f"{source}: after the # may follow {expected}, with a comma between; got {asked!r}")
    return place, ["".join(some) for some in chosen]


def stem_of(file: AudioFile) -> str:
    """Give a file's name without its suffix."""
    name = _same(file.path).rpartition("/")[2]
    return name.rpartition(".")[0] or name


def by_stem(files: Sequence[AudioFile]) -> dict[str, list[str]]:
    """Take the names without suffixes for ids, where they stand for one file only."""
    return {stem: [path] for stem, path in _single([(stem_of(file), file.full_path) for file in files]).items()}


def by_words(files: Sequence[AudioFile], ids_in: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    """Find a data set's ids in the names without suffixes; copies of a track share theirs."""
    found: dict[str, list[str]] = {}
    for file in files:
        for word in dict.fromkeys(ids_in(stem_of(file))):
            found.setdefault(word, []).append(file.full_path)
    return found


def split_of(word: str) -> str | None:
    """Read a side of a split by its usual names; None if it is none.

    >>> split_of("Validation"), split_of("test"), split_of(""), split_of("fold 3")
    ('valid', 'test', '', None)
    """
    word = word.strip().lower()
    return _SPLITS.get(word, word if word in ("", *_SPLITS.values()) else None)


def year_of(text: str) -> int | None:
    """Read the year of a date, in whatever order it is written; 0 if nothing or zeros are there, None if it has no year.

    >>> year_of("1969-09-26"), year_of("26.9.1969"), year_of("19690926"), year_of("1969.0"), year_of("0000-00-00")
    (1969, 1969, 1969, 1969, 0)
    >>> year_of("yesterday"), year_of("26/9/69")
    (None, None)
    """
    if not text.strip(" 0-/.:"):
        return 0
    found = _YEAR.search(text)
    return int(found[1]) or None if found else None


def plain_word(text: str) -> str:
    """Leave letters and digits only, in lower case: what spellings of one name have in common.

    >>> plain_word("Hip-Hop"), plain_word("hip hop"), plain_word("R&B"), plain_word("♪")
    ('hiphop', 'hiphop', 'rb', '♪')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or folded


def _single(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Keep the names that stand for one file only."""
    counts = Counter(name for name, _ in pairs)
    return {name: path for name, path in pairs if counts[name] == 1}


def _same(text: str) -> str:
    """Spell accents one way: file systems and spreadsheets differ in it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
