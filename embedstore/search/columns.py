"""The catalogue of a store as columns: which tracks meet a filter, and which track a person means by a few words."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any
from unicodedata import combining, normalize

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, TrackNotFoundError, UnknownNameError
from embedstore.search.values import Filter
from embedstore.store import EmbeddingStore
from embedstore.types import Keys, TrackLabels, track_id

__all__ = ["Columns", "Described", "fold"]

_LISTED = 30  # names that an error still lists
_LIKELY = 60  # of 100: how alike a name is to be suggested
_SHOWN = 5  # tracks that an error names

_REMEMBERED = 32  # filters

Mask = NDArray[np.bool_]
Row = tuple[int, float, str, bytes, int]
_Members = tuple[dict[str, NDArray[np.int64]], list[str]]


def fold(text: str) -> str:
    """Bring a name to the form in which names are compared.

    >>> fold(" Sigur  RÓS ") == fold("sigur rós")
    True
    """
    return " ".join(normalize("NFKC", text).casefold().split())


class _Track:
    """What is said about a track; `mark` tells what the catalogue said then from what it says now."""

    def __init__(self, rows: tuple[Row, ...], labels: TrackLabels) -> None:
        self.mark = hash(rows)  # 64 bits, in place of all the text
        self.seconds, self.labels = rows[0][1], labels
        self.files = [(os.fsdecode(path), os.fsdecode(path[below:])) for *_, path, below in rows]

    @cached_property
    def words(self) -> str:
        """Those of its artists and its title, a blank on either side of each."""
        return f" {' '.join(_words(' '.join((*self.labels.artists, self.labels.title))).split())} "


class Columns:
    """What is said about the tracks of a store at one moment, in the order of their keys.

    Parameters
    ----------
    store : EmbeddingStore
    before : Columns, optional
        Of the same store at an earlier moment: tracks of which the same is said are taken over.

    Attributes
    ----------
    keys : int64 array, shape (n,)
    seconds : float64 array, shape (n,)
    labels : list of TrackLabels
    """

    def __init__(self, store: EmbeddingStore, before: Columns | None = None) -> None:
        known: dict[int, _Track] = before._tracks if before else {}  # noqa: SLF001 - of the same class
        self._store = store
        told = {key: tuple(group) for key, group in groupby(store.catalogue(), itemgetter(0))}
        new = {key: rows for key, rows in told.items() if key not in known or known[key].mark != hash(rows)}
        parsed = json.loads(f"[{','.join(rows[0][2] for rows in new.values())}]")  # at once: a third of the time
        made = {
            key: _Track(rows, TrackLabels.from_dict(labels))
            for (key, rows), labels in zip(new.items(), parsed, strict=True)
        }
        self._tracks: dict[int, _Track] = {key: made.get(key) or known[key] for key in told}
        tracks = self._tracks.values()
        self.keys = np.fromiter(self._tracks, np.int64, len(tracks))
        self.seconds = np.array([track.seconds for track in tracks], np.float64)
        self.labels = [track.labels for track in tracks]
        self._files = [track.files for track in tracks]
        self._answers: dict[Filter, Keys] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, keys: Keys | Sequence[int]) -> NDArray[np.int64]:
        """Find the rows of keys; those that are not there are -1."""
        wanted = np.asarray(keys, np.int64)
        if not len(self):
            return np.full(len(wanted), -1)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self) - 1)
        return np.where(self.keys[places] == wanted, places, -1)

    # -- filters ------------------------------------------------------------------------------------------------

    def having(self, kind: str, name: str) -> NDArray[np.int64]:
        """Give the rows of a genre, artist or album.

        Raises
        ------
        UnknownNameError
            No track has it; suggests the closest.
        """
        members, names = getattr(self, f"_{kind}s")
        try:
            found: NDArray[np.int64] = members[fold(name)]
        except KeyError:
            raise _unknown(kind, name, names) from None
        return found

    @cached_property
    def _genres(self) -> _Members:
        return _members([labels.genres for labels in self.labels])

    @cached_property
    def _artists(self) -> _Members:
        return _members([labels.artists for labels in self.labels])

    @cached_property
    def _albums(self) -> _Members:
        return _members([(labels.album,) * bool(labels.album) for labels in self.labels])

    def allowed(self, wanted: Filter) -> Keys:
        """Give the keys of the tracks that meet a filter, in order.

        Raises
        ------
        ParameterError
            There are none; says how many each part of it leaves.
        UnknownNameError
            It asks for a genre, artist or album that no track has.
        """
        found = self._answers.get(wanted)
        if found is None:
            found = self._meeting(wanted)
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            self._answers[wanted] = found
        return found

    def _meeting(self, wanted: Filter) -> Keys:
        parts: dict[str, Mask] = {}
        for kind in ("genre", "artist", "album"):
            for names, said, keep in (
                (getattr(wanted, f"{kind}s"), kind, True),
                (getattr(wanted, f"without_{kind}s"), f"without {kind}", False),
            ):
                if names:
                    mask = np.full(len(self), not keep)
                    for name in names:
                        mask[self.having(kind, name)] = keep
                    parts[f"{said} {' or '.join(names)}"] = mask
        for patterns, said, keep in ((wanted.paths, "path", True), (wanted.without_paths, "without path", False)):
            if patterns:
                parts[f"{said} {' or '.join(patterns)}"] = self._on_path(patterns) == keep
        if wanted.years:
            years = np.array([labels.year for labels in self.labels], np.int64)
            low, high = wanted.years
            unknown = f" ({(years == 0).sum()} tracks have no year)" if (years == 0).any() else ""
            parts[f"year {low}-{high}{unknown}"] = (years >= low) & (years <= high) & (years > 0)
        if wanted.seconds:
            least, most = wanted.seconds
            parts[f"{least:g}-{most:g} seconds"] = (self.seconds >= least) & (self.seconds <= most)
        both = np.logical_and.reduce([np.ones(len(self), bool), *parts.values()])
        if not both.any():
            each = ", ".join(f"{said}: {mask.sum()}" for said, mask in parts.items())
            raise ParameterError(f"no track meets the filters; of {len(self)} tracks each alone leaves: {each}")
        return self.keys[both]

    def _on_path(self, patterns: Iterable[str]) -> Mask:
        """Tell which tracks have a file on one of these patterns."""
        match = re.compile("|".join(translate(pattern) for pattern in patterns)).match
        return np.array([any(match(path) or match(below) for path, below in files) for files in self._files], bool)

    # -- what a person means ------------------------------------------------------------------------------------

    def meant(self, text: str) -> tuple[int, str]:
        """Find the key of the track that has a file of this name, or whose artist and title hold these words.

        Of the latter also what it is called.

        Raises
        ------
        ParameterError
            Several do; lists some.
        TrackNotFoundError
            None does; suggests the closest.
        """
        places = self.places(self._store.named(text))
        if (places >= 0).any():
            return int(self.keys[self._only(places[places >= 0].tolist(), text)]), ""
        found = list(range(len(self) if (words := {*_words(text).split()}) else 0))
        for word in sorted(words, key=len, reverse=True):  # the longest is the rarest
            found = [place for place in found if f" {word} " in self._words[place]]
        if found:
            exact = [place for place in found if _words(self.labels[place].title).split() == _words(text).split()]
            place = self._only(exact if len(exact) == 1 else found, text)
            return int(self.keys[place]), f"{self.name(place)} ({track_id(int(self.keys[place]))})"
        raise TrackNotFoundError(
            f"no stored track is called {text!r} ({len(self)} tracks){_or_else(self._closest(text))}"
        )

    def _only(self, found: list[int], text: str) -> int:
        if len(found) == 1:
            return found[0]
        some = ", ".join(f"{self.name(place)} ({track_id(int(self.keys[place]))})" for place in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ParameterError(f"{len(found)} tracks answer to {text!r}: {some}{more}; give the path or the id")

    def name(self, place: int) -> str:
        """Say what people call a track: artist and title, or its path."""
        labels = self.labels[place]
        artist = ", ".join(labels.artists)
        return f"{artist} - {labels.title}" if artist and labels.title else labels.title or self._files[place][0][0]

    def short(self, place: int) -> str:
        """Give its title, or the name of its first file."""
        return self.labels[place].title or self._files[place][0][0].rpartition("/")[2]

    def said(self, place: int) -> str:
        """Give all names of a track, and its paths below the root, as one folded text."""
        labels, files = self.labels[place], self._files[place]
        return fold(
            " ".join((*labels.artists, labels.title, labels.album, *labels.genres, *(below for _, below in files)))
        )

    @cached_property
    def _words(self) -> list[str]:
        return [track.words for track in self._tracks.values()]

    def _closest(self, text: str) -> list[str]:
        from rapidfuzz import fuzz, process

        said = {place: words.strip() for place, words in enumerate(self._words)}
        tracks = process.extract(_words(text), said, scorer=fuzz.WRatio, limit=3, score_cutoff=_LIKELY)
        written = {path.rpartition("/")[2] for files in self._files for path, _ in files}
        files = process.extract(text, sorted(written), scorer=fuzz.ratio, limit=3, score_cutoff=_LIKELY)
        names = [(score, self.name(place)) for _, score, place in tracks] + [(score, name) for name, score, _ in files]
        return list(dict.fromkeys(name for _, name in sorted(names, reverse=True)))[:3]


class Described:
    """The columns of a store as it is: read once for each state of it, whoever asks."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store, self._lock = store, threading.Lock()
        self._found: tuple[object, Columns] | None = None

    def __call__(self) -> Columns:
        """Give them."""
        with self._lock:
            catalog = self._store.catalog  # another one, once this process has written
            state, before = (catalog, catalog.version()), self._found
            if before is None or before[0] != state:
                self._found = before = state, Columns(self._store, before and before[1])
            return before[1]


def _members(told: Iterable[Sequence[str]]) -> _Members:
    """List the rows of each name, by the folded name, and the names as they are written."""
    members: dict[str, list[int]] = {}
    folded: dict[str, str] = {}
    for place, names in enumerate(told):
        for name in names if len(names) < 2 else dict.fromkeys(names):
            if name not in folded:
                folded[name] = fold(name)
            members.setdefault(folded[name], []).append(place)
    rows = {name: np.unique(places) for name, places in members.items()}
    return rows, sorted({name: written for written, name in folded.items()}.values())


def _words(text: str) -> str:
    from rapidfuzz.utils import default_process  # lower case; what is no letter or digit is a blank

    letters = normalize("NFKD", text)
    return str(default_process("".join(c for c in letters if not combining(c)) if not letters.isascii() else letters))


def _or_else(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def _unknown(kind: str, name: str, names: list[str]) -> UnknownNameError:
    from rapidfuzz import fuzz, process

    found: list[Any] = process.extract(name, names, scorer=fuzz.WRatio, processor=fold, limit=3, score_cutoff=_LIKELY)
    hint = _or_else([close for close, _, _ in found]) or ";"
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    return UnknownNameError(f"unknown {kind} {name!r}{hint} known: {listed or '(none)'}")
