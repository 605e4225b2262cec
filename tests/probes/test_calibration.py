"""Probabilities that match frequencies, and thresholds that keep their promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from embedstore.errors import ParameterError
from probes.calibration import (
    Calibration,
    RiskCurve,
    brier_score,
    calibrate,
    calibration_error,
    fit_calibration,
    risk_curve,
)


def simulated(n: int = 4000, n_classes: int = 5, spread: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and classes with just the probabilities that they give."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(n, n_classes))
    return logits, (softmax(logits, 1).cumsum(1) < rng.random((n, 1))).sum(1).clip(max=n_classes - 1)


@pytest.mark.parametrize("stretch", [0.01, 0.3, 1.0, 20.0])
def test_the_temperature_is_found(stretch):
    """Scores that are the true logits times any factor (and plus any number a row) become the true probabilities."""
    logits, y = simulated()
    scores = stretch * logits + np.random.default_rng(1).normal(size=(len(y), 1))
    found = fit_calibration(scores, y)
    assert found.slope[0] * stretch == pytest.approx(1, abs=0.06)
    assert np.abs(found(scores) - softmax(logits, 1)).max() < 0.03
    assert (found(scores).argmax(1) == scores.argmax(1)).all()


def test_the_temperature_has_the_least_loss():
    """No other slope on a grid does better, and with two classes it is the slope of a logistic regression on the gap."""
    logits, y = simulated(n=400, n_classes=2)
    found = fit_calibration(3 * logits, y)
    grid = [log_loss(y, softmax(slope * 3 * logits, 1)) for slope in found.slope[0] * np.linspace(0.5, 2, 101)]
    assert log_loss(y, found(3 * logits)) <= min(grid) + 1e-4  # the imagined track moves it by so little
    gap = 3 * (logits[:, 1:] - logits[:, :1])
    assert found.slope[0] == pytest.approx(
        LogisticRegression(C=1e9, fit_intercept=False).fit(gap, y).coef_[0, 0], rel=0.02
    )


def test_scores_without_mistake_or_sense_stay_finite():
    """Perfect scores end near certainty, random and turned ones near the frequencies, equal ones at 1/n."""
    y = np.arange(300) % 3
    assert 0.98 < fit_calibration(np.eye(3)[y], y)(np.eye(3)[y]).max() < 1
    assert np.allclose(fit_calibration(-np.eye(3)[y], y)(np.eye(3)[:1]), 1 / 3)
    assert np.allclose(fit_calibration(np.zeros((300, 3)), y)(np.zeros((1, 3))), 1 / 3)


def test_shares_of_votes():
    """They are taken as logarithms: shares that are the truth are left as they are."""
    logits, y = simulated()
    found = fit_calibration(softmax(logits, 1), y)
    assert found.shares
    assert np.abs(found(softmax(logits, 1)) - softmax(logits, 1)).max() < 0.03
    assert np.isfinite(found(np.array([[1.0, 0, 0, 0, 0]]))).all()


def test_classes_that_were_not_learned():
    """-inf counts as the lowest score of its row; NaN, +inf and rows of -inf are refused."""
    plain = Calibration(np.ones(3), np.zeros(3))
    assert np.array_equal(plain(np.array([[1.0, 0.0, -np.inf]])), plain(np.array([[1.0, 0.0, 0.0]])))
    for wrong in (np.nan, np.inf):
        with pytest.raises(ParameterError, match="scores are finite, or -inf"):
            plain(np.array([[1.0, wrong, 0.0]]))
    with pytest.raises(ParameterError, match="only -inf"):
        plain(np.full((1, 3), -np.inf))


def test_tags_are_scaled_one_by_one():
    """Platt's slope and bias come back for each tag; a rare tag has those of all tags together."""
    rng = np.random.default_rng(0)
    scores, slope, bias = rng.normal(size=(6000, 3)), np.array([1.0, 3.0, 0.5]), np.array([0.0, -2.0, 1.0])
    y = (rng.random(scores.shape) < 1 / (1 + np.exp(-slope * scores - bias))).astype(np.int64)
    found = fit_calibration(scores, y)
    assert np.allclose(found.slope, slope, atol=0.25)
    assert np.allclose(found.bias, bias, atol=0.25)
    oracle = LogisticRegression(C=1e9).fit(scores[:, 1:2], y[:, 1])
    assert (found.slope[1], found.bias[1]) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=0.02)
    y[9:, 2] = 0
    shared = fit_calibration(scores, y)
    oracle = LogisticRegression(C=1e9).fit(scores.reshape(-1, 1), y.ravel())
    assert (shared.slope[2], shared.bias[2]) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=0.02)
    assert shared.slope[0] == found.slope[0]


