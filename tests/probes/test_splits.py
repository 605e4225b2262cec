"""No group on both sides, every tested class trained, artists found under any spelling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import ParameterError
from embedstore.labels.names import normalise
from embedstore.types import TrackLabels
from probes.splits import artist_groups, groups_per_class, hold_out, make_folds

SIZES = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=7), min_size=2, max_size=5)


def _classes(sizes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lay out classes of pure groups with the given sizes."""
    y = np.concatenate([np.full(sum(of_class), c) for c, of_class in enumerate(sizes)])
    groups = np.repeat(np.arange(sum(map(len, sizes))), [size for of_class in sizes for size in of_class])
    return y, groups


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(2, 6), st.integers(0, 5))
def test_folds_are_whole_and_trainable(sizes: list[list[int]], folds: int, seed: int) -> None:
    """Whatever the group sizes: no group is divided, no fold empty, and each tested class is in the training part."""
    y, groups = _classes(sizes)
    of = make_folds(y, groups, folds, seed)
    assert (groups_per_class(groups, of) == 1).all()
    assert set(of) == set(range(min(folds, groups.max() + 1)))
    for fold in set(of):
        assert set(y[of == fold]) <= set(y[of != fold])


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 5))
def test_held_out_rows_are_whole_groups(sizes: list[list[int]], seed: int) -> None:
    """The rows a probe holds out for itself divide no group and take no class whole."""
    y, groups = _classes(sizes)
    held = hold_out(y, groups, seed)
    assert held.any()
    assert set(y[held]) <= set(y[~held])
    assert not set(groups[held]) & set(groups[~held])


def test_hold_out_falls_back_to_single_tracks() -> None:
    """With one group a class, tracks are held out one by one; with one track a class, none is."""
    y = np.repeat([0, 1], 10)
    held = hold_out(y, y, 0)
    assert 0 < held.sum() < 10
    assert not hold_out(np.arange(3), np.arange(3), 0).any()


def test_folds_are_stratified_and_differ_by_seed() -> None:
    """Equal groups give equal folds to within one group a class; another seed deals otherwise, the same seed alike."""
    y, groups = _classes([[4] * 10, [4] * 10, [2] * 20])
    deals = [make_folds(y, groups, 5, seed) for seed in (0, 1, 0)]
    for fold in range(5):
        assert np.bincount(y[deals[0] == fold]).tolist() == [8, 8, 8]
    assert (deals[0] == deals[2]).all()
    assert not (deals[0] == deals[1]).all()


def test_groups_across_genres_are_dealt_whole() -> None:
    """Groups that span classes still give folds whose classes are all trained."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 5)
    y = (groups + (rng.random(150) < 0.3)) % 4
    of = make_folds(y, groups, 5, 0)
    assert (groups_per_class(groups, of) == 1).all()
    assert all(set(y[of == fold]) <= set(y[of != fold]) for fold in range(5))


def test_impossible_folds_say_why() -> None:
    """One group that holds a class alone cannot be on both sides."""
    with pytest.raises(ParameterError, match=r"artists span genres .* --group none"):
        make_folds(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), 2, 0)
    with pytest.raises(ParameterError, match="at least 2 folds; got 1"):
        make_folds(np.array([0, 1]), np.array([0, 1]), 1, 0)


def _tracks(*artists: str | tuple[str, ...], titles: tuple[str, ...] = ()) -> list[TrackLabels]:
    named = [(a,) if isinstance(a, str) else a for a in artists]
    return [TrackLabels(artists=a, title=t) for a, t in zip(named, titles or ("",) * len(named), strict=True)]


def test_artists_are_one_under_any_spelling() -> None:
    """Case, accents, punctuation and guests do not hide an artist; chains of co-artists join."""
    assert artist_groups(_tracks("Björk", "BJORK ", "Bjork feat. Thom Yorke", "thom yorke", "PJ Harvey")).tolist() == [
        0,
        0,
        0,
        0,
        1,
    ]
    assert artist_groups(_tracks(("a", "b"), ("b", "c"), ("c",), ("d",))).tolist() == [0, 0, 0, 1]


def test_compilations_and_unknown_artists_name_nobody() -> None:
    """Tracks of nobody stand alone, unless they have one title."""
    nobody = _tracks("Various Artists", "various artists", "", (), titles=("x", "y", "Song!", "song"))
    assert artist_groups(nobody).tolist() == [0, 1, 2, 2]
    assert artist_groups([]).tolist() == []


def test_names_without_letters_stay_different() -> None:
    """Punctuation is dropped only where something is left."""
    assert normalise("!!!") != normalise("???")
    assert normalise("東京") != ""


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("The Beatles", "Beatles", True),
        ("Beatles, The", "The Beatles", True),
        ("AC/DC", "ACDC", True),
        ("Ella & Louis", "Louis", True),
        ("A vs. B", "B", True),
        ("Bach, Johann", "Johann Bach", True),
        ("A [ft. B & C]", "C", True),
        ("Simon & Garfunkel", "Sigrid", False),
        ("Traditional", "Traditional", False),
    ],
)
def test_spellings_of_one_artist(one: str, other: str, together: bool) -> None:
    """Joint credits and the usual spellings meet the artist who is credited alone; strangers stay apart."""
    groups = artist_groups([TrackLabels(artists=(one,)), TrackLabels(artists=(other,))])
    assert (groups[0] == groups[1]) == together


def test_placeholder_titles_join_nobody() -> None:
    """Without artists equal titles join, but "Untitled" and "Track 01" are no titles."""
    labels = [TrackLabels(title=title) for title in ("Kyrie", "kyrie", "Untitled", "Untitled", "Track 01", "Track 01")]
    assert len(set(artist_groups(labels).tolist())) == 5
