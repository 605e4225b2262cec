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
from scipy.stats import skew
from sklearn.metrics import average_precision_score

import cli
import probes
from embedstore.errors import EncoderMismatchError, ParameterError, UnknownNameError
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, LayerMatrix, Mix, Track, TrackLabels
from probes import rankings
from probes.layers import load_features, open_source
from probes.rankings import expected, measures, rank, skewness
from probes.report.contents import Contents
from probes.report.plots import draw
from probes.retrieval import SearchReport, evaluate_search
from probes.saved import keep_probe, load_saved
from probes.statistics import cluster_bootstrap_means
from probes.task import make_task
from probes.triplets import agreement, read_triplets

KS = (1, 3, 50)
QUICK: dict[str, Any] = {"resamples": 300}


def naive(rows: np.ndarray, y: np.ndarray, groups: np.ndarray, ks: tuple[int, ...], near: int) -> tuple[Any, Any]:
    """Rank and score one query after the other, candidate by candidate."""
    n = len(rows)
    scores, found = np.zeros((2, len(measures(ks)), n)), np.zeros(n, int)
    for q in range(n):
        order = sorted((i for i in range(n) if i != q), key=lambda i: (-float(rows[q] @ rows[i]), i))
        for i in order[:near]:
            found[i] += 1
        for kind, kept in enumerate(([i for i in order if groups[i] != groups[q]], order)):
            hits = [bool((y[q] * y[i]).any()) for i in kept]
            total = sum(hits)
            places = [place for place, hit in enumerate(hits, 1) if hit]
            scores[kind, 0, q] = sum((nth + 1) / place for nth, place in enumerate(places)) / total if total else 0
            scores[kind, 1, q] = sum(hits[:total]) / total if total else 0
            scores[kind, 2:, q] = [sum(hits[:k]) / max(min(k, len(kept)), 1) for k in ks]
    return scores, found


@pytest.mark.parametrize("cells", [1, 100, 2**21])
def test_rankings_are_those_of_a_loop(monkeypatch, cells):
    """Several genres a track, several artists, equal and zero vectors, negative similarities; in blocks of any size."""
    monkeypatch.setattr(rankings, "_CELLS", cells)
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, size=(40, 4)).astype(np.float32)  # products are exact, and many are equal
    rows[[3, 17]] = 0
    y = (rng.random((40, 3)) < 0.4).astype(np.int64)
    groups = rng.integers(9, size=40)
    found = rank(rows, y, groups, np.arange(40), KS, near=5)
    scores, occurrences = naive(rows, y, groups, KS, 5)
    np.testing.assert_allclose(found.scores, scores, atol=1e-12)
    assert found.occurrences.tolist() == occurrences.tolist()
    some = rank(rows, y, groups, np.array([4, 31]), KS, near=5)
    assert np.array_equal(some.scores, found.scores[:, :, [4, 31]])
    assert some.occurrences.sum() == 10
    assert [rank(rows[:1], y[:1], groups[:1], np.array([0]), KS).scores.max(), len(some.occurrences)] == [0, 40]


