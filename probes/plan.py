"""What a sweep is going to fit: folds, rounds that choose, rounds that test.

For each seed the tracks are dealt to K folds (`probes.splits`). The model that is tested on fold a is chosen without it:
each setting of each layer is fitted without the folds a and b and scored on b, for the other folds b in turn. The fit
without a and b serves two choices, "a is tested, b validates" and the reverse, which halves the inner fits. Then the
chosen setting is fitted on everything but a.

A smaller training part is a nested, stratified sample of all tracks, taken before anything is chosen: validation inside it
sees no more labels than it may. All tracks of a fold are tested whatever the size, so that points of a learning curve are
paired. Few-shot parts (k tracks a genre) choose nothing by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from probes.base import Ints, settings_of
from probes.splits import hold_out, is_present, make_folds, nested_order

__all__ = ["SPLITS", "Plan", "Round", "make_plan", "restrict"]

SPLITS = ("cv", "loo", "official", "lab")
_NEVER = -1
_LAB_TEST = 0.3
_REACH = 4  # other folds that choose for one: all of five


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
    settings : tuple of dict
    y : int64 array, shape (n,) or (n, n_tags)
    groups : int64 array, shape (n,)
    seeds : tuple of int
    folds : int64 array, shape (n_seeds, n)
        Fold that tests each row; -1 where none does.
    inner, outer : tuple of Round
        Rounds that choose (none where there is one choice), and rounds that test.
    choice : str
        How layer and settings are chosen, in words.
    notes : tuple of str
    loo : bool
        Test each group by all others, in place of `outer`; `folds` then only divide the choices.
    """

    probe: Any
    settings: tuple[dict[str, Any], ...]
    y: Ints
    groups: Ints
    seeds: tuple[int, ...]
    folds: Ints
    inner: tuple[Round, ...]
    outer: tuple[Round, ...]
    choice: str
    notes: tuple[str, ...]
    loo: bool = False

    @property
    def n_folds(self) -> int:
        """Folds of each seed."""
        return int(self.folds.max()) + 1

    def rounds(self, n_features: int) -> int:
        """Count what `probes.sweep` ticks off."""
        return len(self.inner) + (n_features * len(self.seeds) if self.loo else len(self.outer))

    @property
    def multilabel(self) -> bool:
        """Whether a track may have several tags."""
        return self.y.ndim == 2

    @property
    def n_classes(self) -> int:
        """Classes or tags."""
        return self.y.shape[1] if self.y.ndim == 2 else int(self.y.max()) + 1


