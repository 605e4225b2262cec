"""Bytes to disk and back: a file appears whole or not at all, and one process writes at a time."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from embedstore.errors import ParameterError, StoreError, StoreFormatError, StoreLockedError

__all__ = [
    "CommitFile",
    "acquire_lock",
    "commit_name",
    "explained",
    "list_commits",
    "new_file",
    "next_sequence",
    "outside",
    "plain_file",
    "quarantine",
    "read_commit",
    "refuse_link",
    "remove_commit",
    "remove_temporaries",
    "sync_folder",
    "try_lock",
    "whole_file",
    "write_commit",
    "write_file",
]

LARGEST = 2**30  # bytes in a shard or delta: what a reader is willing to hold in memory
LAST = 99_999_999
SUFFIX = {"shards": ".h5", "deltas": ".json"}
NAME = re.compile(r"\d{8}-[0-9a-f]{32}(\.h5|\.json)")
REASONS = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EFBIG: "larger than this process may write (see ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; check the owner and mode",
    errno.EPERM: "permission denied; check the owner and mode",
    errno.EMFILE: "too many open files in this process; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.ELOOP: "a link lies where a plain file or folder should be; take it away",
}


class CommitFile(NamedTuple):
    """A shard or delta as its folder lists it: name below the store (``"shards/00000001-....h5"``), bytes, stamp."""

    name: str
    size: int
    mtime_ns: int

    @property
    def order(self) -> str:
        """What commits are sorted by: sequence number, then sum."""
        return self.name[7:]

    @property
    def sequence(self) -> int:
        """Its place among the commits."""
        return int(self.order[:8])


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Say in one line what the operating system refused.

    >>> with explained("cannot write shards/1.h5"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
        ...
    embedstore.errors.StoreError: cannot write shards/1.h5: the disk is full; make room
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{doing}: {REASONS.get(error.errno or 0, error.strerror or error)}") from error


@contextmanager
def plain_file(path: Path, most: int = LARGEST) -> Iterator[io.BufferedReader]:
    """Open a file that somebody else may have put there: never through a link, never a pipe or a device.

    Raises
    ------
    OSError
        It cannot be opened, or is no plain file of at most `most` bytes.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise OSError(errno.EINVAL, f"it is no plain file of at most {most} bytes")
        with open(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[int]:
    """Open a new file under a temporary name; when the block ends, make it durable, and only then give it its name.

    Yields
    ------
    int
        The handle, for reading and writing.

    Raises
    ------
    OSError
        Nothing is left behind; nor is it when the block raises.
    """
    temporary = f"{path}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            yield handle
            os.fsync(handle)
        finally:
            os.close(handle)
        os.rename(temporary, path)  # noqa: PTH104 - the twin of os.open, os.write, os.fsync
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - the same
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a whole file: it appears with all of `data`, or not at all; `mode` without the user's mask are its rights.

    Raises
    ------
    OSError
        Nothing is left behind.
    """
    with whole_file(path, mode) as handle:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]


@contextmanager
def new_file(target: str | os.PathLike[str], store: Path, *, overwrite: bool) -> Iterator[int]:
    """Open a file outside of a store, for reading and writing, that appears at `target` whole when the block ends, or not at all.

    Raises
    ------
    ParameterError
        There is one and `overwrite` is not set, or it is no plain file, or it would lie in the store.
    StoreError
        The disk refused.
    """
    path = outside(target, store)
    with explained(f"cannot write {path}"), whole_file(path) as handle:
        _check_free(path, overwrite=overwrite)
        yield handle
        _check_free(path, overwrite=overwrite)  # it may have taken long


def outside(target: str | os.PathLike[str], store: Path) -> Path:
    """Give the absolute path of a target that does not lie in a store, by whatever name.

    Raises
    ------
    ParameterError
        It does.
    """
    path = Path(os.path.abspath(target))
    if path.resolve().is_relative_to(store.resolve()):
        raise ParameterError(f"{path} lies in the store; choose a place outside of it")
    return path


def _check_free(path: Path, *, overwrite: bool) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ParameterError(f"{path} exists and is no plain file; choose another name")
    if not overwrite:
        raise ParameterError(f"{path} exists; choose another name, or give --overwrite")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # file systems whose folders cannot be synced
            raise
    finally:
        os.close(handle)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def commit_name(kind: str, sequence: int, data: bytes) -> str:
    """Make the name that holds a commit's place and its sum.

    Raises
    ------
    StoreError
        There is no number left.
    """
    if sequence > LAST:
        raise StoreError(
            f"no number is left for another commit (the last is {LAST}); was a file put into {kind} that is not the store's? "
            "See: embedstore verify --repair"
        )
    return f"{kind}/{sequence:08d}-{_sum(data)}{SUFFIX[kind]}"


def write_commit(store: Path, kind: str, sequence: int, data: bytes) -> CommitFile:
    """Write a shard or delta, into the folder `kind`, under the name that holds its place and its sum."""
    name = commit_name(kind, sequence, data)
    write_file(store / name, data)
    stat = (store / name).stat()
    return CommitFile(name, stat.st_size, stat.st_mtime_ns)


def list_commits(store: Path) -> tuple[list[CommitFile], list[str]]:
    """List shards and deltas in the order they count, or those of one number; and the names there that are not ours.

    Raises
    ------
    OSError
        A folder cannot be listed, or is a link: what lies elsewhere is not the store's to move or remove.
    """
    commits, foreign = [], []
    for folder, suffix in SUFFIX.items():
        refuse_link(store / folder)
        entries = list(os.scandir(store / folder)) if (store / folder).exists() else []
        for entry in entries:
            match = NAME.fullmatch(entry.name)
            if match and match[1] == suffix and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # gone since it was listed
                    stat = entry.stat(follow_symlinks=False)
                    commits.append(CommitFile(f"{folder}/{entry.name}", stat.st_size, stat.st_mtime_ns))
            elif ".tmp-" not in entry.name and not entry.name.startswith("."):
                foreign.append(f"{folder}/{entry.name}")
    return sorted(commits, key=lambda commit: commit.order), sorted(foreign)


def refuse_link(folder: Path) -> None:
    """Raise OSError if a folder of the store is a link."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))


def next_sequence(commits: Iterable[CommitFile]) -> int:
    """Give the number after those of all commits."""
    return 1 + max((commit.sequence for commit in commits), default=0)


def read_commit(store: Path, commit: CommitFile) -> bytes:
    """Read a shard or delta and check it against the sum in its name.

    Raises
    ------
    StoreFormatError
        It is damaged.
    StoreError
        It cannot be read, which says nothing about its content.
    """
    if commit.size > LARGEST:
        raise StoreFormatError(f"{commit.name} has {commit.size} bytes; at most {LARGEST} are allowed")
    with explained(f"cannot read {store / commit.name}"):
        try:
            data = (store / commit.name).read_bytes()
        except OSError as error:
            if error.errno not in {errno.EIO, errno.ENOENT}:
                raise
            raise StoreFormatError(f"{commit.name} cannot be read: {error.strerror}") from error
    if _sum(data) != commit.order[9:41]:
        raise StoreFormatError(f"{commit.name} is damaged: its content does not have the sum in its name")
    return data


def remove_commit(store: Path, name: str) -> None:
    """Remove a shard or delta that another one stands for; nothing depends on when the disk learns of it."""
    folder, _, file = name.partition("/")
    if folder not in SUFFIX or not NAME.fullmatch(file):  # a catalogue may say anything
        raise StoreFormatError(f"{name!r:.200} is not a shard or delta; it is not removed")
    with suppress(FileNotFoundError):
        os.unlink(store / name)  # noqa: PTH108 - the twin of os.rename


def quarantine(store: Path, name: str) -> str:
    """Move what lies in a folder of commits and cannot be one out of the way; its new name below the store."""
    folder = store / "quarantine"
    refuse_link(folder)
    folder.mkdir(exist_ok=True)
    moved = f"quarantine/{name.replace('/', '-')}"
    if len(os.fsencode(moved)) > 240 or os.path.lexists(store / moved):  # as long as names can be, or there already
        moved = f"{os.fsdecode(os.fsencode(moved)[:200])}-{secrets.token_hex(8)}"
    os.rename(store / name, store / moved)  # noqa: PTH104 - anything, not only files
    for where in (folder, (store / name).parent):
        sync_folder(where)
    return moved


def remove_temporaries(store: Path) -> None:
    """Remove what killed writers left; only the holder of the lock may."""
    for folder in (store, *(store / name for name in SUFFIX)):
        for path in folder.glob("*.tmp-*"):
            with suppress(OSError):
                path.unlink()


def try_lock(store: Path, *, shared: bool = False) -> int | None:
    """Take the writer's lock if nobody has it; closing the returned handle, or the process's end, gives it back.

    A shared one goes together with others of its kind, not with the one writer's.

    Raises
    ------
    OSError
        The lock file cannot be made here (read-only folder, a file system without flock).
    """
    import fcntl

    handle = os.open(store / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno == errno.EWOULDBLOCK:
            return None
        raise
    with suppress(OSError):  # a full disk: only the message to others suffers
        text = f"pid {os.getpid()} on {socket.gethostname()}, {time.strftime('%F %T')}"
        os.pwrite(handle, text.ljust(120).encode(), 0)  # padded: truncating would make the file system flush
    return handle


def acquire_lock(store: Path, *, shared: bool = False, patience: float = 2.0) -> int:
    """Take the writer's lock; a reader that mends the catalogue may hold it for a while, so try for some seconds.

    Raises
    ------
    StoreLockedError
        Names the process that writes.
    OSError
        The folder cannot be written.
    """
    for _ in range(max(1, round(patience / 0.05))):
        handle = try_lock(store, shared=shared)
        if handle is not None:
            return handle
        time.sleep(0.05)
    with plain_file(store / "writer.lock") as file:
        holder = file.read(200).decode("utf-8", "replace").strip()
    raise StoreLockedError(f"another process ({holder or 'unknown'}) is writing to {store}; wait for it or stop it")
