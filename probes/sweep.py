"""Every fit of a plan: layers x settings x folds x seeds, in parallel, resumed, and the choices made of them.

What one round finds (`probes.plan.Round`, all layers and settings) is kept in a file named after everything that decides
it, so a stopped sweep goes on where it was (`probes.cells`).
"""

from __future__ import annotations

import signal
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import EmbedstoreError, ParameterError
from probes.base import Ints, Matrix, Problem, Setting, predictions, score_settings, seeded
from probes.cells import Cells, Fitted
from probes.layers import Feature, Floats
from probes.measures import average_precision, macro_f1, mean_over_tags, tally
from probes.plan import Plan, Round
from probes.scaling import Preparation, standardise

__all__ = ["Outcome", "cross_validate"]

Tick = Callable[[], object]
_WORTH_PROCESSES = 5.0  # seconds of work left: starting processes takes two or three
_UNSEEN = -1


@dataclass(frozen=True, repr=False, eq=False)
class Outcome:
    """What the fits of a plan gave.

    Attributes
    ----------
    predictions : int64 array, shape (n_features, n_seeds, n)
        Out-of-fold class numbers; -1 where a row is not tested, and everywhere with several tags a track.
    scores : float32 array, shape (n_features, n_seeds, n, n_classes)
        Out-of-fold scores, higher is likelier; nan where a row is not tested.
    inner : float64 array, shape (n_features, n_seeds, n_folds)
        Main measure of the chosen setting inside each training part; nan where nothing was to choose, -1 where the feature
        was screened out before.
    setting : int64 array, shape (n_features, n_seeds, n_folds)
        Number of the chosen setting.
    weights : dict of feature number to list of float64 arrays
        Learned layer weights, one array for each fold and seed.
    warnings : Counter
        What the fits warned of.
    """

    predictions: Ints
    scores: Floats
    inner: NDArray[np.float64]
    setting: Ints
    weights: Mapping[int, list[NDArray[np.float64]]]
    warnings: Counter[str]

    @property
    def layer_of(self) -> Ints:
        """Feature with the best inner score for each seed and fold, shape (n_seeds, n_folds); the first of equals."""
        return np.asarray(np.nan_to_num(self.inner).argmax(0))

    @property
    def whole(self) -> list[int]:
        """Features that no training part screened out."""
        return [int(number) for number in np.flatnonzero(~(self.inner == -1).any((1, 2)))]

    def values(self, *, multilabel: bool) -> NDArray[Any]:
        """Give what a table is made of: class numbers, or scores where a track may have several tags."""
        return self.scores if multilabel else self.predictions

    def nested(self, folds: Ints, *, multilabel: bool, layer_of: Ints | None = None) -> NDArray[Any]:
        """Take what the feature said that was chosen for each seed and fold, shape (n_seeds, n, ...)."""
        layer_of = self.layer_of if layer_of is None else layer_of
        values, seeds = self.values(multilabel=multilabel), np.arange(len(folds))[:, None]
        return np.asarray(values[layer_of[seeds, folds], seeds, np.arange(values.shape[2])])

    @property
    def best(self) -> int:
        """Feature with the best mean inner score."""
        return int(np.nan_to_num(self.inner).mean((1, 2)).argmax())


