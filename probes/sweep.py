"""Every fit of a probe: layers x settings x folds x seeds, chosen inside each training part, in parallel.

For each seed the tracks are dealt to K folds (`probes.splits`). The model that is tested on fold a is chosen without it:
each setting of each layer is fitted without the folds a and b and scored on b, for the other folds b in turn. The fit
without a and b serves two choices, "a is tested, b validates" and the reverse, which halves the inner fits. Then the
chosen setting is fitted on everything but a.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import EmbedstoreError, ParameterError
from probes.base import Ints, Matrix, Problem, Setting, predict_settings, seeded, settings_of
from probes.layers import Feature, Floats, LayerMix
from probes.measures import macro_f1, tally
from probes.splits import hold_out, make_folds

__all__ = ["Outcome", "Plan", "Round", "cross_validate", "make_plan", "standardise"]

Tick = Callable[[], object]
_WORTH_PROCESSES = 5.0  # seconds of work left: starting processes takes two or three
_UNSEEN = -1


@dataclass(frozen=True, repr=False, eq=False)
class Round:
    """One training set, and the rows to predict with it.

    Attributes
    ----------
    seed : int
        Place in the plan's seeds.
    train, evaluate : int64 arrays
        Row numbers.
    tested : int64 array, shape (len(evaluate),)
        For each row to predict: the fold that it helps to choose for, or that it tests.
    """

    seed: int
    train: Ints
    evaluate: Ints
    tested: Ints


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """What is to be fitted.

    Attributes
    ----------
    probe : estimator
    y, groups : int64 arrays, shape (n,)
    seeds : tuple of int
    folds : int64 array, shape (n_seeds, n)
    inner, outer : tuple of Round
        Rounds that choose (none where there is one choice), and rounds that test.
    choice : str
        How layer and settings are chosen, in words.
    notes : tuple of str
    """

    probe: Any
    y: Ints
    groups: Ints
    seeds: tuple[int, ...]
    folds: Ints
    inner: tuple[Round, ...]
    outer: tuple[Round, ...]
    choice: str
    notes: tuple[str, ...]

    @property
    def n_folds(self) -> int:
        """Folds of each seed."""
        return int(self.folds.max()) + 1


@dataclass(frozen=True, repr=False, eq=False)
class Outcome:
    """What the fits of a plan gave.

    Attributes
    ----------
    predictions : int64 array, shape (n_features, n_seeds, n)
        Out-of-fold class numbers.
    inner_f1 : float64 array, shape (n_features, n_seeds, n_folds)
        Macro-F1 of the chosen setting inside each training part; nan where nothing was to choose.
    setting : int64 array, shape (n_features, n_seeds, n_folds)
        Number of the chosen setting.
    weights : dict of feature number to list of float64 arrays
        Learned layer weights, one array for each fold and seed.
    warnings : Counter
        What the fits warned of.
    """

    predictions: Ints
    inner_f1: NDArray[np.float64]
    setting: Ints
    weights: Mapping[int, list[NDArray[np.float64]]]
    warnings: Counter[str]


@dataclass(frozen=True, repr=False, eq=False)
class _Fitted:
    predictions: dict[int, Ints]
    weights: dict[int, NDArray[np.float64]]
    warnings: Counter[str]


def make_plan(probe: Any, y: Ints, groups: Ints, *, seeds: Sequence[int], folds: int, n_features: int) -> Plan:
    """Deal the folds of each seed and lay out the rounds.

    Raises
    ------
    ParameterError
        There are no such folds (see `probes.splits.make_folds`).
    """
    dealt = np.stack([make_folds(y, groups, folds, seed) for seed in seeds])
    n_folds = int(dealt.max()) + 1
    notes = []
    if n_folds < folds:
        notes.append(f"{folds} folds were asked; there are {n_folds} groups, so {n_folds} folds were made")
    inner: list[Round] = []
    choice = "nothing to choose"
    if n_features * len(settings_of(probe)) > 1:
        reach = min(getattr(probe, "inner_folds", n_folds - 1), n_folds - 1)
        inner = [r for place, of in enumerate(dealt) for r in _pairs(place, y, of, reach)]
        choice = f"by macro-F1 on {reach} other folds in turn, inside the training part"
        if min(_classes_seen(inner, y, dealt.shape[0], n_folds)) < 2:
            inner = [r for place, of in enumerate(dealt) for r in _held_out(place, y, groups, of, seeds[place])]
            choice = "by macro-F1 on rows held out of each training part"
            notes.append(
                "there are too few groups to nest folds: layers and settings were chosen on rows held out of each training "
                "part (whole groups where a genre has two left, else single tracks)"
            )
    outer = [
        Round(place, np.flatnonzero(of != fold), np.flatnonzero(of == fold), of[of == fold])
        for place, of in enumerate(dealt)
        for fold in range(n_folds)
    ]
    return Plan(probe, y, groups, tuple(seeds), dealt, tuple(inner), tuple(outer), choice, tuple(notes))


def _pairs(place: int, y: Ints, of: Ints, reach: int) -> list[Round]:
    """Leave two folds out, each to validate for the other; with reach 2 only folds that are neighbours on a ring."""
    n_folds = int(of.max()) + 1
    rounds = []
    for a, b in combinations(range(n_folds), 2):
        left_out = np.isin(of, (a, b))
        if (reach > 2 or b - a in (1, n_folds - 1)) and n_folds > 2:
            # a class that this training set lacks cannot be validated with it
            rows = np.flatnonzero(left_out & np.isin(y, y[~left_out]))
            rounds.append(Round(place, np.flatnonzero(~left_out), rows, a + b - of[rows]))
    return rounds


def _classes_seen(rounds: Sequence[Round], y: Ints, n_seeds: int, n_folds: int) -> list[int]:
    """Count the classes that help to choose for each seed and fold."""
    triples = [np.stack([np.full_like(r.tested, r.seed), r.tested, y[r.evaluate]]) for r in rounds]
    seen = np.unique(np.concatenate(triples, axis=1), axis=1) if triples else np.empty((3, 0), dtype=np.int64)
    return list(np.bincount(seen[0] * n_folds + seen[1], minlength=n_seeds * n_folds))


def _held_out(place: int, y: Ints, groups: Ints, of: Ints, seed: int) -> list[Round]:
    """Hold rows out of each training part: for so few groups that two folds cannot be left out."""
    rounds = []
    for fold in range(int(of.max()) + 1):
        rows = np.flatnonzero(of != fold)
        held = hold_out(y[rows], groups[rows], seed)
        if held.any():
            rounds.append(Round(place, rows[~held], rows[held], np.full(held.sum(), fold)))
    return rounds


def cross_validate(
    plan: Plan,
    features: Sequence[Feature],
    *,
    y: Ints | None = None,
    jobs: int | None = None,
    tick: Tick | None = None,
) -> Outcome:
    """Run a plan over features.

    Parameters
    ----------
    plan : Plan
    features : sequence of Feature
    y : int64 array, shape (n_seeds, n), optional
        Class numbers to learn in place of the plan's (for controls).
    jobs : int, optional
        Processes; default: as many as there are cores, if the work is worth it. The outcome is the same.
    tick : callable, optional
        Called after each round.
    """
    labels = np.broadcast_to(plan.y, plan.folds.shape) if y is None else y
    stacks = [feature.values for feature in features]
    grid, everything = settings_of(plan.probe), list(range(len(features)))

    def call(r: Round, orders: list[tuple[list[int], list[Setting]]]) -> Callable[[], _Fitted]:
        probe = seeded(plan.probe, plan.seeds[r.seed])
        return partial(_fit_round, probe, stacks, labels[r.seed][r.train], plan.groups, r, orders)

    fitted = _run([call(r, [(everything, list(grid))]) for r in plan.inner], jobs, tick)
    setting, inner_f1 = _choose(plan, labels, fitted, (len(features), len(grid)))
    second = []
    for r in plan.outer:
        chosen = setting[:, r.seed, r.tested[0]]
        orders = [(np.flatnonzero(chosen == s).tolist(), [grid[s]]) for s in np.unique(chosen)]
        second.append(call(r, orders))
    tested = _run(second, jobs, tick)
    predictions = np.empty((len(features), *plan.folds.shape), dtype=np.int64)
    weights: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    for r, result in zip(plan.outer, tested, strict=True):
        for number, predicted in result.predictions.items():
            predictions[number, r.seed, r.evaluate] = predicted[0]
        for number, learned in result.weights.items():
            weights[number].append(learned)
    warned = sum((result.warnings for result in (*fitted, *tested)), Counter[str]())
    return Outcome(predictions, inner_f1, setting, weights, warned)


def _choose(
    plan: Plan, labels: Ints, fitted: Sequence[_Fitted], size: tuple[int, int]
) -> tuple[Ints, NDArray[np.float64]]:
    """Choose each feature's setting for each seed and fold: number and inner macro-F1, (n_features, n_seeds, n_folds)."""
    scores = np.full((*size, len(plan.seeds), plan.n_folds), np.nan)
    n_classes = int(plan.y.max()) + 1
    by_seed: dict[int, list[tuple[Round, _Fitted]]] = defaultdict(list)
    for r, result in zip(plan.inner, fitted, strict=True):
        by_seed[r.seed].append((r, result))
    for seed, rounds in by_seed.items():
        guesses = np.full((*size, plan.n_folds, labels.shape[1]), _UNSEEN, dtype=np.int64)
        for r, result in rounds:
            for number, predicted in result.predictions.items():
                guesses[number][:, r.tested, r.evaluate] = predicted
        for fold in range(plan.n_folds):
            seen = guesses[0, 0, fold] != _UNSEEN
            if seen.any():
                counts = tally(labels[seed][seen], guesses[:, :, fold, seen], n_classes)
                scores[:, :, seed, fold] = macro_f1(counts, absent="skip")
    setting = np.nan_to_num(scores).argmax(1)  # the first of equals
    return setting, np.take_along_axis(scores, setting[:, None], 1)[:, 0]


