"""What all commits add up to, in SQLite: a cache that is believed only when it can be."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import numpy as np

from embedstore.errors import StoreError, StoreFormatError
from embedstore.store import records
from embedstore.store.disk import CommitFile, list_commits, plain_file, read_commit, try_lock
from embedstore.store.shard import parse_shard
from embedstore.types import AudioFile, TrackLabels

__all__ = ["WRITING", "Catalog", "audio_file", "read_content", "root_of"]

VERSION = 3  # of the tables: with another number the catalogue is made again
SCHEMA = """
CREATE TABLE commits(id INTEGER PRIMARY KEY, name TEXT, size INTEGER, mtime_ns INTEGER, keys BLOB, problem TEXT,
                     replaces TEXT, origins TEXT);
CREATE TABLE tracks(key INTEGER PRIMARY KEY, shard INTEGER, row INTEGER, seconds REAL, sample_rate INTEGER,
                    channels INTEGER, warnings TEXT, labels TEXT, windows INTEGER);
CREATE TABLE files(id INTEGER PRIMARY KEY, path BLOB UNIQUE, below INTEGER, size INTEGER, mtime_ns INTEGER,
                   hash TEXT, key INTEGER, failure TEXT);
CREATE INDEX tracks_place ON tracks(shard, row);
CREATE INDEX files_key ON files(key);
CREATE INDEX files_hash ON files(hash);
"""
PUT_TRACK = """
INSERT OR REPLACE INTO tracks VALUES (?, (SELECT max(id) FROM commits), ?, ?, ?, ?, ?, ?, ?)"""  # of the commit just put
PUT_FILE = """
INSERT INTO files(path, below, size, mtime_ns, hash, key, failure) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(path) DO UPDATE SET below = excluded.below, size = excluded.size, mtime_ns = excluded.mtime_ns,
    hash = excluded.hash, key = excluded.key, failure = excluded.failure"""
CONTENT = (
    """SELECT name, row, key, seconds, sample_rate, channels, warnings, labels, windows
    FROM tracks JOIN commits ON shard = commits.id ORDER BY key""",
    "SELECT path, below, size, mtime_ns, hash, key, failure FROM files ORDER BY path",
    "SELECT name, keys, replaces, origins FROM commits WHERE size >= 0 ORDER BY name",
)
MUCH = 2**27  # bytes of commits that are worth the start of a process on each core
TRIES = 5  # to look at a store that another process merges
WRITING = "open"  # the seal while a writer is at work


class Catalog:
    """The tables, on disk or in memory. Made by `open` or `fresh`."""

    def __init__(self, store: Path, spec: records.Spec) -> None:
        self._store, self._spec = store, spec
        self._file, self._seal = store / "catalog.sqlite", store / "catalog.seal"
        self._mutex = threading.RLock()
        self._changes = 0
        self._values = False
        self._gone: set[str] = set()  # commits that the tables know and the folder lacks
        self._left: list[str] = []  # those of them that others stand for
        self._follows = False  # other processes may write
        self._seen: tuple[int, ...] = ()
        self._db = sqlite3.connect(":memory:")

    @classmethod
    def open(cls, store: Path, spec: records.Spec, *, locked: bool = False) -> Self:
        """Open the cache, or make it again. `locked`: this process holds the writer's lock.

        Raises
        ------
        StoreError
            A commit cannot be read, for reasons that are not its own.
        """
        catalog = cls(store, spec)
        catalog._look(locked=locked)
        return catalog

    def _look(self, *, locked: bool) -> None:
        lock, busy = None, False
        if not locked:
            with suppress(OSError, ImportError):  # a folder that cannot be written, a system without flock
                lock = try_lock(self._store)
                # those who write planned shards share the lock, and have checked nothing
                if lock is None:
                    shared = try_lock(self._store, shared=True)
                    busy = shared is None
                    if shared is not None:
                        os.close(shared)
        try:
            self._open(maintain=locked or lock is not None, busy=busy)
        except StoreError:
            raise
        except (sqlite3.Error, OSError):  # the cache cannot be read or written: what it says can still be had
            self._rebuild(":memory:")
        finally:
            if lock is not None:
                os.close(lock)
        self._follows, self._seen = not locked, self._stamp()

    @classmethod
    def fresh(cls, store: Path, spec: records.Spec) -> Self:
        """Read every commit, every value included, into memory."""
        catalog = cls(store, spec)
        catalog._values = True
        catalog._rebuild(":memory:")
        return catalog

    def _open(self, *, maintain: bool, busy: bool) -> None:
        seal = self._read_seal()
        writing = busy and seal == [WRITING]  # a living writer has checked the file, and adds its commits itself
        new = None
        if self._believed(seal, writing=writing, maintain=maintain):
            with suppress(sqlite3.Error, TypeError, ValueError, RecursionError):  # else it holds what we never wrote
                self._connect(self._file, read_only=writing)
                for _ in range(TRIES if writing else 1):  # a shard may be merged between two looks
                    if (new := self._unknown()) is not None:
                        break
        if new is None:
            self._rebuild(self._file if maintain else ":memory:")
        elif writing or not (new or self._left):
            return
        else:
            if maintain:
                self.unseal()
            else:  # the file is right, and somebody else's: go on with a copy
                self._copy()
            for name in self._left:
                self._drop(name)
            self._take_in(new)
            if not maintain and not all((self._store / commit.name).exists() for commit in new):  # merged meanwhile
                self._rebuild(":memory:")
        if maintain:
            self.seal()

    def _read_seal(self) -> list[str]:
        with suppress(OSError), plain_file(self._seal, 4096) as file:
            return file.read().decode("ascii", "replace").split()
        return []

    def _believed(self, seal: list[str], *, writing: bool, maintain: bool) -> bool:
        """Whether the file may be shown to SQLite, which believes what it reads, and follows a journal to other files."""
        if not seal or self._file.is_symlink():
            return False
        if writing:
            return True
        found = self._sum().split()
        if found[:1] != seal[:1] or [*self._store.glob("catalog.sqlite-*")]:
            return False
        return found == seal or (not maintain and self._is_sound())  # a copy, perhaps of a stranger's: better made anew

    def _is_sound(self) -> bool:
        """Whether the pages of the file are a tree, so that it gives no more than it has."""
        self._connect(self._file, read_only=True)
        return [*self._db.execute("PRAGMA quick_check(1)")] == [("ok",)]

    def _unknown(self) -> Sequence[CommitFile] | None:
        """List what the tables lack; None if what they know is not all there, unchanged, and before the rest.

        What is gone and was replaced may be gone.
        """
        if (*self._db.execute("PRAGMA user_version"), *self._db.execute("PRAGMA application_id")) != self._marks():
            return None
        with closing(sqlite3.connect(":memory:")) as ours:  # no views, no triggers
            ours.executescript(SCHEMA)
            if _tables(self._db) != _tables(ours):
                return None
        sql = "SELECT name, size, mtime_ns, replaces, origins FROM commits ORDER BY id"
        known = []
        for *commit, replaces, origins in self._db.execute(sql):
            for names in (replaces, origins, json.dumps(commit[:1])):
                records.read_names({"names": json.loads(names or "[]")}, "names")
            known.append(tuple(commit))
        commits, _ = list_commits(self._store)  # after the tables: what is in them is on the disk
        listed = {commit.name for commit in commits}
        self._gone = {name for name, _, _ in known} - listed
        lost = {name for name, size, _ in known if size >= 0} - listed
        if lost - self.replaced_names():
            return None
        self._left = sorted(lost)
        known = [row for row in known if row[1] >= 0 and row[0] not in lost]
        return commits[len(known) :] if known == list(commits[: len(known)]) else None

    def _copy(self) -> None:
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.backup(memory)
        self._db.close()
        self._db = memory

    def _marks(self) -> tuple[tuple[int], tuple[int]]:
        """Tell these tables from those of another version or another store."""
        return (VERSION,), (int(self._spec.store_id[:7], 16),)

    def _connect(self, where: Path | str, *, read_only: bool = False) -> None:
        self._db.close()
        uri = f"file:{quote(os.fsencode(where))}?mode=ro" if read_only else os.fspath(where)
        self._db = sqlite3.connect(uri, timeout=10, isolation_level=None, check_same_thread=False, uri=read_only)
        # no waiting for the disk: after a crash of the machine the seal does not fit, and the tables are made again
        self._db.executescript("PRAGMA synchronous = OFF; PRAGMA trusted_schema = OFF;")

    def _sum(self) -> str:
        """Sum the file up, and say which file it is: a copy has another inode and time."""
        with suppress(OSError), plain_file(self._file, sys.maxsize) as file:
            found = os.fstat(file.fileno())
            return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {found.st_ino}-{found.st_ctime_ns}"
        return ""

    def seal(self, text: str | None = None) -> None:
        """Say that the file is at rest, with this sum; or ``WRITING``, that it is consistent between transactions."""
        with suppress(OSError):
            if self._db.execute("PRAGMA database_list").fetchone()[2] and (text := text or self._sum()):
                handle = os.open(self._seal, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                try:
                    os.pwrite(handle, text.ljust(112).encode(), 0)  # half of it would fit nothing
                finally:
                    os.close(handle)

    def unseal(self) -> None:
        """Have the tables made again by whoever opens them next."""
        with suppress(OSError):
            self._seal.unlink()

    def _rebuild(self, where: Path | str) -> None:
        self._changes += 1
        for _ in range(TRIES):
            if self._rebuild_once(where):
                break

    def _rebuild_once(self, where: Path | str) -> bool:
        """Read all commits; whether they were all there: another process may be merging them."""
        self._db.close()
        if where == self._file:
            for path in (self._seal, self._file, *self._store.glob("catalog.sqlite-*")):
                path.unlink(missing_ok=True)
        self._connect(where)
        (version,), (store,) = self._marks()
        self._db.executescript(f"{SCHEMA} PRAGMA user_version = {version}; PRAGMA application_id = {store};")
        commits, _ = list_commits(self._store)
        self.note_gone(self._gone - {commit.name for commit in commits})
        self._take_in(commits)
        return {commit.name for commit in commits} <= {commit.name for commit in list_commits(self._store)[0]}

    def note_gone(self, names: Iterable[str]) -> None:
        """Say of commits that they are missing, until a build has run."""
        notes = [(name, f"{name} is gone; build again") for name in sorted(names)]
        self._db.executemany("INSERT INTO commits(name, size, problem) VALUES (?, -1, ?)", notes)

    def _take_in(self, commits: Sequence[CommitFile]) -> None:
        read: Callable[[CommitFile], tuple[_Entries, str | None]]
        read = partial(_entries_or_problem, self._store, self._spec, values=self._values)
        found: Iterable[tuple[_Entries, str | None]] = map(read, commits)
        if sum(commit.size for commit in commits) > MUCH:
            from joblib import Parallel, delayed

            found = Parallel(-1, return_as="generator", pre_dispatch="2 * n_jobs")(map(delayed(read), commits))
        for commit, (entries, problem) in zip(commits, found, strict=True):
            self._apply(commit, entries, problem)

    def add(self, commit: CommitFile, content: records.Content) -> None:
        """Take in a commit that this process has just written."""
        with self._safely():
            self._apply(commit, _Entries.of(commit, content), None)

    def drop(self, name: str) -> None:
        """Forget a commit that others stand for, and the rows that nobody needed."""
        with self._safely():
            self._drop(name)

    @contextmanager
    def _safely(self) -> Iterator[None]:
        with self._mutex:
            try:
                yield
            except sqlite3.Error:  # a full disk, say: the commits themselves are safe
                self.unseal()
                self._rebuild(":memory:")

    def _apply(self, commit: CommitFile, entries: _Entries, problem: str | None) -> None:
        self._changes += 1
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            sql = "INSERT INTO commits VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
            names = [json.dumps(names) if names else None for names in (entries.replaces, entries.origins)]
            self._db.execute(sql, (*commit, entries.keys, problem, *names))
            self._db.executemany(PUT_TRACK, entries.tracks)
            self._db.executemany(PUT_FILE, entries.files)
            for statement in entries.statements:
                self._apply_statement(statement)
            missing = "DELETE FROM commits WHERE name = ? AND size < 0"
            self._db.executemany(missing, [(name,) for name in entries.replaces])

    def replaced_names(self) -> set[str]:
        """Give the names of all commits that others stand for, whether they are there or not."""
        lists = self._db.execute("SELECT replaces FROM commits WHERE replaces IS NOT NULL")
        return {name for (names,) in lists for name in json.loads(names)}

    def replaced(self) -> list[str]:
        """List the commits that others stand for; a shard only if no track needs it any more."""
        if not (named := self.replaced_names()):
            return []
        needed = "EXISTS (SELECT 1 FROM tracks JOIN files USING (key) WHERE shard = commits.id)"
        free = self.select(f"SELECT name FROM commits WHERE size >= 0 AND NOT {needed}")  # noqa: S608 - a constant
        return sorted({name for (name,) in free} & named)

    def _drop(self, name: str) -> None:
        self._changes += 1
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM tracks WHERE shard = (SELECT id FROM commits WHERE name = ?)", (name,))
            self._db.execute("DELETE FROM commits WHERE name = ?", (name,))

    def _apply_statement(self, statement: records.Statement) -> None:
        run = self._db.execute
        match statement:
            case records.Link(file, file_hash, key):
                run(PUT_FILE, (*_place(file), file_hash, key, None))
            case records.Fail(file, stage, reason):
                run(PUT_FILE, (*_place(file), None, None, json.dumps([stage, reason])))
            case records.Touch(file):
                path, *stamp = _place(file)
                run("UPDATE files SET below = ?, size = ?, mtime_ns = ? WHERE path = ?", (*stamp, path))
            case records.Label(key, labels):
                run("UPDATE tracks SET labels = ? WHERE key = ?", (json.dumps(labels.to_dict()), key))
            case records.Forget(path):
                run("DELETE FROM files WHERE path = ?", (os.fsencode(path),))

    def select(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query; a catalogue that breaks under it is made again in memory."""
        with self._mutex:
            self._keep_up()
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error:
                self._rebuild(":memory:")
                return self._db.execute(sql, values).fetchall()

    def version(self) -> tuple[int, int]:
        """Tell apart two states of the tables."""
        return (self._changes, self.select("PRAGMA data_version")[0][0])

    def has_key(self, key: int) -> bool:
        """Whether a row of this track is there."""
        return bool(self.select("SELECT 1 FROM tracks WHERE key = ?", (key,)))

    def word_on_file(self, path: str, restated: Collection[str] = ()) -> records.Statement | None:
        """Say in one statement what is known about the file at an absolute path; None if these shards say it."""
        sql = """
            SELECT path, below, files.size, files.mtime_ns, hash, key, failure, name FROM files
            LEFT JOIN tracks USING (key) LEFT JOIN commits ON shard = commits.id WHERE path = ?"""
        found = self.select(sql, (os.fsencode(path),))
        if not found:
            return records.Forget(path)
        *where, file_hash, key, failure, shard = found[0]
        if failure is not None:
            return records.Fail(audio_file(*where), *json.loads(failure))
        return None if shard in restated else records.Link(audio_file(*where), file_hash, key)

    def word_on_labels(self, key: int, restated: Collection[str] = ()) -> records.Label | None:
        """Say the same about a track's labels; None, too, if there is no such track."""
        sql = "SELECT tracks.labels, name FROM tracks JOIN commits ON shard = commits.id WHERE key = ?"
        found = [labels for labels, shard in self.select(sql, (key,)) if shard not in restated]
        return records.Label(key, TrackLabels.from_dict(json.loads(found[0]))) if found else None

    def paths_below(self, folder: str) -> list[str]:
        """List the known files below an absolute path."""
        first = os.fsencode(folder.rstrip("/") + "/")
        sql = "SELECT path FROM files WHERE path > ? AND path < ? ORDER BY path"
        return [os.fsdecode(path) for (path,) in self.select(sql, (first, first[:-1] + b"0"))]  # "0" follows "/"

    def commits(self) -> list[CommitFile]:
        """List the commits that are in the tables."""
        return [CommitFile(*row) for row in self.select("SELECT name, size, mtime_ns FROM commits WHERE size >= 0")]

    def snapshot(self, *queries: str) -> list[list[tuple[Any, ...]]]:
        """Run several queries on the tables as they are at one moment."""
        with self._mutex:
            self._keep_up()
            try:
                self._db.execute("BEGIN")
                try:
                    return [self._db.execute(sql).fetchall() for sql in queries]
                finally:
                    self._db.execute("COMMIT")
            except sqlite3.Error:
                self._rebuild(":memory:")
                return [self._db.execute(sql).fetchall() for sql in queries]

    def _keep_up(self) -> None:
        """Follow other processes: to a file that was made again, or, of tables in memory, to new commits."""
        if self._follows and self._stamp() != self._seen:
            self._changes += 1
            self._look(locked=False)

    def _stamp(self) -> tuple[int, ...]:
        """Tell apart what `_keep_up` follows."""
        with suppress(OSError, sqlite3.Error):
            if self._db.execute("PRAGMA database_list").fetchone()[2]:
                return (self._file.stat().st_ino,)
            return tuple((self._store / name).stat().st_mtime_ns for name in ("shards", "deltas"))
        return ()

    def problems(self) -> list[str]:
        """Say what was left out."""
        return [row[0] for row in self.select("SELECT problem FROM commits WHERE problem IS NOT NULL ORDER BY id")]

    def agrees(self, other: Catalog) -> bool:
        """Whether two catalogues say the same about tracks and files."""
        with self._mutex, suppress(sqlite3.Error):  # what cannot be read is not what it should be
            rows = (zip_longest(*(one._db.execute(sql) for one in (self, other))) for sql in CONTENT)  # noqa: SLF001 - of the same class
            return all(mine == theirs for both in rows for mine, theirs in both)
        return False

    def forget_gone(self) -> None:
        """Drop the notes about commits that disappeared: a build has run since, and stored again what there is."""
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM commits WHERE size < 0")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _tables(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()


