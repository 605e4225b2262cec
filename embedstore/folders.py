"""What became of the folders that a store was built from; and forgetting the files that are gone from them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedstore.audio import find_audio
from embedstore.changes import change_of, is_gone
from embedstore.errors import ParameterError
from embedstore.store import EmbeddingStore
from embedstore.store.upkeep import FEW, SHARE
from embedstore.types import AudioFile

__all__ = ["FolderCoverage", "PruneReport", "coverage", "prune"]

_HINT = " (--yes forgets those that are gone)"


@dataclass(frozen=True)
class FolderCoverage:
    """How much of a folder is stored: ``found == stored + failed + changed + new``.

    Attributes
    ----------
    root : str
        Absolute folder that a build was given.
    there : bool
        Whether it can be read and holds audio; if not, its disk may not be mounted.
    known : int
        Stored files that lay there.
    found : int
        Audio files there now.
    stored, failed : int
        Of these: stored as they are now; known to be unusable as they are now.
    changed, new : int
        Of these: with another size or time than when they were stored or failed; not known.
    gone : int
        Stored files that are there no more; 0 if the folder is not `there`.
    """

    root: str
    there: bool
    known: int
    found: int = 0
    stored: int = 0
    failed: int = 0
    changed: int = 0
    new: int = 0
    gone: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def coverage(store: EmbeddingStore) -> list[FolderCoverage]:
    """Look at every folder that the store's files were built from, as a build would; opens no audio file.

    A file counts for the folder that it was stored or failed under; a new one below two of them, for the inner one.
    """
    states, failures = store.files(), {failure.file.full_path: failure for failure in store.failures()}
    root_of = {path: state.root for path, state in states.items()}
    root_of |= {path: failure.file.root for path, failure in failures.items()}
    listed = {root: _look(root)[0] for root in sorted(set(root_of.values()))}
    found = {file.full_path: file for files in listed.values() for file in files}  # inner folders come last
    kinds = Counter((root_of.get(path, file.root), change_of(file, states, failures)) for path, file in found.items())
    lost = (path for path in states.keys() - found.keys() if listed[root_of[path]] and is_gone(path))
    gone, known = Counter(map(root_of.__getitem__, lost)), Counter(state.root for state in states.values())
    folders = []
    for root, files in listed.items():
        counts = {kind: count for (where, kind), count in kinds.items() if where == root}
        folders.append(FolderCoverage(root, bool(files), known[root], sum(counts.values()), **counts, gone=gone[root]))
    return folders


@dataclass(frozen=True)
class PruneReport:
    """What `prune` forgot.

    Attributes
    ----------
    store : str
        Absolute path of the store.
    forgotten : tuple of str
        Absolute paths of stored files that are gone.
    failures : int
        Rows of files that failed and are gone.
    hidden : int
        Tracks that have no file left; their vectors stay until `compact`, and they are back when their sound is.
    tracks : int
        Tracks in the store now.
    refused : tuple of str
        For each folder that was left as it is: which, and why.
    dry_run : bool
        Nothing was written: this is what would be done.
    """

    store: str
    forgotten: tuple[str, ...]
    failures: int
    hidden: int
    tracks: int
    refused: tuple[str, ...]
    dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def prune(
    store: EmbeddingStore,
    roots: Iterable[str | Path] | None = None,
    *,
    yes: bool = False,
    dry_run: bool = False,
) -> PruneReport:
    """Forget the files that are gone from the disk. Vectors stay: a file that comes back is not encoded again.

    A folder is left as it is when it looks like a disk that is not mounted: when it cannot be read or holds no audio,
    or when more than 5 and more than 20 % of its stored files are gone. The same holds for a folder below it that is
    still there and quite empty, as the place of a disk is; a deleted artist or album takes its folder along.

    Parameters
    ----------
    store : EmbeddingStore
    roots : iterable of path, optional
        Folders to look at, each with all that was stored below it; default: those that builds were given.
    yes : bool
        Forget what is gone, whatever it looks like.
    dry_run : bool
        Write nothing.

    Raises
    ------
    ParameterError
        Nothing is known of a folder in `roots`.
    StoreError, StoreLockedError
        The store cannot be written.

    Examples
    --------
    >>> prune(EmbeddingStore.open("my-store"), ["/music"], dry_run=True).forgotten  # doctest: +SKIP
    ('/music/deleted.mp3',)
    """
    with nullcontext() if dry_run else store.writer() as writer:
        states = store.files()
        root_of = {path: state.root for path, state in states.items()}
        root_of |= {failure.file.full_path: failure.file.root for failure in store.failures()}
        gone, refused = list[str](), list[str]()
        for root, paths in sorted(_below(root_of, None if roots is None else map(os.path.abspath, roots)).items()):
            lost, reasons = _lost(root, paths, states.keys(), yes=yes)
            gone += lost
            refused += reasons
        if writer is not None:
            for path in gone:
                writer.forget(path)
        holders = Counter(state.key for state in states.values())
        lost_of = Counter(states[path].key for path in gone if path in states)
        hidden, before = sum(holders[key] == count for key, count in lost_of.items()), len(holders)
    forgotten = tuple(path for path in gone if path in states)
    failures = len(gone) - len(forgotten)
    return PruneReport(
        str(store.path), forgotten, failures, hidden, before - (0 if dry_run else hidden), tuple(refused), dry_run
    )


def _look(root: str) -> tuple[tuple[AudioFile, ...], str]:
    """List a folder's audio files; if there are none, say why."""
    try:
        files = find_audio(root).files
    except ParameterError as error:
        return (), str(error)
    return files, "" if files else f"there is no audio file under {root!r} (is the disk mounted?)"


