"""Shards: HDF5 images that are made in memory, and read without trust."""

from __future__ import annotations

import errno
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from embedstore.errors import StoreFormatError
from embedstore.store.disk import explained
from embedstore.store.records import Content, Row, Spec, dump, parse, read_names, read_row, row_record
from embedstore.types import Floats, Keys, Layer

__all__ = [
    "ShardInfo",
    "Windows",
    "build_shard",
    "consecutive",
    "load_shard",
    "parse_shard",
    "read_rows",
    "read_windows",
    "widen",
]

Halfs = NDArray[np.float16]
CHUNK_ROWS = 256
_BYTES = np.dtype("u1")
# what HDF5 calls the types of the format; made once: to make one takes longer than to read a small dataset
_TYPES = {"u1": h5py.h5t.STD_U8LE, "<i4": h5py.h5t.STD_I32LE, "<i8": h5py.h5t.STD_I64LE, "<f2": h5py.h5t.IEEE_F16LE}
_IN_PLACE = 0x2 | 0x4  # H5LT_FILE_IMAGE_DONT_COPY, H5LT_FILE_IMAGE_DONT_RELEASE
_ACCESS = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
_ACCESS.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
_ACCESS.set_file_locking(False, True)


@dataclass(frozen=True)
class ShardInfo:
    """A shard.

    Attributes
    ----------
    name : str
        Below the store; it holds the shard's sum.
    rows : int
    size : int
        Bytes.
    origins : tuple of str
        Names of the shards that its rows were first committed in: itself, if it was not merged from others.
    """

    name: str
    rows: int
    size: int
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", self.origins or (self.name,))


class Windows(NamedTuple):
    """The kept windows of a track.

    Attributes
    ----------
    frames : int32 array, shape (windows,)
    values : list of float16 arrays, each shape (windows, dim of that layer)
    """

    frames: NDArray[np.int32]
    values: list[Halfs]

    @property
    def nbytes(self) -> int:
        """What they take."""
        return self.frames.nbytes + sum(matrix.nbytes for matrix in self.values)


def layer_name(number: int) -> str:
    """Name the dataset of a layer."""
    return f"layer_{number:02d}"


def windows_name(number: int) -> str:
    """Name the dataset of a layer's windows."""
    return f"windows_{number:02d}"