def _place(file: AudioFile) -> tuple[bytes, int, int, int]:
    """Where a file is and what stamp it has; `below` is where the path under the root begins."""
    path = os.fsencode(file.full_path)
    return path, len(path) - len(os.fsencode(file.path)), file.size, file.mtime_ns


def audio_file(path: bytes, below: int, size: int, mtime_ns: int) -> AudioFile:
    """Read what `_place` made."""
    return AudioFile(root_of(path, below), os.fsdecode(path[below:]), size, mtime_ns)


def root_of(path: bytes, below: int) -> str:
    """Give the folder that was searched when a file was found."""
    return os.fsdecode(path[:below]).rstrip("/") or "/"


def read_content(store: Path, commit: CommitFile, spec: records.Spec, *, values: bool = False) -> records.Content:
    """Read what a commit says, and check all of it; `values`: every value, too.

    Raises
    ------
    StoreFormatError
        It is damaged, or not of this store.
    """
    data = read_commit(store, commit)
    if commit.name.endswith(".h5"):
        return parse_shard(data, commit.name, commit.sequence, spec, values=values)
    try:
        return records.read_delta(data, commit.sequence, spec)
    except StoreFormatError as error:
        raise StoreFormatError(f"{commit.name} is not a delta of this store: {error}") from error


