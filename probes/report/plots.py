"""Plots of a report: files for papers, and SVG that stands in the page and takes its colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET

import numpy as np

from probes.report.parts import Figure, shorten, title_of
from probes.report.words import basis
from probes.results import Interval, ProbeReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["draw", "inline", "save"]

# Okabe and Ito's colours, told apart with every kind of colour vision; shapes say the same
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vPX*"
INK, GREY, FAINT = "#1a1a1a", "#666666", "#dddddd"
# the page names each colour, so that it can have another one in the dark
_NAMED = {INK: "--ink", GREY: "--soft", FAINT: "--line"} | {c: f"--c{n}" for n, c in enumerate(SERIES, 1)}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "svg.hashsalt": "embedstore",
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name starts no formula
    "xtick.color": INK,
    "ytick.color": INK,
}
_LINES = ("--", ":", "-.", (0, (1, 3)))


@contextmanager
def _styled(**more: Any) -> Iterator[None]:
    from matplotlib import rc_context

    with warnings.catch_warnings(), rc_context(_STYLE | more):
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks is drawn as a box
        yield


def draw(figure: Figure) -> Canvas:
    """Draw a plot without its title."""
    with _styled():
        return _DRAWN[figure.kind](figure)


def save(figure: Figure, folder: Path) -> list[Path]:
    """Write a plot with its title as PNG and SVG."""
    paths = [folder / f"{figure.name}.png", folder / f"{figure.name}.svg"]
    with _styled():
        canvas = _DRAWN[figure.kind](figure)
        about = [", ".join(figure.names) or "", *(basis(one) for one in figure.reports[:1])]
        title = f"{shorten(figure.title, 90)}\n{shorten('; '.join(filter(None, about)), 110)}"
        canvas.suptitle(title.strip(), fontsize=9.5, x=0.01, ha="left")
        canvas.savefig(paths[0], dpi=160)
        canvas.savefig(paths[1], metadata={"Date": None})
    return paths


def inline(figure: Figure) -> str:
    """Draw a plot as an SVG element of an HTML page: real text, colours by name, no identifier twice on the page.

    Names in it are escaped by the XML writer.
    """
    stream = io.BytesIO()
    with _styled(**{"svg.fonttype": "none"}):
        canvas = _DRAWN[figure.kind](figure)
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(stream.getvalue())  # noqa: S314 - matplotlib wrote it
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            name = key.rpartition("}")[2]
            del element.attrib[key]
            element.set(name, _own(name, value, figure.name))
    natural = float(root.attrib["viewBox"].split()[2])
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-label": figure.alt, "style": f"--natural: {natural / 10:.1f}rem"}
    return ET.tostring(root, encoding="unicode")


def _own(name: str, value: str, figure: str) -> str:
    if name == "id":
        return f"{figure}-{value}"
    if name == "href":
        return value.replace("#", f"#{figure}-", 1)
    value = value.replace("url(#", f"url(#{figure}-")
    value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
    return re.sub(r"#[0-9a-f]{6}", lambda hit: f"var({_NAMED[hit[0]]})" if hit[0] in _NAMED else hit[0], value)


def _axes(
    width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> tuple[Canvas, Axes]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout=layout)
    axes = canvas.add_subplot()
    axes.set_axisbelow(True)
    return canvas, axes


def _points(axes: Axes, x: Any, intervals: Sequence[Interval], number: int, label: str) -> None:
    """Draw points with their intervals."""
    values = [i.value for i in intervals]
    ends = np.array([[i.value - i.low for i in intervals], [i.high - i.value for i in intervals]]).clip(min=0)
    look: dict[str, Any] = {
        "color": SERIES[number % 6],
        "marker": MARKERS[number % 8],
        "ms": 5.5,
        "ls": "none",
        "capsize": 2.5,
        "lw": 1.4,
    }
    axes.errorbar(x, values, ends, label=label, **look)


def _legend(canvas: Canvas) -> None:
    """Set the legend under the plot, in two columns if they fit."""
    _, labels = canvas.axes[0].get_legend_handles_labels()
    columns = 2 if len(labels) > 1 and max(map(len, labels)) * 2 < 13 * canvas.get_figwidth() else 1
    canvas.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _layers(figure: Figure) -> Canvas:
    """Draw the main measure of each layer with its interval, the nested choice, and the baselines."""
    reports = figure.reports
    names = list(dict.fromkeys(str(result.layer) for report in reports for result in report.results))
    canvas, axes = _axes(max(5.8, 0.36 * len(names) + 2), 3.9)
    for number, (report, name) in enumerate(zip(reports, figure.names, strict=True)):
        shift = 0.5 * (number - (len(reports) - 1) / 2) / len(reports)
        x = [names.index(str(result.layer)) + shift for result in report.results]
        scores = [result.main for result in report.results]
        numbered = [
            (at, s.value) for at, s, r in zip(x, scores, report.results, strict=True) if isinstance(r.layer, int)
        ]
        axes.plot(*zip(*numbered, strict=True), color=SERIES[number % 6], lw=1.2, alpha=0.6) if numbered else None
        alone = len(reports) == 1
        _points(axes, x, scores, number, "each layer" if alone else shorten(name))
        if alone:
            _references(axes, report, x)
        else:
            text, color = f"{shorten(name)}: chosen inside training", SERIES[number % 6]
            axes.axhline(report.selected.main.value, label=text, color=color, lw=1.2, ls=_LINES[number % 4])
    tall = max(score.main.high for report in reports for score in (*report.results, report.selected))
    axes.set_ylim(0, min(1.02, max(1.15 * tall, 0.1)))
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.set(xlabel="layer", ylabel=f"{title_of(reports[0].measure)} (95 % interval)")
    axes.grid(axis="y")
    _legend(canvas)
    return canvas


def _references(axes: Axes, report: ProbeReport, x: Sequence[float]) -> None:
    chosen = report.selected.main
    axes.axhspan(chosen.low, chosen.high, color=SERIES[1], alpha=0.13, lw=0)
    axes.axhline(chosen.value, color=SERIES[1], lw=1.5, label=f"chosen inside training: {chosen}")
    for number, (name, score) in enumerate(report.baselines.items()):
        text = f"{title_of(name)}: {score.main.value:.3f}"
        axes.axhline(score.main.value, label=text, color=GREY, ls=_LINES[number % 4], lw=1.3)
    best = next((n for n, result in enumerate(report.results) if result.layer == report.best_layer), 0)
    if len(x) > 1:
        at = report.results[best].main.value
        axes.plot(x[best], at, "o", ms=12, mfc="none", mec=SERIES[0], mew=1.5, label="preferred by inner scores")


def _classes(figure: Figure) -> Canvas:
    """Draw F1 or average precision of each class, the best at the top."""
    first = figure.reports[0].selected.per_class
    names = dict.fromkeys(name for report in figure.reports for name in report.genres)
    order = sorted(names, key=lambda name: first.get(name, -1.0))
    canvas, axes = _axes(5.6, 1.1 + 0.27 * len(order))
    for number, (report, name) in enumerate(zip(figure.reports, figure.names, strict=True)):
        values = [report.selected.per_class.get(each, np.nan) for each in order]
        look: dict[str, Any] = {"color": SERIES[number % 6], "marker": MARKERS[number % 8], "ms": 6, "ls": "none"}
        axes.plot(values, range(len(order)), label=shorten(name), **look)
        if len(figure.reports) == 1:
            axes.hlines(range(len(order)), 0, np.nan_to_num(values), color=SERIES[0], lw=1.6, alpha=0.45)
    axes.set_yticks(range(len(order)), [shorten(name) for name in order])
    axes.set(xlim=(-0.015, 1.02), ylim=(-0.7, len(order) - 0.3), xlabel=figure.title.split(" of ")[0])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    if len(figure.reports) > 1:
        _legend(canvas)
    return canvas


def _curve(figure: Figure) -> Canvas:
    """Draw the main measure against the size of the training part."""
    canvas, axes = _axes(5.6, 3.7)
    lines = [  # stratified parts and parts with so many of each genre are two curves
        (name, [point for point in report.curve if point.shots == shots], " (so many per genre)" if shots else "")
        for report, name in zip(figure.reports, figure.names, strict=True)
        for shots in (False, True)
    ]
    lines = [line for line in lines if line[1]]
    for number, (name, points, how) in enumerate(lines):
        points.sort(key=lambda point: point.n_train)
        x, scores = [point.n_train for point in points], [point.selected.main for point in points]
        axes.plot(x, [score.value for score in scores], color=SERIES[number % 6], lw=1.3, alpha=0.7)
        _points(axes, x, scores, number, shorten(name) + how)
    sizes = sorted({point.n_train for report in figure.reports for point in report.curve})
    if sizes[-1] > 8 * sizes[0]:
        axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlabel="training tracks", ylabel=f"{title_of(figure.reports[0].measure)} (95 % interval)")
    axes.set_ylim(0, min(1.02, 1.15 * max(p.selected.main.high for r in figure.reports for p in r.curve)))
    axes.grid(axis="y")
    if len(lines) > 1:
        _legend(canvas)
    return canvas


def _audit(figure: Figure) -> Canvas:
    """Draw the score under each grouping, the loosest first, and what is left under the strictest."""
    groupings = figure.audit.groupings
    canvas, axes = _axes(5.8, 3.4)
    scores = [grouping.score.main for grouping in groupings]
    _points(axes, range(len(scores)), scores, 0, "score under this grouping")
    axes.axhspan(scores[-1].low, scores[-1].high, color=SERIES[1], alpha=0.13, lw=0)
    axes.axhline(scores[-1].value, color=SERIES[1], lw=1.3, label="under the strictest, and its interval")
    for place, grouping in enumerate(groupings[:-1]):
        text = f"{grouping.gap.value:+.3f}" if grouping.leaks else "no leak seen"
        axes.annotate(text, (place, scores[place].high), (0, 5), textcoords="offset points", ha="center", fontsize=8.5)
    axes.set_xticks(range(len(scores)), [grouping.name for grouping in groupings])
    axes.set(xlabel="kept on one side of each split", ylabel=f"{title_of(figure.audit.measure)} (95 % interval)")
    axes.set(xlim=(-0.5, len(scores) - 0.5), ylim=(0, min(1.02, 1.2 * max(score.high for score in scores))))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    _legend(canvas)
    return canvas


def _search(figure: Figure) -> Canvas:
    """Draw the main score of each layer under each transform, and of the first with the query's own artist, too."""
    search = figure.search
    names = list(dict.fromkeys(str(one.layer) for one in search.results))
    canvas, axes = _axes(max(5.8, 0.5 * len(names) + 2), 3.9)
    transforms = search.protocol["transforms"]
    for number, kind in enumerate(transforms):
        some = [one for one in search.results if one.transform == kind]
        shift = 0.6 * (number - (len(transforms) - 1) / 2) / len(transforms)
        scores = [one.filtered["map"] if one.filtered else one.triplets for one in some]
        _points(axes, [names.index(str(one.layer)) + shift for one in some], scores, number, f"transform: {kind}")
        if not number and search.genres:
            look: dict[str, Any] = {"color": GREY, "marker": "_", "ms": 9, "ls": "none"}
            x = [names.index(str(one.layer)) + shift for one in some]
            axes.plot(x, [one.unfiltered["map"].value for one in some], label=f"{kind}, own artist included", **look)
    chance = search.chance["filtered"]["map"] if search.genres else 0.5
    axes.axhline(chance, color=GREY, ls="--", lw=1.3, label=f"chance: {chance:.3f}")
    if search.genres:
        by_artist = search.chance["by_artist"]["map"]
        axes.axhline(by_artist, color=GREY, ls=":", lw=1.3, label=f"chance, by artist: {by_artist:.3f}")
    measure = "mAP" if search.genres else "share of triplets"
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="layer", ylabel=f"{measure} (95 % interval)", ylim=(0, None), xlim=(-0.6, len(names) - 0.4))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    _legend(canvas)
    return canvas


