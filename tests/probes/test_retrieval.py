"""Search quality: rankings against a loop and scikit-learn, chance against every order, planted genres, artists and hubs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import report_material as m
from click.testing import CliRunner
from scipy.stats import skew, ttest_1samp, tukey_hsd
from sklearn.metrics import average_precision_score

import cli
import probes
from embedstore.errors import EncoderMismatchError, ParameterError, UnknownNameError
from embedstore.index import space
from embedstore.index.rows import unit
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, LayerMatrix, Mix, Track, TrackLabels
from probes import rankings, retrieval
from probes.duplicates import Pairs
from probes.jackknife import deal, interval, p_of_best, p_of_difference, standard_error, without_each
from probes.layers import Source, load_features, open_source
from probes.rankings import expected, measures, rank, skewness
from probes.report.contents import Contents
from probes.report.formats import csv_of
from probes.report.parts import Column, Table, shown
from probes.report.plots import draw
from probes.retrieval import SearchReport, _placed, evaluate_search
from probes.saved import keep_probe, load_saved
from probes.task import make_task
from probes.triplets import agreement, read_triplets

KS = (1, 3, 50)


@pytest.fixture(autouse=True)
def roughly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few orders for chance by artist."""
    monkeypatch.setattr(rankings, "_DRAWN", 1)


def naive(
    rows: np.ndarray, y: np.ndarray, groups: np.ndarray, ks: tuple[int, ...], near: int = 0, kept: Any = None
) -> tuple[Any, Any]:
    """Rank and score one query after the other, place by place, among the `kept` rows; NaN where there is nothing to find."""
    n = len(rows)
    everyone = np.flatnonzero(np.ones(n, bool) if kept is None else kept).tolist()
    scores, found = np.full((2, len(measures(ks)), n), np.nan), np.zeros(n)
    for q in everyone:
        order = sorted((i for i in everyone if i != q), key=lambda i: -float(rows[q] @ rows[i]))
        level = [float(rows[q] @ rows[i]) for i in order]
        for start, size in ((level.index(one), level.count(one)) for one in sorted(set(level))):
            found[order[start : start + size]] += np.clip((near - start) / size, 0, 1)
        for kind, some in enumerate(([i for i in order if groups[i] != groups[q]], order)):
            hits = np.array([(y[q] * y[i]).any() for i in some], bool)
            level = [float(rows[q] @ rows[i]) for i in some]
            if not hits.any() and not kind:
                break
            here, precision, before = np.zeros(len(some)), 0.0, 0
            for start, n_equal in ((level.index(one), level.count(one)) for one in sorted(set(level), reverse=True)):
                r = int(hits[start : start + n_equal].sum())
                for t in range(n_equal):
                    others = t * (r - 1) / (n_equal - 1) if n_equal > 1 else 0
                    here[start + t] = r / n_equal
                    precision += r / n_equal * (before + 1 + others) / (start + t + 1)
                before += r
            scores[kind, :2, q] = precision / before, here[:before].sum() / before
            scores[kind, 2:, q] = [here[:k].sum() / min(k, len(some)) for k in ks]
    return scores, found


@pytest.mark.parametrize("cells", [1, 2**21])
def test_rankings_are_those_of_a_loop(monkeypatch, cells):
    """Several genres a track, several artists, equal and zero vectors, negative similarities; in blocks of any size."""
    monkeypatch.setattr(rankings, "_CELLS", cells)
    rows, y, groups, queries, (scores, occurrences) = little()
    found = rank(rows, y, groups, queries, KS, near=5)
    np.testing.assert_allclose(found.scores, scores[:, :, queries], atol=1e-12)
    np.testing.assert_allclose(found.occurrences, occurrences)
    some = rank(rows, y, groups, queries[[4, 9]], KS)
    assert np.array_equal(some.scores, found.scores[:, :, [4, 9]])
    assert some.occurrences is None
    assert rank(rows[:1], y[:1], groups[:1], np.array([0]), KS, near=5).scores.max() == 0


def little() -> tuple[Any, ...]:
    """Make 30 rows with many equal products, which are exact, and score them in a loop."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, size=(30, 4)).astype(np.float32)
    rows[[3, 17]] = 0
    y = (rng.random((30, 3)) < 0.4).astype(np.int64)
    groups = np.unique(rng.integers(9, size=30), return_inverse=True)[1]
    scored = naive(rows, y, groups, KS, 5)
    return rows, y, groups, np.flatnonzero(~np.isnan(scored[0][0, 0])), scored


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_left_without_some_artists_is_scored_as_if_they_had_never_been(tied):
    """The jackknife's sums against a loop that really deletes each part and ranks again."""
    rows, y, groups, queries, _ = little()
    rows = rows if tied else np.random.default_rng(1).normal(size=rows.shape).astype(np.float32)
    parts = deal(groups, queries) // 2
    found = rank(rows, y, groups, queries, KS, parts=parts)
    for part in range(parts.max() + 1):
        scores, _ = naive(rows, y, groups, KS, kept=parts != part)
        np.testing.assert_allclose(found.without[:, :, part], np.nanmean(scores, axis=2), atol=1e-12)
    np.testing.assert_allclose(found.without[..., -1], found.scores.mean(2))


