"""A report for people: terminal table, JSON, CSV, plots. Computes nothing."""

from __future__ import annotations

import csv
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import ParameterError
from embedstore.terminal import console, printable, show_table
from probes.results import LayerResult, ProbeReport, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["make_folder", "print_report", "write_report"]

# Okabe and Ito's colours, told apart with every kind of colour vision
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
_MEASURES = ("macro_f1", "accuracy", "balanced_accuracy")


def print_report(report: ProbeReport, files: Sequence[Path] = ()) -> None:
    """Print the table of layers and baselines, and the notes, on stdout."""
    rows = [_row(str(result.layer), result.name, result, _remark(report, result)) for result in report.results]
    rows.append(
        _row("selected", report.selected.name, report.selected, f"layers {_times(report.selected.layers or {})}")
    )
    for name, score in report.baselines.items():  # no interval: it would leave out how the labels fell
        label, shown, f1, _, *rest = _row("-", name.replace("_", " "), score, "baseline")
        rows.append((label, shown, f1, "", *rest))
    columns = ("layer>", "name", "macro-F1>", "95 % interval", "accuracy>", "balanced>", "chosen")
    show_table(columns, rows, title=f"{report.probe} probe: {_basis(report)}")
    out = console()
    for line in _lines(report, files):
        out.print(printable(line), markup=False)


def _row(label: str, name: str, score: Score, remark: str) -> tuple[str, ...]:
    f1 = score.macro_f1
    numbers = (f"{score.accuracy.value:.3f}", f"{score.balanced_accuracy.value:.3f}")
    return (
        label,
        "" if name == f"layer {label}" else name,
        f"{f1.value:.3f}",
        f"{f1.low:.3f} .. {f1.high:.3f}",
        *numbers,
        remark,
    )


def _remark(report: ProbeReport, result: LayerResult) -> str:
    best = "  <- preferred" if len(report.results) > 1 and result.layer == report.best_layer else ""
    return _times(result.settings) + best


def _times(counted: Mapping[str, int], most: int = 3) -> str:
    shown = [f"{name} ({count} x)" for name, count in list(counted.items())[:most]]
    return ", ".join(shown) + (", ..." if len(counted) > most else "")


def _basis(report: ProbeReport) -> str:
    p = report.protocol
    groups = f"{p['groups']} artist groups" if p["group"] == "artist" else "artists not grouped"
    return (
        f"{report.n_tracks} tracks, {len(report.genres)} genres, {groups}, {p['folds']} folds x {len(p['seeds'])} seeds"
    )


def _lines(report: ProbeReport, files: Sequence[Path]) -> list[str]:
    """Say in words what the numbers rest on."""
    p = report.protocol
    unit = "artist groups" if p["group"] == "artist" else "tracks"
    lines = [
        (
            "quote the row 'selected': its layer and settings were chosen inside each training part; the preferred layer's "
            "own row was picked with all tracks and is optimistic"
        ),
        (
            f"intervals: 95 %, bootstrap over {p['groups']} {unit}, {p['resamples']} resamples, bias-corrected; they tell "
            "of other tracks to test on, not of another training set"
        ),
        *report.notes,
    ]
    for result in report.results:
        if result.weights:
            learned = ", ".join(f"{name} {mean:.2f} +- {sd:.2f}" for name, (mean, sd) in result.weights.items())
            lines.append(f"learned layer weights (mean +- deviation over folds and seeds): {learned}")
    return [f"- {line}" for line in lines] + [f"wrote {path}" for path in files]


