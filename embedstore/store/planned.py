"""The many processes that each add a planned shard to one store, side by side.

What they wrote is found again by names beside the commits: ``plans/PLAN/N-COMMIT`` for each commit of shard N, ``plans/PLAN/N.done``.
These are hints: where one is lost, work is done twice, and nothing else changes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedstore.errors import ParameterError, StoreFormatError
from embedstore.store import disk, records
from embedstore.store.catalog import Catalog, read_content
from embedstore.store.description import check_recipe, read_description
from embedstore.store.writer import StoreWriter
from embedstore.types import AudioFile

__all__ = ["ShardWriter", "finalized", "finished_shards", "forget_plans", "note_finalized", "shard_writer"]

PATIENCE = 600.0  # seconds that one waits for a reader that mends the catalogue
PLAN = re.compile("(ray-)?[0-9a-f]{32}")
FINALIZED = "finalized"


def shard_writer(path: str | os.PathLike[str], plan: str, number: int, recipe: Mapping[str, Any]) -> ShardWriter:
    """Make the context manager that adds one planned shard to a store, beside others that add theirs.

    Parameters
    ----------
    path : path
        Of a store that is there.
    plan : str
        Id of the plan: 32 hexadecimal digits.
    number : int
        Of the shard in the plan.
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
    return ShardWriter(folder, spec, _folder(folder, plan), number)


def finished_shards(path: str | os.PathLike[str], plan: str) -> set[int]:
    """Tell which shards of a plan are done, by their numbers: those that `ShardWriter.finish` says so of."""
    with suppress(OSError):
        names = os.listdir(_folder(Path(path), plan))  # noqa: PTH208 - names
        return {int(name[:-5]) for name in names if re.fullmatch(r"\d{1,9}\.done", name)}
    return set()


def finalized(path: str | os.PathLike[str], plan: str) -> bool:
    """Whether the work of a plan is over."""
    return (_folder(Path(path), plan) / FINALIZED).exists()


def note_finalized(path: str | os.PathLike[str], plan: str) -> None:
    """Write down that the work of a plan is over, and let go of what was known of its shards.

    Raises
    ------
    StoreError
        The disk refused.
    """
    folder = _folder(Path(path), plan)
    with disk.explained(f"cannot write to the store {path}"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FINALIZED).touch()
    for hint in folder.iterdir():
        if hint.name != FINALIZED:
            with suppress(OSError):
                hint.unlink()


def forget_plans(path: str | os.PathLike[str]) -> None:
    """Let go of what killed builds on Ray left: it would only have saved a living one some work."""
    for folder in (Path(path) / "plans").glob("ray-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _folder(store: Path, plan: str) -> Path:
    if not PLAN.fullmatch(plan):
        raise ParameterError(f"the id of a plan has 32 hexadecimal digits; got {plan!r:.80}")
    return store / "plans" / plan


class ShardWriter(StoreWriter):
    """Writes down one planned shard, from any machine and beside others of its kind, without looking at the whole store.

    It shares the writer's lock with its like, so that nobody else writes meanwhile; all its commits have the number that was
    free when it began. What an earlier try has committed is known and is not done again.

    Made by `shard_writer`.
    """

    def __init__(self, path: Path, spec: records.Spec, hints: Path, number: int) -> None:
        super().__init__(path, spec, lambda: Catalog(path, spec))
        self._hints, self._number = hints, number
        self._keys: set[int] = set()
        self._files: set[AudioFile] = set()

    def _take_lock(self) -> int:
        return disk.acquire_lock(self._path, shared=True, patience=PATIENCE)

    def _begin(self) -> None:
        commits, _ = disk.list_commits(self._path)
        self._next = disk.next_sequence(commits)
        self._hints.mkdir(parents=True, exist_ok=True)
        ours = {hint.name.partition("-")[2] for hint in self._hints.glob(f"{self._number}-*")}
        for commit in commits:
            if commit.order in ours:
                with suppress(StoreFormatError):  # damaged: done again
                    self._take_in(commit, read_content(self._path, commit, self._spec))

    def _seal(self) -> None:
        """Leave the catalogue to who reads or finalizes the store."""

    def _take_in(self, written: disk.CommitFile, content: records.Content) -> None:  # noqa: ARG002 - no catalogue
        for item in content.items:
            if isinstance(item, records.Row):
                self._keys.add(item.track.key)
                self._files.update(item.track.files)
            elif isinstance(item, (records.Link, records.Fail)):
                self._files.add(item.file)

    def _write(self, kind: str, data: bytes) -> disk.CommitFile:
        written = disk.write_commit(self._path, kind, self._next, data)
        (self._hints / f"{self._number}-{written.order}").touch()
        return written

    def has_key(self, key: int) -> bool:
        """Whether this shard holds the sound."""
        return key in self._rows or key in self._keys

    def _known(self, key: int) -> None:
        """Believe that the store has it: a link to a track that has no row says nothing."""

    def finish(self) -> None:
        """Write down that this shard of its plan is done; see `finished_shards`."""
        self.commit()
        with disk.explained(f"cannot store more in {self._path} (what it holds is safe)"):
            (self._hints / f"{self._number}.done").touch()

    def has_file(self, file: AudioFile) -> bool:
        """Whether an earlier try has written down what this file holds, or that it failed."""
        return file in self._files
