"""Claim: hearing 30 s of sound costs a fraction of the model card's way of doing it, and gives the same numbers.

The full-size music2vec architecture with seeded random weights (the published weights cannot be shipped), float32, one
thread, all ways in turn within each round; seconds are the processor's, all threads together. The model card's loop: eager attention, all 13 hidden states kept,
averaged over time, under no_grad. Ways are compared at the same windows: the whole sound at once, and windows of 5 s one
after the other. "Plain" is embedstore's network with PyTorch's own matrix products: the rest of the gain is oneDNN's. ONNX
Runtime and OpenVINO run an export of the transformers network, specialised to each length. The floor is the network's
matrix products and nothing else: each in a tight loop over data in the cache, by the fastest routine that we know for its
shape, those without a weight of their own at the rate of the best.

Ratios are medians over rounds. Agreement is the largest difference in the means of all 13 layers from the model card's.

Run: python benchmarks/encoder_speed.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from _common import VERDICTS, header, repeat, side_by_side, table, verdict

from embedstore.encoders import checkpoint, load_encoder
from embedstore.encoders.music2vec import Music2vec
from embedstore.encoders.products import Plain, products_for

RATE, SECONDS, WINDOW = 16_000, 30, 5
WHOLE, CUT = f"whole {SECONDS} s", f"{SECONDS // WINDOW} x {WINDOW} s"
CARD, SDPA, PLAIN, OURS = "model card's loop", "transformers, sdpa, inference_mode", "embedstore, Plain", "embedstore"
FLOOR, HALF = "matrix products alone (floor)", "embedstore, layers 0-6"
ROWS = (128, 249, 512)  # at once, in the floor: what fits caches

Pieces = list[np.ndarray]
Way = Callable[[Pieces], list[np.ndarray]]  # a (13, dim) for each piece


# the ways --------------------------------------------------------------------------------------------------------------


class Means(torch.nn.Module):
    """The model card's example: all hidden states, averaged over time."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return torch.stack([states.mean(1) for states in self.network(sound, output_hidden_states=True).hidden_states])


def one_by_one(hear: Callable[[np.ndarray], np.ndarray]) -> Way:
    """Scale each piece as Wav2Vec2FeatureExtractor does, and hear it."""
    return lambda pieces: [hear(((p - p.mean()) / np.sqrt(p.var() + 1e-7))[None]) for p in pieces]


def transformers_way(network: torch.nn.Module, attention: str, mode: Callable) -> Way:
    means = Means(network)

    def hear(sound: np.ndarray) -> np.ndarray:
        network.set_attn_implementation(attention)
        with mode():
            return means(torch.from_numpy(sound))[:, 0].numpy()

    return one_by_one(hear)


def embedstore_way(encode: Callable) -> Way:
    return lambda pieces: [np.stack(heard.vectors) for heard in encode(pieces)]


