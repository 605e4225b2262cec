"""Scaling and mixing before a probe."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from probes.mix import LayerMix
from probes.scaling import Preparation, standardise


def test_scaling_uses_the_training_rows_alone() -> None:
    """As scikit-learn's StandardScaler fitted on the training rows; a constant column becomes 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(1, 20, 4)).astype(np.float32)
    x[:, :, 3] = 0.1
    train, rest = np.arange(15), np.arange(15, 20)
    scaled, other = standardise(x, train, rest)
    plain = StandardScaler().fit(x[0, train, :3].astype(float))
    assert scaled[0, :, :3] == pytest.approx(plain.transform(x[0, train, :3].astype(float)))
    assert other[0, :, :3] == pytest.approx(plain.transform(x[0, rest, :3].astype(float)))
    assert not other[0, :, 3].any()


@pytest.mark.parametrize("n_layers", [1, 3])
def test_several_layers_are_scaled_mixed_and_scaled_again(n_layers: int) -> None:
    """Step by step with scikit-learn's scaler; one layer is scaled alone; nothing is learned of rows that come later."""
    rng = np.random.default_rng(1)
    y = np.arange(60) % 3
    layers = (5 + rng.normal(size=(n_layers, 80, 4))).astype(np.float32)
    layers[-1, :60, 0] += y
    train, later = layers[:, :60], layers[:, 60:] * 9
    prepare = Preparation.fit(train, y)
    scalers = [StandardScaler().fit(x.astype(float)) for x in train]
    x, due = (
        np.stack([s.transform(x.astype(float)) for s, x in zip(scalers, some, strict=True)]) for some in (train, later)
    )
    if n_layers > 1:
        mix = LayerMix().fit(x, y)
        again = StandardScaler().fit(mix.transform(x))
        x, due = again.transform(mix.transform(x))[None], again.transform(mix.transform(due))[None]
    assert prepare(train) == pytest.approx(x[0])
    assert prepare(later) == pytest.approx(due[0])
    assert prepare.state().keys() >= ({"mean", "deviation"} if n_layers == 1 else {"weights", "mixed.mean"})
