"""The store as its users see it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.audio import window_spans
from embedstore.errors import EncoderMismatchError, ParameterError, StoreError, StoreFormatError, TrackNotFoundError
from embedstore.store.catalog import Catalog
from embedstore.store.disk import acquire_lock, explained, sync_folder, write_file
from embedstore.store.records import FORMAT, Spec, dump, parse, take
from embedstore.store.shard import ShardInfo, consecutive, read_rows, read_windows
from embedstore.types import (
    AudioFile,
    EncoderCard,
    Floats,
    Keys,
    Layer,
    LayerMatrix,
    Track,
    TrackLabels,
    Windowing,
    WindowMatrix,
    key_from_id,
)

if TYPE_CHECKING:
    from embedstore.store.verify import VerifyReport
    from embedstore.store.writer import StoreWriter

__all__ = ["EmbeddingStore", "Failure", "FileState", "ShardInfo"]

SETTINGS = "settings.json"
OURS = {"shards", "deltas", "indices", "writer.lock"}  # what a creation that was cut short may have left
VISIBLE = "EXISTS (SELECT 1 FROM files WHERE files.key = tracks.key)"
TRACKS = """
SELECT key, seconds, sample_rate, channels, warnings, labels, path, below, size, mtime_ns
FROM tracks JOIN files USING (key) {} ORDER BY shard, row, files.id"""


class FileState(NamedTuple):
    """What is known about a file that holds a stored track: its stamp, the sum of its bytes, the track's key."""

    size: int
    mtime_ns: int
    file_hash: str
    key: int


@dataclass(frozen=True)
class Failure:
    """A file that could not be stored, as it was then; where and why it failed."""

    file: AudioFile
    stage: str
    reason: str


