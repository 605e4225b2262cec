"""Labels: what people say about the files, one reader per kind of source, all giving a `LabelTable`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from embedstore.errors import LabelsError
from embedstore.labels.table import Columns, LabelTable, unite
from embedstore.registry import known, resolve, unknown_name
from embedstore.types import AudioFile

__all__ = ["BUILTIN", "Columns", "LabelTable", "read_labels", "unite"]

# name -> reader(source, files, columns) -> LabelTable
BUILTIN = {
    "folder": "embedstore.labels.folder:read_folder",
    "csv": "embedstore.labels.csvfile:read_csv",
    "none": "embedstore.labels.folder:read_none",
}


def read_labels(source: str | Path, files: Sequence[AudioFile], *, columns: Columns | None = None) -> LabelTable:
    """Read the labels of audio files.

    Parameters
    ----------
    source : str or Path
        ``"folder"``, ``"none"``, the name of a plug-in's reader, or the path of a CSV file.
    files : sequence of AudioFile
        The files to label.
    columns : Columns, optional
        Names of the CSV's columns, where they are not the usual ones.

    Raises
    ------
    UnknownNameError
        `source` is neither a known name nor looks like a path.
    LabelsError
        The source cannot be read; the message holds the line number.

    Examples
    --------
    >>> table = read_labels("folder", [AudioFile("/music", "blues/B. B. King/thrill.ogg", 9, 9)])
    >>> table.by_path["/music/blues/B. B. King/thrill.ogg"].genres
    ('blues',)
    """
    name, names = str(source), known("labels", BUILTIN)
    path = Path(source)
    if name not in names:
        if not os.path.exists(path) and not path.suffix and len(path.parts) < 2:  # noqa: PTH110 - unlike Path's, never raises
            raise unknown_name("label source (or path of a CSV file)", name, [n for n in names if n != "csv"])
        name = "csv"
    elif name == "csv" and not path.is_file():
        raise LabelsError("labels from a CSV: give the path of the file instead of the word csv")
    where = os.path.abspath(source) if name == "csv" else name
    table = resolve("labels", BUILTIN, name)(where, files, columns or Columns())
    if not isinstance(table, LabelTable):
        raise LabelsError(f"the label reader {name!r} must return a LabelTable; it returned {type(table).__name__}")
    return table
