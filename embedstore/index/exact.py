"""The exact kind: matrix products, block by block. What search does where no index is, and what the others are tested against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from embedstore.index.base import MARGIN, Goal, Ranked
from embedstore.index.rows import Positions, Rows
from embedstore.types import Floats

__all__ = ["ExactIndex"]

_QUERIES = 256  # at once: 4 MB of scores


class ExactIndex(Ranked):
    """Compares a query with every row. It needs no file but the rows.

    >>> index = ExactIndex(Rows(np.array([7, 8]), np.eye(2, dtype=np.float32)))
    >>> index.search(np.array([[1, 0.1]], np.float32), 1).keys
    array([[7]])
    """

    approximate: ClassVar[bool] = False

    @classmethod
    def build(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Self:  # noqa: ARG003 - nothing to choose
        """Nothing is left to do."""
        return cls.load(rows, folder, {})

    @classmethod
    def load(cls, rows: Rows, folder: Path, params: Mapping[str, Any]) -> Self:  # noqa: ARG003 - no file, no parameter
        """Take the rows, into memory."""
        return cls(rows.held())

    def extend(self, rows: Rows, folder: Path, *, goal: Goal) -> Self:  # noqa: ARG002 - nothing to choose
        """Take more rows."""
        return self.load(rows, folder, {})

    def _candidates(self, queries: Floats, k: int) -> Iterator[Positions]:
        for start in range(0, len(queries), _QUERIES):
            some = queries[start : start + _QUERIES]
            owner, position = self._nearest(some, k)
            yield from np.split(position, np.cumsum(np.bincount(owner, minlength=len(some)))[:-1])

    def _nearest(self, queries: Floats, k: int) -> tuple[Positions, Positions]:
        """Find the k best rows, and what is near to the k-th: pairs of query and position, by query."""
        floor: Floats = np.full(len(queries), -np.inf, np.float32)
        owner, position, score = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        for start, block in self.rows.blocks():
            scores = queries @ block.T
            if start == 0 and len(block) >= k:
                floor = np.partition(scores, -k, axis=1)[:, -k] - np.float32(MARGIN)
            hits = np.nonzero(scores >= floor[:, None])
            owner, position = np.append(owner, hits[0]), np.append(position, hits[1] + start)
            owner, position, score, floor = _keep(owner, position, np.append(score, scores[hits]), len(queries), k)
        return owner, position


def _keep(
    owner: Positions, position: Positions, score: Floats, queries: int, k: int
) -> tuple[Positions, Positions, Floats, Floats]:
    """Drop what is below a query's k-th best so far; the last result is that floor, -inf where there are fewer."""
    order = np.lexsort((-score, owner))
    owner, position, score = owner[order], position[order], score[order]
    counts = np.bincount(owner, minlength=queries)
    last = np.cumsum(counts) - counts + k - 1
    floor = np.full(queries, -np.inf, np.float32)
    enough = counts >= k
    floor[enough] = score[last[enough]] - np.float32(MARGIN)
    kept = score >= floor[owner]
    return owner[kept], position[kept], score[kept], floor
