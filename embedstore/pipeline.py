"""Fill a store from a folder of audio, and make again the encoder that filled it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from embedstore.audio import find_audio
from embedstore.devices import Crew, name_devices, open_crew
from embedstore.encoders import Encoder, load_encoder, recipe_of
from embedstore.errors import AudioError, EncoderError, ParameterError
from embedstore.labels import Columns, unite
from embedstore.labels.policy import LabelPolicy
from embedstore.lanes import Known, Outcome, encode_file
from embedstore.profile import Profile, Stages
from embedstore.store import EmbeddingStore, StoreWriter
from embedstore.types import AudioFile, LayerEmbeddings, Track, TrackLabels

__all__ = ["BuildReport", "EncoderOptions", "Plan", "build", "embed_file", "encoder_of", "plan_build"]

DEFAULT_ENCODER = "music2vec"
MOST_JOBS = 1024
MEMORY = "labels"  # a preference of the store: root folder -> where its labels are
PASSING = ("open", "limit")  # stages that fail for reasons outside the file: it may work next time


@dataclass(frozen=True)
class EncoderOptions:
    """Which encoder, as `load_encoder` takes it. None means: as the store has it, or the encoder's default.

    Attributes
    ----------
    name : str or None
        None: the store's own encoder, ``"music2vec"`` for a new store.
    model : str or None
        Checkpoint folder, hub id or wheel.
    layers : str or None
        ``"all"``, ``"0-6"``, ``"3,5"``.
    window : float or str or None
        Seconds, or ``"track"``.
    seed : int
        Of ``random:`` encoders.
    device : str
    hop : float or None
        Seconds.
    normalise : str or None
        ``"window"``, ``"file"`` or ``"none"``.
    precision : str or None
        ``"float32"``, ``"bfloat16"``, ``"float16"``.
    trust_remote_code : bool
        Never remembered: it is asked for each time.
    """

    name: str | None = None
    model: str | None = None
    layers: str | None = None
    window: float | str | None = None
    seed: int | None = None
    device: str = "auto"
    hop: float | None = None
    normalise: str | None = None
    precision: str | None = None
    trust_remote_code: bool = False

    def load(self, remembered: Mapping[str, Any] | None = None) -> Encoder:
        """Load it; what is None here is taken from `remembered` if that is the same encoder."""
        asked = {name: value for name, value in vars(self).items() if value is not None}
        if remembered and asked.get("name", remembered["name"]) == remembered["name"]:
            asked = {**remembered, **asked}
        asked.setdefault("name", DEFAULT_ENCODER)
        if self.seed is not None and not asked["name"].startswith("random:"):
            raise ParameterError(
                f"a seed draws random weights; {asked['name']} has none, did you mean random:{asked['name']}?"
            )
        if (model := asked.get("model")) and Path(model).exists():
            asked["model"] = os.path.abspath(model)
        encoder = load_encoder(**asked)
        options = {name: value for name, value in asked.items() if name not in ("device", "trust_remote_code")}
        encoder.card = replace(encoder.card, options=options)
        return encoder


def encoder_of(
    store: EmbeddingStore, *, model: str | None = None, device: str = "auto", trust_remote_code: bool = False
) -> Encoder:
    """Load the encoder that filled a store, to hear new sound the same way.

    Parameters
    ----------
    store : EmbeddingStore
    model : str, optional
        Where the weights are now, if they were moved.
    device : str
    trust_remote_code : bool
        Run code that comes with the checkpoint; a store does not remember that it was trusted.

    Raises
    ------
    EncoderMismatchError
        What could be loaded is not what filled the store.
    """
    options = EncoderOptions(model=model, device=device, trust_remote_code=trust_remote_code)
    encoder = options.load(store.card.options)
    store.check_recipe(recipe_of(encoder, keep_windows=store.keeps_windows))
    return encoder


def embed_file(store: EmbeddingStore, path: str | Path, **options: Any) -> tuple[int, LayerEmbeddings]:
    """Encode an audio file with a store's own encoder, without storing it; options are those of `encoder_of`.

    Returns
    -------
    key : int
        Of the file's sound: a stored track with this key is the same recording.
    embeddings : LayerEmbeddings

    Raises
    ------
    AudioError, EncoderError, EncoderMismatchError
    """
    encoder = encoder_of(store, **options)
    try:
        report, embeddings = encode_file(os.path.abspath(path), encoder)
    except AudioError as error:
        raise AudioError(f"{path}: {error}", stage=error.stage) from error
    return report.key, embeddings


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
    """

    files: tuple[AudioFile, ...]
    store: EmbeddingStore | None
    policy: LabelPolicy
    todo: tuple[AudioFile, ...]
    skipped: int
    failed: int
    notes: tuple[str, ...]
    keep_windows: bool = False


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
    memory = (existing.remembered(MEMORY) or {}).get(found.files[0].root) if existing is not None else None
    policy = LabelPolicy.choose(found.files, labels, columns, memory, new=existing is None)
    states = existing.files() if existing is not None else {}
    failures = {f.file.full_path: f for f in existing.failures()} if existing is not None else {}
    todo, skipped, failed = [], 0, 0
    for file in found.files:
        state, failure = states.get(file.full_path), failures.get(file.full_path)
        if state is not None and (state.size, state.mtime_ns) == (file.size, file.mtime_ns):
            skipped += 1
        elif failure is not None and failure.file == file and failure.stage not in PASSING and not retry_failed:
            failed += 1
        else:
            todo.append(file)
    notes = (*(f"{r.path}: {r.reason}" for r in found.rejected), *policy.notes)
    keeps = keep_windows or (existing is not None and existing.keeps_windows)
    return Plan(found.files, existing, policy, tuple(todo), skipped, failed, notes, keeps)


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
        ``"folder"`` (genre = first folder), a CSV file, or ``"none"``: files that it does not label lose their
        labels. Default: what this folder was labelled from before; for another folder ``"folder"``, and only for
        tracks that have no labels.
    columns : Columns, optional
        Names of the CSV's columns; remembered with it.
    jobs : int, optional
        Files at a time; default: one per core, and at most 16 on another device than the CPU. Several devices share them.
    limit : int, optional
        Look at the first `limit` files only.
    retry_failed : bool
        Try again the files that failed before and have not changed.
    timeout : float
        Seconds without a sign of life after which a decoder is stopped.
    keep_windows : bool
        Store what was heard in each window, too. Decided when a store is made; later builds need not ask again.
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
        A device was lost; what was finished is stored.
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
    with ExitStack() as stack:
        if plan.store is not None and not plan.todo and options == EncoderOptions(device=options.device):
            target, crew = plan.store, None  # nothing to encode, nothing asked: do not load a network for it
        else:
            crew = stack.enter_context(_crew(options, plan))
            target = EmbeddingStore.open_or_create(store, crew.card, crew.recipe)
        run = _Run(plan, target, jobs, timeout, progress, kept)
        run.stages.loading = time.perf_counter() - began
        with target.writer() as writer:
            try:
                run.remember()
                if crew is not None:
                    run.encode(crew, writer)
                with run.stages.during("storing"):
                    run.tidy(writer)
                    run.label(writer)
            except KeyboardInterrupt:
                run.interrupted = True
    report = BuildReport(
        store=str(target.path),
        found=len(plan.files),
        added=run.added,
        known=run.known,
        skipped=plan.skipped,
        failed=plan.failed + run.failed,
        vanished=run.vanished,
        gone=run.gone,
        relabelled=run.relabelled,
        tracks=len(target),
        seconds_audio=run.seconds_audio,
        seconds_wall=time.perf_counter() - began,
        stages=run.stages,
        notes=(*plan.notes, *run.notes, *target.problems),
        interrupted=run.interrupted,
    )
    if kept is not None:
        try:
            kept.write(encoder=target.card.to_dict(), device=options.device, jobs=jobs, report=report.to_dict())
        except OSError as error:
            report = replace(report, notes=(*report.notes, f"the profile could not be written: {error.strerror}"))
    return report


