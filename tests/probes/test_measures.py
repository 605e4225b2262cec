"""Scores equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from probes.measures import (
    Tallies,
    accuracy,
    average_precision,
    balanced_accuracy,
    confusion,
    f1_per_class,
    macro_f1,
    mean_over_tags,
    rankable,
    roc_auc,
    tally,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_scores_equal_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    """Every measure agrees with sklearn.metrics to 1e-12, absent classes included."""
    y, p = np.array(pairs, dtype=np.int64).T
    t = tally(y, p, 5)
    options = {"labels": range(5), "zero_division": 0}
    assert macro_f1(t) == pytest.approx(metrics.f1_score(y, p, average="macro", **options), abs=1e-12)
    assert f1_per_class(t) == pytest.approx(metrics.f1_score(y, p, average=None, **options), abs=1e-12)
    assert accuracy(t) == pytest.approx(metrics.accuracy_score(y, p), abs=1e-12)
    present = np.unique(y)
    recalls = metrics.recall_score(y, p, labels=present, average="macro", zero_division=0)
    assert balanced_accuracy(t) == pytest.approx(recalls, abs=1e-12)
    assert macro_f1(t, absent="skip") == pytest.approx(
        metrics.f1_score(y, p, average="macro", labels=present, zero_division=0), abs=1e-12
    )
    assert (confusion(y, p, 5) == metrics.confusion_matrix(y, p, labels=range(5))).all()


def test_many_rows_are_scored_at_once() -> None:
    """Leading axes are layers, seeds, ...: each is scored as if alone."""
    rng = np.random.default_rng(0)
    y, p = rng.integers(4, size=30), rng.integers(4, size=(3, 2, 30))
    together = macro_f1(tally(y, p, 4))
    assert together.shape == (3, 2)
    assert together[2, 1] == macro_f1(tally(y, p[2, 1], 4))


def test_absent_class_is_zero_or_left_out() -> None:
    """A class nobody has and nobody predicted counts 0 by default and is left out on request."""
    t = Tallies(np.array([2, 0]), np.array([2, 0]), np.array([2, 0]))
    assert macro_f1(t) == 0.5
    assert macro_f1(t, absent="skip") == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 3), st.sampled_from([1, 2, 5, 10**6]), st.integers(0, 2**32))
def test_rankings_equal_scikit_learns(n: int, n_tags: int, levels: int, seed: int) -> None:
    """Average precision and ROC-AUC of each tag agree to 1e-12 with ties and without; nan where all or none have the tag."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_tags)) < rng.random(n_tags)).astype(np.int64)
    scores = rng.integers(-levels, levels, size=(2, 1, n, n_tags)).astype(np.float32)
    precisions, areas = average_precision(y, scores), roc_auc(y, scores)
    assert precisions.shape == areas.shape == (2, 1, n_tags)
    for tag in range(n_tags):
        for i, j in np.ndindex(2, 1):
            if 0 < y[:, tag].sum() < n:
                pair = y[:, tag], scores[i, j, :, tag]
                assert precisions[i, j, tag] == pytest.approx(metrics.average_precision_score(*pair), abs=1e-12)
                assert areas[i, j, tag] == pytest.approx(metrics.roc_auc_score(*pair), abs=1e-12)
            else:
                assert np.isnan([precisions[i, j, tag], areas[i, j, tag]]).all()


def test_means_leave_out_tags_with_one_value() -> None:
    """Macro means equal scikit-learn's over the tags that can be ranked, which are told; without any they are nan."""
    rng = np.random.default_rng(0)
    y = (rng.random((30, 5)) < 0.4).astype(np.int64)
    y[:, 1], y[:, 3] = 0, 1
    scores = rng.integers(6, size=(30, 5)) / 6
    kept = [0, 2, 4]
    assert rankable(y).tolist() == [True, False, True, False, True]
    expected = metrics.average_precision_score(y[:, kept], scores[:, kept], average="macro")
    assert mean_over_tags(average_precision(y, scores)) == pytest.approx(expected, abs=1e-12)
    expected = metrics.roc_auc_score(y[:, kept], scores[:, kept], average="macro")
    assert mean_over_tags(roc_auc(y, scores)) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(mean_over_tags(average_precision(y[:, [1, 3]], scores[:, [1, 3]])))
