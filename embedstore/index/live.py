"""One space of a store, searchable as it is now: a saved index where one is usable, a scan of what it does not cover."""

# ruff: noqa: SLF001 - `before` is of the same class

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import IndexFormatError, TrackNotFoundError
from embedstore.index.base import best
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import BLOCK, Rows, unit
from embedstore.index.saved import IndexReport, SavedIndex, load_index, usable_indices
from embedstore.index.space import Space
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Mix, Neighbors

__all__ = ["LayerSearch"]

_TRIES = 3  # to read an index that is being replaced
_STALE = 0.1  # share of tracks that may have come or gone before what a transform learned is old


class LayerSearch:
    """Finds the nearest stored tracks in one layer.

    The saved index that holds most tracks answers for those that the store still has; all other tracks are compared one by
    one, and what the store no longer holds is left out. So an index may be old, but an answer is not. Without a usable index every track is compared. What is searched is the store as it was when this was made.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int, str or Mix, optional
        As `EmbeddingStore.layer` takes it.
    transform : str
        See `TRANSFORMS`. A saved index keeps what it learned when it was built.
    before : LayerSearch, optional
        Of the same store at an earlier moment: an index that is still the same, and vectors that were read, are taken over.

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

    def __init__(
        self,
        store: EmbeddingStore,
        layer: int | str | Mix | None = None,
        transform: str = "none",
        *,
        before: LayerSearch | None = None,
    ) -> None:
        space = Space.of(store, layer, transform)
        self.layer, self.transform, self.dim, self._label = space.layer, space.kind, space.dim, space.label
        if before is not None and before._label != self._label:
            before = None
        keys = store.keys()
        self.notes: tuple[str, ...] = ()
        self._saved, self._held = self._choose(store, before)
        self.report: IndexReport | None = self._saved.report if self._saved else None
        self._held = self._held[_among(self._held, np.sort(keys))]  # tracks may have gone since
        rest = keys[~_among(keys, self._held)]
        self._learn(store, space, keys, before)
        self._rest = self._read(rest, space.reader(store, self._moved), before)
        self._scan = ExactIndex(self._rest)
        self._index = self._saved.index if self._saved else None
        self.keys = np.sort(np.append(self._held, rest))

    def _choose(self, store: EmbeddingStore, before: LayerSearch | None) -> tuple[SavedIndex | None, Keys]:
        """Take the index that answers for most tracks, from before if it is the same; and their keys, in order."""
        none: tuple[None, Keys] = None, np.empty(0, np.int64)
        for _ in range(_TRIES):
            usable, problems = usable_indices(store, self._label)
            self.notes = ()
            gone = False
            for held, report in usable:
                if not len(held):
                    break
                try:
                    same = before is not None and before._saved is not None and before._saved.report == report
                    saved = before._saved if before is not None and same else load_index(report)
                except IndexFormatError as error:
                    if gone := not Path(report.path, "meta.json").exists():
                        break  # another has just taken its place: look again
                    problems.append(f"index {Path(report.path).name} is not usable: {error}")
                else:
                    self._say(problems)
                    return saved, held
            if not gone:
                self._say(problems)
                return none
        return none

    def _say(self, problems: list[str]) -> None:
        self.notes = tuple(f"{problem}; build it again with 'embedstore index'" for problem in problems)

    def _learn(self, store: EmbeddingStore, space: Space, keys: Keys, before: LayerSearch | None) -> None:
        """Get the transform: the index's, the one from before while most tracks are the same, or learn it."""
        self._learned_from = len(keys)
        if self._saved is not None:
            self._moved, self._learned_from = self._saved.transform, len(self._saved.rows)
            others = len(keys) - len(self._held) + len(self._saved.rows) - len(self._held)
            if self._moved is not None and others > _STALE * len(self._saved.rows):
                learned = f"the index learned how to {self.transform} from {len(self._saved.rows)} tracks"
                self.notes += (f"{learned}, and {others} have come or gone since: embedstore index --update",)
        elif (
            before is not None and before._saved is None and abs(len(keys) / max(1, before._learned_from) - 1) < _STALE
        ):
            self._moved, self._learned_from = before._moved, before._learned_from
        else:
            self._moved = space.fit(store)

    def _read(self, keys: Keys, read: Callable[[Keys], Floats], before: LayerSearch | None) -> Rows:
        """Read the rows of tracks that no index holds; those that were read before are taken from there."""
        values = np.empty((len(keys), self.dim), np.float32)
        new = np.ones(len(keys), bool)
        if before is not None and before._moved is self._moved:
            known = before._rest
            new = ~_among(keys, known.keys[known.order])
            values[~new] = known.unit(known.order[np.searchsorted(known.keys, keys[~new], sorter=known.order)])
        if new.any():
            raw = read(keys[new])
            raw /= Rows(keys[new], raw).lengths[:, None]  # as the rows of an index are scaled, bit for bit
            values[new] = raw
        return Rows(keys, values, np.ones(len(keys), np.float32))

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
        held = _among(keys, self._held)
        for index, mine in ((self._index, held), (self._scan, ~held)):
            if index is not None and mine.any():
                order = index.rows.order
                out[mine] = index.rows.unit(order[np.searchsorted(index.rows.keys, keys[mine], sorter=order)])
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
            allowed = allowed[_among(allowed, self.keys)]
            if len(allowed) <= BLOCK:
                return self._compare(queries, k, allowed)
        if not len(self._held):
            return self._look(self._scan, queries, k, allowed)
        found = self._look(self._index, queries, k, allowed)
        return found if not len(self._rest) else _join([found, self._look(self._scan, queries, k, allowed)], k)

    def _look(self, index: Any, queries: Floats, k: int, allowed: Keys | None) -> Neighbors:
        """Search one part.

        Where rows must not be found, ask for as many more as that takes on average, then for many more, then compare the others.
        """
        n, held = len(index.rows), len(self._held) if index is self._index else len(index.rows)
        if allowed is None and held == n:
            found: Neighbors = index.search(queries, k)
            return found
        share = held / n * (1 if allowed is None else len(allowed) / len(self.keys))
        for count in (16 + int(2 * k / share), 64 + int(16 * k / share)):
            if count > n // 2:
                break
            found = index.search(queries, count)
            valid = found.keys >= 0
            if index is self._index:
                valid &= _among(found.keys, self._held)
            if allowed is not None:
                valid &= _among(found.keys, allowed)
            if (valid.sum(axis=1) >= k).all():
                return _join([Neighbors(np.where(valid, found.keys, -1), found.scores)], k)
        own = self._held if index is self._index else index.rows.keys[index.rows.order]
        return self._compare(queries, k, own if allowed is None else own[_among(own, allowed)])

    def _compare(self, queries: Floats, k: int, keys: Keys) -> Neighbors:
        """Compare some tracks one by one, a block in memory at a time."""
        best: Neighbors | None = None
        for start in range(0, max(1, len(keys)), 4 * BLOCK):
            some = keys[start : start + 4 * BLOCK]
            found = ExactIndex(Rows(some, self.vectors(some), np.ones(len(some), np.float32))).search(queries, k)
            best = found if best is None else _join([best, found], k)
        return best  # type: ignore[return-value]


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
