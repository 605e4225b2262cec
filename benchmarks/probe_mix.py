"""Claim: the learned softmax mix of layers reaches a lower loss than 300 steps of Adam, in a twentieth of the time.

One training part of a probe: 13 layers x 1,120 tracks x 768, 10 classes, C = 0.01, one thread. Ours is L-BFGS over mixing
weights and classifier at once, all layers read twice a step. Adam (learning rate 0.01, full batch, float32) minimises the
same objective, once as SUPERB's code mixes (weights times all layers, then a sum) and once with a single matrix product
in its place. The layers change slowly one into the next; one in the middle tells the classes best.

Run: python benchmarks/probe_mix.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from _common import VERDICTS, header, side_by_side, table, verdict
from threadpoolctl import threadpool_limits

from probes.mix import LayerMix
from probes.scaling import standardise

C, BEST = 0.01, 7
Mix = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def layers(n: int = 1120, dim: int = 768, n_layers: int = 13, n_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Make correlated features that turn slowly into others."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    spread = np.logspace(0, -2, dim)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    classes = (rng.normal(size=(n_classes, dim)) * spread**0.7)[y]
    state, found = rng.normal(size=(n, dim)) * spread, []
    for number in range(n_layers):
        state = 0.9 * state + 0.44 * rng.normal(size=(n, dim)) * spread
        found.append((state + 0.25 * np.exp(-(((number - BEST) / 3) ** 2)) * classes) @ axes)
    rows = np.arange(n)
    return standardise(np.stack(found), rows, rows)[0], y


def adam(x: torch.Tensor, y: torch.Tensor, mix: Mix, steps: int = 300) -> tuple[float, np.ndarray]:
    free = torch.zeros(len(x), requires_grad=True)
    head = torch.nn.Linear(x.shape[2], int(y.max()) + 1)
    optimizer = torch.optim.Adam([free, *head.parameters()], lr=0.01)

    def objective() -> torch.Tensor:
        logits = head(mix(free.softmax(0), x))
        return torch.nn.functional.cross_entropy(logits, y) + head.weight.square().sum() / (2 * C * len(y))

    for _ in range(steps):
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()
    return objective().item(), free.softmax(0).detach().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    x, y = layers()
    tensors = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)
    results: dict[str, tuple[float, np.ndarray]] = {}

    def ours() -> None:
        mix = LayerMix(C=C).fit(x, y)
        results["ours"] = mix.loss_, mix.weights_

    def keep(name: str, mix: Mix) -> Callable[[], None]:
        def run() -> None:
            torch.manual_seed(0)
            results[name] = adam(*tensors, mix)

        return run

    runs = {
        "Adam, mixed as in SUPERB": keep("Adam, mixed as in SUPERB", lambda w, a: (w[:, None, None] * a).sum(0)),
        "Adam, mixed by one product": keep("Adam, mixed by one product", lambda w, a: torch.tensordot(w, a, 1)),
        "ours": ours,
    }
    torch.set_num_threads(1)
    with threadpool_limits(1):
        times = side_by_side(runs, times=options.repeats)
    lines = []
    for name in runs:
        loss, weights = results[name]
        top = f"{weights.max():.2f} on layer {weights.argmax()}"
        lines.append((name, str(times[name]), f"{times[name].over(times['ours']):.1f} x", f"{loss:.4f}", top))
    print(f"{header('numpy', 'scipy', 'torch')}; 1 thread\n")
    print(table(["solver", "time", "time / ours", "objective", "largest weight"], lines) + "\n")
    plain = "Adam, mixed as in SUPERB"
    lower = min(results[name][0] for name in runs if name != "ours") - results["ours"][0]
    rows = [
        verdict("times faster than Adam as in SUPERB", times[plain].over(times["ours"]), at_least=20),
        verdict("objective below Adam's by", lower, at_least=0),
    ]
    print(table(VERDICTS, rows))


if __name__ == "__main__":
    main()
