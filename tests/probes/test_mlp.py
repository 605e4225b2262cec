"""The MLP: stops early on whole groups, uses the best epoch, and repeats itself."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import clone

from probes.base import Problem
from probes.mlp import MLPProbe
from probes.splits import hold_out

SMALL = {"hidden": (16,), "max_epochs": 25, "patience": 4, "batch_size": 16}


def problem(n: int = 70, dim: int = 6) -> Problem:
    """Make three classes that overlap, in groups of two rows."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % 3
    return Problem(rng.normal(size=(n, dim)) + 0.9 * np.eye(3, dim)[y], y, np.zeros((0, dim)), np.arange(n) // 2)


def first(probe: MLPProbe) -> np.ndarray:
    """Weights of the first layer."""
    return probe.network_[0].weight.detach().numpy()


def test_the_best_epoch_is_restored() -> None:
    """Without refit the weights are those of an earlier epoch than the last: training up to there gives them again."""
    x, y, groups = problem().x_train, problem().y_train, problem().groups
    probe = MLPProbe(**SMALL | {"refit": False, "learning_rate": 3e-2, "max_epochs": 60}).fit(x, y, groups)
    assert probe.n_iter_ < 60 - SMALL["patience"]
    again = clone(probe).set_params(max_epochs=probe.n_iter_, patience=99).fit(x, y, groups)
    assert again.n_iter_ == probe.n_iter_
    assert (first(again) == first(probe)).all()


def test_held_out_rows_are_whole_groups_and_untouched() -> None:
    """Rows held out move no weight, until a refit trains on all."""
    task = problem()
    held = hold_out(task.y_train, task.groups, 0)
    assert not set(task.groups[held]) & set(task.groups[~held])
    other = task.x_train.copy()
    other[held] += 5
    options = SMALL | {"refit": False, "max_epochs": 1}
    one, two = (MLPProbe(**options).fit(x, task.y_train, task.groups) for x in (task.x_train, other))
    assert (first(one) == first(two)).all()
    assert not (first(one) == first(MLPProbe(**options | {"refit": True}).fit(other, task.y_train, task.groups))).all()


def test_the_last_small_batch_is_trained_on() -> None:
    """The only row of the last batch moves the weights, with batch norm too."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)), np.array([0, 1] * 4 + [0])
    options = {"hidden": (8,), "max_epochs": 1, "batch_size": 8, "dropout": 0.0}
    for batch_norm in (False, True):
        probe = MLPProbe(**options, batch_norm=batch_norm).fit(x, y)
        shorter = MLPProbe(**options, batch_norm=batch_norm).fit(x[:8], y[:8])
        assert np.isfinite(probe.predict_proba(x)).all()
        assert not np.allclose(first(probe), first(shorter))


def test_one_track_a_class_still_trains() -> None:
    """Nothing can be held out: it trains to the last epoch."""
    probe = MLPProbe(hidden=(8,), max_epochs=30, learning_rate=1e-2).fit(np.eye(3), ["a", "b", "c"])
    assert probe.n_iter_ == 30
    assert probe.predict(np.eye(3)).tolist() == ["a", "b", "c"]


def test_seeds_repeat_and_differ() -> None:
    """The same seed gives the same weights, another seed others; the caller's own random state is left alone."""
    x, y = problem().x_train, problem().y_train
    before = torch.random.get_rng_state()
    one, again, other = (first(MLPProbe(**SMALL, random_state=s).fit(x, y)) for s in (1, 1, 2))
    assert (torch.random.get_rng_state() == before).all()
    assert (one == again).all()
    assert not (one == other).all()
