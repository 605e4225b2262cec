"""A store of 48 tracks with a probe, an audit and a saved probe in it, and a client of its service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import probes
from embedstore.search import Searcher
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels

collect_ignore_glob = [] if find_spec("fastapi") else ["test_*.py"]
GENRES = ("blues", "jazz", "rock")
QUICK: dict[str, Any] = {"folds": 2, "seeds": 2, "jobs": 1}


def _make_store(folder: Path, n: int = 48, tags: bool = False) -> EmbeddingStore:
    """Make a store of three genres, each of four artists; the second layer tells them apart, but for noise."""
    layers = (Layer(0, "layer 0", 4), Layer(1, "layer 1", 4))
    card = EncoderCard("toy", "toy", "", "0" * 64, 16000, layers, 50.0, "none", "float32", "CC0-1.0", "", 1)
    store = EmbeddingStore.create(folder, card, {"encoder": "toy", "dtype": "float16"})
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        for i in range(n):
            genre, artist = i % 3, i % 12
            also = (GENRES[(genre + 1) % 3],) if tags and i % 2 else ()
            labels = TrackLabels((GENRES[genre], *also), (f"artist {artist}",), title=f"Song {i}")
            noise, sound = rng.normal(size=4), rng.normal(size=4) + 1.5 * np.eye(3, 4)[genre]
            writer.add(
                Track(1000 + i, (AudioFile("/music", f"{i}.ogg", 9, 9),), 30.0 + 5 * i, 44100, 2, labels),
                f"{i:032x}",
                LayerEmbeddings((noise.astype(np.float32), sound.astype(np.float32)), 10),
            )
    return store


@pytest.fixture(scope="session")
def make_store() -> Callable[..., EmbeddingStore]:
    """Name what makes a store."""
    return _make_store


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., EmbeddingStore]) -> SimpleNamespace:
    """Run a probe and an audit once, and keep them."""
    store = make_store(tmp_path_factory.mktemp("studies") / "store")
    report = probes.run(store, "knn", keep=True, save="genres", resamples=100, **QUICK)
    audit = probes.audit_leaks(store, "knn", keep=True, resamples=100, genres=["rock", "jazz"], **QUICK)
    return SimpleNamespace(store=store, report=report, audit=audit)


@pytest.fixture(scope="session")
def client_of():
    """Make a client of the service of a store."""
    from fastapi.testclient import TestClient

    from embedstore.web.app import create_app
    from probes.web import extension

    def make(searcher: Searcher):
        app = create_app(searcher, extensions=(extension(),))
        return TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False)

    return make


@pytest.fixture(scope="session")
def client(found: SimpleNamespace, client_of) -> Iterator[Any]:
    """Ask about them."""
    searcher = Searcher(found.store)
    with client_of(searcher) as client:
        yield client
    searcher.close()
