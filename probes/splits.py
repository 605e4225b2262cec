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
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from embedstore.types import TrackLabels

__all__ = ["artist_groups", "groups_per_class", "hold_out", "known_artists", "make_folds", "normalise"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_NOBODY = {
    *(
        "",
        "unknown",
        "unknown artist",
        "artist unknown",
        "various",
        "various artists",
        "va",
        "v a",
        "n a",
        "none",
        "nan",
    ),
    *("null", "traditional", "trad", "anonymous", "anon"),
}
_NO_TITLE = re.compile(r"|untitled|unknown|none|nan|null|intro|outro|interlude|((audio )?track|titel|piste)? ?\d*")
_TOGETHER = re.compile(r"\s*[,;/&+]\s*|\s+(?:and|with|vs\.?|x|und|et|y)\s+", re.IGNORECASE)
_FEATURING = re.compile(r"[\s(\[]+(?:feat|ft|featuring)\b\.?", re.IGNORECASE)
_TRIES = 50


def normalise(text: str) -> str:
    """Reduce a name to what people mean by it.

    >>> normalise("Björk"), normalise("  AC/DC "), normalise("!!!")
    ('bjork', 'ac dc', '!!!')
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    return " ".join(re.findall(r"[^\W_]+", plain)) or plain.strip()


def known_artists(labels: TrackLabels) -> set[str]:
    """Normalised names of everyone credited; empty if nobody is known.

    >>> sorted(known_artists(TrackLabels(artists=("Queen feat. David Bowie", "Various Artists"))))
    ['david bowie', 'queen']
    """
    return {normalise(name) for credit in labels.artists for name in _FEATURING.split(credit)} - _NOBODY


def _key(name: str) -> str:
    """Write a normalised name so that "The Beatles", "Beatles" and "AC/DC", "ACDC" are one each."""
    return name.removeprefix("the ").removesuffix(" the").replace(" ", "") or name


def _with_members(track: TrackLabels, everybody: set[str]) -> set[str]:
    """Give the keys of all who are credited: whole credits, and parts of joint ones that are credited alone elsewhere."""
    keys = {_key(name) for name in known_artists(track)}
    for credit in (part for name in track.artists for part in _FEATURING.split(name)):
        parts = [part.strip("()[] ") for part in _TOGETHER.split(credit)]
        parts += [" ".join(reversed(parts))] if len(parts) == 2 and "," in credit else []  # Last, First
        keys |= {key for part in parts if (key := _key(normalise(part))) in everybody}
    return keys


def artist_groups(labels: Sequence[TrackLabels]) -> Ints:
    """Give each track the number of its group: tracks joined by any chain of shared artists.

    >>> artist_groups([TrackLabels(artists=(a,)) for a in ("Nina", "nina", "Ella feat. Nina", "Bill")])
    array([0, 0, 0, 1])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    everybody = set().union(*(map(_key, known_artists(track)) for track in labels)) if len(labels) else set()
    names: dict[tuple[str, str], int] = {}
    edges = []
    for row, track in enumerate(labels):
        artists = known_artists(track)
        title = normalise(track.title)
        named = [("artist", name) for name in sorted(_with_members(track, everybody))] if artists else []
        tokens = named or ([] if _NO_TITLE.fullmatch(title) else [("title", title)])
        edges += [(row, len(labels) + names.setdefault(token, len(names))) for token in tokens]
    size = len(labels) + len(names)
    tracks, tokens_ = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (tracks, tokens_)), shape=(size, size))
    components = connected_components(graph, directed=False)[1][: len(labels)]
    return np.unique(components, return_inverse=True)[1].astype(np.int64)


def groups_per_class(y: Ints, groups: Ints, n_classes: int = 0) -> Ints:
    """Count the groups that hold each class, shape (n_classes,)."""
    return np.bincount(np.unique(np.stack([y, groups]), axis=1)[0], minlength=n_classes)


def make_folds(y: Ints, groups: Ints, folds: int, seed: int) -> Ints:
    """Give each track a fold; groups are whole, classes spread evenly, none only in one fold.

    Parameters
    ----------
    y : int64 array, shape (n,)
        Class numbers without gaps from 0, each in at least two groups.
    groups : int64 array, shape (n,)
        Group numbers without gaps from 0.
    folds : int
        How many; fewer are made where there are fewer groups.
    seed : int
        Another seed deals other folds.

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
    counts = _count(y, groups)
    for attempt in range(_TRIES):
        dealt = _deal(counts, min(folds, len(counts)), np.random.default_rng([seed, attempt]))[groups]
        if (groups_per_class(y, dealt) >= 2).all():
            return dealt
    raise ParameterError(
        f"no {folds} folds of {len(counts)} groups leave every genre in the training part: "
        f"artists span genres and join them (largest group {int(counts.sum(1).max())} of {len(y)} tracks); "
        "ask for more --folds or for --group none"
    )


def _count(y: Ints, groups: Ints) -> Ints:
    n_groups, n_classes = int(groups.max()) + 1, int(y.max()) + 1
    return np.bincount(groups * n_classes + y, minlength=n_groups * n_classes).reshape(n_groups, n_classes)


def _deal(counts: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Deal groups (rows of class counts) to folds, each where its classes are rarest."""
    load = np.zeros((folds, counts.shape[1]))
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
            best = max(held, key=lambda rows: (len(np.unique(y[rows])), int(rows.sum())))
            if len(np.unique(y[best])) >= 2:
                return best
    return np.zeros(len(y), dtype=np.bool_)


def _spare_classes(y: Ints, groups: Ints, held: Bools) -> Bools:
    """Give groups back to the training part that hold a class which it would lack."""
    lacking = ~np.isin(y, y[~held])
    return held & ~np.isin(groups, groups[lacking])
