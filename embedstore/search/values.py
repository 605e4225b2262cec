"""What is asked of a search, and what it answers."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from embedstore.errors import ParameterError
from embedstore.terminal import clock

_LEAST, _MOST = 1e-6, 1e6  # of weights: single precision tells these apart
__all__ = ["Filter", "Hit", "Query", "SearchResult", "Seed", "Shape"]


@dataclass(frozen=True)
class Seed:
    """A sound that the results should be like, or unlike.

    Attributes
    ----------
    what : str
        A stored track (id, path, unique file name, or words of its artist and title), or any audio file.
    weight : float
        How much it counts; below 0: not like this.
    at : float or None
        Only the window around this second of the track, not all of it.

    Raises
    ------
    ParameterError
        A weight of 0 or none at all; a moment before the beginning.
    """

    what: str
    weight: float = 1.0
    at: float | None = None

    def __post_init__(self) -> None:
        if not _LEAST <= abs(self.weight) <= _MOST:  # also what is no number
            raise ParameterError(
                f"a weight is {_LEAST:g} to {_MOST:g}, or minus that; got {self.weight:g} for {self.what!r}"
            )
        if self.at is not None and not (math.isfinite(self.at) and self.at >= 0):
            raise ParameterError(f"a moment of {self.what!r} is in seconds from its start; got {self.at}")


@dataclass(frozen=True)
class Query:
    """What to search for: sounds to be like and unlike, or the centre of a genre in place of the former.

    Attributes
    ----------
    seeds : tuple of Seed
    genre : str or None

    Raises
    ------
    ParameterError
        Nothing to be like; something to be like and a genre; a track to be like and unlike at once.

    Examples
    --------
    >>> str(Query((Seed("a.mp3"), Seed("b.mp3", 2, at=83), Seed("c.mp3", -0.5))))
    'a.mp3 + 2 x b.mp3 at 1:23 - 0.5 x c.mp3'
    """

    seeds: tuple[Seed, ...] = ()
    genre: str | None = None

    def __post_init__(self) -> None:
        liked, unliked = ({seed.what for seed in self.seeds if seed.weight * sign > 0} for sign in (1, -1))
        if bool(liked) == (self.genre is not None):
            raise ParameterError(
                "a search needs a track to be like or a genre, one of the two (to stay within a genre, filter by it); "
                f"got {len(liked)} to be like, {len(unliked)} to be unlike, and {'no' if self.genre is None else 'a'} genre"
            )
        if both := liked & unliked:
            raise ParameterError(f"results cannot be like and unlike {min(both)!r} at once")

    @classmethod
    def of(cls, query: Query | str | os.PathLike[str] | None, genre: str | None = None) -> Query:
        """Make a query of whatever a person gives: one, a text or path, which is one seed, or None; and perhaps a genre."""
        if not isinstance(query, Query):
            return cls(() if query is None else (Seed(os.fspath(query)),), genre)
        return query if genre is None else cls(query.seeds, genre)

    def __str__(self) -> str:
        text = "" if self.genre is None else f"genre:{self.genre}"
        for seed in self.seeds:
            size = abs(seed.weight)
            what = seed.what + ("" if seed.at is None else f" at {clock(seed.at)}")
            sign = ("- " if seed.weight < 0 else "+ ") if text else ""
            text += (
                " " * bool(text)
                + sign
                + (what if size == 1 or not (text or len(self.seeds) > 1) else f"{size:g} x {what}")
            )
        return text


@dataclass(frozen=True)
class Filter:
    """Which tracks may be results: those that meet all of it.

    Names are compared without regard to case. A track of several genres or artists has each of them. A track whose year is
    unknown is in no range of years.

    Attributes
    ----------
    genres, artists, albums : tuple of str
        One of these; empty: any.
    without_genres, without_artists, without_albums : tuple of str
        None of these.
    paths, without_paths : tuple of str
        Patterns as in a shell, where ``*`` stands for slashes too; of the absolute path, or of the path below the folder that
        was built. One of a track's files is enough.
    years : (int, int) or None
        First and last.
    seconds : (float, float) or None
        Shortest and longest.

    Raises
    ------
    ParameterError
        A range that ends before it begins; a name both wanted and unwanted.
    """

    genres: tuple[str, ...] = ()
    artists: tuple[str, ...] = ()
    albums: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    without_genres: tuple[str, ...] = ()
    without_artists: tuple[str, ...] = ()
    without_albums: tuple[str, ...] = ()
    without_paths: tuple[str, ...] = ()
    years: tuple[int, int] | None = None
    seconds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, str):
                raise ParameterError(f"{one.name} of a filter are several texts; got one, {value!r:.80}")
            object.__setattr__(self, one.name, None if value is None else tuple(value))
        for name in ("years", "seconds"):
            ends = getattr(self, name)
            if ends is not None and not ends[0] <= ends[1]:
                raise ParameterError(f"a range of {name} goes from the smaller to the larger; got {ends[0]}-{ends[1]}")
        for name in ("genres", "artists", "albums", "paths"):
            if both := {*getattr(self, name)} & {*getattr(self, f"without_{name}")}:
                raise ParameterError(f"{name}: {min(both)!r} is both wanted and unwanted")

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) not in ((), None) for one in fields(self))


@dataclass(frozen=True)
class Shape:
    """How the results are put together.

    Attributes
    ----------
    k : int
        How many.
    per_artist : int or None
        At most so many of one artist; guests count, too, and tracks of unknown artists do not.
    collapse : bool
        Show one of tracks that are the same music, the nearest, and name the others under it; see `embedstore.search.shaping.OneOfEach`.
    least : float or None
        Smallest similarity, -1..1.
    diversity : float
        0: the nearest; towards 1: ever more unlike each other (see `embedstore.search.shaping.diverse`).
    include_self : bool
        Whether a stored track that was asked for may be among its own results.

    Raises
    ------
    ParameterError
        A number outside of its range.
    """

    k: int = 10
    per_artist: int | None = None
    collapse: bool = False
    least: float | None = None
    diversity: float = 0.0
    include_self: bool = False

    def __post_init__(self) -> None:
        for name, number in (("k", self.k), ("the number per artist", self.per_artist)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ParameterError(f"{name} must be a whole number, at least 1; got {number!r}")
        if self.least is not None and not -1 <= self.least <= 1:
            raise ParameterError(f"the least similarity is -1..1; got {self.least}")
        if not 0 <= self.diversity <= 1:
            raise ParameterError(f"diversity is 0..1; got {self.diversity}")


@dataclass(frozen=True)
class Hit:
    """One of the nearest tracks.

    Attributes
    ----------
    rank : int
        1 is the first.
    track : str
        Track id.
    path : str
        Absolute path of its first file.
    genres, artists : tuple of str
    album, title : str
    seconds : float
        Duration.
    score : float
        Cosine similarity, -1..1, higher is nearer; 0 if one of the two vectors is all zeros.
    percentile : float or None
        Percent of what scores are compared with that is less alike, see `SearchResult.percentile_of`; None in a library of one.
    copies : tuple of str
        Ids of tracks that are the same music and therefore not shown.
    at, end : float or None
        Seconds: where in this track the window lies that is nearest to the query, if that was a moment and windows are kept.
    """

    rank: int
    track: str
    path: str
    genres: tuple[str, ...]
    artists: tuple[str, ...]
    album: str
    title: str
    seconds: float
    score: float
    percentile: float | None = None
    copies: tuple[str, ...] = ()
    at: float | None = None
    end: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: several genres or artists stand apart by ``;``, unknown ones are None."""
        data = asdict(self)
        names = {"genre": ";".join(data.pop("genres")) or None, "artist": ";".join(data.pop("artists")) or None}
        first = {name: data.pop(name) for name in ("rank", "track", "path")}
        texts = {name: data.pop(name) or None for name in ("album", "title")}
        return {**first, **names, **texts, **data, "copies": list(self.copies)}


@dataclass(frozen=True)
class SearchResult:
    """The nearest tracks to a query.

    Attributes
    ----------
    query : str
        As it was asked; ``"genre:NAME"`` for the centre of a genre.
    layer : int or str
        Number of the layer, ``"mean"`` or ``"mix"``.
    hits : tuple of Hit
        Best first; fewer than asked where the store holds no more that may be shown.
    notes : tuple of str
        What a person should know, e.g. that an index was not usable.
    transform : str
        How vectors were moved before they were compared.
    percentile_of : str
        What the percentiles of the hits are shares of. ``"pairs"``, for a track or file: random pairs of the library, those of one
        artist among them. ``"tracks"``, for all other queries, since a sum of tracks or a moment is more, or less, alike to all
        tracks than one of them is: random tracks of the library, by their similarity to this query.
    """

    query: str
    layer: int | str
    hits: tuple[Hit, ...]
    notes: tuple[str, ...] = field(default=())
    transform: str = "none"
    percentile_of: str = "pairs"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        results = [hit.to_dict() for hit in self.hits]
        asked = {"query": self.query, "layer": self.layer, "transform": self.transform}
        return {**asked, "percentile_of": self.percentile_of, "results": results, "notes": list(self.notes)}
