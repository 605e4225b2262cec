"""Finished rounds: found again when nothing changed, never when something did."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import probes
from embedstore.types import LayerMatrix
from probes.cells import _code

QUICK = {"seeds": 1, "jobs": 1, "resamples": 50, "folds": 3}


def _rounds(folder: Path) -> int:
    return len(list(folder.glob("*.cell")))


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
    cut, empty, pickled, *_ = sorted((tmp_path / "cells").glob("*.cell"))
    cut.write_bytes(cut.read_bytes()[:100])
    empty.write_bytes(b"")
    np.savez(pickled.open("wb"), warnings=np.array([{"a": 1}], dtype=object))
    again = probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK)
    assert again.to_dict() == first.to_dict()
    for number, file in enumerate(sorted((tmp_path / "cells").glob("*.cell"))):
        data = bytearray(file.read_bytes())
        data[number * 97 % len(data)] ^= 0x20
        file.write_bytes(data)
    assert probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK).to_dict() == first.to_dict()


def test_a_folder_that_cannot_be_written_is_no_error(library: Callable, tmp_path: Path) -> None:
    """A store that may only be read is probed all the same."""
    layers, labels = library(n=60)
    (tmp_path / "file").write_text("in the way")
    report = probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "file" / "cells", **QUICK)
    assert report.n_tracks == 60
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "link", **QUICK)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_old_cells_go_when_there_are_too_many(
    library: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder does not grow without bounds."""
    layers, labels = library(n=60)
    monkeypatch.setattr("probes.cells._MOST_BYTES", 10_000)
    probes.evaluate(layers, "knn", labels=labels, cells=tmp_path / "cells", **QUICK)
    assert sum(file.stat().st_size for file in (tmp_path / "cells").iterdir()) <= 10_000


def test_only_our_own_files_are_removed(library: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's thesis stays, and so does what another sweep is writing at this moment."""
    layers, labels = library(n=60)
    thesis, half = tmp_path / "thesis.tex", tmp_path / "cell-abc.tmp"
    thesis.write_text("x" * 10_000)
    half.write_text("half")
    monkeypatch.setattr("probes.cells._MOST_BYTES", 0)
    probes.evaluate(layers, "knn", labels=labels, cells=tmp_path, **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell-abc.tmp", "thesis.tex"]
    os.utime(half, (0, 0))
    probes.evaluate(layers, "knn", labels=labels, cells=tmp_path, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_other_code_makes_another_round(library: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of the user's own, edited between two runs, is fitted again."""
    layers, labels = library(n=60)
    module = tmp_path / "edited_probe.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "from sklearn.neighbors import KNeighborsClassifier\nclass Mine(KNeighborsClassifier):\n    {}\n"
    counts = []
    for body in ("pass", "pass", "pass  # edited"):
        module.write_text(code.format(body))
        sys.modules.pop("edited_probe", None)
        _code.cache_clear()
        probes.evaluate(layers, "edited_probe:Mine", labels=labels, cells=tmp_path / "cells", **QUICK)
        counts.append(_rounds(tmp_path / "cells"))
    assert counts[0] == counts[1] < counts[2]


def test_parameters_that_text_cannot_tell_are_not_kept(library: Callable, tmp_path: Path) -> None:
    """A long array shows its ends alone, so two probes that differ inside it would share cells."""
    layers, labels = library(n=60)
    weighted = KNeighborsClassifier(metric="minkowski", metric_params={"w": np.ones(10)})
    probes.evaluate(layers, weighted, labels=labels, cells=tmp_path / "cells", **QUICK)
    assert not list(tmp_path.glob("cells/*"))