def cross_validate(
    plan: Plan,
    features: Sequence[Feature],
    *,
    y: Ints | None = None,
    jobs: int | None = None,
    tick: Tick | None = None,
    cells: Cells | None = None,
    screen: int | None = None,
) -> Outcome:
    """Run a plan over features.

    Parameters
    ----------
    plan : Plan
    features : sequence of Feature
    y : int64 array, shape (n_seeds, n) or (n_seeds, n, n_tags), optional
        Classes to learn in place of the plan's (for controls).
    jobs : int, optional
        Processes; default: as many as there are cores, if the work is worth it. The outcome is the same.
    tick : callable, optional
        Called after each round.
    cells : Cells, optional
        Where finished rounds are looked up and kept.
    screen : int, optional
        Fit only so many features for each training part, those that rank highest on it without training; a mix, which
        is learned from several layers, is always fitted.
    """
    labels = np.broadcast_to(plan.y, (len(plan.seeds), *plan.y.shape)) if y is None else y
    stacks = [feature.values for feature in features]
    grid: list[Setting] = list(plan.settings)
    everything = np.arange(len(features))
    kept = _screened(plan, stacks, labels, screen)
    work = _Fits(plan, features, labels, jobs, tick, cells or Cells(None))

    def choosing(r: Round) -> list[tuple[list[int], list[Setting]]]:
        return [(everything[kept[:, r.seed, np.unique(r.tested)].any(1)].tolist(), grid)]

    fitted = work.run([(r, choosing(r), False) for r in plan.inner])
    setting, inner = _choose(plan, labels, fitted, kept)
    shape = (len(features), *plan.folds.shape)
    predicted = np.full(shape, _UNSEEN, dtype=np.int64)
    scores = np.full((*shape, plan.n_classes), np.nan, dtype=np.float32)
    weights: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    tested: list[Fitted] = []
    if plan.loo:
        work.leave_out(setting, predicted, scores)
    else:
        second = []
        for r in plan.outer:
            fold = r.tested[0] if len(r.tested) else 0
            chosen = np.where(kept[:, r.seed, fold], setting[:, r.seed, fold], _UNSEEN)
            second.append(
                (r, [(np.flatnonzero(chosen == s).tolist(), [grid[s]]) for s in np.unique(chosen) if s >= 0], True)
            )
        tested = work.run(second)
        for r, result in zip(plan.outer, tested, strict=True):
            for number, values in result.values.items():
                scores[number, r.seed, r.evaluate] = values[0]
                if number in result.predicted:
                    predicted[number, r.seed, r.evaluate] = result.predicted[number][0]
            for number, learned in result.weights.items():
                weights[number].append(learned)
    warned = sum((result.warnings for result in (*fitted, *tested)), Counter[str]())
    return Outcome(predicted, scores, inner, setting, weights, warned)


def _screened(plan: Plan, stacks: Sequence[Floats], labels: Ints, screen: int | None) -> NDArray[np.bool_]:
    """Tell which features are fitted for each seed and fold, shape (n_features, n_seeds, n_folds)."""
    shape = (len(stacks), len(plan.seeds), plan.n_folds)
    if screen is None or screen >= len(stacks):
        return np.ones(shape, dtype=np.bool_)
    from probes.quality import screen as rank

    single = np.array([len(stack) == 1 for stack in stacks])
    kept = np.repeat(~single, len(plan.seeds) * plan.n_folds).reshape(shape)
    for seed in range(len(plan.seeds)):
        for fold in range(plan.n_folds):
            train = next(r.train for r in plan.outer if r.seed == seed and fold in r.tested)
            layers = [standardise(stack, train, train[:0])[0][0] for stack in stacks if len(stack) == 1]
            first = np.argsort(-np.asarray(rank(layers, labels[seed][train])), kind="stable")[:screen]
            kept[np.flatnonzero(single)[first], seed, fold] = True
    return kept


def _choose(
    plan: Plan, labels: Ints, fitted: Sequence[Fitted], kept: NDArray[np.bool_]
) -> tuple[Ints, NDArray[np.float64]]:
    """Choose each feature's setting for each seed and fold: number and inner measure, (n_features, n_seeds, n_folds)."""
    size = (len(kept), len(plan.settings))
    scores = np.full((*size, len(plan.seeds), plan.n_folds), np.nan)
    by_seed: dict[int, list[tuple[Round, Fitted]]] = defaultdict(list)
    for r, result in zip(plan.inner, fitted, strict=True):
        by_seed[r.seed].append((r, result))
    for seed, rounds in by_seed.items():
        measure = _mean_measure if plan.multilabel else _pooled_f1
        scores[:, :, seed] = measure(rounds, labels[seed], size, plan.n_folds, plan.n_classes)
    setting = np.nan_to_num(scores).argmax(1)  # the first of equals
    inner = np.take_along_axis(scores, setting[:, None], 1)[:, 0]
    return setting, np.where(kept, inner, -1.0)


