"""One layer of a store, searchable as it is now: a saved index where one is usable, a scan of what it does not cover."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import IndexFormatError
from embedstore.index.base import Index, best, unit
from embedstore.index.exact import ExactIndex
from embedstore.index.saved import folders, label_of, layer_of, load_index, read_report
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Neighbors

__all__ = ["LayerSearch"]


class LayerSearch:
    """Finds the nearest stored tracks in one layer.

    The saved index that covers most tracks answers for the tracks whose rows lie in the shards it was built from; all other
    tracks are compared one by one, and what the store no longer holds is left out. So an index may be old, but an answer
    is not. Without a usable index every track is compared.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int or str, optional
        As `EmbeddingStore.layer` takes it.

    Attributes
    ----------
    layer : int or str
        Number of the layer, or ``"mean"``.
    notes : tuple of str
        Why an index was not used.
    """

    def __init__(self, store: EmbeddingStore, layer: int | str | None = None) -> None:
        label = label_of(store, layer)
        self.layer = layer_of(label)
        self.notes: tuple[str, ...] = ()
        self._index, self._held = self._choose(store, label)
        keys = store.keys()
        rest = keys[~_among(keys, self._held)]
        self._rest = ExactIndex(rest, unit(store.vectors(rest, layer)))

    def _choose(self, store: EmbeddingStore, label: str) -> tuple[Index | None, Keys]:
        """Take the index that covers most, with the keys it may answer for, in order."""
        usable = []
        for folder in folders(store, label):
            try:
                report = read_report(folder, store)
            except IndexFormatError as error:
                self._note(folder.name, error)
                continue
            covered = store.keys_in(report.shards)
            usable.append((len(covered), -report.latency_ms, report, covered))
        for count, _, report, covered in sorted(usable, key=lambda one: one[:2], reverse=True):
            if count:
                try:
                    index = load_index(report)
                except IndexFormatError as error:
                    self._note(f"{report.layer}-{report.kind}", error)
                else:
                    return index, np.intersect1d(covered, index.keys)
        return None, np.empty(0, np.int64)

    def _note(self, name: str, error: IndexFormatError) -> None:
        self.notes += (f"index {name} is not usable ({error}); build it again with 'embedstore index'",)

    def search(self, queries: Floats, k: int) -> Neighbors:
        """Find the k nearest tracks of each query, shape (n_queries, dim).

        Raises
        ------
        ParameterError
            As `Index.search`.
        """
        rest = self._rest.search(queries, k)
        if self._index is None:
            return rest
        dead = len(self._index) - len(self._held)  # rows that must not be returned: ask for as many more
        found = self._index.search(queries, k + dead)
        if not dead and not len(self._rest):
            return found
        keys, scores = rest.keys.copy(), rest.scores.copy()
        for i, valid in enumerate(_among(found.keys, self._held)):
            both = np.append(found.keys[i, valid], rest.keys[i]), np.append(found.scores[i, valid], rest.scores[i])
            keys[i], scores[i] = best(*both, k)
        return Neighbors(keys, scores)


def _among(keys: Keys, held: Keys) -> NDArray[np.bool_]:
    """Tell which keys are among the held ones, which are in order."""
    if not len(held):
        return np.zeros(keys.shape, bool)
    found: NDArray[np.bool_] = held[np.minimum(np.searchsorted(held, keys), len(held) - 1)] == keys
    return found
