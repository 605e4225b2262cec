"""Intervals and tests of a search hold what they promise: simulated libraries whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embedstore.index.rows import unit
from probes.jackknife import deal, interval, p_of_best, p_of_difference
from probes.rankings import rank

TRACKS, DIM = 5, 20


def scored(layers: Any, g: np.ndarray, artists: np.ndarray, seed: int) -> np.ndarray:
    """Average precision of each layer without each part of the artists, shape (n_layers, parts + 1)."""
    y, asking = np.eye(int(g.max()) + 1, dtype=np.int64)[g], np.arange(len(g))
    parts = deal(artists, asking, seed)
    found = [rank(unit(x.astype(np.float32)), y, artists, asking, (), parts=parts) for x in layers]
    return np.stack([one.without[0, 0] for one in found])


def libraries(n: int, genres: int, each: int, layers: int) -> Iterator[np.ndarray]:
    """Draw libraries of `each` artists a genre, in layers that are equally good: turned copies of one law."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(genres, DIM)) * 0.5
    turned = [centres @ np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] for _ in range(layers)]
    g = np.repeat(np.arange(genres), each * TRACKS)
    artists = np.repeat(np.arange(genres * each), TRACKS)
    for seed in range(n):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(layers, genres * each, DIM))[:, artists] + rng.normal(size=(layers, len(g), DIM))
        yield scored([c[g] + x for c, x in zip(turned, noise, strict=True)], g, artists, seed)


@pytest.mark.slow
@pytest.mark.parametrize("each", [3, 10])
def test_intervals_and_tests_hold_for_other_libraries(each):
    """Of the score that is expected of a library, and of two equally good layers; 24 or 80 artists."""
    drawn = list(libraries(200, 8, each, 2))
    expected = np.mean([one[0, -1] for one in drawn])
    intervals = [interval(one[0]) for one in drawn]
    assert np.mean([one.low <= expected <= one.high for one in intervals]) >= 0.9
    assert np.mean([p_of_difference(one[0] - one[1]) < 0.05 for one in drawn]) <= 0.07


@pytest.mark.slow
def test_labels_that_mean_nothing_show_nothing():
    """Genres dealt to tracks at random, each track by its own artist: no transform of one space beats another."""
    rng, p = np.random.default_rng(0), []
    x = rng.normal(size=(150, DIM)) @ rng.normal(size=(DIM, DIM)) + 3
    for seed in range(200):
        g = np.random.default_rng(seed).permutation(np.arange(150) % 8)
        found = scored([x, x - x.mean(0), (x - x.mean(0)) / x.std(0)], g, np.arange(150), seed)
        p.append(p_of_difference(found[1:] - found[:1]))
    assert np.mean(np.array(p) < 0.05) <= 0.07


@pytest.mark.slow
def test_the_best_of_equal_layers_is_seldom_called_better():
    """Eight equally good layers; without the correction some layer is called worse in most libraries."""
    called, plain = [], []
    for seed, one in enumerate(libraries(150, 6, 6, 8)):
        best = int(one[:, -1].argmax())
        others = [row for row in range(8) if row != best]
        called.append(p_of_best(one, best, others, seed).min() < 0.05)
        plain.append(p_of_difference(one[best] - one[others]).min() < 0.05)
    assert np.mean(called) <= 0.07 < np.mean(plain)
