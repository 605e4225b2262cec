"""Who must stay together, and folds that keep them so.

Groups are the connected components over artists: tracks that share any artist (each co-artist counts) are one group,
whatever their class. Names are compared without case, accents, spaces, punctuation and "The"; "A feat. B" is A and B,
and "A & B", "A, B", "A vs. B" is also A if A is credited alone somewhere. Other spellings of one name stay apart. A
track without a known artist ("Various Artists", "Traditional") is grouped with those of the same title that have none
either, else it stands alone; "Untitled" and "Track 7" are no titles.

Folds are dealt group by group, the larger first in a seeded order, each to the fold where its classes are rarest: the
folds come out stratified as far as whole groups allow. Every class of a test fold is also in its training part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from embedstore.labels.names import artist_keys, credits_of, key_of, known_artists, known_title, normalise
from embedstore.registry import unknown_name
from embedstore.types import TrackLabels

__all__ = [
    "LEVELS",
    "artist_groups",
    "group_tracks",
    "groups_per_class",
    "hold_out",
    "is_present",
    "join_groups",
    "make_folds",
    "nested_order",
]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
LEVELS = ("none", "track", "album", "artist")

_NO_ALBUM = {"", "unknown", "unknown album", "untitled", "none", "nan", "null"}
_TOGETHER = re.compile(r"\s*[,;/&+]\s*|\s+(?:and|with|vs\.?|x|und|et|y)\s+", re.IGNORECASE)
_TRIES = 50


def _with_members(track: TrackLabels, everybody: set[str]) -> set[str]:
    """Give the keys of all who are credited: whole credits, and parts of joint ones that are credited alone elsewhere."""
    keys = artist_keys(track)
    for credit in credits_of(track):
        parts = [part.strip("()[] ") for part in _TOGETHER.split(credit)]
        parts += [" ".join(reversed(parts))] if len(parts) == 2 and "," in credit else []  # Last, First
        keys |= {key for part in parts if (key := key_of(normalise(part))) in everybody}
    return keys


def artist_groups(labels: Sequence[TrackLabels]) -> Ints:
    """Give each track the number of its group: tracks joined by any chain of shared artists.

    >>> artist_groups([TrackLabels(artists=(a,)) for a in ("Nina", "nina", "Ella feat. Nina", "Bill")])
    array([0, 0, 0, 1])
    """
    return group_tracks(labels, "artist")


def group_tracks(labels: Sequence[TrackLabels], level: str) -> Ints:
    """Give each track the number of its group; each level joins what the one before it joins.

    Parameters
    ----------
    labels : sequence of TrackLabels
    level : {"none", "track", "album", "artist"}
        Nothing together; the same title by one artist; also the same album of one artist; all of one artist.

    Returns
    -------
    int64 array, shape (n,)
        Group numbers, without gaps from 0.

    >>> tracks = [TrackLabels((), ("Nina",), album, title) for album, title in ("ax", "bx", "by", "cz")]
    >>> [group_tracks(tracks, level).tolist() for level in LEVELS]
    [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 0, 0]]
    """
    if level not in LEVELS:
        raise unknown_name("grouping", level, LEVELS)
    everybody = set().union(*map(artist_keys, labels))
    names: dict[tuple[str, ...], int] = {}
    edges = [
        (row, len(labels) + names.setdefault(token, len(names)))
        for row, track in enumerate(labels)
        for token in _tokens(track, level, everybody)
    ]
    return join_groups(np.arange(len(labels) + len(names)), np.array(edges, dtype=np.int64))[: len(labels)]


def _tokens(track: TrackLabels, level: str, everybody: set[str]) -> list[tuple[str, ...]]:
    """Name what a track is joined by: tracks with a token in common are one group."""
    artists = sorted(_with_members(track, everybody)) if known_artists(track) else []
    if level == "artist" and artists:
        return [("artist", name) for name in artists]
    title, album = known_title(track), normalise(track.album)
    titled = title and level != "none"
    tokens: list[tuple[str, ...]] = [("title", title, name) for name in artists or [""]] if titled else []
    if level == "album" and album not in _NO_ALBUM:
        tokens += [("album", album, name) for name in artists]
    return tokens


def join_groups(groups: Ints, pairs: Ints) -> Ints:
    """Join the groups of rows that belong together, `pairs` of row numbers, shape (m, 2); numbers without gaps.

    >>> join_groups(np.array([0, 1, 2, 3]), np.array([[1, 3]]))
    array([0, 1, 2, 1])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = int(groups.max(initial=-1)) + 1
    first, second = groups[np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T]
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(size, size))
    return np.asarray(np.unique(connected_components(graph, directed=False)[1][groups], return_inverse=True)[1])


def groups_per_class(y: Ints, groups: Ints, n_classes: int = 0) -> Ints:
    """Count the groups that hold each class or tag, shape (n_classes,)."""
    return np.asarray((_count(y, groups, n_classes) > 0).sum(0))


def is_present(y: Ints, n_classes: int = 0) -> Bools:
    """Tell which classes or tags any row has, shape (n_classes,)."""
    return np.asarray(y.any(0)) if y.ndim == 2 else np.bincount(y, minlength=n_classes) > 0


