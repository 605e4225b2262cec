"""One call asks the honest question: which layer knows the genres, how well, and how sure can we be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from embedstore import __version__
from embedstore.errors import ParameterError
from embedstore.types import TrackLabels
from probes.base import Ints, load_probe, settings_of
from probes.layers import Feature, load_features, open_source
from probes.measures import accuracy, balanced_accuracy, confusion, f1_per_class, macro_f1, tally
from probes.results import Interval, LayerResult, ProbeReport, Score
from probes.splits import groups_per_class
from probes.statistics import Samples, cluster_bootstrap, widening
from probes.sweep import Outcome, Plan, cross_validate, make_plan
from probes.task import Task, make_task

__all__ = ["evaluate"]


def evaluate(
    source: Any,
    probe: Any = "logistic",
    *,
    genres: int | str | Sequence[str] | None = None,
    layer: int | str | Sequence[int | str] = "all",
    folds: int = 5,
    seeds: int | Sequence[int] = 3,
    group: str = "artist",
    labels: Mapping[int, TrackLabels] | None = None,
    jobs: int | None = None,
    resamples: int = 10_000,
    progress: Callable[[int, int], object] | None = None,
) -> ProbeReport:
    """Ask each layer how well a small classifier tells genres apart from its vectors.

    Parameters
    ----------
    source : EmbeddingStore, or mapping or sequence of LayerMatrix
    probe : str or estimator
        See `probes.base.load_probe`.
    genres : int, str or sequence of str, optional
        See `probes.task.choose_genres`; default: all genres there are.
    layer : int, str, or sequence of them
        ``"all"``, a number or name (or several), ``"mean"`` or ``"mix"``.
    folds : int
        Parts of the cross-validation.
    seeds : int or sequence of int
        How many repeats with other folds, or their seeds.
    group : {"artist", "none"}
        Whether tracks of one artist stay on one side of each split.
    labels : mapping of key to TrackLabels, optional
        In place of the store's; needed with matrices.
    jobs : int, optional
        Processes; default: one for each core if the work is worth it. The result is the same.
    resamples : int
        Bootstrap resamples behind each interval.
    progress : callable, optional
        Called with the finished and the total number of rounds.

    Raises
    ------
    ParameterError, UnknownNameError
        What was asked cannot be had: genres, layer, probe, folds, ...

    Examples
    --------
    >>> from embedstore.types import LayerMatrix, TrackLabels
    >>> rng = np.random.default_rng(0)
    >>> keys, genre = np.arange(40), np.arange(40) % 2
    >>> noise = LayerMatrix(0, "noise", keys, rng.normal(size=(40, 8)).astype("f4"))
    >>> signal = LayerMatrix(1, "signal", keys, (rng.normal(size=(40, 8)) + 3 * genre[:, None]).astype("f4"))
    >>> labels = {key: TrackLabels(("rock" if key % 2 else "blues",), (f"artist {key // 4}",)) for key in range(40)}
    >>> report = evaluate([noise, signal], "knn", labels=labels, seeds=1, jobs=1, resamples=100)
    >>> report.best_layer, report.selected.macro_f1.value
    (1, 1.0)
    """
    opened = open_source(source, labels)
    model = load_probe(probe)
    if resamples < 1 or (jobs is not None and jobs < 1):
        raise ParameterError(f"resamples and jobs are at least 1; got resamples {resamples}, jobs {jobs}")
    task = make_task(opened.keys, opened.labels, genres, group)
    features = load_features(opened, layer, task.keys)
    plan = make_plan(model, task.y, task.groups, seeds=_seeds(seeds), folds=folds, n_features=len(features))
    tick = _ticker(progress, 2 * (len(plan.inner) + len(plan.outer)))
    outcome = cross_validate(plan, features, jobs=jobs, tick=tick)
    best = int(np.nan_to_num(outcome.inner_f1).mean((1, 2)).argmax())
    control = cross_validate(plan, features[best : best + 1], y=_shuffled(plan), jobs=jobs, tick=tick)
    layer_of = np.nan_to_num(outcome.inner_f1).argmax(0)
    majority = np.full_like(plan.folds, np.bincount(task.y).argmax())
    rows = [*outcome.predictions, _nested(plan, outcome, layer_of), majority, control.predictions[0]]
    return _Assembly(
        plan=plan,
        task=task,
        features=features,
        outcome=outcome,
        best=best,
        layer_of=layer_of,
        rows=np.stack(rows),
        samples=cluster_bootstrap(task.y, np.stack(rows), task.groups, n_classes=len(task.genres), resamples=resamples),
    ).report(
        probe=probe if isinstance(probe, str) else type(model).__name__,
        source=opened.about,
        group=group,
    )


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0:
        raise ParameterError(f"seeds is how many (at least 1), or a list of different numbers >= 0; got {seeds}")
    return chosen


def _ticker(progress: Callable[[int, int], object] | None, total: int) -> Callable[[], object]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return tick


def _nested(plan: Plan, outcome: Outcome, layer_of: Ints) -> Ints:
    """Predictions of the layer that was chosen for each seed and fold, shape (n_seeds, n)."""
    seeds = np.arange(len(plan.seeds))[:, None]
    of_row = layer_of[seeds, plan.folds]
    return outcome.predictions[of_row, seeds, np.arange(len(plan.y))]


def _shuffled(plan: Plan) -> Ints:
    """Permute the labels to learn, once for each seed, shape (n_seeds, n)."""
    return np.stack([np.random.default_rng([seed, 0x5EED]).permutation(plan.y) for seed in plan.seeds])


@dataclass(frozen=True, repr=False, eq=False)
class _Assembly:
    """All the arrays of a finished probe, and how they become a report.

    `rows` and `samples` hold the features, then the nested choice, the majority and the shuffled labels.
    """

    plan: Plan
    task: Task
    features: Sequence[Feature]
    outcome: Outcome
    best: int
    layer_of: Ints
    rows: Ints
    samples: Samples

    def report(self, *, probe: str, source: Mapping[str, Any], group: str) -> ProbeReport:
        n = len(self.features)
        task, predicted = self.task, self.rows[n]
        matrix = sum(confusion(task.y, one_seed, len(task.genres)) for one_seed in predicted)
        return ProbeReport(
            probe=probe,
            source=source,
            genres=task.genres,
            tracks_per_genre=task.counts,
            n_tracks=len(task.y),
            excluded=task.excluded,
            protocol=self._protocol(group),
            results=tuple(self._layer(number) for number in range(n)),
            selected=self._selected(),
            best_layer=self.features[self.best].layer,
            confusion={"labels": list(task.genres), "matrix": np.asarray(matrix).tolist()},
            baselines={"majority": Score(**self._numbers(n + 1)), "shuffled_labels": Score(**self._numbers(n + 2))},
            notes=(*task.notes, *self.plan.notes, *self._few_groups(group), *self._warned()),
            versions={"embedstore": __version__} | {name: version(name) for name in ("numpy", "scikit-learn", "torch")},
        )

    def _numbers(self, row: int) -> dict[str, Any]:
        counts = tally(self.task.y, self.rows[row], len(self.task.genres))
        by_seed = macro_f1(counts)
        widen = widening(int(self.plan.groups.max()) + 1, len(self.task.genres))
        return {
            "macro_f1": Interval.of(by_seed.mean(), self.samples.macro_f1[:, row], widen=widen),
            "accuracy": Interval.of(accuracy(counts).mean(), self.samples.accuracy[:, row], widen=widen),
            "balanced_accuracy": Interval.of(
                balanced_accuracy(counts).mean(), self.samples.balanced_accuracy[:, row], widen=widen
            ),
            "by_seed": tuple(by_seed.tolist()),
        }

    def _per_class(self, row: int) -> dict[str, float]:
        values = f1_per_class(tally(self.task.y, self.rows[row], len(self.task.genres))).mean(0)
        return dict(zip(self.task.genres, values.tolist(), strict=True))

    def _layer(self, number: int) -> LayerResult:
        feature, inner = self.features[number], self.outcome.inner_f1[number]
        learned = self.outcome.weights.get(number)
        return LayerResult(
            layer=feature.layer,
            name=feature.name,
            per_class=self._per_class(number),
            inner_f1=None if np.isnan(inner).all() else float(np.nanmean(inner)),
            settings=self._settings(self.outcome.setting[number]),
            weights=None if learned is None else _spread(feature.parts, learned),
            **self._numbers(number),
        )

    def _selected(self) -> LayerResult:
        inner = np.take_along_axis(self.outcome.inner_f1, self.layer_of[None], 0)
        return LayerResult(
            layer=self.features[self.best].layer,
            name="chosen inside the training parts",
            per_class=self._per_class(len(self.features)),
            inner_f1=None if np.isnan(inner).all() else float(np.nanmean(inner)),
            settings=self._settings(np.take_along_axis(self.outcome.setting, self.layer_of[None], 0)),
            layers=_counted(str(self.features[number].layer) for number in self.layer_of.ravel().tolist()),
            **self._numbers(len(self.features)),
        )

    def _settings(self, chosen: Ints) -> dict[str, int]:
        grid = settings_of(self.plan.probe)
        return _counted(", ".join(f"{k}={v}" for k, v in grid[s].items()) or "defaults" for s in chosen.ravel())

    def _protocol(self, group: str) -> dict[str, Any]:
        plan = self.plan
        return {
            "folds": plan.n_folds,
            "seeds": list(plan.seeds),
            "group": group,
            "groups": int(plan.groups.max()) + 1,
            "inner": plan.choice,
            "scaling": "mean and standard deviation of the training part",
            "interval": "95 %: bootstrap over groups, bias-corrected; other test tracks, not another training set",
            "resamples": len(self.samples.macro_f1),
            "settings": [_plain(setting) for setting in settings_of(plan.probe)],
            "parameters": _plain(plan.probe.get_params()),
        }

    def _few_groups(self, group: str) -> list[str]:
        counts = groups_per_class(self.plan.y, self.plan.groups)
        few = [f"{self.task.genres[number]} ({counts[number]})" for number in np.flatnonzero(counts < 5)]
        unit = "artist groups" if group == "artist" else "tracks"
        return [f"fewer than 5 {unit} stand behind {', '.join(few)}: read these genres with care"] if few else []

    def _warned(self) -> list[str]:
        fits = len(self.plan.inner) + len(self.plan.outer)
        return [f"warned {n} times in {fits} rounds: {text}" for text, n in self.outcome.warnings.most_common(3)]


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _spread(parts: Sequence[str], learned: Sequence[Any]) -> dict[str, tuple[float, float]]:
    weights = np.stack(learned)
    return dict(zip(parts, zip(weights.mean(0).tolist(), weights.std(0).tolist(), strict=True), strict=True))


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what JSON can hold; the rest (estimators, nan) becomes text."""

    def kept(value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            return repr(value)
        return value

    return {name: kept(value) for name, value in parameters.items()}
