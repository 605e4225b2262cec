"""Claim: `build` spends its time in the encoder, and two cores encode nearly twice as many tracks a second as one.

Builds a store from generated songs of 30 s (flac, mp3 and ogg, stereo, 44.1 kHz) with one lane and with a lane per core,
in turn within each round, with a slow encoder (music2vec's architecture, random weights) and a quick one (mfcc). Loading
the encoder is not counted, starting the decoders is. The share outside the encoder is measured by the build itself:
lanes' time that was not spent in `encode`. The gain is the median over rounds.

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
from _common import VERDICTS, header, table, verdict

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    lanes = sorted({1, min(2, cores()), cores()})
    rows, verdicts = [], []
    with tempfile.TemporaryDirectory() as scratch:
        few, many = songs(Path(scratch, "few"), 6 * cores(), 30), songs(Path(scratch, "many"), 30 * cores(), 30)
        for encoder, folder in (("random:music2vec", few), ("mfcc", many)):
            speeds: dict[int, list[float]] = {jobs: [] for jobs in lanes}  # tracks per second
            shares: dict[int, list[float]] = {jobs: [] for jobs in lanes}
            vectors = {}
            for turn in range(repeats):
                for jobs in lanes:
                    target = Path(scratch, f"{encoder}-{jobs}-{turn}")
                    report = build(folder, target, encoder=encoder, jobs=jobs, labels="none")
                    speeds[jobs].append(report.added / (report.seconds_wall - report.stages.loading))
                    shares[jobs].append(report.stages.share_outside_encoder)
                    layer = EmbeddingStore.open(target).layer(0)
                    vectors[jobs] = layer.values[np.argsort(layer.keys)]
            for jobs in lanes:
                gain = statistics.median(b / a for a, b in zip(speeds[1], speeds[jobs], strict=True))
                share = 100 * statistics.median(shares[jobs])
                speed = statistics.median(speeds[jobs])
                shown = f"{speed:.3g} ({min(speeds[jobs]):.3g}..{max(speeds[jobs]):.3g})"
                same = "yes" if np.array_equal(vectors[1], vectors[jobs]) else "NO"
                rows.append((encoder, jobs, shown, f"{30 * speed:.1f}", f"{gain:.2f}", f"{share:.1f} %", same))
                if encoder != "mfcc":
                    verdicts.append(verdict(f"% of the time outside the encoder, lanes: {jobs}", share, at_most=2))
                if encoder != "mfcc" and jobs == 2:
                    verdicts.append(verdict("tracks per second, two cores / one", gain, at_least=1.8))
    print(header("embedstore-mir", "torch", "transformers", "soundfile", "soxr") + f"; {repeats} rounds\n")
    columns = ("encoder", "lanes", "tracks/s, median (range)", "x real time", "gain", "outside the encoder")
    print(table((*columns, "same vectors as one lane"), rows) + "\n")
    print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
