"""Tables and reports as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

from embedstore.terminal import printable
from probes.report.contents import Contents
from probes.report.parts import Column, Facts, Figure, Table, Words, shown

__all__ = ["csv_of", "latex_of", "latex_text", "markdown_of", "markdown_report", "markdown_text", "plain_rows"]

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def csv_of(table: Table) -> str:
    """Write a table with all digits; no text in it is a formula, see `embedstore.search.playlists.csv_of`."""
    from embedstore.search.playlists import cell

    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(
        [value if value == "-" else cell(value) for value in row] for row in plain_rows(table)
    )
    return stream.getvalue()


def plain_rows(table: Table) -> list[list[Any]]:
    """Give the heads, then the rows, as text and numbers; a score with an interval takes three columns."""
    ranged = [any(hasattr(row[number], "low") for row in table.rows) for number in range(len(table.columns))]
    heads = [
        ([c.key, f"{c.key}_low", f"{c.key}_high"] if r else [c.key]) for c, r in zip(table.columns, ranged, strict=True)
    ]
    rows = [[_ends(cell) if r else [cell] for cell, r in zip(row, ranged, strict=True)] for row in table.rows]
    return [[cell for group in row for cell in group] for row in (heads, *rows)]


def _ends(cell: Any) -> list[Any]:
    if not hasattr(cell, "low"):
        return [cell, None, None]
    return [cell.value, *(None if end != end else end for end in (cell.low, cell.high))]  # noqa: PLR0124 - NaN


def markdown_of(table: Table) -> str:
    """Write a table for GitHub and other readers of pipe tables."""
    heads, rows = _texts(table, markdown_text)
    rules = [("---" if column.form == "text" else "--:") for column in _narrow(table)]
    lines = [heads, rules, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def latex_of(table: Table) -> str:
    """Write a table for a paper, to be read with ``\\input``; needs the package booktabs."""  # noqa: D301
    heads, rows = _texts(table, latex_text)
    spec = "".join("l" if column.form == "text" else "r" for column in _narrow(table))
    # a row that starts with [ or * would be read as an option of the line break above it
    first, *body = [rf"{'{}' * row[0].startswith(('[', '*'))}{' & '.join(row)} \\" for row in (heads, *rows)]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        first,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown_report(contents: Contents) -> str:
    """Write the whole report but its shaded tables, whose plots stand in their places."""
    lines = [f"# {markdown_text(contents.title)}"]
    for section in contents.sections:
        lines.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, Words):
                lines += [f"**{markdown_text(block.title)}**"] * bool(block.title)
                lines.append("\n".join(f"- {markdown_text(line)}" for line in block.lines))
            elif isinstance(block, Figure):
                lines.append(f"![{markdown_text(block.alt)}](plots/{block.name}.png)")
            elif isinstance(block, Facts):
                rows = [f"- {markdown_text(name)}: {markdown_text(value)}" for name, value in block.rows]
                lines += [f"**{markdown_text(block.title)}**", "\n".join(rows)]
            elif not block.heat:
                lines += [f"**{markdown_text(block.title)}**", markdown_of(block).rstrip("\n")]
    return "\n\n".join(lines) + "\n"


def markdown_text(text: object) -> str:
    r"""Take the meaning from characters that Markdown reads as marks.

    >>> print(markdown_text("R&B | <script> *loud*"))
    R\&B \| \<script\> \*loud\*
    """
    return re.sub(r"([\\`*_\[\]<>|~$&!#])", r"\\\1", printable(text))


def latex_text(text: object) -> str:
    r"""Take the meaning from characters that LaTeX reads as commands.

    >>> print(latex_text("R&B 100 %"))
    R\&B 100 \%
    """
    return "".join(_LATEX.get(character, character) for character in printable(text)).replace("--", "-{}-")


def _narrow(table: Table) -> list[Column]:
    return [column for column in table.columns if not column.wide]


def _texts(table: Table, escape: Callable[[object], str]) -> tuple[list[str], list[list[str]]]:
    """Give heads and cells as text; what stands in a cell of numbers is ours and needs no escape."""
    kept = [(number, column) for number, column in enumerate(table.columns) if not column.wide]
    rows = [
        [escape(text) if column.form == "text" else text for n, column in kept for text in [shown(row[n], column.form)]]
        for row in table.rows
    ]
    return [escape(column.title) for _, column in kept], rows
