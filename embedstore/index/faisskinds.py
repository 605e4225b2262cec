"""The FAISS kinds: FAISS finds candidates among positions 0 .. n - 1, `Ranked` scores them by the rows themselves.

So a kind may keep an eighth of a byte for each value, and still return exact scores. What is kept lies in ``index.faiss`` (and
``index.cells``, where cells stay on the disk). FAISS's reader believes what it reads: `load` is only for files whose sum a
sealed meta promises.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from embedstore.errors import IndexFormatError, ParameterError, UnknownNameError
from embedstore.index.base import MARGIN, Goal, Ranked
from embedstore.index.rows import BLOCK, LET_GO, Positions, Rows, write_rows
from embedstore.index.tune import AT_ONCE, KNOBS, most_cells, tuned
from embedstore.registry import require, unknown_name
from embedstore.types import Floats

faiss: Any = require("faiss", "pip install faiss-cpu")

__all__ = [
    "FaissIndex",
    "FlatIndex",
    "HnswIndex",
    "IvfIndex",
    "IvfRabitqIndex",
    "RabitqIndex",
    "factory_kind",
    "made",
    "train",
]

_TRAINED_ON, _PER_CELL = 20_000, 64  # rows that a structure without cells, and each cell of another, learns from
_MOST_FOUND = 2**20  # candidates held in memory
_FILE, _CELLS, _SETTINGS = "index.faiss", "index.cells", "settings"


class FaissIndex(Ranked):
    """A structure of FAISS over unit rows; what the kinds share.

    ``params``: ``factory``, ``faiss`` (its version), ``candidates`` (how many are ranked for k = 10), and ``nprobe`` or
    ``efSearch`` where the structure has one.
    """

    approximate: ClassVar[bool] = True
    together: ClassVar[int] = AT_ONCE

    def __init__(self, rows: Rows, params: Mapping[str, Any], index: Any, folder: Path) -> None:
        super().__init__(rows, params)
        self._index, self._folder = index, folder

    @classmethod
    def factory(cls, rows: Rows, goal: Goal) -> str:
        """Say what FAISS is asked to make of these rows."""
        raise NotImplementedError

    @classmethod
    def build(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Self:
        """Learn from some rows, add all of them, and find the settings that reach the goal.

        Raises
        ------
        ParameterError
            FAISS cannot make such a structure of these rows.
        """
        text = cls.factory(rows, goal)
        try:
            index = cls._structure(text, rows, folder, goal, seed)
            faiss.write_index(index, str(folder / _FILE))
        except (RuntimeError, MemoryError) as error:
            raise ParameterError(f"FAISS cannot make {text!r} of {rows!r}: {_said(error)}") from error
        settings = tuned(index, rows, goal.recall, seed)
        del index
        return cls.load(rows, folder, {"factory": text, "faiss": faiss.__version__} | settings)

    @classmethod
    def _structure(cls, text: str, rows: Rows, folder: Path, goal: Goal, seed: int) -> Any:
        index = cls._empty(text, rows.dim)
        train(index, rows, seed)
        cls._fill(index, rows, folder, goal.memory)
        return index

    @classmethod
    def _empty(cls, text: str, dim: int) -> Any:
        return made(text, dim)

    @classmethod
    def _fill(cls, index: Any, rows: Rows, folder: Path, memory: int) -> None:  # noqa: ARG003 - those that may be large
        for block in _blocks(rows, index.ntotal, len(rows)):
            index.add(block)

    @classmethod
    def load(cls, rows: Rows, folder: Path, params: Mapping[str, Any]) -> Self:
        """Read what `build` left."""
        try:
            index = _read(folder)
        except (RuntimeError, MemoryError) as error:
            raise IndexFormatError(f"FAISS cannot read {_FILE}: {_said(error)}") from error
        right = index.metric_type == faiss.METRIC_INNER_PRODUCT and index.is_trained
        if (index.ntotal, index.d) != (len(rows), rows.dim) or not right:
            raise IndexFormatError(f"{_FILE} is no index of the inner products of {rows!r}")
        settings = {name: params[name] for name in ("candidates", *KNOBS) if name in params}
        if "candidates" not in settings or any(type(n) is not int or n < 1 for n in settings.values()):
            raise IndexFormatError(f"its settings are not numbers above 0: {settings}")
        for name in settings.keys() & KNOBS:
            faiss.ParameterSpace().set_index_parameter(index, name, settings[name])
        return cls(rows, params, index, folder)

    def extend(self, rows: Rows, folder: Path, *, goal: Goal) -> Self:
        """Add the rows behind its own to a copy of the structure, which learns nothing anew."""
        try:
            index = _read(self._folder)
        except RuntimeError as error:
            raise IndexFormatError(f"FAISS cannot read {_FILE}: {_said(error)}") from error
        self._fill(index, rows, folder, goal.memory)
        faiss.write_index(index, str(folder / _FILE))
        del index
        return self.load(rows, folder, self.params)

    def _candidates(self, queries: Floats, k: int) -> Iterator[Positions]:
        count = min(len(self), self._wanted(k))
        step = max(1, min(self.together, _MOST_FOUND // count))
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            for i, found in enumerate(zip(*self._fetch(some, count), strict=True)):
                yield self._widen(some[i : i + 1], k, *found)

    def _wanted(self, k: int) -> int:
        # measured: the candidates that hold the k nearest grow as k^0.6
        return max(k, int(self.params["candidates"] * max(1.0, k / 10) ** 0.6))

    def _fetch(self, queries: Floats, count: int) -> tuple[Floats, Positions]:
        """Ask FAISS: scores and positions, shape (n_queries, count), position -1 where it found nothing more."""
        threads = faiss.omp_get_max_threads()
        if (
            len(queries) == 1
        ):  # callers with one query are threads themselves: each with a team, they would fight for the cores
            faiss.omp_set_num_threads(1)
        try:
            scores, positions = self._index.search(queries, count)
        finally:
            faiss.omp_set_num_threads(threads)  # of this thread alone
        return scores, positions

    def _widen(self, query: Floats, k: int, scores: Floats, positions: Positions) -> Positions:
        """Ask for more until none beyond the last could belong among the k best; give all rows where it finds too few."""
        while len(positions) < len(self) and positions[-1] >= 0 and scores[-1] >= scores[k - 1] - MARGIN:
            scores, positions = (found[0] for found in self._fetch(query, min(4 * len(positions), len(self))))
        positions = positions[positions >= 0]
        return positions if len(positions) >= k else np.arange(len(self))


class FlatIndex(FaissIndex):
    """Compares a query with every row, in FAISS. It needs no file but the rows, and holds them in memory as float32."""

    approximate: ClassVar[bool] = False
    together: ClassVar[int] = 1024

    @classmethod
    def build(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Self:  # noqa: ARG003 - nothing to choose
        """Take the rows."""
        return cls.load(rows, folder, {"factory": "Flat", "faiss": faiss.__version__})

    @classmethod
    def load(cls, rows: Rows, folder: Path, params: Mapping[str, Any]) -> Self:
        """Take the rows, into memory."""
        index = faiss.IndexFlatIP(rows.dim)
        for _, block in rows.blocks():
            index.add(block)
        return cls(rows, params, index, folder)

    def extend(self, rows: Rows, folder: Path, *, goal: Goal) -> Self:  # noqa: ARG002 - nothing to choose
        """Take more rows."""
        return self.load(rows, folder, self.params)

    def _wanted(self, k: int) -> int:
        return k + 8


class IvfIndex(FaissIndex):
    """Looks only into the cells whose centres are nearest to the query; two bytes a value, or one if memory is short.

    Cells that exceed the memory of the goal stay on the disk and are read where a query looks.
    """

    @classmethod
    def factory(cls, rows: Rows, goal: Goal) -> str:
        """Cut the sphere into about 4 sqrt(n) cells."""
        cells, codes = most_cells(len(rows), 4), "SQfp16" if _bytes(rows, 2) <= goal.memory else "SQ8"
        return f"IVF{cells},{codes}"

    @classmethod
    def _fill(cls, index: Any, rows: Rows, folder: Path, memory: int) -> None:
        on_disk = isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.OnDiskInvertedLists)
        if on_disk or len(rows) * (index.code_size + 8) > memory:
            _fill_on_disk(index, rows, folder, memory)
        else:
            super()._fill(index, rows, folder, memory)


class RabitqIndex(FaissIndex):
    """Compares a query with every row, by one bit for each value (RaBitQ, Gao & Long 2024), after a random rotation."""

    @classmethod
    def factory(cls, rows: Rows, goal: Goal) -> str:  # noqa: ARG003 - one form fits all
        """Rotate, as the bits of principal axes would tell little."""
        return f"RR{_whole_bytes(rows.dim)},RaBitQfs"


class IvfRabitqIndex(FaissIndex):
    """Like rabitq, but only in the cells whose centres are nearest to the query: for libraries where a scan is slow."""

    @classmethod
    def factory(cls, rows: Rows, goal: Goal) -> str:  # noqa: ARG003 - one form fits all
        """Cut the space into about sqrt(n) cells, each with its own origin."""
        return f"RR{_whole_bytes(rows.dim)},IVF{most_cells(len(rows), 1)},RaBitQfs"

    @classmethod
    def _empty(cls, text: str, dim: int) -> Any:
        # bits tell what is left after the centre: a row belongs to the nearest, be it long or short, not to the largest product
        rotated, cells = (int(part) for part in re.findall(r"RR(\d+),IVF(\d+)", text)[0])
        inner = faiss.IndexIVFRaBitQFastScan(faiss.IndexFlatL2(rotated), rotated, cells, faiss.METRIC_INNER_PRODUCT)
        inner.cp.spherical = False
        return faiss.IndexPreTransform(faiss.RandomRotationMatrix(dim, rotated), inner)


class HnswIndex(FaissIndex):
    """Walks through a graph of near rows. Fast where rows vary in few directions, slow to build, and larger."""

    @classmethod
    def factory(cls, rows: Rows, goal: Goal) -> str:  # noqa: ARG003 - one form fits all
        """Join each row to 32 others, one byte a value."""
        return "HNSW32,SQ8"


def factory_kind(name: str, dim: int = 0) -> type[FaissIndex]:
    """Make a kind of a FAISS factory string, such as ``"OPQ64,IVF256,PQ64"``.

    Such an index is built in a process of its own: FAISS ends the process on some strings.

    Parameters
    ----------
    name : str
        An id map in it is passed over: positions are the ids here.
    dim : int
        Width of the rows, which decides what FAISS can make; 0: not asked.

    Raises
    ------
    UnknownNameError
        FAISS cannot read it.
    """
    text = re.sub(r"^IDMap2?,|,IDMap2?$", "", name)
    if dim:
        try:
            made(text, dim)
        except (RuntimeError, MemoryError) as error:
            from embedstore.index.saved import BUILTIN

            known = unknown_name("index kind", name, ["auto", *BUILTIN])
            raise UnknownNameError(
                f"{known}, or a factory string of FAISS, which said of rows of width {dim}: {_said(error)}"
            ) from error

    class FactoryIndex(FaissIndex):
        @classmethod
        def factory(cls, rows: Rows, goal: Goal) -> str:  # noqa: ARG003 - the user chose
            return text

        @classmethod
        def build(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Self:
            file = folder / "rows"
            if passed := not file.exists():
                write_rows(file, rows.keys, rows.dim, [rows.values], half=rows.values.dtype == np.float16)
            code = f"from {__name__} import build_alone; import sys; build_alone(*sys.argv[1:])"
            path = os.pathsep.join(one or str(Path.cwd()) for one in sys.path)
            asked = [text, str(folder), str(goal.recall), str(goal.memory), str(seed)]
            command = [sys.executable, "-P", "-c", code, *asked]
            done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False)
            if passed:
                file.unlink()
            if done.returncode:
                ended = f"it ended the process ({signal.Signals(-done.returncode).name})" if done.returncode < 0 else ""
                said = ended or (done.stderr.decode(errors="replace").strip().splitlines() or ["?"])[-1]
                raise ParameterError(f"FAISS cannot make {text!r} of {rows!r}: {said[-300:]}")
            settings = folder / _SETTINGS
            params = json.loads(settings.read_text())
            settings.unlink()
            return cls.load(rows, folder, params)

        @classmethod
        def build_here(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Self:
            """Build in this process."""
            return super().build(rows, folder, goal=goal, seed=seed)

    return FactoryIndex


def build_alone(text: str, folder: str, recall: str, memory: str, seed: str) -> None:
    """Build an index by its factory string over the rows in a folder, and write its settings there: the work of a process."""
    rows, goal = Rows.open(Path(folder) / "rows"), Goal(float(recall), int(memory))
    kind: Any = factory_kind(text)
    try:
        index = kind.build_here(rows, Path(folder), goal=goal, seed=int(seed))
    except ParameterError as error:
        sys.exit(f"{error}".partition(": ")[2])
    (Path(folder) / _SETTINGS).write_text(json.dumps(dict(index.params)))


def made(text: str, dim: int) -> Any:
    """Make an empty structure; raises `RuntimeError`."""
    index = faiss.index_factory(dim, text, faiss.METRIC_INNER_PRODUCT)
    cells = faiss.try_extract_index_ivf(index)
    if cells is not None and not cells.nlist:
        raise RuntimeError("Error: an index needs cells")
    return index


def train(index: Any, rows: Rows, seed: int) -> None:
    """Have a structure learn from some rows."""
    cells = faiss.try_extract_index_ivf(index)
    count = _TRAINED_ON
    if cells is not None:
        count = max(count, _PER_CELL * cells.nlist)
        cells.cp.seed, cells.cp.min_points_per_centroid = 1 + seed % 2**30, 1
    some = rows.unit(rows.sample(count, seed))
    rows.let_go()  # around each row that is read, the system maps its neighbours
    index.train(some if len(some) else np.zeros((1, rows.dim), np.float32))


def _read(folder: Path) -> Any:
    """Read an index; its cells, if they are a file of their own, are mapped, by a path that the index does not tell."""
    on_disk = (folder / _CELLS).exists()
    index = faiss.read_index(str(folder / _FILE), faiss.IO_FLAG_SKIP_IVF_DATA if on_disk else 0)
    if on_disk:
        _map(faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists), folder / _CELLS)
    return index


def _map(cells: Any, path: Path) -> None:
    cells.filename, cells.read_only, cells.totsize = str(path), True, path.stat().st_size
    cells.do_mmap()


def _fill_on_disk(index: Any, rows: Rows, folder: Path, memory: int) -> None:
    """Fill cells on the disk: in pieces that fit into memory, which are then joined with what the index holds already."""
    step = max(BLOCK, min(memory, Goal.memory) // (2 * (index.code_size + 8)))
    pieces, paths = [index.invlists] * bool(index.ntotal), []
    index.own_invlists = False
    for start in range(index.ntotal, len(rows), step):
        piece = faiss.ArrayInvertedLists(index.nlist, index.code_size)  # Python's own: it must outlive its use
        index.replace_invlists(piece, False)
        stop = min(start + step, len(rows))
        for at, block in zip(range(start, stop, BLOCK), _blocks(rows, start, stop), strict=True):
            index.add_with_ids(block, np.arange(at, at + len(block)))
        paths.append(folder / f"piece{start}")
        faiss.write_index(index, str(paths[-1]))
        pieces.append(faiss.read_index(str(paths[-1]), faiss.IO_FLAG_MMAP))
    lists = [getattr(one, "invlists", one) for one in pieces]
    sizes = np.zeros(index.nlist, np.uint64)
    with (folder / _CELLS).open("xb") as file:  # FAISS's own way of joining prints what it does
        for cell in range(index.nlist):
            counts = [one.list_size(cell) for one in lists]
            sizes[cell] = sum(counts)
            held = [(one, count) for one, count in zip(lists, counts, strict=True) if count]
            file.writelines(faiss.rev_swig_ptr(one.get_codes(cell), count * index.code_size) for one, count in held)
            file.writelines(faiss.rev_swig_ptr(one.get_ids(cell), count) for one, count in held)
    cells = faiss.OnDiskInvertedLists(index.nlist, index.code_size, "")
    cells.set_all_lists_sizes(faiss.swig_ptr(sizes))
    _map(cells, folder / _CELLS)
    index.replace_invlists(cells, True)
    cells.this.disown()
    index.ntotal = len(rows)
    for path in paths:
        path.unlink()


def _blocks(rows: Rows, start: int, stop: int) -> Iterator[Floats]:
    for at in range(start, stop, BLOCK):
        yield rows.unit(np.arange(at, min(at + BLOCK, stop)))
        if at // BLOCK % LET_GO == LET_GO - 1:
            rows.let_go()


def _bytes(rows: Rows, width: int) -> int:
    return len(rows) * (width * rows.dim + 8)


def _whole_bytes(dim: int) -> int:
    return -(-dim // 8) * 8


def _said(error: BaseException) -> str:
    """Give what a FAISS error says, without where in its sources."""
    text = " ".join(str(error).split())
    return re.sub(r"^Error in .*?\.\w+:\d+: (Error: )?", "", text)[:200] or type(error).__name__
