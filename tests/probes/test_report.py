"""A report on the terminal, as tables for machines and papers, as a folder."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import report_material as m
from matplotlib.image import imread

import probes
from embedstore.errors import ParameterError
from probes.report.contents import Contents
from probes.report.formats import csv_of, latex_of, latex_text, markdown_of, markdown_text
from probes.report.parts import Table, shown
from probes.report.plots import draw
from probes.results import Study


def table(name: str, contents: Contents) -> Table:
    """Find a table by its name."""
    return next(table for table in contents.tables if table.name == name)


def test_the_terminal_says_what_the_numbers_rest_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Layers, the choice, baselines, tests and notes are there; control characters are not."""
    report = m.make_report()
    probes.print_report(replace(report, notes=("genre '\x1b[31mred [bold]\x07'",)), [Path("x/a.html"), Path("x/b.md")])
    out = capsys.readouterr().out
    assert out.startswith("logistic probe: 1,400 tracks, 3 genres, 24 artist groups, 5 folds x 3 seeds")
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    best = next(line for line in out.splitlines() if "<- preferred" in line)
    assert best.split()[0] == "1"
    assert "0.500 [0.460, 0.540]" in best
    assert "0.480 [0.440, 0.520]" in lines["selected"]
    assert "layers 1 (12 x), 0 (3 x)" in lines["selected"]
    for words in (
        "layers not distinguishable from the best (layer 1): 0, 2 (paired test, Holm, 5 %)",
        "baselines not given: the same network with random weights; `embedstore baselines` builds them",
        "selectivity +0.430 [+0.380, +0.480]: macro-F1 of layer 1",
        "bootstrap over 24 artist groups, 10,000 resamples",
        "280                             280   0.200 [0.160, 0.240]",
        "MFCC",
        "[bold]",
        "wrote x: a.html, b.md",
    ):
        assert words in out
    assert "\x1b" not in out


def test_what_is_not_known_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    """One layer without tests, curve or quality: no empty table, no choice between layers, no preferred mark."""
    probes.print_report(m.make_report(layers=1, full=False))
    out = capsys.readouterr().out
    for words in ("preferred", "distinguishable", "quote the row", "training size", "LogME", "wrote"):
        assert words not in out
    assert "MFCC statistics, the same network with random weights" in out
    probes.print_report(replace(m.make_report(layers=1, full=False), baselines={}))
    assert capsys.readouterr().out.splitlines()[2].split() == [
        "layer",
        "macro-F1",
        "[95",
        "%]",
        "accuracy",
        "balanced",
        "chosen",
    ]
    sections = Contents.of(m.make_report(layers=1, full=False)).sections
    assert [section.anchor for section in sections] == ["summary", "layers", "classes", "confusion", "made"]


def test_no_layer_is_like_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    """Where each test finds a difference, that is what is said."""
    probes.print_report(replace(m.make_report(), indistinct=()))
    assert "each other layer is distinguishable from the best (layer 1)" in capsys.readouterr().out


def test_tags_have_their_own_measures(capsys: pytest.CaptureFixture[str]) -> None:
    """Several tags a track: mAP and ROC-AUC, tags, no confusion matrix."""
    report = m.make_report(multilabel=True)
    probes.print_report(report)
    out = capsys.readouterr().out
    assert "3 tags" in out
    assert "mAP [95 %]" in out
    assert "ROC-AUC" in out
    assert "F1" not in out
    contents = Contents.of(report)
    assert "confusion" not in [section.anchor for section in contents.sections]
    assert table("classes", contents).columns[-1].title == "average precision"


def test_reports_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """Two encoders: a row has the scores of both, a layer that only one has is empty, the test between them is told."""
    both = (m.make_report(layers=4, encoder="long"), m.make_report(layers=2, encoder="short"))
    contents = Contents.of(Study(reports=both, comparisons=m.compared()))
    assert contents.names == ("long", "short")
    rows = {row[0]: row[1:] for row in table("side-by-side", contents).rows}
    assert rows["layer 1"] == (both[0].results[1].main, both[1].results[1].main)
    assert rows["layer 3"] == (both[0].results[3].main, None)
    assert rows["majority"] == (0.02, 0.02)
    assert list(rows)[-4:] == ["selected", "majority", "shuffled labels", "MFCC"]
    renamed = replace(both[1], source={"encoder": "[bold]short"})
    assert "[bold]short" in Contents.of((both[0], renamed)).names
    probes.print_report((both[0], renamed))
    assert re.search(r"^ +long +\[bold\]short$", capsys.readouterr().out, re.MULTILINE)
    probes.print_report(Study(reports=both, comparisons=m.compared()))
    out = capsys.readouterr().out
    assert "logistic probe (short)" in out
    assert re.search(r"music2vec +musicnn +\+0\.060 \[\+0\.010, \+0\.110\] +0\.020", out)


