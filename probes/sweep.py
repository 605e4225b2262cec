"""Every fit of a plan: layers x settings x folds x seeds, in parallel, resumed, and the choices made of them.

What one round finds (`probes.plan.Round`, all layers and settings) is kept in a file named after everything that decides
it, so a stopped sweep goes on where it was (`probes.cells`).
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import EmbedstoreError, ParameterError
from probes.base import Ints, Matrix, Problem, Setting, predictions, score_settings, seeded
from probes.cells import Cells, digest
from probes.layers import Feature, Floats
from probes.measures import average_precision, macro_f1, mean_over_tags, tally
from probes.mix import LayerMix
from probes.plan import Plan, Round

__all__ = ["Fitted", "Outcome", "cross_validate", "scaling", "standardise"]

Tick = Callable[[], object]
_WORTH_PROCESSES = 5.0  # seconds of work left: starting processes takes two or three
_UNSEEN = -1


@dataclass(frozen=True, repr=False, eq=False)
class Outcome:
    """What the fits of a plan gave.

    Attributes
    ----------
    predictions : int64 array, shape (n_features, n_seeds, n)
        Out-of-fold class numbers; -1 where a row is not tested. With several tags a track: empty.
    scores : float32 array, shape (n_features, n_seeds, n, n_classes)
        Out-of-fold scores, higher is likelier; nan where a row is not tested.
    inner : float64 array, shape (n_features, n_seeds, n_folds)
        Main measure of the chosen setting inside each training part; nan where nothing was to choose, -1 where the feature
        was screened out.
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
    def best(self) -> int:
        """Feature with the best mean inner score."""
        return int(np.nan_to_num(self.inner).mean((1, 2)).argmax())


