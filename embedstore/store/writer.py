"""The one process that adds to a store."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import EncoderError, ParameterError, StoreError, StoreFormatError
from embedstore.store import disk, records
from embedstore.store.catalog import WRITING, Catalog
from embedstore.store.shard import Halfs, Windows, build_shard
from embedstore.types import MOST_WINDOW_BYTES, AudioFile, LayerEmbeddings, Track, TrackLabels, too_many_windows

__all__ = ["StoreWriter", "checked"]

T = TypeVar("T")

ROWS, STATEMENTS, SECONDS, BYTES = 64, 1024, 30.0, 64 * 2**20  # a commit is due at the first of these
LARGEST_HALF = 65504.0


class StoreWriter:
    """Adds to a store; holds its lock from ``with`` to the end of the block. One thread may use it.

    What is added is on the disk for good after each commit: every 64 tracks, 64 MiB or 30 seconds (looked at when
    something is added, or by `commit_if_due`), and at the end of the block, however it ends.

    Made by `EmbeddingStore.writer`.

    Attributes
    ----------
    committed : int
        Tracks that this writer has put on the disk.
    """

    def __init__(self, path: Path, spec: records.Spec, take_catalog: Callable[[], Catalog]) -> None:
        self._path, self._spec, self._take_catalog = path, spec, take_catalog
        self._lock: int | None = None
        self._rows: dict[int, tuple[records.Row, list[Halfs], Windows]] = {}
        self._bytes = 0  # of their windows
        self._statements: list[records.Statement] = []
        self._spoken: set[str] = set()  # paths that these are about
        self._oldest = 0.0
        self.committed = 0

    def __enter__(self) -> Self:
        """Take the lock, clear away what a killed writer left, and look at what is stored.

        Raises
        ------
        StoreLockedError
            Another process is writing.
        StoreError
            The folder cannot be written.
        """
        with disk.explained(f"cannot write to the store {self._path}"):
            self._lock = self._take_lock()
            try:
                for name in ("shards", "deltas"):
                    (self._path / name).mkdir(exist_ok=True)
                    if not os.access(self._path / name, os.W_OK):  # say it now, not after the first 64 tracks
                        raise PermissionError(errno.EACCES, name)  # noqa: TRY301 - the block around it explains
                self._begin()
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.commit()
        except StoreError:
            if not isinstance(error, StoreError):  # else the first refusal is on its way already
                raise
        finally:
            try:
                self._seal()
            finally:
                self._release()

    def _take_lock(self) -> int:
        return disk.acquire_lock(self._path)

    def _begin(self) -> None:
        disk.remove_temporaries(self._path)
        self._catalog = self._take_catalog()
        self._catalog.seal(WRITING)
        self._drop(self._catalog.replaced())
        self._next = disk.next_sequence(disk.list_commits(self._path)[0])

    def forget_gone(self) -> None:
        """Drop the notes about commits that are missing: what they held has been stored again, as far as it can be."""
        self._catalog.forget_gone()

    def _seal(self) -> None:
        self._catalog.seal()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def has_key(self, key: int) -> bool:
        """Whether the vectors of this sound are stored or waiting to be."""
        return key in self._rows or self._catalog.has_key(key)

    def add(self, track: Track, file_hash: str, embeddings: LayerEmbeddings) -> bool:
        """Store a track; if its sound is there already, only note that its file holds it, too.

        Parameters
        ----------
        track : Track
            With the one file that was encoded.
        file_hash : str
            Of the file's bytes, hexadecimal.
        embeddings : LayerEmbeddings
            In the order of the card's layers; with windows if the store keeps them.

        Returns
        -------
        bool
            Whether the vectors were new.

        Raises
        ------
        EncoderError
            The vectors do not fit the store or float16, or the windows are too many. Nothing of this track is stored;
            the writer goes on.
        ParameterError
            The track cannot be written down, or has windows though the store keeps none, or none though it does.
        StoreError
            A commit was due and failed.
        """
        if len(track.files) != 1:
            raise ParameterError(f"a new track has the one file that was encoded; got {len(track.files)}")
        if not 0 <= track.key < 2**63:
            raise ParameterError(f"a track's key is from 0 to 2^63 - 1; got {track.key}")
        n_windows = len(embeddings.windows)
        row = checked(
            records.row_record(records.Row(track, (file_hash,), embeddings.n_frames)),
            lambda data: records.read_row(track.key, data, n_windows),
        )
        if bool(n_windows) != (self._spec.windowing is not None):
            raise ParameterError(
                f"{row.track.path!r} comes with {n_windows} windows; {self._path} was made to keep "
                f"{'those of every track' if self._spec.windowing else 'none'}"
            )
        halfs = self._halfs(row.track.path, embeddings.vectors)
        windows = self._windows(row.track.path, embeddings.windows)
        if self.has_key(track.key):
            self.link(row.track.files[0], file_hash, track.key)
            return False
        # what was said before about this file comes before its shard; a giant gets a shard of its own
        if row.track.path in self._spoken or self._bytes + windows.nbytes > BYTES:
            self.commit()
        self._started()
        self._rows[track.key] = (row, halfs, windows)
        self._bytes += windows.nbytes
        self.commit_if_due()
        return True

    def _halfs(self, path: str, vectors: Sequence[NDArray[np.floating]]) -> list[Halfs]:
        dims, expected = [v.shape[-1] for v in vectors], [dim for _, _, dim in self._spec.layers]
        if dims != expected:
            raise EncoderError(f"{path!r}: the encoder gave layers of widths {dims}; the store holds {expected}")
        for (number, _, _), vector in zip(self._spec.layers, vectors, strict=True):
            fits = np.abs(vector) < LARGEST_HALF
            if not fits.all():
                raise EncoderError(
                    f"{path!r}: layer {number} has {fits.size - fits.sum()} of {fits.size} values that are not finite or not below "
                    f"{LARGEST_HALF:.0f}, the range of float16; the first is {vector[~fits][0]}"
                )
        return [vector.astype("<f2", copy=False) for vector in vectors]

    def _windows(self, path: str, windows: Sequence[LayerEmbeddings]) -> Windows:
        if sum(vector.nbytes for window in windows for vector in window.vectors) > MOST_WINDOW_BYTES:
            raise EncoderError(f"{path!r}: {too_many_windows(len(windows))}")
        if any(window.n_frames >= 2**31 for window in windows):
            raise EncoderError(f"{path!r}: a window has 2^31 frames or more")
        frames = np.array([window.n_frames for window in windows], "<i4")
        columns = zip(*(window.vectors for window in windows), strict=True)
        return Windows(frames, self._halfs(path, [np.stack(column) for column in columns]) if windows else [])

    def link(self, file: AudioFile, file_hash: str, key: int) -> None:
        """Note that a file holds the sound of a stored track."""
        self._known(key)
        self._say(records.Link(file, file_hash, key))

    def touch(self, file: AudioFile) -> None:
        """Note the new stamp of a file whose content is the same."""
        self._say(records.Touch(file))

    def fail(self, file: AudioFile, stage: str, reason: str) -> None:
        """Note that a file could not be stored; what was known about its path is replaced."""
        self._say(records.Fail(file, stage, reason))

    def label(self, key: int, labels: TrackLabels) -> None:
        """Replace the labels of a stored track."""
        self._known(key)
        self._say(records.Label(key, labels))

    def forget(self, path: str) -> None:
        """Drop what is known about the file at an absolute path; a track without files is hidden."""
        self._say(records.Forget(path))

    def _known(self, key: int) -> None:
        if not self.has_key(key):
            raise ParameterError(f"no stored track has the key {key}")

    def _say(self, statement: records.Statement) -> None:
        statement = checked(records.statement_record(statement), records.read_statement)
        self._started()
        self._statements.append(statement)
        match statement:
            case records.Link(file) | records.Touch(file) | records.Fail(file):
                self._spoken.add(file.full_path)
            case records.Forget(path):
                self._spoken.add(path)
        self.commit_if_due()

    def _started(self) -> None:
        if self._lock is None:
            raise StoreError(f"the writer of {self._path} is closed; use it inside its with block")
        if not self._rows and not self._statements:
            self._oldest = time.monotonic()

    def commit_if_due(self) -> None:
        """Commit if 64 tracks or 64 MiB are waiting, or anything for 30 seconds; call it while waiting for a slow track."""
        late = (self._rows or self._statements) and time.monotonic() - self._oldest >= SECONDS
        if late or len(self._rows) >= ROWS or self._bytes >= BYTES or len(self._statements) >= STATEMENTS:
            self.commit()

    def commit(self) -> None:
        """Put everything that waits on the disk, for good.

        Raises
        ------
        StoreError
            The disk refused. What waits still waits; earlier commits are safe.
        """
        kept = f"{self.committed} tracks of this run are safe, {len(self._rows)} are not"
        with disk.explained(f"cannot store more in {self._path} ({kept})"):
            if self._rows:
                rows, vectors, windows = zip(*self._rows.values(), strict=True)
                written = self._write("shards", build_shard(self._spec, self._next, rows, vectors, windows))
                self._rows, self._bytes = {}, 0
                self.committed += len(rows)
                self._take_in(written, records.Content(rows))
            if self._statements:
                said = records.Content(self._statements)
                written = self._write("deltas", records.build_delta(self._spec, self._next, said))
                self._statements, self._spoken = [], set()
                self._take_in(written, said)

    def _write(self, kind: str, data: bytes) -> disk.CommitFile:
        written = disk.write_commit(self._path, kind, self._next, data)
        self._next += 1
        return written

    def _take_in(self, written: disk.CommitFile, content: records.Content) -> None:
        self._catalog.add(written, content)

    def put(self, kind: str, build: Callable[[int], bytes], content: records.Content) -> str:
        """Write a commit that is made of what others say, and then remove those that it replaces; its name.

        Parameters
        ----------
        kind : {"shards", "deltas"}
        build : callable
            Makes the bytes, given the sequence number.
        content : Content
            What the bytes say.
        """
        self.commit()
        with disk.explained(f"cannot store more in {self._path} (what it holds is safe)"):
            written = self._write(kind, build(self._next))
            self._take_in(written, content)
            self._drop(content.replaces)
        return written.name

    def _drop(self, names: Sequence[str]) -> None:
        """Remove commits that others replace: one that is left behind by a crash changes nothing but the space it takes."""
        for name in names:
            disk.remove_commit(self._path, name)
            self._catalog.drop(name)


def checked(record: dict[str, Any], read: Callable[[Any], T]) -> T:
    """Read a record back before it is written: one that cannot be read would take a whole commit with it."""
    try:
        return read(records.parse(records.dump(record), "it"))
    except (StoreFormatError, TypeError, ValueError) as error:
        raise ParameterError(f"this cannot be written down: {error}") from error