class _Entries(NamedTuple):
    """What a commit puts into the tables: plain values, which travel between processes at little cost."""

    keys: bytes
    tracks: list[tuple[Any, ...]]
    files: list[tuple[Any, ...]]
    statements: Sequence[records.Statement]
    replaces: tuple[str, ...]
    origins: tuple[str, ...]

    @classmethod
    def of(cls, commit: CommitFile, content: records.Content) -> _Entries:
        """Read them from what the commit says."""
        if not commit.name.endswith(".h5"):
            return cls(b"", [], [], content.items, content.replaces, ())
        tracks, files = [], []
        for number, row in enumerate(content.items):
            track = row.track
            sound = (track.seconds, track.sample_rate, track.channels, json.dumps(track.warnings))
            tracks.append((track.key, number, *sound, json.dumps(track.labels.to_dict()), row.n_windows))
            files += [(*_place(f), f_hash, track.key, None) for f, f_hash in zip(track.files, row.hashes, strict=True)]
        keys = np.array([row.track.key for row in content.items], "<i8").tobytes()
        return cls(keys, tracks, files, (), content.replaces, content.origins)


def _entries_or_problem(
    store: Path, spec: records.Spec, commit: CommitFile, *, values: bool
) -> tuple[_Entries, str | None]:
    try:
        return _Entries.of(commit, read_content(store, commit, spec, values=values)), None
    except StoreFormatError as error:
        return _Entries(b"", [], [], (), (), ()), str(error)
