"""The catalogue of a store as columns: which tracks meet a filter, and which track a person means by a few words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import cached_property, lru_cache
from typing import Any
from unicodedata import combining, normalize

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, TrackNotFoundError, UnknownNameError
from embedstore.search.values import Filter
from embedstore.store import EmbeddingStore
from embedstore.types import Keys, TrackLabels, track_id

__all__ = ["Columns", "fold"]

_LISTED = 30  # names that an error still lists
_LIKELY = 60  # of 100: how alike a name is to be suggested
_SHOWN = 5  # tracks that an error names

Mask = NDArray[np.bool_]


def fold(text: str) -> str:
    """Bring a name to the form in which names are compared.

    >>> fold(" Sigur  RÓS ") == fold("sigur rós")
    True
    """
    return " ".join(normalize("NFKC", text).casefold().split())


class Columns:
    """What is said about the tracks of a store at one moment, in the order of their keys.

    Parameters
    ----------
    store : EmbeddingStore
    before : Columns, optional
        Of the same store at an earlier moment: labels that are as they were are not read again.

    Attributes
    ----------
    keys : int64 array, shape (n,)
    seconds : float64 array, shape (n,)
    labels : list of TrackLabels
    """

    def __init__(self, store: EmbeddingStore, before: Columns | None = None) -> None:
        known: dict[str, TrackLabels] = before._known if before else {}  # noqa: SLF001 - of the same class
        rows = list(store.catalogue())
        self._known: dict[str, TrackLabels] = {
            text: known.get(text) or TrackLabels.from_dict(json.loads(text)) for _, _, text, _ in rows
        }
        self.keys = np.array([key for key, *_ in rows], np.int64)
        self.seconds = np.array([seconds for _, seconds, *_ in rows], np.float64)
        self.labels = [self._known[text] for _, _, text, _ in rows]
        self._files = [files for *_, files in rows]
        self.allowed = lru_cache(maxsize=32)(self._allowed)

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
        members, names = self._members[kind]
        try:
            return members[fold(name)]
        except KeyError:
            raise _unknown(kind, name, names) from None

    @cached_property
    def _members(self) -> dict[str, tuple[dict[str, NDArray[np.int64]], list[str]]]:
        """Of each kind of name: its rows by the folded name, and the names as they are written."""
        found = {}
        for kind, told in (
            ("genre", [labels.genres for labels in self.labels]),
            ("artist", [labels.artists for labels in self.labels]),
            ("album", [(labels.album,) * bool(labels.album) for labels in self.labels]),
        ):
            members: dict[str, dict[int, None]] = {}
            folded = {name: fold(name) for names in told for name in names}
            for place, names in enumerate(told):
                for name in names:
                    members.setdefault(folded[name], {})[place] = None
            rows = {name: np.fromiter(places, np.int64, len(places)) for name, places in members.items()}
            found[kind] = rows, sorted({name: written for written, name in folded.items()}.values())
        return found

    def _allowed(self, wanted: Filter) -> Keys:
        """Give the keys of the tracks that meet a filter, in order.

        Raises
        ------
        ParameterError
            There are none; says how many each part of it leaves.
        UnknownNameError
            It asks for a genre, artist or album that no track has.
        """
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
        for names in self._names:
            if found := names.get(text):
                return int(self.keys[self._only(found, text)]), ""
        words = set(_words(text).split())
        if words and (found := [place for place, said in enumerate(self._words) if words <= said]):
            exact = [place for place in found if _words(self.labels[place].title).split() == _words(text).split()]
            place = self._only(exact if len(exact) == 1 else found, text)
            return int(self.keys[place]), f"{self.name(place)} ({track_id(int(self.keys[place]))})"
        raise TrackNotFoundError(
            f"no stored track is called {text!r} ({len(self)} tracks){_or_else(self._closest(text))}"
        )

    def _only(self, places: Iterable[int], text: str) -> int:
        found = sorted(set(places))
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

    @cached_property
    def _names(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Rows by path below the root, and by file name, with its ending and without."""
        below: dict[str, list[int]] = {}
        names: dict[str, list[int]] = {}
        for place, files in enumerate(self._files):
            for _, path in files:
                name = path.rpartition("/")[2]
                below.setdefault(path, []).append(place)
                for form in {name, name.rpartition(".")[0] or name}:
                    names.setdefault(form, []).append(place)
        return below, names

    @cached_property
    def _words(self) -> list[frozenset[str]]:
        return [frozenset(_words(" ".join((*one.artists, one.title))).split()) for one in self.labels]

    def _closest(self, text: str) -> list[str]:
        from rapidfuzz import fuzz, process

        said = {place: _words(" ".join((*one.artists, one.title))) for place, one in enumerate(self.labels)}
        tracks = process.extract(_words(text), said, scorer=fuzz.WRatio, limit=3, score_cutoff=_LIKELY)
        files = process.extract(text, self._names[1].keys(), scorer=fuzz.ratio, limit=3, score_cutoff=_LIKELY)
        names = [(score, self.name(place)) for _, score, place in tracks] + [(score, name) for name, score, _ in files]
        return list(dict.fromkeys(name for _, name in sorted(names, reverse=True)))[:3]


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
