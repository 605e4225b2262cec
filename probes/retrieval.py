"""How good a search is: whether what a layer finds near a track is of its genre, by other artists, and as people hear it.

Every track that has a genre ranks all others (`probes.rankings`). That much of what is found is by the same artist says little
of genre, so each score is given without the query's own artist, and beside it with the artist: the gap is what a search seems
better for it (Pampalk, Flexer and Widmer 2005, ISMIR). Artists are the groups of `probes.splits`, recordings that sound the
same joined to them.

Hubs are tracks that turn up in the neighbour lists of very many others without being like them, a habit of spaces of many
dimensions: the skewness of how often each track is among the ten nearest of another tells of it (Radovanovic, Nanopoulos and
Ivanovic 2010, JMLR 11:2487). Centring and whitening are fitted on the vectors of the whole library; no label takes part.

Intervals are those of other queries by other artists in the same library: resamples draw artists, the same ones for all layers
and transforms, so that differences are paired (`probes.statistics.cluster_bootstrap_means`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import __version__
from embedstore.errors import ParameterError
from embedstore.index.rows import unit
from embedstore.index.space import TRANSFORMS, Transform
from embedstore.registry import unknown_name
from embedstore.types import Mix, TrackLabels
from probes.chosen import space_of
from probes.layers import Source, find_layers, name_tracks, open_source, rows_of
from probes.rankings import KINDS, Rankings, expected, expected_by_group, measures, rank, skewness
from probes.results import Comparison, Interval, plain
from probes.significance import compare, indistinct
from probes.splits import known_artists
from probes.statistics import Samples, cluster_bootstrap_means
from probes.task import Task, make_task
from probes.triplets import Triplets, agreement, read_triplets

__all__ = ["Hubness", "SearchReport", "SpaceResult", "evaluate_search"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Which = int | str | Mix
_NEAR = 10  # neighbours of which hubness is counted
_FITTED_ON = 20_000  # rows behind a transform, as in a search


@dataclass(frozen=True, kw_only=True)
class Hubness:
    """How unevenly tracks turn up among the nearest of others, artists included.

    Attributes
    ----------
    k : int
        Nearest that count.
    skewness : float
        Of the occurrences; 0: even, above about 1.4: strong hubs.
    anti_hubs : float
        Share of tracks that are never found.
    largest : int
        Occurrences of the track that is found most often.
    track : str
        Its name.
    """

    k: int
    skewness: float
    anti_hubs: float
    largest: int
    track: str


@dataclass(frozen=True, kw_only=True)
class SpaceResult:
    """One layer (or mean, or mix) under one transform.

    Attributes
    ----------
    layer : int or str
        Number, ``"mean"`` or ``"mix"``.
    name : str
    transform : str
    filtered, unfiltered : dict of Interval
        By measure, the main one first: ``map``, ``r_precision``, ``precision_at_K``; without the query's own artist, and with.
        Empty where no track has a genre.
    gap : dict of Interval
        Unfiltered less filtered.
    per_genre : dict of float
        The main measure, filtered, of each genre's queries.
    hubness : Hubness
    triplets : Interval or None
        Share of judgements that are agreed with; 0.5 by chance.
    """

    layer: int | str
    name: str
    transform: str
    filtered: Mapping[str, Interval]
    unfiltered: Mapping[str, Interval]
    gap: Mapping[str, Interval]
    per_genre: Mapping[str, float]
    hubness: Hubness
    triplets: Interval | None = None

    @property
    def title(self) -> str:
        """Layer and transform, such as ``"layer 6"`` or ``"mean, whiten"``."""
        layer = f"layer {self.layer}" if isinstance(self.layer, int) else self.layer
        return layer if self.transform == "none" else f"{layer}, {self.transform}"


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """A finished evaluation.

    Attributes
    ----------
    source : dict
        Encoder, model, store, where known.
    genres : tuple of str
    n_tracks, n_queries : int
        That were ranked, and that asked.
    excluded : dict
        As of `probes.task.Task`.
    protocol : dict
        Measures, artists, bootstrap, transforms: enough to do it again.
    chance : dict of dict of float
        ``filtered`` and ``unfiltered``: expected scores of random orders of tracks; ``by_artist``: about what a random order
        of whole artists reaches, filtered.
    results : tuple of SpaceResult
        By layer, then by transform.
    best : str
        Title of the result with the highest main measure, or share of triplets; it was picked on these queries.
    comparisons : tuple of Comparison
        The best against the other layers of its transform, by the main measure.
    indistinct : tuple of str
        Those of them that the tests cannot tell from it.
    effects : dict of tuples of Comparison
        Each transform against the first, layer by layer: by the main measure and by precision at the largest k.
    command : str
    notes : tuple of str
        What a reader must know, in words.
    versions : dict
    """

    source: Mapping[str, Any]
    genres: tuple[str, ...]
    n_tracks: int
    n_queries: int
    excluded: Mapping[str, Any]
    protocol: Mapping[str, Any]
    chance: Mapping[str, Mapping[str, float]]
    results: tuple[SpaceResult, ...]
    best: str
    comparisons: tuple[Comparison, ...] = ()
    indistinct: tuple[str, ...] = ()
    effects: Mapping[str, tuple[Comparison, ...]] = field(default_factory=dict)
    command: str = ""
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(plain(self))

    def __repr__(self) -> str:
        return f"SearchReport({len(self.results)} rows, {self.n_queries} queries, best {self.best})"


def evaluate_search(
    source: Any,
    *,
    layer: int | str | Sequence[int | str] | None = None,
    transform: str | Sequence[str] = "none",
    k: Sequence[int] = (1, 5, 10),
    genres: int | str | Sequence[str] | None = None,
    triplets: str | Path | None = None,
    probe: str | Path | None = None,
    labels: Mapping[int, TrackLabels] | None = None,
    queries: int = 20_000,
    seed: int = 0,
    resamples: int = 10_000,
    command: str = "",
    progress: Callable[[int, int], object] | None = None,
) -> SearchReport:
    """Measure how well tracks of a genre, and tracks that people find alike, are found from each other.

    Parameters
    ----------
    source : EmbeddingStore, or mapping or sequence of LayerMatrix
    layer : int, str, or sequence of them
        Numbers or names (several with commas), ``"all"``, ``"mean"``; ``"best"`` and ``"mix"``: what a saved probe chose.
        Default: all, and their mean where they have one width.
    transform : str or sequence of str
        Of ``"none"``, ``"centre"``, ``"standardise"``, ``"whiten"``; ``"all"`` for each.
    k : sequence of int
        Of precision at k.
    genres
        See `probes.task.choose_genres`; default: all.
    triplets : path, optional
        Judgements, see `probes.triplets`.
    probe : str or path, optional
        Saved probe behind ``"best"`` and ``"mix"``; default: the store's only one.
    labels : mapping of key to TrackLabels, optional
        In place of the store's; needed with matrices.
    queries : int
        At most so many tracks ask; of more a sample is drawn.
    seed, resamples : int
        Of the sample and the bootstrap.
    command : str
        For the report.
    progress : callable, optional
        Called with the finished and the total number of queries, over layers and transforms.

    Raises
    ------
    ParameterError, UnknownNameError, StoreFormatError, EncoderMismatchError
        What was asked cannot be had: layer, transform, genres, probe, triplets.

    Notes
    -----
    Memory: three copies of one layer, and what `probes.statistics.cluster_bootstrap_means` says. 20,000 tracks of width 768: 20 s
    for each layer and transform on one core.

    Examples
    --------
    >>> from embedstore.types import LayerMatrix
    >>> rng = np.random.default_rng(0)
    >>> sound = rng.normal(size=(80, 20)) + 3 * np.eye(2, 20)[np.arange(80) % 2]
    >>> labels = {key: TrackLabels(("ab"[key % 2],), (f"artist {key // 4}",)) for key in range(80)}
    >>> report = evaluate_search([LayerMatrix(0, "sound", np.arange(80), sound.astype("f4"))], labels=labels)
    >>> report.results[0].filtered["map"].value > report.chance["filtered"]["map"] + 0.1
    True
    """
    transforms, ks = _transforms(transform), _cuts(k)
    for name, value in (("queries", queries), ("resamples", resamples)):
        if value < 1:
            raise ParameterError(f"{name} is at least 1; got {value}")
    opened = _open(source, labels, triplets)
    asked = tuple(_asked(opened, source, layer, probe))
    told = _triplets(triplets, opened.keys, source)
    task = _task(opened, genres, queries, needed=told is None)
    asking = np.sort(np.random.default_rng([seed, 0x0A5C]).permutation(len(task.keys))[:queries])
    total = len(asked) * len(transforms) * len(asking)
    places = np.searchsorted(opened.keys, task.keys)
    found: list[Rankings] = []
    agreed = []
    for one in asked:
        values = _vectors(opened, one.which)
        for kind in transforms:
            rows = _placed(values, kind)
            if told:
                agreed.append(agreement(rows, np.searchsorted(opened.keys, told.keys)))
            rows = rows if len(places) == len(rows) else rows[places]
            tick = progress and partial(_tell, progress, len(found) * len(asking), total)
            found.append(rank(rows, task.y, task.groups, asking, ks, near=_NEAR, tick=tick))
    groups = np.unique(task.groups[asking], return_inverse=True)[1]
    samples = _samples(found, groups, ks, resamples, seed) if task.genres else None
    heard = (
        cluster_bootstrap_means({"triplets": np.stack(agreed)}, told.groups, resamples=resamples, seed=seed)
        if told
        else None
    )
    spaces = [(one, kind) for one in asked for kind in transforms]
    results = tuple(
        SpaceResult(
            layer=one.label,
            name=one.name,
            transform=kind,
            **_scores(samples, measures(ks), row),
            per_genre=_per_genre(found[row], task, asking),
            hubness=_hubness(found[row].occurrences, source, opened, task.keys),
            triplets=heard.interval("triplets", row) if heard else None,
        )
        for row, (one, kind) in enumerate(spaces)
    )
    main = samples or heard
    assert main is not None  # noqa: S101 - `_task` asks for genres where there are no triplets
    return SearchReport(
        source=opened.about,
        genres=task.genres,
        n_tracks=len(task.keys),
        n_queries=len(asking),
        excluded=task.excluded,
        protocol={
            "k": list(ks),
            "transforms": list(transforms),
            "transforms_fitted_on": "the vectors of all tracks; no label takes part",
            "own_artist": "tracks that share an artist by any chain, and near-duplicates",
            "artists": int(groups.max()) + 1,
            "queries": "all tracks" if len(asking) == len(task.keys) else f"a sample, seed {seed}",
            "resamples": resamples,
            "interval": "95 %: bootstrap over artists (of triplets: over anchors), the same resamples for all rows",
            **({"triplets": len(told), "triplet_groups": int(told.groups.max()) + 1} if told else {}),
        },
        chance=_chance(found[0], ks, task, asking) if task.genres else {},
        results=results,
        **_compare(results, main, len(transforms)),
        command=command,
        notes=(*_sampled(len(asking), len(task.keys)), *task.notes, *(told.notes if told else ())),
        versions={"embedstore": __version__} | {name: version(name) for name in ("numpy", "scikit-learn")},
    )


def _tell(progress: Callable[[int, int], object], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _open(source: Any, labels: Mapping[int, TrackLabels] | None, triplets: Any) -> Source:
    """Open a source with its keys in order: of equally similar tracks, a search takes the smaller key first."""
    if labels is None and triplets is not None and not hasattr(source, "card"):
        labels = {}  # judgements do without
    opened = open_source(source, labels)
    if len(opened.keys) < 2:
        raise ParameterError(f"a search needs at least 2 tracks; there are {len(opened.keys)}")
    return replace(opened, keys=np.sort(opened.keys))


def _transforms(asked: str | Sequence[str]) -> tuple[str, ...]:
    names = [asked] if isinstance(asked, str) else list(asked)
    names = list(TRANSFORMS) if "all" in names else names
    for name in names:
        if name not in TRANSFORMS:
            raise unknown_name("transform", name, [*TRANSFORMS, "all"])
    return tuple(name for name in TRANSFORMS if name in names)  # "none" first, as the others are held against it


def _cuts(k: Sequence[int]) -> tuple[int, ...]:
    if not k or not all(isinstance(one, (int, np.integer)) and one > 0 for one in k):
        raise ParameterError(f"k is a list of whole numbers above 0; got {k!r}")
    return tuple(sorted({int(one) for one in k}))


@dataclass(frozen=True)
class _Asked:
    """A layer as it is called, and what is read for it."""

    label: int | str
    name: str
    which: Which


def _asked(opened: Source, store: Any, layer: Any, probe: str | Path | None) -> Iterator[_Asked]:
    """Find the layers that were asked for: numbers by size, the mean, a mix."""
    one_width = len({one.dim for one in opened.layers}) == 1
    if layer is None:
        layer = ["all", *["mean"] * (one_width and len(opened.layers) > 1), *["best"] * (probe is not None)]
    parts = layer.split(",") if isinstance(layer, str) else [layer] if isinstance(layer, int) else layer
    parts = [part.strip() if isinstance(part, str) else part for part in parts]
    if "concat" in parts:
        raise ParameterError("a search compares a layer, the mean of layers or a mix of them; leave out concat")
    saved = [part for part in parts if part in ("best", "mix")]
    if saved and not hasattr(store, "path"):
        raise ParameterError(f"the {saved[0]} layer is what a saved probe chose, and matrices have none; open a store")
    spaces = [space_of(store, probe, part) for part in saved]
    single = [
        part for part in (*parts, *spaces) if not isinstance(part, Mix) and part not in ("all", "mean", "best", "mix")
    ]
    for one in opened.layers if "all" in parts else find_layers(opened.layers, single):
        yield _Asked(one.number, one.name, one.number)
    if "mean" in (*parts, *[space for space in spaces if isinstance(space, str)]):
        if not one_width:
            widths = ", ".join(f"{one.name} {one.dim}" for one in opened.layers)
            raise ParameterError(f"layers of different widths have no mean ({widths}); choose one layer")
        yield _Asked("mean", f"mean of {len(opened.layers)} layers", "mean")
    for mix in [space for space in spaces if isinstance(space, Mix)][:1]:
        yield _Asked("mix", f"mix of the probe {mix.name}", mix)


def _vectors(opened: Source, which: Which) -> Floats:
    """Read what is compared, of all tracks, one layer at a time."""
    if isinstance(which, int):
        return rows_of(opened, next(one for one in opened.layers if one.number == which), opened.keys)
    scales = which.scales if isinstance(which, Mix) else np.full(len(opened.layers), 1 / len(opened.layers), np.float32)
    total = np.zeros((len(opened.keys), opened.layers[0].dim), np.float32)
    for one, scale in zip(opened.layers, scales, strict=True):
        total += scale * rows_of(opened, one, opened.keys)
    return total + which.shift if isinstance(which, Mix) else total


def _placed(values: Floats, kind: str) -> Floats:
    """Move vectors by a transform that is fitted on them, and scale them to length 1."""
    some = np.sort(np.random.default_rng(0).permutation(len(values))[:_FITTED_ON])
    moved = Transform.fit(values[some] if len(some) < len(values) else values, kind)
    return unit(values if moved is None else moved(values))


def _triplets(path: str | Path | None, keys: Ints, source: Any) -> Triplets | None:
    if path is None:
        return None
    tracks = [track for some in source.iter_tracks() for track in some] if hasattr(source, "iter_tracks") else []
    return read_triplets(path, keys, [(file, track.key) for track in tracks for file in track.files])


def _task(opened: Source, genres: Any, queries: int, *, needed: bool) -> Task:
    """Choose tracks with a genre that another artist has, too; all of them, if there are none and none are needed."""
    pairs = opened.near_duplicates(opened.keys) if len(opened.keys) <= queries else None
    try:
        task = make_task(opened.keys, opened.labels, genres, multilabel=True, pairs=pairs)
    except ParameterError as error:
        if needed or genres is not None:
            raise
        n = len(opened.keys)
        notes = (f"what is found is not held against genres: {error}",)
        return Task(opened.keys, np.zeros((n, 0), np.int64), (), np.arange(n), {}, notes)
    left = task.excluded
    kept: list[str] = []
    if left["no_genre"]:
        kept.append(f"{left['no_genre']} tracks have no genre and were left out")
    if left["too_few"]:
        names = ", ".join(left["genres"])
        kept.append(f"{left['too_few']} tracks were left out, as no other artist has their genre: {names}")
    nobody = sum(not known_artists(opened.labels[int(key)]) for key in task.keys)
    if nobody:
        kept.append(f"{nobody} of {len(task.keys)} tracks have no known artist: each counts as an artist of its own")
    largest = int(np.bincount(task.groups).max())
    if largest > len(task.keys) / 5:
        kept.append(f"artists who play together count as one: the largest such group has {largest} of the tracks")
    if pairs is None:
        kept.append("copies of a recording under another artist were not looked for")
    elif len(pairs):
        kept.append(f"{len(pairs)} pairs of tracks may be one recording each; they count as by one artist")
    return replace(task, notes=tuple(kept))


def _sampled(asking: int, n: int) -> list[str]:
    """Say that not all tracks asked."""
    many = f"{asking:,} of {n:,} tracks, drawn at random, asked; all were ranked"
    return [f"{many}. Hubness is that of their neighbour lists: less skewed than that of all"] if asking < n else []


def _samples(found: Sequence[Rankings], groups: Ints, ks: Sequence[int], resamples: int, seed: int) -> Samples:
    """Resample the scores of all rows; measures are called ``"filtered map"`` and so on."""
    scores = np.stack([one.scores for one in found], axis=2)  # kind, measure, row, query
    values = {
        f"{kind} {name}": of
        for kind, some in zip(KINDS, scores, strict=True)
        for name, of in zip(measures(ks), some, strict=True)
    }
    return cluster_bootstrap_means(values, groups, resamples=resamples, seed=seed)


def _scores(samples: Samples | None, names: Sequence[str], row: int) -> dict[str, dict[str, Interval]]:
    """Give the fields ``filtered``, ``unfiltered`` and ``gap`` of a result."""
    if samples is None:
        return {part: {} for part in (*KINDS, "gap")}
    found = {kind: {name: samples.interval(f"{kind} {name}", row) for name in names} for kind in KINDS}
    filtered, unfiltered = found.values()

    def gap(name: str) -> Interval:
        with_artist, without = (samples[f"{kind} {name}"][:, row] for kind in reversed(KINDS))
        apart = unfiltered[name].value - filtered[name].value
        return Interval.of(apart, with_artist - without, widen=samples.widen, least=-1.0)

    return {**found, "gap": {name: gap(name) for name in names}}


def _per_genre(found: Rankings, task: Task, asking: Ints) -> dict[str, float]:
    """Average the main measure over each genre's queries; a genre that no query of a sample has is left out."""
    tags = task.y[asking]
    means = tags.T @ found.scores[0, 0] / np.maximum(counts := tags.sum(0), 1)
    return {name: float(mean) for name, mean, count in zip(task.genres, means, counts, strict=True) if count}


