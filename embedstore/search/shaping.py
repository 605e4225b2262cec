"""From the nearest tracks to a list that people can use: one of each piece of music, few of an artist, not all alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedstore.labels.names import artist_keys, known_title
from embedstore.types import Floats, TrackLabels

__all__ = ["AtMost", "Candidate", "Known", "OneOfEach", "background_of", "diverse", "percentile"]

DURATION = 1.0  # seconds that copies of a recording may differ by
RENAMED = 0.1  # of the duration: how far tracks of one name may differ
LIKENESS = 0.03  # of the distance of a typical pair: how far apart copies of a recording may be
_BLOCK = 64  # tracks that are compared with all others at once


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


class OneOfEach:
    """Lets the first of tracks that are the same music stand for the others.

    Two tracks are the same music if they have the same artists and title (both known, see `embedstore.labels.names`) and their
    durations differ by at most 10 %, or if they last equally long to a second and are so alike that ``1 - similarity`` is below
    3 % of what it is for the median pair of the library. So the rule needs no setting for each model: what is a great similarity
    differs between them. It is strict: of 384 re-encoded copies among 640 tracks it joined 290 (musicnn) and 306 (MFCCs), and 17
    and 39 of the 204,480 pairs that are no copies. It misses copies at low bit rates, and where a model hears loudness, louder
    ones.

    Parameters
    ----------
    background : float32 array
        See `background_of`.
    seeds : Known
        Tracks whose copies are left out.
    """

    def __init__(self, background: Floats, seeds: Known) -> None:
        self._least = 1 - LIKENESS * (1 - float(np.median(background))) if len(background) else np.inf
        self._kept: list[Candidate | None] = [None] * len(seeds.labels)
        self._vectors, self._seconds = seeds.vectors, seeds.seconds.tolist()
        self._named: dict[tuple[str, ...], list[int]] = {}
        for place, labels in enumerate(seeds.labels):
            self._call(_name(labels), place)

    def __call__(self, candidates: Sequence[Candidate], known: Known) -> list[Candidate]:
        """Keep those that are unlike all kept so far, here and in earlier calls, and note the others as copies of these.

        Parameters
        ----------
        candidates : sequence of Candidate
            Best first.
        known : Known
            A row for each candidate.
        """
        n, kept = len(self._kept), []
        alike = self._alike(known)
        place: dict[int, int] = {}  # of each row that is kept: where
        for i, candidate in enumerate(candidates):
            name, seconds = _name(known.labels[i]), float(known.seconds[i])
            lasting = [(one, self._seconds[one]) for one in self._named.get(name, ())]
            same = [one for one, other in lasting if abs(other - seconds) <= RENAMED * max(other, seconds)]
            same = same or sorted(place.get(j, j) for j in alike[i] if j < n or j in place)
            if not same:
                place[n + i] = len(self._kept)
                self._seconds.append(seconds)
                self._call(name, len(self._kept))
                self._kept.append(candidate)
                kept.append(candidate)
            elif (first := self._kept[same[0]]) is not None:
                first.copies.append(candidate.key)
        self._vectors = np.vstack([self._vectors, known.vectors[[row - n for row in place]]])
        return kept

    def _call(self, name: tuple[str, ...], place: int) -> None:
        if name:
            self._named.setdefault(name, []).append(place)

    def _alike(self, known: Known) -> list[list[int]]:
        """List for each new row the rows, of those that are kept and of the new ones, that sound and last the same."""
        n = len(self._kept)
        found: list[list[int]] = [[] for _ in known.labels]
        vectors, seconds = np.vstack([self._vectors, known.vectors]), np.append(self._seconds, known.seconds)
        order = np.argsort(seconds, kind="stable")
        ordered, new = seconds[order], order[order >= n]
        for start in range(0, len(new), _BLOCK):
            some = new[start : start + _BLOCK]  # of about the same duration
            first = np.searchsorted(ordered, seconds[some[0]] - DURATION)
            others = order[first : np.searchsorted(ordered, seconds[some[-1]] + DURATION, "right")]
            apart = np.abs(seconds[some][:, None] - seconds[others])
            rows, columns = np.nonzero((vectors[some] @ vectors[others].T >= self._least) & (apart <= DURATION))
            for i, j in zip(some[rows].tolist(), others[columns].tolist(), strict=True):
                found[i - n].append(j)
        return found


def _name(labels: TrackLabels) -> tuple[str, ...]:
    """Give artists and title in the form in which they are compared; empty if one of the two is not known."""
    title, artists = known_title(labels), artist_keys(labels)
    return (title, *sorted(artists)) if title and artists else ()


class AtMost:
    """Keeps the first `most` tracks of each artist; tracks of unknown artists are all kept."""

    def __init__(self, most: int) -> None:
        self._most, self._counts = most, Counter[str]()

    def __call__(self, candidates: Iterable[Candidate], labels: Iterable[TrackLabels]) -> list[Candidate]:
        """Keep those that may be shown beside those of earlier calls."""
        kept = []
        for candidate, said in zip(candidates, labels, strict=True):
            artists = artist_keys(said)
            if all(self._counts[name] < self._most for name in artists):
                self._counts.update(artists)
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
