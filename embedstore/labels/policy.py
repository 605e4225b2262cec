"""Which labels the files of a build get, and what is remembered of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedstore.errors import LabelsError, MissingDependencyError, ParameterError, UnknownNameError
from embedstore.labels import Columns, LabelTable, part_source, read_labels
from embedstore.types import AudioFile, TrackLabels

__all__ = ["LabelPolicy"]


@dataclass(frozen=True)
class LabelPolicy:
    """Which labels the files of a build get.

    Attributes
    ----------
    table : LabelTable
    replace : bool
        Whether the table also rules over tracks that have labels, and takes away labels that it does not give.
    memory : dict or None
        To be remembered for the folder.
    notes : tuple of str
    """

    table: LabelTable
    replace: bool
    memory: dict[str, Any] | None
    notes: tuple[str, ...]

    @classmethod
    def choose(
        cls,
        files: Sequence[AudioFile],
        labels: str | Path | None,
        columns: Columns | None,
        memory: Mapping[str, Any] | None,
        *,
        new: bool,
    ) -> LabelPolicy:
        """Take what is asked; else what the folder was labelled from before; else folder names for the unlabelled.

        Parameters
        ----------
        files : sequence of AudioFile
        labels : str, path or None
            What is asked now, see `read_labels`.
        columns : Columns or None
        memory : mapping or None
            What an earlier policy of this folder left to be remembered.
        new : bool
            Whether nothing is stored yet.

        Raises
        ------
        LabelsError
            What is asked now cannot be read. What is remembered and cannot be read is a note.
        ParameterError
            Columns are named, and no file that has them.
        """
        given = {name: value for name, value in vars(columns or Columns()).items() if value is not None}
        if labels is None and given:
            raise ParameterError(
                f"columns are named ({', '.join(given.values())}) but no labels; give --labels FILE.csv, too"
            )
        if labels is not None:
            table = read_labels(str(labels), files, columns=columns)
            return cls(table, True, {"source": table.source, "columns": given}, table.problems)
        if memory is None:
            table = read_labels("folder", files)
            fresh = {"source": "folder", "columns": {}} if new else None
            return cls(table, new, fresh, table.problems)
        try:
            source, columns = _remembered(memory)
            table = read_labels(source, files, columns=columns)
        except (LabelsError, ParameterError, UnknownNameError, MissingDependencyError) as error:
            note = f"labels stay as they are, new tracks get none: {error}; give --labels to change that"
            return cls(read_labels("none", files), False, None, (note,))
        return cls(table, True, None, table.problems)

    def of(self, file: AudioFile) -> TrackLabels:
        """Labels of one file, with their source."""
        labels = self.table.by_path.get(file.full_path, TrackLabels())
        return replace(labels, source=self.table.source) if labels != TrackLabels() else labels


def _remembered(memory: Any) -> tuple[str, Columns]:
    """Read what a store remembers; it may come from somebody else."""
    try:
        source, columns = memory["source"], Columns(**memory["columns"])
    except (KeyError, TypeError) as error:
        raise LabelsError(f"where they came from is not written down: {error}") from error
    if not all(type(text) is str for text in (source, *vars(columns).values()) if text is not None) or not source:
        raise LabelsError(f"where they came from is not written down, but {source!r:.80}")
    _, path = part_source(source)
    for place in (path, path.rpartition("#")[0]):
        if os.path.exists(place) and not os.path.isfile(place) and not os.path.isdir(place):  # noqa: PTH110, PTH112, PTH113 - unlike Path's, they never raise
            raise LabelsError(f"{place!r} is no file")  # a pipe, which would be waited for
    return source, columns
