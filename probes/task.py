"""Which tracks and genres a probe is about, and what was left out, in counts and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import ParameterError
from embedstore.registry import unknown_name
from embedstore.types import TrackLabels
from probes.splits import Ints, artist_groups, groups_per_class, known_artists, normalise

__all__ = ["Task", "choose_genres", "make_task"]

GROUPINGS = ("artist", "none")


@dataclass(frozen=True, repr=False)
class Task:
    """A single-label classification.

    Attributes
    ----------
    keys : int64 array, shape (n,)
        Track keys, in the order of the store.
    y : int64 array, shape (n,)
        Genre of each track: an index into `genres`.
    genres : tuple of str
        Alphabetical.
    groups : int64 array, shape (n,)
        Tracks of one group are never divided between training and test part.
    excluded : dict
        ``tracks`` (how many in all), ``no_genre``, ``several_genres``, ``too_few`` (of genres that cannot be tested)
        and ``genres`` (their names).
    notes : tuple of str
        The same for people.
    """

    keys: Ints
    y: Ints
    genres: tuple[str, ...]
    groups: Ints
    excluded: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Tracks per genre."""
        return dict(zip(self.genres, np.bincount(self.y).tolist(), strict=True))

    def __repr__(self) -> str:
        return f"Task({len(self.y)} tracks, {len(self.genres)} genres, {self.groups.max() + 1} groups)"


def choose_genres(asked: int | str | Sequence[str] | None, stored: Sequence[str]) -> tuple[str, ...]:
    """Read what ``--genres`` asks for.

    Parameters
    ----------
    asked : int, str, sequence of str or None
        A number N: the first N in alphabetical order; a list with commas; a file with one name a line; names; None: all.
    stored : sequence of str
        The genres there are.

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
        raise ParameterError(
            f"a probe needs at least 2 genres, got {len(chosen)}; the store has {len(known)}: {listed}"
        )
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
) -> Task:
    """Choose the tracks that have exactly one of the genres, and group them.

    Parameters
    ----------
    keys : int64 array, shape (n_stored,)
        Stored tracks.
    labels : mapping of key to TrackLabels
    genres
        See `choose_genres`.
    group : {"artist", "none"}
        Keep artists together, or treat tracks as independent (which lets an artist stand on both sides).

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
    rows = np.array([row for row, numbers in enumerate(found) if len(numbers) == 1], dtype=np.int64)
    y = np.array([found[row][0] for row in rows], dtype=np.int64)

    def grouped(rows: Ints) -> Ints:
        return artist_groups([known[row] for row in rows]) if group == "artist" else np.arange(len(rows))

    tracks_of = np.bincount(y, minlength=len(chosen))
    groups_of = groups_per_class(y, grouped(rows), len(chosen))
    kept, dropped = np.flatnonzero(groups_of >= 2), np.flatnonzero(groups_of < 2)
    several = sum(len(numbers) > 1 for numbers in found)
    no_genre = sum(not track.genres for track in known)
    too_few = int(tracks_of[dropped].sum())
    notes = _words(several, no_genre, {chosen[number]: int(tracks_of[number]) for number in dropped})
    if len(kept) < 2:
        raise ParameterError(f"a probe needs at least 2 genres that can be tested, got {len(kept)}: {'; '.join(notes)}")
    stay = np.isin(y, kept)
    rows, y = rows[stay], np.searchsorted(kept, y[stay])
    nobody = sum(not known_artists(known[row]) for row in rows)
    if nobody and group == "artist":
        notes.append(
            f"{nobody} of {len(rows)} tracks have no known artist: each stands alone, so an artist may be on both sides "
            "of a split" + (" and the scores too high" if nobody > len(rows) / 5 else "")
        )
    split = grouped(rows)
    if group == "none":
        notes.append(
            "artists are not kept apart: an artist may stand on both sides of a split, so the scores can be too high and "
            "the intervals too narrow"
        )
    elif shared := _shared_titles([known[row] for row in rows], split):
        notes.append(
            f"{shared} tracks share their title with a track of another artist group: if these are the same songs, they "
            "stand on both sides of splits"
        )
    excluded = {
        "tracks": several + no_genre + too_few,
        "no_genre": no_genre,
        "several_genres": several,
        "too_few": too_few,
        "genres": [chosen[number] for number in dropped],
    }
    names = tuple(chosen[number] for number in kept)
    return Task(np.asarray(keys)[rows], y, names, split, excluded, tuple(notes))


def _shared_titles(known: Sequence[TrackLabels], groups: Ints) -> int:
    """Count tracks whose title another group has, too."""
    titles = [normalise(track.title) for track in known]
    holders: dict[str, set[int]] = {}
    for title, group in zip(titles, groups.tolist(), strict=True):
        holders.setdefault(title, set()).add(group)
    return sum(bool(title) and len(holders[title]) > 1 for title in titles)


def _words(several: int, no_genre: int, dropped: Mapping[str, int]) -> list[str]:
    notes = []
    if several:
        notes.append(f"{several} tracks are in several of the chosen genres and were left out")
    if no_genre:
        notes.append(f"{no_genre} tracks have no genre and were left out")
    single = [f"{name!r} ({tracks} tracks)" for name, tracks in dropped.items() if tracks > 1]
    scarce = [f"{name!r} ({tracks})" for name, tracks in dropped.items() if tracks < 2]
    if single:
        notes.append(
            f"left out, as all tracks of the genre are one artist group, which cannot be on both sides of a split: "
            f"{', '.join(single)}; --group none would keep them"
        )
    if scarce:
        notes.append(f"left out, as a probe takes at least 2 tracks of a genre: {', '.join(scarce)}")
    return notes
