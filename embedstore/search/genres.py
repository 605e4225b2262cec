"""How genres lie to each other: their centres, how alike their tracks are, and the tree that joins the nearest first.

Two numbers stand for each pair of genres. *similarity* is the cosine between their centres (the means of their tracks' unit
vectors): it places genres, but averaging takes away what differs within them, so it is near to 1 for any two. *pairs* is the mean
cosine between a track of one and a track of the other by other artists; on the diagonal, between two such tracks of the genre.
Two tracks of one artist are alike whatever their genre, and would make a genre of few artists look tight. A genre whose tracks
are no more alike than they are to those of another overlaps it, whatever their centres say. Both follow from the sums of the
vectors, of genres and of artists within genres, so no pair is ever looked at: each track is read about twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, TrackNotFoundError
from embedstore.index import LayerSearch, unit
from embedstore.labels.names import artist_keys
from embedstore.registry import unknown_name
from embedstore.search.columns import Columns
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Mix, TrackLabels

__all__ = ["GenreMap", "genre_map", "nearest_genres", "rounded"]

_BLOCK = 4096  # tracks that are read at once
_CREDITS = 6  # of a track's artists so many count, if they have other tracks
T = TypeVar("T")
Matrix = NDArray[np.float64]


@dataclass(frozen=True, repr=False, eq=False)
class GenreMap:
    """The genres of a store that have two tracks or more, in the order of the tree's leaves: what is alike stands together.

    Attributes
    ----------
    layer : int or str
        Number of the layer, ``"mean"`` or ``"mix"``.
    transform : str
    genres : tuple of str
    counts : tuple of int
        Tracks of each; a track of several genres counts in each of them.
    centres : float64 array, shape (g, dim)
        Means of the tracks' unit vectors.
    similarity : float64 array, shape (g, g)
        Cosines between the centres.
    pairs : float64 array, shape (g, g)
        Mean cosine between a track of one genre and a track of the other that have no artist in common; each track without
        an artist is by one of its own. NaN where there are no such two.
    linkage : float64 array, shape (g - 1, 4)
        Average linkage over `distances`, as scipy writes it: two clusters, their distance, how many genres they hold.
    left_out : mapping of str to int
        Genres that are not compared, and their tracks: those with a single track, which have no spread, and, if only so
        many are compared, those with fewest tracks.
    notes : tuple of str
        What a person should know, e.g. that an index was not usable.
    """

    layer: int | str
    transform: str
    genres: tuple[str, ...]
    counts: tuple[int, ...]
    centres: Matrix
    similarity: Matrix
    pairs: Matrix
    linkage: Matrix
    left_out: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, live: LayerSearch, labels: Mapping[int, TrackLabels], most: int | None = None) -> GenreMap:
        """Compare the genres of tracks, given by their keys; at most so many of them, those with most tracks.

        Raises
        ------
        ParameterError
            No genre has two tracks.
        """
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        counted = _count(live, labels)
        genres = [genre for genre, count in counted.items() if count > 1]
        if not genres:
            raise ParameterError(f"no genre has two tracks with vectors; genres with one: {len(counted)}")
        notes = live.notes
        if most is not None and len(genres) > most:
            notes = (*notes, f"of {len(genres)} genres the {most} with most tracks are compared")
            genres = sorted(sorted(genres, key=lambda genre: -counted[genre])[:most])
        sums, products, numbers = _sums(live, labels, genres)
        counts = np.array([counted[genre] for genre in genres])
        centres = sums / counts[:, None]
        lengths = np.linalg.norm(centres, axis=1)
        directions = centres / np.where(lengths > 1e-7, lengths, np.inf)[:, None]
        similarity = (directions @ directions.T).clip(-1, 1)
        pairs = np.where(numbers > 0, products / np.maximum(numbers, 1), np.nan)
        tree, order = np.empty((0, 4)), np.arange(len(genres))
        if len(genres) > 1:
            tree = linkage(squareform(1 - similarity, checks=False), "average", optimal_ordering=True)
            order = leaves_list(tree)
            place = np.append(np.argsort(order), np.arange(len(genres), 2 * len(genres)))
            tree[:, :2] = place[tree[:, :2].astype(int)]
        return cls(
            live.layer,
            live.transform,
            tuple(genres[i] for i in order),
            tuple(counts[order].tolist()),
            centres[order],
            similarity[np.ix_(order, order)],
            pairs[np.ix_(order, order)].clip(-1, 1),
            tree,
            {genre: count for genre, count in counted.items() if genre not in {*genres}},
            notes,
        )

    @property
    def distances(self) -> Matrix:
        """One less the similarity, 0..2, zero on the diagonal; shape (g, g)."""
        apart = 1 - self.similarity
        np.fill_diagonal(apart, 0)
        return apart

    def overlaps(self, genre: str) -> list[str]:
        """List the other genres whose tracks are as like to this genre's tracks as those are to each other, nearest first."""
        row = self.pairs[self._place(genre)]
        own = row[self._place(genre)]
        return [self.genres[i] for i in np.argsort(-row, kind="stable") if row[i] >= own and self.genres[i] != genre]

    def nearest(self, genre: str) -> list[tuple[str, float]]:
        """List the other genres with the similarity of their centres, nearest first.

        Raises
        ------
        UnknownNameError
            It is not on the map.
        """
        row = self.similarity[self._place(genre)]
        order = np.argsort(-row, kind="stable")
        return [(self.genres[i], float(row[i])) for i in order if self.genres[i] != genre]

    def near(self, vector: Floats, genres: tuple[str, ...] = ()) -> list[tuple[str, float]]:
        """List all genres with the cosine between a placed vector, shape (dim,), and their centres, nearest first.

        `genres` are those of the track that it is: it is left out of their centres.
        """
        own = np.isin(self.genres, genres)
        others = self.centres * np.array(self.counts)[:, None] - np.outer(own, vector)
        cosines = unit(others.astype(np.float32)) @ unit(vector[None])[0]
        order = np.argsort(-cosines, kind="stable")
        return [(self.genres[i], float(cosines[i])) for i in order]

    def _place(self, genre: str) -> int:
        if genre not in self.genres:
            raise unknown_name("genre", genre, self.genres)
        return self.genres.index(genre)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = []
        matrices = {name: rounded(getattr(self, name)) for name in ("similarity", "pairs", "distances", "linkage")}
        for place, (genre, count) in enumerate(zip(self.genres, self.counts, strict=True)):
            row = {"genre": genre, "tracks": count, "within": matrices["pairs"][place][place]}
            nearest, similarity = next(iter(self.nearest(genre)), (None, None))
            between = None if nearest is None else matrices["pairs"][place][self._place(nearest)]
            row |= {"nearest": nearest, "similarity": similarity, "between": between, "overlaps": self.overlaps(genre)}
            rows.append(row)
        about = {"layer": self.layer, "transform": self.transform}
        return about | {"genres": rows, **matrices, "left_out": dict(self.left_out), "notes": list(self.notes)}

    def __repr__(self) -> str:
        return f"GenreMap({len(self.genres)} genres, layer {self.layer}, transform {self.transform})"