def _pooled_f1(
    rounds: Sequence[tuple[Round, Fitted]], y: Ints, size: tuple[int, int], n_folds: int, n_classes: int
) -> NDArray[np.float64]:
    """Macro-F1 of all rows that help to choose for a fold, shape (n_features, n_settings, n_folds)."""
    scores = np.full((*size, n_folds), np.nan)
    guesses = np.full((*size, n_folds, len(y)), _UNSEEN, dtype=np.int16)
    helps = np.zeros((n_folds, len(y)), dtype=np.bool_)
    for r, result in rounds:
        helps[r.tested, r.evaluate] = True
        for number, predicted in result.values.items():
            guesses[number][:, r.tested, r.evaluate] = predicted
    for fold in range(n_folds):
        seen = helps[fold]
        if seen.any():
            guessed = guesses[:, :, fold, seen].astype(np.int64)
            counts = tally(y[seen], np.where(guessed == _UNSEEN, 0, guessed), n_classes)
            scores[:, :, fold] = macro_f1(counts, absent="skip")
    return scores


def _mean_measure(
    rounds: Sequence[tuple[Round, Fitted]], _y: Ints, size: tuple[int, int], n_folds: int, _n_classes: int
) -> NDArray[np.float64]:
    """Mean average precision, averaged over the rounds that help to choose for a fold."""
    total, times = np.zeros((*size, n_folds)), np.zeros(n_folds)
    for r, result in rounds:
        folds = np.unique(r.tested)
        times[folds] += 1
        for number, measured in result.values.items():
            total[number][:, folds] += measured
    return np.asarray(total / np.where(times > 0, times, np.nan))


@dataclass(frozen=True, repr=False, eq=False)
class _Job:
    """One round, and which settings of which features are fitted in it.

    `truth` is what choices among tags are measured by; classes are measured when all rounds are there.
    """

    probe: Any
    round: Round
    orders: list[tuple[list[int], list[Setting]]]
    final: bool
    y_train: Ints
    groups: Ints
    truth: Ints | None
    n_classes: int


@dataclass(frozen=True, repr=False, eq=False)
class _Fits:
    """The fits of one sweep: kept ones are looked up, the others are made, in processes if worth it."""

    plan: Plan
    features: Sequence[Feature]
    labels: Ints
    jobs: int | None
    tick: Tick | None
    cells: Cells

    def run(self, orders: Sequence[tuple[Round, list[tuple[list[int], list[Setting]]], bool]]) -> list[Fitted]:
        """Fit settings on features, both as ordered, on the training set of each round; results in order."""
        jobs = [self._job(*order) for order in orders]
        names = [self._name(job) for job in jobs]
        results = {number: kept for number, name in enumerate(names) if (kept := self.cells.get(name)) is not None}
        for _ in results:
            self._count()
        stacks = [feature.values for feature in self.features]
        calls = [(number, partial(_fit_round, stacks, job)) for number, job in enumerate(jobs) if number not in results]
        for number, result in _compute(calls, self.jobs):
            results[number] = result
            self.cells.put(names[number], result)
            self._count()
        return [results[number] for number in range(len(jobs))]

    def _job(self, r: Round, orders: list[tuple[list[int], list[Setting]]], final: bool) -> _Job:
        plan, y = self.plan, self.labels[r.seed]
        truth = y[r.evaluate] if plan.multilabel and not final else None
        probe = seeded(plan.probe, plan.seeds[r.seed])
        return _Job(probe, r, orders, final, y[r.train], plan.groups[r.train], truth, plan.n_classes)

    def _name(self, job: _Job) -> str:
        if not self.cells.kept:
            return ""
        r, used = job.round, sorted({number for numbers, _ in job.orders for number in numbers})
        return self.cells.name(
            job.probe,
            *(r.train, r.evaluate, r.tested, job.y_train, job.groups, job.truth),
            *(job.orders, job.final, job.n_classes, [(number, self.features[number].digest) for number in used]),
        )

    def leave_out(self, setting: Ints, predicted: Ints, scores: Floats) -> None:
        """Test each group by all others, with the setting chosen for its fold; fills the arrays."""
        plan = self.plan
        for number, feature in enumerate(self.features):
            found = None
            for seed in range(len(plan.seeds)):
                if found is None or not np.array_equal(self.labels[seed], self.labels[seed - 1]):
                    found = plan.probe.score_left_out(
                        feature.values[0], self.labels[seed], plan.groups, plan.settings, plan.n_classes
                    )
                chosen = found[setting[number, seed][plan.folds[seed]], np.arange(len(plan.groups))]
                scores[number, seed] = chosen
                predicted[number, seed] = _UNSEEN if plan.multilabel else predictions(chosen)
                self._count()

    def _count(self) -> None:
        if self.tick:
            self.tick()


