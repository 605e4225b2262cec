"""What a build has to do: which files of a folder are new to a store, and who takes which of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedstore.audio import find_audio
from embedstore.changes import change_of
from embedstore.errors import ParameterError
from embedstore.labels import Columns
from embedstore.labels.policy import LabelPolicy
from embedstore.lanes import Known
from embedstore.store import EmbeddingStore, Failure, FileState
from embedstore.types import AudioFile, EncoderCard, TrackLabels

__all__ = ["PASSING", "Plan", "PlannedFile", "PlannedShard", "plan_build"]

MEMORY = "labels"  # a preference of the store: root folder -> where its labels are
MOST_ALIKE = 1000  # stored files of one size
PASSING = ("open", "limit")  # stages that fail for reasons outside the file: it may work next time


@dataclass(frozen=True)
class PlannedFile:
    """A file that is to be encoded.

    Attributes
    ----------
    file : AudioFile
    labels : TrackLabels
        Of its track, if that is new.
    stored : bool
        Whether its path holds a track already: that one stays if the file cannot be read just now.
    """

    file: AudioFile
    labels: TrackLabels
    stored: bool


@dataclass(frozen=True)
class PlannedShard:
    """Files that one process takes into a store.

    Attributes
    ----------
    number : int
        In the plan, from 1.
    files : tuple of PlannedFile
    known : Known
        Stored sounds that they may hold, where the plan says so.
    """

    number: int
    files: tuple[PlannedFile, ...]
    known: Known = field(default_factory=Known)


@dataclass(frozen=True)
class Plan:
    """What the files of a folder mean for a store.

    Attributes
    ----------
    files : tuple of AudioFile
        All that were found.
    store : EmbeddingStore or None
        The store, if it is there already.
    policy : LabelPolicy
        Which labels the files get.
    todo : tuple of AudioFile
        New or changed files.
    skipped, failed : int
        Files that have not changed since they were stored; since they failed.
    notes : tuple of str
        What was passed over.
    keep_windows : bool
        Whether the store keeps, or will keep, the windows of each track.
    states : dict
        Of the store's files, see `EmbeddingStore.files`; a build keeps it up to date, as a million files are not read twice.
    failures : dict of str to Failure
        By absolute path.
    """

    files: tuple[AudioFile, ...]
    store: EmbeddingStore | None
    policy: LabelPolicy
    todo: tuple[AudioFile, ...]
    skipped: int
    failed: int
    notes: tuple[str, ...]
    keep_windows: bool = False
    states: dict[str, FileState] = field(default_factory=dict, repr=False)
    failures: dict[str, Failure] = field(default_factory=dict, repr=False)

    @property
    def root(self) -> str:
        """The folder that is built."""
        return self.files[0].root

    @property
    def remembered(self) -> Mapping[str, Any] | None:
        """The options of the encoder that filled the store."""
        return self.store.card.options if self.store is not None else None

    def open_store(self, path: str | Path, card: EncoderCard, recipe: Mapping[str, Any]) -> EmbeddingStore:
        """Give the store, made if it was not there; see `EmbeddingStore.open_or_create`."""
        if self.store is None:
            return EmbeddingStore.open_or_create(path, card, recipe)
        self.store.check_recipe(recipe)
        return self.store

    def remember(self, store: EmbeddingStore) -> None:
        """Keep where the labels are before anything is encoded: a build that is killed goes on with the same ones."""
        if self.policy.memory is not None:
            memory = store.remembered(MEMORY)
            kept = memory if isinstance(memory, dict) else {}
            store.remember(MEMORY, {**kept, self.root: self.policy.memory})

    def planned(self) -> list[PlannedFile]:
        """List what there is to do."""
        return [PlannedFile(file, self.policy.of(file), file.full_path in self.states) for file in self.todo]

    def shards(self, size: int) -> list[PlannedShard]:
        """Hand it out in shards of up to `size` files, numbered from 1."""
        files = self.planned()
        starts = range(0, len(files), size)
        return [PlannedShard(n, tuple(files[i : i + size])) for n, i in enumerate(starts, 1)]

    def with_known(self, shards: Sequence[PlannedShard]) -> list[PlannedShard]:
        """Add what workers that do not look at the store should know of it.

        That is what these paths held before, and the stored files that have the size of one of these: the same file may
        lie elsewhere now. Where more than a thousand have, its sound is encoded again.
        """
        sizes = {file.size for file in self.todo}
        hashes: dict[int, dict[str, int]] = {}
        for state in self.states.values():
            if state.size in sizes:
                hashes.setdefault(state.size, {})[state.file_hash] = state.key
        hashes = {size: found for size, found in hashes.items() if len(found) <= MOST_ALIKE}
        return [replace(shard, known=self._known(shard, hashes)) for shard in shards]

    def _known(self, shard: PlannedShard, hashes: Mapping[int, Mapping[str, int]]) -> Known:
        before = {self.states[one.file.full_path].key for one in shard.files if one.stored}
        alike = {
            name: key for size in {one.file.size for one in shard.files} for name, key in hashes.get(size, {}).items()
        }
        return Known(before, alike)


def plan_build(
    audio_dir: str | Path,
    store: str | Path,
    *,
    labels: str | Path | None = None,
    columns: Columns | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    keep_windows: bool = False,
) -> Plan:
    """Look at a folder, its labels and a store; see `build`. Writes nothing.

    Raises
    ------
    ParameterError
        The folder is missing or holds no audio, or the store was made without the windows that are to be kept.
    LabelsError
        The labels that are asked cannot be read.
    """
    if limit is not None and limit < 1:
        raise ParameterError(f"limit must be at least 1; got {limit}")
    found = find_audio(audio_dir, limit=limit)
    if not found.files:
        raise ParameterError(f"no audio file under {audio_dir} (looked for wav, flac, ogg, opus, mp3, m4a, ...)")
    existing = EmbeddingStore.open(store) if EmbeddingStore.exists(store) else None
    if keep_windows and existing is not None and not existing.keeps_windows:
        raise ParameterError(
            f"the store {existing.path} was made without windows, and holds none of its {len(existing)} tracks; "
            "keep them in a new one (another --store), or leave out --keep-windows"
        )
    memories = existing.remembered(MEMORY) if existing is not None else None
    memory = memories.get(found.files[0].root) if isinstance(memories, dict) else None
    policy = LabelPolicy.choose(found.files, labels, columns, memory, new=existing is None)
    states = existing.files() if existing is not None else {}
    failures = {f.file.full_path: f for f in existing.failures()} if existing is not None else {}
    todo, skipped, failed = [], 0, 0
    for file in found.files:
        change = change_of(file, states, failures)
        if change == "stored":
            skipped += 1
        elif change == "failed" and failures[file.full_path].stage not in PASSING and not retry_failed:
            failed += 1
        else:
            todo.append(file)
    notes = (*(f"{r.path}: {r.reason}" for r in found.rejected), *policy.notes)
    keeps = keep_windows or (existing is not None and existing.keeps_windows)
    return Plan(found.files, existing, policy, tuple(todo), skipped, failed, notes, keeps, states, failures)