def test_constant_vectors_score_chance():
    """Whatever the order of keys, and nobody is a hub."""
    y, groups = np.eye(2, dtype=np.int64)[np.arange(60) // 30], np.arange(60) // 3
    found = rank(np.full((60, 9), 1 / 3, np.float32), y, groups, np.arange(60), (1, 5), near=10)
    np.testing.assert_allclose(found.scores.mean(2), expected(found, (1, 5)), atol=1e-12)
    np.testing.assert_allclose(found.occurrences, 10)
    assert skewness(found.occurrences) == 0


def test_average_precision_and_skewness_are_those_of_others():
    """Scikit-learn's average precision where no two scores are equal; SciPy's skewness."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 5)).astype(np.float32)
    y, groups = np.eye(4, dtype=np.int64)[np.arange(60) % 4], np.arange(60) // 3
    found = rank(rows, y, groups, np.arange(60), (10,), near=10)
    for q in range(60):
        for kind, kept in enumerate((groups != groups[q], np.arange(60) != q)):
            hits, scores = (y @ y[q])[kept], (rows @ rows[q])[kept]
            assert found.scores[kind, 0, q] == pytest.approx(average_precision_score(hits, scores))
    assert skewness(found.occurrences) == pytest.approx(skew(found.occurrences))
    assert skewness(np.full(5, 3)) == 0


@pytest.mark.parametrize(("n", "hits"), [(1, 1), (5, 1), (5, 2), (6, 3), (4, 4)])
def test_chance_is_the_mean_over_every_order(n, hits):
    """Expected average precision and precisions, against all orders of few tracks."""
    scored = []
    for order in set(permutations([1] * hits + [0] * (n - hits))):
        found = np.cumsum(order) / np.arange(1, n + 1)
        scored.append([(found * order).sum() / hits, sum(order[:hits]) / hits, order[0], sum(order[:2]) / min(2, n)])
    counts = np.full((2, 3), hits), np.full((2, 3), n)
    made = rankings.Rankings(np.zeros((2, 4, 3)), np.zeros((2, 4, 1)), *counts, None)
    np.testing.assert_allclose(expected(made, (1, 2)), [np.mean(scored, axis=0)] * 2)


@pytest.mark.parametrize("shape", ["equal", "unequal", "several genres"])
def test_chance_by_artist_is_that_of_artists_in_random_order(monkeypatch, shape):
    """Against vectors that know each track's artist and nothing else."""
    monkeypatch.setattr(rankings, "_DRAWN", 2**20)
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(22), [4] * 22 if shape == "equal" else [1] * 20 + [20, 30])
    genres = rng.integers(3, size=len(groups)) if shape == "several genres" else (np.arange(22) % 3)[groups]
    y, n = np.eye(3, dtype=np.int64)[genres], len(groups)
    scored = []
    for _ in range(60):
        rows = rng.normal(size=(22, 8))[groups] + 0.01 * rng.normal(size=(n, 8))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        ranked = rank(rows.astype(np.float32), y, groups, np.arange(n), ())
        scored.append(ranked.scores[0, 0].mean())
    by_artist, error = rankings.expected_by_group(y, groups, np.arange(n), ranked)
    assert error < 0.003
    assert np.mean(scored) == pytest.approx(by_artist, abs=3 * np.std(scored) / np.sqrt(60) + 3 * error)
    apart = by_artist - expected(ranked, ())[0, 0]
    assert abs(apart) < 0.01 if shape == "several genres" else apart > 0.02


# --------------------------------------------------------------------------------------------------- jackknife


def test_the_jackknife_of_a_mean_is_that_of_textbooks():
    """Standard error s / sqrt(n), Student's t; parts are whole artists, each with some that ask, at most 60."""
    values = np.random.default_rng(0).normal(size=(3, 25))
    scores = without_each(values, np.arange(25))
    np.testing.assert_allclose(scores[:, -1], values.mean(1))
    np.testing.assert_allclose(standard_error(scores), values.std(1, ddof=1) / 5)
    np.testing.assert_allclose(p_of_difference(scores), ttest_1samp(values, 0, axis=1).pvalue)
    low, high = ttest_1samp(values[0], 0).confidence_interval()
    found = interval(scores[0], -1)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    groups = np.repeat(np.arange(100), 3)
    parts = deal(groups, np.arange(210))
    assert parts.max() == 59
    assert all(len(set(parts[groups == group])) == 1 for group in range(100))
    assert len(set(parts[:210])) == 60
    assert deal(groups, np.arange(30)).max() == 9


