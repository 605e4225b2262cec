"""GenreNet: equal to the lab's network written in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from embedstore.errors import ParameterError
from probes.base import Problem, load_probe, predictions, score_one_by_one, score_settings
from probes.genrenet import GenreNetProbe

N_LAYERS, DIM = 3, 8
SMALL = {"n_layers": N_LAYERS, "hidden": 12, "epochs": 5, "batch_size": 20, "learning_rate": 1e-2}


def problem(n: int = 90) -> Problem:
    """Make layers side by side, of which the second knows the classes."""
    rng = np.random.default_rng(0)
    y = np.arange(n + 30) % 3
    x = rng.normal(size=(n + 30, N_LAYERS, DIM))
    x[:, 1] += 2 * np.eye(3, DIM)[y]
    x = x.reshape(n + 30, -1)
    return Problem(x[:n], y[:n], x[n:], np.arange(n))


class Lab(torch.nn.Module):
    """The network of the lab; its dropout draws as ours does."""

    def __init__(self, dropout: float, width: int) -> None:
        super().__init__()
        self.mix = torch.nn.Conv1d(N_LAYERS, 1, 1)
        self.first, self.second = torch.nn.Linear(DIM, width), torch.nn.Linear(width, width)
        self.last = torch.nn.Linear(width, 3)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm1d(width), torch.nn.BatchNorm1d(width)])
        self.dropout = dropout
        for linear in (self.first, self.second):  # in front of batch norm a bias makes no difference but for rounding
            linear.bias.requires_grad_(requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give logits."""
        x = self.mix(x.view(len(x), N_LAYERS, DIM)).relu()[:, 0]
        for linear, norm in zip((self.first, self.second), self.norms, strict=True):
            x = norm(linear(x)).relu()
        if self.training:
            x = x * (torch.rand(x.shape) < 1 - self.dropout) / (1 - self.dropout)
        return self.last(x)


def test_it_is_the_labs_network() -> None:
    """The same logits and layer weights as a plain loop in torch: BCE on one-hot, Adam, the last epoch."""
    task = problem()
    probe = GenreNetProbe(**SMALL).fit(task.x_train, task.y_train)
    torch.manual_seed(0)
    network = Lab(probe.dropout, SMALL["hidden"])
    adam = torch.optim.Adam(network.parameters(), lr=SMALL["learning_rate"])
    x, y = torch.from_numpy(task.x_train).float(), torch.nn.functional.one_hot(torch.from_numpy(task.y_train)).float()
    for _ in range(SMALL["epochs"]):
        for rows in torch.randperm(len(x)).split(SMALL["batch_size"]):
            adam.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(network(x[rows]), y[rows]).backward()
            adam.step()
    network.eval()
    logits = network(torch.from_numpy(task.x_eval).float()).detach().numpy()
    assert probe.decision_function(task.x_eval) == pytest.approx(logits, abs=1e-4)
    assert probe.layer_weights_ == pytest.approx(network.mix.weight.detach().numpy().ravel(), abs=1e-5)
    assert probe.n_iter_ == SMALL["epochs"]


def test_dropouts_train_together_as_if_alone() -> None:
    """The lab's three dropouts in one stack predict what each alone does."""
    task, probe = problem(), load_probe("genrenet").set_params(**SMALL)
    (together,), (alone,) = (score(probe, [task], probe.grid) for score in (score_settings, score_one_by_one))
    assert (predictions(together) == predictions(alone)).all()
    assert together == pytest.approx(alone, abs=1e-4)
    assert {setting["dropout"] for setting in probe.grid} == {0.6, 0.7, 0.8}


def test_the_layer_that_knows_gets_the_largest_weight() -> None:
    """A longer training finds the planted layer; the state carries its weights."""
    task = problem()
    probe = GenreNetProbe(**SMALL | {"epochs": 30}).fit(task.x_train, task.y_train)
    assert np.abs(probe.layer_weights_).argmax() == 1
    copy = clone(probe)
    copy.classes_, copy.n_features_in_ = probe.classes_, probe.n_features_in_
    assert (copy.load_state(probe.state()).layer_weights_ == probe.layer_weights_).all()
    assert (copy.predict(task.x_eval) == probe.predict(task.x_eval)).all()


def test_columns_that_are_no_layers_say_so() -> None:
    """24 columns are not 5 layers."""
    task = problem()
    with pytest.raises(ParameterError, match="24 columns are not 5 layers of one width; set n_layers"):
        GenreNetProbe(n_layers=5).fit(task.x_train, task.y_train)
