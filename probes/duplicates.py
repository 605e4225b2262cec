"""Recordings that are in the library twice: re-encoded, resampled, louder, cut a little later.

Whether two tracks are one recording shows in the fine print of their vectors, not in the broad differences of style that
hold most of the variance. So vectors are standardised over the library and whitened; then two tracks are near-duplicates
when they are of one length and far nearer to each other than to their ordinary neighbours. How much nearer chance brings
two tracks is read from the library itself: the distance to the fifth neighbour as a share of that to the tenth follows, in
D dimensions, the same law for all rows (the idea of TwoNN, Facco et al. 2017), so its median gives D, and D the share that
chance puts a first neighbour at about once in the library.

Measured on 640 synthesised recordings of public-domain music, many by the same few instruments, and 48 re-encoded ones of
each kind in turn, with the default layer of musicnn: found are all of mp3 at 192 kbit/s, half the sample rate, mono, 3 dB less,
and starts cut by 0.5 and 0.9 s; 96 % of ogg at quality 2, 94 % of mp3 at 64 kbit/s. Among 89,000 pairs of other tracks of
one length 11 are taken for copies. MFCC statistics find 89 % of all (of cut starts 57 %) with 4 false pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError

__all__ = ["Pairs", "near_duplicates"]

Ints = NDArray[np.int64]
Array = NDArray[Any]
_ORDINARY = 10  # this neighbour is an ordinary one: a recording may be there so many times
_FEWEST = 12
_NEARER = 0.5  # share of the distance to it that a pair may have at most
_CELLS = 2**24  # similarities at a time: 64 MB


@dataclass(frozen=True, repr=False, eq=False)
class Pairs:
    """Pairs of tracks that sound like one recording, the most alike first.

    Attributes
    ----------
    rows : int64 array, shape (m, 2)
        Row numbers, the smaller first.
    similarity : float64 array, shape (m,)
        Cosine of the whitened vectors.
    """

    rows: Ints
    similarity: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Pairs({len(self)})"


def near_duplicates(vectors: Array, seconds: Array) -> Pairs:
    """Find pairs of rows that are one recording.

    Parameters
    ----------
    vectors : float array, shape (n, dim)
        One layer; a wide one in the middle of a network tells recordings apart best.
    seconds : float array, shape (n,)
        Durations. Two tracks of one recording differ by at most 1 s, or 2 % of the longer one if that is more.

    Raises
    ------
    ParameterError
        Values or durations that are missing or not finite.

    Notes
    -----
    Time n^2 dim (50,000 x 768: 80 s on one core), memory n dim. None are found among fewer than twelve tracks, nor of a recording
    that is there more than ten times.
    """
    x, seconds = np.asarray(vectors), np.asarray(seconds, dtype=np.float64)
    if x.ndim != 2 or seconds.shape != x.shape[:1]:
        raise ParameterError(
            f"near-duplicates are looked for among vectors with a duration each; got vectors {x.shape} and "
            f"durations {seconds.shape}"
        )
    if bad := int((~np.isfinite(x)).any(1).sum()):
        raise ParameterError(f"{bad} of {len(x)} vectors are not finite (NaN or infinite)")
    if bad := int((~(np.isfinite(seconds) & (seconds > 0))).sum()):
        raise ParameterError(
            f"{bad} of {len(x)} tracks have no duration; near-duplicates are found by sound and duration"
        )
    if len(x) < _FEWEST:
        return Pairs(np.empty((0, 2), dtype=np.int64), np.empty(0))
    rows, similarity, fifth, tenth = _near(_whiten(x))
    ordinary = tenth[rows].min(1)  # distance to the tenth neighbour, of the track that has it nearer
    a, b = seconds[rows].T
    same = 1 - similarity < min(_NEARER, _reach_of_chance(fifth, tenth)) * ordinary
    same &= np.abs(a - b) <= np.maximum(1.0, 0.02 * np.maximum(a, b))
    order = np.argsort(-similarity[same], kind="stable")
    return Pairs(rows[same][order], similarity[same][order])


def _whiten(x: Array) -> NDArray[np.float32]:
    """Give directions of equal weight, shape (n, dim), each row of length 1 (a row at the mean: 0).

    The covariance is shrunk as Ledoit and Wolf do: else directions that few rows hardly show would be blown up.
    """
    from scipy.linalg import eigh
    from sklearn.covariance import ledoit_wolf
    from sklearn.preprocessing import StandardScaler, normalize

    x = StandardScaler().fit_transform(x.astype(np.float32))
    values, axes = eigh(ledoit_wolf(x, assume_centered=True)[0])
    return np.asarray(normalize(x @ (axes / np.sqrt(values.clip(min=1e-6))).astype(np.float32)))


def _near(x: NDArray[np.float32]) -> tuple[Ints, Array, Array, Array]:
    """Find pairs that are near for the first of them: rows, similarities; of each row the fifth and the tenth distance."""
    n = len(x)
    places = [n - _ORDINARY // 2, n - _ORDINARY]
    distances = np.empty((2, n))
    found, alike = [np.empty((0, 2), dtype=np.int64)], [np.empty(0)]
    block = max(_CELLS // n, 1)
    for start in range(0, n, block):
        similar = x[start : start + block] @ x.T
        own = np.arange(len(similar))
        similar[own, start + own] = -2
        distances[:, start + own] = 1 - np.partition(similar, places, axis=1)[:, places].T
        a, b = np.nonzero(1 - similar < _NEARER * distances[1, start + own, None])
        later = b > a + start
        found.append(np.stack([a + start, b], axis=1)[later])
        alike.append(similar[a, b][later].astype(np.float64))
    return np.concatenate(found), np.concatenate(alike), *distances


def _reach_of_chance(fifth: Array, tenth: Array) -> float:
    """Estimate the share of the tenth distance at which chance puts about one first neighbour among so many rows.

    In D dimensions 1 - cosine of the k-th neighbour grows like k^(2/D); raised to D/2, the fifth distance is half the tenth
    in the median, and the first is the least of nine numbers drawn evenly from 0..1. The fifth tells D, not the first, as
    all tracks may have a copy.
    """
    usual = float(np.median(fifth / np.maximum(tenth, 1e-12)))
    if not 0 < usual < 1:
        return 0.0
    return float((2 / ((_ORDINARY - 1) * len(tenth))) ** (np.log(usual) / np.log(0.5)))