def test_where_nothing_varies_there_is_no_interval():
    """One part, equal scores, nobody left: neither interval nor test; equal rows are equal."""
    for scores in ([0.4, 0.5], [0.5, 0.5, 0.5], [np.nan, 0.4, 0.5]):
        found = interval(np.array(scores))
        assert (found.value, np.isnan(found.low), np.isnan(found.high)) == (0.5, True, True)
        assert np.isnan(p_of_difference(np.array(scores)))
    assert p_of_difference(np.zeros(4)) == 1
    assert p_of_best(np.ones((2, 4)), 0, [1]).tolist() == [1]
    assert shown(found, "score") == "0.500 [-]"


def test_the_best_of_two_needs_no_correction():
    """Of two rows the largest difference is the only one; of many it is larger by chance."""
    values = np.random.default_rng(3).normal(size=(4, 30)) + np.arange(4)[:, None] / 4
    scores = without_each(values, np.arange(30))
    plain = p_of_difference(scores[3] - scores[0])
    assert p_of_best(scores[[0, 3]], 1, [0])[0] == pytest.approx(plain, abs=0.005)
    corrected = p_of_best(scores, 3, range(3))
    several = tukey_hsd(*values).pvalue[3, :3]  # of one variance, and unpaired
    assert (corrected > p_of_difference(scores[3] - scores[:3])).all()
    np.testing.assert_allclose(corrected, several, atol=0.12)


def sounds(
    genre: float = 0.0, artist: float = 0.0, *, n: int = 120, shift: float = 0.0, seed: int = 0
) -> tuple[list[LayerMatrix], dict[int, TrackLabels]]:
    """Make two layers of three genres by eight artists each; the second knows nothing."""
    rng = np.random.default_rng(seed)
    y, who, keys = np.arange(n) % 3, np.arange(n) % 24, rng.permutation(10 * n)[:n]
    x = rng.normal(size=(2, n, 12)) + shift * np.eye(12)[0]
    x[0] += genre * np.eye(3, 12)[y] * 2 + artist * rng.normal(size=(24, 12))[who]
    labels = {int(k): TrackLabels((f"genre {g}",), (f"artist {a}",)) for k, g, a in zip(keys, y, who, strict=True)}
    return [LayerMatrix(i, f"layer {i}", keys, one.astype(np.float32)) for i, one in enumerate(x)], labels


def evaluate(made: tuple[Any, Any], **options: Any) -> SearchReport:
    return evaluate_search(made[0], labels=made[1], **options)


def test_planted_genres_are_found():
    """A layer that knows genres is best and beyond chance, one that knows nothing is at chance, the mean lies between."""
    report = evaluate(sounds(genre=1.5))
    first, second, mean = report.results
    assert [one.layer for one in report.results] == [0, 1, "mean"]
    chance = report.chance["filtered"]["map"]
    assert first.filtered["map"].low > 2 * chance > mean.filtered["map"].low > chance
    assert second.filtered["map"].low < 1.1 * chance
    assert report.chance["filtered"]["precision_at_5"] == pytest.approx(35 / 115)
    assert report.chance["unfiltered"]["precision_at_5"] == pytest.approx(39 / 119)
    assert (report.best, report.indistinct) == ("layer 0", ())
    assert [(one.first, one.second) for one in report.comparisons] == [("layer 0", "layer 1"), ("layer 0", "mean")]
    assert report.comparisons[0].difference.low > 0.2
    assert set(first.per_genre) == {"genre 0", "genre 1", "genre 2"}
    assert np.mean(list(first.per_genre.values())) == pytest.approx(first.filtered["map"].value)
    assert "precision_at_10" in first.filtered
    same = evaluate(sounds(genre=1.5, n=120), layer="1, layer 0")
    assert [one.filtered for one in same.results] == [first.filtered, second.filtered]


def test_planted_artists_are_a_gap():
    """Where only artists sound alike, all there is above chance is the gap."""
    report = evaluate(sounds(artist=2.0), layer=0)
    (found,) = report.results
    assert found.gap["precision_at_1"].low > 0.2
    assert found.filtered["precision_at_1"].low < 1 / 3 < found.filtered["precision_at_1"].high
    assert found.filtered["map"].low < report.chance["by_artist"]["map"] < found.filtered["map"].high
    assert report.chance["filtered"]["map"] < report.chance["by_artist"]["map"] - 0.01  # artists stand together
    gap = found.gap["map"]
    assert gap.value == pytest.approx(found.unfiltered["map"].value - found.filtered["map"].value)
    assert gap.low < gap.value < gap.high


