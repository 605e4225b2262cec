"""A store that answers: open it once, then search from any thread, whatever is added or deleted meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np

from embedstore.errors import EmbedstoreError, ParameterError
from embedstore.index import LayerSearch, unit
from embedstore.search.columns import Columns
from embedstore.search.seeds import Ear, Sound
from embedstore.search.shaping import Candidate, Known, at_most, background_of, diverse, one_of_each, percentile
from embedstore.search.values import Filter, Hit, Query, SearchResult, Seed, Shape
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Mix, track_id

__all__ = ["Searcher", "search"]

_SAMPLE = 1000  # tracks whose pairs are the library's background
_POOL = 5  # times k: the nearest tracks among which diversity chooses
_TRIES = 5  # to answer while the store changes


_Stamp = tuple[object, tuple[int, int], int]  # the catalogue, its version, when an index was made


class _View:
    """A store at one moment; what takes time is read when it is first needed."""

    def __init__(self, store: EmbeddingStore, stamp: _Stamp, live: LayerSearch, before: _View | None) -> None:
        self.stamp, self.live = stamp, live
        self.notes = (*store.problems, *live.notes)
        self._store, self._lock = store, threading.Lock()
        self._columns: Columns | None = None
        self._old: Columns | None = (before._columns or before._old) if before else None  # noqa: SLF001 - of the same class
        same = before is not None and before.live is live
        self._background: Floats | None = before._background if before and same else None  # noqa: SLF001

    def columns(self) -> Columns:
        """Give what is said about the tracks."""
        with self._lock:
            if self._columns is None:
                self._columns, self._old = Columns(self._store, self._old), None
            return self._columns

    def background(self) -> Floats:
        """Give the similarities of random pairs of tracks, in order."""
        with self._lock:
            if self._background is None:
                self._background = background_of(self.live.sample(_SAMPLE))
            return self._background


class Searcher:
    """Finds what sounds alike in a store.

    Every answer is of the store as it is then: what other processes add, delete or name otherwise is seen by the next search.
    A searcher may be used by several threads at once.

    Parameters
    ----------
    store : EmbeddingStore
    layer : int, str or Mix, optional
        Number or name of a layer, ``"mean"``, or a sum of layers; default: the encoder's choice.
    transform : str
        ``"none"``, ``"centre"``, ``"standardise"`` or ``"whiten"``: how vectors are moved before they are compared.
    model, device : str
        For files that must be encoded: where the weights are now, if they moved; where to run.
    trust_remote_code : bool
        For files that must be encoded by a model with code of its own; see `load_encoder`.

    Raises
    ------
    UnknownNameError
        No such layer or transform.
    ParameterError
        A mean over layers of different widths.

    Examples
    --------
    >>> searcher = Searcher.open("my-store")  # doctest: +SKIP
    >>> searcher.search("miles davis so what", Filter(years=(1955, 1965)), Shape(k=5, per_artist=1))  # doctest: +SKIP
    """

    def __init__(
        self,
        store: EmbeddingStore,
        *,
        layer: int | str | Mix | None = None,
        transform: str = "none",
        model: str | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        self.store, self._layer, self._transform = store, layer, transform
        self._ear = Ear(store, layer, model=model, device=device, trust_remote_code=trust_remote_code)
        self._lock = threading.Lock()
        self._view: _View | None = None
        live = self.view().live
        self.layer, self.transform = live.layer, live.transform

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Open the store at `path`; options as those of the class."""
        return cls(EmbeddingStore.open(path), **options)

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.view().live.keys)

    def _stamp(self) -> _Stamp:
        """Tell apart two states of the store and its indices."""
        indices = 0
        with suppress(OSError):
            indices = (self.store.path / "indices").stat().st_mtime_ns
        catalog = self.store.catalog  # another one, once this process has written
        return catalog, catalog.version(), indices

    def view(self) -> _View:
        """Give the store as it is now."""
        stamp = self._stamp()
        with self._lock:
            old = self._view
            if old is None or old.stamp != stamp:
                keys = np.sort(self.store.keys())
                same = old is not None and old.stamp[2] == stamp[2] and np.array_equal(old.live.keys, keys)
                live = old.live if old is not None and same else LayerSearch(self.store, self._layer, self._transform)
                self._view = old = _View(self.store, stamp, live, old)
            return old

    def search(
        self,
        query: Query | str | os.PathLike[str],
        filter: Filter | None = None,  # noqa: A002 - what it is
        shape: Shape | None = None,
    ) -> SearchResult:
        """Find the tracks that sound most like what is asked for.

        The vectors of all seeds, each of length 1, are summed by their weights; the nearest tracks to the sum are the result, the
        seeds left out: Rocchio's rule ("Relevance feedback in information retrieval", 1971) with the weights in your hand. He
        gave what is unwanted less weight than what is wanted: with equal weights little is left of what both share. On 640 tracks,
        -0.5 served best of 0..-1: more of the wanted genre, less of the unwanted one; -1 lost both.

        Where a filter or a shape leaves fewer than k, the search goes on until there are k or no track is left.

        Parameters
        ----------
        query : Query, str or path
            A text is one seed.
        filter : Filter, optional
            Which tracks may be results.
        shape : Shape, optional
            How many, and how they are put together.

        Raises
        ------
        ParameterError
            An empty store; a filter that no track meets; a text that several tracks answer to; seeds that cancel each other out.
        TrackNotFoundError
            A seed is neither stored nor a file.
        UnknownNameError
            No such genre, artist or album.
        StoreError
            A moment of a stored track, and no windows are kept.
        AudioError, EncoderError, EncoderMismatchError
            A file cannot be encoded as the store's tracks were.
        """
        asked = query if isinstance(query, Query) else Query((Seed(os.fspath(query)),))
        for _ in range(_TRIES):
            view = self.view()
            try:
                return self._search(view, asked, filter or Filter(), shape or Shape())
            except EmbedstoreError as error:
                if self._stamp() == view.stamp:
                    raise
                changed = error  # perhaps only because the store has changed meanwhile
        raise changed

    def _search(self, view: _View, query: Query, wanted: Filter, shape: Shape) -> SearchResult:
        live = view.live
        if not len(live.keys):
            raise ParameterError(f"the store {self.store.path} holds no tracks; build first")
        allowed = view.columns().allowed(wanted) if wanted else None  # first: to hear a file may take long
        sounds = [self._ear.hear(seed, live, view.columns) for seed in query.seeds]
        vector = self._sum(view, query, sounds)
        hidden = {
            sound.key
            for seed, sound in zip(query.seeds, sounds, strict=True)
            if seed.weight < 0 or not shape.include_self
        }
        found, nearest = self._widen(view, vector, allowed, shape, sounds, hidden)
        notes = [note for sound in sounds for note in sound.notes]
        if not found and nearest is not None:
            notes.append(f"no track is {shape.least:g} alike; the nearest is {nearest:.4f}")
        moments = {}
        if self.store.keeps_windows and any(seed.at is not None for seed in query.seeds):
            keys = np.array([one.key for one in found], np.int64)
            moments = self._ear.nearest_moments(keys, unit(vector[None])[0], live)
        hits = self._hits(view, found, moments)
        return SearchResult(str(query), self.layer, hits, (*view.notes, *notes), self.transform)

    def _sum(self, view: _View, query: Query, sounds: Sequence[Sound]) -> Floats:
        """Make one vector of the seeds, or of a genre and seeds to be unlike; of any length."""
        parts = [(seed.weight, sound.vector) for seed, sound in zip(query.seeds, sounds, strict=True)]
        if query.genre is not None:
            columns = view.columns()
            members = view.live.vectors(columns.keys[columns.having("genre", query.genre)])
            parts.append((1.0, unit(members.mean(axis=0, dtype=np.float64).astype(np.float32)[None])[0]))
        total = np.sum([weight * vector.astype(np.float64) for weight, vector in parts], axis=0)
        if len(parts) > 1 and np.linalg.norm(total) < 1e-6 * sum(abs(weight) for weight, _ in parts):
            raise ParameterError(f"{query}: these cancel each other out; choose other weights")
        return np.asarray(total, np.float32)

    def _widen(
        self,
        view: _View,
        vector: Floats,
        allowed: Keys | None,
        shape: Shape,
        sounds: Sequence[Sound],
        hidden: set[int | None],
    ) -> tuple[list[Candidate], float | None]:
        """Look at ever more of the nearest tracks until k are left; the score of the nearest if that alone is too small."""
        among = view.live.keys if allowed is None else allowed
        pool = shape.k * (_POOL if shape.diversity else 1)
        count = min(len(among), pool * (2 if shape.collapse or shape.per_artist else 1) + len(hidden))
        while True:
            found = view.live.search(vector[None], count, allowed=allowed)
            pairs = zip(found.keys[0].tolist(), found.scores[0].tolist(), strict=True)
            ranked = [Candidate(key, score) for key, score in pairs if key >= 0 and key not in hidden]
            near = [one for one in ranked if shape.least is None or one.score >= shape.least]
            kept = self._shaped(view, near, shape, sounds)
            if len(kept) >= pool or count == len(among) or len(near) < len(ranked):
                break
            count = min(len(among), 4 * count)
        if shape.diversity:
            kept = kept[:pool]
            rows = view.live.vectors(np.array([one.key for one in kept], np.int64))
            kept = [kept[place] for place in diverse([one.score for one in kept], rows, shape.k, shape.diversity)]
        return kept[: shape.k], ranked[0].score if ranked and not near else None

    def _shaped(self, view: _View, near: list[Candidate], shape: Shape, sounds: Sequence[Sound]) -> list[Candidate]:
        if not near or not (shape.collapse or shape.per_artist):
            return near
        columns = view.columns()
        places = columns.places([one.key for one in near])
        near, places = [one for one, place in zip(near, places, strict=True) if place >= 0], places[places >= 0]
        if shape.collapse:
            heard = [sound for sound in sounds if not (shape.include_self and sound.key is not None)]
            seeds = Known(
                np.array([sound.vector for sound in heard], np.float32).reshape(-1, view.live.dim),
                np.array([sound.seconds for sound in heard]),
                [sound.labels for sound in heard],
            )
            rows = view.live.vectors(columns.keys[places])
            known = Known(rows, columns.seconds[places], [columns.labels[place] for place in places])
            near = one_of_each(near, known, view.background(), seeds=seeds)
            places = columns.places([one.key for one in near])
        if shape.per_artist:
            near = at_most(near, [columns.labels[place].artists for place in places], shape.per_artist)
        return near

    def _hits(
        self, view: _View, found: Sequence[Candidate], moments: dict[int, tuple[float, float]]
    ) -> tuple[Hit, ...]:
        tracks = {track.key: track for track, _ in self.store.described(np.array([one.key for one in found], np.int64))}
        hits: list[Hit] = []
        for one in found:
            if (track := tracks.get(one.key)) is None:
                continue  # deleted since
            labels = track.labels
            hits.append(
                Hit(
                    rank=len(hits) + 1,
                    track=track.id,
                    path=track.path,
                    genres=labels.genres,
                    artists=labels.artists,
                    album=labels.album,
                    title=labels.title,
                    seconds=track.seconds,
                    score=one.score,
                    percentile=percentile(view.background(), one.score),
                    copies=tuple(map(track_id, one.copies)),
                    at=moments.get(one.key, (None, None))[0],
                    end=moments.get(one.key, (None, None))[1],
                )
            )
        return tuple(hits)


