"""What the numbers rest on and what they say, in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from embedstore.terminal import printable
from probes.report.parts import shown, title_of
from probes.results import CurvePoint, LayerResult, ProbeReport

if TYPE_CHECKING:
    from probes.audit import AuditReport
    from probes.retrieval import SearchReport

__all__ = [
    "audit_sentences",
    "basis",
    "facts",
    "kind",
    "row_name",
    "search_sentences",
    "sentences",
    "size_of",
    "times",
]

_ALIKE = {
    "track": "of one artist and title",
    "album": "of one album",
    "artist": "of one artist",
    "near-duplicate": "that may be one recording",
}
_SPLITS = {"loo": "each group left out once", "lab": "the lab's random split"}
_FROM_STORES = {"mfcc": "MFCC statistics", "random_weights": "the same network with random weights"}


def kind(report: ProbeReport) -> str:
    """Say what the classes are called: ``"genre"``, or ``"tag"`` where a track may have several."""
    return "tag" if report.protocol.get("task") == "multi-label" else "genre"


def basis(report: ProbeReport) -> str:
    """Say how much stands behind the numbers, in one line."""
    p = report.protocol
    grouped = p.get("group") not in (None, "none")
    parts = [
        f"{report.n_tracks:,} tracks",
        f"{len(report.genres)} {kind(report)}s",
        f"{p['groups']:,} {p['group']} groups" if grouped else "artists not grouped",
        f"{p['folds']} folds" if p.get("split", "cv") == "cv" else _SPLITS.get(p["split"], f"{p['split']} split"),
    ]
    if p.get("tested", report.n_tracks) != report.n_tracks:
        parts[-1] += f" ({p['tested']:,} tracks tested)"
    seeds = len(p["seeds"])
    return f"{', '.join(parts)} x {seeds} seed{'s' if seeds > 1 else ''}"


def row_name(result: LayerResult) -> str:
    """Name of a layer, where it says more than its number."""
    return "" if result.name in (f"layer {result.layer}", str(result.layer)) else printable(result.name)


def times(counted: Mapping[str, int] | None, most: int = 3) -> str:
    """Say how often each thing was chosen.

    >>> times({"C=1": 9, "C=0.1": 6})
    'C=1 (9 x), C=0.1 (6 x)'
    """
    counted = counted or {}
    few = [f"{printable(name)} ({count} x)" for name, count in list(counted.items())[:most]]
    return ", ".join(few) + (", ..." if len(counted) > most else "")


def size_of(point: CurvePoint) -> str:
    """Name a size of the training part."""
    return f"{point.size:,} per genre" if point.shots else f"{point.size:,}"


def facts(known: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested names and values; what is empty is left out."""
    for key, value in known.items():
        name = f"{before}{printable(key)}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from facts(value, f"{name}: ")
        elif isinstance(value, (list, tuple)) and value:
            yield (
                name,
                ", ".join(
                    printable(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str))
                    for v in value
                ),
            )
        elif value not in (None, "", [], ()):
            yield name, printable(value)


def sentences(report: ProbeReport) -> Iterator[str]:
    """Say what was found, how far to trust it, and what a reader must know."""
    p, several = report.protocol, len(report.results) > 1
    if several:
        picked = "on the validation part, too" if p.get("split") == "official" else "with all tracks and is optimistic"
        yield (
            "quote the row 'selected': its layer and settings were chosen inside each training part; the preferred layer's "
            f"own row was picked {picked}"
        )
        yield from _indistinct(report)
    unit = f"{p['group']} groups" if p.get("group") not in (None, "none") else "tracks"
    yield (
        f"intervals: 95 %, bootstrap over {p['groups']:,} {unit}, {p['resamples']:,} resamples, bias-corrected; they tell "
        "of other tracks to test on, not of another training set"
    )
    if report.selectivity:
        yield (
            f"selectivity {shown(report.selectivity, 'difference')}: {title_of(report.measure)} of layer {report.best_layer} less "
            "that of the same probe on shuffled labels"
        )
    missing = [name for key, name in _FROM_STORES.items() if key not in report.baselines]
    if missing:
        yield f"baselines not given: {', '.join(missing)}; `embedstore baselines` builds them"
    yield from report.notes