def build_shard(
    spec: Spec,
    sequence: int,
    rows: Sequence[Row],
    vectors: Sequence[Sequence[Halfs]],
    windows: Sequence[Windows] = (),
    replaces: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> bytes:
    """Make the bytes of a shard: the same rows give the same bytes.

    Parameters
    ----------
    spec : Spec
    sequence : int
    rows : sequence of Row, length n >= 1
    vectors : sequence of n sequences of float16 arrays, each shape (dim of that layer,)
    windows : sequence of n Windows
        Only if the store keeps them.
    replaces, origins : sequence of str
        See `Content`.
    """
    merged = {name: list(names) for name, names in (("replaces", replaces), ("origins", origins)) if names}
    header = {**spec.header(sequence), "layers": spec.layers, **merged}
    keys = np.array([row.track.key for row in rows], "<i8")
    texts = {"header": dump(header), "tracks": dump([row_record(row) for row in rows])}
    # the name is not a file's: the core driver without backing store never touches the disk
    with h5py.File("shard", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:

        def put(name: str, data: NDArray[Any], chunks: tuple[int, ...]) -> None:
            file.create_dataset(name, data=data, chunks=chunks, fletcher32=True)

        for text_name, text in texts.items():
            put(text_name, np.frombuffer(text, _BYTES), (len(text),))
        put("keys", keys, keys.shape)
        for i, (number, _, dim) in enumerate(spec.layers):
            matrix = np.stack([row[i] for row in vectors]).astype("<f2", copy=False)
            put(layer_name(number), matrix, (min(len(rows), CHUNK_ROWS), dim))
        if spec.windowing:
            counts = np.array([len(one.frames) for one in windows], "<i4")
            frames = np.concatenate([one.frames for one in windows]).astype("<i4", copy=False)
            put("window_counts", counts, counts.shape)
            put("window_frames", frames, frames.shape)
            for i, (number, _, dim) in enumerate(spec.layers):
                matrix = np.concatenate([one.values[i] for one in windows]).astype("<f2", copy=False)
                put(windows_name(number), matrix, (min(len(frames), CHUNK_ROWS), dim))
        file.flush()
        return cast("bytes", file.id.get_file_image())


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Turn whatever HDF5 says about strange bytes into one error."""
    try:
        yield
    except StoreFormatError as error:
        raise StoreFormatError(f"{what} is not a shard of this store: {error}") from error
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.EACCES}:  # says nothing about the content
            with explained(f"cannot read {what}"):
                raise
        if error.errno == errno.ENOENT:
            raise StoreFormatError(f"{what} cannot be read: {os.strerror(errno.ENOENT)}") from error
        raise StoreFormatError(f"{what} is damaged: {error}") from error
    except (RuntimeError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise StoreFormatError(f"{what} is damaged: {error}") from error


class _Dataset(NamedTuple):
    """A dataset, and its shape: asked for twice, it would cost as much as to read a small one."""

    id: Any
    shape: tuple[int, ...]


def _dataset(file: Any, name: str, dtype: str, shape: tuple[int, ...] | None, size: int) -> _Dataset:
    """Open a dataset that is what the format says, and whose data lie inside this file; anything else is refused."""
    raw = name.encode()
    if file.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise StoreFormatError(f"{name!r} is a link to elsewhere")
    dataset = h5py.h5d.open(file, raw)
    plan = dataset.get_create_plist()
    # only chunks inside the file can have a filter: this also refuses virtual datasets and external storage
    if [plan.get_filter(i)[0] for i in range(plan.get_nfilters())] != [h5py.h5z.FILTER_FLETCHER32]:
        raise StoreFormatError(f"{name!r} has other filters than Fletcher32")
    found = dataset.shape
    if dataset.get_type() != _TYPES[dtype] or len(found) != (1 if shape is None else len(shape)):
        raise StoreFormatError(f"{name!r} should be {dtype} {shape or '(n,)'}; found {dataset.dtype} {found}")
    if (shape is not None and found != shape) or 0 in found:
        raise StoreFormatError(f"{name!r} should have shape {shape or '(n,)'}; found {found}")
    chunk = plan.get_chunk()
    chunks = math.prod(-(-n // c) for n, c in zip(found, chunk, strict=True))
    stored = chunks * (math.prod(chunk) * np.dtype(dtype).itemsize + 4)
    if stored > size or dataset.get_storage_size() != stored:  # a chunk that was never written would read as zeros
        raise StoreFormatError(f"{name!r} declares {stored} bytes; {dataset.get_storage_size()} are in the file")
    return _Dataset(dataset, found)


def _check_layouts(data: bytes, file: Any) -> None:
    """Look at the chunks that objects declare before HDF5 does: it divides by their sizes, and a zero ends the process."""
    for link in (file.links.get_info(name) for name in file):
        if link.type != h5py.h5l.TYPE_HARD:
            continue  # is refused when it is met
        flags = data[link.u + 5]  # of a version 2 object header: how wide its own size is, and what stands before it
        at, wide = link.u + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0), 1 << (flags & 3)
        end = at + wide + int.from_bytes(data[at : at + wide], "little")
        at, layout = at + wide, b""
        while at + 4 <= end and not layout:
            length = int.from_bytes(data[at + 1 : at + 3], "little")
            body = at + (6 if flags & 4 else 4)
            layout = data[body : body + length] if data[at] == 8 else b""
            at = body + length
        version, kind, _, rank, wide = layout[:5].ljust(5, b"\0")
        sizes = [int.from_bytes(layout[5 + i * wide : 5 + (i + 1) * wide], "little") for i in range(rank)]
        if data[link.u : link.u + 5] != b"OHDR\2" or (version, kind) != (4, 2) or not sizes or 0 in sizes:
            raise StoreFormatError("an object in it is not stored in chunks")


def _read(dataset: _Dataset, dtype: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
    """Read rows `first` to `last`; HDF5 checks their Fletcher32 sums."""
    whole = dataset.shape
    out = np.empty(((whole[0] if last is None else last) - first, *whole[1:]), dtype)
    if out.shape == whole:  # much faster than the same as a selection
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, out, _TYPES[dtype])
    else:
        space = dataset.id.get_space()
        space.select_hyperslab((first,) + (0,) * (out.ndim - 1), out.shape)
        dataset.id.read(h5py.h5s.create_simple(out.shape), space, out, _TYPES[dtype])
    return out


def _read_finite(dataset: Any, first: int, last: int) -> Halfs:
    values = _read(dataset, "<f2", first, last)
    if not _finite(values):
        raise StoreFormatError("it holds values that are not finite")
    return values


def _finite(values: Halfs) -> bool:
    """Say what `np.isfinite` says of all, ten times as fast: +inf is 0x7C00, -inf 0xFC00, and every nan above one of them."""
    return bool(values.view("<i2").max() < 0x7C00 and values.view("<u2").max() < 0xFC00)


def widen(halfs: Halfs, out: Floats) -> None:
    """Put finite float16 into float32 of the same shape: what numpy does, which has no vector code for it, some times as fast.

    The bits of sign, exponent and fraction go to their new places; 2^112 makes up for the exponents' different zeros.
    """
    for i in range(0, len(halfs), 64):  # what fits into the cache
        part = out[i : i + 64]
        bits = part.view(np.int32)
        bits[...] = halfs[i : i + 64].view("<i2")
        bits <<= 13
        bits &= -0x70002000
        part *= np.float32(2.0**112)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    file = h5py.h5f.open(bytes(path), h5py.h5f.ACC_RDONLY, _ACCESS)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def _image(data: bytes) -> Iterator[Any]:
    """Have HDF5 read bytes where they are; to copy a shard takes longer than to check it."""
    file = h5py.h5f.open_file_image(data, _IN_PLACE)
    try:
        yield file
    finally:
        for left in h5py.h5f.get_obj_ids(file, h5py.h5f.OBJ_DATASET):  # it would look at bytes that may be gone
            while left.valid:
                h5py.h5i.dec_ref(left)
        file.close()


def parse_shard(
    data: bytes,
    name: str,
    sequence: int,
    spec: Spec,
    *,
    values: bool = False,
    held: dict[str, NDArray[Any]] | None = None,
) -> Content:
    """Check the whole layout of a shard's bytes and read what it says about its tracks.

    Parameters
    ----------
    data : bytes
    name : str
        For messages.
    sequence : int
        That its name promises.
    spec : Spec
    values : bool
        Look at every value, too.
    held : dict, optional
        Takes the values of each dataset of vectors, and of ``window_frames``, by name.

    Raises
    ------
    StoreFormatError
        Anything is not as the format says; the bytes are never followed to another file.
    """
    with _refused(name), _image(data) as image:
        size = len(data)
        _check_layouts(data, image)
        header = parse(_read(_dataset(image, "header", "u1", None, size), "u1").tobytes(), "its header")
        spec.check(header, sequence)
        if header.get("layers") != [list(layer) for layer in spec.layers]:
            raise StoreFormatError("its layers are not those of the store's encoder")
        names = 3 + len(spec.layers) + (2 + len(spec.layers) if spec.windowing else 0)
        if len(image) != names or h5py.h5a.get_num_attrs(image):
            raise StoreFormatError("it holds more or less than the format names")
        keys = _read(_dataset(image, "keys", "<i8", None, size), "<i8")
        n = len(keys)
        bounds, frames = _windows(image, n, size) if spec.windowing else (np.zeros(n + 1, int), np.empty(0))
        for number, _, dim in spec.layers:
            shapes = {layer_name(number): n} | ({windows_name(number): len(frames)} if spec.windowing else {})
            for dataset, length in shapes.items():
                layer = _dataset(image, dataset, "<f2", (length, dim), size)
                if values:
                    matrix = _read(layer, "<f2")
                    if not _finite(matrix):
                        raise StoreFormatError(f"layer {number} holds values that are not finite")
                    if held is not None:
                        held[dataset] = matrix
        if held is not None:
            held["window_frames"] = frames
        records = parse(_read(_dataset(image, "tracks", "u1", None, size), "u1").tobytes(), "its list of tracks")
        if not isinstance(records, list) or len(records) != n or keys.min() < 0 or len(np.unique(keys)) != n:
            raise StoreFormatError("it should have one record and one key of its own for each row")
        counts = np.diff(bounds).tolist()
        found = [read_row(*row) for row in zip(keys.tolist(), records, counts, strict=True)]
        if spec.windowing and (
            frames.min() < 1
            or np.add.reduceat(frames, bounds[:-1], dtype=np.int64).tolist() != [row.n_frames for row in found]
        ):
            raise StoreFormatError("a track has the frames of its windows, at least 1 each; here it has others")
        return Content(found, read_names(header, "replaces"), read_names(header, "origins"))


def load_shard(data: bytes, name: str, sequence: int, spec: Spec) -> tuple[Content, list[Halfs], list[Windows]]:
    """Read and check all that a shard's bytes hold, every value; as `parse_shard` otherwise.

    Returns
    -------
    content : Content
    matrices : list of float16 arrays, each shape (n, dim)
        Of each layer.
    windows : list of n Windows
        Empty ones if the store keeps none.
    """
    held: dict[str, NDArray[Any]] = {}
    content = parse_shard(data, name, sequence, spec, values=True, held=held)
    matrices = [held[layer_name(number)] for number, _, _ in spec.layers]
    if not spec.windowing:
        return content, matrices, [Windows(np.empty(0, "<i4"), [])] * len(content.items)
    bounds = itertools.accumulate((row.n_windows for row in content.items), initial=0)
    spans = [slice(*span) for span in itertools.pairwise(bounds)]
    values = [held[windows_name(number)] for number, _, _ in spec.layers]
    windows = [Windows(held["window_frames"][span], [matrix[span] for matrix in values]) for span in spans]
    return content, matrices, windows


def _windows(file: Any, rows: int, size: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Read where each track's windows begin (and the last one's end), and the frames of every window."""
    counts = _read(_dataset(file, "window_counts", "<i4", (rows,), size), "<i4")
    bounds = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    frames = _dataset(file, "window_frames", "<i4", None, size)
    if counts.min() < 1 or bounds[-1] != frames.shape[0]:
        raise StoreFormatError(
            f"each track has at least one window, and {frames.shape[0]} in all; found {counts.min()} and {bounds[-1]}"
        )
    return bounds, _read(frames, "<i4")


def consecutive(places: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Write places as a slice where they follow each other: numpy copies slices much faster."""
    first, last = int(places[0]), int(places[-1]) + 1
    whole = last - first == len(places) and bool((places[1:] > places[:-1]).all())
    return slice(first, last) if whole else places


def read_rows(
    store: Path, shard: ShardInfo, layers: Sequence[Layer], rows: NDArray[np.int64], keys: Keys
) -> Iterator[Halfs]:
    """Read rows of some layers of a shard, one layer after the other.

    Parameters
    ----------
    store : Path
    shard : ShardInfo
    layers : sequence of Layer
    rows : int64 array, shape (m,), m >= 1
        Places in the shard, in any order.
    keys : int64 array, shape (m,)
        Which tracks these rows should be.

    Yields
    ------
    float16 array, shape (m, dim)

    Raises
    ------
    StoreFormatError
        The file is damaged, or these are not the rows of these keys.
    """
    first, last = int(rows.min()), int(rows.max()) + 1
    part = consecutive(rows - first)
    with _refused(shard.name), _opened(store / shard.name) as file:
        _check_keys(file, shard, rows, keys)
        for layer in layers:
            matrix = _dataset(file, layer_name(layer.number), "<f2", (shard.rows, layer.dim), shard.size)
            yield _read_finite(matrix, first, last)[part]


def read_windows(
    store: Path, shard: ShardInfo, layers: Sequence[Layer], rows: NDArray[np.int64], keys: Keys
) -> Iterator[tuple[list[NDArray[np.int32]], list[Halfs]]]:
    """Read the windows of some tracks of a shard, one layer after the other; as `read_rows` otherwise.

    Yields
    ------
    frames : list of m int32 arrays, each shape (windows of the track,)
    values : list of m float16 arrays, each shape (windows of the track, dim)
    """
    with _refused(shard.name), _opened(store / shard.name) as file:
        _check_keys(file, shard, rows, keys)
        bounds, frames = _windows(file, shard.rows, shard.size)
        start, end = int(bounds[rows.min()]), int(bounds[rows.max() + 1])
        spans = [slice(first - start, last - start) for first, last in zip(bounds[rows], bounds[rows + 1], strict=True)]
        for layer in layers:
            matrix = _dataset(file, windows_name(layer.number), "<f2", (len(frames), layer.dim), shard.size)
            values = _read_finite(matrix, start, end)
            yield [frames[start:end][span] for span in spans], [values[span] for span in spans]


def _check_keys(file: Any, shard: ShardInfo, rows: NDArray[np.int64], keys: Keys) -> None:
    """Refuse a shard whose rows are not those of these keys."""
    stored = _read(_dataset(file, "keys", "<i8", (shard.rows,), shard.size), "<i8")
    if not np.array_equal(stored[rows], keys):
        raise StoreFormatError("its rows are not those that the catalogue lists")
