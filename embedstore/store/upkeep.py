"""Keep a store small and whole: merge its small shards, take in other stores, let go of tracks.

Every function writes what is new before it removes what is old, in commits like any other: a crash in the middle leaves a
store that says the same as before.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from embedstore.errors import ParameterError, StoreFormatError
from embedstore.store import records
from embedstore.store.catalog import TRIES, read_content
from embedstore.store.disk import CommitFile, list_commits, read_commit
from embedstore.store.shard import Halfs, ShardInfo, Windows, build_shard, load_shard
from embedstore.store.writer import checked
from embedstore.types import Keys, TrackLabels

if TYPE_CHECKING:
    from embedstore.store.store import EmbeddingStore
    from embedstore.store.writer import StoreWriter

__all__ = ["CompactReport", "MergeReport", "RemoveReport", "compact", "merge", "remove"]

ROWS, BYTES = 4096, 2**27  # of a merged shard, at most (one track may have more)
STATEMENTS = 2**16  # of a merged delta
SHARE, FEW = 0.2, 5  # of the stored files: to forget more than both, somebody must say that it is meant

_Loaded = tuple[records.Row, list[Halfs], Windows]  # a track with all its vectors


@dataclass(frozen=True)
class Size:
    """Of what a store consists: shards, deltas, and the bytes of both."""

    shards: int
    deltas: int
    bytes: int

    @classmethod
    def of(cls, commits: Sequence[CommitFile]) -> Size:
        """Count."""
        shards = sum(commit.name.endswith(".h5") for commit in commits)
        return cls(shards, len(commits) - shards, sum(commit.size for commit in commits))


@dataclass(frozen=True)
class CompactReport:
    """What `EmbeddingStore.compact` did.

    Attributes
    ----------
    before, after : Size
    dropped : int
        Rows that no file held any more, or that a later one had superseded.
    problems : tuple of str
        Damaged shards and deltas, which are left as they are.
    """

    before: Size
    after: Size
    dropped: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeReport:
    """What `EmbeddingStore.merge` did.

    Attributes
    ----------
    tracks : int
        That were taken in.
    known : int
        That the store held already; files that it did not know are linked to them.
    outdated : int
        That were left: the store knows all of their files, with other content.
    failures : int
        Failed files that were taken in.
    total : int
        Tracks in the store now.
    problems : tuple of str
        Shards and deltas of the others that are damaged or gone: what they held was not taken in.
    """

    tracks: int
    known: int
    outdated: int
    failures: int
    total: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoveReport:
    """What `EmbeddingStore.remove` did: how many tracks and files are forgotten, and how many tracks are left."""

    tracks: int
    files: int
    total: int


# -- compact ------------------------------------------------------------------------------------------------------


def compact(store: EmbeddingStore, least: int) -> CompactReport:
    """Do `EmbeddingStore.compact`."""
    if len(here := list_commits(store.path)[0]) < least:
        return CompactReport(Size.of(here), Size.of(here), 0, store.problems)
    with store.writer() as writer:
        before, shards, keys = list_commits(store.path)[0], store.shards(), store.keys_by_shard()
        deltas = [commit for commit in before if commit.name.endswith(".json")]
        useless = [shard.name for shard in shards if shard.name not in keys]
        groups = list(_groups([shard for shard in shards if shard.name in keys], keys))
        if sum(map(len, groups)) + len(useless) + len(deltas[1:]) < least:
            groups, useless, deltas = [], [], []
        damage = list[str]()
        new, unsaid = set[str](), set[str]()  # shards that are written here; paths that only replaced shards speak of
        for group in groups:
            loaded, merged = list[_Loaded](), list[ShardInfo]()
            for shard in group:
                try:
                    content, tracks = _load(store, shard, keys[shard.name])
                except StoreFormatError as error:  # since the store was opened: left to `repair`
                    damage.append(str(error))
                    continue
                unsaid |= {file.full_path for row in content.items for file in row.track.files}
                loaded += tracks
                merged.append(shard)
            if merged:
                origins = tuple(name for shard in merged for name in shard.origins)
                new.add(_put(store, writer, loaded, tuple(shard.name for shard in merged), origins))
                unsaid -= {file.full_path for row, _, _ in loaded for file in row.track.files}
        if new or useless or len(deltas) > 1:
            _fold(store, writer, deltas, unsaid, new, useless)
    if damage:
        store.catalog.unseal()  # whoever opens the store next looks at every shard
    after = list_commits(store.path)[0]
    return CompactReport(
        before=Size.of(before),
        after=Size.of(after),
        dropped=sum(shard.rows for shard in shards) - sum(shard.rows for shard in store.shards()),
        problems=(*store.problems, *damage),
    )


def _groups(shards: Sequence[ShardInfo], keys: Mapping[str, Keys]) -> Iterator[list[ShardInfo]]:
    """Gather shards that are small or hold useless rows, as many as fit into one; big whole ones stay as they are."""
    groups: list[list[ShardInfo]] = [[]]
    for shard in shards:
        whole = len(keys[shard.name]) == shard.rows
        if whole and (2 * shard.rows > ROWS or 2 * shard.size > BYTES):
            continue
        wider = [*groups[-1], shard]
        if sum(len(keys[one.name]) for one in wider) > ROWS or sum(one.size for one in wider) > BYTES:
            wider = [shard]
            groups.append([])
        groups[-1] = wider
    return (group for group in groups if len(group) > 1 or any(len(keys[one.name]) < one.rows for one in group))


def _load(store: EmbeddingStore, shard: ShardInfo, keys: Keys) -> tuple[records.Content, list[_Loaded]]:
    """Read a shard, and those of its tracks that have these keys as the store describes them now."""
    commit = CommitFile(shard.name, shard.size, 0)
    content, matrices, windows = load_shard(read_commit(store.path, commit), shard.name, commit.sequence, store.spec)
    now = {track.key: (track, hashes) for track, hashes in store.described(keys)}
    rows = [
        (replace(row, track=now[row.track.key][0], hashes=now[row.track.key][1]), [m[i] for m in matrices], windows[i])
        for i, row in enumerate(content.items)
        if row.track.key in now
    ]
    return content, rows


def _put(
    store: EmbeddingStore,
    writer: StoreWriter,
    loaded: Sequence[_Loaded],
    replaces: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
) -> str:
    """Commit tracks in one shard; its name."""
    rows, vectors, windows = zip(*loaded, strict=True)
    content = records.Content(rows, replaces, origins)
    return writer.put(
        "shards", lambda n: build_shard(store.spec, n, rows, vectors, windows, replaces, origins), content
    )


def _fold(
    store: EmbeddingStore,
    writer: StoreWriter,
    deltas: Sequence[CommitFile],
    paths: set[str],
    new: Collection[str],
    useless: Sequence[str],
) -> None:
    """Say in one delta, as it stands now, what the deltas and the shards that go have said and the new shards do not."""
    keys, replaces = set[int](), [*useless]
    for delta in deltas:
        with suppress(StoreFormatError):  # damaged: left to `repair`
            for said in read_content(store.path, delta, store.spec).items:
                match said:
                    case records.Label(key):
                        keys.add(key)
                    case records.Forget(path):
                        paths.add(path)
                    case _:
                        paths.add(said.file.full_path)
            replaces.append(delta.name)
    words = [store.catalog.word_on_file(path, new) for path in sorted(paths)]
    words += [store.catalog.word_on_labels(key, new) for key in sorted(keys)]
    now = [word for word in words if word is not None]
    if not now and not replaces:
        return
    starts = range(0, max(1, len(now)), STATEMENTS)
    for start in starts:
        content = records.Content(now[start : start + STATEMENTS], tuple(replaces) if start == starts[-1] else ())
        writer.put("deltas", partial(records.build_delta, store.spec, content=content), content)


# -- merge, remove ------------------------------------------------------------------------------------------------


def merge(store: EmbeddingStore, others: Sequence[EmbeddingStore]) -> MergeReport:
    """Do `EmbeddingStore.merge`."""
    for other in others:
        store.check_recipe(other.recipe)
        if other.path.samefile(store.path):
            raise ParameterError(f"the store {store.path} cannot be merged with itself; name other stores")
    with store.writer() as writer:
        intake = _Intake(store, writer)
        for other in others:
            intake.take(other)
    counts = (intake.tracks, intake.known, intake.outdated, intake.failures)
    return MergeReport(*counts, len(store), tuple(intake.problems))


class _Intake:
    """Counts and writes down what comes from other stores."""

    def __init__(self, store: EmbeddingStore, writer: StoreWriter) -> None:
        self._store, self._writer = store, writer
        self._loaded: list[_Loaded] = []
        self._bytes = 0
        self.tracks = self.known = self.outdated = self.failures = 0
        self.problems: list[str] = []

    def take(self, other: EmbeddingStore) -> None:
        """Take in what a store says."""
        met: set[int] = set()
        for _ in range(TRIES):
            damage = list(self._take_tracks(other, met))
            if not any(gone for _, gone in damage):
                break
            other.reopen()  # another process may be merging its shards
        self._flush()
        self.problems += [*other.problems, *(reason for reason, _ in damage if reason not in other.problems)]
        for failure in other.failures():
            if isinstance(self._word(failure.file.full_path), records.Forget):
                self._writer.fail(failure.file, failure.stage, failure.reason)
                self.failures += 1
        self._store.remember_from(other)
        self._writer.commit()  # the next store is compared with what this one said

    def _take_tracks(self, other: EmbeddingStore, met: set[int]) -> Iterator[tuple[str, bool]]:
        """Take in the tracks whose keys were not met; of shards that cannot be read, say why, and whether they are gone."""
        keys = other.keys_by_shard()
        for shard in (shard for shard in other.shards() if shard.name in keys):
            try:
                _, tracks = _load(other, shard, keys[shard.name])
            except StoreFormatError as error:
                yield str(error), not (other.path / shard.name).exists()
                continue
            if len(self._loaded) + len(tracks) > ROWS or self._bytes + shard.size > BYTES:
                self._flush()
            self._bytes += shard.size
            for row, vectors, windows in tracks:
                if row.track.key not in met:
                    met.add(row.track.key)
                    self._add(row, vectors, windows)

    def _word(self, path: str) -> records.Statement | None:
        return self._store.catalog.word_on_file(path)

    def _add(self, row: records.Row, vectors: list[Halfs], windows: Windows) -> None:
        track = row.track
        files = [
            (file, file_hash)
            for file, file_hash in zip(track.files, row.hashes, strict=True)
            if not isinstance(self._word(file.full_path), records.Link)
        ]
        if self._writer.has_key(track.key):
            self.known += 1
            for file, file_hash in files:
                self._writer.link(file, file_hash, track.key)
            said = self._store.catalog.word_on_labels(track.key)
            if said is not None and said.labels == TrackLabels() != track.labels:
                self._writer.label(track.key, track.labels)
        elif files:
            self.tracks += 1
            kept, hashes = zip(*files, strict=True)
            self._loaded.append((replace(row, track=replace(track, files=kept), hashes=hashes), vectors, windows))
        else:
            self.outdated += 1

    def _flush(self) -> None:
        if self._loaded:
            for row, _, _ in self._loaded:  # as the other store's catalogue describes them: perhaps that of a stranger
                checked(records.row_record(row), partial(records.read_row, row.track.key, n_windows=row.n_windows))
            _put(self._store, self._writer, self._loaded)
        self._loaded, self._bytes = [], 0


def remove(store: EmbeddingStore, targets: Sequence[str], *, yes: bool) -> RemoveReport:
    """Do `EmbeddingStore.remove`."""
    paths: set[str] = set()
    for target in targets:
        if not target:
            raise ParameterError("a track to remove has a path, a name or an id; got an empty text")
        path = os.path.abspath(target)
        if isinstance(store.catalog.word_on_file(path), records.Fail):
            paths.add(path)
        else:
            paths.update(store.catalog.paths_below(path) or (file.full_path for file in store.track(target).files))
    before, states = len(store), store.files()
    lost = sum(path in states for path in paths)
    if not yes and lost > FEW and lost > SHARE * len(states):
        raise ParameterError(
            f"{lost} of the {len(states)} stored files would be forgotten, more than {SHARE:.0%}; nothing was done (--yes does it)"
        )
    with store.writer() as writer:
        for path in sorted(paths):
            writer.forget(path)
    return RemoveReport(before - len(store), len(paths), len(store))
