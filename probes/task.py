"""Which tracks and genres a probe is about, and what was left out, in counts and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import ParameterError
from embedstore.labels.names import known_artists, normalise
from embedstore.registry import unknown_name
from embedstore.types import TrackLabels
from probes.splits import Ints, artist_groups, groups_per_class, join_groups

__all__ = ["Task", "choose_genres", "make_task", "pairs_within"]

GROUPINGS = ("artist", "none")
PARTS = ("train", "valid", "test")


@dataclass(frozen=True, repr=False)
class Task:
    """A classification with one genre a track, or with several tags.

    Attributes
    ----------
    keys : int64 array, shape (n,)
        Track keys, in the order of the store.
    y : int64 array, shape (n,) or (n, n_genres)
        Genre of each track, an index into `genres`; with several tags a track: 1 where a tag is given, else 0.
    genres : tuple of str
        Alphabetical.
    groups : int64 array, shape (n,)
        Tracks of one group are never divided between training and test part.
    excluded : dict
        ``tracks`` (how many in all), ``no_genre``, ``several_genres``, ``too_few`` (of genres that cannot be tested)
        and ``genres`` (their names).
    notes : tuple of str
        The same for people.
    parts : int64 array, shape (n,), or None
        Of an official split: 0 train, 1 valid, 2 test.
    """

    keys: Ints
    y: Ints
    genres: tuple[str, ...]
    groups: Ints
    excluded: dict[str, Any]
    notes: tuple[str, ...]
    parts: Ints | None = None

    @property
    def multilabel(self) -> bool:
        """Whether a track may have several tags."""
        return self.y.ndim == 2

    @property
    def counts(self) -> dict[str, int]:
        """Tracks per genre."""
        counts = self.y.sum(0) if self.multilabel else np.bincount(self.y, minlength=len(self.genres))
        return dict(zip(self.genres, counts.tolist(), strict=True))

    def __repr__(self) -> str:
        return f"Task({len(self.y)} tracks, {len(self.genres)} genres, {self.groups.max() + 1} groups)"


def choose_genres(
    asked: int | str | Sequence[str] | None, stored: Sequence[str], who: str = "a probe"
) -> tuple[str, ...]:
    """Read what ``--genres`` asks for.

    Parameters
    ----------
    asked : int, str, sequence of str or None
        A number N: the first N in alphabetical order; a list with commas; a file with one name a line; names; None: all.
    stored : sequence of str
        The genres there are.
    who : str
        Needs them, for the error.

    Raises
    ------
    ParameterError
        More were asked than there are, or fewer than two.
    UnknownNameError
        A genre is not in the store.

    Examples
    --------
    >>> choose_genres("2", ["rock", "Blues", "jazz"])
    ('Blues', 'jazz')
    """
    known = sorted(stored, key=lambda name: (name.casefold(), name))
    if isinstance(asked, str) and asked.strip().lstrip("-").isdecimal():
        asked = int(asked)
    if isinstance(asked, int):
        if asked > len(known):
            listed = ", ".join(known) or "none"
            raise ParameterError(f"{asked} genres were asked; the store has {len(known)}: {listed}")
        chosen = known[: max(asked, 0)]
    else:
        names = known if asked is None else _names(asked) if isinstance(asked, str) else list(asked)
        for name in names:
            if name not in known:
                raise unknown_name("genre", name, known)
        chosen = [name for name in known if name in set(names)]
    if len(chosen) < 2:
        listed = ", ".join(known) or "none (add them with: build AUDIO_DIR --labels folder|FILE.csv)"
        raise ParameterError(f"{who} needs at least 2 genres, got {len(chosen)}; the store has {len(known)}: {listed}")
    return tuple(chosen)


def _names(text: str) -> list[str]:
    path = Path(text)
    if "," not in text and path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ParameterError(f"the genre list {text} cannot be read as UTF-8 text: {error}") from error
        return [line.strip() for line in lines if line.strip()]
    return [name.strip() for name in text.split(",") if name.strip()]


def make_task(
    keys: Ints,
    labels: Mapping[int, TrackLabels],
    genres: int | str | Sequence[str] | None = None,
    group: str = "artist",
    *,
    multilabel: bool = False,
    official: bool = False,
    pairs: Ints | None = None,
) -> Task:
    """Choose the tracks that have exactly one of the genres (or at least one), and group them.

    Parameters
    ----------
    keys : int64 array, shape (n_stored,)
        Stored tracks.
    labels : mapping of key to TrackLabels
    genres
        See `choose_genres`.
    group : {"artist", "none"}
        Keep artists together, or treat tracks as independent (which lets an artist stand on both sides).
    multilabel : bool
        Keep tracks of several genres, each genre a tag of its own.
    official : bool
        Take only tracks that the data set's own split places.
    pairs : int64 array, shape (m, 2), optional
        Row numbers of stored tracks that belong together (the same recording), unless nothing is kept together.

    Raises
    ------
    ParameterError
        Fewer than two genres can be tested.
    """
    if group not in GROUPINGS:
        raise unknown_name("grouping", group, GROUPINGS)
    known = [labels.get(int(key), TrackLabels()) for key in keys]
    chosen = choose_genres(genres, list({name for track in known for name in track.genres}))
    found = [[number for number, name in enumerate(chosen) if name in track.genres] for track in known]
    placed = [not official or track.split in PARTS for track in known]
    if official and not any(placed):
        raise ParameterError(
            "there is no official split: the labels place no track in a train, valid or test part (see `embedstore labels list`)"
        )
    fits = [
        ok and (len(numbers) == 1 or (multilabel and bool(numbers))) for ok, numbers in zip(placed, found, strict=True)
    ]
    rows = np.flatnonzero(fits)
    y = np.zeros((len(rows), len(chosen)), dtype=np.int64)
    for place, row in enumerate(rows):
        y[place, found[row]] = 1
    parts = np.array([PARTS.index(known[row].split) for row in rows], dtype=np.int64) if official else None

    def grouped(rows: Ints) -> Ints:
        if group == "none":
            return np.arange(len(rows))
        groups = artist_groups([known[row] for row in rows])
        return groups if pairs is None else join_groups(groups, pairs_within(rows, pairs, len(known)))

    testable = groups_per_class(y, grouped(rows)) >= 2 if parts is None else y[parts < 2].any(0) & y[parts == 2].any(0)
    several = 0 if multilabel else sum(len(numbers) > 1 for numbers in found)
    no_genre = sum(not track.genres for track in known)
    stay = y[:, testable].any(1)
    too_few = int((~stay).sum())
    dropped = {name: int(count) for name, count, ok in zip(chosen, y.sum(0), testable, strict=True) if not ok}
    notes = _words(several, no_genre, dropped, official=official)
    if unplaced := placed.count(False):
        notes.append(f"{unplaced} tracks are in no part of the official split and were left out")
    if testable.sum() < 2:
        raise ParameterError(
            f"a probe needs at least 2 genres that can be tested, got {testable.sum()}: {'; '.join(notes)}"
        )
    rows, y, parts = rows[stay], y[stay][:, testable], None if parts is None else parts[stay]
    groups = grouped(rows)
    notes += _words_on_groups([known[row] for row in rows], groups, group, parts)
    if pairs is not None and group != "none" and len(inside := pairs_within(rows, pairs, len(known))):
        if parts is None:
            then = "they stay on one side of each split"
        else:
            then = f"the official split divides {int(((parts[inside] == 2).sum(1) == 1).sum())} of them"
        notes.append(f"{len(inside)} pairs of tracks sound so alike that they may be one recording; {then}")
    excluded = {
        "tracks": several + no_genre + too_few,
        "no_genre": no_genre,
        "several_genres": several,
        "too_few": too_few,
        "genres": list(dropped),
    }
    names = tuple(name for name, ok in zip(chosen, testable, strict=True) if ok)
    return Task(np.asarray(keys)[rows], y if multilabel else y.argmax(1), names, groups, excluded, tuple(notes), parts)


def pairs_within(rows: Ints, pairs: Ints, n: int) -> Ints:
    """Give pairs of stored tracks by their places in `rows`; pairs with a track that is not there go."""
    place = np.full(n, -1)
    place[rows] = np.arange(len(rows))
    moved = place[pairs]
    return np.asarray(moved[(moved >= 0).all(1)])


def _words_on_groups(known: Sequence[TrackLabels], groups: Ints, group: str, parts: Ints | None) -> list[str]:
    """Say where tracks that belong together may stand on both sides of a split."""
    if group == "none":
        why = "an artist may stand on both sides of a split, so the scores can be too high and the intervals too narrow"
        return [f"artists are not kept apart: {why}"]
    notes = []
    nobody = sum(not known_artists(track) for track in known)
    if parts is not None:
        shared = len(set(groups[parts < 2].tolist()) & set(groups[parts == 2].tolist()))
        if shared:
            notes.append(f"the official split has {shared} artist groups both in its training and in its test part")
    elif nobody:
        notes.append(
            f"{nobody} of {len(known)} tracks have no known artist: each stands alone, so an artist may be on both sides "
            "of a split" + (" and the scores too high" if nobody > len(known) / 5 else "")
        )
    if shared := _shared_titles(known, groups):
        notes.append(
            f"{shared} tracks share their title with a track of another artist group: if these are the same songs, they "
            "stand on both sides of splits"
        )
    return notes


def _shared_titles(known: Sequence[TrackLabels], groups: Ints) -> int:
    """Count tracks whose title another group has, too."""
    titles = [normalise(track.title) for track in known]
    holders: dict[str, set[int]] = {}
    for title, group in zip(titles, groups.tolist(), strict=True):
        holders.setdefault(title, set()).add(group)
    return sum(bool(title) and len(holders[title]) > 1 for title in titles)


def _words(several: int, no_genre: int, dropped: Mapping[str, int], *, official: bool) -> list[str]:
    notes = []
    if several:
        notes.append(f"{several} tracks are in several of the chosen genres and were left out")
    if no_genre:
        notes.append(f"{no_genre} tracks have no genre and were left out")
    single = [f"{name!r} ({tracks} tracks)" for name, tracks in dropped.items() if tracks > 1 or official]
    scarce = [f"{name!r} ({tracks})" for name, tracks in dropped.items() if tracks < 2 and not official]
    if single and official:
        notes.append(f"left out, as the official split does not both train and test them: {', '.join(single)}")
    elif single:
        notes.append(
            f"left out, as all tracks of the genre are one artist group, which cannot be on both sides of a split: "
            f"{', '.join(single)}; --group none would keep them"
        )
    if scarce:
        notes.append(f"left out, as a probe takes at least 2 tracks of a genre: {', '.join(scarce)}")
    return notes
