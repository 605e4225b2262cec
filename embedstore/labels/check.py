"""The health of labels: what they cover, what would spoil a measurement, what is known of their data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedstore.audio import find_audio
from embedstore.errors import ParameterError
from embedstore.labels import BUILTIN, Columns, DataSet, data_set_of, read_labels
from embedstore.labels.rows import plain_word
from embedstore.registry import known
from embedstore.types import SPLITS, TrackLabels

__all__ = ["LabelsReport", "check_labels", "list_readers"]


@dataclass(frozen=True)
class LabelsReport:
    """What labels say about a folder of audio. Counts are of files.

    Attributes
    ----------
    source, audio_dir : str
    files, labelled, with_genre, with_year : int
        Files that were found; that have labels; that have a genre; that have a year.
    rows, used_rows : int
        Of the source; those that mean a file.
    genres, artists, albums : dict of str to int
        Files of each, most first; albums of artists that share a title count as one.
    years : tuple of int
        The first and the last; empty if none is known.
    splits : dict of str to int
        Files on each side of the official split; empty without one.
    several_genres, without_artist : int
    alike : tuple of tuple of str
        Genres that differ in case, spacing or punctuation only: probably one that was written in several ways.
    split_artists, split_songs : tuple of str
        Artists, and songs of one artist and title, that are on more than one side of the official split.
    warnings : tuple of str
        One line for each of these that would spoil a measurement.
    problems : tuple of str
        What was wrong with the source, a line for each kind.
    dataset : DataSet or None
    """

    source: str
    audio_dir: str
    files: int
    labelled: int
    with_genre: int
    with_year: int
    rows: int
    used_rows: int
    genres: dict[str, int]
    artists: dict[str, int]
    albums: dict[str, int]
    years: tuple[int, ...]
    splits: dict[str, int]
    several_genres: int
    without_artist: int
    alike: tuple[tuple[str, ...], ...]
    split_artists: tuple[str, ...]
    split_songs: tuple[str, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    dataset: DataSet | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def check_labels(source: str | Path, audio_dir: str | Path, *, columns: Columns | None = None) -> LabelsReport:
    """Read labels for the audio files of a folder, and look at what they are worth.

    Parameters
    ----------
    source, columns
        As `read_labels` takes them.
    audio_dir : path
        Looked through as `build` does; the files are not decoded.

    Raises
    ------
    LabelsError, UnknownNameError, MissingDependencyError
        The labels cannot be read, or mean none of the files.
    ParameterError
        There is no such folder, or no audio in it.
    """
    files = find_audio(audio_dir).files
    if not files:
        raise ParameterError(f"no audio file under {audio_dir}; links that leave the folder are not followed")
    table = read_labels(source, files, columns=columns)
    tracks = list(table.by_path.values())
    genres = _counted(genre for track in tracks for genre in track.genres)
    years = sorted(track.year for track in tracks if track.year)
    sides = Counter(track.split for track in tracks)
    report = LabelsReport(
        source=table.source,
        audio_dir=str(Path(audio_dir).absolute()),
        files=len(files),
        labelled=len(tracks),
        with_genre=sum(bool(track.genres) for track in tracks),
        with_year=len(years),
        rows=table.rows,
        used_rows=table.used_rows,
        genres=genres,
        artists=_counted(artist for track in tracks for artist in track.artists),
        albums=_counted(track.album for track in tracks if track.album),
        years=(years[0], years[-1]) if years else (),
        splits={split: sides[split] for split in SPLITS if sides[split]},
        several_genres=sum(len(track.genres) > 1 for track in tracks),
        without_artist=sum(not track.artists for track in tracks),
        alike=_alike(genres),
        split_artists=_straddling((artist, track) for track in tracks for artist in track.artists),
        split_songs=_straddling(
            (f"{track.artists[0]}: {track.title}", track) for track in tracks if track.artists and track.title
        ),
        warnings=(),
        problems=table.problems,
        dataset=table.dataset,
    )
    return LabelsReport(**{**vars(report), "warnings": tuple(_warnings(report))})


def _warnings(report: LabelsReport) -> Iterable[str]:
    if report.with_genre < report.files:
        yield f"{report.files - report.with_genre} of {report.files} files have no genre"
    for names in report.alike:
        yield f"genres that differ in case, spacing or punctuation only: {', '.join(map(repr, names))}"
    if report.several_genres:
        yield f"{report.several_genres} tracks have several genres: out of a single-label task, in a multi-label one"
    if report.without_artist:
        yield f"{report.without_artist} tracks have no artist: folds cannot keep theirs apart"
    for what, names in (("artists", report.split_artists), ("songs", report.split_songs)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            yield f"{len(names)} {what} are on both sides of the official split: {', '.join(names[:5])}{more}"


def list_readers() -> list[dict[str, Any]]:
    """List the readers, each with what is known of its data set: plain data for JSON."""
    found = {name: data_set_of(name) for name in known("labels", BUILTIN)}
    return [{"name": name, "dataset": asdict(dataset) if dataset else None} for name, dataset in found.items()]


def _alike(genres: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    spelled: dict[str, list[str]] = {}
    for genre in genres:
        spelled.setdefault(plain_word(genre), []).append(genre)
    return tuple(tuple(names) for names in spelled.values() if len(names) > 1)


def _straddling(named: Iterable[tuple[str, TrackLabels]]) -> tuple[str, ...]:
    """Names that are on more than one side of the split, however they are spelled."""
    shown: dict[str, str] = {}
    sides: dict[str, set[str]] = {}
    for name, track in named:
        if track.split:
            key = plain_word(name)
            shown.setdefault(key, name)
            sides.setdefault(key, set()).add(track.split)
    return tuple(sorted(shown[key] for key, of in sides.items() if len(of) > 1))


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