def rounded(matrix: Matrix, digits: int | None = None) -> list[list[float | None]]:
    """Make plain data for JSON, to so many digits behind the point if asked; NaN becomes None.

    >>> rounded(np.array([[0.123456, np.nan]]), 4)
    [[0.1235, None]]
    """
    rows = (matrix if digits is None else matrix.round(digits)).tolist()
    return [[None if number != number else number for number in row] for row in rows]  # noqa: PLR0124 - NaN is not itself


def genre_map(store: EmbeddingStore, layer: int | str | Mix | None = None, transform: str = "none") -> GenreMap:
    """Compare the genres of a store.

    Parameters
    ----------
    store : EmbeddingStore
    layer, transform
        As `LayerSearch` takes them.

    Raises
    ------
    ParameterError
        No genre has two tracks.
    UnknownNameError
        No such layer or transform.

    Examples
    --------
    >>> found = genre_map(EmbeddingStore.open("my-store"))  # doctest: +SKIP
    >>> found.nearest("blues")[0], found.overlaps("blues")  # doctest: +SKIP
    (('country', 0.973), ['country', 'rock'])
    """
    return GenreMap.of(LayerSearch(store, layer, transform), store.labels())


def nearest_genres(
    store: EmbeddingStore, what: str, layer: int | str | Mix | None = None, transform: str = "none"
) -> list[tuple[str, float]]:
    """List the genres that a genre or a stored track (id, path, file name, words of artist and title) is nearest to.

    A track is compared with the centres of the other tracks: it does not draw its own genre near.

    Returns
    -------
    list of (str, float)
        Genres with two tracks or more, each with the cosine to its centre, nearest first.

    Raises
    ------
    TrackNotFoundError
        `what` is neither a genre on the map nor a stored track.
    ParameterError, UnknownNameError
        As `genre_map`; or several tracks answer to `what`.
    """
    live, columns = LayerSearch(store, layer, transform), Columns(store)
    labels = dict(zip(columns.keys.tolist(), columns.labels, strict=True))
    found = GenreMap.of(live, labels)
    if what in found.genres:
        return found.nearest(what)
    try:
        track = store.find(what)
        key = columns.meant(what)[0] if track is None else track.key
    except TrackNotFoundError as error:
        message = str(unknown_name("genre", what, [*found.genres, *found.left_out]))
        raise TrackNotFoundError(f"{message}; and {error}") from error
    return found.near(live.vectors(np.array([key]))[0], labels[key].genres)


