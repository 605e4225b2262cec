"""The parts that a report is made of, and how a cell reads: the same in every format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from embedstore.terminal import printable
from probes.results import ProbeReport

__all__ = ["Column", "Facts", "Figure", "Section", "Table", "Words", "shorten", "shown", "title_of"]

_TITLES = {
    "macro_f1": "macro-F1",
    "map": "mAP",
    "r_precision": "R-precision",
    "roc_auc": "ROC-AUC",
    "mfcc": "MFCC",
    "logme": "LogME",
    "h_score": "H-score",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    key : str
        Its name in the CSV file.
    title : str
    form : {"text", "count", "score", "value", "difference", "p", "number"}
        How a cell reads: see `shown`.
    wide : bool
        Only where there is room for it: HTML and CSV.
    """

    key: str
    title: str
    form: str = "text"
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Cells as they are (text, numbers, `Interval`, None); each format decides how they read.

    Attributes
    ----------
    name : str
        Of its files.
    title : str
    columns : tuple of Column
    rows : tuple of tuples
    heat : bool
        A matrix whose cells are shaded: numbers from 0 to 1, or counts by their share of the row; in HTML and CSV only.
    marked : tuple of int
        Rows to stand out.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    heat: bool = False
    marked: tuple[int, ...] = ()

    def filled(self) -> Table:
        """Leave out columns in which no row has anything."""
        kept = [n for n in range(len(self.columns)) if any(row[n] not in (None, "") for row in self.rows)]
        rows = tuple(tuple(row[n] for n in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[n] for n in kept), rows=rows)


@dataclass(frozen=True)
class Figure:
    """A plot to be drawn by `probes.report.plots`.

    Attributes
    ----------
    name : str
        Of its files.
    kind : str
        Which plot.
    title : str
    alt : str
        What it shows, for those who do not see it.
    reports : tuple of ProbeReport
    names : tuple of str
        Of the reports.
    on_page : bool
        False: a shaded table stands in its place on the page.
    audit : AuditReport, optional
    search : SearchReport, optional
    """

    name: str
    kind: str
    title: str
    alt: str
    reports: tuple[ProbeReport, ...]
    names: tuple[str, ...]
    on_page: bool = True
    audit: Any = None
    search: Any = None


@dataclass(frozen=True)
class Facts:
    """Names and values under a title."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Words:
    """Sentences, under a title where it has one."""

    lines: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    anchor: str
    title: str
    blocks: tuple[Table | Figure | Facts | Words, ...]


def title_of(name: str) -> str:
    """Name a measure for people.

    >>> title_of("macro_f1"), title_of("balanced_accuracy")
    ('macro-F1', 'balanced accuracy')
    """
    return _TITLES.get(name, printable(name.replace("precision_at_", "P@").replace("_", " ")))


def shorten(text: object, most: int = 28) -> str:
    """Cut the middle out of a long name.

    >>> shorten("progressive electronic dance music", 16)
    'progress…e music'
    """
    text = printable(text)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 - most + most // 2 :]}"


def shown(cell: Any, form: str) -> str:
    """Write a cell for people.

    ``"value"`` is a score without its interval, ``"number"`` has four digits wherever its point stands; what is not there
    (None, NaN) is empty, an interval that is not there a dash.

    >>> from probes.results import Interval
    >>> shown(Interval(0.5, 0.41, 0.6), "score"), shown(0.1, "difference"), shown(0.0004, "p")
    ('0.500 [0.410, 0.600]', '+0.100', '< 0.001')
    """
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN is not itself
        return ""
    if isinstance(cell, str) or form in ("text", "count"):
        return printable(f"{cell:,}" if form == "count" else cell)
    if form == "p":
        return "< 0.001" if cell < 0.001 else f"{cell:.3f}"
    if form == "number":
        return f"{cell:.4g}"
    style = "{:+.3f}" if form == "difference" else "{:.3f}"
    value, *ends = [style.format(x) for x in ((cell.value, cell.low, cell.high) if hasattr(cell, "value") else (cell,))]
    if not ends or form == "value":
        return value
    return f"{value} [{'-' if cell.low != cell.low else ', '.join(ends)}]"  # NaN is not itself
