"""What every index kind promises, and the arithmetic that makes them agree.

Similarity is the cosine. A vector of zeros has no direction: it scores 0 with everything. Equal scores are ordered by the
smaller key. However a kind finds its candidates, `Ranked` computes the scores, so kinds that find the same rows return
the same numbers in the same order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from embedstore.errors import IndexFormatError, ParameterError
from embedstore.index.rows import BLOCK, Positions, Rows, unit
from embedstore.types import Floats, Keys, Neighbors

__all__ = ["MARGIN", "Goal", "Index", "Ranked", "best"]

MARGIN = 2e-5  # more than a float32 product of unit vectors can be off: rows this near to the k-th best are all ranked


@dataclass(frozen=True)
class Goal:
    """What an approximate index is tuned to.

    Attributes
    ----------
    recall : float
        Share of the ten true neighbours that it should find, above 0, at most 1.
    memory : int
        Bytes that it may hold in memory, without the memory-mapped rows.

    Raises
    ------
    ParameterError
        Not such numbers.
    """

    recall: float = 0.99
    memory: int = 2**30

    def __post_init__(self) -> None:
        object.__setattr__(self, "recall", float(self.recall))
        if not 0 < self.recall <= 1:
            raise ParameterError(f"the wanted recall is above 0 and at most 1; got {self.recall}")
        if self.memory < 1:
            raise ParameterError(f"an index needs some bytes of memory; got {self.memory}")


class Index(Protocol):
    """An index over rows.

    A kind may also have ``extend(rows, folder, *, goal) -> Self``, which writes, for rows whose first ``len(self)`` are its own, an index
    that knows the others too, without learning anew. What has none is built again instead.

    Attributes
    ----------
    approximate : bool
        Whether it may miss neighbours.
    rows : Rows
        What it answers for.
    params : mapping
        Plain data that describes it, e.g. ``{"factory": "IVF64,SQfp16", "nprobe": 8}``; `load` gets it back.
    """

    approximate: ClassVar[bool]
    rows: Rows
    params: Mapping[str, Any]

    @classmethod
    def build(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Self:
        """Index all rows; leave everything that `load` needs besides them as plain files in a folder."""
        ...

    @classmethod
    def load(cls, rows: Rows, folder: Path, params: Mapping[str, Any]) -> Self:
        """Read what `build` left; raises `IndexFormatError` for anything else."""
        ...

    def search(self, queries: Floats, k: int) -> Neighbors:
        """Find the k nearest rows of each query, shape (n_queries, dim); see `Neighbors`."""
        ...


def best(keys: Keys, scores: Floats, k: int) -> tuple[Keys, Floats]:
    """Keep the k best of one query's candidates, in order; missing ones are key -1, score -inf."""
    order = np.lexsort((keys, -scores))[:k]
    missing = (0, k - len(order))
    return np.pad(keys[order], missing, constant_values=-1), np.pad(scores[order], missing, constant_values=-np.inf)


class Ranked:
    """The part of a search that all our kinds share: check, take candidates, score them exactly, order them.

    Parameters
    ----------
    rows : Rows
    params : mapping
    """

    def __init__(self, rows: Rows, params: Mapping[str, Any] | None = None) -> None:
        self.rows, self.params = rows, params or {}

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, queries: Floats, k: int) -> Neighbors:
        """Find the k nearest rows of each query, shape (n_queries, dim).

        Raises
        ------
        ParameterError
            `k` < 1, a wrong shape, or values that are not finite.
        """
        if k < 1:
            raise ParameterError(f"k must be at least 1; got {k}")
        if queries.ndim != 2 or queries.shape[1] != self.rows.dim:
            raise ParameterError(f"queries have shape (n_queries, {self.rows.dim}); got {queries.shape}")
        if not np.isfinite(queries).all():
            raise ParameterError("a query holds values that are not finite")
        queries = unit(queries)
        keys, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        alike = ~queries.any(axis=1) if len(self) else np.ones(len(queries), bool)
        if alike.any():  # queries of zeros, or no rows
            keys[alike], scores[alike] = best(self.rows.keys, np.zeros(len(self), np.float32), k)
        candidates = iter(()) if alike.all() else self._candidates(queries[~alike], min(k, len(self)))
        for row, positions in zip(np.flatnonzero(~alike), candidates, strict=True):
            keys[row], scores[row] = self._rank(queries[row], positions, k)
        return Neighbors(keys, scores)

    def _rank(self, query: Floats, positions: Positions, k: int) -> tuple[Keys, Floats]:
        """Score candidates and keep the k best of them."""
        parts = [positions[start : start + BLOCK] for start in range(0, len(positions), BLOCK)]
        rough = np.concatenate([np.empty(0, np.float32), *(self.rows.unit(part) @ query for part in parts)])
        if not np.isfinite(rough).all():
            raise IndexFormatError("an index holds rows that are not finite; build it again with 'embedstore index'")
        if k < len(rough):
            positions = positions[rough >= np.partition(rough, -k)[-k] - MARGIN]
        # products in float64, then a sum along each row: the result does not depend on which rows stand beside it
        wide, scores = query.astype(np.float64), np.empty(len(positions), np.float32)
        for start in range(0, len(positions), BLOCK):
            part = slice(start, start + BLOCK)
            scores[part] = (self.rows.unit(positions[part]) * wide).sum(axis=1)
        return best(self.rows.keys[positions], scores.clip(-1, 1), k)

    @abstractmethod
    def _candidates(self, queries: Floats, k: int) -> Iterator[Positions]:
        """Yield positions for each query (of length 1), each once; 1 <= k <= n.

        An exact kind yields at least the k best rows and those within `MARGIN` of the k-th; an approximate one at least k.
        """
