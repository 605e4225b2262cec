"""The store as its users see it."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.audio import window_spans
from embedstore.errors import ParameterError, StoreError, StoreFormatError, TrackNotFoundError
from embedstore.store.catalog import Catalog, audio_file, root_of
from embedstore.store.description import check_recipe, create_folder, read_description
from embedstore.store.disk import explained, plain_file, write_file
from embedstore.store.records import dump, parse
from embedstore.store.shard import ShardInfo, consecutive, read_rows, read_windows, widen
from embedstore.types import (
    AudioFile,
    EncoderCard,
    Floats,
    Keys,
    Layer,
    LayerMatrix,
    Mix,
    Track,
    TrackLabels,
    Windowing,
    WindowMatrix,
    key_from_id,
)

if TYPE_CHECKING:
    from embedstore.store.upkeep import CompactReport, MergeReport, RemoveReport
    from embedstore.store.verify import VerifyReport
    from embedstore.store.writer import StoreWriter

__all__ = ["EmbeddingStore", "Failure", "FileState", "ShardInfo"]

SETTINGS = "settings.json"
VISIBLE = "EXISTS (SELECT 1 FROM files WHERE files.key = tracks.key)"
TRACKS = """
SELECT key, seconds, sample_rate, channels, warnings, labels, path, below, size, mtime_ns, hash
FROM tracks JOIN files USING (key) {} ORDER BY shard, row, files.id"""


class FileState(NamedTuple):
    """What is known about a file that holds a stored track: its stamp, the sum of its bytes, the track's key, its root."""

    size: int
    mtime_ns: int
    file_hash: str
    key: int
    root: str


@dataclass(frozen=True)
class Failure:
    """A file that could not be stored, as it was then; where and why it failed."""

    file: AudioFile
    stage: str
    reason: str


class Totals(NamedTuple):
    """How many tracks, files that hold them and files that failed; seconds of sound; tracks with a warning."""

    tracks: int
    files: int
    failures: int
    seconds: float
    warnings: int


class _Rows(NamedTuple):
    """The visible rows in commit order: keys, the shards that hold them (ids of `table`), places in these, durations.

    `order` sorts the keys.
    """

    version: tuple[int, int]
    keys: Keys
    order: NDArray[np.int64]
    shards: NDArray[np.int64]
    places: NDArray[np.int64]
    table: dict[int, ShardInfo]