class _Rows(NamedTuple):
    """The visible rows in commit order: keys, the shards that hold them (ids of `table`), places in these, durations."""

    version: tuple[int, int]
    keys: Keys
    shards: NDArray[np.int64]
    places: NDArray[np.int64]
    seconds: NDArray[np.float64]
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
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self.card, self.recipe, self._spec = _read_description(self.path)
        self.fingerprint = self._spec.fingerprint
        self._cached: _Rows | None = None
        with explained(f"cannot read the store {self.path}"):
            self._catalog = Catalog.open(self.path, self._spec)

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
        _windowing(recipe)  # refuse it before anything is written
        text = {"format": FORMAT, "id": secrets.token_hex(16), "fingerprint": _fingerprint(recipe)}
        described = json.dumps({**text, "card": card.to_dict(), "recipe": dict(recipe)}, indent=1)
        with explained(f"cannot create a store at {folder}"):
            _check_vacant(folder)
            for name in ("shards", "deltas"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
            lock = acquire_lock(folder)
            try:
                _check_vacant(folder)  # nobody else was faster
                write_file(folder / "store.json", described.encode())
            finally:
                os.close(lock)
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
        stored, given = dict(_flat(self.recipe)), dict(_flat(json.loads(dump(dict(recipe)))))
        differ = [name for name in sorted(stored | given) if stored.get(name) != given.get(name)]
        if differ:
            differ = ["encoder"] if "encoder" in differ else differ  # the rest follows from it
            fields = [f"{name}: stored {_shown(stored.get(name))}, now {_shown(given.get(name))}" for name in differ]
            raise EncoderMismatchError(
                f"store {self.path} was written with another recipe; {'; '.join(fields)}; "
                "use another --store, or leave these options out to go on as before"
            )

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

    def _settings(self) -> dict[str, Any]:
        try:
            kept = json.loads((self.path / SETTINGS).read_bytes())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def close(self) -> None:
        """Let go of the catalogue's file."""
        self._catalog.close()

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r}, {len(self)} tracks of {self.card.name})"

    def __len__(self) -> int:
        return len(self._rows().keys)

    # -- what is stored -----------------------------------------------------------------------------------------

    def _rows(self) -> _Rows:
        version = self._catalog.version()
        if self._cached is None or self._cached.version != version:
            sql = f"SELECT key, shard, row, seconds FROM tracks WHERE {VISIBLE} ORDER BY shard, row"  # noqa: S608 - a constant
            columns = {"key": "i8", "shard": "i8", "row": "i8", "seconds": "f8"}
            found = np.array(self._catalog.select(sql), list(columns.items()))
            keys, shards, places, seconds = (found[name].copy() for name in columns)
            keys.setflags(write=False)
            self._cached = _Rows(version, keys, shards, places, seconds, self._shard_table())
        return self._cached

    def _shard_table(self) -> dict[int, ShardInfo]:
        sql = "SELECT id, name, rows, size FROM commits WHERE rows > 0 ORDER BY id"
        return {place: ShardInfo(*rest) for place, *rest in self._catalog.select(sql)}

    def shards(self) -> list[ShardInfo]:
        """List the readable shards in commit order."""
        return list(self._shard_table().values())

    @property
    def problems(self) -> tuple[str, ...]:
        """Shards and deltas that are damaged, foreign or gone; their tracks are absent until they are built again."""
        return tuple(self._catalog.problems())

    def nbytes(self) -> int:
        """Count the bytes of all files of the store."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def tracks(self) -> list[Track]:
        """List the stored tracks in commit order."""
        return self._tracks("", ())

    def _tracks(self, where: str, values: tuple[Any, ...]) -> list[Track]:
        tracks = []
        for key, group in groupby(self._catalog.select(TRACKS.format(where), values), itemgetter(0)):
            rows = list(group)
            _, seconds, rate, channels, warnings, labels = rows[0][:6]
            files = tuple(_audio_file(*row[6:]) for row in rows)
            described = TrackLabels.from_dict(json.loads(labels))
            tracks.append(Track(key, files, seconds, rate, channels, described, tuple(json.loads(warnings))))
        return tracks

    def track(self, query: str) -> Track:
        """Find one track by its id, its absolute or relative path, its path below the root, or its file name.

        Raises
        ------
        TrackNotFoundError
            With the closest names.
        ParameterError
            Several tracks have a file of that name.
        """
        key = key_from_id(query)
        found = set() if key is None else {key}
        for path in (query, os.path.abspath(query)):
            encoded = os.fsencode(path)
            found |= {row[0] for row in self._catalog.select("SELECT key FROM files WHERE path = ?", (encoded,))}
            if tracks := [track for one in found for track in self._tracks("WHERE key = ?", (one,))]:
                return tracks[0]
        return self._track_by_name(query)

    def _track_by_name(self, query: str) -> Track:
        below: dict[str, set[int]] = {}
        names: dict[str, set[int]] = {}
        sql = "SELECT path, below, files.key FROM files JOIN tracks USING (key) ORDER BY path"
        for path, start, key in self._catalog.select(sql):
            relative = os.fsdecode(path[start:])
            name = relative.rpartition("/")[2]
            below.setdefault(relative, set()).add(key)
            for form in {name, name.rpartition(".")[0] or name}:
                names.setdefault(form, set()).add(key)
        keys = below.get(query) or names.get(query) or set()
        if len(keys) == 1:
            return self._tracks("WHERE key = ?", (*keys,))[0]
        if keys:
            some = sorted(track.path for one in list(keys)[:3] for track in self._tracks("WHERE key = ?", (one,)))
            raise ParameterError(
                f"{len(keys)} tracks answer to {query!r}, such as {', '.join(some)}; give the path or the id"
            )
        close = difflib.get_close_matches(query, [*below, *names][:20_000], n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise TrackNotFoundError(f"no stored track is called {query!r} ({len(self)} tracks){hint}")

    def labels(self) -> dict[int, TrackLabels]:
        """Give the labels of every track by its key; those of an unlabelled track are empty."""
        found = self._catalog.select(f"SELECT key, labels FROM tracks WHERE {VISIBLE} ORDER BY shard, row")  # noqa: S608 - a constant
        return {key: TrackLabels.from_dict(json.loads(labels)) for key, labels in found}

    def files(self) -> dict[str, FileState]:
        """Give the state of every file that holds a stored track, by absolute path."""
        sql = "SELECT path, files.size, mtime_ns, hash, files.key FROM files JOIN tracks USING (key) ORDER BY files.id"
        return {os.fsdecode(path): FileState._make(state) for path, *state in self._catalog.select(sql)}

    def failures(self) -> list[Failure]:
        """List the files that could not be stored, by path."""
        sql = "SELECT failure, path, below, size, mtime_ns FROM files WHERE failure IS NOT NULL ORDER BY path"
        return [Failure(_audio_file(*file), *json.loads(failure)) for failure, *file in self._catalog.select(sql)]

    def has_key(self, key: int) -> bool:
        """Whether the vectors of this sound are stored, even if no file holds it now."""
        return self._catalog.has_key(key)

    def key_of_file_hash(self, file_hash: str) -> int | None:
        """Find the track in files with exactly these bytes; None if none is stored."""
        sql = "SELECT key FROM files JOIN tracks USING (key) WHERE hash = ? LIMIT 1"
        found = self._catalog.select(sql, (file_hash,))
        return int(found[0][0]) if found else None

    # -- vectors ------------------------------------------------------------------------------------------------

    def keys(self) -> Keys:
        """Give the tracks' keys in commit order: the row order of `layer`. Shape (n,), int64, read-only."""
        return self._rows().keys

    def keys_by_shard(self) -> dict[str, Keys]:
        """Give the same keys by the name of the shard that holds their rows: what an index covers is told by shards."""
        rows = self._rows()
        shards, starts = np.unique(rows.shards, return_index=True)
        parts = np.split(rows.keys, starts[1:]) if len(shards) else []
        return {rows.table[int(shard)].name: keys for shard, keys in zip(shards, parts, strict=True)}

    def layer(self, which: int | str | None = None) -> LayerMatrix:
        """Read one layer of all tracks.

        Parameters
        ----------
        which : int or str, optional
            Number or name of a layer, or ``"mean"`` for the mean over all layers; default: the encoder's choice.

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
        return self._matrix(rows, np.arange(len(rows.keys)), which)

    def iter_layer(self, which: int | str | None = None, batch: int = 4096) -> Iterator[LayerMatrix]:
        """Read one layer in pieces of up to `batch` rows, in the order of `keys`; as `layer` otherwise."""
        if batch < 1:
            raise ParameterError(f"a batch has at least 1 row; got {batch}")
        rows = self._rows()
        self._which(which)  # complain now, not at the first piece
        n = len(rows.keys)
        return (self._matrix(rows, np.arange(i, min(i + batch, n)), which) for i in range(0, n, batch))

    def vectors(self, keys: Keys, which: int | str | None = None) -> Floats:
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
        return self._spec.windowing is not None

    def count_windows(self) -> int:
        """Count the stored windows of all tracks."""
        return int(self._catalog.select(f"SELECT total(windows) FROM tracks WHERE {VISIBLE}")[0][0])  # noqa: S608 - a constant

    def windows(self, which: int | str | None = None, keys: Keys | None = None) -> WindowMatrix:
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

    def iter_windows(self, which: int | str | None = None, keys: Keys | None = None) -> Iterator[WindowMatrix]:
        """Read the same track by track, in memory for the tracks of one shard; as `windows` otherwise."""
        if self._spec.windowing is None:
            raise StoreError(f"the store {self.path} keeps no windows; build a new one with --keep-windows")
        rows = self._rows()
        self._which(which)  # complain now, not at the first piece
        chosen = np.arange(len(rows.keys)) if keys is None else _places(rows, keys)
        return self._iter_windows(rows, chosen, which, self._spec.windowing)

    def _iter_windows(
        self, rows: _Rows, chosen: NDArray[np.int64], which: int | str | None, windowing: Windowing
    ) -> Iterator[WindowMatrix]:
        number, name, layers = self._which(which)
        rate = self.card.sample_rate
        shards = rows.shards[chosen]
        for source in np.split(chosen, np.flatnonzero(np.diff(shards)) + 1) if len(chosen) else ():
            keys, shard = rows.keys[source], rows.table[int(rows.shards[source[0]])]
            with self._damage_noted():
                blocks = list(read_windows(self.path, shard, layers, rows.places[source], keys))
            for place, (key, seconds) in enumerate(zip(keys.tolist(), rows.seconds[source], strict=True)):
                frames = blocks[0][0][place].astype(np.int64)
                values = np.stack([block[place] for _, block in blocks]).mean(axis=0, dtype=np.float32)
                spans = window_spans(round(seconds * rate), windowing, len(frames)) / rate
                yield WindowMatrix(number, name, np.full(len(frames), key), spans[:, 0], spans[:, 1], frames, values)

    def _which(self, which: int | str | None) -> tuple[int, str, tuple[Layer, ...]]:
        if which != "mean":
            layer = self.card.layer(self.card.default_layer if which is None else which)
            return layer.number, layer.name, (layer,)
        if len({layer.dim for layer in self.card.layers}) > 1:
            widths = ", ".join(f"{layer.name} {layer.dim}" for layer in self.card.layers)
            raise ParameterError(f"layers of different widths have no mean ({widths}); choose one layer")
        return -1, "mean", self.card.layers

    def _matrix(self, rows: _Rows, chosen: NDArray[np.int64], which: int | str | None) -> LayerMatrix:
        number, name, layers = self._which(which)
        out = np.empty((len(chosen), layers[0].dim), np.float32)
        shards = rows.shards[chosen]
        order = np.argsort(shards, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(order) else ():
            shard = rows.table[int(shards[part[0]])]
            there, source = consecutive(part), chosen[part]
            with self._damage_noted():
                blocks = read_rows(self.path, shard, layers, rows.places[source], rows.keys[source])
                if len(layers) == 1:
                    (out[there],) = blocks
                else:
                    out[there] = sum(blocks, np.float32(0)) / np.float32(len(layers))
        return LayerMatrix(number, name, rows.keys[chosen], out)

    @contextmanager
    def _damage_noted(self) -> Iterator[None]:
        """Have whoever opens the store next look at every shard."""
        try:
            yield
        except StoreFormatError as error:
            self._catalog.unseal()
            raise StoreFormatError(f"{error}; run 'embedstore verify', then build again") from error

    # -- care ---------------------------------------------------------------------------------------------------

    def verify(self) -> VerifyReport:
        """Check every shard's sum and values, every delta, and the catalogue against them."""
        from embedstore.store.verify import verify

        return verify(self.path, self._spec, self._catalog)

    def writer(self) -> StoreWriter:
        """Make the context manager that adds to the store: ``with store.writer() as writer: writer.add(...)``."""
        from embedstore.store.writer import StoreWriter

        return StoreWriter(self.path, self._spec, self._take_catalog)

    def _take_catalog(self) -> Catalog:
        """Look at everything again, now that this process holds the lock."""
        catalog = Catalog.open(self.path, self._spec, locked=True)
        self._catalog.close()
        self._catalog, self._cached = catalog, None
        return catalog


