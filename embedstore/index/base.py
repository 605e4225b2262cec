"""What every index kind promises, and the arithmetic that makes them agree.

Similarity is the cosine. A vector of zeros has no direction: it scores 0 with everything. Equal scores are ordered by the
smaller key. However a kind finds its candidates, `Ranked` computes the scores, so kinds that find the same rows return
the same numbers in the same order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import IndexFormatError, ParameterError
from embedstore.types import Floats, Keys, LayerMatrix, Neighbors

__all__ = ["MARGIN", "Index", "Ranked", "best", "unit"]

MARGIN = 2e-5  # more than a float32 product of unit vectors can be off: rows this near to the k-th best are all ranked
_BLOCK = 4096  # rows that are ranked at once
Positions = NDArray[np.int64]


class Index(Protocol):
    """An index over the rows of one layer.

    Attributes
    ----------
    approximate : bool
        Whether it may miss neighbours.
    keys : int64 array, shape (n,)
        The keys of its rows.
    dim : int
        Width of a row.
    params : mapping
        Plain data that describes it, e.g. ``{"factory": "IDMap2,Flat"}``; `load` gets it back.
    """

    approximate: ClassVar[bool]
    keys: Keys
    dim: int
    params: Mapping[str, Any]

    @classmethod
    def build(cls, matrix: LayerMatrix, *, seed: int = 0) -> Self:
        """Index all rows of a matrix; each key occurs once."""
        ...

    def search(self, queries: Floats, k: int) -> Neighbors:
        """Find the k nearest rows of each query, shape (n_queries, dim); see `Neighbors`."""
        ...

    def save(self, file: BinaryIO) -> None:
        """Write everything that `load` needs."""
        ...

    @classmethod
    def load(cls, file: BinaryIO, params: Mapping[str, Any]) -> Self:
        """Read what `save` wrote; raises `IndexFormatError` for anything else."""
        ...

    def __len__(self) -> int:
        """Count the rows."""
        ...


def unit(values: Floats) -> Floats:
    """Scale rows to length 1 in float32; zeros stay zeros, and rows that have length 1 stay as they are, bit for bit.

    >>> unit(np.array([[3, 4], [0, 0]], np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    values = np.ascontiguousarray(values, np.float32)
    scaled = np.empty_like(values)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        lengths = np.sqrt(np.square(block, dtype=np.float64).sum(axis=1, keepdims=True))
        lengths[(lengths == 0) | (np.abs(lengths - 1) < 1e-6)] = 1
        scaled[start : start + _BLOCK] = block / lengths
    return scaled


def best(keys: Keys, scores: Floats, k: int) -> tuple[Keys, Floats]:
    """Keep the k best of one query's candidates, in order; missing ones are key -1, score -inf."""
    order = np.lexsort((keys, -scores))[:k]
    missing = (0, k - len(order))
    return np.pad(keys[order], missing, constant_values=-1), np.pad(scores[order], missing, constant_values=-np.inf)


class Ranked:
    """The part of a search that all our kinds share: check, take candidates, score them exactly, order them.

    Parameters
    ----------
    keys : int64 array, shape (n,)
    dim : int
    """

    def __init__(self, keys: Keys, dim: int) -> None:
        if len(np.unique(keys)) != len(keys):
            raise ParameterError(f"an index holds each key once; {len(keys)} rows share {len(np.unique(keys))} keys")
        self.keys, self.dim = keys, dim

    def __len__(self) -> int:
        return len(self.keys)

    def search(self, queries: Floats, k: int) -> Neighbors:
        """Find the k nearest rows of each query, shape (n_queries, dim).

        Raises
        ------
        ParameterError
            `k` < 1, a wrong shape, or values that are not finite.
        """
        if k < 1:
            raise ParameterError(f"k must be at least 1; got {k}")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ParameterError(f"queries have shape (n_queries, {self.dim}); got {queries.shape}")
        if not np.isfinite(queries).all():
            raise ParameterError("a query holds values that are not finite")
        queries = unit(queries)
        keys, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        alike = ~queries.any(axis=1) if len(self) else np.ones(len(queries), bool)
        if alike.any():  # queries of zeros, or no rows
            keys[alike], scores[alike] = best(self.keys, np.zeros(len(self), np.float32), k)
        candidates = iter(()) if alike.all() else self._candidates(queries[~alike], min(k, len(self)))
        for row, positions in zip(np.flatnonzero(~alike), candidates, strict=True):
            keys[row], scores[row] = best(self.keys[positions], self._scores(queries[row], positions), k)
        return Neighbors(keys, scores)

    def _scores(self, query: Floats, candidates: Positions) -> Floats:
        # products in float64, then a sum along each row: the result does not depend on which rows stand beside it
        wide, scores = query.astype(np.float64), np.empty(len(candidates), np.float32)
        for start in range(0, len(candidates), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores[part] = (self._rows(candidates[part]) * wide).sum(axis=1)
        if not np.isfinite(scores).all():
            raise IndexFormatError("an index holds rows that are not finite; build it again with 'embedstore index'")
        return scores.clip(-1, 1)

    @abstractmethod
    def _candidates(self, queries: Floats, k: int) -> Iterator[Positions]:
        """Yield the positions of each query's k best rows and of those within `MARGIN` of the k-th; 1 <= k <= n."""

    @abstractmethod
    def _rows(self, positions: Positions) -> Floats:
        """Get rows of length 1 (or 0), shape (len(positions), dim)."""
