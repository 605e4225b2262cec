"""Finished rounds: found again when nothing changed, never when something did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import probes
from embedstore.types import LayerMatrix

QUICK = {"seeds": 1, "jobs": 1, "resamples": 50, "folds": 3}


def _rounds(folder: Path) -> int:
    return len(list(folder.glob("*.npz")))


@pytest.mark.parametrize("options", [{}, {"multilabel": True}, {"layer": "mix"}], ids=["one genre", "tags", "mix"])
def test_the_second_run_fits_nothing_and_says_the_same(
    library: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    """All rounds come from the folder, and the report is the same to the last bit."""
    layers, labels = library(n=60)
    first = probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK, **options)
    monkeypatch.setattr("probes.sweep._fit_round", lambda *_a: pytest.fail("a round was fitted again"))
    again = probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK, **options)
    assert again.to_dict() == first.to_dict()


def test_a_stopped_sweep_goes_on(library: Callable, tmp_path: Path) -> None:
    """What was finished before Ctrl-C is not made again; the result is that of an undisturbed run."""
    layers, labels = library(n=60)
    whole = probes.evaluate(layers, "knn", labels=labels, **QUICK)

    def stop(done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", progress=stop, **QUICK)
    assert _rounds(tmp_path / "cells") == 4
    told: list[int] = []
    resumed = probes.evaluate(
        layers, "knn", labels=labels, cells=tmp_path / "cells", progress=lambda done, _: told.append(done), **QUICK
    )
    assert resumed.to_dict() == whole.to_dict()
    assert told == list(range(1, len(told) + 1))


def test_whatever_decides_a_round_makes_another_one(library: Callable, tmp_path: Path) -> None:
    """Other vectors, labels, seeds, folds, probes or settings find nothing of the first run."""
    layers, labels = library(n=60)
    cells = tmp_path / "cells"

    def run(probe: object = "knn", change: float = 0.0, **options: object) -> int:
        before = _rounds(cells)
        moved = [LayerMatrix(m.layer, m.name, m.keys, m.values + np.float32(change)) for m in layers]
        probes.evaluate(moved, probe, cells=cells, **{"labels": labels} | QUICK | options)
        return _rounds(cells) - before

    first = run()
    assert first > 0
    assert run() == 0
    assert run(change=0.5) == first
    assert run(seeds=[7]) == first
    assert run(folds=4) > 0
    assert run(probe="centroid") == first
    other = {key: labels[k] for key, k in zip(labels, reversed(labels), strict=True)}
    assert run(labels=other) > 0


def test_damage_costs_the_round_and_nothing_else(library: Callable, tmp_path: Path) -> None:
    """A file that is cut, empty, or somebody's pickle is made again."""
    layers, labels = library(n=60)
    first = probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK)
    cut, empty, pickled, *_ = sorted((tmp_path / "cells").glob("*.npz"))
    cut.write_bytes(cut.read_bytes()[:100])
    empty.write_bytes(b"")
    np.savez(pickled.open("wb"), warnings=np.array([{"a": 1}], dtype=object))
    again = probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK)
    assert again.to_dict() == first.to_dict()


def test_a_folder_that_cannot_be_written_is_no_error(library: Callable, tmp_path: Path) -> None:
    """A store that may only be read is probed all the same."""
    layers, labels = library(n=60)
    (tmp_path / "file").write_text("in the way")
    report = probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "file" / "cells", **QUICK)
    assert report.n_tracks == 60


def test_old_cells_go_when_there_are_too_many(
    library: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder does not grow without bounds."""
    layers, labels = library(n=60)
    monkeypatch.setattr("probes.cells._MOST_BYTES", 10_000)
    probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK)
    assert sum(file.stat().st_size for file in (tmp_path / "cells").iterdir()) <= 10_000
