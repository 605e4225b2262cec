"""One space of a store, searchable as it is now: a saved index where one is usable, a scan of what it does not cover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import IndexFormatError, TrackNotFoundError
from embedstore.index.base import Index, best
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import Rows, unit
from embedstore.index.saved import IndexReport, load_index, usable_indices
from embedstore.index.space import Space, Transform
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Mix, Neighbors

__all__ = ["LayerSearch"]

_FEW = 5000  # allowed tracks that are compared one by one


class LayerSearch:
    """Finds the nearest stored tracks in one layer.

    The saved index that covers most tracks answers for the tracks whose rows lie in the shards it was built from; all other
    tracks are compared one by one, and what the store no longer holds is left out. So an index may be old, but an answer
    is not. Without a usable index every track is compared. What is searched is the store as it was when this was made.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int, str or Mix, optional
        As `EmbeddingStore.layer` takes it.
    transform : str
        See `TRANSFORMS`. A saved index keeps what it learned when it was built.

    Attributes
    ----------
    layer : int or str
        Number of the layer, ``"mean"`` or ``"mix"``.
    transform : str
    dim : int
        Width of a vector.
    keys : int64 array, shape (n,)
        Of all tracks that can be found, in order.
    report : IndexReport or None
        Of the index that is used.
    notes : tuple of str
        Why an index was not used.
    """

    def __init__(self, store: EmbeddingStore, layer: int | str | Mix | None = None, transform: str = "none") -> None:
        space = Space.of(store, layer, transform)
        self.layer, self.transform, self.dim = space.layer, space.kind, space.dim
        self.notes: tuple[str, ...] = ()
        self.report: IndexReport | None = None
        self._index: Index | None = None
        self._moved: Transform | None = None
        held = self._choose(store, space.label)
        if self._index is None:
            self._moved = space.fit(store)
        keys = store.keys()
        rest = keys[~_among(keys, held)]
        read = space.reader(store, self._moved)
        values = read(rest) if len(rest) else np.empty((0, self.dim), np.float32)
        values /= Rows(rest, values).lengths[:, None]  # as the rows of an index are scaled, bit for bit
        self._rest = Rows(rest, values, np.ones(len(rest), np.float32))
        self._scan = ExactIndex(self._rest)
        self._parts = [rows for rows in (self._index and self._index.rows, self._rest) if rows is not None]
        self.keys = np.sort(np.append(held, rest))
        self._held = held

    def _choose(self, store: EmbeddingStore, label: str) -> Keys:
        """Take the index that covers most; give the keys that it may answer for, in order."""
        usable, problems = usable_indices(store, label)
        covered = [(store.keys_in(report.shards), report) for report in usable]
        for keys, report in sorted(covered, key=lambda one: (len(one[0]), -one[1].latency_ms), reverse=True):
            if len(keys):
                try:
                    saved = load_index(report)
                except IndexFormatError as error:
                    problems.append(f"index {Path(report.path).name} is not usable: {error}")
                else:
                    self.report, self._index, self._moved = report, saved.index, saved.transform
                    break
        self.notes = tuple(f"{problem}; build it again with 'embedstore index'" for problem in problems)
        if self._index is None:
            return np.empty(0, np.int64)
        rows, keys = self._index.rows, np.sort(keys)
        return keys[_among(keys, rows.keys[rows.order])]

    def place(self, values: Floats) -> Floats:
        """Move vectors of the layer as the stored ones are, and scale them to length 1; zeros stay zeros."""
        values = np.asarray(values, np.float32)
        return unit(values if self._moved is None else self._moved(values))

    def vectors(self, keys: Keys) -> Floats:
        """Give the placed vectors of stored tracks, shape (len(keys), dim).

        Raises
        ------
        TrackNotFoundError
            A key is not among `keys`.
        """
        keys = np.asarray(keys, np.int64)
        missing = keys[~_among(keys, self.keys)]
        if len(missing):
            raise TrackNotFoundError(f"{len(missing)} of {len(keys)} keys cannot be searched; first: {missing[0]}")
        out = np.empty((len(keys), self.dim), np.float32)
        for rows in self._parts:
            mine = _among(keys, self._held) if rows is not self._rest else ~_among(keys, self._held)
            out[mine] = rows.unit(rows.order[np.searchsorted(rows.keys, keys[mine], sorter=rows.order)])
        return out

    def sample(self, count: int, seed: int = 0) -> Floats:
        """Give the placed vectors of up to `count` tracks, chosen by chance; the same for the same seed."""
        return self.vectors(self.keys[np.sort(np.random.default_rng(seed).permutation(len(self.keys))[:count])])

    def search(self, queries: Floats, k: int, *, allowed: Keys | None = None) -> Neighbors:
        """Find the k nearest tracks of each query.

        Parameters
        ----------
        queries : float32 array, shape (n_queries, dim)
            Placed vectors, see `place`.
        k : int
        allowed : int64 array, optional
            The only keys that may be found; keys that are not stored do no harm.

        Raises
        ------
        ParameterError
            As `Index.search`.
        """
        if allowed is not None:
            allowed = np.unique(allowed)
            if len(allowed) <= _FEW:
                allowed = allowed[_among(allowed, self.keys)]
                rows = Rows(allowed, self.vectors(allowed), np.ones(len(allowed), np.float32))
                return ExactIndex(rows).search(queries, k)
        parts = [index for index in (self._index, self._scan) if index is not None and len(index.rows)]
        found = [self._look(index, queries, k, allowed) for index in parts or [self._scan]]
        return found[0] if len(found) == 1 else _join(found, k)

    def _look(self, index: Index, queries: Floats, k: int, allowed: Keys | None) -> Neighbors:
        """Search one part; of rows that must not be found, ask for as many more as that takes."""
        n, held = len(index.rows), len(self._held) if index is self._index else len(index.rows)
        if allowed is None and held == n:
            return index.search(queries, k)
        share = held / n * (1 if allowed is None else len(allowed) / len(self.keys))
        count = k
        while True:
            count = min(n, 16 + int(1.5 * count / max(share, 1e-9)))
            found = index.search(queries, count)
            valid = found.keys >= 0
            if index is self._index:
                valid &= _among(found.keys, self._held)
            if allowed is not None:
                valid &= _among(found.keys, allowed)
            if count == n or (valid.sum(axis=1) >= k).all():
                return _join([Neighbors(np.where(valid, found.keys, -1), found.scores)], k)


def _join(parts: list[Neighbors], k: int) -> Neighbors:
    """Keep the k best of all; what is missing comes last."""
    every, all_scores = np.hstack([part.keys for part in parts]), np.hstack([part.scores for part in parts])
    keys, scores = np.empty((len(every), k), np.int64), np.empty((len(every), k), np.float32)
    for i, (some, of_them) in enumerate(zip(every, all_scores, strict=True)):
        real = some >= 0
        keys[i], scores[i] = best(some[real], of_them[real], k)
    return Neighbors(keys, scores)


def _among(keys: Keys, held: Keys) -> NDArray[np.bool_]:
    """Tell which keys are among the held ones, which are in order."""
    if not len(held):
        return np.zeros(keys.shape, bool)
    found: NDArray[np.bool_] = held[np.minimum(np.searchsorted(held, keys), len(held) - 1)] == keys
    return found
