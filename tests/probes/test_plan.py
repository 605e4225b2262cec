"""Folds, parts and sizes: what may train, what is tested, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.errors import ParameterError
from probes.base import load_probe
from probes.knn import KNNProbe
from probes.plan import Plan, make_plan, restrict
from probes.splits import is_present, nested_order


def _plan(**options: object) -> Plan:
    y = np.arange(120) % 4
    return make_plan(
        KNNProbe(), y, np.arange(120) // 4 % 20, **{"seeds": [0, 1], "folds": 5, "n_features": 2} | options
    )


def test_smaller_training_parts_are_nested_and_stratified() -> None:
    """Rows of a smaller part are rows of the larger one, every class has its share, and all rows are tested."""
    small, large = _plan(size=24), _plan(size=60)
    for one, other in zip(small.outer, large.outer, strict=True):
        assert set(one.train) < set(other.train)
        assert (one.evaluate == other.evaluate).all()
    sizes = [len(r.train) for r in small.outer]
    assert abs(np.mean(sizes) - 24) < 4
    order = nested_order(small.y, 0)
    for bound in (0.1, 0.5, 0.73):
        counts = np.bincount(small.y[order < bound])
        assert counts.max() - counts.min() <= 1


def test_choices_of_a_small_training_part_see_no_more_labels_than_it_has() -> None:
    """Inner rounds train and validate on rows of the sample alone."""
    plan = _plan(size=40)
    for seed in (0, 1):
        sample = set().union(*(set(r.train) for r in plan.outer if r.seed == seed))
        assert len(sample) < 60
        for r in plan.inner:
            if r.seed == seed:
                assert set(r.train) | set(r.evaluate) <= sample


def test_shots_are_so_many_of_each_class() -> None:
    """Each training part holds k tracks of each class, the fewer ones among the more, and chooses nothing."""
    whole = _plan()
    one, three = restrict(whole, 1), restrict(whole, 3)
    for small, large in zip(one.outer, three.outer, strict=True):
        assert np.bincount(whole.y[small.train]).tolist() == [1] * 4
        assert np.bincount(whole.y[large.train]).tolist() == [3] * 4
        assert set(small.train) < set(large.train)
    assert one.inner == ()
    assert one.settings == ({},)
    with pytest.raises(ParameterError, match="99 tracks a genre were asked; a training part has 24"):
        restrict(whole, 99)


def test_an_official_split_is_kept_as_it_is() -> None:
    """Settings are chosen on its validation part, its test part is only tested, and nothing else is."""
    parts = np.repeat([0, 1, 2], 40)
    plan = _plan(split="official", parts=parts)
    for r in plan.inner:
        assert set(parts[r.train]) == {0}
        assert set(parts[r.evaluate]) == {1}
    for r in plan.outer:
        assert set(parts[r.train]) == {0, 1}
        assert (parts[r.evaluate] == 2).all()
    assert ((plan.folds == 0) == (parts == 2)).all()
    without = _plan(split="official", parts=np.repeat([0, 0, 2], 40))
    for r in without.inner:
        assert not set(r.train) & set(r.evaluate)
        assert set(r.train) | set(r.evaluate) == set(range(80))
    with pytest.raises(ParameterError, match="no official split"):
        _plan(split="official")


def test_the_labs_split_draws_tracks_and_chooses_nothing() -> None:
    """A random 30 % is tested; artists stand on both sides; a smaller experiment is smaller on both sides."""
    plan = _plan(split="lab", n_features=1)
    assert [len(r.evaluate) for r in plan.outer] == [36, 36]
    assert plan.inner == ()
    assert set(plan.groups[plan.outer[0].train]) & set(plan.groups[plan.outer[0].evaluate])
    assert (plan.outer[0].evaluate != plan.outer[1].evaluate).any()
    half = _plan(split="lab", n_features=1, size=42)
    assert 15 <= len(half.outer[0].evaluate) <= 21
    assert ((half.folds[0] == 0).nonzero()[0] == half.outer[0].evaluate).all()
    with pytest.raises(ParameterError, match="chooses nothing; name one layer"):
        _plan(split="lab")


def test_several_tags_a_track_are_dealt_evenly() -> None:
    """Groups stay whole, and each fold has each tag."""
    rng = np.random.default_rng(0)
    y = (rng.random((200, 6)) < 0.2).astype(np.int64)
    y[np.arange(200), rng.integers(6, size=200)] = 1
    groups = np.arange(200) // 5
    plan = make_plan(KNNProbe(), y, groups, seeds=[0], folds=5, n_features=2)
    for fold in range(5):
        assert is_present(y[plan.folds[0] == fold]).all()
    assert all(len(np.unique(plan.folds[0][groups == group])) == 1 for group in range(40))
    with pytest.raises(ParameterError, match="one genre a track"):
        restrict(plan, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "a training part of 1 tracks was asked; it can have 2 to about 96"),
        ({"size": 500}, "500 tracks was asked"),
        ({"size": 100, "split": "lab", "n_features": 1}, "it can have 2 to about 84"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, int], message: str) -> None:
    """Too small or too large: one clear line."""
    with pytest.raises(ParameterError, match=message):
        _plan(**options)


def test_leaving_one_group_out_is_for_probes_that_can() -> None:
    """A probe that would be fitted anew for each group is refused."""
    y = np.arange(40) % 2
    with pytest.raises(ParameterError, match="leaving one group out is for knn"):
        make_plan(load_probe("logistic"), y, np.arange(40), seeds=[0], folds=5, n_features=1, split="loo")
