"""From the nearest tracks to a list that people can use: one of each piece of music, few of an artist, not all alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedstore.search.columns import fold
from embedstore.types import Floats, TrackLabels

__all__ = ["Candidate", "Known", "at_most", "background_of", "diverse", "one_of_each", "percentile"]

DURATION = 1.0  # seconds that copies of a recording may differ by
LIKENESS = 0.03  # of the distance of a typical pair: how far apart copies of a recording may be


@dataclass
class Candidate:
    """A track that may be shown.

    Attributes
    ----------
    key : int
    score : float
    copies : list of int
        Keys of the tracks that it stands for, too.
    """

    key: int
    score: float
    copies: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """What is known of tracks, one a row: placed vectors of length 1, durations, labels."""

    vectors: Floats
    seconds: NDArray[np.float64]
    labels: Sequence[TrackLabels]


def background_of(sample: Floats) -> Floats:
    """Give the similarities of all pairs of some tracks, in order; the vectors have length 1, shape (n, dim)."""
    scores: Floats = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    return np.sort(scores.clip(-1, 1))


def percentile(background: Floats, score: float) -> float | None:
    """Say how many percent of the background are below a score; None without a background.

    >>> percentile(np.array([0.1, 0.2, 0.3, 0.9], np.float32), 0.5)
    75.0
    """
    if not len(background):
        return None
    return 100.0 * float(np.searchsorted(background, np.float32(score))) / len(background)


def one_of_each(candidates: Iterable[Candidate], known: Known, background: Floats, *, seeds: Known) -> list[Candidate]:
    """Let the first of tracks that are the same music stand for the others.

    Two tracks are the same music if they have the same artists and title (both known; case and blanks do not count), or if
    they last equally long to a second and are so alike that ``1 - similarity`` is below 3 % of what it is for the median pair
    of the library. So the rule needs no setting for each model: what is a great similarity differs between them. It is strict:
    of 384 re-encoded copies among 640 tracks it joined 290 (musicnn) and 306 (MFCCs), and 17 and 39 of the 204,480 pairs that are
    no copies. It misses copies at low bit rates, and where a model hears loudness, louder ones.

    Parameters
    ----------
    candidates : iterable of Candidate
        Best first.
    known : Known
        A row for each candidate.
    background : float32 array
        See `background_of`.
    seeds : Known
        Tracks whose copies are left out.
    """
    least = 1 - LIKENESS * (1 - float(np.median(background))) if len(background) else np.inf
    kept: list[Candidate | None] = [None] * len(seeds.labels)
    by_name = {name: place for place, labels in enumerate(seeds.labels) if (name := _name(labels))}
    vectors = np.vstack([seeds.vectors, np.empty_like(known.vectors)])
    seconds = np.append(seeds.seconds, np.empty(len(known.seconds)))
    for i, candidate in enumerate(candidates):
        n, name = len(kept), _name(known.labels[i])
        same = by_name.get(name) if name else None
        if same is None:
            near = np.flatnonzero(np.abs(seconds[:n] - known.seconds[i]) <= DURATION)
            alike = near[vectors[near] @ known.vectors[i] >= least]
            same = int(alike[0]) if len(alike) else None
        if same is None:
            vectors[n], seconds[n] = known.vectors[i], known.seconds[i]
            kept.append(Candidate(candidate.key, candidate.score))
            if name:
                by_name[name] = n
        elif (first := kept[same]) is not None:
            first.copies.append(candidate.key)
    return [one for one in kept if one is not None]


def _name(labels: TrackLabels) -> tuple[str, ...] | None:
    if not (labels.artists and labels.title):
        return None
    return (fold(labels.title), *sorted(map(fold, labels.artists)))


def at_most(candidates: Iterable[Candidate], artists: Iterable[Sequence[str]], most: int) -> list[Candidate]:
    """Keep the first `most` of each artist; tracks of unknown artists are all kept."""
    counts: Counter[str] = Counter()
    kept = []
    for candidate, names in zip(candidates, artists, strict=True):
        folded = {fold(name) for name in names}
        if all(counts[name] < most for name in folded):
            counts.update(folded)
            kept.append(candidate)
    return kept


def diverse(scores: Sequence[float], vectors: Floats, k: int, diversity: float) -> list[int]:
    """Choose k of some tracks one after the other: alike to the query, and unlike what is chosen already.

    Each time the one with the highest ``(1 - diversity) * score - diversity * (its highest similarity to a chosen one)``:
    maximal marginal relevance, Carbonell & Goldstein, "The use of MMR, diversity-based reranking" (SIGIR 1998).

    Returns
    -------
    list of int
        Places in `scores`, in the order in which they were chosen.

    Examples
    --------
    >>> rows = np.array([[1, 0], [1, 0], [0.8, 0.6]], np.float32)
    >>> diverse([0.9, 0.9, 0.7], rows, 2, 0), diverse([0.9, 0.9, 0.7], rows, 2, 0.6)
    ([0, 1], [0, 2])
    """
    worth = (1 - diversity) * np.asarray(scores, np.float64)
    nearest = np.zeros(len(worth))
    chosen: list[int] = []
    left = np.ones(len(worth), bool)
    while len(chosen) < min(k, len(worth)):
        place = int(np.argmax(np.where(left, worth - diversity * nearest, -np.inf)))
        similar = vectors @ vectors[place]
        nearest = np.maximum(nearest, similar) if chosen else similar.astype(np.float64)
        chosen.append(place)
        left[place] = False
    return chosen
