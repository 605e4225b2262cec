"""A build in pieces that any scheduler can hand out: plan it, do its shards on whatever machine, finalize it.

Nothing says how far the work is but the store itself.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedstore.changes import change_of, is_gone
from embedstore.encoders import recipe_of
from embedstore.errors import ParameterError, StoreError
from embedstore.labels import Columns, full_source
from embedstore.lanes import Outcome
from embedstore.options import EncoderOptions
from embedstore.pipeline import BuildReport, Run
from embedstore.plan import plan_build
from embedstore.planfile import MOST_FILES, PlanHeader, ranges, read_plan, write_plan
from embedstore.shards import Tally, run_planned, what_became_of
from embedstore.store import finalized, finished_shards, note_finalized

__all__ = ["PlanReport", "ShardsReport", "finalize", "plan_shards", "run_shards"]


@dataclass(frozen=True)
class PlanReport:
    """What a plan holds.

    Attributes
    ----------
    plan, store : str
        Absolute paths.
    found, todo, skipped, failed : int
        Files: in the folder, to encode, unchanged, known to be unusable.
    shards : int
        They have the numbers 1 to `shards`.
    notes : tuple of str
    """

    plan: str
    store: str
    found: int
    todo: int
    skipped: int
    failed: int
    shards: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "notes": list(self.notes)}


@dataclass(frozen=True)
class ShardsReport:
    """What became of some shards of a plan: ``files == added + known + failed + vanished + before`` unless interrupted.

    Attributes
    ----------
    store : str
    shards : tuple of int
        That were asked for.
    files : int
        In them.
    added, known, failed, vanished : int
        As in a `BuildReport`.
    before : int
        Files that an earlier try had written down.
    seconds_audio, seconds_wall : float
    notes : tuple of str
    interrupted : bool
    """

    store: str
    shards: tuple[int, ...]
    files: int
    added: int
    known: int
    failed: int
    vanished: int
    before: int
    seconds_audio: float
    seconds_wall: float
    notes: tuple[str, ...]
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "shards": list(self.shards), "notes": list(self.notes)}


def plan_shards(
    audio_dir: str | Path,
    store: str | Path = "embeddings",
    out: str | Path = "plan.json",
    *,
    encoder: EncoderOptions | str | None = None,
    labels: str | Path | None = None,
    columns: Columns | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    keep_windows: bool = False,
    shard_size: int = 64,
) -> PlanReport:
    """Write down what `build` would have to encode, in shards for `run_shards`; makes the store if there is none.

    Parameters
    ----------
    audio_dir, store, encoder, labels, columns, limit, retry_failed, keep_windows
        See `build`.
    out : path
        File to write; one that is there is replaced.
    shard_size : int
        Files in a shard, 1 to 4096.

    Raises
    ------
    ParameterError, LabelsError, EncoderMismatchError, StoreError, StoreLockedError
        As `build`; or the plan cannot be written.
    """
    if not 1 <= shard_size <= MOST_FILES:
        raise ParameterError(f"a shard holds 1 to {MOST_FILES} files; got {shard_size}")
    options = encoder if isinstance(encoder, EncoderOptions) else EncoderOptions(name=encoder)
    plan = plan_build(
        audio_dir,
        store,
        labels=labels,
        columns=columns,
        limit=limit,
        retry_failed=retry_failed,
        keep_windows=keep_windows,
    )
    network = options.load(plan.remembered)
    target = plan.open_store(store, network.card, recipe_of(network, keep_windows=plan.keep_windows))
    with target.writer():  # nobody else writes; what killed writers left is cleared away
        plan.remember(target)
    shards = plan.with_known(plan.shards(shard_size))
    header = PlanHeader(
        id=secrets.token_hex(16),
        store=str(target.path),
        fingerprint=target.fingerprint,
        keep_windows=target.keeps_windows,
        encoder=dict(network.card.options),
        root=plan.root,
        labels=None if labels is None else full_source(labels),
        columns={name: value for name, value in vars(columns or Columns()).items() if value is not None},
        limit=limit,
        shards=len(shards),
    )
    write_plan(out, header, shards)
    counts = (len(plan.files), len(plan.todo), plan.skipped, plan.failed, len(shards))
    return PlanReport(os.path.abspath(out), str(target.path), *counts, plan.notes)


def run_shards(
    plan: str | Path,
    numbers: Iterable[str | int],
    *,
    model: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    jobs: int | None = None,
    timeout: float = 60.0,
    progress: Callable[[int, int, Outcome | None], None] | None = None,
) -> ShardsReport:
    """Encode some shards of a plan, beside others who do others; what an earlier try finished is not done again.

    Parameters
    ----------
    plan : path
        That `plan_shards` wrote. Its audio and its store must have the same paths here as there.
    numbers : iterable of str or int
        ``3``, ``"3"``, ``"5-9"``.
    model : str, optional
        Where the weights are on this machine, if elsewhere than where the plan was made.
    device, trust_remote_code
        See `EncoderOptions`.
    jobs, timeout, progress
        See `build`.

    Raises
    ------
    ParameterError
        The plan cannot be read, or has no such shard.
    EncoderMismatchError
        The store, or the encoder that could be loaded, is another one than the plan's.
    StoreError, StoreLockedError, EncoderError
        As `build`.
    """
    began = time.perf_counter()
    header, planned = read_plan(plan, list(numbers))
    done = planned if finalized(header.store, header.id) else finished_shards(header.store, header.id)
    left = [shard for shard in planned.values() if shard.number not in done]
    todo, tally, interrupted = sum(len(shard.files) for shard in left), Tally(), False
    network = EncoderOptions(model=model, device=device, trust_remote_code=trust_remote_code)
    try:
        if left:
            with network.crew(header.encoder, keep_windows=header.keep_windows) as crew:
                for shard in left:
                    stored = {one.file.full_path for one in shard.files if one.stored}
                    options = {"jobs": jobs, "timeout": timeout, "stages": tally.stages}
                    with closing(run_planned(shard, header.store, crew, shard.known, header.id, **options)) as outcomes:
                        for outcome in outcomes:
                            if outcome is not None:
                                tally.take(outcome, stored=outcome.file.full_path in stored)
                                if progress:
                                    progress(tally.total, todo, outcome)
    except KeyboardInterrupt:
        interrupted = True
    files = sum(len(shard.files) for shard in planned.values())
    return ShardsReport(
        store=header.store,
        shards=tuple(planned),
        files=files,
        **tally.counts,
        before=0 if interrupted else files - tally.total,
        seconds_audio=tally.seconds_audio,
        seconds_wall=time.perf_counter() - began,
        notes=tuple(tally.notes),
        interrupted=interrupted,
    )


def finalize(plan: str | Path) -> BuildReport:
    """End a build that was done in shards: take them in, let go of paths that are gone, write labels, as `build` does.

    Files that came or changed after the plan are left for the next one; a note counts them.

    Raises
    ------
    ParameterError
        The plan cannot be read.
    StoreError
        Shards are missing; the message names them. Nothing is changed.
    StoreLockedError
        A shard is being written.
    """
    began = time.perf_counter()
    header, shards = read_plan(plan)
    store = header.open_store()
    missing = sorted(shards.keys() - finished_shards(store.path, header.id))
    if missing and not finalized(store.path, header.id):
        raise StoreError(
            f"{len(missing)} of the {len(shards)} shards of {plan} are not done: {ranges(missing)}; do them with: "
            f"embedstore run-shard {plan} {ranges(missing).replace(',', '')}"
        )
    now = plan_build(
        header.root, store.path, labels=header.labels, columns=Columns(**header.columns), limit=header.limit
    )
    planned = {one.file.full_path: one.file for shard in shards.values() for one in shard.files}
    others = [change_of(file, now.states, now.failures) for file in now.files if file.full_path not in planned]
    run = Run(replace(now, skipped=others.count("stored"), failed=others.count("failed")), began=began)
    held = {state.key for path, state in now.states.items() if path not in planned}
    for outcome in what_became_of(planned.values(), now.states, now.failures, held):
        run.take(outcome)
    for path in planned.keys() - run.heard:
        why = "it could not be read, or it or its copy has changed since the plan; build again"
        run.take(Outcome(planned[path], "vanished" if is_gone(path) else "failed", stage="open", reason=why))
    with store.writer() as writer:
        run.finish(store, writer)
    note_finalized(store.path, header.id)
    run.compact(store)
    report = run.report(store)
    total = report.added + report.known + report.skipped + report.failed + report.vanished
    later = others.count("new") + others.count("changed")
    later += sum(planned.get(file.full_path, file) != file for file in now.files)
    notes = (
        (*report.notes, f"{later} files are new or have changed since the plan; plan again") if later else report.notes
    )
    return replace(report, found=total, notes=notes)
