"""Claim: on a GPU the encoder takes windows in batches and half precision, and decoding keeps it fed.

Everything about a GPU by one command: how fast the encoder alone hears windows of 5 s, by precision and batch; how far
each layer is from float32 on the CPU, as the largest difference and as 1 - the lowest cosine, over windows of four
kinds of sound and three lengths; and how many tracks a second `build` stores, against the same build with an encoder that
does nothing (the decode bound). Weights are random unless `--encoder music2vec` asks for the published ones.

Run: python benchmarks/gpu.py [--encoder music2vec] [--device cuda:all] [--tracks 240] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from _common import header, side_by_side, table
from build_share import songs

from embedstore import build
from embedstore.encoders import Encoder
from embedstore.encoders.base import make_windowing
from embedstore.encoders.runner import PRECISIONS
from embedstore.options import EncoderOptions
from embedstore.types import EncoderCard, Layer, LayerEmbeddings

RATE, WINDOW, SONG = 16_000, 5, 30
BATCHES = (1, 8, 32, 128)


class Deaf:
    """Does nothing, in no time: what a build with it takes is everything but the encoder."""

    batch, device = BATCHES[-1], "none"  # as on a GPU: one lane, many decoders

    def __init__(self, model=None, layers=None, window=None, device="auto", seed=None) -> None:  # noqa: ARG002 - the contract
        self.card = EncoderCard(
            name="deaf", model="none", revision="", weights_sha256="", sample_rate=RATE, layers=(Layer(0, "nothing", 1),),
            frame_rate=50.0, preprocessing="none", precision="float32", licence="", paper="", default_layer=0,
        )  # fmt: skip
        self.windowing = make_windowing(None, sample_rate=RATE, default=WINDOW * RATE, minimum=400, tail=RATE)

    def encode(self, windows):
        return [LayerEmbeddings((np.ones(1, np.float32),), 1) for _ in windows]


def sounds() -> list[np.ndarray]:
    """Make windows for the agreement: noise, a chord, a sweep, clicks, of 5, 3 and 1.3 s."""
    rng, found = np.random.default_rng(0), []
    for seconds in (5, 3, 1.3):
        time = np.arange(round(seconds * RATE)) / RATE
        chord = sum(np.sin(2 * np.pi * f * time) for f in (220, 277, 330)) * np.exp(-time)
        sweep, clicks = np.sin(2 * np.pi * (100 + 600 * time) * time), (np.arange(len(time)) % 4000 == 0) * 0.9
        noise = rng.normal(0, 1, len(time))
        found += [0.2 * kind + 0.001 * noise for kind in (noise, chord, sweep, clicks)]
    return [sound.astype(np.float32) for sound in found]


def hear(encoder: Encoder, windows: list[np.ndarray]) -> list[np.ndarray]:
    """Give one array (windows, dim) per layer."""
    heard = encoder.encode(windows)
    return [np.stack(layer).astype(np.float64) for layer in zip(*(one.vectors for one in heard), strict=True)]


def compare(a: np.ndarray, b: np.ndarray) -> str:
    """Largest difference, and 1 - the lowest cosine."""
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return f"{np.abs(a - b).max():.1e}, {1 - cosine.min():.1e}"


def alone(encoders: dict[str, Encoder], repeats: int) -> str:
    """Time the encoders by batch."""
    windows = list(np.random.default_rng(0).normal(0, 0.1, (BATCHES[-1], WINDOW * RATE)).astype(np.float32))
    runs, counts = {}, {}
    for precision, encoder in encoders.items():
        for batch in BATCHES:
            counts[precision, batch] = count = min(len(windows), 8 * batch)  # a few calls at least
            runs[precision, batch] = lambda encoder=encoder, batch=batch, count=count: [
                encoder.encode(windows[start : start + batch]) for start in range(0, count, batch)
            ]
    times = side_by_side(runs, times=repeats, warm=2)
    rows = []
    for key, time in times.items():
        speeds = [counts[key] / seconds for seconds in time.seconds]
        speed = statistics.median(speeds)
        shown = f"{speed:.4g} ({min(speeds):.4g}..{max(speeds):.4g})"
        rows.append((*key, shown, f"{WINDOW * speed:,.0f}"))
    return table(("encoder alone, precision", "windows at once", "windows/s, median (range)", "x real time"), rows)


def agreement(encoders: dict[str, Encoder], oracle: Encoder) -> str:
    windows = sounds()
    truth = hear(oracle, windows)
    heard = {precision: hear(encoder, windows) for precision, encoder in encoders.items()}
    rows = []
    for place, layer in enumerate(oracle.card.layers):
        rows.append((layer.number, *(compare(found[place], truth[place]) for found in heard.values())))
    return table(("layer: largest difference, 1 - lowest cosine", *heard), rows)


def pipeline(options: dict[str, EncoderOptions], tracks: int, repeats: int) -> str:
    """Build stores in turn; the decode bound is one of them."""
    options = {"nothing (decode bound)": EncoderOptions(name="gpu:Deaf", device="cpu"), **options}
    speeds: dict[str, list[float]] = {name: [] for name in options}
    outside: dict[str, list[float]] = {name: [] for name in options}
    with tempfile.TemporaryDirectory() as scratch:
        audio = songs(Path(scratch, "songs"), tracks, SONG)
        for turn in range(repeats):
            for number, (name, option) in enumerate(options.items()):
                report = build(audio, Path(scratch, f"{number}-{turn}"), encoder=option, labels="none")
                if report.added != tracks:
                    sys.exit(f"{name}: {report.added} of {tracks} tracks were stored: {report.notes}")
                speeds[name].append(tracks / (report.seconds_wall - report.stages.loading))
                outside[name].append(report.stages.share_outside_encoder)
    bound = next(iter(speeds.values()))
    rows = []
    for name, found in speeds.items():
        speed, share = statistics.median(found), statistics.median(a / b for a, b in zip(found, bound, strict=True))
        shown = f"{speed:.4g} ({min(found):.4g}..{max(found):.4g})"
        lost = f"{100 * statistics.median(outside[name]):.0f} %"
        rows.append((name, shown, f"{SONG * speed:,.0f}", f"{100 * share:.0f} %", lost))
    columns = ("build, encoder", f"tracks of {SONG} s per second, median (range)", "x real time")
    return table((*columns, "share of the decode bound", "outside the encoder"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="random:music2vec")
    parser.add_argument("--model")
    parser.add_argument("--device", default="cuda", help="of the build; the encoder alone is measured on the first")
    parser.add_argument("--tracks", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("not measured: no CUDA device here")
        return
    first = "cuda:0" if args.device == "cuda:all" else args.device.partition(",")[0]
    asked = PRECISIONS if first != "cpu" else ("float32",)  # so that this script can be tried without a GPU
    given = {"name": args.encoder, "model": args.model}
    encoders = {p: EncoderOptions(**given, device=first, precision=p).load() for p in asked}
    kinds = {torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())} or {"no GPU"}
    gpus = f"{torch.cuda.device_count()} x {', '.join(sorted(kinds))}, CUDA {torch.version.cuda}"
    top = header("embedstore-mir", "torch", "transformers", "soundfile", "soxr")
    print(f"{top}; {gpus}; build on {args.device}; {args.repeats} rounds\n")
    print(alone(encoders, args.repeats))
    if first.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(first) / 1e9
        print(f"\npeak of GPU memory, {len(encoders)} encoders loaded: {peak:.1f} GB")
    print("\n" + agreement(encoders, EncoderOptions(**given, device="cpu").load()))
    path = next(iter(encoders.values())).card.path
    encoders.clear()
    torch.cuda.empty_cache()
    builds = {f"{p}, {path}": EncoderOptions(**given, device=args.device, precision=p) for p in asked}
    print("\n" + pipeline(builds, args.tracks, args.repeats))


if __name__ == "__main__":
    main()
