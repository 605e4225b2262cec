"""One probe on one encoder: everything that is fitted for it, and how the outcome becomes a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from embedstore import __version__
from embedstore.errors import ParameterError
from probes.base import Ints
from probes.cells import Cells
from probes.layers import Feature, Source
from probes.plan import Plan, make_plan, restrict
from probes.protocol import Protocol
from probes.results import Comparison, CurvePoint, LayerResult, PerTrack, ProbeReport, Score
from probes.significance import indistinct
from probes.splits import groups_per_class
from probes.sweep import Outcome, cross_validate
from probes.table import Table, tabulate
from probes.task import Task

__all__ = ["Arm", "Finished", "Work", "compare_arms", "track_by_track"]

Progress = Callable[[int, int], object]


class Work:
    """What all sweeps of a study share: processes, kept rounds, the count of rounds."""

    def __init__(self, jobs: int | None, cells: Cells, progress: Progress | None, total: int) -> None:
        self._jobs, self.cells, self._progress, self._total, self._done = jobs, cells, progress, total, 0

    def __call__(self, plan: Plan, features: Sequence[Feature], **more: Any) -> Outcome:
        """Run a plan."""
        return cross_validate(plan, features, jobs=self._jobs, tick=self._tick, cells=self.cells, **more)

    def _tick(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


@dataclass(frozen=True, repr=False, eq=False)
class Arm:
    """One probe on one encoder, before the work."""

    title: str
    encoder: str
    model: Any
    source: Source
    features: Sequence[Feature]
    beside: Mapping[str, Sequence[Feature]]
    task: Task
    protocol: Protocol
    plan: Plan = field(init=False)
    baselines: Mapping[str, Plan] = field(init=False)
    curve: Sequence[tuple[int, bool, Plan]] = field(init=False)

    def __post_init__(self) -> None:
        def plan(features: Sequence[Feature], size: int | None = None) -> Plan:
            return make_plan(
                _shaped(self.model, features),
                self.task.y,
                self.task.groups,
                seeds=self.protocol.chosen_seeds,
                folds=self.protocol.folds,
                n_features=len(features),
                split=self.protocol.split,
                parts=self.task.parts,
                size=size,
            )

        whole = plan(self.features)
        points = [(size, False, plan(self.features, size)) for size in sorted(self.protocol.train_sizes)]
        points += [(shots, True, restrict(whole, shots)) for shots in sorted(self.protocol.shots)]
        object.__setattr__(self, "plan", whole)
        object.__setattr__(self, "baselines", {name: plan(features) for name, features in self.beside.items()})
        object.__setattr__(self, "curve", points)

    @property
    def rounds(self) -> int:
        """How often the sweeps of this arm tick."""
        several = len(self.features)
        if self.protocol.split == "loo" and any(len(feature.values) > 1 for feature in self.features):
            raise ParameterError("a mix of layers would be learned anew for each group left out; name another --layer")
        counts = [self.plan.rounds(several), self.plan.rounds(1)]
        counts += [plan.rounds(len(self.beside[name])) for name, plan in self.baselines.items()]
        return sum(counts) + sum(plan.rounds(several) for _, _, plan in self.curve)

    def run(self, work: Work) -> Finished:
        """Do the work."""
        outcome = work(self.plan, self.features, screen=self.protocol.screen)
        best = self.features[outcome.best : outcome.best + 1]
        control = work(self.plan, best, y=_shuffled(self.plan))
        screen = self.protocol.screen
        others = {name: work(plan, self.beside[name], screen=screen) for name, plan in self.baselines.items()}
        points = [(*point, work(point[-1], self.features, screen=screen)) for point in self.curve]
        return Finished(self, outcome, control, others, points)


def _shaped(model: Any, features: Sequence[Feature]) -> Any:
    """Tell a network that reads layers side by side how many they are.

    Raises
    ------
    ParameterError
        They are not of one number, or not equally wide.
    """
    from sklearn.base import clone

    if "n_layers" not in model.get_params():
        return model
    counts = {len(feature.parts) if feature.layer == "concat" else 1 for feature in features}
    ragged = [feature.name for feature in features if len(set(feature.widths)) > 1]
    if len(counts) > 1 or ragged:
        raise ParameterError(
            "this network reads one layer, or all of one width side by side; "
            + (f"those of {ragged[0]} differ in width: ask for a --layer" if ragged else "ask for one kind of --layer")
        )
    return clone(model).set_params(n_layers=counts.pop())


def _shuffled(plan: Plan) -> Ints:
    """Permute the labels to learn, once for each seed, shape (n_seeds, n) or (n_seeds, n, n_tags)."""
    return np.stack([np.random.default_rng([seed, 0x5EED]).permutation(plan.y) for seed in plan.seeds])


@dataclass(frozen=True, repr=False, eq=False)
class Finished:
    """One probe on one encoder, after the work: how its arrays become a report."""

    arm: Arm
    outcome: Outcome
    control: Outcome
    others: Mapping[str, Outcome]
    points: Sequence[tuple[int, bool, Plan, Outcome]]

    @property
    def nested(self) -> Any:
        """What the layer chosen inside each training part said, shape (n_seeds, n, ...)."""
        return self._nested(self.outcome)

    def _nested(self, outcome: Outcome, layer_of: Ints | None = None) -> Any:
        return outcome.nested(self.arm.plan.folds, multilabel=self.arm.task.multilabel, layer_of=layer_of)

    def report(self) -> ProbeReport:
        """Score and describe everything."""
        arm, task, outcome = self.arm, self.arm.task, self.outcome
        shown, values = outcome.whole, outcome.values(multilabel=task.multilabel)
        majority = (
            np.zeros_like(values[0]) if task.multilabel else np.full_like(values[0], np.bincount(task.y).argmax())
        )
        names = ["majority", "shuffled_labels", *self.others]
        beside = [self._nested(other) for other in self.others.values()]
        control = self.control.values(multilabel=task.multilabel)[0]
        rows = [*values[shown], self.nested, majority, control, *beside]
        table = tabulate(arm.plan, np.stack(rows), arm.protocol.resamples)
        n = len(shown)
        results = tuple(self._layer(table, row, number) for row, number in enumerate(shown))
        best = shown.index(outcome.best) if outcome.best in shown else None
        titles = [
            *(f"layer {result.layer}" for result in results),
            "selected",
            *(name.replace("_", " ") for name in names),
        ]
        pairs = [(best, row) for row in range(n) if row != best] if best is not None else []
        compared = table.compare(pairs + [(n, n + 3 + row) for row in range(len(self.others))], titles)
        alike = set(indistinct(compared[: len(pairs)]))
        return ProbeReport(
            probe=arm.title,
            source=arm.source.about,
            genres=task.genres,
            tracks_per_genre=task.counts,
            n_tracks=len(task.y),
            excluded=task.excluded,
            protocol=self._protocol(table),
            results=results,
            selected=self._selected(table, n, arm.plan, outcome),
            best_layer=arm.features[outcome.best].layer,
            confusion=None if task.multilabel else {"labels": list(task.genres), "matrix": table.confusion(n).tolist()},
            baselines={name: Score(**table.score(n + 1 + row)) for row, name in enumerate(names)},
            selectivity=None if best is None else table.difference(best, n + 2),
            comparisons=compared,
            indistinct=tuple(result.layer for row, result in enumerate(results) if titles[row] in alike)
            if pairs
            else None,
            curve=tuple(self._point(*point) for point in self.points),
            quality=self._quality(),
            notes=(*task.notes, *arm.plan.notes, *self._screened(shown), *self._few_groups(), *self._warned()),
            versions={"embedstore": __version__} | {name: version(name) for name in ("numpy", "scikit-learn", "torch")},
            tested=track_by_track(task, arm.plan, self.nested),
        )

    def save(self, name: str | Path, report: ProbeReport, work: Work) -> Path:
        """Train the preferred layer with the setting chosen most often on all tracks, and keep it."""
        from probes.probefile import probe_path
        from probes.saved import keep_probe

        best, arm = self.outcome.best, self.arm
        setting = int(np.bincount(self.outcome.setting[best][self.outcome.inner[best] != -1]).argmax())
        # calibrated by scores of this very setting: those of the sweep come from whatever each fold chose
        one = replace(arm.plan, settings=(arm.plan.settings[setting],), inner=())
        scores = work(one, [arm.features[best]]).scores[0]
        path = probe_path(name, arm.source.about.get("store", ""))
        keep_probe(
            path,
            probe=arm.model,
            setting=arm.plan.settings[setting],
            feature=arm.features[best],
            layers=arm.source.layers,
            task=arm.task,
            scores=scores,
            seed=arm.plan.seeds[0],
            about={**arm.source.about, "protocol": report.protocol, "selected": report.to_dict()["selected"]},
        )
        return Path(path)

    def _fields(self, table: Table, row: int, inner: Any, chosen: Ints, plan: Plan) -> dict[str, Any]:
        seen = np.asarray(inner)[~np.isnan(inner)]
        intervals = zip(self.arm.task.genres, table.class_intervals(row), strict=True)
        return {
            "per_class": dict(zip(self.arm.task.genres, table.per_class(row).tolist(), strict=True)),
            "per_class_intervals": {genre: interval for genre, interval in intervals if interval},
            "inner": float(seen.mean()) if seen.size else None,
            "settings": _counted(_in_words(plan.settings[s]) for s in chosen.ravel()),
            **table.score(row),
        }

    def _layer(
        self, table: Table, row: int, number: int, plan: Plan | None = None, outcome: Outcome | None = None
    ) -> LayerResult:
        feature, outcome = self.arm.features[number], outcome or self.outcome
        learned = outcome.weights.get(number)
        return LayerResult(
            layer=feature.layer,
            name=feature.name,
            weights=None if learned is None else _spread(feature.parts, learned),
            **self._fields(table, row, outcome.inner[number], outcome.setting[number], plan or self.arm.plan),
        )

    def _selected(self, table: Table, row: int, plan: Plan, outcome: Outcome) -> LayerResult:
        layer_of = self._layer_of(plan, outcome)
        layers = _counted(str(self.arm.features[number].layer) for number in layer_of.ravel().tolist())
        most = next(iter(layers))
        return LayerResult(
            layer=next(feature.layer for feature in self.arm.features if str(feature.layer) == most),
            name="chosen inside the training parts",
            layers=layers,
            **self._fields(
                table,
                row,
                np.take_along_axis(outcome.inner, layer_of[None], 0),
                np.take_along_axis(outcome.setting, layer_of[None], 0),
                plan,
            ),
        )

    def _layer_of(self, plan: Plan, outcome: Outcome) -> Ints:
        """Few shots choose no layer: theirs was chosen with the whole training part."""
        return outcome.layer_of if plan.inner or not self.arm.plan.inner else self.outcome.layer_of

    def _point(self, size: int, shots: bool, plan: Plan, outcome: Outcome) -> CurvePoint:
        shown, values = outcome.whole, outcome.values(multilabel=plan.multilabel)
        nested = outcome.nested(plan.folds, multilabel=plan.multilabel, layer_of=self._layer_of(plan, outcome))
        table = tabulate(plan, np.stack([*values[shown], nested]), self.arm.protocol.resamples)
        return CurvePoint(
            size=size,
            shots=shots,
            n_train=float(np.mean([len(r.train) for r in plan.outer])),
            selected=self._selected(table, len(shown), plan, outcome),
            results=tuple(self._layer(table, row, number, plan, outcome) for row, number in enumerate(shown)),
        )

    def _quality(self) -> Mapping[str, Any] | None:
        if not self.arm.protocol.quality:
            return None
        from probes.quality import layer_quality

        return layer_quality(self.arm.features, self.arm.task.y)

    def _protocol(self, table: Table) -> dict[str, Any]:
        arm, plan = self.arm, self.arm.plan
        return {
            "task": "multi-label" if arm.task.multilabel else "single-label",
            "split": arm.protocol.split,
            "folds": plan.n_folds,
            "seeds": list(plan.seeds),
            "group": arm.protocol.together,
            "groups": int(table.groups.max()) + 1,
            "tested": int((plan.folds >= 0).sum(1).mean()),
            "inner": plan.choice,
            "scaling": "mean and standard deviation of the training part",
            "interval": "95 %: bootstrap over groups, bias-corrected; other test tracks, not another training set",
            "resamples": len(table.samples),
            "settings": [_plain(setting) for setting in plan.settings],
            "parameters": _plain(plan.probe.get_params()),
        }

    def _screened(self, shown: Sequence[int]) -> list[str]:
        gone = [str(feature.layer) for number, feature in enumerate(self.arm.features) if number not in shown]
        return [f"screened out before fitting in some or all training parts: layers {', '.join(gone)}"] if gone else []

    def _few_groups(self) -> list[str]:
        task = self.arm.task
        counts = groups_per_class(task.y, task.groups)
        few = [f"{task.genres[number]} ({counts[number]})" for number in np.flatnonzero(counts < 5)]
        unit = "artist groups" if self.arm.protocol.together == "artist" else "tracks"
        return [f"fewer than 5 {unit} stand behind {', '.join(few)}: read these genres with care"] if few else []

    def _warned(self) -> list[str]:
        fits = len(self.arm.plan.inner) + len(self.arm.plan.outer)
        return [f"warned {n} times in {fits} rounds: {text}" for text, n in self.outcome.warnings.most_common(3)]


def compare_arms(finished: Sequence[Finished]) -> tuple[Comparison, ...]:
    """Test what the arms chose against each other, all pairs in one family."""
    if len(finished) < 2:
        return ()
    first = finished[0].arm
    table = tabulate(first.plan, np.stack([one.nested for one in finished]), first.protocol.resamples)
    encoders, probes = {one.arm.encoder for one in finished}, {one.arm.title for one in finished}
    parts = [
        (one.arm.encoder if len(encoders) > 1 else "", one.arm.title if len(probes) > 1 else "") for one in finished
    ]
    names = [" ".join(filter(None, part)) for part in parts]
    return table.compare(list(combinations(range(len(finished)), 2)), names)


def track_by_track(task: Task, plan: Plan, said: Any) -> PerTrack:
    """List what was said of each track that was tested; `said` has shape (n_seeds, n), of tags (n_seeds, n, n_tags)."""
    rows = np.flatnonzero((plan.folds >= 0).any(0))
    named = np.where(plan.folds >= 0, said.argmax(-1) if task.multilabel else said, -1)[:, rows]
    genres = [np.flatnonzero(tags) for tags in task.y[rows]] if task.multilabel else task.y[rows, None]
    return PerTrack(
        keys=tuple(task.keys[rows].tolist()),
        genres=tuple(tuple(codes.tolist()) for codes in genres),
        predicted=tuple(map(tuple, named.tolist())),
    )


def _in_words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in setting.items()) or "defaults"


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
