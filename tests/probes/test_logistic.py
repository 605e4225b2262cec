"""Logistic regression: the optimum of scikit-learn, at a stated gap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

from probes.base import Problem, predict_one_by_one, predict_settings
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


@pytest.mark.parametrize("name", ["cancer", "wide"])
def test_every_c_at_once_is_one_at_a_time(name: str) -> None:
    """Sharing the rotation changes no prediction, for two classes and for many, wide and tall."""
    x, y = data(name)
    half = len(x) // 2
    problem = Problem(x[:half], y[:half] + 3, x[half:], np.arange(half))
    probe = LogisticProbe()
    together = predict_settings(probe, [problem, problem], probe.grid)
    assert (together[0] == together[1]).all()
    assert (together[0] == predict_one_by_one(probe, [problem], probe.grid)[0]).all()
    assert set(np.unique(together[0])) <= set(y + 3)


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