def export(network: torch.nn.Module, path: Path) -> None:
    """Write the network as ONNX, for sound of any length."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # what else could be installed
    network.set_attn_implementation("sdpa")
    samples = {"sound": {1: torch.export.Dim("samples", min=WINDOW * RATE // 10, max=60 * SECONDS * RATE)}}
    names = {"input_names": ["sound"], "output_names": ["means"]}
    means, sound = Means(network).eval(), torch.zeros(1, WINDOW * RATE)
    torch.onnx.export(means, (sound,), path, dynamo=True, dynamic_shapes=samples, verbose=False, **names)


def onnx_runtime(path: Path, samples: int) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_free_dimension_override_by_name("samples", samples)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return one_by_one(lambda sound: session.run(None, {"sound": sound})[0][:, 0])


def openvino(path: Path, samples: int) -> Way:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, samples])
    alone = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", alone)
    return one_by_one(lambda sound: compiled(sound)[0][:, 0])


def runtimes(network: torch.nn.Module, clips: dict[str, Pieces], scratch: Path) -> dict[tuple[str, str], Way | None]:
    """Give the ways that need the extra `bench`; None where it is not installed."""
    ways: dict[tuple[str, str], Way | None] = {}
    path = scratch / "network.onnx"
    for name, make in (("ONNX Runtime", onnx_runtime), ("OpenVINO", openvino)):
        for clip, pieces in clips.items():
            try:
                if not path.exists():
                    export(network, path)
                ways[name, clip] = make(path, len(pieces[0]))
            except ImportError:
                ways[name, clip] = None
    return ways


# the floor -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """Matrix products of shape (rows, inner) by (inner, out), `count` of them."""

    name: str
    rows: int
    inner: int
    out: int
    count: int = 1
    weight: bool = True

    @property
    def flop(self) -> int:
        return 2 * self.rows * self.inner * self.out * self.count


def products_of(config, samples: int) -> Iterator[Product]:
    """List the products of one window of a data2vec-audio network."""
    rows, inner, width, blocks = samples, 1, config.hidden_size, config.num_hidden_layers
    steps = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    for place, (out, kernel, stride) in enumerate(steps):
        rows = (rows - kernel) // stride + 1
        yield Product(f"convolution {place}", rows, inner * kernel, out)
        inner = out
    yield Product("into the blocks", rows, inner, width)
    groups, kernel = config.num_conv_pos_embedding_groups, config.conv_pos_kernel_size
    count = groups * config.num_conv_pos_embeddings
    yield Product("position", rows, width // groups * kernel, width // groups, count, weight=False)
    yield Product("query, key, value", rows, width, 3 * width, blocks)
    heads = config.num_attention_heads
    yield Product("scores", rows, width // heads, rows, heads * blocks, weight=False)
    yield Product("scores x values", rows, rows, width // heads, heads * blocks, weight=False)
    yield Product("out of attention", rows, width, width, blocks)
    yield Product("feed-forward, up", rows, width, config.intermediate_size, blocks)
    yield Product("feed-forward, down", rows, config.intermediate_size, width, blocks)


@dataclass(frozen=True)
class Routine:
    """The fastest way that we know to multiply rows by a weight of one shape."""

    name: str
    run: Callable
    flop: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.flop / self.seconds


def fastest(inner: int, out: int) -> Routine:
    """Try each of embedstore's kinds of products, for several numbers of rows."""
    found = []
    for kind in {kind.name: kind for kind in (Plain(), products_for("cpu"))}.values():
        packed = kind.pack(torch.randn(out, inner), None)
        for rows in ROWS:
            x = torch.randn(rows, inner)
            run = lambda kind=kind, x=x, packed=packed: kind.linear(x, packed)  # noqa: E731
            seconds = min(repeat(run, times=9, warm=3).seconds)
            found.append(Routine(f"{kind.name}, {rows} rows", run, 2 * rows * inner * out, seconds))
    return max(found, key=lambda routine: routine.rate)


def floor_way(products: list[Product], routines: dict[tuple[int, int], Routine]) -> Callable[[], None]:
    """Run products as often as a network does; those without a weight as equal work of the fastest routine."""
    best = max(routines.values(), key=lambda routine: routine.rate)
    turns = []
    for product in products:
        routine = routines[product.inner, product.out] if product.weight else best
        turns.append((routine.run, round(product.flop / routine.flop)))

    def run() -> None:
        with torch.inference_mode():
            for multiply, count in turns:
                for _ in range(count):
                    multiply()

    return run


