"""What all commits add up to, in SQLite: a cache that is believed only when it can be."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np

from embedstore.errors import StoreError, StoreFormatError
from embedstore.store import records
from embedstore.store.disk import CommitFile, list_commits, read_commit, try_lock
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
PUT_FILE = """
INSERT INTO files(path, below, size, mtime_ns, hash, key, failure) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(path) DO UPDATE SET below = excluded.below, size = excluded.size, mtime_ns = excluded.mtime_ns,
    hash = excluded.hash, key = excluded.key, failure = excluded.failure"""
CONTENT = (
    """SELECT name, row, key, seconds, sample_rate, channels, warnings, labels, windows
    FROM tracks JOIN commits ON shard = commits.id ORDER BY name, row""",
    "SELECT path, below, size, mtime_ns, hash, key, failure FROM files ORDER BY path",
    "SELECT name, keys, replaces, origins FROM commits WHERE size >= 0 ORDER BY name",
)
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
        lock, busy = None, False
        if not locked:
            with suppress(OSError, ImportError):  # a folder that cannot be written, a system without flock
                lock = try_lock(store)
                busy = lock is None
        try:
            catalog._open(maintain=locked or lock is not None, busy=busy)
        except StoreError:
            raise
        except (sqlite3.Error, OSError):  # the cache cannot be read or written: what it says can still be had
            catalog._rebuild(":memory:")
        finally:
            if lock is not None:
                os.close(lock)
        return catalog

    @classmethod
    def fresh(cls, store: Path, spec: records.Spec) -> Self:
        """Read every commit, every value included, into memory."""
        catalog = cls(store, spec)
        catalog._values = True
        catalog._rebuild(":memory:")
        return catalog

    def _open(self, *, maintain: bool, busy: bool) -> None:
        commits, _ = list_commits(self._store)
        seal = self._seal.read_text("ascii", "replace").strip() if self._seal.exists() else ""
        writing = busy and seal == WRITING  # a living writer has checked the file, and adds its commits itself
        new = None
        if writing or (seal and seal == self._sum()):
            self._connect(self._file)
            new = self._unknown(commits)
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
        if maintain:
            self.seal()

    def _unknown(self, commits: Sequence[CommitFile]) -> Sequence[CommitFile] | None:
        """List what the tables lack; None if what they know is not all there, unchanged, and before the rest.

        What is gone and was replaced may be gone.
        """
        if (*self._db.execute("PRAGMA user_version"), *self._db.execute("PRAGMA application_id")) != self._marks():
            return None
        known = self._db.execute("SELECT name, size, mtime_ns FROM commits ORDER BY id").fetchall()
        listed = {commit.name for commit in commits}
        self._gone = {name for name, _, _ in known} - listed
        lost = {name for name, size, _ in known if size >= 0} - listed
        if lost - self._replaced():
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

    def _connect(self, where: Path | str) -> None:
        self._db.close()
        self._db = sqlite3.connect(where, timeout=10, isolation_level=None, check_same_thread=False)
        # no waiting for the disk: after a crash of the machine the seal does not fit, and the tables are made again
        self._db.executescript("PRAGMA synchronous = OFF; PRAGMA trusted_schema = OFF;")

    def _sum(self) -> str | None:
        with suppress(OSError), self._file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return None

    def seal(self, text: str | None = None) -> None:
        """Say that the file is at rest, with this sum; or ``WRITING``, that it is consistent between transactions."""
        with suppress(OSError):
            if self._db.execute("PRAGMA database_list").fetchone()[2] and (text := text or self._sum()):
                handle = os.open(self._seal, os.O_WRONLY | os.O_CREAT, 0o666)
                try:
                    os.pwrite(handle, text.ljust(64).encode(), 0)  # half of it would fit nothing
                finally:
                    os.close(handle)

    def unseal(self) -> None:
        """Have the tables made again by whoever opens them next."""
        with suppress(OSError):
            self._seal.unlink()

    def _rebuild(self, where: Path | str) -> None:
        self._db.close()
        if where == self._file:
            for path in (self._seal, self._file, self._file.with_name("catalog.sqlite-journal")):
                path.unlink(missing_ok=True)
        self._connect(where)
        (version,), (store,) = self._marks()
        self._db.executescript(f"{SCHEMA} PRAGMA user_version = {version}; PRAGMA application_id = {store};")
        notes = [(name, f"{name} is gone; build again") for name in sorted(self._gone)]
        self._db.executemany("INSERT INTO commits(name, size, problem) VALUES (?, -1, ?)", notes)
        self._take_in(list_commits(self._store)[0])

    def _take_in(self, commits: Sequence[CommitFile]) -> None:
        for commit in commits:
            problem, content = None, records.Content(())
            try:
                content = read_content(self._store, commit, self._spec, values=self._values)
            except StoreFormatError as error:
                problem = str(error)
            self._apply(commit, content, problem)

    def add(self, commit: CommitFile, content: records.Content) -> None:
        """Take in a commit that this process has just written."""
        with self._safely():
            self._apply(commit, content, None)

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

    def _apply(self, commit: CommitFile, content: records.Content, problem: str | None) -> None:
        self._changes += 1
        shard = commit.name.endswith(".h5")
        keys = np.array([row.track.key for row in content.items], "<i8").tobytes() if shard else b""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            sql = "INSERT INTO commits VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
            names = [json.dumps(names) if names else None for names in (content.replaces, content.origins)]
            place = self._db.execute(sql, (*commit, keys, problem, *names)).lastrowid
            if shard:
                self._apply_rows(content.items, place)
            else:
                for statement in content.items:
                    self._apply_statement(statement)
            missing = "DELETE FROM commits WHERE name = ? AND size < 0"
            self._db.executemany(missing, [(name,) for name in content.replaces])

    def _replaced(self) -> set[str]:
        lists = self._db.execute("SELECT replaces FROM commits WHERE replaces IS NOT NULL")
        return {name for (names,) in lists for name in json.loads(names)}

    def replaced(self) -> list[str]:
        """List the commits that others stand for; a shard only if no track needs it any more."""
        if not (named := self._replaced()):
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

    def _apply_rows(self, rows: Sequence[records.Row], place: int | None) -> None:
        tracks, files = [], []
        for number, row in enumerate(rows):
            track = row.track
            sound = (track.seconds, track.sample_rate, track.channels, json.dumps(track.warnings))
            tracks.append((track.key, place, number, *sound, json.dumps(vars(track.labels)), row.n_windows))
            files += [(*_place(f), f_hash, track.key, None) for f, f_hash in zip(track.files, row.hashes, strict=True)]
        self._db.executemany("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", tracks)
        self._db.executemany(PUT_FILE, files)

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
                run("UPDATE tracks SET labels = ? WHERE key = ?", (json.dumps(vars(labels)), key))
            case records.Forget(path):
                run("DELETE FROM files WHERE path = ?", (os.fsencode(path),))

    def select(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query; a catalogue that breaks under it is made again in memory."""
        with self._mutex:
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
        """Drop the notes about commits that disappeared: a build has run since."""
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM commits WHERE size < 0")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


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
