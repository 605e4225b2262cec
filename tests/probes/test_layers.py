"""Single layers, their mean, and the learned mix."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.errors import ParameterError, UnknownNameError
from embedstore.types import LayerMatrix, TrackLabels
from probes.layers import LayerMix, load_features, open_source
from probes.sweep import standardise

KEYS = np.array([30, 10, 20])


def matrix(layer: int, values: np.ndarray | None = None, keys: np.ndarray = KEYS, dim: int = 2) -> LayerMatrix:
    values = np.arange(len(keys) * dim).reshape(len(keys), dim) + 100 * layer if values is None else values
    return LayerMatrix(layer, f"layer {layer}", keys, np.asarray(values, dtype=np.float32))


def features(matrices: list[LayerMatrix], which: object = "all") -> tuple:
    return load_features(open_source(matrices, {}), which, np.array([10, 30]))  # type: ignore[arg-type]


def test_rows_follow_the_keys() -> None:
    """Rows are looked up by key, whatever the order in which a layer holds them."""
    first, second = features([matrix(1), matrix(0, keys=KEYS[::-1].copy())])
    assert (first.layer, second.layer) == (0, 1)
    assert first.values[0].tolist() == [[2, 3], [4, 5]]
    assert second.values[0].tolist() == [[102, 103], [100, 101]]


def test_layers_are_chosen_by_number_name_or_several() -> None:
    """Numbers, digits, names and lists of them choose; the order is the model's."""
    three = [matrix(0), matrix(1), matrix(2)]
    assert [f.layer for f in features(three, "2")] == [f.layer for f in features(three, "layer 2")] == [2]
    assert [f.layer for f in features(three, [2, "0"])] == [0, 2]
    with pytest.raises(UnknownNameError, match=r"no layer 7; known: all, mean, mix, 0, 1, 2"):
        features(three, 7)


def test_mean_and_mix_hold_all_layers() -> None:
    """The mean is one feature of their mean; a mix keeps them apart for learning."""
    (mean,) = features([matrix(0), matrix(1)], "mean")
    (mix,) = features([matrix(0), matrix(1)], "mix")
    assert mean.values.tolist() == [[[52, 53], [50, 51]]]
    assert mix.values.shape == (2, 2, 2)
    for which in ("mean", "mix"):
        with pytest.raises(ParameterError, match=rf"the {which} of layers needs layers of one width; .*0: 2, 1: 3"):
            features([matrix(0), matrix(1, dim=3)], which)


def test_unusable_matrices_say_why() -> None:
    """Missing rows, NaN, doubled layers, missing labels and other objects are clear errors."""
    with pytest.raises(ParameterError, match="same keys"):
        features([matrix(0), matrix(1, keys=np.array([10, 20]))])
    with pytest.raises(ParameterError, match=r"layer 0 has 1 rows that are not finite"):
        features([matrix(0, np.array([[np.nan, 0], [0, 0], [0, 0]]))])
    with pytest.raises(ParameterError, match="two matrices are of the same layer"):
        features([matrix(0), matrix(0)])
    with pytest.raises(ParameterError, match="pass labels="):
        open_source([matrix(0)])
    for nothing in ([], [np.zeros((3, 2))], {}):
        with pytest.raises(ParameterError, match="open store, or LayerMatrix"):
            open_source(nothing, {1: TrackLabels()})


def _stack(n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    noise, signal = rng.normal(size=(2, n, 5)), rng.normal(size=(1, n, 5)) + 2 * np.eye(3, 5)[y]
    stack = np.concatenate([noise, signal])
    return standardise(stack, np.arange(n), np.arange(n))[0], y


def test_the_mix_finds_the_layer_that_knows() -> None:
    """The layer that holds the classes gets most of the weight; weights are positive with sum 1."""
    x, y = _stack()
    weights = LayerMix(C=0.1).fit(x, y).weights_
    assert weights.sum() == pytest.approx(1)
    assert weights.min() > 0
    assert weights[2] > 0.6


def test_the_mix_reaches_what_plain_gradient_descent_reaches() -> None:
    """Adam on the same objective, run long, ends no lower."""
    import torch

    x, y = _stack(45)
    ours = LayerMix(C=0.1).fit(x, y)
    layers, codes = torch.from_numpy(x), torch.from_numpy(y)
    free = [
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(5, 3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    ]
    mixing, head, bias = (tensor.requires_grad_() for tensor in free)
    adam = torch.optim.Adam([mixing, head, bias], lr=0.05)
    for _ in range(250):
        adam.zero_grad()
        logits = torch.tensordot(mixing.softmax(0), layers, 1) @ head + bias
        loss = torch.nn.functional.cross_entropy(logits, codes) + (head**2).sum() / (2 * 0.1 * len(y))
        loss.backward()
        adam.step()
    assert ours.loss_ <= loss.item() + 1e-6
    assert ours.weights_ == pytest.approx(mixing.softmax(0).detach().numpy(), abs=0.02)


def test_scaling_uses_the_training_rows_alone() -> None:
    """As scikit-learn's StandardScaler fitted on the training rows; a constant column becomes 0."""
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(1, 20, 4)).astype(np.float32)
    x[:, :, 3] = 0.1
    train, rest = np.arange(15), np.arange(15, 20)
    scaled, other = standardise(x, train, rest)
    plain = StandardScaler().fit(x[0, train, :3].astype(float))
    assert scaled[0, :, :3] == pytest.approx(plain.transform(x[0, train, :3].astype(float)))
    assert other[0, :, :3] == pytest.approx(plain.transform(x[0, rest, :3].astype(float)))
    assert not other[0, :, 3].any()
