"""A report as one HTML page that needs nothing else: no network, no script, plots inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedstore import __version__
from probes.report.contents import Contents
from probes.report.parts import Facts, Figure, Table, Words, shorten, shown
from probes.report.plots import inline

__all__ = ["page_of"]

_KINDS = {Table: "table", Figure: "figure", Facts: "facts", Words: "words"}


def page_of(contents: Contents) -> str:
    """Write the page; all names in it are escaped by the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "drawn": lambda figure: Markup(inline(figure)),  # noqa: S704 - the XML writer escaped the names
        "depth": _depth,
        "kind": lambda block: _KINDS[type(block)],
        "shorten": shorten,
        "shown": shown,
        "titles": lambda table: [column.title for column in table.columns[1:]],
        "version": __version__,
    }
    return environment.get_template("page.html").render(contents=contents)


def _depth(table: Table, row: tuple[Any, ...], number: int) -> float | None:
    """How dark a cell of a shaded table is, 0 to 1: a count is a share of its row."""
    value = row[number]
    if not (table.heat and number) or value is None or value != value:  # noqa: PLR0124 - NaN is not itself
        return None
    whole = max(sum(row[1:]), 1) if table.columns[number].form == "count" else 1
    return round(min(max(float(value / whole), 0.0), 1.0), 3)
