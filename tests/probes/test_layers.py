"""Single layers, their mean, and the learned mix."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.errors import ParameterError, UnknownNameError
from embedstore.types import LayerMatrix, TrackLabels
from probes.layers import load_features, open_source

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
    with pytest.raises(UnknownNameError, match=r"no layer 7; known: all, mean, concat, mix, 0, 1, 2"):
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
