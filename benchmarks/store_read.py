"""Claim: one layer of a library is read from the store faster than from a file per track, or from rows of one big file.

10,000 tracks x 13 layers x 768 values, float16, written by the real writer (commits of 64 tracks); the same vectors as
one .npy file per track, and as one HDF5 file chunked by track: the two ways that people use. All three are read in
turn, warm (from the page cache) and cold (from the disk). Also: what a commit costs, and of what it is made.

Run: python benchmarks/store_read.py [--tracks 10000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import h5py
import numpy as np
from _common import Timing, header, repeat, side_by_side, table

from embedstore.store import EmbeddingStore, disk, records, shard
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track

LAYERS, DIM, LAYER = 13, 768, 6


def track(i: int) -> Track:
    file = AudioFile("/music", f"artist {i // 100}/album {i // 10}/{i:06d} title.mp3", 5_000_000 + i, 10**18 + i)
    return Track(i, (file,), 240.0, 44100, 2)


def write(folder: Path, n: int) -> tuple[EmbeddingStore, Timing]:
    """Write the same vectors three ways; the store's commits are timed."""
    layers = tuple(Layer(i, f"layer {i}", DIM) for i in range(LAYERS))
    card = EncoderCard("bench", "bench", "", "", 16000, layers, 50.0, "", "float32", "", "", LAYER)
    store = EmbeddingStore.create(folder / "store", card, {"benchmark": True})
    (folder / "npy").mkdir()
    rng, commits = np.random.default_rng(0), []
    with store.writer() as writer, h5py.File(folder / "rows.h5", "w") as file:
        rows = file.create_dataset("embeddings", (n, LAYERS, DIM), "<f2", chunks=(1, LAYERS, DIM))
        for start in range(0, n, 64):
            block = rng.standard_normal((min(64, n - start), LAYERS, DIM), np.float32).astype("<f2")
            rows[start : start + len(block)] = block
            for i, vectors in enumerate(block, start):
                np.save(folder / "npy" / f"{i:06d}.npy", vectors)
            for i, vectors in enumerate(block[:-1], start):
                writer.add(track(i), f"{i:032x}", LayerEmbeddings(tuple(vectors.astype("f4")), 1499))
            i = start + len(block) - 1
            last = LayerEmbeddings(tuple(block[-1].astype("f4")), 1499)
            commits += repeat(
                lambda i=i, last=last: (writer.add(track(i), f"{i:032x}", last), writer.commit()), times=1, warm=0
            ).seconds
    return store, Timing(tuple(commits))


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


def read(store: EmbeddingStore, folder: Path, n: int, repeats: int) -> None:
    """Read one layer three ways, and compare what came."""
    out: dict[str, np.ndarray] = {}

    def from_store() -> None:
        out["store"] = store.layer(LAYER).values

    def from_npy() -> None:
        names = [folder / "npy" / f"{i:06d}.npy" for i in range(n)]
        out["npy"] = np.stack([np.load(name)[LAYER] for name in names]).astype(np.float32)

    def from_rows() -> None:
        with h5py.File(folder / "rows.h5", "r") as file:
            out["rows"] = file["embeddings"][:, LAYER].astype(np.float32)

    runs = {
        f"embedstore, {len(store.shards())} shards": from_store,
        ".npy per track": from_npy,
        "one HDF5 file, a chunk per track": from_rows,
    }
    states: dict[str, Callable[[], None] | None] = {"warm": None}
    if hasattr(os, "posix_fadvise"):  # not on every system
        states["cold"] = lambda: drop_from_cache(folder)
    for state, before in states.items():
        timings = side_by_side(runs, times=repeats, warm=state == "warm", before=before)
        ours = timings[next(iter(timings))].median
        agree = ["equal" if np.array_equal(values, out["store"]) else "DIFFERENT" for values in out.values()]
        rows = [
            (name, timing, f"{timing.median / ours:.1f} x", same)
            for (name, timing), same in zip(timings.items(), agree, strict=True)
        ]
        columns = [f"one layer of {n:,} tracks, {state}", "median (range)", "against the store", "values"]
        print(f"{table(columns, rows)}\n")


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
    print(f"{header('h5py', 'numpy')}, HDF5 {h5py.version.hdf5_version}; median of {options.repeats}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, commits = write(folder, options.tracks)
        os.sync()  # what is not on the disk yet cannot be dropped from the cache
        read(store, folder, options.tracks, options.repeats)
        opened = repeat(lambda: EmbeddingStore.open(store.path).close(), times=options.repeats)
        (store.path / "catalog.sqlite").unlink()
        rebuilt = repeat(lambda: EmbeddingStore.open(store.path).close(), times=1, warm=0)
        store = EmbeddingStore.open(store.path)
        some = store.keys()[np.random.default_rng(0).integers(0, len(store), 100)]
        rows = [
            ("commit of 64 tracks", commits),
            *of_what_a_commit_is_made(store, folder),
            ("open", opened),
            ("open, catalogue lost: read and check every shard", rebuilt),
            ("states of all files", repeat(store.files, times=options.repeats)),
            ("100 random rows of a layer", repeat(lambda: store.vectors(some, LAYER), times=options.repeats)),
            ("verify, every value", repeat(store.verify, times=1, warm=0)),
        ]
        columns = [f"a store of {len(store):,} tracks, {store.nbytes() / 1e6:.0f} MB", "median (range)"]
        print(table(columns, rows))


if __name__ == "__main__":
    main()
