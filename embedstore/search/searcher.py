"""A store that answers: open it once, then search from any thread, whatever is added or deleted meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from typing import Any, Self

import numpy as np

from embedstore.errors import EmbedstoreError, ParameterError, TrackNotFoundError
from embedstore.index import LayerSearch, unit
from embedstore.search.columns import Described
from embedstore.search.seeds import Ear, Heard, Sound
from embedstore.search.shaping import AtMost, Candidate, Known, OneOfEach, background_of, diverse, percentile
from embedstore.search.values import Filter, Hit, Query, SearchResult, Shape
from embedstore.store import EmbeddingStore
from embedstore.types import Floats, Keys, Mix, Track, track_id

__all__ = ["Searcher", "search"]

_SAMPLE = 1000  # tracks whose pairs are the library's background
_POOL = 5  # times k: the nearest tracks among which diversity chooses
_LOOKED, _LOOKED_AT_LEAST = 20, 4000  # times k, tracks: how many are looked at for a shape that leaves some out
_PIECE = 1024  # tracks whose vectors are compared at once
_BLOCK = 4096  # tracks of a genre that are read at once
_TRIES = 5  # to answer while the store changes


_Stamp = tuple[object, tuple[int, int], int]  # the catalogue, its version, when an index was made


class _View:
    """A store at one moment; what takes time is read when it is first needed."""

    def __init__(
        self, store: EmbeddingStore, columns: Described, stamp: _Stamp, live: LayerSearch, before: _View | None
    ) -> None:
        self.stamp, self.live, self.columns = stamp, live, columns
        self.notes = (*store.problems, *live.notes)
        self._sampling = threading.Lock()
        same = before is not None and before.live is live
        self._sampled: tuple[Floats, Floats] | None = before._sampled if before and same else None  # noqa: SLF001

    def sampled(self) -> tuple[Floats, Floats]:
        """Give the vectors of some tracks, and the similarities of all pairs of these, in order."""
        with self._sampling:
            if self._sampled is None:
                vectors = self.live.sample(_SAMPLE)
                self._sampled = vectors, background_of(vectors)
            return self._sampled


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
        self.store, self._transform, self._described = store, transform, Described(store)
        self._ear = Ear(store, layer, model=model, device=device, trust_remote_code=trust_remote_code)
        self._turn_to(layer)

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Open the store at `path`; options as those of the class."""
        return cls(EmbeddingStore.open(path), **options)

    def _turn_to(self, layer: int | str | Mix | None) -> None:
        self._layer, self._lock = layer, threading.Lock()
        self._view: _View | None = None
        live = self.view().live
        self.layer, self.transform = live.layer, live.transform

    def beside(self, layer: int | str | Mix | None) -> Self:
        """Search another layer of the same store; what is said about the tracks, and the encoder, are there once for both.

        Raises
        ------
        UnknownNameError, ParameterError
            As the class.
        """
        other = copy(self)
        other._ear = self._ear.of(layer)  # noqa: SLF001 - of the same class
        other._turn_to(layer)  # noqa: SLF001
        return other

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
        with self._lock:  # the stamp, too: an older one must never be that of a newer view
            stamp, old = self._stamp(), self._view
            if old is None or old.stamp != stamp:
                keys = np.sort(self.store.keys())
                same = old is not None and old.stamp[2] == stamp[2] and np.array_equal(old.live.keys, keys)
                live = old.live if old is not None else None
                if live is None or not same:
                    live = LayerSearch(self.store, self._layer, self._transform, before=live)
                self._view = old = _View(self.store, self._described, stamp, live, old)
            return old

    def search(
        self,
        query: Query | str | os.PathLike[str],
        filter: Filter | None = None,  # noqa: A002 - what it is
        shape: Shape | None = None,
        heard: Mapping[str, Heard] | None = None,
    ) -> SearchResult:
        """Find the tracks that sound most like what is asked for.

        The vectors of all seeds, each of length 1, are summed by their weights; the nearest tracks to the sum are the result, the
        seeds left out: Rocchio's rule ("Relevance feedback in information retrieval", 1971) with the weights in your hand. He
        gave what is unwanted less weight than what is wanted: with equal weights little is left of what both share. On 640 tracks,
        -0.5 served best of 0..-1: more of the wanted genre, less of the unwanted one; -1 lost both.

        Where a filter or a shape leaves fewer than k, the search goes on until there are k or no track is left; one of each piece
        of music, or few of each artist, are looked for among the nearest 20 k, at least 4,000, tracks, and a note says if that
        was too few.

        Parameters
        ----------
        query : Query, str or path
            A text is one seed.
        filter : Filter, optional
            Which tracks may be results.
        shape : Shape, optional
            How many, and how they are put together.
        heard : mapping of str to Heard, optional
            Files that were heard before, see `hear`, by what seeds call them.

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
        asked = Query.of(query)
        for _ in range(_TRIES):
            stamp = self._stamp()
            try:
                return self._search(self.view(), asked, filter or Filter(), shape or Shape(), heard or {})
            except EmbedstoreError as error:
                if self._stamp() == stamp:
                    raise
                changed = error  # perhaps only because the store has changed meanwhile
        raise changed

    def hear(self, path: str | os.PathLike[str], **options: Any) -> Heard:
        """Encode a file as the tracks of the store were, with options as `encode_file` takes them; it serves every layer.

        Raises
        ------
        AudioError, EncoderError, EncoderMismatchError
            It cannot be.
        """
        return self._ear.encode(os.fspath(path), **options)

    def _search(
        self, view: _View, query: Query, wanted: Filter, shape: Shape, heard: Mapping[str, Heard]
    ) -> SearchResult:
        live = view.live
        if not len(live.keys):
            raise ParameterError(f"the store {self.store.path} holds no tracks; build first")
        allowed = view.columns().allowed(wanted) if wanted else None  # first: to hear a file may take long
        sounds = [self._ear.hear(seed, live, view.columns, heard) for seed in query.seeds]
        vector = self._sum(view, query, sounds)
        hidden = {
            sound.key
            for seed, sound in zip(query.seeds, sounds, strict=True)
            if seed.weight < 0 or not shape.include_self
        }
        while True:
            found, notes = self._widen(view, vector, allowed, shape, sounds, hidden)
            keys = np.array([one.key for one in found], np.int64)
            tracks = {track.key: track for track, _ in self.store.described(keys)}
            if len(tracks) == len(found):
                break
            hidden |= {*keys.tolist()} - {*tracks}  # deleted since
        moments = {}
        if self.store.keeps_windows and any(seed.at is not None for seed in query.seeds):
            moments = self._ear.nearest_moments(keys, unit(vector[None])[0], live)
        percentile_of, background = self._background(view, query, vector)
        hits = tuple(
            _hit(rank, tracks[one.key], one, percentile(background, one.score), moments.get(one.key))
            for rank, one in enumerate(found, 1)
        )
        notes = [*view.notes, *(note for sound in sounds for note in sound.notes), *notes]
        return SearchResult(str(query), self.layer, hits, tuple(notes), self.transform, percentile_of)

    def _background(self, view: _View, query: Query, vector: Floats) -> tuple[str, Floats]:
        """Say what scores are compared with, see `SearchResult.percentile_of`, and give these similarities in order."""
        vectors, pairs = view.sampled()
        if query.genre is None and len(query.seeds) == 1 and query.seeds[0].at is None:
            return "pairs", pairs
        return "tracks", np.sort((vectors @ unit(vector[None])[0]).clip(-1, 1))

    def _sum(self, view: _View, query: Query, sounds: Sequence[Sound]) -> Floats:
        """Make one vector of the seeds, or of a genre and seeds to be unlike; of any length."""
        parts = [(seed.weight, sound.vector) for seed, sound in zip(query.seeds, sounds, strict=True)]
        if query.genre is not None:
            columns = view.columns()
            members = columns.keys[columns.having("genre", query.genre)]
            members = np.intersect1d(members, view.live.keys)  # which may be older
            if not len(members):
                raise TrackNotFoundError(f"no track of the genre {query.genre!r} can be searched yet; try again")
            blocks = (view.live.vectors(members[i : i + _BLOCK]) for i in range(0, len(members), _BLOCK))
            centre = np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0)
            parts.append((1.0, unit(centre.astype(np.float32)[None])[0]))
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
    ) -> tuple[list[Candidate], list[str]]:
        """Look at ever more of the nearest tracks until k are left; also say why there are fewer, if it is not plain."""
        everything = most = len(view.live.keys if allowed is None else allowed)
        pool = shape.k * (_POOL if shape.diversity else 1)
        count = pool + len(hidden)
        if shape.collapse or shape.per_artist:
            count, most = count + pool, min(most, max(_LOOKED * shape.k, _LOOKED_AT_LEAST) + len(hidden))
        pick = self._picker(view, shape, sounds)
        kept: list[Candidate] = []
        seen, nearest, notes = set(hidden), -np.inf, list[str]()
        while True:
            found = view.live.search(vector[None], min(count, most), allowed=allowed)
            pairs = zip(found.keys[0].tolist(), found.scores[0].tolist(), strict=True)
            new = [Candidate(key, score) for key, score in pairs if key >= 0 and key not in seen]
            seen |= {one.key for one in new}
            near = [one for one in new if shape.least is None or one.score >= shape.least]
            nearest = max([nearest, *(one.score for one in new)])
            for start in range(0, len(near), _PIECE):
                kept += pick(near[start : start + _PIECE])
            if len(kept) >= pool or count >= most or len(near) < len(new):
                break
            count *= 4
        if everything == len(hidden - {None}) and allowed is None:
            notes.append("the store holds no other track")
        if not kept and shape.least is not None and -np.inf < nearest < shape.least:
            notes.append(f"no track is {shape.least:g} alike; the nearest is {nearest:.4f}")
        if len(kept) < shape.k and count >= most < everything and len(near) == len(new):
            notes.append(f"only the {most - len(hidden)} nearest tracks were looked at; some farther away may fit, too")
        kept.sort(key=lambda one: -one.score)  # an approximate index may find more only when it is asked for more
        if shape.diversity:
            kept = kept[:pool]
            rows = view.live.vectors(np.array([one.key for one in kept], np.int64))
            kept = [kept[place] for place in diverse([one.score for one in kept], rows, shape.k, shape.diversity)]
        return kept[: shape.k], notes

    def _picker(
        self, view: _View, shape: Shape, sounds: Sequence[Sound]
    ) -> Callable[[list[Candidate]], list[Candidate]]:
        """Make what takes candidates, best first and piece by piece, and gives those that a shape leaves."""
        if not (shape.collapse or shape.per_artist):
            return list
        columns = view.columns()
        heard = [sound for sound in sounds if not (shape.include_self and sound.key is not None)]
        seeds = Known(
            np.array([sound.vector for sound in heard], np.float32).reshape(-1, view.live.dim),
            np.array([sound.seconds for sound in heard]),
            [sound.labels for sound in heard],
        )
        one_of_each = OneOfEach(view.sampled()[1], seeds) if shape.collapse else None
        at_most = AtMost(shape.per_artist) if shape.per_artist else None

        def pick(near: list[Candidate]) -> list[Candidate]:
            places = columns.places([one.key for one in near])
            near, places = [one for one, place in zip(near, places, strict=True) if place >= 0], places[places >= 0]
            if one_of_each:
                rows = view.live.vectors(columns.keys[places])
                known = Known(rows, columns.seconds[places], [columns.labels[place] for place in places])
                near = one_of_each(near, known)
                places = columns.places([one.key for one in near])
            return at_most(near, [columns.labels[place] for place in places]) if at_most else near

        return pick


def _hit(rank: int, track: Track, one: Candidate, share: float | None, moment: tuple[float, float] | None) -> Hit:
    labels, (at, end) = track.labels, moment or (None, None)
    return Hit(
        rank=rank,
        track=track.id,
        path=track.path,
        genres=labels.genres,
        artists=labels.artists,
        album=labels.album,
        title=labels.title,
        seconds=track.seconds,
        score=one.score,
        percentile=share,
        copies=tuple(map(track_id, one.copies)),
        at=at,
        end=end,
    )


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
    searcher = Searcher(store, layer=layer, transform=transform, **options)
    return searcher.search(Query.of(query, genre), filter, Shape(k=k, include_self=include_self))
