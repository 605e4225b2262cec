"""The FAISS kinds: flat (exact, FAISS's own scan) and ivf (only the nearest of about 4 sqrt(n) cells are looked at)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

from embedstore.errors import IndexFormatError
from embedstore.index.base import MARGIN, Positions, Ranked, unit
from embedstore.index.exact import ExactIndex
from embedstore.registry import require
from embedstore.types import Floats, LayerMatrix

faiss: Any = require("faiss", "pip install faiss-cpu")

__all__ = ["FlatIndex", "IvfIndex"]

_TARGET = 0.995  # recall@10 that nprobe is tuned to on some rows, so that others see 0.99
_TUNED_ON = 500


class _FaissIndex(Ranked):
    """An inner-product index behind an id map."""

    tag: ClassVar[bytes]
    params: Mapping[str, Any]

    def __init__(self, index: Any, params: Mapping[str, Any]) -> None:
        super().__init__(faiss.vector_to_array(index.id_map), index.d)
        self.params = params
        self._whole, self._inner = index, faiss.downcast_index(index.index)

    def _fetch(self, queries: Floats, count: int, *, everywhere: bool = False) -> tuple[Floats, Positions]:  # noqa: ARG002
        """Ask FAISS: scores and positions, shape (n_queries, count), position -1 where it found nothing more."""
        scores, positions = self._inner.search(queries, count)
        return scores, positions

    def _candidates(self, queries: Floats, k: int) -> Iterator[Positions]:
        count = min(k + 8, len(self))
        for i, found in enumerate(zip(*self._fetch(queries, count), strict=True)):
            yield self._widen(queries[i : i + 1], k, *found)

    def _widen(self, query: Floats, k: int, scores: Floats, positions: Positions) -> Positions:
        """Ask for more until there are k rows, and none beyond the last could belong among the k best."""
        everywhere = bool(positions[k - 1] < 0)
        if everywhere:
            scores, positions = (a[0] for a in self._fetch(query, len(positions), everywhere=True))
        while positions[-1] >= 0 and len(positions) < len(self) and scores[-1] >= scores[k - 1] - MARGIN:
            count = min(4 * len(positions), len(self))
            scores, positions = (a[0] for a in self._fetch(query, count, everywhere=everywhere))
        return positions[positions >= 0]

    def _rows(self, positions: Positions) -> Floats:
        rows: Floats = self._inner.reconstruct_batch(positions)
        return rows

    def save(self, file: BinaryIO) -> None:
        """Write FAISS's own format."""
        faiss.write_index(self._whole, faiss.PyCallbackIOWriter(file.write))

    @classmethod
    def load(cls, file: BinaryIO, params: Mapping[str, Any]) -> Self:
        """Read what `save` wrote.

        FAISS's reader believes sizes, and opens files that are named in what it reads. So it is shown only bytes that differ
        from ours in nothing but values.
        """
        size = _Layout(file, cls.tag).check()
        file.seek(0)
        limit = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        try:
            index = faiss.read_index(faiss.PyCallbackIOReader(file.read))
        except (RuntimeError, MemoryError) as error:
            raise IndexFormatError(f"FAISS cannot read the index: {' '.join(str(error).split())[:200]}") from error
        finally:
            faiss.set_deserialization_vector_byte_limit(limit)
        inner = faiss.downcast_index(index.index)
        if (
            inner.metric_type != faiss.METRIC_INNER_PRODUCT
            or index.id_map.size() != inner.ntotal
            or not inner.is_trained
        ):
            raise IndexFormatError("the index is not a trained inner-product index with one key for each row")
        return cls(index, params)


class FlatIndex(_FaissIndex):
    """Compares a query with every row, in FAISS."""

    approximate: ClassVar[bool] = False
    tag: ClassVar[bytes] = b"IxFI"

    @classmethod
    def build(cls, matrix: LayerMatrix, *, seed: int = 0) -> Self:  # noqa: ARG003 - nothing here is random
        """Copy all rows."""
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(matrix.values.shape[1]))
        index.add_with_ids(unit(matrix.values), matrix.keys)
        return cls(index, {"factory": "IDMap2,Flat", "faiss": faiss.__version__})