def test_planted_hub_is_named():
    """A track in the middle of all others is near to each, until the centre is taken away."""
    (one, _), labels = sounds(shift=6.0)
    values = one.values.copy()
    values[7] = 6 * np.eye(12)[0]
    labels[int(one.keys[7])] = TrackLabels(("genre 1",), ("Middle",), "", "Song")
    hubness = evaluate(([replace(one, values=values)], labels)).results[0].hubness
    assert (hubness.track, hubness.k) == ("Middle - Song", 10)
    assert hubness.largest > 60
    assert hubness.skewness > 2
    calm = evaluate(([replace(one, values=values)], labels), transform="centre").results[0].hubness
    assert calm.largest < 35


def test_transforms_stand_side_by_side():
    """Genres hidden under a common offset come out when it is taken away, with a test; the first transform is the measure."""
    report = evaluate(sounds(genre=1.2, shift=40.0), layer=0, transform=["whiten", "none", "centre"])
    assert [one.title for one in report.results] == ["layer 0", "layer 0, centre", "layer 0, whiten"]
    centre, whiten = report.effects["map"]
    assert (centre.first, centre.second) == ("layer 0, centre", "layer 0")
    assert centre.difference.low > 0
    assert centre.p_corrected < 0.01
    assert list(report.effects) == ["map", "precision_at_10"]
    values = [one.filtered["map"].value for one in report.results]
    assert centre.difference.value == pytest.approx(values[1] - values[0])
    assert whiten.difference.value == pytest.approx(values[2] - values[0])
    assert len(evaluate(sounds(), layer=0, transform="all").results) == 4
    plain, moved = sounds(genre=1.2), sounds(genre=1.2, shift=40.0)
    same = [evaluate(made, layer=0, transform="centre").results[0].filtered["map"].value for made in (plain, moved)]
    assert same[0] == pytest.approx(same[1], abs=0.01)


def test_what_is_left_out_is_said():
    """No genre, a genre of one artist, no artist, a sample of queries; a track of two genres is a hit for both."""
    made, labels = sounds(genre=1.0, n=60)
    keys = made[0].keys.tolist()
    labels[keys[0]] = TrackLabels()
    labels[keys[1]] = labels[keys[2]] = TrackLabels(("rare",), ("One",))
    labels[keys[3]] = TrackLabels(("genre 0", "genre 1"))
    report = evaluate((made, labels), layer=0)
    assert (report.n_tracks, report.n_queries) == (60, 57)
    notes = "\n".join(report.notes)
    for words in (
        "1 tracks have no genre: they do not ask, but may be found",
        "2 tracks do not ask, but may be found, as no other artist has their genre: rare",
        "2 of 60 tracks have no known artist",
        "matrices do not tell how long tracks are",
    ):
        assert words in notes
    assert report.genres == ("genre 0", "genre 1", "genre 2")
    assert report.excluded == {"tracks": 3, "no_genre": 1, "too_few": 2, "genres": ["rare"]}
    order = np.argsort(made[0].keys)
    rows = made[0].values[order] / np.linalg.norm(made[0].values[order], axis=1, keepdims=True)
    known = [labels[key] for key in made[0].keys[order].tolist()]
    y = np.array([[name in track.genres for name in report.genres] for track in known], dtype=np.int64)
    names = [track.artists or (number,) for number, track in enumerate(known)]
    groups = np.unique([str(name) for name in names], return_inverse=True)[1]
    scores = naive(rows, y, groups, (1, 5, 10))[0]
    assert report.results[0].filtered["map"].value == pytest.approx(np.nanmean(scores[0, 0]), abs=1e-5)
    sample = evaluate((made, labels), layer=0, queries=20)
    assert (sample.n_tracks, sample.n_queries, sample.results[0].hubness) == (60, 20, None)
    assert "20 of 60 tracks, drawn at random, asked; hubness takes all of them: --queries 60" in sample.notes[0]
    assert sample.protocol["own_artist"] == report.protocol["own_artist"]


@pytest.mark.parametrize(
    ("genres", "words"), [((), "got 0"), (("one",), "got 1"), (("one", "two"), "no genre is had by two artists")]
)
def test_without_genres_there_are_hubs(genres, words):
    """No label, one genre, an artist for each: a note says why nothing else is there; a sample of tracks is too little."""
    made, _ = sounds(n=48)
    labels = {int(key): TrackLabels(genres[i % 2 :][:1], (f"artist {i % 2}",)) for i, key in enumerate(made[0].keys)}
    report = evaluate((made, labels), layer=0)
    assert (report.results[0].filtered, report.best, report.chance) == ({}, "", {})
    assert report.results[0].hubness.k == 10
    assert words in "".join(report.notes)
    assert Contents.of(report).figures == []
    with pytest.raises(ParameterError, match=f"{words}.*--queries 48"):
        evaluate((made, labels), layer=0, queries=20)