def _check_vacant(folder: Path) -> None:
    """Refuse to make a store in the middle of something else."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; a store is a folder")
    found = {path.name for path in folder.iterdir() if ".tmp-" not in path.name} if folder.exists() else set()
    if "store.json" in found:
        raise StoreError(f"{folder} is a store already; open it")
    if other := found - OURS:
        raise StoreError(f"{folder} is not empty (it holds {min(other)!r}); choose a new or empty folder")


def _places(rows: _Rows, keys: Keys) -> NDArray[np.int64]:
    """Find the rows of tracks."""
    wanted = np.asarray(keys, np.int64)
    missing = wanted[~np.isin(wanted, rows.keys)]
    if len(missing):
        raise TrackNotFoundError(f"{len(missing)} of {len(wanted)} keys are not stored; first: {missing[0]}")
    order = np.argsort(rows.keys)
    return order[np.searchsorted(rows.keys, wanted, sorter=order)]


def _audio_file(path: bytes, below: int, size: int, mtime_ns: int) -> AudioFile:
    return AudioFile(os.fsdecode(path[:below]).rstrip("/") or "/", os.fsdecode(path[below:]), size, mtime_ns)


def _fingerprint(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump(dict(recipe))).hexdigest()


def _windowing(recipe: Mapping[str, Any]) -> Windowing | None:
    """Read how tracks are cut, if the windows are kept."""
    if recipe.get("windows") != "kept":
        return None
    names = ("length", "hop", "pad", "min_tail", "tail", "short")
    if missing := [f"window_{name}" for name in names if f"window_{name}" not in recipe]:
        raise ParameterError(f"a recipe whose windows are kept says how tracks are cut; it has no {', '.join(missing)}")
    cut = {name: recipe[f"window_{name}"] for name in names}
    return Windowing(**{**cut, "hop": cut["hop"] or 1})  # a whole track has none


def _flat(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """List the leaves of nested objects by dotted name."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{name}.{key}" if name else key)
    else:
        yield name, data


