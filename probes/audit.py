"""Leak audit: what a probe's score owes to tracks that belong together and stand on both sides of a split.

Artists, albums and recordings have a sound of their own. Where they are divided between training and test part, a probe can
name the genre by knowing them, and the score is too high (the artist effect: Pampalk, Flexer and Widmer 2005, ISMIR; Flexer
and Schnitzer 2010, Computer Music Journal 34:20). The audit runs one probe under ever stricter groupings, on exactly the same
tracks, genres, seeds and number of folds, and compares each score with that under the strictest grouping. All intervals come
from the same resamples of the strictest groups, so the gaps are paired. Whole artists make uneven folds, which cost a probe
some score by themselves; so the folds of every grouping have, as far as it lets them, the sizes and genres of the strictest's.

An interval tells of other tracks, not of folds that fall otherwise: of simulated libraries without a leak it held 0 in 90 to
95 of 100. So a leak is announced only where the gap is surer than that; in those libraries it was in 1 or 2 of 100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import ParameterError
from embedstore.types import TrackLabels, track_id
from probes.arm import Work, track_by_track
from probes.base import Ints, load_probe
from probes.cells import Cells
from probes.duplicates import Pairs
from probes.layers import Feature, Source, load_features, name_tracks, open_source
from probes.plan import Plan, make_plan
from probes.presets import PRESETS
from probes.protocol import Protocol
from probes.results import Interval, PerTrack, ProbeReport, Score, Study, plain
from probes.splits import LEVELS, group_tracks, join_groups
from probes.statistics import Samples
from probes.studies import keep as keep_report
from probes.table import tabulate
from probes.task import make_task, pairs_within

__all__ = ["KINDS", "AuditReport", "Grouping", "Offenders", "audit_alike", "audit_leaks"]

KINDS = (*LEVELS[1:], "near-duplicate")
_LISTED = 20
_SURE = 2.50 / 1.96  # four gaps are looked at: as many deviations for 5 % in all as for 5 % of one
_WORDS = {
    "none": "nothing kept together",
    "track": "only tracks kept together",
    "album": "only tracks and albums kept together",
    "artist": "artists, but not near-duplicates, kept together",
}


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The score under one grouping.

    Attributes
    ----------
    name : {"none", "track", "album", "artist", "near-duplicate"}
        What is kept on one side of each split; each also keeps what those before it keep.
    groups : int
        How many there are.
    score : Score
        Of the layer and settings chosen inside each training part.
    gap : Interval
        Main measure less that under the strictest grouping.
    leaks : bool
        Whether the gap is above 0 beyond chance, also as one of four that are looked at (Bonferroni).
    divided : dict of float
        By kind (``track``, ``album``, ``artist``, ``near-duplicate``): tested tracks that had a companion of that kind in
        their training part, mean over seeds.
    """

    name: str
    groups: int
    score: Score
    gap: Interval
    leaks: bool
    divided: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Offenders:
    """Tracks of one kind that ungrouped folds put on both sides.

    Attributes
    ----------
    kind : {"track", "album", "artist", "near-duplicate"}
    pairs : float
        Divided pairs, mean over seeds.
    examples : tuple of tuples of str
        Some pairs by path, or by artist and title: one per group of tracks, the largest groups first; near-duplicates with
        the most alike first.
    tracks : tuple of tuples of str
        The ids of these.
    similarity : tuple of float, or None
        How alike the near-duplicates among them are: cosine of the whitened vectors (`probes.duplicates`).
    """

    kind: str
    pairs: float
    examples: tuple[tuple[str, str], ...]
    tracks: tuple[tuple[str, str], ...] = ()
    similarity: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """A finished audit.

    Attributes
    ----------
    probe : str
    source : dict
        Encoder, model, store, where known.
    genres : tuple of str
    n_tracks : int
    protocol : dict
        Folds, seeds, resamples, layers.
    groupings : tuple of Grouping
        The loosest first; the last is the strictest.
    offenders : tuple of Offenders
    verdict : str
        What follows, in words.
    notes : tuple of str
    tested : PerTrack or None
        Track by track, under the strictest grouping; no part of `to_dict`.
    """

    probe: str
    source: Mapping[str, Any]
    genres: tuple[str, ...]
    n_tracks: int
    protocol: Mapping[str, Any]
    groupings: tuple[Grouping, ...]
    offenders: tuple[Offenders, ...]
    verdict: str
    notes: tuple[str, ...]
    tested: PerTrack | None = field(default=None, compare=False, metadata={"untold": True})

    @property
    def measure(self) -> str:
        """Name of the main measure."""
        return next(iter(self.groupings[0].score.measures))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(plain(self))

    def __repr__(self) -> str:
        return f"AuditReport({self.probe}, {self.n_tracks} tracks, {self.verdict})"