def _run(calls: Sequence[Callable[[], _Fitted]], jobs: int | None, tick: Tick | None) -> list[_Fitted]:
    """Make the calls, in processes if asked or worth it; results in order."""
    import joblib

    results: dict[int, _Fitted] = {}

    def keep(pairs: Iterator[tuple[int, _Fitted]]) -> None:
        for number, result in pairs:
            results[number] = result
            if tick:
                tick()

    numbered = list(enumerate(calls))
    start = time.perf_counter()
    if jobs is None and calls:
        keep(iter([_numbered(*numbered.pop(0))]))
        worth = (time.perf_counter() - start) * len(numbered) > _WORTH_PROCESSES
        jobs = joblib.cpu_count() if worth else 1
    if jobs == 1 or len(numbered) < 2:
        keep(_numbered(number, work) for number, work in numbered)
    else:
        with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
            keep(
                joblib.Parallel(return_as="generator_unordered")(joblib.delayed(_numbered)(*pair) for pair in numbered)
            )
    return [results[number] for number in range(len(calls))]


def _numbered(number: int, work: Callable[[], _Fitted]) -> tuple[int, _Fitted]:
    return number, work()


def _fit_round(
    probe: Any,
    stacks: Sequence[Floats],
    y_train: Ints,
    groups: Ints,
    r: Round,
    orders: Sequence[tuple[Sequence[int], Sequence[Setting]]],
) -> _Fitted:
    """Fit settings on features, both as ordered, on one training set."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    predictions: dict[int, Ints] = {}
    weights: dict[int, NDArray[np.float64]] = {}

    def problems(numbers: Sequence[int]) -> Iterator[Problem]:
        for number in numbers:
            x_train, x_eval = standardise(stacks[number], r.train, r.evaluate)
            if len(x_train) > 1:
                mix = LayerMix().fit(x_train, y_train)
                weights[number] = mix.weights_
                mixed = np.concatenate([mix.transform(x_train), mix.transform(x_eval)])[None]
                size = len(r.train)
                x_train, x_eval = standardise(mixed, np.arange(size), np.arange(size, mixed.shape[1]))
            yield Problem(x_train[0], y_train, x_eval[0], groups[r.train])

    # one thread each: processes share the cores, and sums come out the same whatever their number
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for numbers, settings in orders:
            try:
                predictions |= zip(numbers, predict_settings(probe, problems(numbers), settings), strict=True)
            except EmbedstoreError:
                raise
            except ValueError as error:
                reason = str(error).strip().splitlines()[0]
                raise ParameterError(f"the probe {type(probe).__name__} could not be fitted: {reason}") from error
    told = Counter(f"{w.category.__name__}: {str(w.message).strip().splitlines()[0]}" for w in caught)
    return _Fitted(predictions, weights, told)


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
    mean, deviation = x.mean(1, keepdims=True), x.std(1, keepdims=True)
    deviation[deviation <= 1e-10 * np.abs(mean)] = np.inf  # below float32's resolution: rounding, not variation
    return (x - mean) / deviation, (values[:, evaluate] - mean) / deviation