def test_copies_are_looked_for_whatever_the_sample(monkeypatch, store):
    """Up to a limit of tracks, which is told; how many tracks ask changes nothing."""
    monkeypatch.setattr(Source, "near_duplicates", lambda _, keys: Pairs(np.array([[0, 1]]), np.ones(1)))
    for queries in (20, 48):
        report = evaluate_search(store, layer=0, queries=queries)
        assert any("1 pairs of tracks may be one recording" in note for note in report.notes)
    monkeypatch.setattr(retrieval, "_COPIES", 47)
    for queries in (20, 48):
        report = evaluate_search(store, layer=0, queries=queries)
        assert any("were not looked for: there are more than 47 tracks" in note for note in report.notes)


def test_transforms_are_those_of_a_search(monkeypatch, store):
    """Learned from the same tracks, also where these are a sample and stored in another order."""
    monkeypatch.setattr(space, "_FITTED_ON", 20)
    values, keys = store.layer(1).values.astype(np.float32), store.keys()
    placed = _placed(values[np.argsort(keys)], "whiten", np.sort(keys))
    fitted = space.Space.of(store, 1, "whiten").fit(store)
    np.testing.assert_allclose(placed, unit(fitted(values))[np.argsort(keys)], atol=1e-5)
    assert np.array_equal(space.fitted_on(keys[::-1]), space.fitted_on(keys))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transform": "whitten"}, "unknown transform 'whitten'; did you mean 'whiten'"),
        ({"layer": 7}, "there is no layer 7"),
        ({"layer": "concat"}, "leave out concat"),
        ({"layer": "best"}, "the best layer is what a saved probe chose"),
        ({"k": (0,)}, "k is a list of whole numbers above 0"),
        ({"k": ()}, "k is a list"),
        ({"queries": 0}, "queries is at least 1"),
        ({"genres": "polka"}, "unknown genre 'polka'"),
        ({"genres": "genre 1"}, "a search for genres needs at least 2 genres, got 1"),
        ({"layer": "top"}, "known: all, mean, best, mix, 0"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(options, words):
    """Unknown names and numbers out of range."""
    with pytest.raises((ParameterError, UnknownNameError), match=words):
        evaluate(sounds(n=48), **options)


def test_too_little_is_one_clear_line():
    """One track, no genres, layers of two widths and no mean."""
    made, labels = sounds(n=48)
    one = [LayerMatrix(0, "one", made[0].keys[:1], made[0].values[:1])]
    with pytest.raises(ParameterError, match="a search needs at least 2 tracks; there are 1"):
        evaluate((one, labels))
    uneven = [made[0], replace(made[1], values=made[1].values[:, :5])]
    assert [one.layer for one in evaluate((uneven, labels)).results] == [0, 1]
    with pytest.raises(ParameterError, match="layers of different widths have no mean"):
        evaluate((uneven, labels), layer="mean")


# ---------------------------------------------------------------------------------------------------- triplets


NAMES = ("a/one", "a/two", "b/three", "b/four", "a/same", "b/same")
FILES = [(AudioFile("/music", f"{name}.mp3", 1, 1), key) for key, name in enumerate(NAMES, 1)]
KEYS = np.arange(1, 7)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_triplets_are_read(tmp_path):
    """With a header or without; ids, paths and file names; tracks in common join judgements; what is lost is counted."""
    rows = "0000000000000001,two,b/three.mp3\n/music/a/one.mp3,four.mp3,two\nthree,one,four\nthree,one,four\n"
    bare = read_triplets(written(tmp_path / "bare.csv", rows), KEYS, FILES)
    assert bare.keys.tolist() == [[1, 2, 3], [1, 4, 2], [3, 1, 4]]
    assert bare.groups.tolist() == [0, 0, 0]
    assert bare.notes == ()
    apart = read_triplets(
        written(
            tmp_path / "apart.csv", "one,two,three\n" + ",".join(f"{i:016x}" for i in (4, 5, 6)) + "\nthree,one,two\n"
        ),
        KEYS,
        FILES,
    )
    assert apart.groups.tolist() == [0, 1, 0]
    lost = "note;far;anchor;near\nx;two;one;three\nx;same;one;two\nx;one;one;two\nx;two;nobody;one\nx;two\n"
    named = read_triplets(written(tmp_path / "named.csv", lost), KEYS, FILES)
    assert named.keys.tolist() == [[1, 3, 2]]
    first, second = named.notes
    assert first.startswith("3 of 5 rows of ")
    assert first.endswith("or a file name that several have and were left out (first: line 3, 'same')")
    assert "1 of 5 rows" in second
    assert "name one track twice" in second


def test_rows_that_ask_the_same_are_votes(tmp_path):
    """The majority counts; where there is none, nothing is judged; both are told."""
    rows = ["one,two,three"] * 3 + ["one,three,two", "two,one,three", "two,three,one", "three,one,two"]
    found = read_triplets(written(tmp_path / "t.csv", "\n".join(rows)), KEYS, FILES)
    assert found.keys.tolist() == [[1, 2, 3], [3, 1, 2]]
    assert [note.split(" in ")[0] for note in found.notes] == ["1 of 3 questions", "2 of 3 questions"]
    assert "no single odd one out" in found.notes[0]
    assert "answered both ways: the majority counts" in found.notes[1]


def test_comparisons_of_magnatagatune_are_read(tmp_path):
    """Votes of rows about the same clips are added up; the odd one out gives two judgements; what is no count is told."""
    head = "\t".join(f"clip{i}_{what}" for what in ("id", "numvotes", "mp3_path") for i in (1, 2, 3))
    rows = [
        "2\t6\t9\t1\t0\t5\ta/one.mp3\ta/two.mp3\tb/three.mp3",
        "6\t9\t2\t2\t2.0\t0\ta/two.mp3\tb/three.mp3\ta/one.mp3",
        "2\t6\t7\t1\t1\t0\ta/one.mp3\ta/two.mp3\tb/four.mp3",
        "6\t7\t9\t0\t0\t0\ta/two.mp3\tb/four.mp3\tb/three.mp3",
        "2\t6\t9\t3\tmany\t1\ta/one.mp3\ta/two.mp3\tb/three.mp3",
        "2\t6\t9\t-1\t0\t1\ta/one.mp3\ta/two.mp3\tb/three.mp3",
        "2\t6\t8\t3\t0\t1\ta/one.mp3\ta/two.mp3\tc/none.mp3",
    ]
    found = read_triplets(written(tmp_path / "c.csv", "\n".join([head, *rows]) + "\n"), KEYS, FILES)
    assert found.keys.tolist() == [[1, 2, 3], [2, 1, 3]]
    assert found.groups.tolist() == [0, 0]
    assert [note.split(" in ")[0].split(" rows")[0] for note in found.notes] == ["2 of 7", "1 of 7", "2 of 3 questions"]
    assert "(first: line 6, ['3', 'many', '1'])" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "line 1: triplets have the columns anchor, near, far"),
        ("anchor,near,far\n", "no row can be used; there is none"),
        ("x,y,z\n", "no row can be used; 1 of 1 rows"),
        ("clip1_numvotes,clip2_numvotes,clip3_numvotes,clip1_id\n1,2,3,4\n", "there is no column 'clip2_id'"),
    ],
)
def test_files_that_are_no_triplets_are_one_clear_line(tmp_path, text, words):
    """Empty, other columns, no row, none that is known."""
    with pytest.raises(ParameterError, match=words):
        read_triplets(written(tmp_path / "t.csv", text), KEYS, FILES)
    with pytest.raises(ParameterError, match=r"no triplets: .*none\.csv"):
        read_triplets(tmp_path / "none.csv", KEYS, FILES)