def _below(root_of: Mapping[str, str], asked: Iterable[str] | None) -> dict[str, list[str]]:
    """Sort the known paths by the folder that they were built from, or else by the asked ones."""
    groups: dict[str, list[str]] = {}
    if asked is None:
        for path, root in root_of.items():
            groups.setdefault(root, []).append(path)
        return groups
    left = set(root_of)
    for root in sorted(set(asked), reverse=True):  # inner ones first: a path counts once
        start = os.path.join(root, "")  # noqa: PTH118 - text
        if not any(path.startswith(start) for path in root_of):
            folders = ", ".join(sorted(set(root_of.values()))) or "none"
            raise ParameterError(f"nothing is stored of {root}; the folders of this store are: {folders}")
        groups[root] = sorted(path for path in left if path.startswith(start))
        left.difference_update(groups[root])
    return groups


def _lost(root: str, paths: Sequence[str], stored: Container[str], *, yes: bool) -> tuple[list[str], list[str]]:
    """List the paths of a folder that are to be forgotten, and what is refused."""
    files, reason = _look(root)
    present = {file.full_path for file in files}
    gone = sorted(path for path in paths if path not in present and is_gone(path))
    ours = sum(path in stored for path in paths)
    if reason and ours and not (yes and gone):  # where only failures are known, nothing can be lost
        return [], [f"{reason}; {ours} stored files of it are kept{_HINT}"]
    if yes:
        return gone, []
    places = {folder: _hollow(folder, root) for folder in set(map(os.path.dirname, gone))}
    above = [places[os.path.dirname(path)] for path in gone]  # noqa: PTH120 - text
    refused = [
        f"{place} is there and empty (is the disk mounted?); {count} files of it are kept{_HINT}"
        for place, count in sorted(Counter(filter(None, above)).items())
    ]
    gone = [path for path, place in zip(gone, above, strict=True) if not place]
    lost = sum(path in stored for path in gone)
    if lost > FEW and lost > SHARE * ours:
        refused.append(f"{lost} of {ours} stored files of {root} are gone, more than {SHARE:.0%}; they are kept{_HINT}")
        return [], refused
    return gone, refused


def _hollow(folder: str, root: str) -> str:
    """Give what is left below `root` of the folders that lead to a file, if that is empty."""
    while len(folder) > len(root):
        try:
            return "" if os.listdir(folder) else folder  # noqa: PTH208 - text
        except OSError:
            folder = os.path.dirname(folder)  # noqa: PTH120 - text
    return ""
