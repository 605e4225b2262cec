"""Conformance of a probe: what the author of a plug-in can run.

>>> from probes.testing import check_probe
>>> check_probe("knn")
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.base import (
    Matrix,
    Problem,
    load_probe,
    predictions,
    score_one_by_one,
    score_settings,
    seeded,
    settings_of,
)

__all__ = ["check_probe", "toy_problem", "toy_tags"]


def toy_problem(
    seed: int = 0, *, n: int = 60, dim: int = 8, shuffled: bool = False
) -> tuple[Problem, NDArray[np.int64]]:
    """Make three well separated classes out of four, and the classes of the rows to predict.

    `shuffled` permutes the training labels.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(2 * n) % 3
    x = rng.normal(size=(2 * n, dim)) + 4 * np.eye(3, dim)[y]
    train = rng.permutation(y[:n]) if shuffled else y[:n]
    return Problem(x[:n], train, x[n:], np.arange(n) // 2, 4), y[n:]


def toy_tags(seed: int = 0, *, n: int = 60, dim: int = 8) -> tuple[Problem, NDArray[np.int64]]:
    """Make three tags that half of the rows have, each for itself, and one that none has; the tags of the rows to predict."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (2 * n, 4))
    y[:, 3] = 0
    x = rng.normal(size=(2 * n, dim)) + 4 * y @ np.eye(4, dim)
    return Problem(x[:n], y[:n], x[n:], np.arange(n) // 2), y[n:]


def check_probe(probe: str | Any, *, seed: int = 0) -> None:
    """Check that a probe learns, does not learn from noise, is repeatable, and that its batched way agrees with one by one.

    One with ``multilabel`` must also learn tags (and rank alike one by one, unless ``fit`` takes several and
    scikit-learn's tags say so); one with ``state`` and ``load_state`` must predict alike from its state.

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
    scores = score_settings(model, [easy, noise], grid)
    for result, problem in zip(scores, (easy, noise), strict=True):
        _check_shape(result, problem, len(grid))
        _promise(
            bool((result[..., 3] == -np.inf).all() and np.isfinite(result[..., :3]).all()),
            "classes that it was shown have finite scores, the one it was not shown -inf",
        )
    learned = (predictions(scores[0]) == truth).mean(1).max()
    _promise(learned > 0.9, f"it learns a separable toy: accuracy {learned:.2f} with its best setting")
    for setting, chance in zip(grid, (predictions(scores[1]) == noise_truth).mean(1), strict=True):
        _promise(
            0.15 < chance < 0.52, f"it is at chance (0.33) on shuffled labels: accuracy {chance:.2f} with {setting}"
        )
    again = score_settings(seeded(model, seed), [easy, noise], grid)
    plain = score_one_by_one(seeded(model, seed), [easy, noise], grid)
    for first, second, single in zip(scores, again, plain, strict=True):
        _promise(np.array_equal(first, second), "the same seed gives the same scores")
        alike = (predictions(first) == predictions(single)).mean()
        _promise(bool(alike > 0.99), "many problems and settings at once predict what one at a time does")
    if getattr(model, "multilabel", False):
        _check_tags(model, grid, seed)
    if hasattr(model, "state"):
        _check_state(model, easy)


def _check_tags(model: Any, grid: Any, seed: int) -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    problem, truth = toy_tags(seed)
    (scores,) = score_settings(model, [problem], grid)
    _check_shape(scores, problem, len(grid))
    _promise(not scores[..., 3].any(), "a tag that no training row has scores 0")
    learned = max(roc_auc_score(truth[:, :3], of_setting[:, :3]) for of_setting in scores)
    _promise(learned > 0.9, f"it learns separable tags: ROC-AUC {learned:.2f} with its best setting")
    if hasattr(model, "__sklearn_tags__") and model.__sklearn_tags__().classifier_tags.multi_label:
        return  # it learns tags together: not what it learns of each alone
    (plain,) = score_one_by_one(model, [problem], grid)
    alike = min(spearmanr(scores[i, :, tag], plain[i, :, tag])[0] for i in range(len(grid)) for tag in range(3))
    _promise(alike > 0.95, f"all tags at once are ranked as one at a time: rank correlation {alike:.2f}")


def _check_state(model: Any, problem: Problem) -> None:
    from sklearn.base import clone

    fitted = clone(model).fit(problem.x_train, problem.y_train)
    arrays = fitted.state()
    _promise(
        all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in arrays.values()),
        "its state is a dict of arrays of numbers",
    )
    loaded = clone(model)
    loaded.classes_, loaded.n_features_in_ = fitted.classes_, fitted.n_features_in_
    loaded.load_state({name: array.copy() for name, array in arrays.items()})
    for method in ("predict", "decision_function", "predict_proba"):
        if hasattr(fitted, method):
            before, after = (getattr(made, method)(problem.x_eval) for made in (fitted, loaded))
            _promise(np.array_equal(before, after), f"{method} answers alike from its state")


def _check_shape(scores: Matrix, problem: Problem, settings: int) -> None:
    due = (settings, len(problem.x_eval), problem.n_classes)
    _promise(scores.shape == due, f"scores have the shape (n_settings, n_eval, n_classes): {scores.shape}, not {due}")


def _promise(kept: bool, promise: str) -> None:
    if not kept:
        raise AssertionError(promise)