def test_agreement_is_that_of_a_loop():
    """Nearer than the other: 1, farther: 0, equally near: a half."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 2, size=(20, 3)).astype(np.float32)
    places = rng.integers(20, size=(200, 3))
    looped = [(float(np.sign(rows[a] @ rows[n] - rows[a] @ rows[f])) + 1) / 2 for a, n, f in places]
    assert agreement(rows, places).tolist() == looped
    assert set(looped) == {0.0, 0.5, 1.0}


def test_triplets_need_no_genres(tmp_path):
    """A layer that hears what people hear agrees with them, another does so by chance; without labels all else stays empty."""
    made, labels = sounds(genre=2.0)
    ids = made[0].track_ids
    lines = [f"{ids[i + a]},{ids[i + a + 3]},{ids[i + a // 2 * 3 + 1]}" for i in range(0, 120, 6) for a in (0, 2)]
    path = written(tmp_path / "t.csv", "\n".join(["anchor,near,far", *lines]))
    report = evaluate_search(made, triplets=path)
    first, second, _ = report.results
    assert first.triplets is not None
    assert second.triplets is not None
    assert first.triplets.low > 0.75
    assert second.triplets.low < 0.5 < second.triplets.high
    assert (first.filtered, report.genres, report.chance) == ({}, (), {})
    assert first.hubness.largest >= 10
    assert report.best == "layer 0"
    assert any("not held against genres" in note for note in report.notes)
    both = evaluate((made, labels), triplets=path, layer=0).results[0]
    assert both.triplets == first.triplets
    assert both.filtered["map"].value > 0.5


# ---------------------------------------------------------------------------------- stores, saved probes, reports


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Make a store of 48 tracks with three layers."""
    rng = np.random.default_rng(0)
    layers = tuple(Layer(i, f"layer {i}", 6) for i in range(3))
    card = EncoderCard("toy", "toy", "", "0" * 64, 16000, layers, 50.0, "none", "float32", "CC0-1.0", "", 1)
    made = EmbeddingStore.create(tmp_path_factory.mktemp("search") / "store", card, {"encoder": "toy"})
    with made.writer() as writer:
        for i in range(48):
            labels = TrackLabels((f"genre {i % 3}",), (f"artist {i % 12}",), "", f"title {i}")
            track = Track(1000 + i, (AudioFile("/m", f"{i}.ogg", 1, 1),), 30.0 + 7 * i, 44100, 2, labels)
            x = rng.normal(size=(3, 6)).astype(np.float32) + 3 * np.eye(3, 6, dtype=np.float32)[i % 3]
            writer.add(track, f"{i:032x}", LayerEmbeddings(tuple(x), 100))
    return made


