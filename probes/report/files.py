"""A report as files: a page, Markdown and JSON; tables and plots in folders beside them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.errors import ParameterError
from probes.report.contents import Contents, Found
from probes.report.formats import csv_of, latex_of, markdown_report
from probes.report.page import page_of
from probes.report.plots import save
from probes.results import Study

if TYPE_CHECKING:
    from probes.audit import AuditReport

__all__ = ["make_folder", "write_report"]

_OURS = re.compile(
    r"(layers|side-by-side|comparisons|comparisons-of-rows|(classes|curve)(-by-layer)?|confusion|audit|audit-pairs|weights|quality|cka)"
    r"(-\d+)?\.(csv|tex|png|svg)"
)


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
        raise _cannot(folder, error) from error
    return folder


def _cannot(folder: Path, error: OSError) -> ParameterError:
    return ParameterError(f"the report cannot be written to {folder}: {error.strerror or error}")


def write_report(
    found: Found,
    folder: str | Path,
    *,
    audit: AuditReport | None = None,
) -> list[Path]:
    """Write report.html, report.md and report.json, tables as CSV and LaTeX, plots as PNG and SVG.

    The page needs nothing beside it. The same report gives the same bytes. Tables and plots that an earlier report left
    in the folder, and this one does not have, are removed.

    Parameters
    ----------
    found : ProbeReport, Study, sequence of ProbeReport, or AuditReport
        Several stand side by side; their own tables and plots end with -1, -2 ...
    folder : path
        Made if it is not there.
    audit : AuditReport, optional

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ParameterError
        The folder cannot be made or written to.
    """
    folder, contents = make_folder(folder), Contents.of(found, audit)
    document = json.dumps(_document(contents), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    texts = {
        folder / "report.html": page_of(contents),
        folder / "report.md": markdown_report(contents),
        folder / "report.json": document,
    }
    for table in contents.tables:
        texts[folder / "tables" / f"{table.name}.csv"] = csv_of(table)
        if not table.heat:
            texts[folder / "tables" / f"{table.name}.tex"] = latex_of(table)
    try:
        for path, text in texts.items():
            path.parent.mkdir(exist_ok=True)
            # half a character from an undecodable file name becomes \udcxx, which JSON reads back
            path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        (folder / "plots").mkdir(exist_ok=True)
        paths = [*texts, *(path for figure in contents.figures for path in save(figure, folder / "plots"))]
        _remove_others(paths)
    except OSError as error:
        raise _cannot(folder, error) from error
    return paths


def _document(contents: Contents) -> dict[str, Any]:
    """Make one report itself, or several and what stands between them."""
    audit = contents.audit.to_dict() if contents.audit else {}
    if not contents.reports:
        return audit
    single = len(contents.reports) == 1 and not contents.comparisons
    found = contents.reports[0] if single else Study(reports=contents.reports, comparisons=contents.comparisons)
    return found.to_dict() | ({"audit": audit} if audit else {})


def _remove_others(paths: Sequence[Path]) -> None:
    """Remove what an earlier report left: numbers of two runs in one folder would be taken for one."""
    for folder in {path.parent for path in paths if path.parent.name in ("tables", "plots")}:
        for path in folder.iterdir():
            if path not in paths and _OURS.fullmatch(path.name):
                path.unlink()