def test_average_precision_and_skewness_are_those_of_others():
    """Scikit-learn's average precision where no two scores are equal; SciPy's skewness."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 5)).astype(np.float32)
    y, groups = np.eye(4, dtype=np.int64)[np.arange(60) % 4], np.arange(60) // 3
    found = rank(rows, y, groups, np.arange(60), (10,))
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
    made = rankings.Rankings(np.zeros((2, 4, 3)), *counts, np.zeros(n, np.int64))
    np.testing.assert_allclose(expected(made, (1, 2)), [np.mean(scored, axis=0)] * 2)


def test_chance_by_artist_is_that_of_artists_in_random_order():
    """Whole artists in random order, each of four tracks: the formula for single tracks is too low."""
    rng, y = np.random.default_rng(0), np.eye(3, dtype=np.int64)[np.repeat(np.arange(24) % 3, 4)]
    groups, scored = np.repeat(np.arange(24), 4), []
    for _ in range(300):
        hits = np.repeat(rng.permutation(np.arange(23) < 7), 4)
        found = np.cumsum(hits) / np.arange(1, 93)
        scored.append((found * hits).sum() / 28)
    by_artist = rankings.expected_by_group(y, groups, np.arange(0, 96, 7))
    assert np.mean(scored) == pytest.approx(by_artist, abs=0.01)
    ranked = rank(np.eye(96, dtype=np.float32), y, groups, np.arange(96), ())
    assert expected(ranked, ())[0, 0] < by_artist - 0.02


def test_resampled_means_are_those_of_a_loop():
    """Groups drawn with replacement bring all their queries; the interval holds more than that of single queries."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    values = {"a": rng.normal(size=(2, 60)) + rng.normal(size=12)[groups], "b": rng.random((2, 60))}
    samples = cluster_bootstrap_means(values, groups, resamples=50, seed=3)
    counts = np.random.default_rng([3, 0xB007]).integers(12, size=(50, 12))
    for name, row in (("a", 0), ("b", 1)):
        looped = [np.concatenate([values[name][row, groups == g] for g in drawn]).mean() for drawn in counts]
        np.testing.assert_allclose(samples[name][:, row], looped)
        assert samples.observed[name][row, 0] == pytest.approx(values[name][row].mean())
    assert samples.widen == pytest.approx(np.sqrt(12 / 11) * 2.2010 / 1.9600, rel=1e-4)  # Student's t, 11 degrees


