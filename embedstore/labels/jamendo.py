"""MTG-Jamendo: tab-separated tables of tracks with any number of tags, as ``genre---rock``; five official splits.

``jamendo:PATH.tsv`` reads one table, ``jamendo:FOLDER`` the three of split 0 in a copy of the data set's repository.
After a ``#`` may follow another split, and other tags than the genres: ``jamendo:FOLDER#split-2,mood/theme``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from embedstore.errors import LabelsError
from embedstore.labels.rows import Entry, Places, by_words, match, part_options, read_rows, split_of
from embedstore.labels.table import Columns, DataSet, LabelTable, Problems, clean, unsafe
from embedstore.types import AudioFile, TrackLabels

__all__ = ["DATASET", "read_jamendo"]

DATASET = DataSet(
    name="MTG-Jamendo",
    licence="metadata: CC BY-NC-SA 4.0; each track: a Creative Commons licence of its own, see audio_licenses.txt",
    citation=(
        "Bogdanov, D., Won, M., Tovstogan, P., Porter, A., & Serra, X. (2019). The MTG-Jamendo dataset for automatic "
        "music tagging. Machine Learning for Music Discovery Workshop, ICML."
    ),
    url="https://mtg.github.io/mtg-jamendo-dataset",
    splits=tuple(f"split-{number}: train, valid, test, artist-disjoint" for number in range(5)),
    faults=(
        "tags are those that uploaders chose, and a track has several: score it as multi-label",
        "a tag that is not there may be true: nobody said no",
    ),
)
_HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
_KINDS = ("genre", "instrument", "mood/theme", "all")
_SPLITS = tuple(f"split-{number}" for number in range(5))


def read_jamendo(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:  # noqa: ARG001 - the readers' common signature
    """Read one table, or the three of a split; artists and albums have numbers for names.

    Raises
    ------
    LabelsError
        A table is not there or another one, or none of its tracks is among the files.
    """
    place, (split, kind) = part_options(source, _SPLITS, _KINDS)
    split, kind, problems = split or _SPLITS[0], kind or _KINDS[0], Problems()
    tables = _tables(Path(place), split, kind)
    if not any(side for _, side in tables):
        problems.note("a single table has no split; give the folder of the data set's repository for its official one")
    entries = (entry for path, side in tables for entry in _entries(str(path), side, kind, problems))
    ids = by_words(files, lambda stem: re.findall(r"^0*(\d+)(?:\.|$)", stem, re.ASCII))
    return match(source, files, entries, Places(files, ids=ids), problems, covers=True)


def _tables(place: Path, split: str, kind: str) -> list[tuple[Path, str]]:
    """List the tables to read, each with the side of the split that it holds."""
    if not place.is_dir():
        return [(place, split_of(place.stem.rpartition("-")[2]) or "")]
    for folder in (place / "data" / "splits" / split, place / "splits" / split, place / split):
        for stem in ("autotagging", f"autotagging_{kind.replace('/', '')}"):
            tables = [(folder / f"{stem}-{side}.tsv", split_of(side) or "") for side in ("train", "validation", "test")]
            if all(path.is_file() for path, _ in tables):
                return tables
    raise LabelsError(
        f"{place} has no data/splits/{split}/autotagging-train.tsv, -validation.tsv and -test.tsv; "
        "give a copy of the data set's repository, or one of its .tsv files"
    )


def _entries(source: str, split: str, kind: str, problems: Problems) -> Iterator[Entry | None]:
    rows = read_rows(source, "\t")
    _, header = next(rows)
    if header != _HEADER:
        found = ", ".join(clean(name)[:60] for name in header[:30])
        raise LabelsError(f"{source}, line 1: a table of MTG-Jamendo has {', '.join(_HEADER)}; found {found}")
    name = Path(source).name
    for number, row in rows:
        where = f"{name}, line {number}"
        known_as = re.fullmatch(r"track_0*(\d+)", row[0].strip(), re.ASCII)
        if len(row) < len(_HEADER) or not known_as:
            problems.add("row that is not a track (skipped)", where)
            yield None
            continue
        if unsafe("".join(row)):
            problems.add("row with control characters or terminal escapes (taken out)", where)
        tags = tuple(_tags(row[5:], kind))
        if not tags:
            problems.add(f"row without a tag of the kind {kind}", where)
        artist, album = clean(row[1]), clean(row[2])
        yield Entry(where, TrackLabels(tags, (artist,) if artist else (), album, split=split), id=known_as[1])


def _tags(cells: Iterable[str], kind: str) -> dict[str, None]:
    """Pick the tags of a kind, without its name; of all kinds, with it: a piano is an instrument and a genre."""
    tags = dict.fromkeys(filter(None, map(clean, cells)))
    if kind == "all":
        return tags
    return {tag.removeprefix(f"{kind}---"): None for tag in tags if tag.startswith(f"{kind}---")}