def _shown(value: Any) -> str:
    """Write a recipe's value in few words; layers by number."""
    if isinstance(value, list) and all(isinstance(item, dict) and "number" in item for item in value):
        return ", ".join(str(item["number"]) for item in value)
    return f"{value!s:.80}" if value not in (None, "") else "(none)"


def _read_description(path: Path) -> tuple[EncoderCard, dict[str, Any], Spec]:
    """Read ``store.json``."""
    file = path / "store.json"
    with explained(f"cannot read {file}"):
        if not file.exists():
            if (path / "shards").is_dir() and any((path / "shards").iterdir()):
                raise StoreError(f"{path} holds shards but no store.json: it was lost; put it back from a copy")
            found = "a file" if path.is_file() else "a folder that is not a store" if path.exists() else "nothing"
            raise StoreError(f"there is no store at {path} (found {found}); make one with: embedstore build AUDIO_DIR")
        data = parse(file.read_bytes(), str(file))
    try:
        if (version := take(data, "format", int)) > FORMAT:
            raise StoreFormatError(f"it has format {version}, this version reads {FORMAT}: upgrade embedstore-mir")  # noqa: TRY301 - one place to name the file
        recipe, card = take(data, "recipe", dict), EncoderCard.from_dict(take(data, "card", dict))
        layers = tuple((layer.number, layer.name, take(vars(layer), "dim", int, least=1)) for layer in card.layers)
        spec = Spec(take(data, "id", str), take(data, "fingerprint", str), layers, _windowing(recipe))
        if spec.fingerprint != _fingerprint(recipe) or not re.fullmatch("[0-9a-f]{32}", spec.store_id):
            raise StoreFormatError("its recipe or its id was changed")  # noqa: TRY301 - the same
    except (StoreFormatError, ParameterError, TypeError, KeyError) as error:
        raise StoreFormatError(f"{file} does not describe a store: {error}") from error
    return card, recipe, spec
