"""Small libraries with planted truths; make `report_material` importable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from embedstore.types import LayerMatrix, TrackLabels

sys.path.insert(0, str(Path(__file__).parent))

Library = tuple[list[LayerMatrix], dict[int, TrackLabels]]


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def library() -> Callable[..., Library]:
    """Make layers of a library: how far genres, and how far artists, stand apart in each."""

    def make(
        genre: tuple[float, ...] = (0.0, 2.0, 0.5),
        artist: float = 0.0,
        *,
        n: int = 120,
        genres: int = 3,
        artists: int = 8,
        dim: int = 10,
        seed: int = 0,
    ) -> Library:
        rng = np.random.default_rng(seed)
        y = np.arange(n) % genres
        who = y * artists + (np.arange(n) // genres) % artists
        keys = rng.permutation(10 * n)[:n].astype(np.int64)
        of_artist = rng.normal(size=(genres * artists, dim))
        layers = []
        for number, apart in enumerate(genre):
            x = rng.normal(size=(n, dim)) + apart * 2 * np.eye(genres, dim)[y] + artist * of_artist[who]
            layers.append(LayerMatrix(number, f"layer {number}", keys, x.astype(np.float32)))
        names = [f"genre {chr(97 + g)}" for g in range(genres)]
        labels = {int(k): TrackLabels((names[g],), (f"artist {a}",)) for k, g, a in zip(keys, y, who, strict=True)}
        return layers, labels

    return make
