"""The GPU kinds: the same structures on one GPU, for machines with faiss-gpu.

They are kept in the form of the CPU, so an index that was built on a GPU is searched without one where none is there. Building
needs one. FAISS's GPU structures answer one call at a time: threads take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np

from embedstore.errors import MissingDependencyError
from embedstore.index.base import Goal
from embedstore.index.faisskinds import FaissIndex, FlatIndex, faiss, made, train
from embedstore.index.rows import Positions, Rows
from embedstore.index.tune import most_cells
from embedstore.types import Floats

__all__ = ["GpuCagraIndex", "GpuFlatIndex", "GpuIvfIndex"]

_MOST = 2048  # neighbours that FAISS's GPU structures can be asked for, and cells that they can look into


class _OnGpu(FaissIndex):
    """Moves what it reads to the first GPU, if there is one."""

    install: ClassVar[str] = "pip uninstall faiss-cpu; pip install 'embedstore-mir[gpu]'"

    def __init__(self, rows: Rows, params: Mapping[str, Any], index: Any, folder: Path) -> None:
        self._lock, self._gpu = Lock(), self.gpu()
        if self._gpu is not None and len(rows):
            index = faiss.index_cpu_to_gpu(self._gpu, 0, index)
        super().__init__(rows, params, index, folder)

    @classmethod
    def gpu(cls) -> Any:
        """Give FAISS's memory on a GPU, or None."""
        return faiss.StandardGpuResources() if faiss.get_num_gpus() else None

    @classmethod
    def build(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Self:
        """Build on the GPU.

        Raises
        ------
        MissingDependencyError
            FAISS finds none.
        """
        if cls.gpu() is None:
            raise MissingDependencyError(
                f"FAISS finds no GPU that it can use for this kind; on a machine with one run: {cls.install}"
            )
        return super().build(rows, folder, goal=goal, seed=seed)

    def _fetch(self, queries: Floats, count: int) -> tuple[Floats, Positions]:
        if self._gpu is None:
            return super()._fetch(queries, count)
        with self._lock:
            scores, positions = self._ask(queries, min(count, _MOST))
        missing = ((0, 0), (0, count - positions.shape[1]))  # where k is among them, `_widen` takes all rows
        return np.pad(scores, missing, constant_values=-np.inf), np.pad(positions, missing, constant_values=-1)

    def _ask(self, queries: Floats, count: int) -> tuple[Floats, Positions]:
        scores, positions = self._index.search(queries, count)
        return scores, positions


class GpuFlatIndex(_OnGpu, FlatIndex):
    """Compares a query with every row, on the GPU."""

    def _widen(self, query: Floats, k: int, scores: Floats, positions: Positions) -> Positions:
        found = super()._widen(query, k, scores, positions)
        ties = len(found) == _MOST and len(self) > _MOST  # the GPU gives no more, and this kind misses nothing
        return np.arange(len(self)) if ties else found


class GpuIvfIndex(_OnGpu):
    """Looks only into the cells whose centres are nearest to the query, on the GPU; two bytes a value."""

    @classmethod
    def factory(cls, rows: Rows, goal: Goal) -> str:  # noqa: ARG003 - one form fits all
        """Cut the sphere into about 4 sqrt(n) cells."""
        return f"IVF{most_cells(len(rows), 4)},SQfp16"

    def __init__(self, rows: Rows, params: Mapping[str, Any], index: Any, folder: Path) -> None:
        index.nprobe = min(index.nprobe, _MOST)
        super().__init__(rows, params, index, folder)

    @classmethod
    def _structure(cls, text: str, rows: Rows, folder: Path, goal: Goal, seed: int) -> Any:
        index = made(text, rows.dim)
        memory = cls.gpu()
        flat = faiss.index_cpu_to_gpu(memory, 0, faiss.IndexFlatIP(rows.dim))
        index.clustering_index = flat
        train(index, rows, seed)
        index.clustering_index = None
        flat.this.own(True)  # else nobody would free it
        on_gpu = faiss.index_cpu_to_gpu(memory, 0, index)
        cls._fill(on_gpu, rows, folder, goal.memory)
        return faiss.index_gpu_to_cpu(on_gpu)


class GpuCagraIndex(_OnGpu):
    """Walks through a graph of near rows on the GPU (CAGRA, Ootomo et al. 2023), or through the same graph without one.

    The graph cannot grow, and while it is built all rows are in memory as float32.
    """

    install: ClassVar[str] = "conda install -c pytorch -c nvidia -c rapidsai -c conda-forge faiss-gpu-cuvs"
    extend = None  # type: ignore[assignment]

    @classmethod
    def gpu(cls) -> Any:
        """Give FAISS's memory on a GPU, or None, also where FAISS was built without cuVS."""
        return super().gpu() if "CUVS" in faiss.get_compile_options() else None

    @classmethod
    def factory(cls, rows: Rows, goal: Goal) -> str:  # noqa: ARG003 - FAISS's factory does not know it
        """Name it."""
        return "CAGRA"

    @classmethod
    def _structure(cls, text: str, rows: Rows, folder: Path, goal: Goal, seed: int) -> Any:  # noqa: ARG003
        index = faiss.GpuIndexCagra(cls.gpu(), rows.dim, faiss.METRIC_INNER_PRODUCT)
        index.train(rows.held().values)
        return faiss.index_gpu_to_cpu(index)

    def _ask(self, queries: Floats, count: int) -> tuple[Floats, Positions]:
        length = -(-max(count, self.params.get("efSearch", 64)) // 32) * 32  # of the list of the best so far
        scores, positions = self._index.search(queries, count, params=faiss.SearchParametersCagra(itopk_size=length))
        return scores, positions