def make_plan(
    probe: Any,
    y: Ints,
    groups: Ints,
    *,
    seeds: Sequence[int],
    folds: int,
    n_features: int,
    split: str = "cv",
    parts: Ints | None = None,
    size: int | None = None,
    like: Ints | None = None,
) -> Plan:
    """Deal the folds of each seed and lay out the rounds.

    Parameters
    ----------
    probe : estimator
    y : int64 array, shape (n,) or (n, n_tags)
    groups : int64 array, shape (n,)
    seeds, folds, n_features
    split : {"cv", "loo", "official", "lab"}
        Cross-validation; each group tested by all others (kNN); a data set's own parts; or, as in the lab that this tool
        began with, a random 30 % of tracks for testing, nothing kept together and nothing chosen.
    parts : int64 array, shape (n,)
        Of an official split: 0 train, 1 valid, 2 test.
    size : int, optional
        About how many tracks the training part shall have: see the head of this module.
    like : int64 array, shape (n_seeds, n), optional
        Folds of coarser groups, which those of ``"cv"`` shall resemble: see `probes.splits.make_folds`.

    Raises
    ------
    ParameterError
        There are no such folds (see `probes.splits.make_folds`), or not so many training tracks.
    """
    settings = settings_of(probe) if split != "lab" else ({},)
    if split == "lab" and n_features > 1:
        raise ParameterError(f"the lab's split chooses nothing; name one layer (or mean, concat), not {n_features}")
    if split == "loo" and not hasattr(probe, "score_left_out"):
        raise ParameterError(
            f"leaving one group out is for knn; a {type(probe).__name__} would be fitted anew for each"
        )
    dealt = _deal_folds(y, groups, seeds, folds, split, parts, like)
    n_folds = int(dealt.max()) + 1
    used = _sample(y, dealt, seeds, size)
    notes = []
    if split in ("cv", "loo") and n_folds < folds:
        notes.append(f"{folds} folds were asked; there are {n_folds} groups, so {n_folds} folds were made")
    inner: list[Round] = []
    choice = "nothing to choose"
    if n_features * len(settings) > 1 and split == "official":
        inner = [_official(place, y, groups, parts, used[place], seed) for place, seed in enumerate(seeds)]
        choice = (
            "on the validation part of the official split"
            if (np.asarray(parts) == 1).any()
            else "on rows held out of the training part, as the official split has no validation part"
        )
    elif n_features * len(settings) > 1 and split != "lab":
        reach = min(getattr(probe, "inner_folds", _REACH), n_folds - 1)
        inner = [r for place, of in enumerate(dealt) for r in _pairs(place, y, of, reach, used[place])]
        choice = f"on {reach} other folds in turn, inside the training part"
        if min(_classes_seen(inner, y, dealt.shape[0], n_folds)) < 2:
            inner = [
                r for place, of in enumerate(dealt) for r in _held_out(place, y, groups, of, seeds[place], used[place])
            ]
            choice = "on rows held out of each training part"
            notes.append(
                "there are too few groups to nest folds: layers and settings were chosen on rows held out of each training "
                "part (whole groups where a genre has two left, else single tracks)"
            )
    outer = [
        Round(place, np.flatnonzero((of != fold) & keep), np.flatnonzero(of == fold), of[of == fold])
        for place, (of, keep) in enumerate(zip(dealt, used, strict=True))
        for fold in range(n_folds)
    ]
    if split == "lab" and size is not None:  # its test part shrinks with the training part
        outer = [
            replace(r, evaluate=r.evaluate[used[r.seed][r.evaluate]], tested=r.tested[used[r.seed][r.evaluate]])
            for r in outer
        ]
        dealt = np.where(used, dealt, _NEVER)
    if any(is_present(y[r.train]).sum() < 2 for r in outer):
        raise ParameterError("a training part holds fewer than two genres; ask for more tracks, or for another split")
    return Plan(
        probe,
        settings,
        y,
        groups,
        tuple(seeds),
        dealt,
        tuple(inner),
        tuple(outer),
        choice,
        tuple(notes),
        split == "loo",
    )


def _deal_folds(
    y: Ints, groups: Ints, seeds: Sequence[int], folds: int, split: str, parts: Ints | None, like: Ints | None
) -> Ints:
    """Give each row the fold that tests it, -1 where none does, shape (n_seeds, n)."""
    if split == "official":
        if parts is None:
            raise ParameterError("there is no official split: the labels do not place tracks in train and test parts")
        return np.tile(np.where(parts == 2, 0, _NEVER), (len(seeds), 1))
    if split == "lab":
        places = np.stack([np.random.default_rng([seed, 0x1AB]).permutation(len(y)) for seed in seeds])
        return np.where(places < round(_LAB_TEST * len(y)), 0, _NEVER)
    others = like if like is not None else [None] * len(seeds)
    return np.stack([make_folds(y, groups, folds, seed, other) for seed, other in zip(seeds, others, strict=True)])


def _sample(y: Ints, dealt: Ints, seeds: Sequence[int], size: int | None) -> NDArray[np.bool_]:
    """Choose the rows that may train, shape (n_seeds, n), so that training parts have about `size` rows."""
    if size is None:
        return np.ones(dealt.shape, dtype=np.bool_)
    n_folds = int(dealt.max()) + 1
    trains = np.mean([(of != fold).mean() for of in dealt for fold in range(n_folds)])  # share of rows
    most = round(trains * dealt.shape[1])
    if not 2 <= size <= most:
        raise ParameterError(f"a training part of {size} tracks was asked; it can have 2 to about {most}")
    return np.asarray(np.stack([nested_order(y, seed) for seed in seeds]) * most < size)


