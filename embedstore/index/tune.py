"""Which kind fits a library, and how far a kind must look to reach a wanted recall."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedstore.index.base import Goal
from embedstore.index.exact import ExactIndex
from embedstore.index.rows import Rows
from embedstore.types import Floats

__all__ = ["AT_ONCE", "KNOBS", "choose", "most_cells", "tuned"]

KNOBS = {"nprobe", "efSearch"}  # FAISS's names: cells that are looked into, length of the list in a graph's search
_FLAT, _SCAN = 20_000, 300_000  # rows up to which a scan takes about a millisecond: of all values, of a bit for each
AT_ONCE = 32  # queries that FAISS is given: it keeps a table for each cell that each of them looks into
TUNED_ON = 500  # rows that settings are tuned on
_LEAST, _MOST = (
    40,
    2000,
)  # candidates that are ranked for ten neighbours: a few more cost little, and help unusual queries
_PER_CANDIDATE = 100  # rows scanned in the time that one candidate takes to be ranked


def choose(n: int, dim: int, goal: Goal) -> str:
    """Choose the kind that reaches a goal fastest, by the number of rows.

    Measured on 768 values a row: flat scans 20,000 rows in a millisecond or two; rabitq 100,000; above 300,000 ivf-rabitq is
    faster.
    """
    codes = n * (dim / 8 + 24)
    if n <= _FLAT and 4 * n * dim <= goal.memory:
        return "flat"
    if codes > goal.memory:
        return "ivf"
    return "rabitq" if n <= _SCAN else "ivf-rabitq"


def most_cells(n: int, factor: float) -> int:
    """Give about factor * sqrt(n) cells, each of 39 rows at least: the fewest that FAISS advises to learn a centre from."""
    return max(1, min(int(factor * n**0.5), n // 39))


def tuned(index: Any, rows: Rows, recall: float, seed: int) -> dict[str, int]:
    """Find the settings of a FAISS index that reach a recall at 10 with the least work.

    For each setting of its knob (FAISS's ``nprobe`` or ``efSearch``), the ranks that it gives the true neighbours of some stored
    rows tell how many candidates must be ranked. Work is counted, not timed, so equal rows give equal settings. A quarter of
    what may be missed is kept for rows that it was not tuned on.

    Parameters
    ----------
    index : faiss.Index
        Holds the rows, by position.
    rows : Rows
    recall : float
    seed : int
        Of the choice of rows to tune on.

    Returns
    -------
    dict
        ``candidates`` and the knob; if nothing reaches the recall, what comes nearest.
    """
    import faiss

    n = len(rows)
    if n < 2:
        return {"candidates": 10}
    chosen = rows.sample(TUNED_ON, seed)
    queries, wanted = rows.unit(chosen), recall + (1 - recall) / 4
    true = _neighbours(rows, chosen, queries)
    ranges = faiss.ParameterSpace()
    ranges.initialize(index)
    knob = next(
        (name for i in range(ranges.parameter_ranges.size()) if (name := ranges.parameter_ranges.at(i).name) in KNOBS),
        None,
    )
    cells = faiss.try_extract_index_ivf(index)
    best: tuple[float, dict[str, int]] = (np.inf, {})
    for value, scanned in _steps(knob, n, cells):
        if scanned + 10 * _PER_CANDIDATE >= best[0]:
            break
        if knob:
            ranges.set_index_parameter(index, knob, value)
        found = [index.search(queries[at : at + AT_ONCE], min(n, _MOST))[1] for at in range(0, len(queries), AT_ONCE)]
        ranks = _ranks(np.concatenate(found), true)
        candidates = int(ranks[int(np.ceil(wanted * len(ranks))) - 1]) + 1
        settings = {"candidates": max(_LEAST, min(candidates, _MOST, n))} | ({knob: value} if knob else {})
        if candidates <= _MOST:
            best = min(best, (scanned + _PER_CANDIDATE * candidates, settings), key=lambda one: one[0])
    return best[1] or settings


def _neighbours(rows: Rows, chosen: Any, queries: Floats) -> Any:
    """Find the positions of the ten true neighbours of some rows, -1 where there are fewer."""
    by_position = Rows(np.arange(len(rows)), rows.values, rows.lengths)
    found = ExactIndex(by_position).search(queries, 11).keys
    own = found == chosen[:, None]
    own[~own.any(axis=1), -1] = True  # ten copies of it came first
    return found[~own].reshape(len(queries), 10)


def _ranks(found: Any, true: Any) -> Any:
    """Sort the ranks at which true neighbours were found; more than can be where they were not."""
    ranks = []
    for positions, neighbours in zip(found, true, strict=True):
        order = np.argsort(positions, kind="stable")
        at = np.minimum(np.searchsorted(positions, neighbours, sorter=order), len(order) - 1)
        hit = positions[order[at]] == neighbours
        ranks.append(np.where(hit, order[at], 2**40)[neighbours >= 0])
    return np.sort(np.concatenate(ranks))


def _steps(knob: str | None, n: int, cells: Any) -> list[tuple[int, float]]:
    """List the values of a knob from small to large, each with about how many rows it has FAISS compare."""
    steps = sorted({round(2 ** (i / 2)) for i in range(40)})
    if knob == "nprobe":
        tried = [step for step in steps if step < cells.nlist] + [cells.nlist]
        return [(step, n * step / cells.nlist + cells.nlist) for step in tried]
    if knob == "efSearch":
        return [(step, 32.0 * step) for step in steps if 16 <= step <= 1024]
    return [(0, float(n))]