def _weights(figure: Figure) -> Canvas:
    """Draw the learned weight of each layer; the bar is its deviation over folds and seeds."""
    weighted = [result for result in figure.reports[0].results if result.weights]
    names = list(dict.fromkeys(name for result in weighted for name in result.weights or {}))
    canvas, axes = _axes(max(5.8, 0.36 * len(names) + 1.5), 3.2)
    for number, result in enumerate(weighted):
        spread = result.weights or {}
        values = [Interval(m, m - sd, m + sd) for m, sd in spread.values()]
        shift = 0.4 * (number - (len(weighted) - 1) / 2) / len(weighted)
        _points(axes, [names.index(name) + shift for name in spread], values, number, shorten(result.name))
    axes.axhline(1 / len(names), color=GREY, ls="--", lw=1.2, label="all equal")
    labels = [shorten(name.removeprefix("layer "), 18) for name in names]
    axes.set_xticks(range(len(names)), labels)
    axes.tick_params(axis="x", labelrotation=90 if max(map(len, labels)) > 3 else 0, length=0)
    axes.set(xlabel="layer", ylabel="weight (mean, deviation)", ylim=(0, None), xlim=(-0.6, len(names) - 0.4))
    axes.grid(axis="y")
    _legend(canvas)
    return canvas


def _confusion(figure: Figure) -> Canvas:
    """Draw where the tracks of each genre went, in per cent of the genre."""
    found = figure.reports[0].confusion or {"labels": [], "matrix": []}
    counts = np.array(found["matrix"], dtype=float)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    canvas = _matrix(share, found["labels"], "% of the true genre's tracks", 100, "{:.0f}", least=0.5)
    canvas.axes[0].set(xlabel="predicted genre", ylabel="true genre")
    return canvas


