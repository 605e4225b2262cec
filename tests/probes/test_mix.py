"""The learned mix of layers: against plain gradient descent, and with planted truths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.mix import LayerMix
from probes.scaling import standardise


def stack(n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Make two layers of noise and one that knows the classes."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    noise, signal = rng.normal(size=(2, n, 5)), rng.normal(size=(1, n, 5)) + 2 * np.eye(3, 5)[y]
    return standardise(np.concatenate([noise, signal]), np.arange(n), np.arange(n))[0], y


def by_adam(x: np.ndarray, y: np.ndarray, entropy: float, steps: int = 500) -> tuple[float, np.ndarray]:
    """Minimise the same objective step by step."""
    layers, target = torch.from_numpy(x), torch.from_numpy(y)
    n_outputs = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    shapes = [(len(x),), (x.shape[2], n_outputs), (n_outputs,)]
    free = mixing, head, bias = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    adam = torch.optim.Adam(free, lr=0.05)
    for _ in range(steps):
        adam.zero_grad()
        weights = mixing.softmax(0)
        logits = torch.tensordot(weights, layers, 1) @ head + bias
        if y.ndim == 2:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.double()) * n_outputs
        else:
            loss = torch.nn.functional.cross_entropy(logits, target)
        loss = loss + (head**2).sum() / (2 * 0.1 * len(y)) + entropy * (weights * weights.log()).sum()
        loss.backward()
        adam.step()
    return loss.item(), mixing.softmax(0).detach().numpy()


def test_the_mix_finds_the_layer_that_knows() -> None:
    """The layer that holds the classes gets most of the weight; weights are positive with sum 1."""
    x, y = stack()
    mix = LayerMix(C=0.1).fit(x, y)
    assert mix.weights_.sum() == pytest.approx(1)
    assert mix.weights_.min() >= 0
    assert mix.weights_[2] > 0.6
    assert mix.transform(x) == pytest.approx(np.tensordot(mix.weights_, x, 1))


@pytest.mark.parametrize(("entropy", "tags"), [(0.0, False), (0.2, False), (0.1, True)])
def test_the_mix_reaches_what_plain_gradient_descent_reaches(entropy: float, tags: bool) -> None:
    """Adam on the same objective, run long, ends no lower; classes or tags, with a reward for spreading or without."""
    x, y = stack(45)
    y = np.eye(3, dtype=np.int64)[y] | (np.arange(45) % 7 == 0)[:, None] if tags else y
    ours = LayerMix(C=0.1, entropy=entropy).fit(x, y)
    loss, weights = by_adam(x, y, entropy)
    assert ours.loss_ <= loss + 1e-6
    assert ours.weights_ == pytest.approx(weights, abs=0.02)


def test_entropy_spreads_the_weights() -> None:
    """The more it is rewarded, the more even they are; a class number that is not used changes nothing."""
    x, y = stack()
    tops = [LayerMix(C=0.1, entropy=reward).fit(x, y).weights_.max() for reward in (0.0, 0.1, 1.0, 100.0)]
    assert tops == sorted(tops, reverse=True)
    assert tops[0] > 0.8
    assert tops[-1] == pytest.approx(1 / 3, abs=0.01)
    assert (LayerMix().fit(x, y).weights_ == LayerMix().fit(x, 2 * y).weights_).all()
