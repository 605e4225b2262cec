"""The MLP: equal to a plain loop in torch, alone or in a stack; stops early on whole groups; repeats itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

import probes.networks
from embedstore.errors import ParameterError
from probes.base import Problem, predictions, score_one_by_one, score_settings
from probes.mlp import MLPProbe
from probes.splits import hold_out

SMALL: dict[str, Any] = {"hidden": (16,), "max_epochs": 8, "patience": 3, "batch_size": 16}


def problem(n: int = 70, dim: int = 6, seed: int = 1, tags: bool = False) -> Problem:
    """Make three classes that overlap, in groups of two rows."""
    rng = np.random.default_rng(seed)
    y = np.arange(n + 30) % 3
    x = rng.normal(size=(n + 30, dim)) + 0.9 * np.eye(3, dim)[y]
    if tags:
        y = np.eye(3, dtype=np.int64)[y] | (rng.random((n + 30, 3)) < 0.1)
    return Problem(x[:n], y[:n], x[n:], np.arange(n) // 2)


def first(probe: MLPProbe) -> np.ndarray:
    """Weights of the first layer."""
    return probe.weights_["0.weight"]


class Drop(torch.nn.Module):
    """Dropout that draws as ours does."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Leave units out."""
        return x * (torch.rand(x.shape) < 1 - self.share) / (1 - self.share) if self.training else x


def plain(task: Problem, probe: MLPProbe, held: torch.Tensor) -> tuple[np.ndarray, int, float]:
    """Train as torch's tutorials do: logits of the best epoch, its number, and the last learning rate."""
    torch.manual_seed(probe.random_state)
    parts: list[torch.nn.Module] = []
    dim = task.x_train.shape[1]
    for width in probe.hidden:
        norm = [torch.nn.BatchNorm1d(width)] if probe.batch_norm else []
        linear = torch.nn.Linear(dim, width)
        linear.bias.requires_grad_(not norm)  # in front of batch norm it makes no difference but for rounding errors
        parts += [linear, *norm, torch.nn.ReLU(), Drop(probe.dropout)]
        dim = width
    network = torch.nn.Sequential(*parts, torch.nn.Linear(dim, 3))
    adam = torch.optim.AdamW(network.parameters(), lr=probe.learning_rate, weight_decay=probe.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=probe.plateau or 999, threshold=0)
    x, y = torch.from_numpy(task.x_train).float(), torch.from_numpy(task.y_train)
    rank: dict[tuple[float, float], int] = {}
    best, answer, at = (np.inf, np.inf), np.empty(0), 0
    for epoch in range(1, probe.max_epochs + 1):
        network.train()
        for rows in torch.randperm(int((~held).sum())).split(probe.batch_size):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(network(x[~held][rows]), y[~held][rows]).backward()
            adam.step()
        network.eval()
        with torch.no_grad():
            logits = network(x[held])
            loss = torch.nn.functional.cross_entropy(logits, y[held]).item()
            score = ((logits.argmax(1) != y[held]).float().mean().item(), loss)
            if score < best:
                best, at, answer = score, epoch, network(torch.from_numpy(task.x_eval).float()).numpy()
        rank[score] = -len(rank) if score == best else 1
        plateau.step(rank[score])
        if epoch - at >= probe.patience:
            break
    return answer, at, adam.param_groups[0]["lr"]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"hidden": (16, 8), "batch_norm": True},
        {"plateau": 1, "learning_rate": 3e-2, "max_epochs": 30, "patience": 8},
    ],
)
def test_it_trains_as_a_plain_loop_does(how: dict[str, Any]) -> None:
    """The same epoch is best and the same logits come out as from torch's own modules, schedule and optimiser."""
    task = problem()
    probe = MLPProbe(**SMALL | how, refit=False).fit(task.x_train, task.y_train, task.groups)
    held = torch.from_numpy(hold_out(task.y_train, task.groups, 0))
    logits, epoch, rate = plain(task, probe, held)
    assert probe.n_iter_ == epoch
    assert probe.decision_function(task.x_eval) == pytest.approx(logits, abs=1e-4)
    assert (rate < probe.learning_rate) == ("plateau" in how)