def save(store: EmbeddingStore, name: str, layer: int | str, **changes: Any) -> None:
    """Train a centroid probe on all tracks of a store and keep it there."""
    source = open_source(store)
    task = make_task(source.keys, source.labels)
    (feature,) = load_features(source, layer, task.keys)
    scores = np.random.default_rng(0).random((1, len(task.y), 3))
    about = {"fingerprint": store.fingerprint, **changes}
    path = store.path / "probes" / f"{name}.safetensors"
    options: dict[str, Any] = {"setting": {}, "layers": source.layers, "task": task, "scores": scores, "about": about}
    keep_probe(path, probe="centroid", feature=feature, **options)


@pytest.fixture(scope="module")
def saved(store: EmbeddingStore) -> EmbeddingStore:
    """Keep a probe of each kind in the store."""
    for name, layer in (("two", 2), ("mean", "mean"), ("mix", "mix"), ("wide", "concat")):
        save(store, name, layer)
    return store


def test_a_saved_probe_says_what_to_search(saved):
    """A number, the mean, or the mix exactly as the probe hears it."""
    assert probes.space_of(saved, "two") == 2
    assert probes.space_of(saved, "mean", "best") == "mean"
    mix = probes.space_of(saved, "mix", "mix")
    assert isinstance(mix, Mix)
    assert mix.name == "mix"
    layers = np.stack([saved.layer(number).values for number in range(3)])
    heard = load_saved("mix", saved.path).prepare(layers)
    np.testing.assert_allclose(np.einsum("lnd,ld->nd", layers, mix.scales) + mix.shift, heard, atol=1e-5)
    report = evaluate_search(saved, layer="0,best,mean", probe="mix")
    assert [one.name for one in report.results] == ["layer 0", "mean of 3 layers", "mix of the probe mix"]
    unit = heard / np.linalg.norm(heard, axis=1, keepdims=True)
    y, groups = np.eye(3, dtype=np.int64)[np.arange(48) % 3], np.arange(48) % 12
    scores = naive(unit, y, groups, (1, 5, 10), 10)[0].mean(2)
    assert report.results[2].filtered["map"].value == pytest.approx(scores[0, 0], abs=1e-4)
    assert report.results[2].unfiltered["precision_at_5"].value == pytest.approx(scores[1, 3], abs=1e-3)
    assert [one.layer for one in evaluate_search(saved, layer="best", probe="two").results] == [2]


@pytest.mark.parametrize(
    ("probe", "which", "words"),
    [
        (None, "best", "has 4 saved probes: mean, mix, two, wide; name one of them"),
        ("nine", "best", "unknown saved probe 'nine'"),
        ("wide", "best", "the probe wide hears all layers side by side; a search as --layer best needs"),
        ("two", "mix", "hears layer 2; a search as --layer mix needs one that hears a learned mix"),
        ("mean", "mix", "hears the mean of layers"),
    ],
)
def test_saved_probes_that_cannot_serve_are_one_clear_line(saved, probe, which, words):
    """Several and none named, an unknown one, one that hears something else."""
    with pytest.raises((ParameterError, UnknownNameError), match=words):
        probes.space_of(saved, probe, which)


def test_a_probe_of_another_store_is_refused(saved, tmp_path):
    """Vectors of another recipe have other layers."""
    other = SimpleNamespace(path=tmp_path, fingerprint="e" * 64)
    with pytest.raises(ParameterError, match="no saved probe; train one"):
        probes.space_of(other)
    with pytest.raises(EncoderMismatchError, match="the probe two was trained on recipe"):
        probes.space_of(other, saved.path / "probes" / "two.safetensors")


