"""Fill a store from a folder of audio."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embedstore.changes import is_gone
from embedstore.devices import Crew
from embedstore.errors import ParameterError, StoreError
from embedstore.labels import Columns, unite
from embedstore.lanes import Outcome
from embedstore.options import EncoderOptions
from embedstore.plan import Plan, plan_build
from embedstore.profile import Profile, Stages
from embedstore.shards import Tally, is_kept, known_to, run_shard, what_became_of
from embedstore.store import EmbeddingStore, FileState, StoreWriter, forget_plans
from embedstore.types import TrackLabels

if TYPE_CHECKING:
    from embedstore.executors.ray import Workers

__all__ = ["BuildReport", "EncoderOptions", "Run", "build"]

MOST_JOBS = 1024
MANY = 64  # shards and deltas that are worth a merge


@dataclass(frozen=True)
class BuildReport:
    """What a build did: ``found == added + known + skipped + failed + vanished`` unless it was interrupted.

    Attributes
    ----------
    store : str
        Absolute path of the store.
    found : int
        Audio files under the folder.
    added : int
        Tracks that were encoded and stored.
    known : int
        New, moved or touched files whose sound the store held already.
    skipped : int
        Files that have not changed since they were stored.
    failed : int
        Files that cannot be stored, those known from earlier runs included.
    vanished : int
        Files that were gone when their turn came.
    gone : int
        Stored files under the folder that were not found this time; their tracks are kept.
    relabelled : int
        Tracks that were stored before and have other labels now.
    tracks : int
        Tracks in the store now.
    seconds_audio : float
        Sound that was encoded.
    seconds_wall : float
        Of the whole call.
    stages : Stages
        Where the seconds went; those of all lanes are summed, so they can be more than `seconds_wall`.
    notes : tuple of str
        Label problems, files that were passed over.
    interrupted : bool
    """

    store: str
    found: int = 0
    added: int = 0
    known: int = 0
    skipped: int = 0
    failed: int = 0
    vanished: int = 0
    gone: int = 0
    relabelled: int = 0
    tracks: int = 0
    seconds_audio: float = 0.0
    seconds_wall: float = 0.0
    stages: Stages = field(default_factory=Stages)
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def usable(self) -> bool:
        """Whether the store holds anything of this folder."""
        return self.added + self.known + self.skipped > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "stages": self.stages.to_dict(), "notes": list(self.notes)}


def build(
    audio_dir: str | Path,
    store: str | Path = "embeddings",
    *,
    encoder: EncoderOptions | str | None = None,
    labels: str | Path | None = None,
    columns: Columns | None = None,
    jobs: int | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    timeout: float = 60.0,
    keep_windows: bool = False,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    profile: str | Path | None = None,
    progress: Callable[[int, int, Outcome | None], None] | None = None,
) -> BuildReport:
    """Encode every audio file under a folder into a store; what the store holds already is skipped.

    A file that cannot be used becomes a failure row (see `EmbeddingStore.failures`) and never stops the run. Work is
    committed every 64 tracks or 30 seconds; after a crash or Ctrl-C the same call goes on where it was.

    Parameters
    ----------
    audio_dir : path
    store : path
        Made if it does not exist.
    encoder : EncoderOptions or str, optional
        Default: the store's own encoder; ``"music2vec"`` for a new store.
    labels : str or path, optional
        ``"folder"`` (genre = first folder), a CSV file, ``"none"``, or what else `embedstore.labels.read_labels` takes:
        files that it does not label lose their labels. Default: what this folder was labelled from before; for another folder ``"folder"``, and only for
        tracks that have no labels.
    columns : Columns, optional
        Names of the CSV's columns; remembered with it.
    jobs : int, optional
        Files at a time; default: one per core, and at most 16 on another device than the CPU. Several devices share them.
        With Ray: of one worker, which gets so many cores; default: one, and a GPU's share of its machine's cores.
    limit : int, optional
        Look at the first `limit` files only.
    retry_failed : bool
        Try again the files that failed before and have not changed.
    timeout : float
        Seconds without a sign of life after which a decoder is stopped.
    keep_windows : bool
        Store what was heard in each window, too. Decided when a store is made; later builds need not ask again.
    engine : {"local", "ray"}
        Who encodes: this process, or workers on the machines of a Ray cluster. These need the same paths: of the audio,
        the store, and the model.
    address : str, optional
        Of the cluster, such as ``"10.0.0.1:6379"`` or ``"auto"`` (one that runs on this machine); default: that of the
        environment variable ``RAY_ADDRESS``, else a new one of this machine.
    profile : path, optional
        JSON file to write: the seconds of each stage and of each file, also of an interrupted build.
    progress : callable, optional
        Called with (files done, files to do, outcome of the last one or None at the start).

    Raises
    ------
    ParameterError
        The folder is missing or holds no audio, the store was made without the windows that are to be kept, or the
        profile cannot be written.
    EncoderMismatchError
        The store was filled by another recipe.
    EncoderError
        A device was lost, or too many workers were; what was finished is stored.
    MissingDependencyError
        Ray is asked for and not installed.
    StoreError, StoreLockedError
        The store cannot be written.

    Examples
    --------
    >>> report = build("music", "my-store", encoder="musicnn", labels="folder")  # doctest: +SKIP
    >>> report.added, report.failed  # doctest: +SKIP
    (640, 0)
    """
    began = time.perf_counter()
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise ParameterError(f"jobs must be within 1..{MOST_JOBS}; got {jobs}")
    if not timeout > 0:
        raise ParameterError(f"timeout must be a number of seconds above 0; got {timeout}")
    if engine not in ("local", "ray"):
        raise ParameterError(f"the engine is 'local' or 'ray'; got {engine!r}")
    if address is not None and engine != "ray":
        raise ParameterError(
            f"the address {address!r} is that of a Ray cluster; give engine 'ray', too, or leave it out"
        )
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
    kept = Profile(profile) if profile is not None else None
    run = Run(plan, progress, kept, began)
    with ExitStack() as stack:
        if plan.store is not None and not plan.todo and options == EncoderOptions(device=options.device):
            target = plan.store  # nothing to encode, nothing asked: do not load a network for it
            run.here(target, None, jobs, timeout)
        elif engine == "ray" and plan.todo:
            from embedstore.executors.ray import open_workers

            workers = stack.enter_context(open_workers(options, plan, jobs=jobs, address=address))
            target = plan.open_store(store, workers.card, workers.recipe)
            run.there(target, workers, timeout)
        else:
            crew = stack.enter_context(options.crew(plan.remembered, keep_windows=plan.keep_windows))
            target = plan.open_store(store, crew.card, crew.recipe)
            run.here(target, crew, jobs, timeout)
    run.compact(target)
    report = run.report(target)
    if kept is not None:
        try:
            kept.write(encoder=target.card.to_dict(), device=options.device, jobs=jobs, report=report.to_dict())
        except OSError as error:
            report = replace(report, notes=(*report.notes, f"the profile could not be written: {error.strerror}"))
    return report


@dataclass
class Run:
    """One build, seen from the process that was asked for it.

    Attributes
    ----------
    plan : Plan
        Its states follow what is done.
    progress, profile
        See `build`.
    began : float
        By `time.perf_counter`.
    """

    plan: Plan
    progress: Callable[[int, int, Outcome | None], None] | None = None
    profile: Profile | None = None
    began: float = field(default_factory=time.perf_counter)
    tally: Tally = field(default_factory=Tally)
    heard: set[str] = field(default_factory=set)
    gone: int = 0
    torn: int = 0
    relabelled: int = 0
    interrupted: bool = False

    def here(self, store: EmbeddingStore, crew: Crew | None, jobs: int | None, timeout: float) -> None:
        """Encode in this process, as the store's one writer."""
        stages = self.tally.stages
        stages.loading = time.perf_counter() - self.began
        with store.writer() as writer, self._until_stopped():
            self.plan.remember(store)
            if crew is not None:
                files, known = self.plan.planned(), known_to(store, self.plan.states)
                self._follow(run_shard(files, crew, writer, known, jobs=jobs, timeout=timeout, stages=stages))
            self.finish(store, writer)

    def there(self, store: EmbeddingStore, workers: Workers, timeout: float) -> None:
        """Have workers encode, each the writer of its shards; then take in what they wrote."""
        self.tally.stages.loading = time.perf_counter() - self.began
        with store.writer():  # nobody else writes, and what killed writers left is cleared away
            self.plan.remember(store)
            forget_plans(store.path)
        known = known_to(store, self.plan.states)
        held = set(known.keys)
        with self._until_stopped():
            self._follow(workers.run(store, self.plan, known, timeout=timeout, stages=self.tally.stages))
        with store.writer() as writer, self._until_stopped():
            forget_plans(store.path)
            self._catch_up(store, held | self.tally.new)
            if not self.interrupted:
                self.finish(store, writer)

    @contextmanager
    def _until_stopped(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True

    def _follow(self, outcomes: Generator[Outcome | None, None, None]) -> None:
        with closing(outcomes):
            self._tell(None)
            for outcome in outcomes:
                if outcome is not None and outcome.file.full_path not in self.heard:  # a shard may be tried twice
                    self.take(outcome)

    def _catch_up(self, store: EmbeddingStore, held: set[int]) -> None:
        """Read from the store what it holds now, and what became of files whose worker did not live to tell."""
        states, failures = store.files(), {failure.file.full_path: failure for failure in store.failures()}
        self.plan.states.clear()
        silent = [file for file in self.plan.todo if file.full_path not in self.heard]
        for outcome in what_became_of(silent, states, failures, held):
            self.take(outcome)
        self.plan.states.update(states)

    def take(self, outcome: Outcome) -> None:
        """Note what became of a file."""
        file, path, states = outcome.file, outcome.file.full_path, self.plan.states
        self.heard.add(path)
        self.tally.take(outcome, stored=path in states)
        if self.profile is not None:
            self.profile.note(outcome)
        if outcome.key is not None:
            states[path] = FileState(file.size, file.mtime_ns, outcome.file_hash, outcome.key, file.root)
        elif outcome.kind == "failed" and not is_kept(outcome, path in states):
            states.pop(path, None)
        self._tell(outcome)

    def _tell(self, outcome: Outcome | None) -> None:
        if self.progress:
            self.progress(len(self.heard), len(self.plan.todo), outcome)

    def finish(self, store: EmbeddingStore, writer: StoreWriter) -> None:
        """Tidy up, and write labels."""
        with self.tally.stages.during("storing"):
            writer.commit()
            self._tidy(writer)
            writer.commit()
            self._label(store, writer)
            writer.forget_gone()

    def compact(self, store: EmbeddingStore) -> None:
        """Merge small shards where there are many; if that fails, the build is done without it."""
        if not self.interrupted:
            with self._until_stopped():
                try:
                    store.compact(least=MANY)
                except StoreError as error:
                    self.tally.notes.append(f"small shards are not merged: {error}")

    def _tidy(self, writer: StoreWriter) -> None:
        """Let go of paths that are gone, where the same sound lies elsewhere; count the others under the folder."""
        root = os.path.join(self.plan.root, "")  # noqa: PTH118 - text
        present = {file.full_path for file in self.plan.files}
        places: dict[int, list[str]] = {}
        for path, state in self.plan.states.items():
            places.setdefault(state.key, []).append(path)
        for paths in places.values():
            if not any(path in present or path.startswith(root) for path in paths):
                continue  # another folder's business: no look at its disk
            missing = [path for path in paths if path not in present and is_gone(path)]
            if len(missing) < len(paths):
                for path in missing:
                    writer.forget(path)
                    del self.plan.states[path]
            else:
                self.gone += any(path.startswith(root) for path in missing)

    def _label(self, store: EmbeddingStore, writer: StoreWriter) -> None:
        """Write the labels that differ from the stored ones; a sound in several files gets the labels of all."""
        policy = self.plan.policy
        said: dict[int, list[TrackLabels]] = {}
        for file in self.plan.files:
            if (state := self.plan.states.get(file.full_path)) is not None:
                said.setdefault(state.key, []).append(policy.of(file))
        wanted = {key: unite(*several) for key, several in said.items()}
        self.torn = sum(len({one.split for one in several if one.split}) > 1 for several in said.values())
        stored = store.labels()
        for key, labels in wanted.items():
            had = stored.get(key, labels)  # somebody may have removed tracks since the plan
            if had != labels and (policy.replace or had == TrackLabels()):
                writer.label(key, labels)
                self.relabelled += key not in self.tally.new

    def report(self, store: EmbeddingStore) -> BuildReport:
        """Sum up."""
        plan, tally = self.plan, self.tally
        notes = [*plan.notes, *tally.notes, *store.problems]
        if self.gone:
            notes.append(
                f"{self.gone} stored tracks lay under {plan.root} and do not now; they are kept (embedstore prune forgets them)"
            )
        if self.torn:
            notes.append(f"{self.torn} tracks lie in files of different sides of the official split; they are on none")
        return BuildReport(
            store=str(store.path),
            found=len(plan.files),
            **{**tally.counts, "failed": plan.failed + tally.failed},
            skipped=plan.skipped,
            gone=self.gone,
            relabelled=self.relabelled,
            tracks=len(store),
            seconds_audio=tally.seconds_audio,
            seconds_wall=time.perf_counter() - self.began,
            stages=tally.stages,
            notes=tuple(notes),
            interrupted=self.interrupted,
        )