def _hubness(occurrences: Ints, source: Any, opened: Source, keys: Ints) -> Hubness:
    key = keys[[occurrences.argmax()]]
    (track,) = name_tracks(source, opened.labels, key).values()
    return Hubness(
        k=min(_NEAR, len(keys) - 1),
        skewness=skewness(occurrences),
        anti_hubs=float((occurrences == 0).mean()),
        largest=int(occurrences.max()),
        track=track,
    )


def _chance(found: Rankings, ks: Sequence[int], task: Task, asking: Ints) -> dict[str, dict[str, float]]:
    scores = zip(KINDS, expected(found, ks).tolist(), strict=True)
    by_artist = {"by_artist": {"map": expected_by_group(task.y, task.groups, asking)}}
    return {kind: dict(zip(measures(ks), values, strict=True)) for kind, values in scores} | by_artist


def _compare(results: Sequence[SpaceResult], samples: Samples, step: int) -> dict[str, Any]:
    """Name the best row; test it against the other layers of its transform, and each transform against the first."""
    titles, rows = [one.title for one in results], range(len(results))
    best = int(samples.observed[samples.main][:, 0].argmax())
    rivals = [(best, row) for row in rows if row != best and row % step == best % step]
    moved = [(row, row - row % step) for row in rows if row % step]
    main, *others = [name for name in samples if not name.startswith("unfiltered")]
    effects = {name.removeprefix("filtered "): _tested(titles, moved, samples, name) for name in (main, *others[-1:])}
    tested = _tested(titles, rivals, samples, main)
    return {
        "best": titles[best],
        "comparisons": tested,
        "indistinct": indistinct(tested),
        "effects": effects if moved else {},
    }


def _tested(
    titles: Sequence[str], pairs: Sequence[tuple[int, int]], samples: Samples, name: str
) -> tuple[Comparison, ...]:
    """Compare rows by one measure; one family of tests."""
    if not pairs:
        return ()
    one, none = Samples({name: samples[name]}, {name: samples.observed[name]}, samples.widen), np.empty(0, np.int64)
    return compare(titles, pairs, one, y=none, predictions=None, groups=none)
