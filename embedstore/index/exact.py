"""The exact kind: one matrix product. What search does where no index is, and what the others are tested against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

from embedstore.errors import IndexFormatError
from embedstore.index.base import MARGIN, Positions, Ranked, unit
from embedstore.types import Floats, Keys, LayerMatrix

__all__ = ["ExactIndex"]

_AT_ONCE = 2**25  # scores held in memory


class ExactIndex(Ranked):
    """Compares a query with every row.

    Its file: the numbers n and dim, the n keys (int64), the n x dim values (float32), all little-endian.

    >>> index = ExactIndex.build(LayerMatrix(0, "a", np.array([7, 8]), np.eye(2, dtype=np.float32)))
    >>> index.search(np.array([[1, 0.1]], np.float32), 1).keys
    array([[7]])
    """

    approximate: ClassVar[bool] = False

    def __init__(self, keys: Keys, values: Floats) -> None:
        super().__init__(keys, values.shape[1])
        self.params: Mapping[str, Any] = {}
        self._values = values

    @classmethod
    def build(cls, matrix: LayerMatrix, *, seed: int = 0) -> Self:  # noqa: ARG003 - nothing here is random
        """Keep all rows."""
        return cls(matrix.keys, unit(matrix.values))

    def _candidates(self, queries: Floats, k: int) -> Iterator[Positions]:
        step = max(1, _AT_ONCE // len(self))
        for start in range(0, len(queries), step):
            for scores in queries[start : start + step] @ self._values.T:
                yield np.flatnonzero(scores >= np.partition(scores, -k)[-k] - MARGIN)

    def _rows(self, positions: Positions) -> Floats:
        return self._values[positions]

    def save(self, file: BinaryIO) -> None:
        """Write the rows."""
        shape = np.array(self._values.shape, "<i8")
        file.writelines([shape.tobytes(), self.keys.astype("<i8").tobytes(), self._values.astype("<f4").tobytes()])

    @classmethod
    def load(cls, file: BinaryIO, params: Mapping[str, Any]) -> Self:  # noqa: ARG003 - it has none
        """Read what `save` wrote."""
        data = file.read()
        n, dim = np.frombuffer(data[:16], "<i8") if len(data) >= 16 else (-1, -1)
        if n < 0 or dim < 1 or len(data) != 16 + int(n) * (8 + 4 * int(dim)):
            raise IndexFormatError(f"{len(data)} bytes do not hold {n} keys and {n} x {dim} values")
        keys = np.frombuffer(data, "<i8", n, 16).astype(np.int64)
        values = np.frombuffer(data, "<f4", offset=16 + 8 * n).reshape(n, dim).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise IndexFormatError("it holds values that are not finite")
        return cls(keys, values)
