"""How genres lie to each other: their centres, how alike their tracks are, and the tree that joins the nearest first.

Two numbers stand for each pair of genres. *similarity* is the cosine between their centres (the means of their tracks' unit
vectors): it places genres, but averaging takes away what differs within them, so it is near to 1 for any two. *pairs* is the mean
cosine between a track of one and another track of the other; on the diagonal, between two tracks of the genre. A genre whose
tracks are no more alike than they are to those of another overlaps it, whatever their centres say. Both follow from the sums of
the vectors, so no pair is ever looked at: time and memory are those of reading each track once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, TrackNotFoundError
from embedstore.index import LayerSearch, unit
from embedstore.registry import unknown_name
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Mix, TrackLabels

__all__ = ["GenreMap", "genre_map", "nearest_genres"]

_BLOCK = 4096  # tracks that are read at once
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
        Mean cosine between two different tracks, one of each genre.
    linkage : float64 array, shape (g - 1, 4)
        Average linkage over `distances`, as scipy writes it: two clusters, their distance, how many genres they hold.
    left_out : mapping of str to int
        Genres with a single track, which have no spread.
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
    def of(cls, live: LayerSearch, labels: Mapping[int, TrackLabels]) -> GenreMap:
        """Compare the genres of tracks, given by their keys.

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
        sums, squares, numbers = _sums(live, labels, genres)
        counts = np.array([counted[genre] for genre in genres])
        centres = sums / counts[:, None]
        lengths = np.linalg.norm(centres, axis=1)
        directions = centres / np.where(lengths > 1e-7, lengths, np.inf)[:, None]
        similarity = (directions @ directions.T).clip(-1, 1)
        # a track of both genres is no pair with itself
        pairs = (sums @ sums.T - squares) / (np.outer(counts, counts) - numbers)
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
            {genre: count for genre, count in counted.items() if count < 2},
            live.notes,
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
        for place, (genre, count) in enumerate(zip(self.genres, self.counts, strict=True)):
            row = {"genre": genre, "tracks": count, "within": float(self.pairs[place, place])}
            nearest, similarity = next(iter(self.nearest(genre)), (None, None))
            between = None if nearest is None else float(self.pairs[place, self._place(nearest)])
            row |= {"nearest": nearest, "similarity": similarity, "between": between, "overlaps": self.overlaps(genre)}
            rows.append(row)
        matrices = {name: getattr(self, name).tolist() for name in ("similarity", "pairs", "distances", "linkage")}
        about = {"layer": self.layer, "transform": self.transform}
        return about | {"genres": rows, **matrices, "left_out": dict(self.left_out), "notes": list(self.notes)}

    def __repr__(self) -> str:
        return f"GenreMap({len(self.genres)} genres, layer {self.layer}, transform {self.transform})"


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
    """List the genres that a genre or a stored track (id, path, unique file name) is nearest to.

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
        As `genre_map`; or `what` is a file name that several tracks share.
    """
    live, labels = LayerSearch(store, layer, transform), store.labels()
    found = GenreMap.of(live, labels)
    if what in found.genres:
        return found.nearest(what)
    try:
        track = store.track(what)
    except TrackNotFoundError as error:
        message = str(unknown_name("genre", what, [*found.genres, *found.left_out]))
        raise TrackNotFoundError(f"{message}; and no stored track is called so") from error
    return found.near(live.vectors(np.array([track.key]))[0], track.labels.genres)


def _count(live: LayerSearch, labels: Mapping[int, TrackLabels]) -> dict[str, int]:
    """Count the searchable tracks of each genre, by name."""
    found = (labels[key].genres for key in live.keys.tolist() if key in labels)
    return dict(sorted(Counter(genre for genres in found for genre in dict.fromkeys(genres)).items()))


def _sums(live: LayerSearch, labels: Mapping[int, TrackLabels], genres: list[str]) -> tuple[Matrix, Matrix, Matrix]:
    """Add up the unit vectors of each genre, shape (g, dim); of the tracks that two genres share, the squares and the numbers."""
    from scipy.sparse import csr_array

    place = {genre: i for i, genre in enumerate(genres)}
    sums = np.zeros((len(genres), live.dim))
    squares, numbers = np.zeros((len(genres),) * 2), np.zeros((len(genres),) * 2)
    of: dict[int, list[int]] = {}
    for key in live.keys.tolist():
        if key in labels and (mine := [place[genre] for genre in dict.fromkeys(labels[key].genres) if genre in place]):
            of[key] = mine
    keys: Keys = np.fromiter(of, np.int64, len(of))
    for start in range(0, len(keys), _BLOCK):
        part = keys[start : start + _BLOCK]
        columns = [of[key] for key in part.tolist()]
        ends = np.cumsum([0, *map(len, columns)])
        flat = np.concatenate(columns)
        members = csr_array((np.ones(len(flat)), flat, ends), shape=(len(part), len(genres)))
        vectors = live.vectors(part).astype(np.float64)
        sums += members.T @ vectors
        lengths = np.square(vectors).sum(axis=1)  # 1, but 0 for zeros
        squares += (members.T @ members.multiply(lengths[:, None])).toarray()
        numbers += (members.T @ members).toarray()
    return sums, squares, numbers
