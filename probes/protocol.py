"""How tracks are chosen, divided and counted: what two numbers must share before they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedstore.errors import ParameterError
from embedstore.registry import unknown_name
from probes.plan import SPLITS
from probes.task import GROUPINGS

__all__ = ["Protocol"]


@dataclass(frozen=True)
class Protocol:
    """How tracks are chosen, divided and counted.

    Attributes
    ----------
    genres : int, str or sequence of str, optional
        See `probes.task.choose_genres`; default: all genres there are.
    group : {"artist", "none"}
        Whether tracks of one artist, and recordings that sound the same, stay on one side of each split.
    split : {"cv", "loo", "official", "lab"}
        See `probes.plan.make_plan`. With ``"lab"`` nothing stays together, whatever `group` says.
    folds : int
        Parts of the cross-validation.
    seeds : int or sequence of int
        How many repeats with other folds, or their seeds.
    multilabel : bool
        Keep tracks of several genres, each genre a tag of its own.
    train_sizes : sequence of int
        Points of a learning curve: tracks in the training part.
    shots : sequence of int
        Points of a learning curve: training tracks per genre.
    screen : int, optional
        Fit only so many layers for each training part, those that rank highest on it without training.
    quality : bool
        Also measure the layers without training (`probes.quality`).
    resamples : int
        Bootstrap resamples behind each interval, and permutations behind each test.
    """

    genres: int | str | Sequence[str] | None = None
    group: str = "artist"
    split: str = "cv"
    folds: int = 5
    seeds: int | Sequence[int] = 3
    multilabel: bool = False
    train_sizes: Sequence[int] = ()
    shots: Sequence[int] = ()
    screen: int | None = None
    quality: bool = False
    resamples: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises
        ------
        ParameterError, UnknownNameError
        """
        for name, value in (("folds", self.folds), ("resamples", self.resamples), ("screen", self.screen)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ParameterError(f"{name} is a whole number, at least 1; got {value!r}")
        if self.folds < 2:
            raise ParameterError(f"cross-validation needs at least 2 folds; got {self.folds}")
        if self.split == "loo" and (self.train_sizes or self.shots):
            raise ParameterError("leaving one group out trains on all others; leave out train sizes and shots")
        for name, known in (("group", GROUPINGS), ("split", SPLITS)):
            if getattr(self, name) not in known:
                raise unknown_name(f"{name}ing" if name == "group" else name, getattr(self, name), known)
        for name in ("train_sizes", "shots"):
            sizes = getattr(self, name)
            if isinstance(sizes, (str, int)) or not all(isinstance(size, int) and size > 0 for size in sizes):
                raise ParameterError(f"{name} is a list of whole numbers above 0; got {sizes!r}")
        whole = isinstance(self.seeds, int) or (
            not isinstance(self.seeds, str) and all(isinstance(seed, (int, np.integer)) for seed in self.seeds)
        )
        chosen = self.chosen_seeds if whole else ()
        if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0:
            raise ParameterError(
                f"seeds is how many (at least 1), or a list of different numbers >= 0; got {self.seeds}"
            )

    @property
    def together(self) -> str:
        """What stays on one side of each split."""
        return "none" if self.split == "lab" else self.group

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds themselves."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else tuple(int(seed) for seed in self.seeds)