def _cka(figure: Figure) -> Canvas:
    """Draw linear CKA of each pair of layers."""
    quality = figure.reports[0].quality or {}
    values = np.array(quality["cka"]["matrix"], dtype=float)
    canvas = _matrix(values, [str(name) for name in quality["cka"]["layers"]], "linear CKA", 1, "{:.2f}", least=0.0)
    canvas.axes[0].set(xlabel="layer", ylabel="layer")
    return canvas


def _matrix(values: Any, labels: Sequence[str], title: str, most: float, style: str, *, least: float) -> Canvas:
    side = 2.2 + 0.4 * len(labels)
    canvas, axes = _axes(side + 0.9, side, "compressed")
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=most)
    for (row, column), value in np.ndenumerate(values):
        if value >= least:
            color = "white" if value > 0.55 * most else INK
            axes.text(column, row, style.format(value), ha="center", va="center", color=color, fontsize=7.5)
    names = [shorten(label) for label in labels]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    canvas.colorbar(image, ax=axes, shrink=0.8, label=title).outline.set_visible(False)
    return canvas


_DRAWN: dict[str, Callable[[Figure], Canvas]] = {
    "layers": _layers,
    "classes": _classes,
    "curve": _curve,
    "audit": _audit,
    "search": _search,
    "weights": _weights,
    "confusion": _confusion,
    "cka": _cka,
}
