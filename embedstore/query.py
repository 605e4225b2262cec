"""Similarity search: the stored tracks nearest to a track, to any audio file, or to the centre of a genre."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import ParameterError, TrackNotFoundError
from embedstore.index import LayerSearch
from embedstore.index.base import unit
from embedstore.registry import unknown_name
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Track, track_id

__all__ = ["Hit", "SearchResult", "genre_centres", "search"]


@dataclass(frozen=True)
class Hit:
    """One of the nearest tracks.

    Attributes
    ----------
    rank : int
        1 is the nearest.
    track : str
        Track id.
    path : str
        Absolute path of its first file.
    genres, artists : tuple of str
    title : str
    score : float
        Cosine similarity, -1..1, higher is nearer; 0 if one of the two vectors is all zeros.
    """

    rank: int
    track: str
    path: str
    genres: tuple[str, ...]
    artists: tuple[str, ...]
    title: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: several genres or artists stand apart by ``;``, unknown ones are None."""
        data = asdict(self) | {"genre": ";".join(self.genres) or None, "artist": ";".join(self.artists) or None}
        return {name: data[name] for name in ("rank", "track", "path", "genre", "artist")} | {
            "title": self.title or None,
            "score": self.score,
        }


@dataclass(frozen=True)
class SearchResult:
    """The nearest tracks to a query.

    Attributes
    ----------
    query : str
        As it was asked; ``"genre:NAME"`` for the centre of a genre.
    layer : int or str
        Number of the layer, or ``"mean"``.
    hits : tuple of Hit
        Nearest first; fewer than asked where the store holds no more.
    notes : tuple of str
        What a person should know, e.g. that an index was not usable.
    """

    query: str
    layer: int | str
    hits: tuple[Hit, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        results = [hit.to_dict() for hit in self.hits]
        return {"query": self.query, "layer": self.layer, "results": results, "notes": list(self.notes)}


def search(
    store: EmbeddingStore,
    query: str | os.PathLike[str] | None = None,
    *,
    genre: str | None = None,
    k: int = 10,
    layer: int | str | None = None,
    model: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    include_self: bool = False,
) -> SearchResult:
    """Find the stored tracks that sound most like a track, an audio file or a genre.

    Parameters
    ----------
    store : EmbeddingStore
    query : str or path
        A stored track (id, path, unique file name), or any audio file: one that exists and is not stored is encoded with the
        store's own encoder. If its sound is stored under another name, the stored vector is used.
    genre : str
        Instead of `query`: the tracks nearest to the centre of this genre (see `genre_centres`).
    k : int
        How many.
    layer : int or str, optional
        Number or name of a layer, or ``"mean"`` for the mean over layers; default: the encoder's choice.
    model, device : str
        For a file that must be encoded: where the weights are now, if they moved; where to run.
    trust_remote_code : bool
        For a file that must be encoded by a model with code of its own; see `load_encoder`.
    include_self : bool
        Whether a stored query may be among its own results.

    Raises
    ------
    ParameterError
        Not exactly one of `query` and `genre`; `k` < 1; an empty store; a file name that several tracks share.
    TrackNotFoundError
        `query` is neither stored nor a file.
    UnknownNameError
        No such genre or layer.
    AudioError, EncoderError, EncoderMismatchError
        The file cannot be encoded as the store's tracks were.

    Examples
    --------
    >>> result = search(EmbeddingStore.open("my-store"), "blues/thrill.ogg", k=5)  # doctest: +SKIP
    >>> [(hit.rank, hit.track, round(hit.score, 3)) for hit in result.hits]  # doctest: +SKIP
    """
    if (query is None) == (genre is None):
        raise ParameterError("search needs a query or a genre, one of the two")
    if k < 1:
        raise ParameterError(f"k must be at least 1; got {k}")
    if not len(store):
        raise ParameterError(f"the store {store.path} holds no tracks; build first")
    live = LayerSearch(store, layer)
    notes: tuple[str, ...] = ()
    own = None
    if genre is not None:
        asked, vector = f"genre:{genre}", genre_centres(store, layer, genre)[genre]
    elif query is not None:
        asked = os.fspath(query)
        options = {"model": model, "device": device, "trust_remote_code": trust_remote_code}
        own, vector, notes = _hear(store, asked, layer, options)
    k = min(k, len(store))
    found = live.search(vector[None], k + 1)
    pairs = [
        (key, score) for key, score in zip(found.keys[0].tolist(), found.scores[0].tolist(), strict=True) if key >= 0
    ]
    kept = [pair for pair in pairs if include_self or pair[0] != own][:k]
    hits = tuple(_hit(store, rank, *pair) for rank, pair in enumerate(kept, 1))
    return SearchResult(asked, live.layer, hits, live.notes + notes)


def genre_centres(store: EmbeddingStore, layer: int | str | None = None, genre: str | None = None) -> dict[str, Floats]:
    """Give the mean of the length-1 vectors of each genre's tracks (of one genre only, if named), by name.

    A track of several genres counts in each of them.

    Returns
    -------
    dict of str to float32 array, shape (dim,)

    Raises
    ------
    UnknownNameError
        No stored track has this genre; lists those there are.
    """
    members: dict[str, list[int]] = {}
    for key, labels in store.labels().items():
        for name in labels.genres:
            members.setdefault(name, []).append(key)
    if genre is not None and genre not in members:
        raise unknown_name("genre", genre, sorted(members))
    return {
        name: unit(store.vectors(np.array(members[name]), layer)).mean(axis=0, dtype=np.float64).astype(np.float32)
        for name in sorted(members)
        if genre in (None, name)
    }


def _hear(
    store: EmbeddingStore, query: str, layer: int | str | None, options: dict[str, Any]
) -> tuple[int | None, Floats, tuple[str, ...]]:
    """Get a query's key if it is stored, its vector, and notes."""
    is_file = Path(query).is_file()
    try:
        track: Track | None = store.track(query)
    except TrackNotFoundError as error:
        if not is_file:
            raise TrackNotFoundError(f"{error}; and there is no file of that name") from error
        track = None
    except ParameterError:
        if not is_file:
            raise
        track = None
    notes: tuple[str, ...] = ()
    if track is not None and is_file:
        same = [file for file in track.files if file.full_path == os.path.abspath(query)]
        found = Path(query).stat()
        if not same:
            track = None  # another file that is called like a stored one
        elif (same[0].size, same[0].mtime_ns) != (found.st_size, found.st_mtime_ns):
            notes = (f"{query} has changed since it was stored; this is what the stored sound is near to; build again",)
    if track is not None:
        return track.key, store.vectors(np.array([track.key]), layer)[0], notes
    from embedstore.options import embed_file

    key, embeddings = embed_file(store, query, **options)
    if (store.keys() == key).any():
        return key, store.vectors(np.array([key]), layer)[0], ()
    if layer == "mean":
        return None, np.mean(embeddings.vectors, axis=0, dtype=np.float32), ()
    layers = [one.number for one in store.card.layers]
    chosen = store.card.layer(store.card.default_layer if layer is None else layer).number
    return None, embeddings.vectors[layers.index(chosen)], ()


def _hit(store: EmbeddingStore, rank: int, key: int, score: float) -> Hit:
    track = store.track(track_id(key))
    labels = track.labels
    return Hit(rank, track.id, track.path, labels.genres, labels.artists, labels.title, score)