def audit_sentences(audit: AuditReport) -> Iterator[str]:
    """Say what an audit found, and how far to trust it."""
    yield audit.verdict
    for one in audit.offenders:
        if one.pairs:
            yield f"{one.pairs:,.0f} pairs of tracks {_ALIKE[one.kind]} stand on both sides of ungrouped folds"
    yield f"intervals: {audit.protocol['interval']}, {audit.protocol['resamples']:,} resamples"
    yield from audit.notes


def search_sentences(search: SearchReport) -> Iterator[str]:
    """Say what an evaluation of search rests on and found, and how far to trust it."""
    p = search.protocol
    if search.genres:
        yield (
            f"{search.n_queries:,} queries of {len(search.genres)} genres by {p['artists']:,} artists; a track of the query's genre "
            f"is a hit, any other of the {search.n_tracks:,} tracks is none"
        )
        apart = search.chance["unfiltered"]["map"] - search.chance["filtered"]["map"]
        yield (
            "tracks of the query's own artist are left out; the gap is how much better a search looks with them, "
            f"{apart:+.3f} of it by chance, as there are more hits"
        )
        yield (
            f"chance: mAP {search.chance['filtered']['map']:.3f} by tracks in random order, but "
            f"{search.chance['by_artist']['map']:.3f} by whole artists in random order, as an artist's tracks stand together"
        )
    if "triplets" in p:
        yield f"{p['triplets']:,} judgements that one track is nearer than another, in {p['triplet_groups']:,} groups without a common track"
    if search.comparisons:
        tested = "(paired tests, corrected for the choice among all rows, 5 %)"
        others = ", ".join(search.indistinct)
        told = (
            f"not distinguishable from it: {others} {tested}" if others else f"each other is distinguishable {tested}"
        )
        yield f"best: {search.best}, picked on these very tracks, so its score is optimistic; {told}"
    for name in p["transforms"][1:]:
        for measure, effects in search.effects.items():
            some = [one for one in effects if one.first.endswith(f", {name}")]
            sure = [one.difference.value for one in some if one.p_corrected <= 0.05]
            up, down = sum(value > 0 for value in sure), sum(value < 0 for value in sure)
            ends = " to ".join(dict.fromkeys(f"{end(one.difference.value for one in some):+.3f}" for end in (min, max)))
            told = f"better beyond chance in {up}, worse in {down} of {len(some)} layers (Holm over all {len(search.effects) * len(effects)} tests, 5 %)"
            yield f"{name} against {p['transforms'][0]}: {title_of(measure)} {ends}; {told}"
    if p["transforms"] != ["none"]:
        yield f"transforms are fitted on {p['transforms_fitted_on']}"
    hubs = [(one.hubness.largest, one.hubness, one.title) for one in search.results if one.hubness]
    if hubs:
        _, hub, title = max(hubs, key=lambda one: one[0])
        yield f"largest hub: {printable(hub.track)}, among the {hub.k} nearest of {hub.largest:.4g} ({title})"
    if search.genres or "triplets" in p:
        over = p.get("jackknife", "parts of the judgements, each left out")
        yield f"intervals: 95 %, jackknife over {over}; they tell of other libraries of this kind and are rather too wide than too narrow"
    yield from search.notes


def _indistinct(report: ProbeReport) -> Iterator[str]:
    if report.indistinct is None:
        return
    tested = "(paired test, Holm, 5 %)"
    if report.indistinct:
        layers = ", ".join(map(str, report.indistinct))
        yield f"layers not distinguishable from the best (layer {report.best_layer}): {layers} {tested}"
    else:
        yield f"each other layer is distinguishable from the best (layer {report.best_layer}) {tested}"