@pytest.mark.slow
def test_the_report_is_for_people_and_machines(saved, tmp_path, capsys):
    """Tables and words are printed, files with plots are written."""
    report = evaluate_search(saved, transform=["none", "centre"], k=(2,))
    files = probes.write_report(report, tmp_path / "out")
    probes.print_report(report, files)
    out = capsys.readouterr().out
    for words in (
        "Search quality",
        "P@2",
        "with artist",
        "chance",
        "largest hub: ",
        "centre against none: mAP",
        "wrote",
    ):
        assert words in out
    document = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert document["results"][0]["filtered"]["map"]["value"] == report.results[0].filtered["map"].value
    assert document["effects"]["precision_at_2"][0]["second"] == "layer 0"
    assert document["protocol"]["artists"] == 12
    assert {path.name for path in files} >= {"search.csv", "search-transforms.csv", "search.png", "report.html"}
    assert '"n_queries": 48' in json.dumps(document)
    contents = Contents.of(report)
    assert contents.title == "Search quality of toy"
    assert [section.anchor for section in contents.sections] == ["search", "made"]
    assert "SearchReport(8 rows, 48 queries" in repr(report)


def test_labels_that_a_probe_has_seen_are_told(saved):
    """How many of the queries its layer was chosen on."""
    (note,) = [one for one in evaluate_search(saved, layer="best", probe="two").notes if "probe" in one]
    assert note == "the probe two chose layer 2 with the labels of 48 of the 48 queries: its score here is optimistic"
    others = {int(key): TrackLabels((f"g {key % 2}",), (f"a {key % 6}",)) for key in range(48)}
    made = LayerMatrix(0, "other", np.arange(48), np.eye(48, dtype=np.float32))
    assert not any("probe" in one for one in evaluate_search([made], labels=others).notes)


def test_a_genre_is_no_formula(tmp_path):
    """In the CSV of a report."""
    rows = csv_of(Table("t", "t", (Column("genre", "genre"), Column("map", "mAP")), (("=1+1", -0.5), ("-", None))))
    assert rows.splitlines()[1:] == ["'=1+1,-0.5", "-,"]


def test_the_command_measures_search(saved, tmp_path, monkeypatch):
    """JSON alone on stdout; a table; several transforms; errors on one line; a section of the probe's report."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(cli.main, [arguments[0], "--store", str(saved.path), *arguments[1:]])
        assert result.exit_code == code, result.output
        return result

    told = json.loads(run("search-eval", "--transform", "none", "--transform", "whiten", "-k", "3", "--json").stdout)
    assert [one["transform"] for one in told["results"][:2]] == ["none", "whiten"]
    assert told["command"].startswith("embedstore search-eval --store")
    assert "precision_at_3" in told["chance"]["filtered"]
    assert "P@10" in run("search-eval", "--layer", "1").stdout
    assert "name one of them" in run("search-eval", "--layer", "mix", code=1).stderr
    assert "no triplets: " in run("search-eval", "--triplets", "none.csv", code=1).stderr
    quick = ("--probe", "centroid", "--layer", "1", "--folds", "3", "--seeds", "1", "--jobs", "1", "--json")
    assert json.loads(run("probe", "--search", *quick).stdout)["search"]["n_queries"] == 48


@pytest.mark.slow
def test_the_page_of_a_probe_gets_a_section(saved):
    """Its words and tables stand in the report of a probe, too."""
    report = evaluate_search(saved, layer=1, transform=["none", "centre"])
    contents = Contents.of(m.make_report(encoder="toy"), search=report)
    assert "search" in [section.anchor for section in contents.sections]
    assert contents.title.startswith("What each layer of toy knows")
    (figure,) = [figure for figure in contents.figures if figure.search]
    axes = draw(figure).axes[0]
    assert "chance, by artist" in " ".join(axes.get_legend_handles_labels()[1])
    tables = {table.name: table for table in contents.tables}
    assert [row[0] for row in tables["search"].rows] == ["1", "1", "chance", "chance, by artist"]
    assert tables["search"].rows[0][2] == report.results[0].filtered["map"]
    assert "triplets" not in [column.key for column in tables["search"].columns]
    assert tables["search-details"].rows[0][3] == report.results[0].unfiltered["map"]
    for table in (one for name, one in tables.items() if name.startswith("search")):
        assert all(any(row[n] not in (None, "") for row in table.rows) for n in range(len(table.columns)))
    assert tables["search-transforms"].rows[0][:2] == ("layer 1, centre", "layer 1")
    assert "search-by-genre" in tables