def _count(live: LayerSearch, labels: Mapping[int, TrackLabels]) -> dict[str, int]:
    """Count the searchable tracks of each genre, by name."""
    found = (labels[key].genres for key in live.keys.tolist() if key in labels)
    return dict(sorted(Counter(genre for genres in found for genre in dict.fromkeys(genres)).items()))


def _sums(live: LayerSearch, labels: Mapping[int, TrackLabels], genres: list[str]) -> tuple[Matrix, Matrix, Matrix]:
    """Add up the unit vectors of each genre, shape (g, dim), and the products of all pairs that count, with their number, (g, g).

    Those are all pairs, less those of two tracks of one artist, and so on: what two tracks of the same two artists lose twice
    comes back with the pairs of each two artists (inclusion and exclusion). The pairs of a group follow from its sums.
    """
    from scipy.sparse import csr_array

    g, place = len(genres), {genre: i for i, genre in enumerate(genres)}
    of: dict[int, list[int]] = {}
    for key in live.keys.tolist():
        if key in labels and (mine := [place[genre] for genre in dict.fromkeys(labels[key].genres) if genre in place]):
            of[key] = mine
    centre, products, numbers = np.empty((0, live.dim)), np.zeros((g, g)), np.zeros((g, g))
    for batch in _batches(_by_artist({key: labels[key] for key in of})):
        keys: Keys = np.array([key for _, some in batch for key in some])
        signs = [(-1.0) ** len(names) for names, _ in batch]
        group = np.repeat(np.arange(len(batch)), [len(some) for _, some in batch])
        sign = np.array(signs)[group]
        places = [of[key] for key in keys.tolist()]
        ends, flat = np.cumsum([0, *map(len, places)]), np.concatenate(places)
        cells, cell = np.unique(np.repeat(group, np.diff(ends)) * g + flat, return_inverse=True)
        in_cell = csr_array((np.ones(len(flat)), cell, ends), shape=(len(keys), len(cells)))
        in_genre = csr_array((np.ones(len(flat)), flat, ends), shape=(len(keys), g))
        sums = np.zeros((len(cells), live.dim))
        for start in range(0, len(keys), _BLOCK):
            part = slice(start, start + _BLOCK)
            vectors = live.vectors(keys[part]).astype(np.float64)
            sums += in_cell[part].T @ vectors
            lengths = np.square(vectors).sum(axis=1, keepdims=True)  # 1, but 0 for zeros
            members, weight = in_genre[part], sign[part, None]  # a track is no pair with itself
            products -= (members.T @ members.multiply(weight * lengths)).toarray()
            numbers -= (members.T @ members.multiply(weight)).toarray()
        counts = in_cell.sum(axis=0)
        bounds = np.searchsorted(cells, np.arange(len(batch) + 1) * g)
        for one, low, high in zip(signs, bounds, bounds[1:], strict=False):
            at, total = np.ix_(*[cells[low:high] % g] * 2), sums[low:high]
            products[at] += one * (total @ total.T)
            numbers[at] += one * np.outer(counts[low:high], counts[low:high])
        if not len(centre):
            centre = sums[:g]
    return centre, products, numbers


def _by_artist(labels: Mapping[int, TrackLabels]) -> dict[tuple[str, ...], list[int]]:
    """List all tracks under (), those of each artist, and those of each two artists or more together; not groups of one track."""
    named = {key: artist_keys(said) for key, said in labels.items()}
    tracks = Counter(name for names in named.values() for name in names)
    groups = defaultdict(list)
    for key, names in named.items():
        shared = sorted((name for name in names if tracks[name] > 1), key=lambda name: (-tracks[name], name))[:_CREDITS]
        for size in range(len(shared) + 1):
            for some in combinations(shared, size):
                groups[some].append(key)
    return {names: keys for names, keys in groups.items() if len(keys) > 1}


def _batches(groups: Mapping[T, list[int]]) -> Iterator[list[tuple[T, list[int]]]]:
    """Cut groups into lists that have about as many tracks as are read at once."""
    batch, size = [], 0
    for names, keys in groups.items():
        batch.append((names, keys))
        size += len(keys)
        if size >= _BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
