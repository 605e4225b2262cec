"""Find audio files below a folder, without ever leaving it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from embedstore.audio.signatures import AUDIO_SUFFIXES, OTHER_SUFFIXES, identify
from embedstore.errors import ParameterError
from embedstore.types import AudioFile

__all__ = ["Found", "Rejected", "find_audio"]

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Rejected:
    """Something that was not taken: its path below the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes
    ----------
    files : tuple of AudioFile
        Sorted by path.
    rejected : tuple of Rejected
        Links that leave the root or lead nowhere, FIFOs, devices, sockets, unreadable folders; sorted by path.
    """

    files: tuple[AudioFile, ...]
    rejected: tuple[Rejected, ...]


def find_audio(root: str | os.PathLike[str], *, limit: int | None = None) -> Found:
    """List the audio files below a folder, in the same order every time.

    A file is audio by its suffix (wav, flac, ogg, opus, mp3, aiff, m4a, wma, ...; such a file is not opened here), or,
    where the suffix says nothing, by the signature in its first bytes. Names that begin with a dot are passed over.
    Links are never walked through: a link to a file is taken when the file lies inside the root and is not listed
    already, a link to a folder is not followed.

    Parameters
    ----------
    root : path
        Folder to search.
    limit : int, optional
        Keep only the first `limit` files.

    Raises
    ------
    ParameterError
        `root` is missing, a file or unreadable, or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ParameterError(f"limit is the number of files to keep and at least 1; got {limit}")
    top = os.path.abspath(root)
    try:
        os.scandir(top).close()
    except OSError as error:
        raise ParameterError(_why_not_a_folder(os.fspath(root), error)) from error
    files, links, rejected = _walk(top)
    files += _through_links(top, links, {file.path for file in files}, rejected)
    files.sort(key=lambda file: file.path)
    return Found(tuple(files[:limit]), tuple(sorted(rejected, key=lambda one: one.path)))


def _why_not_a_folder(root: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no folder {root!r}; check the path (is the disk mounted?)"
    if isinstance(error, NotADirectoryError):
        return f"{root!r} is a file; give the folder that holds it"
    return f"the folder {root!r} cannot be read: {error.strerror}"


def _walk(top: str) -> tuple[list[AudioFile], list[str], list[Rejected]]:
    """Collect regular audio files, links (by path below `top`) and what cannot be read."""
    files: list[AudioFile] = []
    links: list[str] = []
    rejected: list[Rejected] = []
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            with os.scandir(f"{top}/{below}") as entries:
                for entry in entries:
                    path = below + entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        links.append(path)
                    elif entry.is_dir():
                        folders.append(path + "/")
                    elif not entry.is_file():
                        rejected.append(Rejected(path, "not a regular file (a FIFO, device or socket)"))
                    elif _is_audio(entry.name, entry):
                        try:
                            status = entry.stat()
                        except OSError as error:  # gone since it was listed, or its path is too long
                            rejected.append(Rejected(path, f"it cannot be reached: {error.strerror}"))
                        else:
                            files.append(AudioFile(top, path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            rejected.append(Rejected(below.rstrip("/") or ".", f"the folder cannot be read: {error.strerror}"))
    return files, links, rejected


def _is_audio(name: str, path: str | os.PathLike[str]) -> bool:
    _, dot, suffix = name.rpartition(".")
    suffix = suffix.lower() if dot else ""
    if suffix in AUDIO_SUFFIXES:
        return True
    if suffix in OTHER_SUFFIXES:
        return False
    try:
        # non-blocking: between the listing and now the name may have become a FIFO
        with os.fdopen(os.open(path, _READ), "rb") as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and identify(file) is not None
    except OSError:
        return False  # unknown suffix and unreadable: nothing says that it is music


def _through_links(top: str, links: list[str], listed: set[str], rejected: list[Rejected]) -> list[AudioFile]:
    """Take the links whose file lies inside the root and is not listed yet (it may lie in a hidden folder, as git-annex does)."""
    inside = os.path.realpath(top).rstrip(os.sep) + os.sep
    taken = []
    for path in sorted(links):
        target = os.path.realpath(f"{top}/{path}")
        try:
            status = Path(target).stat()
        except OSError as error:
            rejected.append(Rejected(path, f"a link that leads nowhere: {error.strerror}"))
            continue
        below = target[len(inside) :].replace(os.sep, "/") if target.startswith(inside) else None
        if below is None and target + os.sep != inside:
            rejected.append(Rejected(path, "a link that leaves the folder"))
        elif below and stat.S_ISREG(status.st_mode) and below not in listed and _is_audio(path, target):
            listed.add(below)
            taken.append(AudioFile(top, path, status.st_size, status.st_mtime_ns))
    return taken
