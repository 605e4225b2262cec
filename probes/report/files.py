"""A report as files: a page, Markdown and JSON; tables and plots in folders beside them."""

from __future__ import annotations

import json
import re
import tempfile
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
    from probes.retrieval import SearchReport

__all__ = ["make_folder", "write_report"]

_OURS = re.compile(r"report\.(html|md)|(tables|plots)/[a-z-]+(-\d+)?\.(csv|tex|png|svg)")


def make_folder(folder: str | Path) -> Path:
    """Make the folder of a report, or say that it cannot be had.

    Raises
    ------
    ParameterError
        It cannot be made or written to, or holds somebody else's files of our names.
    """
    if not str(folder):
        raise ParameterError("the folder of a report has no name; give one, such as report")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [
            name for name in ("report.html", "report.md", "report.json", "tables", "plots") if (folder / name).exists()
        ]
        if others and not _earlier(folder):
            raise ParameterError(f"{folder} holds {others[0]}, which is no report of embedstore; choose another folder")
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
    search: SearchReport | None = None,
) -> list[Path]:
    """Write report.html, report.md and report.json, tables as CSV and LaTeX, plots as PNG and SVG.

    The page needs nothing beside it. The same report gives the same bytes. Tables and plots that an earlier report wrote
    (`report.json` lists its files), and this one does not have, are removed.

    Parameters
    ----------
    found : ProbeReport, Study, sequence of ProbeReport, AuditReport, or SearchReport
        Several stand side by side; their own tables and plots end with -1, -2 ...
    folder : path
        Made if it is not there.
    audit : AuditReport, optional
    search : SearchReport, optional

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ParameterError
        The folder cannot be made or written to.
    """
    folder, contents = make_folder(folder), Contents.of(found, audit, search)
    texts = {folder / "report.html": page_of(contents), folder / "report.md": markdown_report(contents)}
    for table in contents.tables:
        texts[folder / "tables" / f"{table.name}.csv"] = csv_of(table)
        if not table.heat:
            texts[folder / "tables" / f"{table.name}.tex"] = latex_of(table)
    try:
        earlier = _earlier(folder)
        for path, text in texts.items():
            path.parent.mkdir(exist_ok=True)
            _write(path, text)
        (folder / "plots").mkdir(exist_ok=True)
        paths = [*texts, *(path for figure in contents.figures for path in save(figure, folder / "plots"))]
        names = [path.relative_to(folder).as_posix() for path in paths]
        document = _document(contents) | {"files": names}
        _write(folder / "report.json", json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        for name in set(earlier) - set(names):  # numbers of two runs in one folder would be taken for one
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(folder, error) from error
    return [*paths[:2], folder / "report.json", *paths[2:]]


def _write(path: Path, text: str) -> None:
    # half a character from an undecodable file name becomes \udcxx, which JSON reads back
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def _earlier(folder: Path) -> list[str]:
    """List the files that the report in a folder says it wrote."""
    try:
        files = json.loads((folder / "report.json").read_text(encoding="utf-8"))["files"]
        return [name for name in files if _OURS.fullmatch(name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _document(contents: Contents) -> dict[str, Any]:
    """Make one report itself, or several and what stands between them."""
    beside = {"audit": contents.audit, "search": contents.search}
    added = {name: one.to_dict() for name, one in beside.items() if one}
    if not contents.reports:
        return next(iter(added.values()))
    single = len(contents.reports) == 1 and not contents.comparisons
    found = contents.reports[0] if single else Study(reports=contents.reports, comparisons=contents.comparisons)
    return found.to_dict() | added
