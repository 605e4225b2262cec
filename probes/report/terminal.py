"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.terminal import console, printable, show_table
from probes.report.contents import Contents, Found, layer_table
from probes.report.parts import Section, Table, Words, shown
from probes.report.words import basis, sentences

if TYPE_CHECKING:
    from probes.audit import AuditReport
    from probes.retrieval import SearchReport

__all__ = ["print_report"]

_PAIRS = 3


def print_report(
    found: Found,
    files: Sequence[Path] = (),
    *,
    audit: AuditReport | None = None,
    search: SearchReport | None = None,
) -> None:
    """Print tables and notes on stdout, and which files were written.

    Parameters
    ----------
    found : ProbeReport, Study, sequence of ProbeReport, AuditReport, or SearchReport
        Several stand side by side.
    files : sequence of Path
        What `write_report` wrote.
    audit : AuditReport, optional
    search : SearchReport, optional
    """
    contents = Contents.of(found, audit, search)
    for report, _, title, end in contents.each():
        _show(layer_table(report), f"{report.probe} probe{title}: {basis(report)}")
        for table in contents.tables:
            if table.name in (f"curve{end}", f"quality{end}"):
                _show(table)
        _say([f"- {line}" for line in sentences(report)])
    for table in contents.tables:
        if table.name in ("side-by-side", "audit", "search", "search-transforms") or (
            contents.comparisons and table.name == "comparisons"
        ):
            _show(table)
        elif table.name == "audit-pairs":  # a few of each kind; the files have more
            few = [list(islice(rows, _PAIRS)) for _, rows in groupby(table.rows, key=lambda row: row[0])]
            _show(replace(table, rows=tuple(chain.from_iterable(few))))
    _say(
        [
            f"- {line}"
            for section in contents.sections
            if section.anchor in ("audit", "search")
            for line in _lines(section)
        ]
    )
    _say(_written(files))


def _show(table: Table, title: str | None = None) -> None:
    """Print what there is room for: no column that is empty in each row."""
    table = table.filled()
    kept = [(number, column) for number, column in enumerate(table.columns) if not column.wide]
    heads = [column.title + ">" * (column.form != "text") for _, column in kept]
    rows = [[shown(row[number], column.form) for number, column in kept] for row in table.rows]
    show_table(heads, rows, title=title or table.title)


def _say(lines: Sequence[str]) -> None:
    out = console()
    for line in lines:
        out.print(printable(line), markup=False)


def _lines(section: Section) -> Iterator[str]:
    return (line for block in section.blocks if isinstance(block, Words) for line in block.lines)


def _written(files: Sequence[Path]) -> list[str]:
    folders = groupby(files, key=lambda path: path.parent)
    return [f"wrote {folder}: {', '.join(path.name for path in paths)}" for folder, paths in folders]