@pytest.mark.parametrize(
    ("pairs", "names"),
    [
        ((("knn", "a"), ("mlp", "a")), ("knn", "mlp")),
        ((("knn", "a"), ("mlp", "a"), ("knn", "b")), ("a knn", "a mlp", "b knn")),
        ((("knn", "a"), ("knn", "a")), ("1: a knn", "2: a knn")),
    ],
)
def test_reports_are_named_by_what_differs(pairs: tuple[tuple[str, str], ...], names: tuple[str, ...]) -> None:
    """The probe, else the encoder, else both, else a number."""
    reports = [m.make_report(layers=1, full=False, probe=probe, encoder=encoder) for probe, encoder in pairs]
    assert Contents.of(reports).names == names


def test_csv_keeps_all_digits() -> None:
    """Numbers come back from the file as they are; names too."""
    third = m.Interval(1 / 3, 0.1 + 0.2, 2 / 3)
    report = m.make_report(genres=m.HOSTILE)
    first = replace(report.results[0], measures=report.results[0].measures | {"macro_f1": third})
    results = (first, *report.results[1:])
    contents = Contents.of(replace(report, results=results))
    rows = list(csv.DictReader(io.StringIO(csv_of(table("layers", contents)))))
    assert [row["layer"] for row in rows] == ["0", "1", "2", "mix", "selected", "-", "-", "-"]
    assert [float(rows[0][f"macro_f1{end}"]) for end in ("", "_low", "_high")] == [1 / 3, 0.1 + 0.2, 2 / 3]
    assert rows[5]["name"] == "majority"
    assert rows[5]["macro_f1_low"] == ""  # an interval would leave out how the labels fell
    named = list(csv.DictReader(io.StringIO(csv_of(table("classes", contents)))))
    assert [row["genre"] for row in named] == list(m.HOSTILE)
    assert [float(row["score"]) for row in named] == list(report.selected.per_class.values())
    matrix = list(csv.reader(io.StringIO(csv_of(table("confusion", contents)))))
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == report.confusion["matrix"]


def test_markdown_and_latex_keep_their_columns() -> None:
    """No name adds a cell, a command or markup: each row has the cells of the head."""
    contents = Contents.of(m.make_report(genres=(*m.HOSTILE, "[1pt] & \\\\ co", "*star", "new\nline")))
    for each in contents.tables:
        if not each.heat:
            width = sum(not column.wide for column in each.columns)
            rows = markdown_of(each).splitlines()
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {width + 1}
            assert len(rows) == len(each.rows) + 2
            body = latex_of(each).partition("\\toprule\n")[2].partition("\\bottomrule")[0]
            lines = [line for line in body.splitlines() if line != "\\midrule"]
            assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {width - 1}
            assert all(line.endswith(" \\\\") and line[0] not in "[*" for line in lines)
            assert not re.search(r"(?<!\\)[#$%_]", "".join(lines))
    assert markdown_text("<script>a|b</script>") == r"\<script\>a\|b\</script\>"
    assert latex_text(r"50 % of $x_1^2$ --\a~") == (
        r"50 \% of \$x\_1\textasciicircum{}2\$ -{}-\textbackslash{}a\textasciitilde{}"
    )


@pytest.mark.parametrize(
    ("cell", "form", "text"),
    [
        (m.Interval(0.5, 0.4, 0.6), "value", "0.500"),
        (float("nan"), "number", ""),
        (None, "difference", ""),
        (12345, "count", "12,345"),
        (0.0009, "p", "< 0.001"),
        (0.25, "p", "0.250"),
        (-123456.0, "number", "-1.235e+05"),
    ],
)
def test_cells_read_in_one_way(cell: object, form: str, text: str) -> None:
    """What is not there is empty; small p and large numbers stay short."""
    assert shown(cell, form) == text


def test_plots_show_the_numbers() -> None:
    """Points are the scores of the report; a dollar starts no formula; a long name is cut."""
    report = m.make_report(genres=m.HOSTILE)
    plots = {figure.kind: draw(figure).axes[0] for figure in Contents.of(report).figures if figure.kind != "cka"}
    drawn = next(line for line in plots["layers"].lines if len(line.get_xdata()) == 4)
    assert list(drawn.get_ydata()) == [result.main.value for result in report.results]
    assert [text.get_text() for text in plots["layers"].get_xticklabels()] == ["0", "1", "2", "mix"]
    heights = sorted(report.selected.per_class.values())
    assert list(plots["classes"].lines[0].get_xdata()) == heights
    names = [text.get_text() for text in plots["classes"].get_yticklabels()]
    assert "$x_1$ 50 % #1 | {b} \\~^" in names
    assert max(map(len, names)) == 28
    assert not any(text.get_parse_math() for text in plots["classes"].get_yticklabels())
    assert list(plots["curve"].lines[0].get_xdata()) == [280, 560, 840, 1120]
    assert plots["confusion"].get_xlabel() == "predicted genre"


