"""Paired tests agree with plain loops; how often they err is shown in test_simulated.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from probes.results import Comparison, Interval
from probes.significance import compare, holm, indistinct, matched_odds, paired_tests, shift_tests
from probes.statistics import cluster_bootstrap, cluster_bootstrap_tags


def test_equals_a_plain_loop_over_the_same_swaps() -> None:
    """Predictions swapped group by group and scored by scikit-learn give the same p."""
    rng = np.random.default_rng(0)
    y, groups = rng.integers(4, size=50), np.arange(50) // 4
    p = np.where(rng.random((3, 2, 50)) < 0.4, y, rng.integers(4, size=(3, 2, 50)))
    pairs = [(0, 1), (2, 0), (1, 1)]

    def difference(one: np.ndarray, other: np.ndarray) -> float:
        seeds = [
            f1_score(y, a, average="macro") - f1_score(y, b, average="macro") for a, b in zip(one, other, strict=True)
        ]
        return abs(np.mean(seeds))

    swaps = np.random.default_rng([9, 0x5AAB]).integers(2, size=(19, 13))[:, groups] == 1
    expected = []
    for a, b in pairs:
        least = difference(p[a], p[b]) - 1e-9
        found = sum(difference(np.where(s, p[b], p[a]), np.where(s, p[a], p[b])) >= least for s in swaps)
        expected.append((1 + found) / 20)
    assert paired_tests(y, p, groups, pairs, resamples=19, seed=9).tolist() == expected
    assert expected[2] == 1


def test_equal_rows_and_rows_apart() -> None:
    """Equal predictions have p = 1; a row that is right where the other is wrong has the smallest p there is."""
    y = np.arange(60) % 3
    p = np.stack([y, y, (y + 1) % 3])[:, None]
    assert paired_tests(y, p, np.arange(60), [(0, 1), (0, 2)], resamples=199).tolist() == [1, 1 / 200]
    tags, noise = np.eye(3, dtype=np.int64)[y], np.random.default_rng(0).random((60, 3))
    samples = cluster_bootstrap_tags(
        tags, np.stack([noise, noise, tags + noise])[:, None], np.arange(60), resamples=199
    )
    assert shift_tests(samples, [(0, 1), (2, 0)]).tolist() == [1, 1 / 200]


def test_one_artist_decides_nothing() -> None:
    """Thirty tracks that all go one way are strong evidence, unless they are one artist's."""
    y = np.arange(90) % 3
    other = np.where(np.arange(90) < 30, (y + 1) % 3, y)
    p, pairs = np.stack([y, other])[:, None], [(0, 1)]
    assert paired_tests(y, p, np.arange(90), pairs, resamples=999)[0] < 0.01
    assert paired_tests(y, p, np.maximum(np.arange(90), 29) - 29, pairs, resamples=999)[0] == 1


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_equals_its_definition(p: list[float]) -> None:
    """Step down: p times the number of those not smaller, never less than an earlier one, at most 1."""
    expected = np.empty(len(p))
    highest = 0.0
    for rank, number in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = min(1.0, max(highest, p[number] * (len(p) - rank)))
        expected[number] = highest
    assert holm(np.array(p)) == pytest.approx(expected)


def test_odds_count_tracks_where_one_alone_is_right() -> None:
    """Over all seeds, with a half added to both counts; the other way round they are the inverse."""
    y = np.zeros(6, dtype=np.int64)
    first, second = (
        np.array([[0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0]]),
        np.array([[1, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]]),
    )
    assert matched_odds(y, first, second) == 3.5 / 2.5
    assert matched_odds(y, second, first) == pytest.approx(2.5 / 3.5)
    assert matched_odds(y, first, first) == 1


def test_rows_are_compared_as_one_family() -> None:
    """Names, differences, corrected p and odds come in the order of the pairs; those not told apart are named."""
    rng = np.random.default_rng(6)
    y, groups = np.arange(120) % 4, np.arange(120) // 2
    best = np.where(rng.random(120) < 0.8, y, rng.integers(4, size=120))
    near = np.where(rng.random(120) < 0.97, best, rng.integers(4, size=120))
    p = np.stack([near, best, rng.integers(4, size=120)])[:, None]
    samples = cluster_bootstrap(y, p, groups, n_classes=4, resamples=300)
    names, pairs = ["near", "best", "noise"], [(1, 0), (1, 2)]
    found = compare(names, pairs, samples, y=y, predictions=p, groups=groups, resamples=500)
    assert [(one.first, one.second) for one in found] == [("best", "near"), ("best", "noise")]
    plain = paired_tests(y, p, groups, pairs, resamples=500)
    assert [one.p for one in found] == plain.tolist()
    assert [one.p_holm for one in found] == holm(plain).tolist()
    assert found[1].difference == samples.difference(1, 2)
    assert found[1].odds == matched_odds(y, p[1], p[2])
    assert found[1].odds > 5
    assert indistinct(found) == ("near",)


def test_rankings_are_compared_by_their_resamples() -> None:
    """With several tags a track there are no predictions to swap and no odds."""
    rng = np.random.default_rng(7)
    y = (rng.random((80, 4)) < 0.3).astype(np.int64)
    scores = np.stack([y + rng.normal(size=y.shape), rng.normal(size=y.shape)])[:, None]
    samples = cluster_bootstrap_tags(y, scores, np.arange(80), resamples=200)
    (found,) = compare(["signal", "noise"], [(0, 1)], samples, y=y, predictions=None, groups=np.arange(80))
    assert found.odds is None
    assert found.p == found.p_holm == shift_tests(samples, [(0, 1)])[0] == 1 / 201
    assert found.difference.low > 0


def test_level_is_the_reader_s() -> None:
    """A comparison is not told apart if its corrected p is above the level."""
    one = Comparison(first="a", second="b", difference=Interval(0.1, 0.0, 0.2), p=0.01, p_holm=0.04, odds=2.0)
    assert indistinct([one]) == ()
    assert indistinct([one], level=0.01) == ("b",)


def test_nothing_to_compare_is_an_empty_family() -> None:
    """A table of one row has no pairs."""
    y = np.arange(4) % 2
    samples = cluster_bootstrap(y, y[None, None], np.arange(4), n_classes=2, resamples=5)
    for p in (None, y[None, None]):
        assert compare(["only"], [], samples, y=y, predictions=p, groups=np.arange(4)) == ()
