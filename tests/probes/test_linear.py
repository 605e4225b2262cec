"""What the linear probes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from probes.base import Problem, score_one_by_one, score_settings, settings_of
from probes.centroid import CentroidProbe
from probes.knn import KNNProbe
from probes.linear import Axes, LinearProbe
from probes.logistic import LogisticProbe
from probes.ridge import RidgeProbe
from probes.testing import toy_tags

PROBES = [LogisticProbe(), RidgeProbe()]


@pytest.mark.parametrize("shape", [(20, 8), (8, 20)])
def test_axes_are_a_rotation(shape: tuple[int, int]) -> None:
    """Rows come back from their coordinates, the basis is orthonormal, squares are those along the axes."""
    x = np.random.default_rng(0).normal(size=shape)
    axes = Axes.of(x)
    basis = axes.back(np.eye(8))
    assert axes.rows @ basis.T == pytest.approx(x)
    assert basis.T @ basis == pytest.approx(np.eye(8))
    assert (axes.rows**2).sum(0) == pytest.approx(axes.squares)
    assert axes.along(x) == pytest.approx(axes.rows.T @ x)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("classes", [[3, 5], [0, 2, 3]])
def test_every_setting_at_once_is_one_at_a_time(probe: LinearProbe, classes: list[int]) -> None:
    """For two classes and for more, wide and tall, with classes missing."""
    rng = np.random.default_rng(0)
    for n in (12, 60):
        y = np.array(classes)[np.arange(n) % len(classes)]
        x = rng.normal(size=(n, 30)) + 0.2 * y[:, None]
        problem = Problem(x, y, rng.normal(size=(9, 30)), np.arange(n), 7)
        (together,) = score_settings(probe, [problem], probe.grid)
        (plain,) = score_one_by_one(probe, [problem], probe.grid)
        assert together == pytest.approx(plain, abs=1e-9)
        assert np.isfinite(together).sum(-1).max() == len(classes)


def test_other_parameters_are_tried_too() -> None:
    """A grid over the tolerance is no grid over C: it goes one by one."""
    rng = np.random.default_rng(0)
    problem = Problem(rng.normal(size=(30, 5)), np.arange(30) % 3, rng.normal(size=(4, 5)), np.arange(30))
    (scores,) = score_settings(LogisticProbe(C=1), [problem], [{"tol": 1.0}, {"tol": 1e-6}])
    assert abs(scores[0] - scores[1]).max() > 1e-3


@pytest.mark.parametrize("probe", [*PROBES, CentroidProbe(), KNNProbe()])
def test_tags_at_once_are_tags_one_by_one(probe: Any) -> None:
    """The very scores, not their order alone: what is calibrated on the one is applied to the other."""
    problem, _ = toy_tags(n=30)
    (together,) = score_settings(probe, [problem], settings_of(probe))
    assert together == pytest.approx(score_one_by_one(probe, [problem], settings_of(probe))[0], abs=1e-3)


@pytest.mark.parametrize("probe", PROBES)
def test_too_few_classes_and_tags(probe: LinearProbe) -> None:
    """One class is an error that says so; tags that do not vary score 0."""
    x = np.eye(4)
    with pytest.raises(ValueError, match="at least 2 classes"):
        score_settings(probe, [Problem(x, np.ones(4, int), x, np.arange(4))], probe.grid)
    same = np.tile([0, 1], (4, 1))
    assert not score_settings(probe, [Problem(x, same, x, np.arange(4))], probe.grid)[0].any()