@pytest.mark.slow
def test_a_folder_holds_the_report(tmp_path: Path) -> None:
    """JSON is the report; tables and plots lie beside it, none of them blank; a second run gives the same bytes."""
    report = m.make_report()
    paths = probes.write_report(report, tmp_path / "new" / "folder")
    assert {path.parent.name for path in paths} == {"folder", "tables", "plots"}
    document = json.loads((tmp_path / "new/folder/report.json").read_text())
    written = {path.relative_to(tmp_path / "new/folder").as_posix() for path in paths}
    assert {*document.pop("files"), "report.json"} == written
    assert document == json.loads(json.dumps(report.to_dict()))
    assert all(path.is_file() for path in paths)
    for path in paths:
        if path.suffix == ".png":
            assert len({tuple(pixel) for row in imread(path)[::5, ::5] for pixel in row}) > 10
    again = probes.write_report(report, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    text = (tmp_path / "again" / "report.md").read_text()
    shown_plots = re.findall(r"\]\((plots/[^)]+)\)", text)
    assert len(shown_plots) == 6
    assert all((tmp_path / "again" / name).is_file() for name in shown_plots)


@pytest.mark.slow
def test_a_second_report_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    """Tables and plots that the second one lacks are gone; files of others in these folders stay."""
    probes.write_report([m.make_report(), m.make_report(encoder="other")], tmp_path)
    theirs = tmp_path / "plots" / "mine.png"
    theirs.write_text("keep")
    paths = probes.write_report(m.make_report(layers=1, full=False), tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*paths, theirs}


@pytest.mark.parametrize("name", ["report.md", "report.json", "plots/curve.png", "tables/quality.csv"])
def test_files_of_others_are_neither_replaced_nor_removed(tmp_path: Path, name: str) -> None:
    """A folder that holds files of our names, which no report of ours lists, is refused before the work."""
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("mine")
    for write in (probes.make_folder, lambda folder: probes.write_report(m.make_report(), folder)):
        with pytest.raises(ParameterError, match=r"which is no report of embedstore; choose another folder"):
            write(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "mine"
    with pytest.raises(ParameterError, match="has no name"):
        probes.make_folder("")


def test_odd_names_and_numbers_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is no UTF-8, or a NaN, does not end the run at its last step; JSON reads it back."""
    monkeypatch.setattr("probes.report.files.save", lambda figure, folder: [])
    report = m.make_report(layers=1, full=False)
    odd = replace(report.results[0], per_class={**report.results[0].per_class, "jazz": float("nan")})
    report = replace(report, source={"encoder": "e", "store": "caf\udce9"}, results=(odd,))
    probes.write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["results"][0]["per_class"]["jazz"] is None
    assert json.loads((tmp_path / "report.json").read_text())["source"]["store"] == "caf\udce9"
    assert "caf\\udce9" in (tmp_path / "report.html").read_text()


def test_an_audit_stands_alone_or_inside(capsys: pytest.CaptureFixture[str]) -> None:
    """The groupings with their gaps, the verdict and the pairs are in both."""
    audit = m.make_audit()
    probes.print_report(audit)
    alone = capsys.readouterr().out
    probes.print_report(m.make_report(), audit=audit)
    for out in (alone, capsys.readouterr().out):
        assert re.search(r"none +300 +0\.700 \[0\.660, 0\.740\] +\+0\.200 \[\+0\.150, \+0\.250\]", out)
        assert re.search(r"near-duplicate +100 +0\.500 \[0\.460, 0\.540\]$", out, re.MULTILINE)
        assert "leak: macro-f1 is too high" in out
        assert "a/<b>one.mp3" in out
    assert Contents.of(audit).title == "Leak audit of music2vec"
    (figure,) = Contents.of(audit).figures
    texts = [text.get_text() for text in draw(figure).axes[0].texts]
    assert texts == ["+0.200", "+0.190", "+0.100", "no leak seen"]


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    """A file in the place of the folder is one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match=r"the report cannot be written to .*file"):
        probes.write_report(m.make_report(layers=1, full=False), tmp_path / "file")
