"""How good a search is: whether what a layer finds near a track is of its genre, by other artists, and as people hear it.

Every track whose genre another artist has, too, ranks all others (`probes.rankings`); tracks without such a genre do not ask, but
may be found, as in any search. That much of what is found is by the same artist says little of genre, so each score is given
without the query's own artist, and beside it with the artist: the gap is what a search seems better for it (Pampalk, Flexer and
Widmer 2005, ISMIR). Artists are the groups of `probes.splits`, recordings that sound the same joined to them.

Hubs are tracks that turn up in the neighbour lists of very many others without being like them, a habit of spaces of many
dimensions: the skewness of how often each track is among the ten nearest of another tells of it (Radovanovic, Nanopoulos and
Ivanovic 2010, JMLR 11:2487). Centring and whitening are fitted as for a search, on the vectors of the library; no label takes part.

Intervals and tests are those of other libraries of such artists: a jackknife that deletes artists as queries and as what is found,
the same ones for all layers and transforms, so that differences are paired (`probes.jackknife`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from embedstore.index.space import TRANSFORMS, Transform, fitted_on
from embedstore.labels.names import known_artists
from embedstore.registry import unknown_name
from embedstore.types import Mix, TrackLabels
from probes.chosen import space_of
from probes.jackknife import deal, interval, p_of_best, p_of_difference, without_each
from probes.layers import Source, find_layers, name_tracks, open_source, rows_of
from probes.rankings import KINDS, Rankings, expected, expected_by_group, measures, rank, skewness
from probes.results import Interval, plain
from probes.saved import load_saved
from probes.significance import holm
from probes.splits import artist_groups, groups_per_class, join_groups
from probes.task import Task, choose_genres
from probes.triplets import Triplets, agreement, read_triplets

__all__ = ["Contrast", "Hubness", "SearchReport", "SpaceResult", "evaluate_search"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Which = int | str | Mix
_NEAR = 10  # neighbours of which hubness is counted
_COPIES = 50_000  # tracks among which copies are looked for: some minutes
_LEVEL = 0.05
_SAVED = ("best", "mix")
_JOINT = ("mean", *_SAVED)


@dataclass(frozen=True, kw_only=True)
class Hubness:
    """How unevenly tracks turn up among the nearest of others, whatever their artists and labels.

    Attributes
    ----------
    k : int
        Nearest that count.
    skewness : float
        Of the occurrences; 0: even, above about 1.4: strong hubs.
    anti_hubs : float
        Share of tracks that are never found.
    largest : float
        Occurrences of the track that is found most often; where tracks are equally near, each has its share.
    track : str
        Its name.
    """

    k: int
    skewness: float
    anti_hubs: float
    largest: float
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
        Empty where no genre can be found. The ends of an interval are NaN where there is nothing to tell of them.
    gap : dict of Interval
        Unfiltered less filtered.
    per_genre : dict of float
        The main measure, filtered, of each genre's queries.
    hubness : Hubness or None
        None where only a sample of tracks asked.
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
    hubness: Hubness | None = None
    triplets: Interval | None = None

    @property
    def title(self) -> str:
        """Layer and transform, such as ``"layer 6"`` or ``"mean, whiten"``."""
        layer = f"layer {self.layer}" if isinstance(self.layer, int) else self.layer
        return layer if self.transform == "none" else f"{layer}, {self.transform}"


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two rows held against each other.

    Attributes
    ----------
    first, second : str
        Titles.
    difference : Interval
        First less second.
    p : float
        Of a paired test; NaN where nothing varies.
    p_corrected : float
        For the choice of the best among all rows, or for all tests of the table (Holm).
    """

    first: str
    second: str
    difference: Interval
    p: float
    p_corrected: float


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """A finished evaluation.

    Attributes
    ----------
    source : dict
        Encoder, model, store, where known.
    genres : tuple of str
    n_tracks, n_queries : int
        That may be found, and that asked for their genre.
    excluded : dict
        Tracks that did not ask: ``tracks`` (how many in all), ``no_genre``, ``too_few`` (no other artist has their genre) and
        ``genres`` (the names of those).
    protocol : dict
        Measures, artists, jackknife, transforms: enough to do it again.
    chance : dict of dict of float
        ``filtered`` and ``unfiltered``: expected scores of random orders of tracks; ``by_artist``: ``map`` of random orders
        of whole artists, filtered, simulated, with its ``standard_error``.
    results : tuple of SpaceResult
        By layer, then by transform.
    best : str
        Title of the result with the highest main measure, or share of triplets; it was picked on these queries.
    comparisons : tuple of Contrast
        The best against the other layers of its transform, by the main measure.
    indistinct : tuple of str
        Those of them that the tests, corrected, cannot tell from it.
    effects : dict of tuples of Contrast
        Each transform against the first, layer by layer: by the main measure and by precision at the largest k; all of them are
        one family of tests.
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
    comparisons: tuple[Contrast, ...] = ()
    indistinct: tuple[str, ...] = ()
    effects: Mapping[str, tuple[Contrast, ...]] = field(default_factory=dict)
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
        In place of the store's; matrices have none of their own.
    queries : int
        In a library of more tracks a sample of so many asks, and hubness is left out.
    seed : int
        Of the sample, the parts of the jackknife, and the orders behind chance.
    command : str
        For the report.
    progress : callable, optional
        Called with the finished and the total number of rankings, over layers and transforms.

    Raises
    ------
    ParameterError, UnknownNameError, StoreFormatError, EncoderMismatchError
        What was asked cannot be had: layer, transform, genres, probe, triplets.

    Notes
    -----
    Memory: three copies of one layer. Time for each layer and transform, on one core: 640 tracks 0.3 s, 5,000 tracks of ten
    genres 9 s; it grows with the square.

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
    if queries < 1:
        raise ParameterError(f"queries is at least 1; got {queries}")
    opened = _open(source, labels)
    chosen = _parts(opened, layer, probe)
    asked = tuple(_asked(opened, source, chosen, probe))
    told = _triplets(triplets, opened.keys, source)
    task, asking = _task(opened, genres)
    n, every = len(opened.keys), len(opened.keys) <= queries
    if not every:
        asking = np.sort(np.random.default_rng([seed, 0x0A5C]).permutation(asking)[:queries])
        if not (told or task.genres):
            raise ParameterError(
                f"{task.notes[-1]}; hubs alone are looked for with --queries {n}, as all tracks ask then"
            )
    total = len(asked) * len(transforms) * (n if every else len(asking))
    parts = deal(task.groups, asking, seed)
    found: list[Rankings] = []
    agreed = []
    for one in asked:
        values = _vectors(opened, one.which)
        for kind in transforms:
            rows = _placed(values, kind, opened.keys)
            if told:
                agreed.append(agreement(rows, np.searchsorted(opened.keys, told.keys)))
            tick = progress and partial(_tell, progress, total // (len(asked) * len(transforms)) * len(found), total)
            near = _NEAR if every else 0
            found.append(rank(rows, task.y, task.groups, asking, ks, parts=parts, near=near, tick=tick))
    heard = without_each(np.stack(agreed), deal(told.groups, np.arange(len(told)), seed)) if told else None
    results = tuple(
        SpaceResult(
            layer=one.label,
            name=one.name,
            transform=kind,
            **_scores(found[row].without if task.genres else None, measures(ks)),
            per_genre=_per_genre(found[row], task, asking),
            hubness=_hubness(found[row].occurrences, source, opened),
            triplets=None if heard is None else interval(heard[row]),
        )
        for row, (one, kind) in enumerate((one, kind) for one in asked for kind in transforms)
    )
    tested = {
        name: np.stack([one.without[0, number] for one in found])
        for number, name in ((0, "map"), (-1, measures(ks)[-1]))
        if task.genres
    } or ({"triplets": heard} if heard is not None else {})
    return SearchReport(
        source=opened.about,
        genres=task.genres,
        n_tracks=n,
        n_queries=len(asking),
        excluded=task.excluded,
        protocol={
            "k": list(ks),
            "transforms": list(transforms),
            "transforms_fitted_on": "the vectors of the library, as for a search; no label takes part",
            "own_artist": "tracks that share an artist by any chain, and near-duplicates",
            "artists": len(np.unique(task.groups[asking])),
            "queries": "all tracks with a genre that another artist has" if every else f"a sample, seed {seed}",
            **(
                {"jackknife": f"{parts.max() + 1} parts of the artists, each left out as queries and as what is found"}
                if task.genres
                else {}
            ),
            "interval": "95 %: delete-a-group jackknife, Student's t; the same parts for all rows",
            "seed": seed,
            **({"triplets": len(told), "triplet_groups": int(told.groups.max()) + 1} if told else {}),
        },
        chance=_chance(found[0], ks, task, asking, seed) if task.genres else {},
        results=results,
        **_compare(results, tested, len(transforms), seed),
        command=command,
        notes=(
            *_sampled(len(asking), n, every=every),
            *_chosen_here(source, probe, chosen, opened.keys[asking]),
            *task.notes,
            *(told.notes if told else ()),
        ),
        versions={"embedstore": __version__} | {name: version(name) for name in ("numpy", "scikit-learn")},
    )


def _tell(progress: Callable[[int, int], object], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _open(source: Any, labels: Mapping[int, TrackLabels] | None) -> Source:
    """Open a source with its keys in order; matrices may have no labels."""
    opened = open_source(source, labels if labels is not None or hasattr(source, "card") else {})
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


def _parts(opened: Source, layer: Any, probe: str | Path | None) -> list[int | str]:
    """Divide what was asked for."""
    if layer is None:
        several = len(opened.layers) > 1 and len({one.dim for one in opened.layers}) == 1
        return ["all", *["mean"] * several, *["best"] * (probe is not None)]
    parts = layer.split(",") if isinstance(layer, str) else [layer] if isinstance(layer, int) else layer
    parts = [part.strip() if isinstance(part, str) else part for part in parts]
    if "concat" in parts:
        raise ParameterError("a search compares a layer, the mean of layers or a mix of them; leave out concat")
    return parts


def _asked(opened: Source, store: Any, parts: Sequence[int | str], probe: str | Path | None) -> Iterator[_Asked]:
    """Find the layers that were asked for: numbers by size, the mean, a mix."""
    one_width = len({one.dim for one in opened.layers}) == 1
    saved = [part for part in parts if part in _SAVED]
    if saved and not hasattr(store, "path"):
        raise ParameterError(f"the {saved[0]} layer is what a saved probe chose, and matrices have none; open a store")
    spaces = [space_of(store, probe, str(part)) for part in saved]
    single = [part for part in (*parts, *spaces) if not isinstance(part, Mix) and part not in ("all", *_JOINT)]
    for one in opened.layers if "all" in parts else find_layers(opened.layers, single, _JOINT):
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


def _chosen_here(store: Any, probe: str | Path | None, parts: Sequence[int | str], keys: Ints) -> Iterator[str]:
    """Say on how many of the queries the probe behind a layer was trained."""
    if any(part in _SAVED for part in parts):
        saved = load_saved(probe, store.path)
        if known := int(np.isin(keys, saved.keys).sum()):
            what = saved.layer if isinstance(saved.layer, str) else f"layer {saved.layer}"
            yield (
                f"the probe {saved.name} chose {what} with the labels of {known:,} of the {len(keys):,} queries: its score here is "
                "optimistic"
            )


def _placed(values: Floats, kind: str, keys: Ints) -> Floats:
    """Move vectors by the transform that a search would fit, and scale them to length 1."""
    moved = Transform.fit(values[np.searchsorted(keys, fitted_on(keys))], kind)
    return unit(values if moved is None else moved(values))


def _triplets(path: str | Path | None, keys: Ints, source: Any) -> Triplets | None:
    if path is None:
        return None
    tracks = [track for some in source.iter_tracks() for track in some] if hasattr(source, "iter_tracks") else []
    return read_triplets(path, keys, [(file, track.key) for track in tracks for file in track.files])


def _task(opened: Source, genres: Any) -> tuple[Task, Ints]:
    """Give genres and artists of all tracks, and which rows ask: those with a genre that another artist has, too."""
    keys, n = opened.keys, len(opened.keys)
    known = [opened.labels.get(int(key), TrackLabels()) for key in keys]
    groups, notes = artist_groups(known), []
    pairs = opened.near_duplicates(keys) if n <= _COPIES else None
    if pairs is None:
        why = f"there are more than {_COPIES:,} tracks" if n > _COPIES else "matrices do not tell how long tracks are"
        notes.append(f"copies of a recording under another artist were not looked for: {why}")
    elif len(pairs):
        groups = join_groups(groups, pairs.rows)
        notes.append(f"{len(pairs)} pairs of tracks may be one recording each; they count as by one artist")
    try:
        names = choose_genres(genres, list({name for track in known for name in track.genres}), "a search for genres")
        y = np.array([[name in track.genres for name in names] for track in known], dtype=np.int64)
        shared = _shared(y, groups)
    except ParameterError as error:
        if genres is not None:
            raise
        notes.append(f"what is found is not held against genres: {error}")
        return Task(keys, np.zeros((n, 0), np.int64), (), groups, {}, tuple(notes)), np.empty(0, np.int64)
    asks, labelled = y[:, shared].any(1), y.any(1)
    left = {"no_genre": int((~labelled).sum()), "too_few": int((labelled & ~asks).sum())}
    alone = [name for name, ok in zip(names, shared, strict=True) if not ok]
    if left["no_genre"]:
        notes.append(
            f"{left['no_genre']:,} tracks have no genre{' of these' * (genres is not None)}: they do not ask, but may be found"
        )
    if left["too_few"]:
        notes.append(
            f"{left['too_few']:,} tracks do not ask, but may be found, as no other artist has their genre: {', '.join(alone)}"
        )
    if nobody := sum(not known_artists(track) for track in known):
        notes.append(f"{nobody:,} of {n:,} tracks have no known artist: each counts as an artist of its own")
    if (largest := int(np.bincount(groups).max())) > n / 5:
        notes.append(f"artists who play together count as one: the largest such group has {largest:,} of the tracks")
    excluded = {"tracks": int((~asks).sum()), **left, "genres": alone}
    genres_kept = tuple(name for name in names if name not in alone)
    return Task(keys, y[:, shared], genres_kept, groups, excluded, tuple(notes)), np.flatnonzero(asks)


def _shared(y: Ints, groups: Ints) -> NDArray[np.bool_]:
    """Tell which genres two artists have, or more."""
    shared = groups_per_class(y, groups) > 1
    if not shared.any():
        raise ParameterError("no genre is had by two artists, so none can be found without the query's own artist")
    return np.asarray(shared)


def _sampled(asking: int, n: int, *, every: bool) -> list[str]:
    """Say that not all tracks asked."""
    if every:
        return []
    return [f"{asking:,} of {n:,} tracks, drawn at random, asked; hubness takes all of them: --queries {n} gives it"]


def _scores(without: Matrix | None, names: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """Give the fields ``filtered``, ``unfiltered`` and ``gap`` of a result, from `Rankings.without`."""
    if without is None:
        return {part: {} for part in (*KINDS, "gap")}
    filtered, unfiltered = without
    found = {kind: dict(zip(names, map(interval, of), strict=True)) for kind, of in zip(KINDS, without, strict=True)}
    return {**found, "gap": {name: interval(of, -1) for name, of in zip(names, unfiltered - filtered, strict=True)}}


def _per_genre(found: Rankings, task: Task, asking: Ints) -> dict[str, float]:
    """Average the main measure over each genre's queries; a genre that no query of a sample has is left out."""
    tags = task.y[asking]
    means = tags.T @ found.scores[0, 0] / np.maximum(counts := tags.sum(0), 1)
    return {name: float(mean) for name, mean, count in zip(task.genres, means, counts, strict=True) if count}