def make_folds(y: Ints, groups: Ints, folds: int, seed: int, like: Ints | None = None) -> Ints:
    """Give each track a fold; groups are whole, classes spread evenly, none only in one fold.

    Parameters
    ----------
    y : int64 array, shape (n,) or (n, n_tags)
        Class numbers without gaps from 0, or 0 and 1 for each tag; each class in at least two groups.
    groups : int64 array, shape (n,)
        Group numbers without gaps from 0.
    folds : int
        How many; fewer are made where there are fewer groups.
    seed : int
        Another seed deals other folds.
    like : int64 array, shape (n,), optional
        Folds of coarser groups: as uneven as these are, in size and classes, the new ones shall be.

    Returns
    -------
    int64 array, shape (n,)
        Fold numbers from 0.

    Raises
    ------
    ParameterError
        No deal was found in which each class meets two folds (groups that span many classes).
    """
    if folds < 2:
        raise ParameterError(f"cross-validation needs at least 2 folds; got {folds}")
    counts, wanted = _count(y, groups), None if like is None else _count(y, like)
    for attempt in range(_TRIES):
        dealt = _deal(counts, min(folds, len(counts)), np.random.default_rng([seed, attempt]), wanted)[groups]
        if (groups_per_class(y, dealt) >= 2).all():
            return dealt
    raise ParameterError(
        f"no {folds} folds of {len(counts)} groups leave every genre in the training part: "
        f"artists span genres and join them (largest group {int(counts.sum(1).max())} of {len(y)} tracks); "
        "ask for more --folds or for --group none"
    )


def _count(y: Ints, groups: Ints, n_classes: int = 0) -> Ints:
    """Count the rows of each group and class or tag, shape (n_groups, n_classes)."""
    n_groups = int(groups.max(initial=-1)) + 1
    if y.ndim == 2:
        counts = np.zeros((n_groups, y.shape[1]), dtype=np.int64)
        np.add.at(counts, groups, y)
        return counts
    n_classes = max(n_classes, int(y.max(initial=-1)) + 1)
    return np.bincount(groups * n_classes + y, minlength=n_groups * n_classes).reshape(n_groups, n_classes)


def _deal(counts: Ints, folds: int, rng: np.random.Generator, wanted: Ints | None = None) -> Ints:
    """Deal groups (rows of class counts) to folds, each where its classes are rarest, or the most of them are wanted."""
    load = np.zeros((folds, counts.shape[1])) if wanted is None else -wanted.astype(np.float64)
    dealt = np.empty(len(counts), dtype=np.int64)
    share = counts / np.maximum(counts.sum(0), 1) ** 2  # so that load @ share is how much unevenness would grow
    for group in np.argsort(-counts.sum(1) * rng.uniform(0.5, 1, len(counts)), kind="stable"):
        crowding = (load @ share[group]).round(12)
        dealt[group] = np.lexsort((rng.random(folds), load.sum(1), crowding))[0]
        load[dealt[group]] += counts[group]
    return dealt


def hold_out(y: Ints, groups: Ints, seed: int, parts: int = 5) -> Bools:
    """Choose about one track in `parts` for validation, by whole groups, never the last ones of a class.

    Classes of a single group stay in the training part. Where that leaves fewer than two classes to validate on, up to
    half is held out; else tracks are, one by one; if even that does not help (one track a class), none is.

    Returns
    -------
    bool array, shape (n,)
        True for validation.
    """
    for units in (np.unique(groups, return_inverse=True)[1], np.arange(len(y))):
        for n_parts in (parts, 2):
            dealt = _deal(_count(y, units), n_parts, np.random.default_rng([seed, n_parts]))[units]
            held = [_spare_classes(y, units, dealt == part) for part in range(n_parts)]
            best = max(held, key=lambda rows: (is_present(y[rows]).sum(), int(rows.sum())))
            if is_present(y[best]).sum() >= 2:
                return best
    return np.zeros(len(y), dtype=np.bool_)


def _spare_classes(y: Ints, groups: Ints, held: Bools) -> Bools:
    """Give groups back to the training part that hold a class which it would lack."""
    lost = is_present(y) & ~is_present(y[~held], len(is_present(y)))
    lacking = y[:, lost].any(1) if y.ndim == 2 else lost[y]
    return held & ~np.isin(groups, groups[lacking])


def nested_order(y: Ints, seed: int) -> NDArray[np.float64]:
    """Give each row a place in 0..1 so that the rows below any bound are a stratified sample, and samples are nested.

    With several tags a row, the sample is plainly random.
    """
    rng = np.random.default_rng([seed, 0x512E])
    drawn = rng.random(len(y))
    if y.ndim == 2:
        return np.asarray((drawn.argsort().argsort() + 0.5) / len(y))
    place = np.empty(len(y))
    for number in np.unique(y):
        rows = np.flatnonzero(y == number)
        place[rows] = (drawn[rows].argsort().argsort() + 0.5) / len(rows)
    return place