@dataclass(frozen=True, repr=False, eq=False)
class Fitted:
    """What one round found, by number of the feature.

    Attributes
    ----------
    values : dict of array
        Of a choice: class numbers (n_settings, n_eval), or with several tags the measure (n_settings, n_folds) of each
        fold that it helps to choose for. Of a test: scores (n_settings, n_eval, n_classes), float32.
    predicted : dict of int64 array, shape (n_settings, n_eval)
        Of a test: class numbers.
    weights : dict of float64 array, shape (n_layers,)
    warnings : Counter
    """

    values: dict[int, NDArray[Any]]
    predicted: dict[int, Ints] = field(default_factory=dict)
    weights: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    warnings: Counter[str] = field(default_factory=Counter)


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
        Fit only so many features for each training part, those that rank highest on it without training.
    """
    labels = np.broadcast_to(plan.y, (len(plan.seeds), *plan.y.shape)) if y is None else y
    stacks = [feature.values for feature in features]
    grid: list[Setting] = list(plan.settings)
    everything = np.arange(len(features))
    kept = _screened(plan, stacks, labels, screen)
    work = _Work(
        plan, stacks, labels, jobs, tick, cells or Cells(None), [digest(stack) for stack in stacks] if cells else []
    )

    def choosing(r: Round) -> list[tuple[list[int], list[Setting]]]:
        return [(everything[kept[:, r.seed, np.unique(r.tested)].any(1)].tolist(), grid)]

    fitted = work.run([(r, choosing(r), False) for r in plan.inner])
    setting, inner = _choose(plan, labels, fitted, kept)
    shape = (len(features), *plan.folds.shape)
    predicted = np.full(shape, _UNSEEN, dtype=np.int64)
    scores = np.full((*shape, plan.n_classes), np.nan, dtype=np.float32)
    weights: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    if plan.loo:
        tested = work.leave_out(setting, predicted, scores)
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

    kept = np.zeros(shape, dtype=np.bool_)
    for seed in range(len(plan.seeds)):
        for fold in range(plan.n_folds):
            train = np.flatnonzero(plan.folds[seed] != fold)
            layers = [standardise(stack, train, train[:0])[0][0] for stack in stacks]
            kept[np.argsort(-np.asarray(rank(layers, labels[seed][train])), kind="stable")[:screen], seed, fold] = True
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
        measure = _mean_measure if plan.y.ndim == 2 else _pooled_f1
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
class _Work:
    """The fits of one sweep: kept ones are looked up, the others are made, in processes if worth it."""

    plan: Plan
    stacks: Sequence[Floats]
    labels: Ints
    jobs: int | None
    tick: Tick | None
    cells: Cells
    digests: Sequence[str]

    def run(self, orders: Sequence[tuple[Round, list[tuple[list[int], list[Setting]]], bool]]) -> list[Fitted]:
        """Fit settings on features, both as ordered, on the training set of each round; results in order."""
        plan, results = self.plan, dict[int, Fitted]()
        calls: list[tuple[int, Callable[[], Fitted]]] = []
        names = dict[int, str]()
        for number, (r, order, final) in enumerate(orders):
            probe = seeded(plan.probe, plan.seeds[r.seed])
            y_train, groups = self.labels[r.seed][r.train], plan.groups[r.train]
            # of a choice, several tags are measured at once; a class is enough of the others
            truth = self.labels[r.seed][r.evaluate] if plan.y.ndim == 2 and not final else None
            names[number] = self.cells.name(
                probe,
                final,
                y_train,
                groups,
                truth,
                r.train,
                r.evaluate,
                r.tested,
                order,
                [self.digests[feature] for feature in {f for numbers, _ in order for f in numbers}]
                if self.digests
                else [],
                plan.n_classes,
            )
            kept = self.cells.get(names[number])
            if kept is not None:
                results[number] = kept
                self._count()
            else:
                calls.append(
                    (
                        number,
                        partial(
                            _fit_round, probe, self.stacks, y_train, groups, r, order, final, truth, plan.n_classes
                        ),
                    )
                )
        for number, result in _compute(calls, self.jobs):
            results[number] = result
            self.cells.put(names[number], result)
            self._count()
        return [results[number] for number in range(len(orders))]

    def leave_out(self, setting: Ints, predicted: Ints, scores: Floats) -> list[Fitted]:
        """Test each group by all others, with the setting chosen for its fold; fills the arrays."""
        from probes.leaveout import leave_one_group_out

        plan = self.plan
        settings = [{**plan.probe.get_params(), **setting} for setting in plan.settings]
        if any(len(stack) > 1 for stack in self.stacks):
            raise ParameterError("a mix of layers would be learned anew for each group left out; name another layer")
        for number, stack in enumerate(self.stacks):
            for seed in range(len(plan.seeds)):
                found = leave_one_group_out(stack[0], self.labels[seed], plan.groups, settings, plan.n_classes)
                chosen = found[setting[number, seed][plan.folds[seed]], np.arange(len(plan.groups))]
                scores[number, seed] = chosen
                predicted[number, seed] = predictions(chosen) if plan.y.ndim == 1 else _UNSEEN
                self._count()
        return []

    def _count(self) -> None:
        if self.tick:
            self.tick()


def _compute(calls: list[tuple[int, Callable[[], Fitted]]], jobs: int | None) -> Iterator[tuple[int, Fitted]]:
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
                joblib.delayed(_numbered)(*call) for call in calls
            )


def _numbered(number: int, work: Callable[[], Fitted]) -> tuple[int, Fitted]:
    return number, work()


def _fit_round(
    probe: Any,
    stacks: Sequence[Floats],
    y_train: Ints,
    groups: Ints,
    r: Round,
    orders: Sequence[tuple[Sequence[int], Sequence[Setting]]],
    final: bool,
    truth: Ints | None,
    n_classes: int,
) -> Fitted:
    """Fit settings on features, both as ordered, on one training set."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    found = Fitted({})

    def problems(numbers: Sequence[int]) -> Iterator[Problem]:
        for number in numbers:
            x_train, x_eval = standardise(stacks[number], r.train, r.evaluate)
            if len(x_train) > 1:
                mix = LayerMix().fit(x_train, y_train)
                found.weights[number] = mix.weights_
                mixed = np.concatenate([mix.transform(x_train), mix.transform(x_eval)])[None]
                size = len(r.train)
                x_train, x_eval = standardise(mixed, np.arange(size), np.arange(size, mixed.shape[1]))
            yield Problem(x_train[0], y_train, x_eval[0], groups, n_classes)

    # one thread each: processes share the cores, and sums come out the same whatever their number
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for numbers, settings in orders:
            try:
                for number, scores in zip(numbers, score_settings(probe, problems(numbers), settings), strict=True):
                    if final:
                        found.values[number] = scores.astype(np.float32)
                    if y_train.ndim == 1:
                        (found.predicted if final else found.values)[number] = predictions(scores)
                    elif not final:
                        found.values[number] = _measure_tags(truth, scores, r.tested)
            except EmbedstoreError:
                raise
            except ValueError as error:
                reason = str(error).strip().splitlines()[0]
                raise ParameterError(f"the probe {type(probe).__name__} could not be fitted: {reason}") from error
    found.warnings.update(f"{w.category.__name__}: {str(w.message).strip().splitlines()[0]}" for w in caught)
    return found


def _measure_tags(truth: Ints | None, scores: Matrix, tested: Ints) -> NDArray[np.float64]:
    """Mean average precision on the rows of each fold, shape (n_settings, n_folds)."""
    folds = [tested == fold for fold in np.unique(tested)]
    return np.stack(
        [mean_over_tags(average_precision(np.asarray(truth)[rows], scores[:, rows])) for rows in folds], axis=1
    )


def standardise(values: NDArray[Any], train: Ints, evaluate: Ints) -> tuple[Matrix, Matrix]:
    """Scale each dimension by the training rows' mean and deviation; a constant one becomes 0.

    Parameters
    ----------
    values : float array, shape (n_layers, n, dim)
    train, evaluate : int64 arrays
        Row numbers.

    Returns
    -------
    float64 arrays, shapes (n_layers, len(train), dim) and (n_layers, len(evaluate), dim)
    """
    x = values[:, train].astype(np.float64)
    mean, deviation = scaling(x)
    return (x - mean) / deviation, (values[:, evaluate] - mean) / deviation


def scaling(x: Matrix) -> tuple[Matrix, Matrix]:
    """Give mean and deviation of each dimension over rows (n_layers, n, dim), shapes (n_layers, 1, dim); inf of a constant."""
    mean, deviation = x.mean(1, keepdims=True), x.std(1, keepdims=True)
    deviation[deviation <= 1e-10 * np.abs(mean)] = np.inf  # below float32's resolution: rounding, not variation
    return mean, deviation