def _hubness(occurrences: Matrix | None, source: Any, opened: Source) -> Hubness | None:
    if occurrences is None:
        return None
    (track,) = name_tracks(source, opened.labels, opened.keys[[occurrences.argmax()]]).values()
    return Hubness(
        k=min(_NEAR, len(occurrences) - 1),
        skewness=skewness(occurrences),
        anti_hubs=float((occurrences == 0).mean()),
        largest=float(occurrences.max()),
        track=track,
    )


def _chance(found: Rankings, ks: Sequence[int], task: Task, asking: Ints, seed: int) -> dict[str, dict[str, float]]:
    names, scores = measures(ks), zip(KINDS, expected(found, ks).tolist(), strict=True)
    score, error = expected_by_group(task.y, task.groups, asking, found, seed)
    by_artist = {"by_artist": {"map": score, "standard_error": error}}
    return {kind: dict(zip(names, values, strict=True)) for kind, values in scores} | by_artist


def _compare(results: Sequence[SpaceResult], tested: Mapping[str, Matrix], step: int, seed: int) -> dict[str, Any]:
    """Name the best row; test it against the other layers of its transform, and each transform against the first.

    `tested` has the scores of all rows by measure, the main one first, as `probes.jackknife` takes them.
    """
    if not tested:
        return {"best": ""}
    titles, rows = [one.title for one in results], range(len(results))
    main = next(iter(tested.values()))
    best = int(main[:, -1].argmax())
    rivals = [row for row in rows if row != best and row % step == best % step]
    comparisons = _contrasts(titles, [(best, row) for row in rivals], main, p_of_best(main, best, rivals, seed))
    moved = [(row, row - row % step) for row in rows if row % step]
    first, second = np.array(moved, np.int64).reshape(-1, 2).T
    p = {name: p_of_difference(scores[first] - scores[second]) for name, scores in tested.items()}
    family = np.split(holm(np.concatenate([*p.values()])), len(p))
    effects = {
        name: _contrasts(titles, moved, tested[name], corrected) for name, corrected in zip(tested, family, strict=True)
    }
    return {
        "best": titles[best],
        "comparisons": comparisons,
        "indistinct": tuple(one.second for one in comparisons if not one.p_corrected <= _LEVEL),
        "effects": effects if moved else {},
    }


def _contrasts(
    titles: Sequence[str], pairs: Sequence[tuple[int, int]], scores: Matrix, corrected: Iterable[float]
) -> tuple[Contrast, ...]:
    return tuple(
        Contrast(
            first=titles[one],
            second=titles[other],
            difference=interval(scores[one] - scores[other], -1),
            p=float(p_of_difference(scores[one] - scores[other])),
            p_corrected=float(p),
        )
        for (one, other), p in zip(pairs, corrected, strict=True)
    )
