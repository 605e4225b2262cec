"""Claim: looking again at a library that has not changed costs next to nothing: 50,000 files a second, 10,000 in under 5 s.

Files of 44 bytes, ten to an album, ten albums to an artist; the store is filled for them by the real writer, with vectors
that mean nothing, so no sound is decoded here. Warm: the file system has been asked before. `scandir and stat` is the
floor: what it takes to ask the operating system for each name, size and time.

Run: python benchmarks/resume_scan.py [--files 10000 100000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, Timing, header, repeat, side_by_side, table, verdict

from embedstore import build, find_audio
from embedstore.changes import change_of
from embedstore.folders import coverage
from embedstore.store import EmbeddingStore
from embedstore.types import EncoderCard, Layer, LayerEmbeddings, Track


def lay(folder: Path, n: int) -> tuple[Path, EmbeddingStore]:
    """Make a library and a store that holds it."""
    root = folder / "music"
    for i in range(n):
        path = root / f"artist {i // 100}" / f"album {i // 10}" / f"{i:06d} title.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"RIFF" + bytes(40))
    card = EncoderCard("bench", "bench", "", "", 16000, (Layer(0, "layer 0", 8),), 50.0, "", "float32", "", "", 0)
    store = EmbeddingStore.create(folder / "store", card, {"benchmark": True})
    vector = LayerEmbeddings((np.ones(8, np.float32),), 1499)
    with store.writer() as writer:
        for i, file in enumerate(find_audio(root).files):
            writer.add(Track(i, (file,), 30.0, 44100, 2), f"{i:032x}", vector)
    build(root, store.path)  # writes the labels of all
    return root, store


def floor(root: Path) -> int:
    """Ask for the size and time of every file, and do nothing with it."""
    folders, total = [str(root)], 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    total += entry.stat().st_size
    return total


def classify(root: Path, store: EmbeddingStore) -> int:
    """Find the files, and compare each with what is stored."""
    states, failures = store.files(), {failure.file.full_path: failure for failure in store.failures()}
    return sum(change_of(file, states, failures) == "stored" for file in find_audio(root).files)


def measure(folder: Path, n: int, repeats: int) -> dict[str, Timing]:
    root, store = lay(folder, n)
    assert classify(root, store) == n
    command = [sys.executable, "-m", "cli", "build", str(root), "--store", str(store.path)]
    timings = side_by_side(
        {
            "scandir and stat: the floor": lambda: floor(root),
            "find_audio": lambda: find_audio(root),
            "find_audio, and compare with the store": lambda: classify(root, store),
            "coverage, for `embedstore info`": lambda: coverage(store),
            "build again, in Python": lambda: build(root, store.path),
        },
        times=repeats,
    )
    again = repeat(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), times=repeats)
    timings["`embedstore build` again, the whole command"] = again
    rows = [(name, timing, f"{n / timing.median:,.0f}") for name, timing in timings.items()]
    print(f"{table([f'{n:,} unchanged files', 'median (range)', 'files a second'], rows)}\n")
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{header('numpy')}; median of {options.repeats}, warm\n")
    verdicts = []
    for n in options.files:
        with tempfile.TemporaryDirectory() as folder:
            timings = list(measure(Path(folder), n, options.repeats).values())
        rate = n / timings[2].median
        verdicts.append(verdict(f"find and compare {n:,} files, files a second", rate, at_least=50_000))
        if n == 10_000:
            verdicts.append(verdict("the whole command over 10,000, seconds", timings[-1].median, at_most=5))
    print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