def test_calibration_error_equals_a_plain_loop():
    """Also of tags; scikit-learn's reliability diagram gives the same sum."""
    rng = np.random.default_rng(0)
    probabilities, y = softmax(rng.normal(size=(300, 4)), 1), rng.integers(0, 4, 300)
    top, right = probabilities.max(1), probabilities.argmax(1) == y
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (top > low) & (top <= low + 1 / 15)
        total += abs(top[inside].sum() - right[inside].sum())
    assert calibration_error(probabilities, y) == pytest.approx(total / 300, abs=1e-12)
    share, said = calibration_curve(right, top, n_bins=15)
    sizes = np.histogram(top, np.linspace(0, 1, 16))[0]
    assert calibration_error(probabilities, y) == pytest.approx((np.abs(share - said) * sizes[sizes > 0]).sum() / 300)
    tags = (rng.random((300, 4)) < probabilities).astype(np.int64)
    share, said = calibration_curve(tags.ravel(), probabilities.ravel(), n_bins=15)
    sizes = np.histogram(probabilities, np.linspace(0, 1, 16))[0]
    assert calibration_error(probabilities, tags) == pytest.approx(
        (np.abs(share - said) * sizes[sizes > 0]).sum() / 1200
    )
    assert calibration_error(np.eye(4)[y], y) == 0
    assert calibration_error(np.eye(4)[(y + 1) % 4], y) == 1


def test_brier_score_equals_sklearn():
    """Of classes it is summed, of tags averaged."""
    rng = np.random.default_rng(0)
    probabilities, y = softmax(rng.normal(size=(300, 4)), 1), rng.integers(0, 4, 300)
    oracle = sum(brier_score_loss(y == one, probabilities[:, one]) for one in range(4))
    assert brier_score(probabilities, y) == pytest.approx(oracle, abs=1e-12)
    tags = rng.integers(0, 2, (300, 4))
    oracle = np.mean([brier_score_loss(tags[:, one], probabilities[:, one]) for one in range(4)])
    assert brier_score(probabilities, tags) == pytest.approx(oracle, abs=1e-12)


