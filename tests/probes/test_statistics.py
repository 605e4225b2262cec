"""The bootstrap draws whole groups and agrees with a plain loop; that it covers is shown in test_simulated.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from sklearn import metrics

from embedstore.errors import ParameterError
from probes import statistics
from probes.measures import average_precision, mean_over_tags, rankable, roc_auc
from probes.statistics import cluster_bootstrap, cluster_bootstrap_tags, resample_counts, widening, widening_of_tags


def _groups(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    return np.unique(rng.integers(size, size=n), return_inverse=True)[1]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_equals_a_plain_loop_over_the_same_resamples() -> None:
    """Rows repeated as often as their group was drawn, scored by scikit-learn, give the same samples."""
    rng = np.random.default_rng(1)
    n, n_classes, resamples = 40, 3, 12
    groups = _groups(rng, n, 9)
    y, predictions = np.where(groups == 0, 2, rng.integers(2, size=n)), rng.integers(n_classes, size=(2, 2, n))
    samples = cluster_bootstrap(y, predictions, groups, n_classes=n_classes, resamples=resamples, seed=7)
    counts = resample_counts(groups.max() + 1, resamples, np.random.default_rng([7, 0xB007]))
    assert (counts[:, 0] == 0).any(), "some resample must miss the third class"
    for b, drawn in enumerate(counts):
        rows = np.repeat(np.arange(n), drawn[groups])
        for layer in range(2):
            pairs = [(y[rows], predictions[layer, seed][rows]) for seed in range(2)]
            present = np.unique(y[rows])
            f1 = [metrics.f1_score(*p, labels=present, average="macro", zero_division=0) for p in pairs]
            assert samples["macro_f1"][b, layer] == pytest.approx(np.mean(f1), abs=1e-12)
            accuracy = [metrics.accuracy_score(*p) for p in pairs]
            assert samples["accuracy"][b, layer] == pytest.approx(np.mean(accuracy), abs=1e-12)
            each = np.mean(
                [metrics.f1_score(*p, labels=range(3), average=None, zero_division=0) for p in pairs], axis=0
            )
            each[~np.isin(range(3), present)] = np.nan
            assert samples.by_class[b, layer] == pytest.approx(each, abs=1e-6, nan_ok=True)
            balanced = [metrics.balanced_accuracy_score(*p) for p in pairs]
            assert samples["balanced_accuracy"][b, layer] == pytest.approx(np.mean(balanced), abs=1e-12)


@pytest.mark.parametrize("levels", [3, 10**6])
def test_rankings_equal_a_plain_loop_over_the_same_resamples(levels: int) -> None:
    """The same for tags, with ties and without; tags with one value are left out, of single resamples too."""
    rng = np.random.default_rng(2)
    n, n_tags, resamples = 40, 5, 10
    groups = _groups(rng, n, 9)
    y = (rng.random((n, n_tags)) < 0.2).astype(np.int64)
    y[:, 0], y[:, 1], y[:, 2], y[:, 3] = 0, 1, groups == 0, groups != 1
    scores = rng.integers(levels, size=(2, 2, n, n_tags)).astype(np.float32)
    samples = cluster_bootstrap_tags(y, scores, groups, resamples=resamples, seed=7)
    counts = resample_counts(groups.max() + 1, resamples, np.random.default_rng([7, 0xB007]))
    assert (counts[:, :2] == 0).any(0).all(), (
        "some resamples must lack tracks with the third tag, or without the fourth"
    )
    for b, drawn in enumerate(counts):
        rows = np.repeat(np.arange(n), drawn[groups])
        tags = np.flatnonzero(rankable(y[rows]))
        for layer in range(2):
            pairs = [(y[rows, tag], scores[layer, seed, rows, tag]) for seed in range(2) for tag in tags]
            precisions = [metrics.average_precision_score(*p) for p in pairs]
            assert samples["map"][b, layer] == pytest.approx(np.mean(precisions), abs=1e-12)
            each = np.full(n_tags, np.nan)
            each[tags] = np.reshape(precisions, (2, -1)).mean(0)
            assert samples.by_class[b, layer] == pytest.approx(each, abs=1e-6, nan_ok=True)
            areas = [metrics.roc_auc_score(*p) for p in pairs]
            assert samples["roc_auc"][b, layer] == pytest.approx(np.mean(areas), abs=1e-12)
    assert samples.observed["map"] == pytest.approx(mean_over_tags(average_precision(y, scores)), abs=1e-12)
    assert samples.observed["roc_auc"] == pytest.approx(mean_over_tags(roc_auc(y, scores)), abs=1e-12)


def test_blocks_do_not_change_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passing the resamples in many small blocks gives the same samples, in the same order."""
    rng = np.random.default_rng(2)
    y, p, groups = rng.integers(3, size=60), rng.integers(3, size=(1, 1, 60)), np.arange(60) // 3
    tags, scores = np.eye(3, dtype=np.int64)[y], rng.random((1, 1, 60, 3))

    def both() -> list[np.ndarray]:
        genres = cluster_bootstrap(y, p, groups, n_classes=3, resamples=50)
        of_tags = cluster_bootstrap_tags(tags, scores, groups, resamples=50)
        return [genres["macro_f1"], of_tags["map"], genres.by_class[:30], of_tags.by_class[:30]]

    whole = both()
    monkeypatch.setattr(statistics, "_CELLS", 500)
    monkeypatch.setattr(statistics, "_OF_CLASSES", 30)
    for one, other in zip(whole, both(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_intervals_of_classes() -> None:
    """They stand about the score, wider by sqrt(g / (g - 1)) and Student's t for g groups alike."""
    rng = np.random.default_rng(5)
    y, groups = np.arange(120) % 2, np.arange(120) // 12 * 2 + np.arange(120) % 2
    p = np.where(rng.random(120) < 0.6, y, 1 - y)[None, None]
    samples = cluster_bootstrap(y, p, groups, n_classes=3, resamples=300)
    widen = np.sqrt(10 / 9) * student(9).ppf(0.975) / norm.ppf(0.975)
    assert samples.widen_class[:2] == pytest.approx(widen)
    first, _, nobody = samples.class_intervals(0, np.array([0.6, 0.6, 0.0]))
    moved = samples.by_class[:, 0, 0].astype(float)
    low, high = np.percentile(moved, [2.5, 97.5])
    assert (first.low, first.high) == pytest.approx(0.6 + widen * (np.array([low, high]) - moved.mean()))
    assert nobody is None, "of a class that nobody has"


@pytest.mark.parametrize(
    ("groups_behind", "wrong", "told"),
    [
        (20, range(20), False),  # never recognised
        (20, (), False),  # always
        (20, range(2), False),  # always, but for two groups
        (20, range(18), False),  # in two groups only
        (20, range(17), True),
        (20, range(3), True),
        (5, range(2), False),  # resamples agree too often
        (4, range(2), False),
        (1, (), False),
    ],
)
def test_classes_without_an_interval(groups_behind: int, wrong: Sequence[int], told: bool) -> None:
    """Where resamples cannot vary as other artists would, there is none, rather than one of no width."""
    sizes = [groups_behind, 20]
    y, groups = np.repeat(np.repeat([0, 1], sizes), 3), np.repeat(np.arange(sum(sizes)), 3)
    p = np.where(np.isin(groups, wrong), 2, y)[None, None]
    scores = np.eye(3)[p]
    tags = cluster_bootstrap_tags(np.eye(3, dtype=np.int64)[y], scores, groups, resamples=100)
    samples = cluster_bootstrap(y, p, groups, n_classes=3, resamples=2000)
    found = samples.class_intervals(0, np.array([0.5, 1.0, 0.0]))
    assert [one is not None for one in found] == [told, False, False]
    assert all(one is None or one.low < one.high for one in tags.class_intervals(0, np.array([0.5, 1.0, 0.0])))


def test_samples_give_scores_and_differences_with_intervals() -> None:
    """The interval of a score stands about the score; that of a difference comes from the same resamples, so is narrow."""
    rng = np.random.default_rng(4)
    y = rng.integers(3, size=90)
    p = np.where(rng.random((2, 2, 90)) < 0.6, y, rng.integers(3, size=(2, 2, 90)))
    p[1, :, 2:] = p[0, :, 2:]  # differ in two tracks
    samples = cluster_bootstrap(y, p, np.arange(90), n_classes=3, resamples=200)
    assert (samples.main, list(samples), len(samples)) == (
        "macro_f1",
        ["macro_f1", "accuracy", "balanced_accuracy"],
        200,
    )
    score, apart = samples.interval("accuracy", 0), samples.difference(0, 1)
    assert score.value == pytest.approx((p[0] == y).mean(), abs=1e-12)
    assert score.low < score.value < score.high
    assert apart.value == pytest.approx(np.subtract(*samples.observed["macro_f1"].mean(1)), abs=1e-12)
    assert apart.high - apart.low < (score.high - score.low) / 3
    wider = replace(samples, widen=2 * samples.widen)
    for one, other in ((score, wider.interval("accuracy", 0)), (apart, wider.difference(0, 1))):
        assert other.high - other.low == pytest.approx(2 * (one.high - one.low))
    assert samples.difference(0, 0) == type(score)(0.0, 0.0, 0.0)
    same = cluster_bootstrap(y, np.stack([y, (y + 1) % 3])[:, None], np.arange(90), n_classes=3, resamples=200)
    assert same.difference(1, 0).low == -1, "a difference may be below 0"


def test_tracks_of_one_artist_are_no_independent_witnesses() -> None:
    """Ten copies of each row do not narrow the interval if they are one group, and do if each is counted alone."""
    rng = np.random.default_rng(3)
    y = np.repeat(rng.integers(2, size=30), 10)
    p = np.repeat(rng.integers(2, size=30), 10)[None, None]
    tags, scores = np.eye(2, dtype=np.int64)[y], np.repeat(rng.random((30, 2)), 10, axis=0)[None, None]

    def widths(groups: np.ndarray) -> list[float]:
        drawn = (
            cluster_bootstrap(y, p, groups, n_classes=2, resamples=500),
            cluster_bootstrap_tags(tags, scores, groups, resamples=500),
        )
        intervals = [samples.interval(measure, 0) for samples in drawn for measure in samples]
        return [interval.high - interval.low for interval in intervals]

    together, alone = widths(np.repeat(np.arange(30), 10)), widths(np.arange(300))
    assert all(one > 2 * other for one, other in zip(together, alone, strict=True))


def test_few_groups_widen_the_interval() -> None:
    """The factor counts groups in each class; a rare tag widens more, as does one artist with most of a tag's tracks."""
    assert widening(30, 10) == pytest.approx(np.sqrt(1.5))
    y, groups = np.eye(2, dtype=np.int64)[np.arange(24) % 2], np.arange(24)
    even = widening_of_tags(y, groups)
    assert even == pytest.approx(widening(24, 2))
    rare = y.copy()
    rare[4:, 0] = 0
    assert widening_of_tags(rare, groups) > even
    assert widening_of_tags(y, np.maximum(groups - 12, 0) // 2) > widening_of_tags(y, groups // 4), "6 artists each"
    assert np.isfinite(widening_of_tags(y, np.zeros(24, dtype=np.int64)))


def test_nothing_to_rank_is_one_clear_line() -> None:
    """Tags that all tracks have or none has cannot be ranked."""
    y = np.tile([0, 1], (5, 1))
    with pytest.raises(ParameterError, match="none of 2 tags has both tracks with it and tracks without"):
        cluster_bootstrap_tags(y, np.zeros((1, 1, 5, 2)), np.arange(5))
