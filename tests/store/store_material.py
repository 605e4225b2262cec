"""Tracks and vectors for the store's tests: everything follows from a number."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from embedstore.store import EmbeddingStore, StoreWriter
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels

DIMS = (8, 8, 8)


def card(dims: Iterable[int] = DIMS) -> EncoderCard:
    """Describe an encoder with layers of these widths."""
    layers = tuple(Layer(i, f"layer {i}", dim) for i, dim in enumerate(dims))
    return EncoderCard("toy", "toy", "", "0" * 64, 16000, layers, 50.0, "none", "float32", "CC0-1.0", "", 1)


def recipe(**changes: object) -> dict[str, object]:
    """Say what decides the toy encoder's vectors."""
    return {"encoder": "toy", "window": {"samples": 80000, "hop": 80000}, "dtype": "float16", **changes}


def file(i: int, path: str | None = None, root: str = "/music") -> AudioFile:
    """Make the i-th file."""
    return AudioFile(root, path or f"genre {i % 3}/track {i:05d}.ogg", 1000 + i, 1_700_000_000_000_000_000 + i)


def file_hash(i: int) -> str:
    """Make up the sum of the i-th file's bytes."""
    return f"{i:032x}"


def track(i: int, path: str | None = None) -> Track:
    """Make the i-th track: its key is 1000 + i."""
    labels = TrackLabels((f"genre {i % 3}",), (f"artist {i % 5}",), "album", f"title {i}", "folder")
    return Track(1000 + i, (file(i, path),), 30.0 + i, 44100, 2, labels, ("stopped early",) if i % 7 == 0 else ())


def vectors(i: int, dims: Iterable[int] = DIMS) -> LayerEmbeddings:
    """Make the i-th track's vectors: small integers and halves, which float16 holds exactly."""
    rng = np.random.default_rng(i)
    return LayerEmbeddings(tuple((rng.integers(-64, 64, dim) / 2).astype(np.float32) for dim in dims), 100 + i)


CUT = {  # how a recipe that keeps windows cuts a track: 2 s each, every second
    "window_length": 32000,
    "window_hop": 16000,
    "window_pad": 0,
    "window_min_tail": 8000,
    "window_tail": "merge",
    "window_short": "keep",
}


def kept_recipe(**changes: object) -> dict[str, object]:
    """Say what decides the toy encoder's vectors, windows included."""
    return recipe(windows="kept", **{**CUT, **changes})


def windowed(i: int, dims: Iterable[int] = DIMS, count: int | None = None) -> LayerEmbeddings:
    """Make the i-th track's vectors with those of its windows: as many as its 30 + i seconds have, or `count`."""
    rng, dims = np.random.default_rng(i), tuple(dims)
    windows = tuple(
        LayerEmbeddings(tuple((rng.integers(-64, 64, dim) / 2).astype(np.float16) for dim in dims), 99 + n % 3)
        for n in range(29 + i if count is None else count)
    )
    frames = [window.n_frames for window in windows]
    means = (np.average([window.vectors[place] for window in windows], 0, frames) for place in range(len(dims)))
    return LayerEmbeddings(tuple(mean.astype(np.float32) for mean in means), sum(frames), windows)


def make_kept(path: object, numbers: Iterable[int] = (), dims: Iterable[int] = DIMS) -> EmbeddingStore:
    """Make a store that keeps windows with some tracks, one commit."""
    dims = tuple(dims)
    store = EmbeddingStore.create(str(path), card(dims), kept_recipe())
    with store.writer() as writer:
        for i in numbers:
            writer.add(track(i), file_hash(i), windowed(i, dims))
    return store


def make(path: object, numbers: Iterable[int] = (), dims: Iterable[int] = DIMS) -> EmbeddingStore:
    """Make a store with some tracks, one commit."""
    dims = tuple(dims)
    store = EmbeddingStore.create(str(path), card(dims), recipe())
    with store.writer() as writer:
        fill(writer, numbers, dims)
    return store


def fill(writer: StoreWriter, numbers: Iterable[int], dims: Iterable[int] = DIMS) -> None:
    """Add tracks by their numbers."""
    dims = tuple(dims)
    for i in numbers:
        writer.add(track(i), file_hash(i), vectors(i, dims))


def check(store: EmbeddingStore, numbers: Iterable[int], dims: Iterable[int] = DIMS) -> None:
    """Check that a store holds exactly these tracks, in this order, with every value right."""
    numbers, dims = list(numbers), tuple(dims)
    assert [t.key for t in store.tracks()] == [1000 + i for i in numbers]
    assert store.tracks() == [track(i) for i in numbers]
    for number, dim in enumerate(dims):
        matrix = store.layer(number)
        assert matrix.keys.tolist() == [1000 + i for i in numbers]
        expected = [vectors(i, dims).vectors[number] for i in numbers]
        np.testing.assert_array_equal(matrix.values, np.array(expected, np.float32).reshape(-1, dim))
