"""Table, JSON, CSV and plots of a finished report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

import probes
from embedstore.errors import ParameterError
from probes.report import confusion_matrix, layer_curve
from probes.results import ProbeReport


@pytest.fixture
def report(library: Callable) -> ProbeReport:
    layers, labels = library(n=60)
    return probes.evaluate(layers, "knn", labels=labels, seeds=1, jobs=1, resamples=50)


def test_the_table_says_what_the_numbers_rest_on(report: ProbeReport, capsys: pytest.CaptureFixture[str]) -> None:
    """Every layer, the choice, the baselines, the protocol and the notes are printed; control characters are not."""
    hostile = replace(report, notes=(*report.notes, "genre '\x1b[31mred [bold]\x07'"))
    probes.print_report(hostile, [Path("x/report.json")])
    out = capsys.readouterr().out
    assert out.startswith("knn probe: 60 tracks, 3 genres, 24 artist groups, 5 folds x 1 seeds")
    best = next(line for line in out.splitlines() if "<- preferred" in line)
    assert best.split()[0] == "1"
    for words in (
        "selected",
        "majority",
        "shuffled labels",
        "bootstrap over 24 artist groups",
        "wrote x/report.json",
        "[bold]",
    ):
        assert words in out
    assert "\x1b" not in out


def test_files_hold_the_report(report: ProbeReport, tmp_path: Path) -> None:
    """JSON is the report, the CSV has its numbers, and all plots are there and not blank."""
    paths = probes.write_report(report, tmp_path / "new" / "folder")
    assert [p.name for p in paths] == [
        "report.json",
        "layers.csv",
        "layers.png",
        "layers.svg",
        "confusion.png",
        "confusion.svg",
    ]
    assert json.loads(paths[0].read_text(encoding="utf-8")) == json.loads(json.dumps(report.to_dict()))
    rows = list(csv.DictReader(paths[1].open(encoding="utf-8")))
    assert [row["row"] for row in rows] == ["0", "1", "2", "selected", "baseline", "baseline"]
    assert float(rows[1]["macro_f1_low"]) == report.results[1].macro_f1.low
    for path in paths:
        if path.suffix == ".png":
            assert len({tuple(pixel) for row in imread(path)[::5, ::5] for pixel in row}) > 10


def test_plots_show_the_numbers_and_their_basis(report: ProbeReport) -> None:
    """Points are the scores, axes are named, n and seeds are in the title; a dollar in a name starts no formula."""
    axes = layer_curve(report).axes[0]
    drawn = next(line for line in axes.lines if len(line.get_xdata()) == 3)
    assert list(drawn.get_ydata()) == [r.macro_f1.value for r in report.results]
    assert axes.get_xlabel() == "layer"
    assert any("60 tracks" in text.get_text() and "1 seeds" in text.get_text() for text in axes.texts)
    matrix = replace(report, confusion={**report.confusion, "labels": ["a$b$", "genre b", "genre c"]})
    assert confusion_matrix(matrix).axes[0].get_yticklabels()[0].get_text() == "a$b$"


def test_a_folder_that_cannot_be_is_a_clear_error(report: ProbeReport, tmp_path: Path) -> None:
    """A file in the place of the folder is one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match=r"the report cannot be written to .*file"):
        probes.write_report(report, tmp_path / "file")