def _compute(calls: Sequence[tuple[int, Callable[[], Fitted]]], jobs: int | None) -> Iterator[tuple[int, Fitted]]:
    """Make the calls, in processes if asked or worth it; results as they come."""
    import joblib

    start = time.perf_counter()
    if jobs is None and calls:
        yield _numbered(*calls[0])
        calls = calls[1:]
        worth = (time.perf_counter() - start) * len(calls) > _WORTH_PROCESSES
        jobs = joblib.cpu_count() if worth else 1
    if jobs == 1 or len(calls) < 2:
        yield from (_numbered(number, work) for number, work in calls)
    else:
        with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
            yield from joblib.Parallel(return_as="generator_unordered")(
                joblib.delayed(_elsewhere)(*call) for call in calls
            )


def _numbered(number: int, work: Callable[[], Fitted]) -> tuple[int, Fitted]:
    return number, work()


def _elsewhere(number: int, work: Callable[[], Fitted]) -> tuple[int, Fitted]:
    """Do it in a process of its own, which leaves Ctrl-C to its parent."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _numbered(number, work)


def _fit_round(stacks: Sequence[Floats], job: _Job) -> Fitted:
    """Fit settings on features, both as ordered, on one training set."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    found, r = Fitted({}), job.round

    def problems(numbers: Sequence[int]) -> Iterator[Problem]:
        for number in numbers:
            layers = stacks[number][:, r.train]
            prepare = Preparation.fit(layers, job.y_train)
            if prepare.weights is not None:
                found.weights[number] = prepare.weights
            x_eval = prepare(stacks[number][:, r.evaluate])
            yield Problem(prepare(layers), job.y_train, x_eval, job.groups, job.n_classes)

    # one thread each: processes share the cores, and sums come out the same whatever their number
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for numbers, settings in job.orders:
            try:
                for number, scores in zip(numbers, score_settings(job.probe, problems(numbers), settings), strict=True):
                    if job.final:
                        found.values[number] = scores.astype(np.float32)
                    if job.y_train.ndim == 1:
                        (found.predicted if job.final else found.values)[number] = predictions(scores)
                    elif not job.final:
                        found.values[number] = _measure_tags(job.truth, scores, r.tested)
            except EmbedstoreError:
                raise
            except ValueError as error:
                reason, name = str(error).strip().splitlines()[0], type(job.probe).__name__
                raise ParameterError(f"the probe {name} could not be fitted: {reason}") from error
    found.warnings.update(f"{w.category.__name__}: {str(w.message).strip().splitlines()[0]}" for w in caught)
    return found


def _measure_tags(truth: Ints | None, scores: Matrix, tested: Ints) -> NDArray[np.float64]:
    """Mean average precision on the rows of each fold, shape (n_settings, n_folds)."""
    folds = [tested == fold for fold in np.unique(tested)]
    return np.stack(
        [mean_over_tags(average_precision(np.asarray(truth)[rows], scores[:, rows])) for rows in folds], axis=1
    )
