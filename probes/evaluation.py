"""One call asks the honest question: which layer knows the genres, how well, and how sure can we be."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.baselines import open_baselines
from embedstore.errors import ParameterError, UnknownNameError
from embedstore.registry import unknown_name
from embedstore.types import TrackLabels
from probes.arm import Arm, Progress, Work, compare_arms
from probes.base import Ints, load_probe
from probes.cells import Cells
from probes.layers import Feature, Source, load_features, open_source
from probes.protocol import Protocol
from probes.results import ProbeReport, Study
from probes.task import Task, make_task

__all__ = ["Protocol", "compare", "evaluate", "side_by_side", "study"]


def evaluate(source: Any, probe: Any = "logistic", **options: Any) -> ProbeReport:
    """Ask each layer how well a small classifier tells genres apart from its vectors.

    Parameters
    ----------
    source : EmbeddingStore, or mapping or sequence of LayerMatrix
    probe : str or estimator
        See `probes.base.load_probe`.
    **options
        As of `study`: ``layer``, ``labels``, ``baselines``, ``jobs``, ``cells``, ``progress``, and the fields of `Protocol`.

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
    >>> report.best_layer, report.selected["macro_f1"].value
    (1, 1.0)
    """
    return study({"": source}, [probe], **options).reports[0]


def compare(first: Any, second: Any, probe: Any = "logistic", **options: Any) -> Study:
    """Compare two encoders on the tracks that both stores have: same folds, same seeds, paired tests.

    Parameters
    ----------
    first, second : EmbeddingStore, or mapping or sequence of LayerMatrix
        Labels are those of the first.
    probe, **options
        As of `evaluate`.
    """
    return study(side_by_side(first, second), [probe], **options)


def side_by_side(first: Any, second: Any) -> dict[str, Any]:
    """Name two stores after their encoders, and with A and B where these are alike or unknown."""
    names = [str(getattr(getattr(store, "card", None), "name", "")) for store in (first, second)]
    if names[0] == names[1]:
        names = [f"{name} {place}".strip() for name, place in zip(names, "AB", strict=True)]
    return dict(zip(names, (first, second), strict=True))


def study(
    sources: Mapping[str, Any],
    probes: Sequence[Any],
    *,
    layer: int | str | Sequence[int | str] = "all",
    labels: Mapping[int, TrackLabels] | None = None,
    baselines: Mapping[str, Any] | None = None,
    protocol: Protocol | None = None,
    jobs: int | None = None,
    cells: str | Path | None = None,
    names: Sequence[str] | None = None,
    save: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Study:
    """Run probes on encoders, all on the same tracks, folds and seeds, and compare what each chose.

    Parameters
    ----------
    sources : mapping of str to EmbeddingStore, or to mapping or sequence of LayerMatrix
        By the name to show; the labels are those of the first.
    probes : sequence of str or estimator
    layer : int, str, or sequence of them
        ``"all"``, a number or name (or several), ``"mean"``, ``"concat"`` or ``"mix"``.
    labels : mapping of key to TrackLabels, optional
        In place of the store's; needed with matrices.
    baselines : mapping of str to EmbeddingStore and the like, optional
        Such as ``mfcc`` and ``random_weights``: chosen and tested in the same way, a row of each table. Default: those that
        `embedstore.baselines` built into each store.
    protocol : Protocol, optional
    jobs : int, optional
        Processes; default: one for each core if the work is worth it. The result is the same.
    cells : path, optional
        Folder in which finished rounds are kept, so that a stopped sweep goes on.
    names : sequence of str, optional
        Of the probes, to show.
    save : str or path, optional
        Name or file under which the trained probe is kept (see `probes.saved`), of one probe on one store.
    progress : callable, optional
        Called with the finished and the total number of rounds.
    **options
        Fields of `Protocol`.

    Raises
    ------
    ParameterError, UnknownNameError
        What was asked cannot be had: genres, layer, probe, folds, ...
    """
    known = [f.name for f in fields(Protocol)]
    for name in options:
        if name not in known:
            raise unknown_name(
                "option", name, ["layer", "labels", "baselines", "names", "jobs", "cells", "save", "progress", *known]
            )
    protocol = replace(protocol or Protocol(), **options)
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ParameterError(f"jobs is a whole number, at least 1; got {jobs!r}")
    models = _models(probes, names)
    opened = {
        name: open_source(source, None if place else labels, labelled=not place)
        for place, (name, source) in enumerate(sources.items())
    }
    first = next(iter(opened.values()))
    if save is not None:
        _check_save(save, models, opened, protocol)
    keys = first.keys
    for other in opened.values():
        keys = keys[np.isin(keys, other.keys)]
    task = _task(list(opened.values()), keys, protocol)
    notes = []
    if len(keys) < len(first.keys):
        notes.append(f"{len(first.keys) - len(keys)} tracks are not in every store and were left out")
    arms = []
    for name, one in opened.items():
        features = load_features(one, layer, task.keys)
        beside, why = _beside(sources[name], baselines, layer, task.keys)
        notes += [note for note in why if note not in notes]
        arms += [Arm(title, name, model, one, features, beside, task, protocol) for title, model in models]
    total = sum(arm.rounds for arm in arms) + (replace(arms[0].plan, inner=()).rounds(1) if save is not None else 0)
    work = Work(jobs, Cells(cells), progress, total)
    finished = [arm.run(work) for arm in arms]
    reports = [one.report() for one in finished]
    if save is not None:
        path = finished[0].save(save, reports[0], work)
        use = shlex.join(["--probe", str(save), "--store", first.about.get("store", "")])
        notes.append(f"the probe is kept in {path}; use it with: embedstore classify AUDIO {use}")
    work.cells.trim()
    found = tuple(replace(report, notes=(*notes, *report.notes)) for report in reports)
    return Study(reports=found, comparisons=compare_arms(finished))


def _beside(
    store: Any, known: Mapping[str, Any] | None, layer: Any, keys: Ints
) -> tuple[dict[str, tuple[Feature, ...]], list[str]]:
    """Read the same layers of baselines (given, or those of a store), all where one has not these; say which cannot serve."""
    found, torn = (known or {}, ()) if known is not None or not hasattr(store, "path") else open_baselines(store)
    notes = list(torn)
    beside = {}
    for name, other in found.items():
        source = open_source(other, labelled=False)
        if lacking := int((~np.isin(keys, source.keys)).sum()):
            notes.append(f"no baseline {name}: its store lacks {lacking} of {len(keys)} tracks")
            continue
        try:
            beside[name] = load_features(source, layer, keys)
        except (ParameterError, UnknownNameError):
            beside[name] = load_features(source, "all", keys)
    return beside, notes


def _models(probes: Sequence[Any], names: Sequence[str] | None) -> list[tuple[str, Any]]:
    titles = names or [probe if isinstance(probe, str) else type(probe).__name__ for probe in probes]
    return [(title, load_probe(probe)) for title, probe in zip(titles, probes, strict=True)]


def _check_save(
    save: str | Path, models: Sequence[tuple[str, Any]], opened: Mapping[str, Source], protocol: Protocol
) -> None:
    """Refuse what could not be kept before the work is done."""
    from probes.probefile import probe_path
    from probes.saved import savable

    if len(models) > 1 or len(opened) > 1 or protocol.split not in ("cv", "loo"):
        raise ParameterError("one probe on one store, cross-validated, can be saved; leave out the others or --save")
    savable(models[0][1])
    probe_path(save, next(iter(opened.values())).about.get("store", ""))


def _task(sources: Sequence[Source], keys: Ints, protocol: Protocol) -> Task:
    """Choose tracks; recordings that sound the same to any encoder belong together, where their length is known."""
    found = [source.near_duplicates(keys) for source in sources] if protocol.together != "none" else []
    pairs = [some.rows for some in found if some is not None]
    return make_task(
        keys,
        sources[0].labels,
        protocol.genres,
        protocol.together,
        multilabel=protocol.multilabel,
        official=protocol.split == "official",
        pairs=np.concatenate(pairs) if pairs else None,
    )