class EmbeddingStore:
    """Per-layer mean vectors of tracks, in a folder that survives crashes.

    Use `open`, `create` or `open_or_create`. Reading needs no lock and works beside a writer: each call sees whole
    commits, a later call may see more of them.

    Attributes
    ----------
    path : Path
        Absolute folder.
    card : EncoderCard
        The model behind the vectors.
    recipe : dict
        Everything that decides the vectors.
    fingerprint : str
        SHA-256 of the recipe.
    id : str
        Of this store: 32 random hexadecimal digits.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self.card, self.recipe, self.spec = read_description(self.path)
        self.fingerprint, self.id = self.spec.fingerprint, self.spec.store_id
        self._cached: _Rows | None = None
        with explained(f"cannot read the store {self.path}"):
            self.catalog = Catalog.open(self.path, self.spec)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a store.

        Raises
        ------
        StoreError
            There is none, or it cannot be read.
        StoreFormatError
            Its ``store.json`` is damaged, or of a newer version.
        """
        return cls(path)

    @classmethod
    def exists(cls, path: str | os.PathLike[str]) -> bool:
        """Whether there is a store at `path`."""
        return os.path.isfile(Path(path) / "store.json")  # noqa: PTH113 - unlike Path's, never raises

    @classmethod
    def create(cls, path: str | os.PathLike[str], card: EncoderCard, recipe: Mapping[str, Any]) -> Self:
        """Make an empty store in a new or empty folder.

        Parameters
        ----------
        path : path
        card : EncoderCard
        recipe : mapping
            Plain data: everything that decides the vectors.

        Raises
        ------
        StoreError
            The folder cannot be written, or holds something else.
        ParameterError
            The recipe keeps windows and does not say which.
        """
        folder = Path(os.path.abspath(path))
        create_folder(folder, card, recipe)
        return cls(folder)

    @classmethod
    def open_or_create(cls, path: str | os.PathLike[str], card: EncoderCard, recipe: Mapping[str, Any]) -> Self:
        """Open the store at `path` if it has this recipe, or make it.

        Raises
        ------
        EncoderMismatchError
            It was written with another recipe.
        StoreError, StoreFormatError
            As `open` and `create`.
        """
        if not cls.exists(path):
            return cls.create(path, card, recipe)
        store = cls.open(path)
        store.check_recipe(recipe)
        return store

    def check_recipe(self, recipe: Mapping[str, Any]) -> None:
        """Refuse vectors that were made another way.

        Raises
        ------
        EncoderMismatchError
            Names each field that differs.
        """
        check_recipe(self.path, self.recipe, recipe)

    def remember(self, name: str, value: Any) -> None:
        """Keep a preference, plain data, for later runs. Vectors never depend on it.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        kept = {**self._settings(), name: value}
        with explained(f"cannot write to the store {self.path}"):
            write_file(self.path / SETTINGS, dump(kept))

    def remembered(self, name: str) -> Any:
        """Give a preference that was kept; None if there is none, or it cannot be read."""
        return self._settings().get(name)

    def remember_from(self, other: EmbeddingStore) -> None:
        """Keep the preferences of another store where this one has none of that name; of objects, field by field."""
        for name, value in other._settings().items():
            mine = self.remembered(name)
            both = (
                {**value, **(mine or {})}
                if isinstance(value, dict) and isinstance(mine, dict | None)
                else mine or value
            )
            if both != mine:
                self.remember(name, both)

    def _settings(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError), plain_file(self.path / SETTINGS, 2**24) as file:
            kept = parse(file.read(), SETTINGS)
            dump(kept)  # else it could not be kept again
            return kept if isinstance(kept, dict) else {}
        return {}

    def close(self) -> None:
        """Let go of the catalogue's file."""
        self.catalog.close()

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r}, {len(self)} tracks of {self.card.name})"

    def __len__(self) -> int:
        return len(self._rows().keys)

    # -- what is stored -----------------------------------------------------------------------------------------

    def _rows(self) -> _Rows:
        version = self.catalog.version()
        if self._cached is None or self._cached.version != version:
            found, hidden = self.catalog.snapshot(
                "SELECT id, keys, name, size, origins FROM commits WHERE length(keys) > 0 ORDER BY id",
                f"SELECT key FROM tracks WHERE NOT {VISIBLE} ORDER BY key",  # noqa: S608 - a constant
            )
            table = {
                place: ShardInfo(name, len(some) // 8, size, tuple(json.loads(origins or "[]")))
                for place, some, name, size, origins in found
            }
            counts = np.array([shard.rows for shard in table.values()], np.int64)
            keys = np.frombuffer(b"".join(some for _, some, *_ in found), "<i8").astype(np.int64, copy=False)
            shards = np.repeat(np.array([*table], np.int64), counts)
            places = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
            seen = np.zeros(len(keys), bool)
            seen[len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]] = True  # the last row of each key
            if hidden:
                seen &= ~np.isin(keys, np.array(hidden).ravel())
            keys = keys[seen]
            keys.setflags(write=False)
            self._cached = _Rows(version, keys, np.argsort(keys), shards[seen], places[seen], table)
        return self._cached

    def shards(self) -> list[ShardInfo]:
        """List the readable shards in commit order."""
        return list(self._rows().table.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """Shards and deltas that are damaged, foreign or gone; their tracks are absent until they are built again."""
        return tuple(self.catalog.problems())

    def nbytes(self) -> int:
        """Count the bytes of all files of the store."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def tracks(self) -> list[Track]:
        """List the stored tracks in commit order."""
        return self._tracks("", ())

    def iter_tracks(self, batch: int = 4096) -> Iterator[list[Track]]:
        """List the same in pieces of up to `batch` tracks."""
        keys = self.keys()
        for start in range(0, len(keys), batch):
            yield [track for track, _ in self.described(keys[start : start + batch])]

    def described(self, keys: Keys) -> Iterator[tuple[Track, tuple[str, ...]]]:
        """Give some tracks, each with the sums of its files, in commit order."""
        return self._tracks_and_hashes("WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(keys.tolist()),))

    def _tracks(self, where: str, values: tuple[Any, ...]) -> list[Track]:
        return [track for track, _ in self._tracks_and_hashes(where, values)]

    def _tracks_and_hashes(self, where: str, values: tuple[Any, ...]) -> Iterator[tuple[Track, tuple[str, ...]]]:
        for key, group in groupby(self.catalog.select(TRACKS.format(where), values), itemgetter(0)):
            rows = list(group)
            _, seconds, rate, channels, warnings, labels = rows[0][:6]
            files = tuple(audio_file(*row[6:10]) for row in rows)
            described = TrackLabels.from_dict(json.loads(labels))
            track = Track(key, files, seconds, rate, channels, described, tuple(json.loads(warnings)))
            yield track, tuple(row[10] for row in rows)

    def track(self, query: str) -> Track:
        """Find one track by its id, its absolute or relative path, its path below the root, or its file name.

        Raises
        ------
        TrackNotFoundError
            With the closest names.
        ParameterError
            Several tracks have a file of that name.
        """
        if track := self.find(query):
            return track
        keys = self.named(query)
        if len(keys) == 1:
            return self._tracks("WHERE key = ?", (*keys,))[0]
        if keys:
            some = sorted(track.path for one in keys[:3] for track in self._tracks("WHERE key = ?", (one,)))
            raise ParameterError(
                f"{len(keys)} tracks answer to {query!r}, such as {', '.join(some)}; give the path or the id"
            )
        files = self.catalog.select("SELECT path, below FROM files JOIN tracks USING (key) LIMIT 10000")
        names = {form for path, below in files for form in _forms(os.fsdecode(path[below:]))}
        close = difflib.get_close_matches(query, sorted(names), n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise TrackNotFoundError(f"no stored track is called {query!r} ({len(self)} tracks){hint}")

    def find(self, query: str) -> Track | None:
        """Find one track by its id, or the absolute or relative path of one of its files; None if there is none."""
        key = key_from_id(query)
        found = set() if key is None else {key}
        for path in (query, os.path.abspath(query)):
            encoded = _encoded(path)
            found |= {row[0] for row in self.catalog.select("SELECT key FROM files WHERE path = ?", (encoded,))}
            if tracks := [track for one in found for track in self._tracks("WHERE key = ?", (one,))]:
                return tracks[0]
        return None

    def named(self, name: str) -> list[int]:
        """List the keys of the tracks that have a file of this path below its root; else of this name, its ending told or not."""
        sql = "SELECT path, below, key FROM files JOIN tracks USING (key) WHERE substr(path, ?) = ? OR instr(path, ?)"
        end, start = _encoded(f"/{name}"), _encoded(f"/{name}.")
        rows = self.catalog.select(sql, (-len(end), end, start)) if name else []
        found = [(_forms(os.fsdecode(path[below:])), key) for path, below, key in rows]
        return sorted(
            {key for (below, *_), key in found if below == name} or {key for forms, key in found if name in forms}
        )

    def labels(self) -> dict[int, TrackLabels]:
        """Give the labels of every track by its key; those of an unlabelled track are empty."""
        found = self.catalog.select(f"SELECT key, labels FROM tracks WHERE {VISIBLE} ORDER BY shard, row")  # noqa: S608 - a constant
        return {key: TrackLabels.from_dict(json.loads(labels)) for key, labels in found}

    def totals(self) -> Totals:
        """Count what is stored."""
        # float by float, as Python adds them up: total() would depend on the version of SQLite
        rows = self.catalog.select(f"SELECT seconds, warnings != '[]' FROM tracks WHERE {VISIBLE} ORDER BY shard, row")  # noqa: S608 - a constant
        files = "SELECT count(*) FROM files JOIN tracks USING (key)"
        failures = "SELECT count(*) FROM files WHERE failure IS NOT NULL"
        held, failed = (self.catalog.select(sql)[0][0] for sql in (files, failures))
        return Totals(len(rows), held, failed, sum(seconds for seconds, _ in rows), sum(warned for _, warned in rows))

    def catalogue(self) -> list[tuple[int, float, str, bytes, int]]:
        """List each track's files: key, seconds, labels (JSON that `TrackLabels.from_dict` takes), path, where its root ends.

        By rising key, the first file first.
        """
        sql = "SELECT key, seconds, labels, path, below FROM tracks JOIN files USING (key) ORDER BY key, files.id"
        return self.catalog.select(sql)

    def files(self) -> dict[str, FileState]:
        """Give the state of every file that holds a stored track, by absolute path."""
        sql = "SELECT path, below, files.size, mtime_ns, hash, key FROM files JOIN tracks USING (key) ORDER BY files.id"
        found = self.catalog.select(sql)
        return {os.fsdecode(path): FileState._make((*state, root_of(path, below))) for path, below, *state in found}

    def failures(self) -> list[Failure]:
        """List the files that could not be stored, by path."""
        sql = "SELECT failure, path, below, size, mtime_ns FROM files WHERE failure IS NOT NULL ORDER BY path"
        return [Failure(audio_file(*file), *json.loads(failure)) for failure, *file in self.catalog.select(sql)]

    def has_key(self, key: int) -> bool:
        """Whether the vectors of this sound are stored, even if no file holds it now."""
        return self.catalog.has_key(key)

    def held_keys(self) -> set[int]:
        """Give the keys of all stored sounds, those that no file holds now included."""
        return {key for (key,) in self.catalog.select("SELECT key FROM tracks")}

    def key_of_file_hash(self, file_hash: str) -> int | None:
        """Find the track in files with exactly these bytes; None if none is stored."""
        sql = "SELECT key FROM files JOIN tracks USING (key) WHERE hash = ? LIMIT 1"
        found = self.catalog.select(sql, (file_hash,))
        return int(found[0][0]) if found else None

    # -- vectors ------------------------------------------------------------------------------------------------

    def keys(self) -> Keys:
        """Give the tracks' keys in commit order: the row order of `layer`. Shape (n,), int64, read-only."""
        return self._rows().keys

    def keys_by_shard(self) -> dict[str, Keys]:
        """Give the same keys by the name of the shard that holds their rows."""
        rows = self._rows()
        shards, starts = np.unique(rows.shards, return_index=True)
        parts = np.split(rows.keys, starts[1:]) if len(shards) else []
        return {rows.table[int(shard)].name: keys for shard, keys in zip(shards, parts, strict=True)}

    def layer(self, which: int | str | Mix | None = None) -> LayerMatrix:
        """Read one layer of all tracks.

        Parameters
        ----------
        which : int, str or Mix, optional
            Number or name of a layer, ``"mean"`` for the mean over all layers, or a sum of them; default: the encoder's choice.

        Returns
        -------
        LayerMatrix
            Values float32 (n, dim), stored as float16.

        Raises
        ------
        UnknownNameError
            No such layer is stored.
        ParameterError
            A mean over layers of different widths.
        StoreFormatError
            A shard was damaged after the store was opened.
        """
        rows = self._rows()
        try:
            return self._matrix(rows, np.arange(len(rows.keys)), which)
        except TrackNotFoundError:  # some were removed meanwhile
            return self.layer(which)

    def iter_layer(self, which: int | str | Mix | None = None, batch: int = 4096) -> Iterator[LayerMatrix]:
        """Read one layer in pieces of up to `batch` rows, in the order of `keys`; as `layer` otherwise."""
        if batch < 1:
            raise ParameterError(f"a batch has at least 1 row; got {batch}")
        rows = self._rows()
        self._which(which)  # complain now, not at the first piece
        n = len(rows.keys)
        return (self._matrix(rows, np.arange(i, min(i + batch, n)), which) for i in range(0, n, batch))

    def vectors(self, keys: Keys, which: int | str | Mix | None = None) -> Floats:
        """Read one layer of some tracks.

        Parameters
        ----------
        keys : int64 array, shape (m,)
        which : int or str, optional
            As in `layer`.

        Returns
        -------
        float32 array, shape (m, dim)
            In the order of `keys`.

        Raises
        ------
        TrackNotFoundError
            A key is not stored.
        """
        rows = self._rows()
        return self._matrix(rows, _places(rows, keys), which).values

    @property
    def keeps_windows(self) -> bool:
        """Whether the windows of each track are stored, too: decided when the store was made."""
        return self.spec.windowing is not None

    def count_windows(self) -> int:
        """Count the stored windows of all tracks."""
        return int(self.catalog.select(f"SELECT total(windows) FROM tracks WHERE {VISIBLE}")[0][0])  # noqa: S608 - a constant

    def windows(self, which: int | str | Mix | None = None, keys: Keys | None = None) -> WindowMatrix:
        """Read one layer of the windows of some tracks.

        Parameters
        ----------
        which : int or str, optional
            As in `layer`.
        keys : int64 array, shape (m,), optional
            Of the tracks, in the order that is wanted; default: all, in the order of `keys`.

        Raises
        ------
        StoreError
            The store was made without windows.
        TrackNotFoundError
            A key is not stored.
        UnknownNameError, ParameterError, StoreFormatError
            As `layer`.
        """
        number, name, layers = self._which(which)
        columns = {"keys": np.int64, "starts": np.float64, "ends": np.float64, "frames": np.int64}
        none = (*(np.empty(0, kind) for kind in columns.values()), np.empty((0, layers[0].dim), np.float32))
        pieces = [WindowMatrix(number, name, *none), *self.iter_windows(which, keys)]
        joined = (np.concatenate([getattr(piece, column) for piece in pieces]) for column in (*columns, "values"))
        return WindowMatrix(number, name, *joined)

    def iter_windows(self, which: int | str | Mix | None = None, keys: Keys | None = None) -> Iterator[WindowMatrix]:
        """Read the same track by track, in memory for the tracks of one shard; as `windows` otherwise."""
        if self.spec.windowing is None:
            raise StoreError(f"the store {self.path} keeps no windows; build a new one with --keep-windows")
        rows = self._rows()
        self._which(which)  # complain now, not at the first piece
        chosen = np.arange(len(rows.keys)) if keys is None else _places(rows, keys)
        return self._iter_windows(rows, chosen, which, self.spec.windowing)

    def _iter_windows(
        self, rows: _Rows, chosen: NDArray[np.int64], which: int | str | Mix | None, windowing: Windowing
    ) -> Iterator[WindowMatrix]:
        number, name, layers = self._which(which)
        rate = self.card.sample_rate
        shards = rows.shards[chosen]
        for source in np.split(chosen, np.flatnonzero(np.diff(shards)) + 1) if len(chosen) else ():
            keys, shard = rows.keys[source], rows.table[int(rows.shards[source[0]])]
            try:
                blocks = list(read_windows(self.path, shard, layers, rows.places[source], keys))
            except StoreFormatError as error:
                yield from self._iter_windows(*self._followed(rows, source, error), which, windowing)
                continue
            sql = "SELECT key, seconds FROM tracks WHERE key IN (SELECT value FROM json_each(?))"
            seconds = dict(self.catalog.select(sql, (json.dumps(keys.tolist()),)))
            for place, key in enumerate(keys.tolist()):
                frames = blocks[0][0][place].astype(np.int64)
                heard = [block[place] for _, block in blocks]
                values = which(heard) if isinstance(which, Mix) else np.stack(heard).mean(axis=0, dtype=np.float32)
                spans = window_spans(round(seconds[key] * rate), windowing, len(frames)) / rate
                yield WindowMatrix(number, name, np.full(len(frames), key), spans[:, 0], spans[:, 1], frames, values)

    def _which(self, which: int | str | Mix | None) -> tuple[int, str, tuple[Layer, ...]]:
        if isinstance(which, Mix):
            if [which.scales.shape[1]] * len(which.scales) != [layer.dim for layer in self.card.layers]:
                raise ParameterError(
                    f"{which!r} does not fit the {len(self.card.layers)} layers of the store {self.path}"
                )
            return -1, f"mix {which.name}", self.card.layers
        if which != "mean":
            layer = self.card.layer(self.card.default_layer if which is None else which)
            return layer.number, layer.name, (layer,)
        if len({layer.dim for layer in self.card.layers}) > 1:
            widths = ", ".join(f"{layer.name} {layer.dim}" for layer in self.card.layers)
            raise ParameterError(f"layers of different widths have no mean ({widths}); choose one layer")
        return -1, "mean", self.card.layers

    def _matrix(self, rows: _Rows, chosen: NDArray[np.int64], which: int | str | Mix | None) -> LayerMatrix:
        number, name, layers = self._which(which)
        out = np.empty((len(chosen), layers[0].dim), np.float32)
        shards = rows.shards[chosen]
        order = np.argsort(shards, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(order) else ():
            shard = rows.table[int(shards[part[0]])]
            there, source = consecutive(part), chosen[part]
            try:
                blocks = read_rows(self.path, shard, layers, rows.places[source], rows.keys[source])
                if isinstance(which, Mix):
                    out[there] = which(blocks)
                elif len(layers) > 1:
                    out[there] = sum(blocks, np.float32(0)) / np.float32(len(layers))
                else:
                    (block,) = blocks
                    if isinstance(there, slice):
                        widen(block, out[there])
                    else:
                        out[there] = block
            except StoreFormatError as error:
                return self._matrix(*self._followed(rows, chosen, error), which)
        return LayerMatrix(number, name, rows.keys[chosen], out)

    def _followed(
        self, rows: _Rows, chosen: NDArray[np.int64], error: StoreFormatError
    ) -> tuple[_Rows, NDArray[np.int64]]:
        """Find rows again whose shard was merged into another while they were read; of others, raise what is wrong."""
        used = (rows.table[place].name for place in np.unique(rows.shards[chosen]).tolist())
        if gone := {name for name in used if not (self.path / name).exists()}:
            if self.catalog.version() == rows.version:
                self.reopen()
            fresh = self._rows()
            try:
                again = _places(fresh, rows.keys[chosen])
                if gone.isdisjoint(fresh.table[place].name for place in np.unique(fresh.shards[again]).tolist()):
                    return fresh, again
            except TrackNotFoundError:
                if gone <= self.catalog.replaced_names():
                    raise  # they were removed, and the store was compacted
        self.catalog.unseal()  # whoever opens the store next looks at every shard
        raise StoreFormatError(f"{error}; run 'embedstore verify', then build again") from error

    # -- care ---------------------------------------------------------------------------------------------------

    def verify(self) -> VerifyReport:
        """Check every shard's sum and values, every delta, and the catalogue against them."""
        from embedstore.store.verify import verify

        return verify(self.path, self.spec, self.catalog)

    def repair(self) -> VerifyReport:
        """Verify, and move what is damaged or foreign into the folder ``quarantine``; a build encodes those tracks again.

        Raises
        ------
        StoreError, StoreLockedError
            The store cannot be written.
        """
        from embedstore.store.verify import repair

        return repair(self)

    def compact(self, *, least: int = 1) -> CompactReport:
        """Merge small shards into big ones, and drop what no file holds any more; nothing else changes.

        Parameters
        ----------
        least : int
            Do nothing if fewer shards and deltas than these could go.

        Raises
        ------
        StoreError, StoreLockedError
            The store cannot be written. What was done is done, and nothing is lost.
        """
        from embedstore.store.upkeep import compact

        return compact(self, least)

    def remove(self, targets: Sequence[str], *, yes: bool = False) -> RemoveReport:
        """Forget tracks with all their files, by id, path or name, or all files below a folder; `compact` frees the space.

        Parameters
        ----------
        targets : sequence of str
        yes : bool
            Also if that is more than 5 and more than 20 % of the stored files.

        Raises
        ------
        TrackNotFoundError, ParameterError
            As `track`, or it is too much. Nothing is removed.
        StoreError, StoreLockedError
            The store cannot be written.
        """
        from embedstore.store.upkeep import remove

        return remove(self, targets, yes=yes)

    def merge(self, *others: EmbeddingStore) -> MergeReport:
        """Take in the tracks of other stores of the same recipe; what this store knows about a file stays.

        Raises
        ------
        EncoderMismatchError
            One was written with another recipe; then nothing is taken in.
        StoreError, StoreLockedError
            The store cannot be written. What was done is done; the same call goes on.
        """
        from embedstore.store.upkeep import merge

        return merge(self, others)

    def writer(self) -> StoreWriter:
        """Make the context manager that adds to the store: ``with store.writer() as writer: writer.add(...)``."""
        from embedstore.store.writer import StoreWriter

        return StoreWriter(self.path, self.spec, partial(self.reopen, locked=True))

    def reopen(self, *, locked: bool = False) -> Catalog:
        """Look at everything again; `locked`: this process holds the writer's lock."""
        catalog = Catalog.open(self.path, self.spec, locked=locked)
        self.catalog.close()
        self.catalog, self._cached = catalog, None
        return catalog


def _encoded(path: str) -> bytes:
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:  # half a letter: no file is called so
        return b"\0"


def _forms(relative: str) -> tuple[str, str, str]:
    """Give a path, its file's name, and that without its ending."""
    name = relative.rpartition("/")[2]
    return relative, name, name.rpartition(".")[0] or name


def _places(rows: _Rows, keys: Keys) -> NDArray[np.int64]:
    """Find the rows of tracks."""
    wanted = np.asarray(keys, np.int64)
    last = np.searchsorted(rows.keys, wanted, "right", sorter=rows.order) - 1
    places = rows.order[last] if len(rows.keys) else last
    missing = wanted[rows.keys[places] != wanted] if len(rows.keys) else wanted
    if len(missing):
        raise TrackNotFoundError(f"{len(missing)} of {len(wanted)} keys are not stored; first: {missing[0]}")
    return places
