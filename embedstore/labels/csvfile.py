"""Labels from a CSV with a header: ``path`` or ``track_id``, and any of ``genre``, ``artist``, ``album``, ``title``.

UTF-8, with or without a byte order mark; comma, semicolon or tab. Several genres or artists in a cell stand apart by
``;``. A path may be absolute, relative to the audio root or to the CSV's own folder, or a bare file name that occurs
once; a track id is a file's name without its suffix, where that occurs once. A file that is listed again gets all its
rows' genres and artists. Rows that cannot be used are problems of the table, not errors.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from embedstore.errors import LabelsError
from embedstore.labels.table import Columns, LabelTable, Problems, clean, unite, unsafe
from embedstore.types import AudioFile, TrackLabels

__all__ = ["SYNONYMS", "read_csv"]

# column -> names that are accepted when the plain one is absent
SYNONYMS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "audio_path"),
    "track_id": ("trackid", "id"),
    "genre": ("genres", "track_genre", "genre_top"),
    "artist": ("artists", "artist_name", "track_artist"),
    "album": ("album_name", "album_title"),
    "title": ("track_name", "track_title"),
}
_MAX_BYTES = 2**30


def read_csv(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:
    """Read a CSV and match its rows to the files.

    Raises
    ------
    LabelsError
        Not there, empty, not UTF-8, no usable column, or no row that matches any file.
    """
    rows = _rows(source)
    _, header = next(rows, (1, []))
    where = _find_columns(source, header, columns)
    places = _Places(source, files, where)
    by_path: dict[str, TrackLabels] = {}
    problems = Problems()
    total = used = 0
    for number, row in rows:
        total += 1
        cells = _cells(number, row, where, len(header), problems)
        path = places.find(cells.get("path", ""), cells.get("track_id", ""))
        if path is None:
            if cells:
                meant = " / ".join(clean(cells[key])[:60] for key in ("path", "track_id") if key in cells)
                problems.add("row that matches no file", f"line {number} ({meant})")
            continue
        used += 1
        labels = _labels(number, cells, problems)
        before = by_path.get(path)
        if before is not None:
            new = set(labels.genres) - set(before.genres)
            problems.add(f"file listed again{' under another genre (genres united)' if new else ''}", f"line {number}")
        by_path[path] = unite(before, labels) if before else labels
    if not total:
        raise LabelsError(f"{source}, line 1: a header and no rows; add one row for each file")
    if files and not used:
        raise LabelsError(
            f"{source}: none of its rows labels any of the {len(files)} files ({'; '.join(problems.lines())}; the first file is "
            f"{clean(files[0].path)!r}); paths are relative to the audio folder or to the CSV's folder"
        )
    for file in files if len(by_path) < len(files) else ():
        if file.full_path not in by_path:
            problems.add("file without a row", clean(file.path))
    return LabelTable(source, by_path, len(files), total, used, problems.lines())


def _rows(source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, the header first, with the number of the line it starts on."""
    try:
        with Path(source).open("rb") as stream:
            pieces = iter(lambda: stream.read(2**20), b"")  # read at once, a table would ask for memory for the largest
            data = b"".join(itertools.islice(pieces, _MAX_BYTES // 2**20 + 1))
    except (OSError, ValueError) as error:  # the latter: no path has such characters
        raise LabelsError(f"cannot read the labels {source}: {getattr(error, 'strerror', error)}") from error
    if len(data) > _MAX_BYTES:
        raise LabelsError(f"the labels {source} are over {_MAX_BYTES >> 30} GiB; keep only the columns that are needed")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelsError(
            f"{source}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    if not text.strip():
        raise LabelsError(f"{source}, line 1: the file is empty; it needs a header with path or track_id, and genre")
    head = next(line for line in io.StringIO(text, newline="") if line.strip())
    start = 1
    try:
        delimiter = max(",;\t", key=lambda mark: len(next(csv.reader([head], delimiter=mark))))  # a tie takes the comma
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        for row in reader:
            if any(row):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise LabelsError(f"{source}, line {start}: {error}; is a quote left open?") from error


def _find_columns(source: str, header: Sequence[str], columns: Columns) -> dict[str, int]:
    """Map our column names to positions in the header."""
    plain = [clean(name).lower().replace(" ", "_").replace("-", "_") for name in header]
    listed = ", ".join(clean(name)[:60] for name in header[:30])
    found: dict[str, int] = {}
    for key, synonyms in SYNONYMS.items():
        wanted = getattr(columns, key)
        if wanted is not None:
            hits = [i for i, name in enumerate(header) if clean(name) == clean(wanted)]
            if not hits:
                raise LabelsError(f"{source}, line 1: there is no column {wanted!r}; the columns are: {listed}")
        else:
            hits = [i for i, name in enumerate(plain) if name == key] or [
                i for i, name in enumerate(plain) if name in synonyms
            ]
        if len(hits) > 1:
            names = " and ".join(repr(clean(header[i])) for i in hits)
            raise LabelsError(f"{source}, line 1: {names} could both be the {key}; say which column it is")
        if hits:
            found[key] = hits[0]
    for needed in (("path", "track_id"), ("genre", "artist", "album", "title")):
        if not set(needed) & set(found):
            raise LabelsError(f"{source}, line 1: no column {' or '.join(needed)}; the columns are: {listed}")
    return found


def _cells(number: int, row: list[str], where: dict[str, int], fields: int, problems: Problems) -> dict[str, str]:
    """Pick the wanted cells of a row; none of them if the row is broken."""
    if len(row) != fields:
        problems.add(f"row without the header's {fields} fields (skipped)", f"line {number} has {len(row)}")
        return {}
    cells = {key: row[position] for key, position in where.items()}
    joined = "".join(cells.values())
    if "\n" in joined or "\r" in joined:
        problems.add("cell that runs over lines: is a quote left open? (row skipped)", f"line {number}")
        return {}
    return cells


def _labels(number: int, cells: dict[str, str], problems: Problems) -> TrackLabels:
    if unsafe("".join(cells.values())):
        problems.add("row with control characters or terminal escapes (taken out)", f"line {number}")
    genres, artists = _names(cells.get("genre", "")), _names(cells.get("artist", ""))
    if "genre" in cells and not genres:
        problems.add("row with an empty genre", f"line {number}")
    return TrackLabels(genres, artists, clean(cells.get("album", "")), clean(cells.get("title", "")))


@functools.lru_cache(maxsize=65536)
def _names(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(clean, cell.split(";")))))


class _Places:
    """Finds the one file that a row means."""

    def __init__(self, source: str, files: Sequence[AudioFile], keys: Collection[str]) -> None:
        self._folders = {str(Path(source).parent), str(Path(source).resolve().parent)}
        self._paths: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        below = [(_same(file.path), file.full_path) for file in files]
        names = [(path.rpartition("/")[2], full) for path, full in below]
        if "path" in keys:  # later ones win: an exact place is worth more than a bare name
            self._paths = _single(names) | dict(below) | {_same(full): full for _, full in below}
        if "track_id" in keys:
            self._ids = _single([(name.rpartition(".")[0] or name, full) for name, full in names])

    def find(self, path: str, track_id: str) -> str | None:
        """Absolute path of the file, None if no file or no single file answers."""
        for spelling in self._spellings(_same(path.strip())):
            if spelling in self._paths:
                return self._paths[spelling]
        return self._ids.get(_same(clean(track_id))) if track_id else None

    def _spellings(self, path: str) -> Iterator[str]:
        if path:
            yield path
            path = os.path.normpath((clean(path) if unsafe(path) else path).replace("\\", "/"))
            yield path
            for folder in self._folders:
                yield os.path.normpath(f"{folder}/{path}")


def _single(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Keep the names that stand for one file only."""
    counts = Counter(name for name, _ in pairs)
    return {name: path for name, path in pairs if counts[name] == 1}


def _same(text: str) -> str:
    """Spell accents one way: file systems and spreadsheets differ in it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
