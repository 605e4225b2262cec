"""Conformance of a probe: what the author of a plug-in can run.

>>> from probes.testing import check_probe
>>> check_probe("knn")
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.base import Problem, load_probe, predict_one_by_one, predict_settings, seeded, settings_of

__all__ = ["check_probe", "toy_problem"]


def toy_problem(
    seed: int = 0, *, n: int = 60, dim: int = 8, shuffled: bool = False
) -> tuple[Problem, NDArray[np.int64]]:
    """Make three well separated classes and the classes of the rows to predict; `shuffled` permutes the training labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(2 * n) % 3
    x = rng.normal(size=(2 * n, dim)) + 4 * np.eye(3, dim)[y]
    train = rng.permutation(y[:n]) if shuffled else y[:n]
    return Problem(x[:n], train, x[n:], np.arange(n) // 2), y[n:]


def check_probe(probe: str | Any, *, seed: int = 0) -> None:
    """Check that a probe learns, does not learn from noise, is repeatable, and that its batched way agrees with one by one.

    Parameters
    ----------
    probe : str or estimator
        See `probes.base.load_probe`.
    seed : int

    Raises
    ------
    AssertionError
        Says which promise is broken.
    """
    model = seeded(load_probe(probe), seed)
    grid = settings_of(model)
    (easy, truth), (noise, noise_truth) = toy_problem(seed), toy_problem(seed, n=300, shuffled=True)
    predicted = predict_settings(model, [easy, noise], grid)
    for result, problem in zip(predicted, (easy, noise), strict=True):
        _promise(result.shape == (len(grid), len(problem.x_eval)), f"one row per setting: got {result.shape}")
        _promise(set(np.unique(result)) <= set(np.unique(problem.y_train)), "it predicts classes that it was not shown")
    learned = (predicted[0] == truth).mean(1).max()
    _promise(learned > 0.9, f"it learns a separable toy: accuracy {learned:.2f} with its best setting")
    for setting, chance in zip(grid, (predicted[1] == noise_truth).mean(1), strict=True):
        _promise(
            0.15 < chance < 0.52, f"it is at chance (0.33) on shuffled labels: accuracy {chance:.2f} with {setting}"
        )
    again = predict_settings(seeded(model, seed), [easy, noise], grid)
    plain = predict_one_by_one(seeded(model, seed), [easy, noise], grid)
    for first, second, single in zip(predicted, again, plain, strict=True):
        _promise(bool((first == second).all()), "the same seed gives the same predictions")
        _promise(
            bool((first == single).mean() > 0.99), "many problems and settings at once predict what one at a time does"
        )


def _promise(kept: bool, promise: str) -> None:
    if not kept:
        raise AssertionError(promise)
