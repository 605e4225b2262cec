"""Labels from a CSV with a header: ``path`` or ``track_id``, and what is there of the other columns of `SYNONYMS`.

UTF-8, with or without a byte order mark; comma, semicolon or tab. Several genres or artists in a cell stand apart by
``;``. A path may be absolute, relative to the audio root or to the CSV's own folder, or a bare file name that occurs
once; a track id is a file's name without its suffix, where that occurs once. A file that is listed again gets all its
rows' genres and artists. Rows that cannot be used are problems of the table, not errors.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress

from embedstore.errors import LabelsError
from embedstore.labels.rows import Entry, Places, by_stem, match, read_rows, split_of, year_of
from embedstore.labels.table import Columns, LabelTable, Problems, clean, unsafe
from embedstore.types import AudioFile, TrackLabels

__all__ = ["SYNONYMS", "data_set_in", "names_in", "read_csv", "read_entries"]

# column -> names that are accepted when the plain one is absent
SYNONYMS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "audio_path"),
    "track_id": ("trackid", "id"),
    "genre": ("genres", "track_genre", "genre_top"),
    "artist": ("artists", "artist_name", "track_artist"),
    "album": ("album_name", "album_title"),
    "title": ("track_name", "track_title"),
    "split": (),
    "year": ("original_year", "release_year", "release_date", "album_release_date", "date_released", "date"),
}
# reader -> words in the first line of its data set's table
_HEADERS = {
    "spotify": {"track_id", "artists", "album_name", "track_name", "track_genre"},
    "fma": {"", "album", "artist", "set", "track"},
    "jamendo": {"TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"},
}


def data_set_in(source: str) -> str | None:
    """Name the reader of the data set that a table belongs to, by its header."""
    if os.path.isfile(source):  # noqa: PTH113 - unlike Path's, never raises; and a pipe can be read only once
        with suppress(LabelsError):
            _, header = next(read_rows(source))
            return next((name for name, words in _HEADERS.items() if words <= set(header)), None)
    return None


def read_csv(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:
    """Read a CSV and match its rows to the files.

    Raises
    ------
    LabelsError
        Not there, empty, not UTF-8, no usable column, or no row that matches any file.
    """
    problems = Problems()
    where, entries = read_entries(source, columns, problems)
    places = Places(
        files,
        source=source if "path" in where else "",
        ids=by_stem(files) if "track_id" in where else None,
    )
    return match(source, files, entries, places, problems)


def read_entries(source: str, columns: Columns, problems: Problems) -> tuple[dict[str, int], Iterator[Entry | None]]:
    """Find the columns of a CSV; its rows follow as they are asked for, None for one that cannot be used."""
    rows = read_rows(source)
    _, header = next(rows)
    where = _find_columns(source, header, columns)

    def entries() -> Iterator[Entry | None]:
        for number, row in rows:
            cells = _cells(number, row, where, len(header), problems)
            if cells is None:
                yield None
            else:
                labels = _labels(number, cells, problems)
                yield Entry(f"line {number}", labels, cells.get("path", ""), cells.get("track_id", ""))

    return where, entries()


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
            if key == "year":  # tables have several dates: the one whose name is most surely a release
                hits = sorted(hits, key=lambda i: [key, *synonyms].index(plain[i]))[:1]
        if len(hits) > 1:
            names = " and ".join(repr(clean(header[i])) for i in hits)
            raise LabelsError(f"{source}, line 1: {names} could both be the {key}; say which column it is")
        if hits:
            found[key] = hits[0]
    for needed in (("path", "track_id"), ("genre", "artist", "album", "title")):
        if not set(needed) & set(found):
            raise LabelsError(f"{source}, line 1: no column {' or '.join(needed)}; the columns are: {listed}")
    return found


def _cells(
    number: int, row: list[str], where: dict[str, int], fields: int, problems: Problems
) -> dict[str, str] | None:
    """Pick the wanted cells of a row; None if the row is broken."""
    if len(row) != fields:
        problems.add(f"row without the header's {fields} fields (skipped)", f"line {number} has {len(row)}")
        return None
    cells = {key: row[position] for key, position in where.items()}
    joined = "".join(cells.values())
    if "\n" in joined or "\r" in joined:
        problems.add("cell that runs over lines: is a quote left open? (row skipped)", f"line {number}")
        return None
    return cells


def _labels(number: int, cells: dict[str, str], problems: Problems) -> TrackLabels:
    if unsafe("".join(cells.values())):
        problems.add("row with control characters or terminal escapes (taken out)", f"line {number}")
    genres, artists = names_in(cells.get("genre", "")), names_in(cells.get("artist", ""))
    if "genre" in cells and not genres:
        problems.add("row with an empty genre", f"line {number}")
    split = split_of(cells.get("split", ""))
    if split is None:
        problems.add("row with a split that is not train, valid or test (taken out)", f"line {number}")
    album, title = (clean(cells.get(key, "")) for key in ("album", "title"))
    year = year_of(cells.get("year", ""))
    if year is None:
        problems.add("row whose year cannot be read (taken out)", f"line {number}")
    return TrackLabels(genres, artists, album, title, split=split or "", year=year or 0)


@functools.lru_cache(maxsize=65536)
def names_in(cell: str) -> tuple[str, ...]:
    """Split a cell at its semicolons; each name once.

    >>> names_in("Nina Simone; ;Nina  Simone;Hal Mooney")
    ('Nina Simone', 'Hal Mooney')
    """
    return tuple(dict.fromkeys(filter(None, map(clean, cell.split(";")))))