@pytest.mark.parametrize(
    ("exact", "how"),
    [
        (True, {}),
        (False, {"batch_norm": True, "plateau": 1}),
        (True, {"refit": False, "hidden": (16, 8), "batch_norm": True}),
        (False, {"loss": "bce", "patience": None}),
    ],
)
def test_a_stack_trains_each_member_as_if_alone(
    exact: bool, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of two widths and settings (dropout, rate, decay) train together and score exactly as each alone does."""
    monkeypatch.setattr(probes.networks, "_ONEDNN", probes.networks._ONEDNN if exact else None)
    tasks = [problem(seed=seed, dim=dim) for seed, dim in ((1, 6), (2, 6), (3, 9))]
    grid = [{"dropout": 0.5}, {"dropout": 0.0, "learning_rate": 1e-2}, {"weight_decay": 0.3}]
    together = score_settings(MLPProbe(**SMALL | how), tasks, grid)
    alone = score_one_by_one(MLPProbe(**SMALL | how), tasks, grid)
    for one, other in zip(together, alone, strict=True):
        assert (predictions(one) == predictions(other)).all()
        assert one == pytest.approx(other, abs=1e-12 if exact else 1e-4)  # torch.bmm rounds as it likes
    assert len({row.tobytes() for scores in together for row in predictions(scores)}) > 3


def test_each_member_has_its_own_best_epoch() -> None:
    """Members that stop at different times leave the stack one after the other."""
    tasks = [problem(seed=seed) for seed in range(4)]
    probe = MLPProbe(**SMALL | {"max_epochs": 60, "learning_rate": 1e-2})
    known: dict[Any, torch.Tensor] = {}
    members = [member for task in tasks for member in probes.mlp._members([probe], task, known)]
    epochs = [network.epochs for network in probes.networks.train(members)]
    assert epochs == [clone(probe).fit(task.x_train, task.y_train, task.groups).n_iter_ for task in tasks]
    assert len(set(epochs)) > 1


def test_the_best_epoch_is_restored() -> None:
    """Without refit the weights are those of an earlier epoch than the last: training up to there gives them again."""
    x, y, groups = problem().x_train, problem().y_train, problem().groups
    probe = MLPProbe(**SMALL | {"refit": False, "learning_rate": 3e-2, "max_epochs": 60}).fit(x, y, groups)
    assert probe.n_iter_ < 60 - SMALL["patience"]
    again = clone(probe).set_params(max_epochs=probe.n_iter_, patience=99).fit(x, y, groups)
    assert again.n_iter_ == probe.n_iter_
    assert (first(again) == first(probe)).all()


def test_refit_trains_on_all_rows_as_long_and_at_the_same_rates() -> None:
    """After the refit nothing tells that rows were held out, but the number of epochs."""
    x, y, groups = problem().x_train, problem().y_train, problem().groups
    probe = MLPProbe(**SMALL).fit(x, y, groups)
    plainly = clone(probe).set_params(max_epochs=probe.n_iter_, patience=None).fit(x, y, groups)
    assert (first(plainly) == first(probe)).all()


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
    options = {"hidden": (8,), "max_epochs": 1, "batch_size": 8, "dropout": 0.0, "patience": None}
    for batch_norm in (False, True):
        probe = MLPProbe(**options, batch_norm=batch_norm).fit(x, y)
        shorter = MLPProbe(**options, batch_norm=batch_norm).fit(x[:8], y[:8])
        assert np.isfinite(probe.predict_proba(x)).all()
        assert not np.allclose(first(probe), first(shorter))
    with pytest.raises(ParameterError, match="at least 2 rows here; batch_size is 1"):
        MLPProbe(batch_norm=True, batch_size=1).fit(x, y)


def test_one_that_diverges_harms_no_other() -> None:
    """A rate far too high ends in one warning and finite scores; its neighbours in the stack train as if alone."""
    task, probe = problem(), MLPProbe(**SMALL)
    with pytest.warns(ConvergenceWarning, match=r"learning_rate=1e\+30.*lower learning rate") as told:
        (scores,) = score_settings(probe, [task], [{"learning_rate": 1e30}, {}])
    assert len(told) == 1
    assert np.isfinite(scores).all()
    assert (scores[1] == score_settings(probe, [task], [{}])[0][0]).all()


def test_a_class_that_the_training_part_lacks_is_never_named() -> None:
    """Its column is minus infinity, with three classes seen and with two."""
    task = problem()
    for seen in ([0, 2, 5], [1, 4, 4]):
        y = np.array(seen)[task.y_train]
        shown = Problem(task.x_train, y, task.x_eval, task.groups, n_classes=6)
        (scores,) = score_settings(MLPProbe(**SMALL), [shown], [{}])
        (alone,) = score_one_by_one(MLPProbe(**SMALL), [shown], [{}])
        assert set(np.unique(predictions(scores))) <= set(seen)
        assert np.isneginf(scores[..., sorted(set(range(6)) - set(seen))]).all()
        assert scores == pytest.approx(alone)


def test_several_tags_a_row() -> None:
    """Tags are learned by one network with an output each; a tag that no row has scores 0."""
    task = problem(n=150, seed=2, tags=True)
    y = np.column_stack([task.y_train, np.zeros(150, dtype=np.int64)])
    probe = MLPProbe(hidden=(16,), max_epochs=40, learning_rate=1e-2).fit(task.x_train, y, task.groups)
    (scores,) = score_settings(probe, [Problem(task.x_train, y, task.x_eval, task.groups)], [{}])
    assert scores.shape == (1, 30, 4)
    assert not scores[..., 3].any()
    assert scores[0, :, :3] == pytest.approx(probe.decision_function(task.x_eval)[:, :3], abs=1e-4)
    truth = np.eye(3, dtype=np.int64)[np.arange(150, 180) % 3]
    assert roc_auc_score(truth, probe.predict_proba(task.x_eval)[:, :3]) > 0.7
    assert (probe.predict(task.x_eval) == (probe.predict_proba(task.x_eval) > 0.5)).all()
    with pytest.raises(ParameterError, match="zeros and ones"):
        probe.fit(task.x_train, y + 1)


def test_a_constant_column_changes_nothing() -> None:
    """Zeros, as scaling makes them, and even a column of ones beside batch norm, leave all finite."""
    task = problem()
    x = np.column_stack([task.x_train, np.zeros(70), np.ones(70)])
    for batch_norm in (False, True):
        probe = MLPProbe(**SMALL, batch_norm=batch_norm).fit(x, task.y_train, task.groups)
        assert np.isfinite(probe.predict_proba(x)).all()


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


@pytest.mark.parametrize("tags", [False, True])
def test_the_state_is_all_there_is(tags: bool) -> None:
    """A new probe with the arrays of a fitted one predicts the same."""
    task = problem(tags=tags)
    probe = MLPProbe(**SMALL, batch_norm=True).fit(task.x_train, task.y_train)
    copy = clone(probe)
    copy.classes_, copy.n_features_in_ = probe.classes_, probe.n_features_in_
    copy.load_state(probe.state())
    assert (copy.predict_proba(task.x_eval) == probe.predict_proba(task.x_eval)).all()
    assert (copy.predict(task.x_eval) == probe.predict(task.x_eval)).all()


@pytest.mark.parametrize(
    ("how", "message"), [({"dropout": 1.0}, "below 1"), ({"loss": "mse"}, "known: cross_entropy, bce")]
)
def test_wrong_settings_say_so(how: dict[str, Any], message: str) -> None:
    """One line: what was asked, what there is."""
    with pytest.raises(ParameterError, match=message):
        MLPProbe(**how).fit(np.eye(3), [0, 1, 2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_scores_alike() -> None:
    """The same stack on a GPU predicts nearly the same."""
    task = problem()
    (here,) = score_settings(MLPProbe(**SMALL), [task], MLPProbe.grid)
    (there,) = score_settings(MLPProbe(**SMALL, device="cuda"), [task], MLPProbe.grid)
    assert (predictions(here) == predictions(there)).mean() > 0.95