def audit_leaks(
    source: Any,
    probe: Any = "logistic",
    *,
    genres: int | str | Sequence[str] | None = None,
    layer: int | str | Sequence[int | str] | None = None,
    folds: int = 5,
    seeds: int | Sequence[int] = 3,
    multilabel: bool = False,
    labels: Mapping[int, TrackLabels] | None = None,
    seconds: Mapping[int, float] | None = None,
    jobs: int | None = None,
    cells: str | Path | None = None,
    resamples: int = 10_000,
    keep: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> AuditReport:
    """Compare a probe's score under no grouping, and with tracks, albums, artists, near-duplicates kept together.

    Parameters
    ----------
    source, probe, genres, layer, folds, seeds, multilabel, labels, jobs, cells, resamples, progress
        As of `probes.evaluation.evaluate`.
    seconds : mapping of key to float, optional
        Durations, in place of the store's; needed with matrices, for near-duplicates are of one length.
    keep : bool
        Also keep the report in the store, see `probes.studies`.

    Raises
    ------
    ParameterError, UnknownNameError
        What was asked cannot be had: genres, layer, durations, ...

    Examples
    --------
    >>> from embedstore.types import LayerMatrix, TrackLabels
    >>> rng = np.random.default_rng(0)
    >>> artist = np.arange(80) // 4
    >>> sound = rng.normal(size=(20, 30))[artist] + 0.3 * rng.normal(size=(80, 30))
    >>> labels = {key: TrackLabels(("ab"[a % 2],), (f"artist {a}",)) for key, a in enumerate(artist)}
    >>> matrix = LayerMatrix(0, "artists only", np.arange(80), sound.astype("f4"))
    >>> seconds = {key: 180.0 + 9 * key for key in range(80)}
    >>> report = audit_leaks([matrix], "knn", labels=labels, seconds=seconds, seeds=1, jobs=1, resamples=200)
    >>> report.groupings[0].gap.low > 0
    True
    """
    protocol = Protocol(genres=genres, folds=folds, seeds=seeds, multilabel=multilabel, resamples=resamples)
    opened, model = open_source(source, labels), load_probe(probe)
    copies = _near_duplicates(opened, seconds)
    task = make_task(opened.keys, opened.labels, genres, "artist", multilabel=multilabel, pairs=copies.rows)
    features = load_features(opened, "all" if layer is None else layer, task.keys)
    pairs = pairs_within(np.flatnonzero(np.isin(opened.keys, task.keys)), copies.rows, len(opened.keys))
    similar = dict(zip(map(tuple, opened.keys[copies.rows].tolist()), copies.similarity.tolist(), strict=True))
    known = [opened.labels.get(int(key), TrackLabels()) for key in task.keys]
    kept = {level: group_tracks(known, level) for level in LEVELS} | {"near-duplicate": task.groups}
    alike = {**kept, "near-duplicate": join_groups(kept["none"], pairs)}
    asked, folds = folds, min(folds, int(task.groups.max()) + 1)
    fewer = [f"{asked} folds were asked; there are {folds} groups, so {folds} folds were made"] if folds < asked else []
    how: dict[str, Any] = {"seeds": protocol.chosen_seeds, "folds": folds, "n_features": len(features)}
    strictest = make_plan(model, task.y, task.groups, **how)
    plans = {
        name: strictest
        if np.array_equal(of, task.groups)
        else make_plan(model, task.y, of, like=strictest.folds, **how)
        for name, of in kept.items()
    }
    said_under = _run(plans, features, jobs, Cells(cells), progress)
    # each grouping has folds of its own; the groups that are drawn are the strictest's for all
    tables = [
        tabulate(replace(plans[name], groups=task.groups), values[None], resamples)
        for name, values in said_under.items()
    ]
    rows = tuple(
        Grouping(
            name=name,
            groups=int(of.max()) + 1,
            score=Score(**tables[row].score(0)),
            gap=(gap := _gap(tables[row].samples, tables[-1].samples)),
            leaks=gap.value > _SURE * (gap.value - gap.low),
            divided={kind: _tracks_divided(alike[kind], plans[name].folds) for kind in KINDS},
        )
        for row, (name, of) in enumerate(kept.items())
    )
    ungrouped = plans["none"].folds
    examples = {kind: list(islice(_examples(alike[kind], ungrouped[0]), _LISTED)) for kind in LEVELS[1:]}
    examples["near-duplicate"] = [(a, b) for a, b in pairs.tolist() if ungrouped[0, a] != ungrouped[0, b]][:_LISTED]
    shown = sorted({row for found in examples.values() for pair in found for row in pair})
    names = dict(zip(shown, name_tracks(source, opened.labels, task.keys[shown]).values(), strict=True))
    report = AuditReport(
        probe=probe if isinstance(probe, str) else type(model).__name__,
        source=opened.about,
        genres=task.genres,
        n_tracks=len(task.y),
        protocol={
            "task": "multi-label" if multilabel else "single-label",
            "folds": folds,
            "seeds": list(protocol.chosen_seeds),
            "layers": [feature.layer for feature in features],
            "resamples": len(tables[0].samples),
            "interval": "95 %: bootstrap over the strictest groups, the same resamples for all groupings",
        },
        groupings=rows,
        offenders=tuple(
            Offenders(
                kind=kind,
                pairs=_pairs_divided(alike[kind], ungrouped),
                examples=tuple((names[a], names[b]) for a, b in found),
                tracks=tuple((track_id(int(task.keys[a])), track_id(int(task.keys[b]))) for a, b in found),
                similarity=tuple(similar[tuple(task.keys[[a, b]].tolist())] for a, b in found)
                if kind == "near-duplicate"
                else None,
            )
            for kind, found in examples.items()
        ),
        verdict=_verdict(rows),
        notes=(*task.notes, *fewer, *strictest.notes),
        tested=track_by_track(task, strictest, said_under["near-duplicate"]),
    )
    more = {"genres": genres, "layer": layer, "folds": asked, "seeds": seeds, "multilabel": multilabel}
    given = {"probe": probe, "labels": labels, "seconds": seconds}
    return keep_report(source, report, **more, **given) if keep else report


def audit_alike(source: Any, found: ProbeReport | Study, **options: Any) -> AuditReport:
    """Audit what a report tells of: its first probe, or the one that a preset stands for.

    Parameters
    ----------
    source : EmbeddingStore
    found : ProbeReport or Study
    **options
        Of `probes.presets.run`; those that an audit has no use for are left out.
    """
    report = found.reports[0] if isinstance(found, Study) else found
    name = options.get("preset")
    probe = PRESETS[name].make() if name else report.probe
    names = ("genres", "layer", "folds", "seeds", "multilabel", "jobs", "cells", "keep")
    kept = {key: options[key] for key in names if key in options}
    return audit_leaks(source, probe, **({"layer": "concat"} if name == "seed" else {}) | kept)


def _gap(under: Samples, strictest: Samples) -> Interval:
    """Give the main measure under one grouping less that under the strictest, both drawn alike."""
    name = strictest.main
    first, second = (float(np.nanmean(samples.observed[name][0])) for samples in (under, strictest))
    moved = under[name][:, 0] - strictest[name][:, 0]
    return Interval.of(first - second, moved, widen=strictest.widen, least=-1.0)


def _near_duplicates(source: Source, seconds: Mapping[int, float] | None) -> Pairs:
    if seconds is not None:
        if lacking := sum(int(key) not in seconds for key in source.keys):
            raise ParameterError(f"the durations of {lacking} of {len(source.keys)} tracks are missing")
        source = replace(source, seconds=lambda: seconds)
    pairs = source.near_duplicates(source.keys)
    if pairs is None:
        raise ParameterError(
            "an audit needs the tracks' durations to find near-duplicates: pass seconds={key: seconds}, or an open store"
        )
    return pairs


def _run(
    plans: Mapping[str, Plan],
    features: Sequence[Feature],
    jobs: int | None,
    cells: Cells,
    progress: Callable[[int, int], object] | None,
) -> dict[str, Any]:
    """Give what was said of each track under each grouping, by the layer that was chosen without it.

    Arrays of shape (n_seeds, n), or (n_seeds, n, n_tags). Groupings that come out the same are run once.
    """
    first = {name: next(n for n, p in plans.items() if np.array_equal(p.groups, plans[name].groups)) for name in plans}
    total = sum(plans[name].rounds(len(features)) for name in set(first.values()))
    work = Work(jobs, cells, progress, total)
    found: dict[str, Any] = {}
    for name, same in first.items():
        if same == name:
            plan = plans[name]
            found[name] = work(plan, features).nested(plan.folds, multilabel=plan.multilabel)
        else:
            found[name] = found[same]
    return found


def _tracks_divided(groups: Ints, folds: Ints) -> float:
    """Count tracks whose group stands in several folds, mean over seeds; `folds` has shape (n_seeds, n)."""
    counted = []
    for of in folds:
        spans = np.bincount(np.unique(np.stack([groups, of]), axis=1)[0])
        counted.append((spans > 1)[groups].sum())
    return float(np.mean(counted))


def _pairs_divided(groups: Ints, folds: Ints) -> float:
    """Count pairs of one group in different folds, mean over seeds."""
    together = (np.bincount(groups) ** 2).sum()
    apart = [together - (np.unique(np.stack([groups, of]), axis=1, return_counts=True)[1] ** 2).sum() for of in folds]
    return float(np.mean(apart) / 2)


def _examples(groups: Ints, folds: Ints) -> Iterator[tuple[int, int]]:
    """Give two tracks in different folds of each group that has such, the largest groups first."""
    sizes = np.bincount(groups)
    for group in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes > 1)]:
        members = np.flatnonzero(groups == group)
        other = members[folds[members] != folds[members[0]]]
        if len(other):
            yield int(members[0]), int(other[0])


def _verdict(rows: Sequence[Grouping]) -> str:
    """Say which groupings score above the strictest by more than chance."""
    strictest = rows[-1].score.main
    leaks = [row for row in rows[:-1] if row.leaks]
    if leaks:
        told = "; ".join(f"{_WORDS[row.name]}: by {row.gap}" for row in leaks)
        return f"leak: the score is too high with {told}; it is {strictest} on artists and recordings not heard before"
    most = max(row.gap.high for row in rows[:-1])
    return f"no leak shows: no grouping scores above the strictest beyond chance; a gap of up to {most:.3f} may hide"
