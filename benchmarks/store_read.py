"""Claim: a layer of a library is read faster than from what people use; once compacted, as fast as from zarr or Lance.

10,000 tracks x 13 layers x 768 values in float16, written seven ways and read in turn, warm (from the page cache) and
cold (from the disk):

- the store by its real writer, a commit of 64 tracks at a time; and a copy of it after `compact`;
- a .npy file per track, loaded whole; one HDF5 file with a chunk per track: the two ways that people use;
- one HDF5 file with layers apart, chunks of 256 rows: what the store's shards are made of, without the shards;
- zarr 3, layers apart, chunks of 256 rows in shards of 4,096, which must be written 4,096 tracks at a time;
- Lance, a column per layer, written in one go: each commit of its own would be a file of its own.

Only the store is safe on the disk after every 64 tracks, and only the store checks sums when it reads. Lance and zarr may
use all cores, the others use one. Also: what a commit costs, and of what it is made.

Run: python benchmarks/store_read.py [--tracks 10000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import h5py
import numpy as np
from _common import VERDICTS, Timing, header, repeat, side_by_side, table, verdict

from embedstore.store import EmbeddingStore, disk, records, shard
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track

LAYERS, DIM, LAYER = 13, 768, 6
CHUNK, SHARD = 256, 4096  # rows


class Way(NamedTuple):
    """How to read what was written one way: a layer, and some rows of it, as float32."""

    layer: Callable[[], np.ndarray]
    rows: Callable[[np.ndarray], np.ndarray]


def track(i: int) -> Track:
    """Describe a track; keys are as far apart as hashes."""
    file = AudioFile("/music", f"artist {i // 100}/album {i // 10}/{i:06d} title.mp3", 5_000_000 + i, 10**18 + i)
    return Track(i * 0x1E3779B97F4A7C15 % 2**63, (file,), 240.0, 44100, 2)


def create(folder: Path, layers: int) -> EmbeddingStore:
    described = tuple(Layer(i, f"layer {i}", DIM) for i in range(layers))
    card = EncoderCard("bench", "bench", "", "", 16000, described, 50.0, "", "float32", "", "", layers // 2)
    return EmbeddingStore.create(folder, card, {"benchmark": True, "layers": layers})


def fill(store: EmbeddingStore, vectors: Callable[[int], np.ndarray], n: int) -> Timing:
    """Add tracks as a build does, and time each add that is also a commit of 64; `vectors` gives float32 (layers, dim)."""
    commits = []
    with store.writer() as writer:
        for i in range(n):
            embeddings = LayerEmbeddings(tuple(vectors(i)), 1499)
            began = time.perf_counter()
            writer.add(track(i), f"{i:032x}", embeddings)
            if i % 64 == 63:
                commits.append(time.perf_counter() - began)
    return Timing(tuple(commits))


def stored(folder: Path) -> Way:
    store = EmbeddingStore.open(folder)
    return Way(lambda: store.layer(LAYER).values, lambda chosen: store.vectors(store.keys()[chosen], LAYER))


def as_written(folder: Path, values: np.ndarray) -> Way:
    fill(create(folder, LAYERS), lambda i: values[i].astype(np.float32), len(values))
    return stored(folder)


def compacted(folder: Path, values: np.ndarray) -> Way:
    as_written(folder, values)
    EmbeddingStore.open(folder).compact()
    return stored(folder)


def npy(folder: Path, values: np.ndarray) -> Way:
    folder.mkdir()
    names = [folder / f"{i:06d}.npy" for i in range(len(values))]
    for name, vectors in zip(names, values, strict=True):
        np.save(name, vectors)

    def rows(chosen: np.ndarray) -> np.ndarray:
        return np.stack([np.load(names[i])[LAYER] for i in chosen]).astype(np.float32)

    return Way(lambda: rows(np.arange(len(names))), rows)


def hdf5_rows(folder: Path, values: np.ndarray) -> Way:
    folder.mkdir()
    file = h5py.File(folder / "rows.h5", "w")
    data = file.create_dataset("embeddings", values.shape, "<f2", chunks=(1, *values.shape[1:]))
    for i in range(0, len(values), 64):
        data[i : i + 64] = values[i : i + 64]
    file.flush()
    return Way(
        lambda: data[:, LAYER].astype(np.float32),
        lambda chosen: np.stack([data[i, LAYER] for i in chosen]).astype(np.float32),
    )


def hdf5_layers(folder: Path, values: np.ndarray) -> Way:
    folder.mkdir()
    file = h5py.File(folder / "layers.h5", "w")
    shape = (values.shape[1], len(values), values.shape[2])
    data = file.create_dataset("embeddings", shape, "<f2", chunks=(1, min(CHUNK, len(values)), shape[2]))
    for i in range(0, len(values), CHUNK):
        data[:, i : i + CHUNK] = values[i : i + CHUNK].swapaxes(0, 1)
    file.flush()
    return Way(
        lambda: data[LAYER].astype(np.float32),
        lambda chosen: np.stack([data[LAYER, i] for i in chosen]).astype(np.float32),
    )


def zarr_shards(folder: Path, values: np.ndarray) -> Way:
    import zarr

    shape = (values.shape[1], len(values), values.shape[2])
    how = {"chunks": (1, CHUNK, shape[2]), "shards": (1, SHARD, shape[2]), "compressors": None}
    data = zarr.create_array(folder, shape=shape, dtype="float16", **how)
    for i in range(0, len(values), SHARD):
        data[:, i : i + SHARD] = values[i : i + SHARD].swapaxes(0, 1)
    return Way(
        lambda: data[LAYER].astype(np.float32),
        lambda chosen: data.oindex[LAYER, chosen].astype(np.float32),
    )


def lance_columns(folder: Path, values: np.ndarray) -> Way:
    import lance
    import pyarrow as pa

    def column(block: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])

    def plain(found: pa.Table) -> np.ndarray:
        parts = [part.flatten().to_numpy(zero_copy_only=False) for part in found[name].chunks]
        return np.concatenate(parts).reshape(-1, values.shape[2]).astype(np.float32)

    names, name = [f"layer_{i:02d}" for i in range(values.shape[1])], f"layer_{LAYER:02d}"
    schema = pa.schema([(one, pa.list_(pa.float16(), values.shape[2])) for one in names])
    blocks = (values[i : i + 64] for i in range(0, len(values), 64))
    batches = (pa.record_batch([column(layer) for layer in block.swapaxes(0, 1)], names) for block in blocks)
    lance.write_dataset(batches, folder, schema=schema)
    data = lance.dataset(folder)
    return Way(
        lambda: plain(data.to_table(columns=[name])),
        lambda chosen: plain(data.take(chosen.tolist(), columns=[name])),
    )


WAYS = {
    "embedstore, as written": as_written,
    "embedstore, compacted": compacted,
    ".npy per track": npy,
    "HDF5, a chunk per track": hdf5_rows,
    "HDF5, layers apart": hdf5_layers,
    "zarr 3, sharded": zarr_shards,
    "Lance": lance_columns,
}


def of_what_a_commit_is_made(store: EmbeddingStore, folder: Path) -> list[tuple[str, Timing]]:
    """Time the two halves of a commit of 64 tracks: making the image, and making it durable."""
    spec = records.Spec("0" * 32, store.fingerprint, tuple((i, f"layer {i}", DIM) for i in range(LAYERS)))
    rows = [records.Row(track(i), (f"{i:032x}",), 1499) for i in range(64)]
    vectors = list(np.random.default_rng(0).standard_normal((64, LAYERS, DIM), np.float32).astype("<f2"))
    data = shard.build_shard(spec, 1, rows, vectors)
    (folder / "shards").mkdir()
    numbers = iter(range(1, 1000))
    return [
        ("of which: HDF5 image in memory", repeat(lambda: shard.build_shard(spec, 1, rows, vectors), times=20)),
        (
            f"of which: SHA-256, write, fsync, rename, fsync ({len(data) / 1e6:.1f} MB)",
            repeat(lambda: disk.write_commit(folder, "shards", next(numbers), data), times=20),
        ),
    ]


def compare(folder: Path, values: np.ndarray, repeats: int) -> list[list[str]]:
    """Write the same vectors every way, read them in turn, and compare what came. Gives rows of `VERDICTS`."""
    ways, written = {}, {}
    for name, write in WAYS.items():
        os.sync()  # what the one before left to be written
        began = time.perf_counter()
        try:
            ways[name] = write(folder / name, values)
        except ModuleNotFoundError as error:
            print(f"{name}: left out, as {error.name} is not installed (pip install 'embedstore-mir[bench]')\n")
        written[name] = time.perf_counter() - began
    os.sync()  # what is not on the disk yet cannot be dropped from the cache
    chosen = np.random.default_rng(0).choice(len(values), 100, replace=False)
    wanted = values[:, LAYER].astype(np.float32)
    agree = {
        name: "equal"
        if np.array_equal(way.layer(), wanted) and np.array_equal(way.rows(chosen), wanted[chosen])
        else "DIFFERENT"
        for name, way in ways.items()
    }
    layers = {name: way.layer for name, way in ways.items()}
    warm = side_by_side(layers, times=repeats)
    some = side_by_side({name: lambda way=way: way.rows(chosen) for name, way in ways.items()}, times=repeats)
    cold = None
    if hasattr(os, "posix_fadvise"):  # not on every system
        cold = side_by_side(layers, times=repeats, warm=0, before=lambda: drop_from_cache(folder))
    ours = warm["embedstore, as written"]
    rows = [
        (
            name,
            f"{written[name]:.2g} s",
            warm[name],
            f"{warm[name].over(ours):.1f} x",
            cold[name] if cold else "not measured",
            some[name],
            f"{sum(file.stat().st_size for file in (folder / name).rglob('*') if file.is_file()) / 1e6:.0f} MB",
            agree[name],
        )
        for name in ways
    ]
    read = ("one layer, warm", "against the store", "one layer, cold", "100 random rows of it")
    print(table((f"{len(values):,} tracks", "write", *read, "on disk", "values"), rows) + "\n")
    return [
        verdict(f"s for one layer of {len(values):,} tracks, warm, {name}", warm[name].median, at_most=0.05)
        for name in list(ways)[:2]
    ]


def drop_from_cache(folder: Path) -> None:
    """Have the system forget the content of all files: the next read comes from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tracks", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    versions = header("h5py", "numpy", "zarr", "pylance")
    print(f"{versions}, HDF5 {h5py.version.hdf5_version}; median (range) of {options.repeats}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (options.tracks, LAYERS, DIM)
        values = np.random.default_rng(0).standard_normal(shape, np.float32).astype("<f2")
        verdicts = compare(folder, values, options.repeats)
        for path in folder.iterdir():
            shutil.rmtree(path)
        store = create(folder / "store", LAYERS)
        commits = fill(store, lambda i: values[i].astype(np.float32), len(values))
        rows = [
            ("commit of 64 tracks", commits),
            *of_what_a_commit_is_made(store, folder),
            ("open", repeat(lambda: EmbeddingStore.open(store.path).close(), times=options.repeats)),
        ]
        print(
            table((f"a store of {len(store):,} tracks, {store.nbytes() / 1e6:.0f} MB", "median (range)"), rows) + "\n"
        )
        print(table(VERDICTS, [*verdicts, verdict("ms for a commit of 64 tracks", commits.median * 1e3, at_most=20)]))


if __name__ == "__main__":
    main()