@pytest.mark.slow
def test_intervals_of_means_hold_the_truth():
    """Queries of one artist score alike, artists have 1 to 30 tracks: about 95 of 100 intervals hold the expected mean."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        groups = np.repeat(np.arange(40), np.minimum(rng.geometric(0.2, 40), 30))
        scores = (rng.random(len(groups)) < rng.beta(2, 2, 40)[groups]).astype(float)
        interval = cluster_bootstrap_means({"a": scores[None]}, groups, resamples=400).interval("a", 0)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.93 <= hits / 1000 <= 0.97


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
    return evaluate_search(made[0], labels=made[1], **{**QUICK, **options})


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
    assert found.gap["precision_at_1"].low > 0.3
    assert found.filtered["precision_at_1"].low < 1 / 3 < found.filtered["precision_at_1"].high
    assert found.filtered["map"].low < report.chance["by_artist"]["map"] < found.filtered["map"].high
    assert report.chance["filtered"]["map"] < found.filtered["map"].low  # artists stand together
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
    assert centre.p_holm < 0.01
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
    made, labels = sounds(genre=1.0)
    keys = made[0].keys.tolist()
    labels[keys[0]] = TrackLabels()
    labels[keys[1]] = labels[keys[2]] = TrackLabels(("rare",), ("One",))
    labels[keys[3]] = TrackLabels(("genre 0", "genre 1"))
    report = evaluate((made, labels), layer=0, queries=50)
    assert (report.n_tracks, report.n_queries) == (117, 50)
    notes = "\n".join(report.notes)
    for words in (
        "50 of 117 tracks, drawn at random, asked",
        "1 tracks have no genre and were left out",
        "2 tracks were left out, as no other artist has their genre: rare",
        "1 of 117 tracks have no known artist",
    ):
        assert words in notes
    assert report.genres == ("genre 0", "genre 1", "genre 2")


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
    with pytest.raises(ParameterError, match="at least 2 genres"):
        evaluate((made, {}))
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
    """With a header or without; ids, paths and file names; rows of one anchor are one group; what is lost is counted."""
    rows = "0000000000000001,two,b/three.mp3\n/music/a/one.mp3,four.mp3,two\nthree,one,four\nthree,one,four\n"
    bare = read_triplets(written(tmp_path / "bare.csv", rows), KEYS, FILES)
    assert bare.keys.tolist() == [[1, 2, 3], [1, 4, 2], [3, 1, 4]]
    assert bare.groups.tolist() == [0, 0, 1]
    assert bare.notes == ()
    lost = "note;far;anchor;near\nx;two;one;three\nx;same;one;two\nx;one;one;two\nx;two;nobody;one\nx;two\n"
    named = read_triplets(written(tmp_path / "named.csv", lost), KEYS, FILES)
    assert named.keys.tolist() == [[1, 3, 2]]
    first, second = named.notes
    assert first.startswith("3 of 5 rows of ")
    assert first.endswith("or a file name that several have and were left out (first: line 3, 'same')")
    assert "1 of 5 rows" in second
    assert "name one track twice" in second


def test_comparisons_of_magnatagatune_are_read(tmp_path):
    """Votes for the odd one out give two judgements; a tie and no votes give none; paths are below the music's folder."""
    head = "\t".join(f"clip{i}_{what}" for what in ("id", "numvotes", "mp3_path") for i in (1, 2, 3))
    rows = [
        "2\t6\t9\t1\t0\t5\ta/one.mp3\ta/two.mp3\tb/three.mp3",
        "2\t6\t9\t2\t2\t0\ta/one.mp3\ta/two.mp3\tb/three.mp3",
        "2\t6\t9\t0\t0\t0\ta/one.mp3\ta/two.mp3\tb/three.mp3",
        "6\t2\t9\t3\t0\t1\ta/two.mp3\ta/one.mp3\tb/three.mp3",
        "2\t6\t8\t3\t0\t1\ta/one.mp3\ta/two.mp3\tc/none.mp3",
    ]
    found = read_triplets(written(tmp_path / "c.csv", "\n".join([head, *rows]) + "\n"), KEYS, FILES)
    assert found.keys.tolist() == [[1, 2, 3], [2, 1, 3], [1, 3, 2], [3, 1, 2]]
    assert found.groups.tolist() == [0, 0, 0, 0]
    assert [note.split(" rows")[0] for note in found.notes] == ["2 of 5", "1 of 5"]


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
    lines = [f"{ids[i]},{ids[(i + 3) % 120]},{ids[(i + 1) % 120]}" for i in range(120)]
    path = written(tmp_path / "t.csv", "\n".join(["anchor,near,far", *lines]))
    report = evaluate_search(made, triplets=path, **QUICK)
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
    report = evaluate_search(saved, layer="0,best,mean", probe="mix", **QUICK)
    assert [one.name for one in report.results] == ["layer 0", "mean of 3 layers", "mix of the probe mix"]
    unit = heard / np.linalg.norm(heard, axis=1, keepdims=True)
    y, groups = np.eye(3, dtype=np.int64)[np.arange(48) % 3], np.arange(48) % 12
    scores = naive(unit, y, groups, (1, 5, 10), 10)[0].mean(2)
    assert report.results[2].filtered["map"].value == pytest.approx(scores[0, 0], abs=1e-4)
    assert report.results[2].unfiltered["precision_at_5"].value == pytest.approx(scores[1, 3], abs=1e-3)
    assert [one.layer for one in evaluate_search(saved, layer="best", probe="two", **QUICK).results] == [2]


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
    report = evaluate_search(saved, transform=["none", "centre"], k=(2,), **QUICK)
    files = probes.write_report(report, tmp_path / "out")
    probes.print_report(report, files)
    out = capsys.readouterr().out
    for words in (
        "Search quality",
        "P@2",
        "mAP with artist",
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
    report = evaluate_search(saved, layer=1, transform=["none", "centre"], **QUICK)
    contents = Contents.of(m.make_report(encoder="toy"), search=report)
    assert "search" in [section.anchor for section in contents.sections]
    assert contents.title.startswith("What each layer of toy knows")
    (figure,) = [figure for figure in contents.figures if figure.search]
    axes = draw(figure).axes[0]
    assert "chance, by artist" in " ".join(axes.get_legend_handles_labels()[1])
    tables = {table.name: table for table in contents.tables}
    assert [row[0] for row in tables["search"].rows] == ["1", "1", "chance", "chance, by artist"]
    assert tables["search"].rows[0][3] == report.results[0].filtered["map"]
    assert tables["search-transforms"].rows[0][:2] == ("layer 1, centre", "layer 1")
    assert "search-by-genre" in tables
