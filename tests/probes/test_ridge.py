"""Ridge and nearest centroid: scikit-learn's own answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import scale

from probes.base import Problem, score_settings
from probes.ridge import RidgeProbe


@pytest.mark.parametrize(("load", "n"), [(load_digits, 40), (load_digits, 500), (load_breast_cancer, 200)])
def test_every_alpha_is_scikit_learns(load: object, n: int) -> None:
    """Scores agree for many classes, two classes and tags, with more rows than dimensions and with fewer; off centre too."""
    x, y = load(return_X_y=True)  # type: ignore[operator]
    x = scale(x) + 1
    tags = np.stack([y == 0, y > 0, y % 3 == 1], axis=1).astype(int) if load is load_digits else None
    for target in (y,) if tags is None else (y, tags):
        problem = Problem(x[:n], target[:n], x[n : n + 200], np.arange(n))
        (scores,) = score_settings(RidgeProbe(), [problem], RidgeProbe.grid)
        for setting, ours in zip(RidgeProbe.grid, scores, strict=True):
            plain = RidgeClassifier(**setting).fit(x[:n], target[:n]).decision_function(x[n : n + 200])
            due = np.stack([-plain, plain], axis=1) / 2 if plain.ndim == 1 else plain
            assert ours == pytest.approx(due, abs=1e-8)


def test_no_penalty_is_refused() -> None:
    """Without one there is no single answer where dimensions outnumber rows."""
    with pytest.raises(ValueError, match="above 0"):
        RidgeProbe(alpha=0).fit(np.eye(3), [0, 1, 1])
