"""The tags inside audio files, read by mutagen in the decoding process: some files are made to break their reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedstore.errors import AudioError
from embedstore.registry import require

__all__ = ["read_tags"]

# what we call it -> what Vorbis comments and APEv2, ID3, MP4 and ASF call it
_NAMES = {
    "genre": ("genre", "TCON", "\xa9gen", "WM/Genre"),
    "artist": ("artist", "TPE1", "\xa9ART", "Author"),
    "album": ("album", "TALB", "\xa9alb", "WM/AlbumTitle"),
    "title": ("title", "TIT2", "\xa9nam", "Title"),
    "year": (  # of the first release, where there is a tag for it; else of this one
        *("originaldate", "originalyear", "TDOR", "WM/OriginalReleaseYear", "WM/OriginalReleaseTime"),
        *("date", "year", "TDRC", "TDRL", "\xa9day", "WM/Year"),
    ),
}
_LONGEST, _MOST = 1000, 100  # letters of a text, texts of a tag


def read_tags(path: Path) -> dict[str, list[str]]:
    """Read genre, artist, album, title and year of a file, as far as they are there; the year as a date in any form.

    Raises
    ------
    AudioError
        mutagen knows no such container.
    Exception
        Anything, from a broken file.
    """
    file = require("mutagen", "pip install 'embedstore-mir[tags]'").File(path)
    if file is None:
        raise AudioError("no container whose tags are known", stage="open")
    found = {}
    for name, keys in _NAMES.items():
        spelled = ([text[:_LONGEST] for text in _texts(file.tags, key) if text.strip()][:_MOST] for key in keys)
        if texts := next(filter(None, spelled), None):  # Title is title, too, in containers that take any case
            found[name] = texts
    return found


def _texts(tags: Any, key: str) -> Iterator[str]:
    try:
        value = tags[key]
    except (KeyError, ValueError, TypeError):  # it is not there; such a container has no such keys; there are no tags
        return
    if key == "TCON":
        value = value.genres  # a number stands for a name there
    yield from map(str, [value] if isinstance(value, str) else value)