class IvfIndex(_FaissIndex):
    """Looks only into the `nprobe` cells whose centres are nearest to the query."""

    approximate: ClassVar[bool] = True
    tag: ClassVar[bytes] = b"IwFl"

    def __init__(self, index: Any, params: Mapping[str, Any]) -> None:
        super().__init__(index, params)
        nprobe = params.get("nprobe")
        if type(nprobe) is not int or not 1 <= nprobe <= self._inner.nlist:
            raise IndexFormatError(f"nprobe must be 1..{self._inner.nlist}; found {nprobe!r}")
        self._inner.set_direct_map_type(faiss.DirectMap.NoMap)  # what was read may point anywhere
        try:
            self._inner.make_direct_map()
        except RuntimeError as error:
            raise IndexFormatError("its cells hold rows that it does not have") from error
        if (faiss.vector_to_array(self._inner.direct_map.array) < 0).any():
            raise IndexFormatError("its cells hold a row twice, and another never")

    @classmethod
    def build(cls, matrix: LayerMatrix, *, seed: int = 0) -> Self:
        """Cut the sphere into cells and look how many of them ten true neighbours lie in."""
        rows = unit(matrix.values)
        n, dim = rows.shape
        nlist = int(max(1, min(4 * n**0.5, n // 39)))  # 39: the fewest training rows per cell that FAISS recommends
        cells = faiss.IndexFlatIP(dim)
        inner = faiss.IndexIVFFlat(cells, dim, nlist, faiss.METRIC_INNER_PRODUCT)
        inner.cp.seed, inner.cp.spherical, inner.cp.min_points_per_centroid = 1 + seed % 2**30, True, 1
        inner.train(rows if n else np.zeros((1, dim), np.float32))
        index = faiss.IndexIDMap2(inner)
        index.add_with_ids(rows, matrix.keys)
        nprobe = _tune(cells, LayerMatrix(matrix.layer, matrix.name, np.arange(n), rows), seed)
        return cls(index, {"factory": f"IDMap2,IVF{nlist},Flat", "nprobe": nprobe, "faiss": faiss.__version__})

    def _fetch(self, queries: Floats, count: int, *, everywhere: bool = False) -> tuple[Floats, Positions]:
        nprobe = self._inner.nlist if everywhere else self.params["nprobe"]
        scores, positions = self._inner.search(queries, count, params=faiss.SearchParametersIVF(nprobe=nprobe))
        return scores, positions


class _Layout:
    """Walks through the file of an index, where everything but vectors, keys and the sizes of cells is known beforehand."""

    def __init__(self, file: BinaryIO, tag: bytes) -> None:
        self._file, self._tag, self._size = file, tag, file.seek(0, 2)

    def check(self) -> int:
        """Refuse another layout; else give the number of bytes."""
        self._file.seek(4)
        dim, rows = struct.unpack("<iq", self._file.read(12).ljust(12, b"\0"))
        self._file.seek(0)
        self._expect(b"IxM2", dim, rows)
        if self._tag == IvfIndex.tag:
            self._cells(dim, rows)
        else:
            self._flat(dim, rows)
        self._numbers(rows)
        self._skip(8 * rows)
        if self._file.tell() != self._size:
            raise self._other()
        return self._size

    def _cells(self, dim: int, rows: int) -> None:
        self._expect(b"IwFl", dim, rows)
        nlist, _ = struct.unpack("<qq", self._take(16))
        self._flat(dim, nlist)
        self._expect(b"\1")
        self._numbers(rows)
        self._skip(8 * rows)  # made again from the cells
        self._expect(b"ilar")
        self._numbers(nlist, 4 * dim)
        if self._take(4) == b"full":
            self._numbers(nlist)
            sizes = self._array(nlist)
        else:  # most cells are empty: the number and the size of each other one
            self._file.seek(-4, 1)
            self._expect(b"sprs")
            (count,) = struct.unpack("<q", self._take(8))
            cells, sizes = self._array(count).reshape(-1, 2).T if count % 2 == 0 else (np.array([-1]), np.array([-1]))
            if not (np.diff(cells, prepend=-1, append=nlist) > 0).all():
                raise self._other()
        if (sizes < 0).any() or (sizes > rows).any() or sum(sizes.tolist()) != rows:
            raise self._other()
        for count in sizes.tolist():
            self._floats(dim * count)
            self._skip(8 * count)

    def _flat(self, dim: int, rows: int) -> None:
        self._expect(b"IxFI", dim, rows)
        self._numbers(dim * rows)
        self._floats(dim * rows)

    def _expect(self, tag: bytes, *shape: int) -> None:
        """Find a tag, and the header of an index of this dim and so many rows."""
        head = struct.pack("<iqqq?i", *shape, 2**20, 2**20, True, faiss.METRIC_INNER_PRODUCT) if shape else b""
        if self._take(len(tag) + len(head)) != tag + head:
            raise self._other()

    def _numbers(self, *values: int) -> None:
        if self._array(len(values)).tolist() != [*values]:
            raise self._other()

    def _array(self, count: int) -> Positions:
        return np.frombuffer(self._take(8 * count), "<i8")

    def _floats(self, count: int) -> None:
        """Pass vectors, which are finite: +inf is 0x7F800000, -inf 0xFF800000, and every nan above one of them."""
        end = self._file.tell() + 4 * count
        self._skip(4 * count)
        for start in range(end - 4 * count, end, 2**22):
            self._file.seek(start)
            bits = np.frombuffer(self._file.read(min(2**22, end - start)), "<i4")
            if bits.max() >= 0x7F800000 or bits.view("<u4").max() >= 0xFF800000:
                raise IndexFormatError("it holds values that are not finite")
        self._file.seek(end)

    def _take(self, count: int) -> bytes:
        self._skip(count)
        self._file.seek(-count, 1)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        if not 0 <= count <= self._size - self._file.tell():
            raise self._other()
        self._file.seek(count, 1)

    def _other(self) -> IndexFormatError:
        return IndexFormatError(
            f"these bytes are not an id map over {self._tag!r} as this version writes it (at {self._file.tell()})"
        )


def _tune(cells: Any, matrix: LayerMatrix, seed: int) -> int:
    """Find the smallest nprobe that reaches the target: for each true neighbour, the rank of its cell for its query."""
    n = len(matrix)
    if n < 2:
        return 1
    rows = np.random.default_rng(seed).permutation(n)[:_TUNED_ON]
    queries = matrix.values[rows]
    found = ExactIndex.build(matrix).search(queries, 11).keys
    true = [
        neighbours[(neighbours != row) & (neighbours >= 0)][:10] for row, neighbours in zip(rows, found, strict=True)
    ]
    ranking = cells.search(queries, cells.ntotal)[1].argsort(axis=1)  # ranking[q, cell]: how soon q visits it
    home = cells.search(matrix.values[np.concatenate(true)], 1)[1][:, 0]
    visits = np.sort(np.repeat(ranking, [len(t) for t in true], axis=0)[np.arange(len(home)), home])
    return int(visits[int(np.ceil(_TARGET * len(visits))) - 1]) + 1