def test_calibrate_is_measured_on_other_groups():
    """Overconfident scores become honest; what is reported is what fresh tracks show; untested rows are left out."""
    logits, y = simulated(n=1500)
    scores = np.stack([4 * logits, 4 * logits])
    found = calibrate(scores, y, np.arange(1500) // 5)
    assert found.before["calibration_error"] > 0.1
    assert found.after["calibration_error"] < 0.03
    assert found.after["brier"] < found.before["brier"]
    fresh, truth = simulated(n=4000, seed=1)
    assert found.after["log_loss"] == pytest.approx(log_loss(truth, found.calibration(4 * fresh)), abs=0.05)
    scores[1, :700] = np.nan
    assert calibrate(scores, y, np.arange(1500) // 5).calibration.slope[0] == pytest.approx(0.25, abs=0.02)


def test_calibrate_cannot_be_fooled_by_groups():
    """A slope that only fits the groups it was fitted on does not make the report look good."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 40)
    scores = np.where(y[:, None] == np.arange(2), 1.0, 0.0)
    groups = np.repeat([0, 1], 20)
    scores[groups == 1] = 1 - scores[groups == 1]  # right for one group, wrong for the other
    found = calibrate(scores[None], y, groups)
    assert found.after["calibration_error"] > 0.4


@pytest.mark.parametrize("scores", [np.zeros((2, 5, 3)), np.zeros((4, 3)), np.full((1, 4, 3), np.nan)])
def test_scores_of_another_shape_are_refused(scores):
    """One clear line, whatever was confused."""
    with pytest.raises(ParameterError, match="scores"):
        calibrate(scores, np.arange(4) % 3, np.arange(4))


def test_the_curve_counts_wrong_answers():
    """Coverage and risk at each threshold equal those counted by hand."""
    logits, y = simulated(n=500)
    shares = softmax(logits, 1)
    top, wrong = shares.max(1), shares.argmax(1) != y
    curve = risk_curve(top, wrong, np.arange(500))
    assert (curve.thresholds[-1], curve.coverage[-1], curve.risk[-1]) == (0, 1, wrong.mean())
    for threshold, coverage, risk, bound in zip(curve.thresholds, curve.coverage, curve.risk, curve.bound, strict=True):
        assert (coverage, risk) == pytest.approx(((top >= threshold).mean(), wrong[top >= threshold].mean()))
        assert risk < bound
    threshold, coverage = curve.threshold_for(0.3)
    place = curve.thresholds.index(threshold)
    assert curve.bound[place] <= 0.3 < min(curve.bound[place + 1 :])
    assert coverage == curve.coverage[place]


def test_a_risk_that_cannot_be_promised():
    """Says why, few tracks or a weak probe, and what could be."""
    curve = RiskCurve((0.9, 0.0), (0.5, 1.0), (0.1, 0.3), (0.2501, 0.4))
    assert curve.threshold_for(0.3) == (0.9, 0.5)
    with pytest.raises(
        ParameterError,
        match=r"at most 0\.2 wrong.*surest 50% .* in 10\.0% .* so few that it may be 25\.0%.*promised is 0\.251:",
    ):
        curve.threshold_for(0.2)
    assert curve.threshold_for(0.251) == (0.9, 0.5)
    with pytest.raises(ParameterError, match=r"at most 0\.05 wrong .*too weak: at best, the surest 50% .* in 10\.0%"):
        curve.threshold_for(0.05)
    for risk in (0, 1, np.nan):
        with pytest.raises(ParameterError, match="between 0 and 1"):
            curve.threshold_for(risk)


def test_one_threshold_of_a_weak_probe():
    """That 66 % were wrong is not for want of tracks."""
    with pytest.raises(ParameterError, match="too weak: at best, the surest 100%") as caught:
        RiskCurve((0.0,), (1.0,), (0.66,), (0.7,)).threshold_for(0.5)
    assert "few" not in str(caught.value)


def test_bounds_know_of_groups():
    """Errors that come in groups count less: the same numbers with errors shared by whole groups give a wider bound."""
    wrong = np.arange(400) % 4 == 0
    alone = risk_curve(np.ones(400), wrong, np.arange(400)).bound[0]
    together = risk_curve(np.ones(400), np.sort(wrong), np.arange(400) // 20).bound[0]
    assert 0.25 < alone < 0.35 < together
    assert risk_curve(np.ones(800), np.tile(wrong, 2), np.tile(np.arange(400), 2), 2).bound[0] == pytest.approx(
        alone, abs=0.01
    )
    assert 0 < risk_curve(np.ones(100), np.zeros(100, bool), np.arange(100)).bound[0] < 0.07


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_a_promised_risk_is_kept(shared):
    """Over 100 samples, the true risk above the chosen threshold exceeds the promise in at most 5 %: also in groups."""
    rng = np.random.default_rng(0)
    everywhere = rng.beta(3, 2, 20_000)
    broken = kept = 0
    for _ in range(100):
        groups = np.arange(400) // 5
        luck = np.where(rng.random(400) < shared, rng.random(80)[groups], rng.random(400))
        top = rng.beta(3, 2, 400)
        try:
            threshold, _coverage = risk_curve(top, luck > top, groups).threshold_for(0.3)
        except ParameterError:
            continue
        kept += 1
        broken += (1 - everywhere[everywhere >= threshold]).mean() > 0.3
    assert kept > 50
    assert broken <= 5
