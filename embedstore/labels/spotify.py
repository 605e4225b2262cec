"""The Spotify Tracks table of Kaggle: 114,000 rows of names and one genre each, without audio.

Files are found by the track id in their names; the others, where mutagen is installed, by artist and title in their tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from embedstore.errors import LabelsError
from embedstore.labels.csvfile import read_entries
from embedstore.labels.rows import Entry, Places, by_words, match, plain_word
from embedstore.labels.table import Columns, DataSet, LabelTable, Problems
from embedstore.labels.tags import can_read_tags, tags_of
from embedstore.types import AudioFile, TrackLabels

__all__ = ["DATASET", "read_spotify"]

DATASET = DataSet(
    name="Spotify Tracks",
    licence="Open Database Licence 1.0; contents: their original authors",
    citation="Pandya, M. (2022). Spotify Tracks Dataset. Kaggle.",
    url="https://www.kaggle.com/datasets/maharshipandya/-spotify-tracks-dataset",
    faults=(
        "114,000 rows hold 89,741 track ids: 21 % of the rows repeat an id under another genre",
        "one row has no artist, album and title; the same song is there under several ids",
        "rows are ordered by genre: the first N of them are few genres",
        "genres have 1,000 rows each, whatever their size, and some are no styles (british, study)",
        "no audio and no links to it: Spotify ended its previews on 2024-11-27",
    ),
)
_ID = re.compile(r"(?<![0-9A-Za-z])[0-9A-Za-z]{22}(?![0-9A-Za-z])")
_MOST = 2_000_000  # rows that are kept in memory


def read_spotify(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:
    """Read the table, count its defects and match its rows to the files.

    Raises
    ------
    LabelsError
        As `read_csv`.
    """
    problems = Problems()
    where, found = read_entries(source, columns, problems)
    if "track_id" not in where:
        raise LabelsError(f"{source}, line 1: no column track_id; to read it as any other table: --labels csv:{source}")
    entries = list(_bounded(source, found))
    rows = [entry for entry in entries if entry is not None]
    _count_defects(rows, problems)
    ids = by_words(files, lambda stem: (stem, *_ID.findall(stem)))
    _add_by_tags(files, rows, ids, problems)
    places = Places(files, source=source if "path" in where else "", ids=ids)
    return match(source, files, entries, places, problems, covers=True)


def _bounded(source: str, entries: Iterable[Entry | None]) -> Iterator[Entry | None]:
    for number, entry in enumerate(entries):
        if number >= _MOST:
            raise LabelsError(f"{source} has over {_MOST:,} rows; to read it as any other table: --labels csv:{source}")
        yield entry


def _count_defects(rows: Sequence[Entry], problems: Problems) -> None:
    """Say what is wrong with the table, whichever files there are."""
    genres: dict[str, set[tuple[str, ...]]] = {}
    songs: dict[tuple[str, ...], str] = {}
    blocks: dict[tuple[str, ...], int] = {}
    several = 0
    for number, entry in enumerate(rows):
        labels = entry.labels
        if not entry.id:
            problems.add("row without a track id", entry.where)
            continue
        if entry.id in genres:
            same = labels.genres in genres[entry.id]
            problems.add(f"row that repeats a track id under {'the same' if same else 'another'} genre", entry.where)
        elif not labels.title and not labels.artists:
            problems.add("row without artist and title", entry.where)
        elif songs.setdefault(_song(labels), entry.id) != entry.id:
            problems.add("track id of a song that another id has, too (same artists and title)", entry.where)
        genres.setdefault(entry.id, set()).add(labels.genres)
        several += len(labels.artists) > 1
        if not number or labels.genres != rows[number - 1].labels.genres:
            blocks[labels.genres] = blocks.get(labels.genres, 0) + 1
    problems.note(f"{len(genres)} track ids in {len(rows)} rows")
    if several:
        problems.note(f"{several} x row with several artists, joined by ; (each of them counts)")
    if len(blocks) > 1 and max(blocks.values()) == 1:
        problems.note(f"rows stand in {len(blocks)} blocks of one genre each: draw at random, never the first N rows")


def _song(labels: TrackLabels) -> tuple[str, ...]:
    return plain_word(labels.title), *sorted(map(plain_word, labels.artists))


def _add_by_tags(
    files: Sequence[AudioFile], rows: Sequence[Entry], ids: dict[str, list[str]], problems: Problems
) -> None:
    """Find the songs of files whose names hold no id of the table by one of their artists and the title."""
    named = {path for entry in rows for path in ids.get(entry.id, ())}
    others = [file for file in files if file.full_path not in named]
    if not others:
        return
    if not can_read_tags():
        problems.note(
            f"{len(others)} x file without a track id of the table in its name; "
            "to match them by artist and title: pip install 'embedstore-mir[tags]'"
        )
        return
    songs: dict[tuple[str, str], dict[str, None]] = {}
    for entry in rows:
        for artist in entry.labels.artists:
            songs.setdefault((plain_word(artist), plain_word(entry.labels.title)), {})[entry.id] = None
    count = 0
    for file, tags in tags_of(others, Problems()):
        keys = {(plain_word(artist), plain_word(tags.title)) for artist in tags.artists if tags.title}
        meant = [known_as for key in keys for known_as in songs.get(key, ())]
        count += bool(meant)
        for known_as in dict.fromkeys(meant):
            ids.setdefault(known_as, []).append(file.full_path)
    if count:
        problems.note(f"{count} x file found by artist and title in its tags, as its name holds no track id")
