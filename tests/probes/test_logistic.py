"""Logistic regression: the optimum of scikit-learn, at a stated gap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

from embedstore.errors import ParameterError
from probes.base import Problem, score_settings
from probes.logistic import LogisticProbe


def wide(n: int = 60, dim: int = 200, n_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Make fewer rows than dimensions, strongly correlated, as track vectors are."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    x = rng.normal(size=(n, dim)) + 0.8 * rng.normal(size=(n_classes, dim))[y]
    return scale(x * np.exp(-np.arange(dim) / 20) @ rng.normal(size=(dim, dim))), y


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "wide":
        return wide()
    x, y = {"digits": load_digits, "wine": load_wine, "cancer": load_breast_cancer}[name](return_X_y=True)
    keep = slice(None, None, 6 if name == "digits" else 1)
    return scale(x)[keep], y[keep]


def objective(model: LogisticProbe | LogisticRegression, x: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's: C * sum of cross-entropy + half the squared weights; one column is the second class' logit."""
    logits = x @ model.coef_.T + model.intercept_
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    return float(-model.C * log_softmax(logits, axis=1)[np.arange(len(y)), y].sum() + 0.5 * (model.coef_**2).sum())


@pytest.mark.parametrize("name", ["digits", "wine", "cancer", "wide"])
def test_reaches_scikit_learns_optimum(name: str) -> None:
    """Over the grid: the relative gap to the optimum is below 1e-6, and all predictions and probabilities agree."""
    x, y = data(name)
    for setting in LogisticProbe.grid:
        ours = LogisticProbe(**setting).fit(x, y)
        plain = LogisticRegression(**setting, tol=1e-9, max_iter=20_000).fit(x, y)
        best = min(objective(plain, x, y), objective(ours, x, y))
        assert objective(ours, x, y) - best < 1e-6 * best
        assert (ours.predict(x) == plain.predict(x)).all()
        assert ours.predict_proba(x) == pytest.approx(plain.predict_proba(x), abs=2e-3)


def test_tags_are_scikit_learns_one_against_the_rest() -> None:
    """Rare and common tags solved together: each one's objective, weights apart, is the optimum of its own problem."""
    x, y = wide()
    tags = np.stack([y == 0, y < 3, np.arange(len(y)) < 3, y >= 0, x[:, 0] > 0], axis=1).astype(int)
    problem = Problem(x, tags, x, np.arange(len(y)))
    for device in ("cpu", "cpu:0"):
        (scores,) = score_settings(LogisticProbe(device=device), [problem], LogisticProbe.grid)
        assert not scores[..., 3].any()
        for setting, ours in zip(LogisticProbe.grid, scores, strict=True):
            for tag in (0, 1, 2, 4):
                plain = LogisticRegression(**setting, tol=1e-9, max_iter=20_000).fit(x, tags[:, tag])
                assert ours[:, tag] == pytest.approx(plain.decision_function(x), abs=0.02)


def _together(device: str) -> None:
    """All C at once on a device of torch's reach the optimum that numpy reaches, tags too."""
    x, y = data("digits")
    half = len(x) // 2
    tags = np.stack([y == 0, y > 1], axis=1).astype(int)
    for target in (y, tags, (y > 4).astype(int)):
        problem = Problem(x[:half], target[:half], x[half:], np.arange(half))
        (scores,) = score_settings(LogisticProbe(device=device, tol=1e-6), [problem], LogisticProbe.grid)
        (plain,) = score_settings(LogisticProbe(tol=1e-6), [problem], LogisticProbe.grid)
        assert scores == pytest.approx(plain, abs=1e-3)
        assert (scores.argmax(-1) == plain.argmax(-1)).mean() > 0.999
    model = LogisticProbe(C=1.0, device=device).fit(x, y)
    best = LogisticRegression(C=1.0, tol=1e-9, max_iter=20_000).fit(x, y)
    assert objective(model, x, y) < (1 + 1e-6) * objective(best, x, y)


def test_torch_reaches_the_same_optimum() -> None:
    """The way of a GPU, on torch's CPU."""
    _together("cpu:0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reaches_the_same_optimum() -> None:
    """The same on CUDA."""
    _together("cuda")


def test_devices_are_those_of_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU "auto" is numpy, on a Mac too, whose GPU has no float64; one that is not there is named."""
    x, y = wide(24, 10)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for mps in (False, True):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        auto, plain = (LogisticProbe(device=device).fit(x, y) for device in ("auto", "cpu"))
        assert (auto.coef_ == plain.coef_).all()
    with pytest.raises(ParameterError, match="no device 'cuda:7' here"):
        LogisticProbe(device="cuda:7").fit(x, y)


def test_rank_deficient_rows_are_no_fault() -> None:
    """Repeated rows, a constant column and columns that depend on others leave an exact fit."""
    x, y = wide(30, 10)
    x = np.hstack([np.vstack([x, x]), np.zeros((60, 1))])
    x = np.hstack([x, x[:, :3] * 2])
    y = np.concatenate([y, y])
    ours, plain = LogisticProbe(C=0.1).fit(x, y), LogisticRegression(C=0.1, tol=1e-9, max_iter=9999).fit(x, y)
    assert objective(ours, x, y) == pytest.approx(objective(plain, x, y), rel=1e-6)
    assert np.isfinite(LogisticProbe().fit(np.zeros((4, 3)), [0, 0, 1, 1]).predict_proba(np.zeros((1, 3)))).all()


def test_running_out_of_steps_warns() -> None:
    """An unfinished fit is told, so that the report can count it."""
    with pytest.warns(ConvergenceWarning, match="stopped after 2 steps"):
        LogisticProbe(C=1, max_iter=2).fit(*wide())


def test_an_optimum_beyond_float64_ends() -> None:
    """A tolerance that no arithmetic reaches stops where no step helps any more."""
    x, y = wide(24, 10, 3)
    tight = LogisticProbe(C=1, tol=1e-300).fit(x, y)
    assert objective(tight, x, y) <= objective(LogisticProbe(C=1, tol=1e-9).fit(x, y), x, y) * (1 + 1e-12)
