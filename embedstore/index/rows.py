"""The vectors that an index answers for, in memory or memory-mapped from a file beside it.

Every kind finds candidates in its own way and then asks `Rows` for their true vectors, so an index may hold a hundred bytes a
track in memory while the vectors themselves stay on disk.

The file: the magic, then n, dim and the bytes of a value (int64), up to byte 64; n x dim values (float16 or float32); n keys
(int64); n lengths (float32): all little-endian.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import IndexFormatError, ParameterError
from embedstore.store.disk import plain_file
from embedstore.types import Floats, Keys, LayerMatrix

__all__ = ["BLOCK", "LET_GO", "Positions", "Rows", "unit", "write_rows"]

BLOCK = 4096  # rows that are read at once
Positions = NDArray[np.int64]
_MAGIC, _HEAD = b"embedstore rows 1\n", 64
_TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<f2"), 4: np.dtype("<f4")}
LET_GO = 32  # blocks read, after which mapped pages are given back
_LONGEST, _LARGEST = 2**20, 2**50  # values in a row, bytes of a file


def unit(values: Floats) -> Floats:
    """Scale rows to length 1 in float32; zeros stay zeros, and rows that have length 1 stay as they are, bit for bit.

    >>> unit(np.array([[3, 4], [0, 0]], np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    values = np.ascontiguousarray(values, np.float32)
    scaled = np.empty_like(values)
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        scaled[start : start + BLOCK] = block / _lengths(block)[:, None]
    return scaled


def _lengths(block: Floats) -> NDArray[np.float64]:
    """Give what rows are divided by: their lengths, but 1 for zeros and for rows of length 1."""
    lengths: NDArray[np.float64] = np.sqrt(np.square(block, dtype=np.float64).sum(axis=1))
    lengths[(lengths == 0) | (np.abs(lengths - 1) < 1e-6)] = 1
    return lengths


def _wide(values: NDArray[Any]) -> Floats:
    """Turn float16 into float32, by their bits: the numbers that NumPy gives, in a sixth of its time.

    >>> _wide(np.array([1.5, -6e-8, np.inf], np.float16)).tolist()
    [1.5, -5.960464477539063e-08, inf]
    """
    if values.dtype != np.float16 or (values.view(np.int16) & 0x7FFF).max(initial=0) >= 0x7C00:  # not finite
        return np.ascontiguousarray(values, np.float32)
    bits = values.view(np.int16).astype(np.int32, order="C")
    bits <<= 13  # the sign is carried up to the top bit, and stays there
    bits &= np.int32(-0x70002000)
    wide: Floats = bits.view(np.float32)
    wide *= np.float32(2**112)  # 2^(127 - 15), the difference of the exponents' offsets
    return wide


class Rows:
    """Vectors by position, each with the key of its track.

    Parameters
    ----------
    keys : int64 array, shape (n,)
        Each once; `order` sorts them.
    values : float16 or float32 array, shape (n, dim)
        Of any length; may be memory-mapped.
    lengths : float32 array, shape (n,), optional
        Lengths of the rows (1 for zeros), if they are known.

    Raises
    ------
    ParameterError
        A key occurs twice, or the shapes do not fit.

    Examples
    --------
    >>> rows = Rows(np.array([7, 8]), np.array([[3, 4], [0, 2]], np.float16))
    >>> rows.unit(np.array([1, 0])).tolist()
    [[0.0, 1.0], [0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, keys: Keys, values: NDArray[Any], lengths: Floats | None = None) -> None:
        if values.ndim != 2 or len(keys) != len(values):
            raise ParameterError(f"one key per row: got keys {keys.shape}, values {values.shape}")
        self.keys, self.values, self.order = keys, values, np.argsort(keys)
        repeated = np.count_nonzero(np.diff(keys[self.order]) == 0)
        if repeated:
            raise ParameterError(f"an index holds each key once; {len(keys)} rows share {len(keys) - repeated} keys")
        if lengths is None:
            parts = [_lengths(block).astype(np.float32) for _, block in self._raw(BLOCK)]
            lengths = np.concatenate([np.empty(0, np.float32), *parts])
        self.lengths: Floats = lengths

    @classmethod
    def of(cls, matrix: LayerMatrix) -> Self:
        """Take one layer of many tracks."""
        return cls(matrix.keys, matrix.values)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Rows({self.values.dtype} {self.values.shape})"

    def unit(self, positions: Positions) -> Floats:
        """Read some rows, scaled to length 1 (zeros stay zeros), shape (len(positions), dim)."""
        block = _wide(self.values[positions])
        block /= self.lengths[positions, None]
        return block

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Floats]]:
        """Read all rows in order, scaled likewise: the position of the first, and up to `size` of them at a time."""
        for start, block in self._raw(size):
            lengths = self.lengths[start : start + size]
            yield start, block if (lengths == 1).all() else block / lengths[:, None]

    def _raw(self, size: int) -> Iterator[tuple[int, Floats]]:
        for number, start in enumerate(range(0, len(self), size), 1):
            yield start, _wide(self.values[start : start + size])
            if number % LET_GO == 0:
                self.let_go()

    def let_go(self) -> None:
        """Give back the mapped pages that were read, which count as memory of this process; they are read again when needed."""
        mapped: Any = getattr(self.values, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def sample(self, count: int, seed: int = 0) -> Positions:
        """Choose up to `count` positions by chance, in order; the same for the same seed."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return np.sort(chosen)

    def take(self, positions: Positions) -> Rows:
        """Copy some rows into memory."""
        return Rows(self.keys[positions], self.values[positions], self.lengths[positions])

    def held(self) -> Rows:
        """Copy all rows into memory, scaled to length 1 as float32: 4 x n x dim bytes.

        Raises
        ------
        IndexFormatError
            A value is not finite.
        """
        values = np.empty(self.values.shape, np.float32)
        for start, block in self.blocks():
            if not np.isfinite(block).all():
                raise IndexFormatError("it holds values that are not finite")
            values[start : start + len(block)] = block
        return Rows(self.keys, values, np.ones(len(self), np.float32))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map a file that `write_rows` wrote.

        Raises
        ------
        IndexFormatError
            It is not one, or holds lengths that are not finite.
        """
        try:
            with plain_file(path, _LARGEST) as file:
                head, size = file.read(_HEAD), os.fstat(file.fileno()).st_size
                n, dim, width = np.frombuffer(head[-24:], "<i8").tolist() if len(head) == _HEAD else (-1, -1, -1)
                right = 0 <= n < 2**40 and 0 < dim <= _LONGEST and width in _TYPES and head == _header(n, dim, width)
                if not right or size != _HEAD + n * (dim * width + 12):
                    raise IndexFormatError(f"{path.name} does not hold the rows that its first bytes promise")
                file.seek(_HEAD + n * dim * width)
                keys = np.frombuffer(file.read(8 * n), "<i8").astype(np.int64, copy=False)
                lengths = np.frombuffer(file.read(4 * n), "<f4").astype(np.float32, copy=False)
                shape: tuple[int, int] = (n, dim)
                values = np.memmap(file, _TYPES[width], "r", _HEAD, shape) if n else np.empty(shape, _TYPES[width])
            if not (np.isfinite(lengths) & (lengths > 0)).all():
                raise IndexFormatError(f"{path.name} holds lengths that are not above 0")
            return cls(keys, values, lengths)
        except (OSError, ParameterError) as error:
            raise IndexFormatError(f"{path.name} cannot be used: {error}") from error


def _header(n: int, dim: int, width: int) -> bytes:
    return _MAGIC.ljust(_HEAD - 24, b"\0") + np.array([n, dim, width], "<i8").tobytes()


def write_rows(path: Path, keys: Keys, dim: int, blocks: Iterable[NDArray[Any]], *, half: bool) -> None:
    """Write a file of rows, one block in memory at a time.

    Parameters
    ----------
    path : Path
        A new file.
    keys : int64 array, shape (n,)
    dim : int
    blocks : iterable of array, shape (m, dim)
        Their vectors, in order.
    half : bool
        Whether float16 holds them exactly.

    Raises
    ------
    OSError
        The disk refused.
    """
    width = 2 if half else 4
    lengths = [np.empty(0, np.float32)]
    with path.open("xb") as file:
        file.write(_header(len(keys), dim, width))
        for block in blocks:
            lengths.append(_lengths(block.astype(np.float32, copy=False)).astype(np.float32))
            file.write(np.ascontiguousarray(block, _TYPES[width]).tobytes())
        file.writelines([keys.astype("<i8").tobytes(), np.concatenate(lengths).astype("<f4").tobytes()])
