"""Make `search_material` importable; stores to search."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from embedstore.store import EmbeddingStore

sys.path.insert(0, str(Path(__file__).parent))
from search_material import Library


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Make an empty one."""
    return Library(tmp_path / "store")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Forty tracks 0..39, two degrees apart; tens share a genre, fives an artist; read only."""
    library = Library(tmp_path_factory.mktemp("shelf") / "store")
    genres = ("Blues", "rock", "Jazz", "folk")
    with library.store.writer() as writer:
        for i in range(40):
            labels = {
                "genres": (genres[i // 10],), "artists": (f"Artist {i // 5}",), "album": f"Album {i // 20}",
                "title": f"Song {i}", "year": 0 if i % 10 == 9 else 1980 + i,
            }  # fmt: skip
            writer.add(
                *library.entry(i, 2.0 * i, path=f"{genres[i // 10]}/{i:02d} Söng.ogg", seconds=100.0 + i, **labels)
            )
    return library.store
