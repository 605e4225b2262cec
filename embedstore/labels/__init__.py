"""Labels: what people say about the files, one reader per kind of source, all giving a `LabelTable`."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from embedstore.errors import LabelsError, ParameterError
from embedstore.labels.csvfile import data_set_in
from embedstore.labels.table import Columns, DataSet, LabelTable, unite
from embedstore.registry import known, resolve, unknown_name
from embedstore.types import AudioFile

__all__ = [
    "BUILTIN",
    "Columns",
    "DataSet",
    "LabelTable",
    "data_set_of",
    "full_source",
    "part_source",
    "read_labels",
    "unite",
]

# name -> reader(source, files, columns) -> LabelTable; DATASET in the reader's module says whose labels they are
BUILTIN = {
    "folder": "embedstore.labels.folder:read_folder",
    "csv": "embedstore.labels.csvfile:read_csv",
    "tags": "embedstore.labels.tags:read_tags",
    "spotify": "embedstore.labels.spotify:read_spotify",
    "gtzan": "embedstore.labels.gtzan:read_gtzan",
    "fma": "embedstore.labels.fma:read_fma",
    "jamendo": "embedstore.labels.jamendo:read_jamendo",
    "none": "embedstore.labels.folder:read_none",
}
_WITH_PATH, _WITHOUT = ("csv", "spotify", "fma", "jamendo"), ("folder", "tags", "none")
_WITH_COLUMNS = ("csv", "spotify")


def read_labels(source: str | Path, files: Sequence[AudioFile], *, columns: Columns | None = None) -> LabelTable:
    """Read the labels of audio files.

    Parameters
    ----------
    source : str or Path
        ``"folder"``, ``"tags"``, ``"none"``; the path of a CSV file, whatever is in it; or a reader and what it reads, such
        as ``"fma:data/tracks.csv"``: see `BUILTIN`, and plug-ins. A path that begins like that is written ``./fma:...``.
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
    ParameterError
        Columns are named for a reader that has none to name.

    Examples
    --------
    >>> table = read_labels("folder", [AudioFile("/music", "blues/B. B. King/thrill.ogg", 9, 9)])
    >>> table.by_path["/music/blues/B. B. King/thrill.ogg"].genres
    ('blues',)
    """
    name, path = part_source(source)
    if name == "csv" and not str(source).startswith("csv:"):
        name = data_set_in(path) or "csv"
    if name in _WITH_PATH and not path:
        raise LabelsError(f"labels from {name}: give the path of the file, as in {name}:PATH")
    if name in _WITHOUT and path:
        raise LabelsError(f"labels from {name}: nothing follows the word; got {str(source)!r}")
    if name in BUILTIN and name not in _WITH_COLUMNS and columns not in (None, Columns()):
        raise ParameterError(f"columns are named, but labels from {name} have none to name; leave them out")
    reader = resolve("labels", BUILTIN, name)
    table = reader(path or name, files, columns or Columns())
    if not isinstance(table, LabelTable):
        raise LabelsError(f"the label reader {name!r} must return a LabelTable; it returned {type(table).__name__}")
    return replace(table, source=_join(name, path, source), dataset=table.dataset or _data_set_in(reader.__module__))


def part_source(source: str | Path) -> tuple[str, str]:
    """Part a source into its reader's name and the absolute path of what that reads, empty if there is none.

    >>> part_source("folder"), part_source("gtzan:/lists"), part_source("/music/a: b.csv")
    (('folder', ''), ('gtzan', '/lists'), ('csv', '/music/a: b.csv'))

    Raises
    ------
    UnknownNameError
        It is neither a known name nor looks like a path.
    """
    text, names = str(source), known("labels", BUILTIN)
    name, colon, rest = text.partition(":")
    if name in names and (colon or not (name == "csv" and os.path.isfile(text))):  # noqa: PTH113 - unlike Path's, never raises
        return name, os.path.abspath(rest) if rest else ""
    bare = not Path(text).suffix and len(Path(text).parts) < 2
    if (bare or (colon and re.fullmatch(r"[a-z_]{2,}", name))) and not os.path.exists(text):  # noqa: PTH110 - the same
        raise unknown_name("label source (or path of a CSV file)", name, [n for n in names if n != "csv"])
    return "csv", os.path.abspath(text)


def full_source(source: str | Path) -> str:
    """Write a source so that it means the same from every folder."""
    return _join(*part_source(source), source)


def _join(name: str, path: str, asked: str | Path) -> str:
    plain = name == "csv" and not str(asked).startswith("csv:")  # with it, no data set is looked for
    return path if plain else f"{name}:{path}" if path else name


def data_set_of(source: str) -> DataSet | None:
    """Say whose labels come from a source, as `LabelTable` and `TrackLabels` name it; None if nothing is known of it."""
    module = known("labels", BUILTIN).get(source.partition(":")[0], "").partition(":")[0]
    return _data_set_in(module) if module else None


def _data_set_in(module: str) -> DataSet | None:
    found = getattr(importlib.import_module(module), "DATASET", None)
    return found if isinstance(found, DataSet) else None
