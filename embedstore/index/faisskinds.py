"""The FAISS kinds: flat (exact, FAISS's own scan) and ivf (only the nearest of about 4 sqrt(n) cells are looked at)."""

from __future__ import annotations

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
_HEADER = 37  # bytes before the tag of the index inside an id map


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
        """Read what `save` wrote; only ever called on bytes whose sum was checked.

        FAISS's reader believes what it reads, so it is shown only the one layout that we write.
        """
        head = file.read(_HEADER + 4)
        if head[:4] != b"IxM2" or head[_HEADER:] != cls.tag:
            raise IndexFormatError(f"these bytes are not an id map over {cls.tag!r}")
        size = file.seek(0, 2)
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
        self._inner.make_direct_map()

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