# the page --------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    top = header("embedstore-mir", "torch", "transformers", "numpy", "onnxruntime", "openvino")
    torch.set_num_threads(1)
    encoder = load_encoder("random:music2vec", seed=0, device="cpu")
    half = load_encoder("random:music2vec", seed=0, device="cpu", layers="0-6")
    config = checkpoint.build_config(Music2vec.published.config, Music2vec.papers, "music2vec")
    network = checkpoint.random_network(config, 0).eval().requires_grad_(requires_grad=False)
    with patch("embedstore.encoders.huggingface.products_for", lambda _device: Plain()):
        plain = load_encoder("random:music2vec", seed=0, device="cpu")

    sound = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE).astype(np.float32)
    clips = {WHOLE: [sound], CUT: np.split(sound, SECONDS // WINDOW)}
    ways: dict[tuple[str, str], Way | None] = {}
    for clip in clips:
        ways[CARD, clip] = transformers_way(network, "eager", torch.no_grad)
        ways[SDPA, clip] = transformers_way(network, "sdpa", torch.inference_mode)
        assert plain.card.path != encoder.card.path or isinstance(products_for("cpu"), Plain), plain.card.path
        ways[PLAIN, clip] = embedstore_way(plain.encode)
        ways[OURS, clip] = embedstore_way(encoder.encode)
    with tempfile.TemporaryDirectory() as scratch:
        ways |= runtimes(network, clips, Path(scratch))
        heard = {key: way(clips[key[1]]) for key, way in ways.items() if way}
    lists = {clip: list(products_of(config, len(pieces[0]))) for clip, pieces in clips.items()}
    with torch.inference_mode():
        routines = {(p.inner, p.out): fastest(p.inner, p.out) for p in lists[CUT] if p.weight}

    runs = {key: lambda way=way, clip=key[1]: way(clips[clip]) for key, way in ways.items() if way}
    runs[HALF, CUT] = lambda: half.encode(clips[CUT])
    for clip, pieces in clips.items():
        runs[FLOOR, clip] = floor_way(lists[clip] * len(pieces), routines)
    times = side_by_side(runs, times=repeats, clock=time.process_time)

    rows = []
    for clip in clips:
        for way in dict.fromkeys(name for name, _ in [*ways, *runs]):
            key, shown = (way, clip), OURS + f", {encoder.card.path}" if way == OURS else way
            if key in times:
                gain = f"{times[CARD, clip].over(times[key]):.2f}"
                worst = [np.abs(a - b).max() for a, b in zip(heard.get(key, []), heard[CARD, clip], strict=False)]
                agreement = f"{max(worst):.1e}" if worst and way != CARD else ""
                rows.append((shown, clip, times[key], f"{SECONDS / times[key].median:.1f}", gain, agreement))
            elif key in ways:
                rows.append((shown, clip, "not installed: pip install embedstore-mir[bench]", "", "", ""))
    print(f"{top}; one thread, {repeats} rounds\n")
    print(table(("way", "sound", "median (range)", "x real time", "gain", "max abs difference, 13 layers"), rows))

    totals = {clip: sum(p.flop for p in lists[clip]) * len(pieces) / 1e9 for clip, pieces in clips.items()}
    rates = {clip: totals[clip] / times[FLOOR, clip].median for clip in clips}
    rows = []
    for product, whole in zip(lists[CUT], lists[WHOLE], strict=True):
        routine = routines.get((product.inner, product.out)) if product.weight else None
        speed = (f"{routine.rate / 1e9:.0f}", routine.name) if routine else ("", "at the best rate")
        gflop = f"{product.flop * len(clips[CUT]) / 1e9:.1f}", f"{whole.flop / 1e9:.1f}"
        rows.append((product.name, f"{product.inner} x {product.out}", *gflop, *speed))
    rates = f"{rates[CUT]:.0f}, {rates[WHOLE]:.0f}"
    rows.append(("all", "", f"{totals[CUT]:.1f}", f"{totals[WHOLE]:.1f}", rates, "floor"))
    columns = ("product", "weight", f"GFLOP, {CUT}", f"GFLOP, {WHOLE}", "GFLOP/s", "fastest routine")
    print("\n" + table(columns, rows) + "\n")

    def gain(way: str, clip: str, ours: str = "") -> float:
        return times[way, clip].over(times[OURS, ours or clip])

    bounds = {"at_least": 2.4}, {"at_least": 1.2}, {"at_most": 1.15}
    verdicts = [verdict(f"gain on the {CARD} as it is ({WHOLE}), ours {CUT}", gain(CARD, WHOLE, CUT), **bounds[0])]
    verdicts += [verdict(f"gain on the {CARD}, both {clip}", gain(CARD, clip), **bounds[0]) for clip in clips]
    verdicts += [verdict(f"gain on {SDPA}, both {clip}", gain(SDPA, clip), **bounds[1]) for clip in clips]
    verdicts += [verdict(f"time / floor, {clip}", 1 / gain(FLOOR, clip), **bounds[2]) for clip in clips]
    verdicts += [verdict(f"layers 0-6 / all layers, {CUT}", times[HALF, CUT].over(times[OURS, CUT]), at_most=0.72)]
    print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
