"""Take files into a store: the one loop of a local build, of a worker far away, and of ``run-shard``."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from embedstore.changes import change_of
from embedstore.devices import Crew
from embedstore.errors import EncoderError
from embedstore.lanes import Known, Outcome
from embedstore.plan import PASSING, PlannedFile, PlannedShard
from embedstore.profile import Stages
from embedstore.store import EmbeddingStore, Failure, FileState, StoreWriter, shard_writer
from embedstore.types import AudioFile, Track

__all__ = ["Tally", "is_kept", "known_to", "run_planned", "run_shard", "what_became_of"]


def run_shard(
    files: Iterable[PlannedFile],
    crew: Crew,
    writer: StoreWriter,
    known: Known,
    *,
    jobs: int | None = None,
    timeout: float = 60.0,
    stages: Stages,
) -> Generator[Outcome | None, None, None]:
    """Encode files, give them to the writer, and say what became of each; the vectors go no further.

    Parameters
    ----------
    files : iterable of PlannedFile
    crew : Crew
    writer : StoreWriter
        All is committed when the last outcome has come.
    known : Known
        Sounds that need no encoding; grows.
    jobs, timeout
        See `run_lanes`.
    stages : Stages
        Takes the seconds that the writer needs.

    Yields
    ------
    Outcome or None
        As `run_lanes`, without embeddings.
    """
    planned = {one.file.full_path: one for one in files}
    todo = [one.file for one in planned.values()]
    with closing(crew.run(todo, known=known, jobs=jobs, timeout=timeout)) as outcomes:
        for outcome in outcomes:
            with stages.during("storing"):
                if outcome is None:
                    writer.commit_if_due()
                    settled = None
                else:
                    settled = _settle(outcome, planned[outcome.file.full_path], writer, known)
            yield settled
    with stages.during("storing"):
        writer.commit()


def run_planned(
    shard: PlannedShard,
    store: str | os.PathLike[str],
    crew: Crew,
    known: Known,
    plan: str,
    **options: Any,
) -> Generator[Outcome | None, None, None]:
    """Do one planned shard beside others, from whatever machine; files that an earlier try wrote down are left out.

    `plan` is the id of its plan; other options are those of `run_shard`.
    """
    with shard_writer(store, plan, shard.number, crew.recipe) as writer:
        files = [one for one in shard.files if not writer.has_file(one.file)]
        yield from run_shard(files, crew, writer, known, **options)
        writer.finish()


def _settle(outcome: Outcome, planned: PlannedFile, writer: StoreWriter, known: Known) -> Outcome:
    """Write down what the store must know of a file."""
    if outcome.kind == "added":
        outcome = _add(outcome, planned, writer)
    if outcome.key is not None and outcome.kind in ("added", "known"):
        known.keys.add(outcome.key)
        known.key_of_hash[outcome.file_hash] = outcome.key
        if outcome.kind == "known":
            writer.link(outcome.file, outcome.file_hash, outcome.key)
    elif outcome.kind == "failed" and not is_kept(outcome, planned.stored):
        writer.fail(outcome.file, outcome.stage, outcome.reason)
    return replace(outcome, embeddings=None)  # of a vanished file nothing is written: it may be back tomorrow


def _add(outcome: Outcome, planned: PlannedFile, writer: StoreWriter) -> Outcome:
    """Store new sound; say what became of it: it may be known by now, or not fit the store."""
    report, file = outcome.report, outcome.file
    if report is None or outcome.embeddings is None:
        raise EncoderError(f"nothing was encoded of {file.full_path}")
    sound = (report.seconds, report.sample_rate, report.channels)
    try:
        new = writer.add(
            Track(report.key, (file,), *sound, planned.labels, report.warnings), outcome.file_hash, outcome.embeddings
        )
    except EncoderError as error:
        return replace(outcome, kind="failed", key=None, stage="store", reason=str(error), report=None)
    return outcome if new else replace(outcome, kind="known", report=None)


def is_kept(outcome: Outcome, stored: bool) -> bool:
    """Whether the track that is `stored` of a file stays, as the file could only not be read just now."""
    return stored and outcome.kind == "failed" and outcome.stage in PASSING


def known_to(store: EmbeddingStore, states: Mapping[str, FileState]) -> Known:
    """Gather the sounds that a store holds, to recognise them; `states` are those of its files."""
    return Known(store.held_keys(), {s.file_hash: s.key for s in states.values() if s.file_hash})


def what_became_of(
    files: Iterable[AudioFile], states: Mapping[str, FileState], failures: Mapping[str, Failure], held: set[int]
) -> Iterator[Outcome]:
    """Read from a store what a worker made of files and did not live to tell; of files that it did not reach, nothing.

    Parameters
    ----------
    files : iterable of AudioFile
    states, failures : mapping
        The store's.
    held : set of int
        Keys that are no news; grows.
    """
    for file in files:
        change = change_of(file, states, failures)
        if change == "stored":
            state = states[file.full_path]
            yield Outcome(file, "known" if state.key in held else "added", state.file_hash, state.key)
            held.add(state.key)
        elif change == "failed":
            failure = failures[file.full_path]
            yield Outcome(file, "failed", stage=failure.stage, reason=failure.reason)


@dataclass
class Tally:
    """Counts outcomes.

    Attributes
    ----------
    added, known, failed, vanished : int
        Files, by what became of them.
    seconds_audio : float
        Of new sound.
    new : set of int
        Keys of new sound.
    notes : list of str
        About files whose stored track is kept.
    stages : Stages
    """

    added: int = 0
    known: int = 0
    failed: int = 0
    vanished: int = 0
    seconds_audio: float = 0.0
    new: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    stages: Stages = field(default_factory=Stages)

    @property
    def counts(self) -> dict[str, int]:
        """Files by what became of them."""
        return {kind: getattr(self, kind) for kind in ("added", "known", "failed", "vanished")}

    @property
    def total(self) -> int:
        """Files."""
        return sum(self.counts.values())

    def take(self, outcome: Outcome, *, stored: bool) -> None:
        """Count one; `stored`: the path held a track before."""
        self.stages.add(outcome.seconds)
        setattr(self, outcome.kind, getattr(self, outcome.kind) + 1)
        self.seconds_audio += outcome.report.seconds if outcome.report else 0.0
        if outcome.kind == "added" and outcome.key is not None:
            self.new.add(outcome.key)
        elif is_kept(outcome, stored):
            self.notes.append(f"{outcome.file.full_path}: {outcome.reason}; the track that is stored of it is kept")
