"""Folder per genre: ``genre/track``, ``genre/artist/track`` or ``genre/artist/album/track``; and no labels at all."""

from __future__ import annotations

from collections.abc import Sequence

from embedstore.labels.table import Columns, LabelTable, Problems, clean, unsafe
from embedstore.types import AudioFile, TrackLabels

__all__ = ["read_folder", "read_none"]


def read_folder(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:  # noqa: ARG001 - the readers' common signature
    """Take the genre from the first folder below the root, artist and album from the second and third if there.

    A file that lies directly in the root has no genre. Titles stay empty: file names like ``01.ogg`` are none.
    """
    by_path: dict[str, TrackLabels] = {}
    problems = Problems()
    for file in files:
        folders = file.path.split("/")[:-1]
        if any(map(unsafe, folders[:3])):
            problems.add("folder name with control or undecodable characters (taken out)", clean(file.path))
        genre, artist, album = (*map(clean, folders[:3]), "", "", "")[:3]
        if genre:
            by_path[file.full_path] = TrackLabels((genre,), (artist,) if artist else (), album)
        else:
            problems.add("file without a genre folder", clean(file.path))
    return LabelTable(source, by_path, len(files), len(files), len(by_path), problems.lines())


def read_none(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:  # noqa: ARG001 - the readers' common signature
    """Label nothing."""
    return LabelTable(source, {}, len(files), 0, 0)
