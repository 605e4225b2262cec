"""From scores to probabilities that can be believed, and when to say "not sure".

Everything is learned from scores of tracks that the probe did not see in training (out of fold), and what is reported of
it is learned without the tracks that it is measured on: whole groups are left out once more.

One label a track: ``softmax(slope * scores)``, temperature scaling with slope 1/T (Guo et al. 2017, arXiv:1706.04599,
section 4.2). A bias for each class as well made every probe worse on 585 tracks of 13 genres (log loss +0.01 to +0.02),
so there is none. Several tags: ``sigmoid(slope * score + bias)`` for each tag (Platt 1999), with one slope and bias of all
tags for one that few tracks have, or lack. Slopes are never negative: what scored higher stays likelier. Shares of votes,
which add up to 1, go in as logarithms (none is taken for less than 0.001).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from probes.base import Ints, Matrix, indicators

__all__ = [
    "Calibrated",
    "Calibration",
    "RiskCurve",
    "brier_score",
    "calibrate",
    "calibration_error",
    "fit_calibration",
    "risk_curve",
]

BINS = 15  # of calibration errors, as in Guo et al.
SURE = 0.95  # of all bounds of a risk curve together
_FOLDS = 5
_LEVELS = 20  # of coverage, in a risk curve
_LEAST = 10  # tracks with a tag, and as many without it, for a slope and bias of its own
_LEAST_SHARE = 1e-3
_STEEPEST = 1e18  # of a slope: rounding noise for scores does not reach it, and a logit stays finite


@dataclass(frozen=True, repr=False, eq=False)
class Calibration:
    """How scores become probabilities.

    Attributes
    ----------
    slope, bias : float64 arrays, shape (n_classes,)
        With one label a track the slopes are equal, and the biases 0.
    multilabel : bool
    shares : bool
        The scores are shares of votes: take their logarithm first.
    """

    slope: Matrix
    bias: Matrix
    multilabel: bool = False
    shares: bool = False

    def __post_init__(self) -> None:
        if not ((self.slope >= 0) & (self.slope <= _STEEPEST)).all() or not np.isfinite(self.bias).all():
            raise ParameterError(
                f"slopes are within 0..{_STEEPEST:g}, biases finite; got {self.slope.min():g}..{self.slope.max():g}"
            )

    def __call__(self, scores: Matrix) -> Matrix:
        """Turn scores into probabilities, shape (..., n_classes); -inf counts as the lowest score of its row.

        Raises
        ------
        ParameterError
            A score is NaN or +inf.

        Examples
        --------
        >>> Calibration(np.full(3, 2.0), np.zeros(3))(np.array([[1.0, 0.0, 0.0]])).round(3)
        array([[0.787, 0.107, 0.107]])
        """
        from scipy.special import expit, softmax

        logits = self.slope * _prepared(scores, self.shares) + self.bias
        return np.asarray(expit(logits) if self.multilabel else softmax(logits, axis=-1))


def _prepared(scores: Matrix, shares: bool) -> Matrix:
    """Give a class that a training part lacked (-inf) the lowest score of its row: nothing speaks for it."""
    finite = np.isfinite(scores)
    if not (finite | (scores == -np.inf)).all() or not finite.any(-1).all():
        raise ParameterError(
            "scores are finite, or -inf for a class that was not learned; found NaN, +inf or only -inf"
        )
    filled = np.where(finite, scores, np.where(finite, scores, np.inf).min(-1, keepdims=True))
    return np.log(np.maximum(filled, _LEAST_SHARE)) if shares else filled


def _are_shares(scores: Matrix) -> bool:
    filled = np.where(scores == -np.inf, 0, scores)
    return bool((filled >= 0).all() and np.allclose(filled.sum(-1), 1, atol=1e-6))


def fit_calibration(scores: Matrix, y: Ints, repeats: float = 1) -> Calibration:
    """Find the slopes (and biases) of least log loss.

    Parameters
    ----------
    scores : float64 array, shape (n, n_classes)
        Out of fold: votes, margins or logits; -inf for a class that the training part lacked.
    y : int64 array, shape (n,), or (n, n_classes)
        Class numbers, or 1 for each tag that is given.
    repeats : float
        How many rows there are of each track (one for each seed).

    Notes
    -----
    One imagined track that is a little of every class (with tags: one that has a tag, one that has not) keeps slopes
    finite where the scores make no mistake, as the targets of Platt do.
    """
    n_classes, multilabel = scores.shape[-1], y.ndim == 2
    shares = not multilabel and _are_shares(scores)
    z, targets = _prepared(scores, shares), indicators(y, np.arange(n_classes))
    if not multilabel:
        smooth = targets + (1 / n_classes - targets) / (len(y) / repeats + 1)
        return Calibration(np.full(n_classes, _temperature(z, smooth)), np.zeros(n_classes), shares=shares)
    shared = _platt(z, targets)
    given = targets.sum(0)
    own = np.minimum(given, len(y) - given) >= _LEAST * repeats
    both = [_platt(z[..., t], targets[:, t]) if own[t] else shared for t in range(n_classes)]
    slope, bias = np.array(both).T
    return Calibration(slope, bias, multilabel=True)


def _temperature(z: Matrix, targets: Matrix) -> float:
    """Minimise the mean cross-entropy of softmax(slope z), which is convex in the slope."""
    from scipy.special import log_softmax

    def objective(point: Matrix) -> tuple[float, Matrix]:
        logs = log_softmax(point[0] * unit, axis=-1)
        return -(targets * logs).sum(-1).mean(), np.array([((np.exp(logs) - targets) * unit).sum(-1).mean()])

    spread = _spread(z - z.mean(-1, keepdims=True))
    unit = z / spread
    return float(_least(objective, [1.0])[0] / spread)


def _platt(s: Matrix, targets: Matrix) -> tuple[float, float]:
    """Minimise the mean cross-entropy of sigmoid(slope s + bias)."""
    from scipy.special import expit

    given, lacking = targets.sum(), (1 - targets).sum()
    smooth = np.where(targets == 1, (given + 1) / (given + 2), 1 / (lacking + 2))
    spread = _spread(s - s.mean())
    unit = (s - s.mean()) / spread

    def objective(point: Matrix) -> tuple[float, Matrix]:
        logit = point[0] * unit + point[1]
        error = expit(logit) - smooth
        return float((np.logaddexp(0, logit) - smooth * logit).mean()), np.array([(error * unit).mean(), error.mean()])

    slope, bias = _least(objective, [1.0, 0.0])
    return float(slope / spread), float(bias - slope * s.mean() / spread)


def _spread(centred: Matrix) -> float:
    return float(centred.std()) or 1.0  # one start serves votes and logits


def _least(objective: Callable[[Matrix], tuple[float, Matrix]], start: list[float]) -> Matrix:
    from scipy.optimize import minimize

    bounds = [(0, None)] + [(None, None)] * (len(start) - 1)
    options = {"ftol": 1e-14, "gtol": 1e-9}
    return np.asarray(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x)


def calibration_error(probabilities: Matrix, y: Ints, bins: int = BINS) -> float:
    """Say how far probabilities are from frequencies: the expected calibration error, 0..1.

    Tracks are put into `bins` of equal width by the probability of the likeliest class (with tags: track and tag pairs, by
    the tag's probability; a bin holds its upper end); the error is the mean over tracks of the distance, in the bin, of
    the mean probability from the share that is right. (Naeini et al. 2015; Guo et al. 2017, equation 5.) It is never
    quite 0, as bins of few tracks stray: about 0.05 for 500 tracks.

    Parameters
    ----------
    probabilities : float64 array, shape (n, n_classes)
    y : int64 array, shape (n,), or (n, n_classes)
    """
    if y.ndim == 2:
        said, right = probabilities.ravel(), y.ravel() == 1
    else:
        said, right = probabilities.max(1), probabilities.argmax(1) == y
    place = np.clip(np.ceil(said * bins).astype(np.int64) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, said - right, bins)).sum() / len(said))


def brier_score(probabilities: Matrix, y: Ints) -> float:
    """Give the mean squared distance of probabilities from the truth (Brier 1950).

    With one label a track summed over classes, 0..2; with tags averaged over them, 0..1. Shapes as for `calibration_error`.
    """
    squares = (probabilities - indicators(y, np.arange(probabilities.shape[-1]))) ** 2
    return float(squares.mean() if y.ndim == 2 else squares.sum(-1).mean())


@dataclass(frozen=True)
class RiskCurve:
    """How often the answer is wrong among the tracks whose top probability is at least a threshold.

    Attributes
    ----------
    thresholds : tuple of float
        Falling, at least one; the last is 0: it answers all.
    coverage : tuple of float
        Share of the tracks that get an answer.
    risk : tuple of float
        Share of wrong answers among them.
    bound : tuple of float
        What the risk is below, with 95 % confidence in all bounds at once.
    """

    thresholds: tuple[float, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    bound: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.thresholds, self.coverage, self.risk, self.bound)
        plain = all(type(value) in (int, float) and 0 <= value <= 1 for column in columns for value in column)
        if not plain or len(set(map(len, columns))) > 1 or self.thresholds[-1:] != (0,):
            raise ParameterError(
                "a risk curve has equally many thresholds, coverages, risks and bounds, all within 0..1, the last threshold 0; "
                f"got {columns!r:.200}"
            )
        if any(np.diff(self.thresholds) >= 0) or any(np.diff(self.coverage) < 0):
            raise ParameterError(f"the thresholds of a risk curve fall, its coverage grows; got {columns[:2]!r:.200}")

    def threshold_for(self, risk: float) -> tuple[float, float]:
        """Choose the threshold that answers most tracks with at most this share of wrong answers, by the bound.

        Returns
        -------
        threshold, coverage : float

        Raises
        ------
        ParameterError
            `risk` is not within 0..1, or no threshold reaches it; says what could be promised.
        """
        if not 0 < risk < 1:
            raise ParameterError(f"a risk is a share of wrong answers between 0 and 1; got {risk}")
        if not (reached := [place for place, bound in enumerate(self.bound) if bound <= risk]):
            raise ParameterError(
                f"no threshold promises at most {risk:g} wrong answers: {self._why_not(risk)}; the least that can be promised is "
                f"{np.ceil(1000 * min(self.bound)) / 1000:g}: allow that, or set a threshold yourself"
            )
        return self.thresholds[reached[-1]], self.coverage[reached[-1]]

    def _why_not(self, risk: float) -> str:
        """Say what is in the way of a risk: the probe, or the number of tracks that could vouch for it."""
        near = [place for place, measured in enumerate(self.risk) if measured <= risk]
        best = min(near, key=self.bound.__getitem__) if near else int(np.argmin(self.risk))
        found = f"the surest {self.coverage[best]:.0%} of the tracks were answered wrongly in {self.risk[best]:.1%} of the cases"
        if near:
            return f"{found}, but these are so few that it may be {self.bound[best]:.1%}"
        return f"the probe is too weak: at best, {found}"


def risk_curve(confidence: Matrix, wrong: NDArray[np.bool_], groups: Ints, repeats: float = 1) -> RiskCurve:
    """Measure the risk at 20 levels of coverage, with bounds that know of groups.

    Parameters
    ----------
    confidence : float64 array, shape (n,)
        Top probabilities, out of fold.
    wrong : bool array, shape (n,)
    groups : int64 array, shape (n,)
    repeats : float
        How many rows there are of each track (one for each seed).

    Notes
    -----
    The bound is Clopper and Pearson's for the effective number of tracks, by which errors that come in groups count less
    (Korn and Graubard 1998), at 1 - 0.05 / 20, so that a threshold may be chosen by it (Bonferroni; the idea: Geifman and
    El-Yaniv 2017, arXiv:1705.08500).
    """
    marks = np.ceil(np.arange(1, _LEVELS + 1) / _LEVELS * len(confidence)).astype(np.int64) - 1
    thresholds = np.unique(-np.sort(-confidence)[marks])[::-1]
    thresholds[-1] = 0  # answers everything, also what is less sure than anything here
    rows = []
    for threshold in thresholds:
        answered = confidence >= threshold
        risk = float((answered & wrong).sum() / answered.sum())
        bound = _bound(risk, np.bincount(groups[answered]), np.bincount(groups[answered], wrong[answered]), repeats)
        rows.append((threshold, answered.mean(), risk, bound))
    return RiskCurve(*(tuple(map(float, column)) for column in zip(*rows, strict=True)))


def _bound(risk: float, answered: NDArray[Any], errors: NDArray[Any], repeats: float) -> float:
    """Bound a risk from above, by the answers and errors of each group."""
    from scipy.stats import beta, t

    sure = 1 - (1 - SURE) / _LEVELS
    tracks, groups = answered.sum() / repeats, int((answered > 0).sum())
    residual = ((errors - risk * answered) ** 2).sum() * groups / max(groups - 1, 1)
    # without errors nothing tells how they come: then each group counts once
    size = risk * (1 - risk) * answered.sum() ** 2 / residual if residual > 0 else groups
    if 1 < groups < tracks:  # few groups tell little of how errors come in groups
        size *= (t.ppf(sure, tracks - 1) / t.ppf(sure, groups - 1)) ** 2
    size = min(size, tracks)
    return float(beta.ppf(sure, risk * size + 1, max(size * (1 - risk), 1e-9)))


@dataclass(frozen=True, repr=False, eq=False)
class Calibrated:
    """A calibration, and what it is worth on tracks that it was not fitted on.

    Attributes
    ----------
    calibration : Calibration
        Fitted on all tracks.
    before, after : dict
        ``calibration_error``, ``brier`` and ``log_loss`` (in nats; mean over tags) of what the scores say by themselves
        (shares as they are, others through softmax or sigmoid) and after calibration, fitted on other groups.
    curve : RiskCurve
        After calibration; with tags, an answer is wrong if the likeliest tag is not given.
    """

    calibration: Calibration
    before: dict[str, float]
    after: dict[str, float]
    curve: RiskCurve

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the calibration."""
        return {"before": self.before, "after": self.after, "bins": BINS, "sure": SURE, "curve": asdict(self.curve)}


def calibrate(scores: NDArray[Any], y: Ints, groups: Ints, seed: int = 0) -> Calibrated:
    """Fit a calibration, and measure it by leaving a fifth of the groups out at a time.

    Parameters
    ----------
    scores : float array, shape (n_seeds, n, n_classes)
        Out of fold; NaN in the rows of tracks that a seed did not test. Otherwise as in `fit_calibration`.
    y : int64 array, shape (n,), or (n, n_classes)
    groups : int64 array, shape (n,)
    seed : int
        Of the parting of the groups.

    Raises
    ------
    ParameterError
        Fewer than two groups were tested, shapes do not belong together, or scores are not numbers.
    """
    if scores.ndim != 3 or scores.shape[1] != len(y) or len(groups) != len(y):
        raise ParameterError(
            f"scores have the shape (n_seeds, {len(y)}, n_classes) of these tracks; got {scores.shape}"
        )
    seeds, rows = np.nonzero(~np.isnan(scores).all(-1))
    flat, y, groups = scores[seeds, rows].astype(np.float64), y[rows], np.unique(groups[rows], return_inverse=True)[1]
    n_groups, repeats = len(np.unique(groups)), len(rows) / max(len(np.unique(rows)), 1)
    if n_groups < 2:
        raise ParameterError(f"calibration takes out-of-fold scores of at least 2 groups of tracks; got {n_groups}")
    own, after = fit_calibration(flat, y, repeats), np.empty_like(flat)
    parts = (np.random.default_rng([seed, n_groups]).permutation(n_groups) % _FOLDS)[groups]
    for part in range(parts.max() + 1):
        held = parts == part
        after[held] = fit_calibration(flat[~held], y[~held], repeats)(flat[held])
    top = after.argmax(-1)
    wrong = top != y if y.ndim == 1 else y[np.arange(len(y)), top] == 0
    curve = risk_curve(after.max(-1), wrong, groups, repeats)
    n_classes = flat.shape[1]
    plain = Calibration(np.ones(n_classes), np.zeros(n_classes), own.multilabel, own.shares)
    return Calibrated(own, _measured(plain(flat), y), _measured(after, y), curve)


def _measured(probabilities: Matrix, y: Ints) -> dict[str, float]:
    kept = np.clip(probabilities, 1e-15, 1 - 1e-15)
    targets = indicators(y, np.arange(kept.shape[-1]))
    losses = -targets * np.log(kept)
    losses = (losses - (1 - targets) * np.log1p(-kept)).mean(-1) if y.ndim == 2 else losses.sum(-1)
    return {
        "calibration_error": calibration_error(probabilities, y),
        "brier": brier_score(probabilities, y),
        "log_loss": float(losses.mean()),
    }