def search(
    store: EmbeddingStore,
    query: Query | str | os.PathLike[str] | None = None,
    *,
    genre: str | None = None,
    k: int = 10,
    layer: int | str | Mix | None = None,
    transform: str = "none",
    filter: Filter | None = None,  # noqa: A002 - what it is
    include_self: bool = False,
    **options: Any,
) -> SearchResult:
    """Search once: `Searcher.search` of a query, or of the centre of a genre.

    Parameters
    ----------
    store : EmbeddingStore
    query : Query, str or path, optional
        A stored track (id, path, unique file name, words of artist and title), or any audio file: one that exists and is not
        stored is encoded with the store's own encoder. If its sound is stored under another name, the stored vector is used.
    genre : str, optional
        Instead of `query`: the tracks nearest to the centre of this genre.
    k : int
        How many.
    layer, transform
        See `Searcher`.
    filter : Filter, optional
    include_self : bool
        Whether a stored query may be among its own results.
    options
        The other options of `Searcher`.

    Raises
    ------
    EmbedstoreError
        As `Searcher` and `Searcher.search`.

    Examples
    --------
    >>> result = search(EmbeddingStore.open("my-store"), "blues/thrill.ogg", k=5)  # doctest: +SKIP
    >>> [(hit.rank, hit.track, round(hit.score, 3)) for hit in result.hits]  # doctest: +SKIP
    """
    seeds = () if query is None else query.seeds if isinstance(query, Query) else (Seed(os.fspath(query)),)
    asked = Query(seeds, query.genre if isinstance(query, Query) and genre is None else genre)
    shape = Shape(k=k, include_self=include_self)
    return Searcher(store, layer=layer, transform=transform, **options).search(asked, filter, shape)
