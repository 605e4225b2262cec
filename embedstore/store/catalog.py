"""What all commits add up to, in SQLite: a cache that is believed only when it can be."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from embedstore.errors import StoreError, StoreFormatError
from embedstore.store import records
from embedstore.store.disk import CommitFile, list_commits, read_commit, try_lock
from embedstore.store.shard import parse_shard
from embedstore.types import AudioFile

__all__ = ["WRITING", "Catalog"]

VERSION = 2  # of the tables: with another number the catalogue is made again
SCHEMA = """
CREATE TABLE commits(id INTEGER PRIMARY KEY, name TEXT, size INTEGER, mtime_ns INTEGER, rows INTEGER, problem TEXT);
CREATE TABLE tracks(key INTEGER PRIMARY KEY, shard INTEGER, row INTEGER, seconds REAL, sample_rate INTEGER,
                    channels INTEGER, warnings TEXT, labels TEXT, windows INTEGER);
CREATE TABLE files(id INTEGER PRIMARY KEY, path BLOB UNIQUE, below INTEGER, size INTEGER, mtime_ns INTEGER,
                   hash TEXT, key INTEGER, failure TEXT);
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
    "SELECT path, below, size, mtime_ns, hash, key, failure FROM files ORDER BY id",
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
        self._gone: set[str] = set()
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
        if new is None or (new and not writing and not maintain):
            self._rebuild(self._file if maintain else ":memory:")
        elif new and maintain:
            self.unseal()
            self._take_in(new)
        else:
            return
        if maintain:
            self.seal()

    def _unknown(self, commits: Sequence[CommitFile]) -> Sequence[CommitFile] | None:
        """List what the tables lack; None if what they know is not all there, unchanged, and before the rest."""
        if (*self._db.execute("PRAGMA user_version"), *self._db.execute("PRAGMA application_id")) != self._marks():
            return None
        known = self._db.execute("SELECT name, size, mtime_ns FROM commits ORDER BY id").fetchall()
        self._gone = {name for name, _, _ in known} - {commit.name for commit in commits}
        known = [row for row in known if row[1] >= 0]
        return commits[len(known) :] if known == list(commits[: len(known)]) else None

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
            problem, content = None, []
            try:
                content = self._read(commit)
            except StoreFormatError as error:
                problem = str(error)
            self._apply(commit, content, problem)

    def _read(self, commit: CommitFile) -> list[Any]:
        """Read the rows or statements of a commit, and check all of it."""
        data = read_commit(self._store, commit)
        if commit.name.endswith(".h5"):
            return list(parse_shard(data, commit.name, commit.sequence, self._spec, values=self._values))
        try:
            delta = records.parse(data, "it")
            self._spec.check(delta, commit.sequence)
            return [records.read_statement(statement) for statement in records.take(delta, "statements", list)]
        except StoreFormatError as error:
            raise StoreFormatError(f"{commit.name} is not a delta of this store: {error}") from error

    def add(self, commit: CommitFile, content: Sequence[records.Row] | Sequence[records.Statement]) -> None:
        """Take in a commit that this process has just written."""
        with self._mutex:
            try:
                self._apply(commit, content, None)
            except sqlite3.Error:  # a full disk, say: the commit itself is safe
                self.unseal()
                self._rebuild(":memory:")

    def _apply(self, commit: CommitFile, content: Sequence[Any], problem: str | None) -> None:
        self._changes += 1
        rows = len(content) if commit.name.endswith(".h5") else 0
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            sql = "INSERT INTO commits(name, size, mtime_ns, rows, problem) VALUES (?, ?, ?, ?, ?)"
            place = self._db.execute(sql, (*commit, rows, problem)).lastrowid
            for row, item in enumerate(content):
                self._apply_one(item, place, row)

    def _apply_one(self, item: records.Row | records.Statement, place: int | None, row: int) -> None:
        run = self._db.execute
        match item:
            case records.Row(track):
                labels = json.dumps(vars(track.labels))
                sound = (track.seconds, track.sample_rate, track.channels, json.dumps(track.warnings))
                values = (track.key, place, row, *sound, labels, item.n_windows)
                run("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                for file, file_hash in zip(track.files, item.hashes, strict=True):
                    run(PUT_FILE, (*_place(file), file_hash, track.key, None))
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

    def commits(self) -> list[CommitFile]:
        """List the commits that are in the tables."""
        return [CommitFile(*row) for row in self.select("SELECT name, size, mtime_ns FROM commits WHERE size >= 0")]

    def problems(self) -> list[str]:
        """Say what was left out."""
        return [row[0] for row in self.select("SELECT problem FROM commits WHERE problem IS NOT NULL ORDER BY id")]

    def digest(self) -> str:
        """Sum up what the tables say about tracks and files."""
        total = hashlib.sha256()
        with self._mutex, suppress(sqlite3.Error):  # what cannot be read is not what it should be
            for sql in CONTENT:
                for row in self._db.execute(sql):
                    total.update(repr(row).encode())
        return total.hexdigest()

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
