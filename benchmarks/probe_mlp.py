"""Claim: MLPs on all layers and settings train twice as fast side by side as in the loop of torch's tutorials.

13 layers x 1,120 tracks x 768 (896 to train, of which a fifth says when to stop), 10 classes, dropout .5 and .2: 26 networks
of one hidden layer of 256, one thread. The loops train one network after the other with the same early stopping: as in
torch's tutorials (DataLoader, nn.Dropout, AdamW as it comes), the same on plain tensors, and a third one with fused AdamW
that draws the same dropout masks as ours and so should predict the same. What is saved: one draw of batches and masks for
all, few calls, fused AdamW, and matrix products by oneDNN (on processors that are not Intel's twice as fast as MKL's).

Run: python benchmarks/probe_mlp.py [--repeats 3] [--epochs 15] [--hidden 256]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from _common import VERDICTS, header, side_by_side, table, verdict
from probe_mix import layers
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, TensorDataset

from probes.base import Problem, predictions, score_settings
from probes.mlp import MLPProbe
from probes.scaling import standardise
from probes.splits import hold_out

GRID = MLPProbe.grid
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


class Drop(torch.nn.Module):
    """Dropout that draws as ours does."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * ((torch.rand(x.shape) < 1 - self.share) / (1 - self.share)) if self.training else x


def loop(p: Problem, probe: MLPProbe, held: torch.Tensor, *, loader: bool = False, same: bool = False) -> np.ndarray:
    """Train one network in the usual way; classes of the rows to predict by its best epoch."""
    torch.manual_seed(probe.random_state)
    x, y = torch.from_numpy(p.x_train).float(), torch.from_numpy(p.y_train)
    drop = (Drop if same else torch.nn.Dropout)(probe.dropout)
    (width,) = probe.hidden
    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], width), torch.nn.ReLU(), drop, torch.nn.Linear(width, int(y.max()) + 1)
    )
    rate, decay = probe.learning_rate, probe.weight_decay
    adam = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, fused=True if same else None)
    x_train, y_train, x_valid, y_valid = x[~held], y[~held], x[held], y[held]
    dealt = DataLoader(TensorDataset(x_train, y_train), probe.batch_size, shuffle=True) if loader else None

    def batches() -> Batches:
        yield from dealt or ((x_train[r], y_train[r]) for r in torch.randperm(len(x_train)).split(probe.batch_size))

    best, at, state = (np.inf, np.inf), 0, network.state_dict()
    for epoch in range(1, probe.max_epochs + 1):
        network.train()
        for rows, classes in batches():
            adam.zero_grad()
            torch.nn.functional.cross_entropy(network(rows), classes).backward()
            adam.step()
        network.eval()
        with torch.no_grad():
            logits = network(x_valid)
            errors = (logits.argmax(1) != y_valid).float().mean().item()
            score = (errors, torch.nn.functional.cross_entropy(logits, y_valid).item())
        if score < best:
            best, at, state = score, epoch, {name: value.clone() for name, value in network.state_dict().items()}
        elif epoch - at >= (probe.patience or epoch):
            break
    network.load_state_dict(state)
    with torch.no_grad():
        return network(torch.from_numpy(p.x_eval).float()).argmax(1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--hidden", type=int, default=256)
    options = parser.parse_args()
    x, y = layers()
    order = np.random.default_rng(1).permutation(len(y))
    train, test = order[: len(y) * 4 // 5], order[len(y) * 4 // 5 :]
    problems = [
        Problem(*(part[0] for part in (a, y[train][None], b)), np.arange(len(train)))
        for a, b in (standardise(layer[None], train, test) for layer in x)
    ]
    probe = MLPProbe(hidden=(options.hidden,), max_epochs=options.epochs, patience=5, refit=False)
    held = torch.from_numpy(hold_out(y[train], problems[0].groups, 0))
    results: dict[str, np.ndarray] = {}

    def looped(name: str, **how: bool) -> Callable[[], None]:
        def run() -> None:
            found = [[loop(p, MLPProbe(**probe.get_params() | s), held, **how) for s in GRID] for p in problems]
            results[name] = np.array(found)

        return run

    def ours() -> None:
        results["ours"] = predictions(np.stack(score_settings(probe, problems, GRID)))

    runs: dict[str, Callable[[], None]] = {
        "loop, DataLoader": looped("loop, DataLoader", loader=True),
        "loop, tensors": looped("loop, tensors"),
        "loop, fused AdamW, same masks": looped("loop, fused AdamW, same masks", same=True),
        "ours": ours,
    }
    torch.set_num_threads(1)
    with threadpool_limits(1):
        times = side_by_side(runs, times=options.repeats)
    truth = y[test]
    lines = []
    for name in runs:
        same = f"{100 * (results[name] == results['ours']).mean():.2f} %"
        accuracy = f"{(results[name] == truth).mean():.3f}"
        lines.append((name, str(times[name]), f"{times[name].over(times['ours']):.2f} x", same, accuracy))
    print(
        f"{header('numpy', 'scikit-learn', 'torch')}; 1 thread; at most {options.epochs} epochs, hidden {options.hidden}\n"
    )
    print(table(["trained", "time", "time / ours", "same predictions", "accuracy"], lines) + "\n")
    agreed = (results["loop, fused AdamW, same masks"] == results["ours"]).mean()
    rows = [
        verdict("times faster than the loop of tutorials", times["loop, DataLoader"].over(times["ours"]), at_least=2),
        verdict("times faster than the loop on tensors", times["loop, tensors"].over(times["ours"]), at_least=2),
        verdict("same predictions as the loop with the same masks", agreed, at_least=0.999),
    ]
    print(table(VERDICTS, rows))


if __name__ == "__main__":
    main()
