"""Results as files for other programs: JSON, CSV, M3U8 playlists. Names are what strangers wrote, so each form escapes them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from embedstore.errors import ParameterError
from embedstore.search.batch import Answer
from embedstore.store import EmbeddingStore
from embedstore.store.disk import new_file
from embedstore.types import Track

__all__ = ["FORMS", "cell", "csv_of", "document_of", "json_of", "m3u8_of", "playlist_of", "text_of", "write_answers"]

FORMS = ("json", "csv", "m3u8")
COLUMNS = (
    "rank",
    "track",
    "path",
    "genre",
    "artist",
    "album",
    "title",
    "seconds",
    "score",
    "percentile",
    "copies",
    "at",
    "end",
)
_SPECIAL = re.compile(r"#|[A-Za-z][\w+.-]*:")  # a remark, an address
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def document_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Make plain data: that of the result of a search, or all of a file's under ``answers``."""
    if len(answers) == 1 and not answers[0].line:
        return answers[0].to_dict()
    return {"answers": [answer.to_dict() for answer in answers]}


def json_of(answers: Sequence[Answer]) -> str:
    """Write one JSON document, in ASCII: whatever bytes a name has, they come back as they were."""
    return json.dumps(document_of(answers), indent=2, allow_nan=False) + "\n"


def csv_of(answers: Sequence[Answer]) -> str:
    """Write a line for each hit.

    Every text is quoted, so line breaks and commas come back as they were. A text that a spreadsheet would take for a formula
    gets one ``'`` more in front: who reads the file by a program takes one away where ``'`` and then ``=``, ``+``, ``-``,
    ``@``, a tab or a carriage return follow. Copies stand apart by ``;``.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(("query", *COLUMNS))
    for answer in answers:
        for hit in answer.result.hits if answer.result else ():
            data = hit.to_dict() | {"copies": ";".join(hit.copies)}
            writer.writerow([cell(value) for value in (answer.text, *(data[column] for column in COLUMNS))])
    return stream.getvalue()


def cell(value: Any) -> Any:
    """Make what a CSV holds of a value; see `csv_of`."""
    if not isinstance(value, str):
        return "" if value is None else value
    return f"'{value}" if _FORMULA.match(value) else value


def m3u8_of(answers: Sequence[Answer], folder: str | os.PathLike[str] | None = None) -> str:
    r"""Write a playlist, each track once.

    Parameters
    ----------
    answers : sequence of Answer
    folder : path, optional
        Where the playlist will lie: paths are written from there. Default: absolute paths.

    Notes
    -----
    A playlist is UTF-8 text with a path on each line, so a path with other bytes in it, with a line break, or with a blank at an
    end cannot be written as it is: it becomes an absolute ``file://`` address, which says every byte. A name that begins like
    a remark or an address gets ``./`` in front.
    """
    hits = {hit.track: hit for answer in answers if answer.result for hit in answer.result.hits}
    return _m3u8(_entry(hit.path, hit.seconds, hit.artists, hit.title, folder) for hit in hits.values())


def playlist_of(tracks: Iterable[Track]) -> str:
    """Write a playlist of stored tracks, each once, with absolute paths; see `m3u8_of`."""
    once = {track.key: track for track in tracks}.values()
    return _m3u8(_entry(one.path, one.seconds, one.labels.artists, one.labels.title) for one in once)


def _m3u8(entries: Iterable[str]) -> str:
    return "\n".join(("#EXTM3U", *entries, ""))


def _entry(
    path: str, seconds: float, artists: Sequence[str], title: str, folder: str | os.PathLike[str] | None = None
) -> str:
    return f"#EXTINF:{round(seconds)},{_title(path, artists, title)}\n{_place(path, folder)}"


def _title(path: str, artists: Sequence[str], title: str) -> str:
    title = title or Path(path).stem
    said = f"{', '.join(artists)} - {title}" if artists else title
    return " ".join("".join(c if c.isprintable() else " " for c in said).split())


def _place(path: str, folder: str | os.PathLike[str] | None) -> str:
    shown = path
    if folder is not None:  # `..` leads to where a folder really lies
        real = Path(os.path.realpath(Path(path).parent)) / Path(path).name
        shown = os.path.relpath(real, os.path.realpath(folder))
    if not shown.isprintable() or shown != shown.strip():
        return f"file://{quote(os.fsencode(path))}"
    return f"./{shown}" if _SPECIAL.match(shown) else shown


def text_of(answers: Sequence[Answer], form: str, folder: str | os.PathLike[str] | None = None) -> str:
    """Write answers in one of `FORMS`; a playlist with paths from a folder, if one is given.

    Raises
    ------
    ParameterError
        No such form.
    """
    if form not in FORMS:
        raise ParameterError(f"results are written as {', '.join(FORMS)}; got {form!r}")
    if form == "m3u8":
        return m3u8_of(answers, folder)
    return json_of(answers) if form == "json" else csv_of(answers)


def write_answers(
    store: EmbeddingStore,
    answers: Sequence[Answer],
    out: str | os.PathLike[str],
    form: str | None = None,
    *,
    relative: bool = False,
    overwrite: bool = False,
) -> str:
    """Write a file in one of `FORMS`, by default the one that its name ends with.

    Parameters
    ----------
    store : EmbeddingStore
        Nothing is written into it.
    answers : sequence of Answer
    out : path
    form : str, optional
    relative : bool
        Write the paths of a playlist as seen from its folder.
    overwrite : bool
        Replace the file if there is one.

    Returns
    -------
    str
        Its absolute path.

    Raises
    ------
    ParameterError
        No such form; the file exists, or would lie in the store.
    StoreError
        The file cannot be written; an older one is as it was.
    """
    path = Path(os.path.abspath(out))
    form = form or {".m3u": "m3u8"}.get(path.suffix.lower(), path.suffix.lower().removeprefix("."))
    text = text_of(answers, form, path.parent if relative else None)
    with new_file(path, store.path, overwrite=overwrite) as handle, open(handle, "wb", closefd=False) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    return str(path)
