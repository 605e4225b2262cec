"""FMA, a data set for music analysis: its ``tracks.csv``, whose first two rows are the header, and files NNN/NNNNNN.mp3.

``fma:PATH/tracks.csv`` reads all of it, ``fma:PATH/tracks.csv#small`` the tracks of the small set, which the medium
set holds, too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from embedstore.errors import LabelsError
from embedstore.labels.rows import Entry, Places, by_words, match, part_options, read_rows, split_of, stem_of, year_of
from embedstore.labels.table import Columns, DataSet, LabelTable, Problems, clean, unsafe
from embedstore.types import AudioFile, TrackLabels

__all__ = ["DATASET", "read_fma"]

DATASET = DataSet(
    name="FMA",
    licence="metadata: CC BY 4.0; each track: the licence that its artist chose",
    citation=(
        "Defferrard, M., Benzi, K., Vandergheynst, P., & Bresson, X. (2017). FMA: A dataset for music analysis. ISMIR."
    ),
    url="https://github.com/mdeff/fma",
    splits=("train, valid, test: artist-disjoint, stratified by genre",),
    faults=(
        "099134, 108925 and 133297 hold no sound; 098565, 098567 and 098569 are much shorter than 30 s",
        "more files of the large and full archives are cut short or cannot be decoded",
        "more than half of the tracks of the large set have no top genre; the medium set's genres differ in size by 300 x",
    ),
)
_BROKEN = {"99134", "108925", "133297"}
_SHORT = {"98565", "98567", "98569"}
_SUBSETS = ("small", "medium", "large")  # each holds those before it
_COLUMNS = {
    "subset": ("set", "subset"),
    "split": ("set", "split"),
    "genre": ("track", "genre_top"),
    "artist": ("artist", "name"),
    "artist_id": ("artist", "id"),
    "album": ("album", "title"),
    "title": ("track", "title"),
}
_DATES = (("album", "date_released"), ("track", "date_recorded"))  # the first that is there; the upload is no release


def read_fma(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:  # noqa: ARG001 - the readers' common signature
    """Read ``tracks.csv``; the genre is the track's top genre, an artist without a name has a number.

    The year is that of the album's release, or, where the table has none, of the recording.

    Raises
    ------
    LabelsError
        It is another table, or none of its tracks is among the files.
    """
    problems = Problems()
    ids = by_words(files, lambda stem: [stem.lstrip("0")] if stem.isdecimal() else [])
    for file in files:
        number = stem_of(file).lstrip("0")
        if number in _BROKEN:
            problems.add("file that is known to hold no sound", clean(file.path))
        elif number in _SHORT:
            problems.add("file that is known to be much shorter than the others", clean(file.path))
    with _long_cells():
        place, (largest, *_) = part_options(source, _SUBSETS)
        wanted = _SUBSETS[: _SUBSETS.index(largest) + 1] if largest else ()
        return match(place, files, _entries(place, wanted, problems), Places(files, ids=ids), problems, covers=True)


def _entries(source: str, wanted: Sequence[str], problems: Problems) -> Iterator[Entry | None]:
    rows = read_rows(source, ",")
    (_, groups), (_, names) = next(rows), next(rows, (2, []))
    header = list(zip(groups, names, strict=False))
    missing = [" ".join(column) for column in _COLUMNS.values() if column not in header]
    if missing:
        raise LabelsError(
            f"{source}, line 1: this is no tracks.csv of FMA, whose first two rows name its columns; not there: {', '.join(missing)}"
        )
    where = {name: header.index(column) for name, column in _COLUMNS.items()}
    dates = [header.index(column) for column in _DATES if column in header]
    for number, row in rows:
        if row[0] == "track_id":
            continue
        if len(row) != len(header) or not row[0].strip().isdecimal():
            problems.add("row that is not a track (skipped)", f"line {number}")
            yield None
            continue
        if unsafe("".join(row[place] for place in where.values()).replace("\n", " ")):
            problems.add("row with control characters or terminal escapes (taken out)", f"line {number}")
        cells = {name: clean(row[place]) for name, place in where.items()}
        if wanted and cells["subset"] not in wanted:
            continue
        artist = cells["artist"] or (f"artist {cells['artist_id']}" if cells["artist_id"] else "")
        split = split_of(cells["split"])
        if split is None:
            problems.add("row with an unknown split (taken out)", f"line {number}")
        years = [year_of(row[place]) for place in dates]
        if None in years:
            problems.add("row with a date without a year (taken out)", f"line {number}")
        labels = TrackLabels(
            (cells["genre"],) if cells["genre"] else (),
            (artist,) if artist else (),
            cells["album"],
            cells["title"],
            split=split or "",
            year=next(filter(None, years), 0),
        )
        yield Entry(f"line {number}", labels, id=row[0].strip().lstrip("0"))


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells be long: artists write novels about themselves."""
    before = csv.field_size_limit(2**22)
    try:
        yield
    finally:
        csv.field_size_limit(before)
