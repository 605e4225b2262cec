"""Claim: `build` spends its time in the encoder; finding, decoding, cutting, pooling and storing cost little beside it.

Builds a store from generated songs (flac, mp3 and ogg, stereo, 44.1 kHz) with one lane and with a lane per core, with a
slow encoder (music2vec's architecture, random weights) and a quick one (mfcc). The share outside the encoder is measured
by the build itself: lanes' time that was not spent in `encode`.

Run: python benchmarks/build_share.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import soundfile
from _common import header, table

from embedstore import EmbeddingStore, build
from embedstore.lanes import cores

RATE = 44_100


def songs(folder: Path, count: int, seconds: int) -> Path:
    """Write noisy chords: sound whose cost to decode is like music's."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    time = np.arange(seconds * RATE) / RATE
    for number in range(count):
        chord = sum(np.sin(2 * np.pi * f * time) for f in rng.uniform(100, 2000, 4)) * 0.1
        stereo = (chord[:, None] + rng.normal(0, 0.02, (len(time), 2))).astype(np.float32)
        soundfile.write(folder / f"{number}.{('flac', 'mp3', 'ogg')[number % 3]}", stereo, RATE)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        few, many = songs(Path(scratch, "few"), 6, 15), songs(Path(scratch, "many"), 60, 30)
        for encoder, folder in (("random:music2vec", few), ("mfcc", many)):
            alone = None
            for jobs in sorted({1, cores()}):
                speeds, shares = [], []
                for turn in range(repeats):
                    target = Path(scratch, f"{encoder}-{jobs}-{turn}")
                    report = build(folder, target, encoder=encoder, jobs=jobs, labels="none")
                    speeds.append(report.seconds_audio / (report.seconds_wall - report.seconds_loading))
                    shares.append(report.share_outside_encoder)
                layer = EmbeddingStore.open(target).layer(0)
                vectors = layer.values[np.argsort(layer.keys)]
                alone = vectors if alone is None else alone
                speed = f"{statistics.median(speeds):.1f} ({min(speeds):.1f}..{max(speeds):.1f})"
                share = f"{100 * statistics.median(shares):.1f} %"
                rows.append((encoder, jobs, speed, share, "yes" if np.array_equal(alone, vectors) else "NO"))
    print(header("embedstore-mir", "torch", "transformers", "soundfile", "soxr") + f"; {repeats} repeats\n")
    print(
        table(
            ("encoder", "lanes", "x real time, median (range)", "outside the encoder", "same vectors as one lane"), rows
        )
    )


if __name__ == "__main__":
    main()