def _crew(options: EncoderOptions, plan: Plan) -> AbstractContextManager[Crew]:
    """Load what is asked, and for the rest what the store has, on every device that is named."""
    remembered = plan.store.card.options if plan.store is not None else None
    loaders = [(name, partial(replace(options, device=name).load, remembered)) for name in name_devices(options.device)]
    return open_crew(loaders, keep_windows=plan.keep_windows)


@dataclass
class _Run:
    """The writing thread's side of one build."""

    plan: Plan
    store: EmbeddingStore
    jobs: int | None
    timeout: float
    progress: Callable[[int, int, Outcome | None], None] | None
    profile: Profile | None
    added: int = 0
    known: int = 0
    failed: int = 0
    vanished: int = 0
    gone: int = 0
    relabelled: int = 0
    seconds_audio: float = 0.0
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)
    stages: Stages = field(default_factory=Stages)
    new: set[int] = field(default_factory=set)

    @property
    def root(self) -> str:
        """The folder that is built."""
        return self.plan.files[0].root

    def remember(self) -> None:
        """Keep where the labels are before anything is encoded: a build that is killed goes on with the same ones."""
        if self.plan.policy.memory is not None:
            memory = self.store.remembered(MEMORY) or {}
            self.store.remember(MEMORY, {**memory, self.root: self.plan.policy.memory})

    def encode(self, crew: Crew, writer: StoreWriter) -> None:
        """Take the crew's outcomes into the store."""
        states = self.store.files()
        held = Known({s.key for s in states.values()}, {s.file_hash: s.key for s in states.values() if s.file_hash})
        self._tell(0, None)
        done = 0
        with closing(crew.run(self.plan.todo, known=held, jobs=self.jobs, timeout=self.timeout)) as outcomes:
            for outcome in outcomes:
                with self.stages.during("storing"):
                    if outcome is None:
                        writer.commit_if_due()
                        continue
                    if outcome.kind == "added":
                        outcome = self._add(outcome, writer)  # noqa: PLW2901 - it may turn out otherwise
                    self._note(outcome, held, writer, stored=outcome.file.full_path in states)
                done += 1
                self._tell(done, outcome)

    def _tell(self, done: int, outcome: Outcome | None) -> None:
        if self.progress:
            self.progress(done, len(self.plan.todo), outcome)

    def _add(self, outcome: Outcome, writer: StoreWriter) -> Outcome:
        """Store new sound; say what became of it: it may be known by now, or not fit the store."""
        report, file = outcome.report, outcome.file
        if report is None or outcome.embeddings is None:
            raise EncoderError(f"nothing was encoded of {file.full_path}")
        labels = self.plan.policy.of(file)
        track = Track(report.key, (file,), report.seconds, report.sample_rate, report.channels, labels, report.warnings)
        try:
            new = writer.add(track, outcome.file_hash, outcome.embeddings)
        except EncoderError as error:
            return replace(outcome, kind="failed", stage="store", reason=str(error), report=None)
        self.new.add(report.key)
        return outcome if new else replace(outcome, kind="known", report=None)

    def _note(self, outcome: Outcome, held: Known, writer: StoreWriter, *, stored: bool) -> None:
        """Count an outcome, and write down what the store must know of it."""
        file, key = outcome.file, outcome.key
        self.stages.add(outcome.seconds)
        if self.profile is not None:
            self.profile.note(outcome)
        match outcome.kind:
            case "added" | "known" if key is not None:
                held.keys.add(key)
                held.key_of_hash[outcome.file_hash] = key
                self.added += outcome.kind == "added"
                self.known += outcome.kind == "known"
                self.seconds_audio += outcome.report.seconds if outcome.report else 0.0
                if outcome.kind == "known":
                    writer.link(file, outcome.file_hash, key)
            case "vanished":  # no row: it may be back tomorrow
                self.vanished += 1
            case _ if stored and outcome.stage in PASSING:
                self.failed += 1
                self.notes.append(f"{file.full_path}: {outcome.reason}; the track that is stored of it is kept")
            case _:
                self.failed += 1
                writer.fail(file, outcome.stage, outcome.reason)

    def tidy(self, writer: StoreWriter) -> None:
        """Let go of paths that are gone, where the same sound lies elsewhere; count the others under the folder."""
        writer.commit()
        root = os.path.join(self.root, "")  # noqa: PTH118 - text
        present = {file.full_path for file in self.plan.files}
        places: dict[int, list[str]] = {}
        for path, state in self.store.files().items():
            places.setdefault(state.key, []).append(path)
        for paths in places.values():
            if not any(path in present or path.startswith(root) for path in paths):
                continue  # another folder's business: no look at its disk
            missing = [path for path in paths if path not in present and not os.path.lexists(path)]
            if len(missing) < len(paths):
                for path in missing:
                    writer.forget(path)
            else:
                self.gone += any(path.startswith(root) for path in missing)
        if self.gone:
            self.notes.append(f"{self.gone} stored tracks lay under {self.root} and do not now; they are kept")

    def label(self, writer: StoreWriter) -> None:
        """Write the labels that differ from the stored ones; a sound in several files gets the labels of all."""
        writer.commit()
        wanted: dict[int, TrackLabels] = {}
        states = self.store.files()
        for file in self.plan.files:
            if (state := states.get(file.full_path)) is not None:
                labels, before = self.plan.policy.of(file), wanted.get(state.key, TrackLabels())
                both = unite(before, labels)
                wanted[state.key] = (
                    both if both == TrackLabels() else replace(both, source=self.plan.policy.table.source)
                )
        stored = self.store.labels()
        for key, labels in wanted.items():
            had = stored.get(key, TrackLabels())
            if had != labels and (self.plan.policy.replace or had == TrackLabels()):
                writer.label(key, labels)
                self.relabelled += key not in self.new
