"""A toy store whose vectors follow from the track's number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Let no library start threads for matrices this small."""
    import faiss
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        yield


Fill = Callable[..., EmbeddingStore]


def vector(i: int, dim: int, shift: int = 0) -> np.ndarray:
    """Track i's vector: one of ten clusters, plus itself."""
    own = np.random.default_rng([i, dim, shift]).normal(size=dim)
    return (3 * np.random.default_rng([i % 10, dim]).normal(size=dim) + own).astype(np.float32)


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Make a store, or add to it, with tracks of these numbers, in one build."""

    def add(
        numbers: Iterable[int], name: str = "store", dims: tuple[int, ...] = (16, 16), shift: int = 0, **recipe: object
    ) -> EmbeddingStore:
        layers = tuple(Layer(i, f"layer {i}", dim) for i, dim in enumerate(dims))
        card = EncoderCard("toy", "toy", "", "0" * 64, 16000, layers, 50.0, "none", "float32", "CC0-1.0", "", 1)
        store = EmbeddingStore.open_or_create(tmp_path / name, card, {"encoder": "toy", "dtype": "float16", **recipe})
        with store.writer() as writer:
            for i in numbers:
                file = AudioFile("/music", f"{i}.ogg", 1, i)
                vectors = LayerEmbeddings(tuple(vector(i, dim, shift) for dim in dims), 10)
                writer.add(
                    Track(1000 + i, (file,), 30.0, 44100, 2, TrackLabels((f"genre {i % 10}",))), f"{i:032x}", vectors
                )
        return store

    return add
