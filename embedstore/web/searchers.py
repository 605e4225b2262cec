"""One searcher for each layer that is asked for."""

from __future__ import annotations

import threading

from embedstore.search import Searcher

__all__ = ["Searchers"]

_MEMORY = 2**31  # bytes that the vectors of layers other than the service's own may take


class Searchers:
    """Searchers of all layers of a store: opened when first asked for, and the few that were used last are kept.

    Parameters
    ----------
    default : Searcher
        Of the layer that the service was started with; it is kept for good, and the caller closes it.

    Attributes
    ----------
    default : Searcher
    store : EmbeddingStore
    """

    def __init__(self, default: Searcher) -> None:
        self.default, self.store = default, default.store
        self._widest = max(layer.dim for layer in self.store.card.layers)
        self._lock, self._opened = threading.Lock(), dict[int | str | None, Searcher]()  # those used last are last

    def of(self, layer: int | str | None = None) -> Searcher:
        """Give the searcher of a layer, by its number or name or ``"mean"``; of none, the default.

        Raises
        ------
        UnknownNameError
            Lists the layers there are.
        ParameterError
            A mean over layers of different widths.
        """
        if layer not in (None, "mean"):
            layer = self.store.card.layer(layer).number
        if layer in (None, self.default.layer):
            return self.default
        with self._lock:  # else two would read the same layer
            found = self._opened.pop(layer, None)
            self._opened[layer] = found = self.default.beside(layer) if found is None else found
            most = max(1, _MEMORY // (4 * self._widest * max(1, len(self.store))))
            while len(self._opened) > most:
                del self._opened[next(iter(self._opened))]
            return found