def make_folder(folder: str | Path) -> Path:
    """Make the folder of a report, or say that it cannot be had.

    Raises
    ------
    ParameterError
        It cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ParameterError(f"the report cannot be written to {folder}: {error.strerror or error}") from error
    return folder


def write_report(report: ProbeReport, folder: str | Path) -> list[Path]:
    """Write report.json, layers.csv, and the plots layers and confusion as PNG and SVG.

    Parameters
    ----------
    report : ProbeReport
    folder : path
        Made if it is not there.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ParameterError
        The folder cannot be made or written to.
    """
    folder = make_folder(folder)
    try:
        document, page = folder / "report.json", folder / "layers.csv"
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        document.write_text(text + "\n", encoding="utf-8")
        with page.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_csv_rows(report))
        plots = {"layers": layer_curve(report), "confusion": confusion_matrix(report)}
        return [document, page, *(path for name, figure in plots.items() for path in _save(figure, folder / name))]
    except OSError as error:
        raise ParameterError(f"the report cannot be written to {folder}: {error.strerror or error}") from error


def _csv_rows(report: ProbeReport) -> list[list[Any]]:
    ends = [f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")]
    rows: list[list[Any]] = [["row", "name", *ends, "inner_macro_f1", "settings"]]
    named: list[tuple[str, str, Score]] = [(str(r.layer), r.name, r) for r in report.results]
    named.append(("selected", report.selected.name, report.selected))
    named += [("baseline", name, score) for name, score in report.baselines.items()]
    for label, name, score in named:
        numbers = [x for m in _MEASURES for i in [getattr(score, m)] for x in (i.value, i.low, i.high)]
        chosen = [score.inner_f1, _times(score.settings, most=99)] if isinstance(score, LayerResult) else ["", ""]
        rows.append([label, name, *numbers, *chosen])
    return rows


def layer_curve(report: ProbeReport) -> Figure:
    """Draw macro-F1 of each layer with its interval, the nested choice, and the baselines."""
    from matplotlib.figure import Figure

    results = report.results
    figure = Figure(figsize=(max(6.5, 0.55 * len(results) + 3), 4.4), layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(len(results))
    f1 = [result.macro_f1 for result in results]
    spread = np.array([[i.value - i.low for i in f1], [i.high - i.value for i in f1]]).clip(min=0)
    chosen = report.selected.macro_f1
    axes.axhspan(chosen.low, chosen.high, color=ORANGE, alpha=0.13, lw=0)
    axes.axhline(chosen.value, color=ORANGE, lw=1.6, label=f"layer chosen inside training: {chosen}")
    axes.errorbar(x, [i.value for i in f1], spread, color=BLUE, marker="o", ms=6, lw=1.6, capsize=3, label="each layer")
    for (name, score), style in zip(report.baselines.items(), ("--", ":"), strict=False):
        axes.axhline(
            score.macro_f1.value,
            color=GREY,
            ls=style,
            lw=1.4,
            label=f"{name.replace('_', ' ')}: {score.macro_f1.value:.3f}",
        )
    best = next(number for number, result in enumerate(results) if result.layer == report.best_layer)
    if len(results) > 1:
        axes.plot(best, f1[best].value, "o", ms=13, mfc="none", mec=BLUE, mew=1.6, label="preferred by inner scores")
    named = any(result.name not in (str(result.layer), f"layer {result.layer}") for result in results)
    labels = [f"{r.layer}\n{r.name}" if named else str(r.layer) for r in results]
    crowded = named and max(len(r.name) for r in results) > 9 and len(results) > 1
    axes.set_xticks(x, [label.replace("\n", "  ") for label in labels] if crowded else labels)
    _plain_ticks(axes, rotation=30 if crowded else 0)
    axes.set_xlim(-0.5, len(results) - 0.5)
    axes.set_ylim(0, min(1.0, max(1.25 * max(i.high for i in (*f1, chosen)), 0.1)))
    axes.set_xlabel("layer")
    axes.set_ylabel("macro-F1 (95 % interval)")
    _title(axes, f"What each layer knows about genre: {report.probe} probe", _basis(report))
    axes.grid(axis="y", color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def confusion_matrix(report: ProbeReport) -> Figure:
    """Draw where each genre's tracks went, in per cent of the genre."""
    from matplotlib.figure import Figure

    labels = report.confusion["labels"]
    counts = np.array(report.confusion["matrix"], dtype=float)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.6 + 0.42 * len(labels)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.5:
            color = "white" if value > 55 else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    _plain_ticks(axes, rotation=45)
    axes.set_xlabel("predicted genre")
    axes.set_ylabel("true genre")
    chosen = report.selected
    f1 = chosen.macro_f1.value
    _title(axes, f"{report.probe} probe, layer chosen inside training", f"macro-F1 {f1:.3f}; {_basis(report)}")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true genre's tracks").outline.set_visible(False)
    return figure


def _title(axes: Axes, title: str, basis: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=21, parse_math=False)
    axes.text(0, 1.01, basis, transform=axes.transAxes, va="bottom", fontsize=8.5, color=GREY, parse_math=False)


def _plain_ticks(axes: Axes, rotation: int) -> None:
    """Show names as they are: a dollar sign starts no formula, and long names lean."""
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    if rotation:
        for label in axes.get_xticklabels():
            label.set(rotation=rotation, ha="right", rotation_mode="anchor")


def _save(figure: Figure, stem: Path) -> list[Path]:
    from matplotlib import rc_context

    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "embedstore"}):
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks is drawn as a box
        figure.savefig(paths[0], dpi=160)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
