"""The many processes that each add a planned shard to one store, side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedstore.errors import StoreFormatError
from embedstore.store import disk, records
from embedstore.store.catalog import Catalog, read_content
from embedstore.store.description import check_recipe, read_description
from embedstore.store.writer import StoreWriter
from embedstore.types import AudioFile

__all__ = ["ShardWriter", "finished_shards", "shard_writer"]

PATIENCE = 600.0  # seconds that one waits for a reader that mends the catalogue


def shard_writer(path: str | os.PathLike[str], sequence: int, recipe: Mapping[str, Any]) -> ShardWriter:
    """Make the context manager that adds one planned shard to a store, beside others that add theirs.

    Parameters
    ----------
    path : path
        Of a store that is there.
    sequence : int
        The shard's number, at least `EmbeddingStore.next_sequence` when it was planned.
    recipe : mapping
        Of the vectors that will come.

    Raises
    ------
    EncoderMismatchError
        The store was written with another recipe.
    StoreError, StoreFormatError
        As `EmbeddingStore.open`.
    """
    folder = Path(os.path.abspath(path))
    _, stored, spec = read_description(folder)
    check_recipe(folder, stored, recipe)
    return ShardWriter(folder, spec, sequence)


def finished_shards(path: str | os.PathLike[str], plan: str, sequences: Iterable[int]) -> set[int]:
    """Tell which of a plan's shards are done, by their numbers: those that `ShardWriter.finish` says so of.

    Raises
    ------
    StoreError, StoreFormatError
        There is no store, or it cannot be read.
    """
    folder = Path(os.path.abspath(path))
    _, _, spec = read_description(folder)
    with disk.explained(f"cannot read the store {folder}"):
        listed = {commit.name for commit in disk.list_commits(folder)[0]}
    marks = {number: disk.commit_name("deltas", number, records.build_mark(spec, number, plan)) for number in sequences}
    return {number for number, name in marks.items() if name in listed}


class ShardWriter(StoreWriter):
    """Writes down one planned shard, from any machine and beside others of its kind, without looking at the whole store.

    All that it commits has the planned sequence number: planned shards speak of different files, so their order tells nothing.
    What an earlier try has committed under that number is known and is not done again.

    Made by `shard_writer`.
    """

    def __init__(self, path: Path, spec: records.Spec, sequence: int) -> None:
        super().__init__(path, spec, lambda: Catalog(path, spec))
        self._next = sequence
        self._keys: set[int] = set()
        self._files: set[AudioFile] = set()

    def _take_lock(self) -> int:
        return disk.acquire_lock(self._path, shared=True, patience=PATIENCE)

    def _begin(self) -> None:
        for commit in disk.list_commits(self._path, self._next)[0]:
            with suppress(StoreFormatError):  # damaged: done again
                self._take_in(commit, read_content(self._path, commit, self._spec))

    def _end(self, *, well: bool) -> None:
        """Leave the catalogue to who reads or finalizes the store."""

    def _seal(self) -> None:
        """Leave the seal, too."""

    def _take_in(self, written: disk.CommitFile, content: records.Content) -> None:  # noqa: ARG002 - no catalogue
        for item in content.items:
            if isinstance(item, records.Row):
                self._keys.add(item.track.key)
                self._files.update(item.track.files)
            elif isinstance(item, (records.Link, records.Fail)):
                self._files.add(item.file)

    def _write(self, kind: str, data: bytes) -> disk.CommitFile:
        return disk.write_commit(self._path, kind, self._next, data)

    def has_key(self, key: int) -> bool:
        """Whether this shard holds the sound."""
        return key in self._rows or key in self._keys

    def _known(self, key: int) -> None:
        """Believe that the store has it: a link to a track that has no row says nothing."""

    def finish(self, plan: str) -> None:
        """Write down that this shard of a plan is done; see `finished_shards`."""
        self.commit()
        with disk.explained(f"cannot store more in {self._path} (what it holds is safe)"):
            self._write("deltas", records.build_mark(self._spec, self._next, plan))

    def has_file(self, file: AudioFile) -> bool:
        """Whether an earlier try has written down what this file holds, or that it failed."""
        return file in self._files
