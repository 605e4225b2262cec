"""Labels from the tags inside the files: genre, artist, album, title and year, as far as mutagen knows the container."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence

from embedstore.audio import Decoder
from embedstore.errors import AudioError
from embedstore.labels.csvfile import names_in
from embedstore.labels.rows import year_of
from embedstore.labels.table import Columns, LabelTable, Problems, clean
from embedstore.registry import require
from embedstore.types import AudioFile, TrackLabels

__all__ = ["can_read_tags", "read_tags", "tags_of"]

_TIMEOUT, _MEMORY = 20.0, 2**30  # for one file: tags may be bombs


def read_tags(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:  # noqa: ARG001 - the readers' common signature
    """Read the tags of every file. A file that cannot be read is a problem of the table, not an error.

    Raises
    ------
    MissingDependencyError
        mutagen is not installed.
    """
    require("mutagen", "pip install 'embedstore-mir[tags]'")
    problems = Problems()
    by_path: dict[str, TrackLabels] = {}
    for file, labels in tags_of(files, problems):
        if labels != TrackLabels():
            by_path[file.full_path] = labels
        if not labels.genres:
            problems.add("file without a genre in its tags", clean(file.path))
    return LabelTable(source, by_path, len(files), len(files), len(by_path), problems.lines())


def can_read_tags() -> bool:
    """Whether mutagen is installed."""
    return importlib.util.find_spec("mutagen") is not None


def tags_of(files: Iterable[AudioFile], problems: Problems) -> Iterator[tuple[AudioFile, TrackLabels]]:
    """Give each file that can be read with what its tags say; several names in a tag stand apart by ``;``."""
    with Decoder(16000, timeout=_TIMEOUT, memory_limit=_MEMORY) as decoder:
        for file in files:
            try:
                tags = decoder.tags(file.full_path)
            except AudioError as error:
                problems.add("file whose tags cannot be read", f"{clean(file.path)} ({clean(str(error))[:100]})")
                continue
            genres, artists = (names_in(";".join(tags.get(key, ()))) for key in ("genre", "artist"))
            album, title = (clean(" / ".join(tags.get(key, ()))) for key in ("album", "title"))
            years = [year_of(text) for text in tags.get("year", ())]
            if None in years:
                problems.add("file whose tags have a date without a year", clean(file.path))
            yield file, TrackLabels(genres, artists, album, title, year=min(filter(None, years), default=0))