def _official(place: int, y: Ints, groups: Ints, parts: Ints | None, keep: NDArray[np.bool_], seed: int) -> Round:
    """Train on the first part and validate on the second; hold rows out where there is no second one."""
    held = np.asarray(parts) == 1
    rows = np.flatnonzero((np.asarray(parts) < 2) & keep)
    if not held[rows].any():
        held = np.zeros_like(held)
        held[rows] = hold_out(y[rows], groups[rows], seed)
    evaluate = rows[held[rows]]
    return Round(place, rows[~held[rows]], evaluate, np.zeros(len(evaluate), dtype=np.int64))


def restrict(plan: Plan, shots: int) -> Plan:
    """Train on the first `shots` tracks of each class in a seeded order, with the probe's own settings.

    Raises
    ------
    ParameterError
        Several tags a track, or a training part has fewer tracks of a class.
    """
    if plan.y.ndim == 2:
        raise ParameterError("few-shot training takes one genre a track; with several tags ask for --train-sizes")
    order = [nested_order(plan.y, seed) for seed in plan.seeds]
    outer = []
    for r in plan.outer:
        rows = r.train[np.argsort(order[r.seed][r.train], kind="stable")]
        rank = np.empty(len(rows), dtype=np.int64)
        for number in np.unique(plan.y):
            of_class = np.flatnonzero(plan.y[rows] == number)
            if len(of_class) < shots:
                raise ParameterError(
                    f"{shots} tracks a genre were asked; a training part has {len(of_class)} of one genre; ask for fewer"
                )
            rank[of_class] = np.arange(len(of_class))
        outer.append(replace(r, train=np.sort(rows[rank < shots])))
    return replace(plan, settings=({},), inner=(), outer=tuple(outer), choice="nothing to choose", loo=False)


def _pairs(place: int, y: Ints, of: Ints, reach: int, keep: NDArray[np.bool_]) -> list[Round]:
    """Leave two folds out, each to validate for the other: the `reach` folds that are nearest on a ring."""
    n_folds = int(of.max()) + 1
    rounds = []
    for a, b in combinations(range(n_folds), 2):
        left_out = np.isin(of, (a, b))
        if min(b - a, n_folds - b + a) <= (reach + 1) // 2 and n_folds > 2:
            train = np.flatnonzero(~left_out & keep)
            rows = np.flatnonzero(left_out & keep)
            if y.ndim == 1:  # a class that this training set lacks cannot be validated with it
                rows = rows[np.isin(y[rows], y[train])]
            rounds.append(Round(place, train, rows, a + b - of[rows]))
    return rounds


def _classes_seen(rounds: Sequence[Round], y: Ints, n_seeds: int, n_folds: int) -> list[int]:
    """Count the classes that help to choose for each seed and fold."""
    n_classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    seen = np.zeros((n_seeds, n_folds, n_classes), dtype=np.bool_)
    for r in rounds:
        for fold in np.unique(r.tested):
            seen[r.seed, fold] |= is_present(y[r.evaluate[r.tested == fold]], n_classes)
    return [int(count) for count in seen.sum(-1).ravel()]


def _held_out(place: int, y: Ints, groups: Ints, of: Ints, seed: int, keep: NDArray[np.bool_]) -> list[Round]:
    """Hold rows out of each training part: for so few groups that two folds cannot be left out."""
    rounds = []
    for fold in range(int(of.max()) + 1):
        rows = np.flatnonzero((of != fold) & keep)
        held = hold_out(y[rows], groups[rows], seed)
        if held.any():
            rounds.append(Round(place, rows[~held], rows[held], np.full(held.sum(), fold)))
    return rounds
