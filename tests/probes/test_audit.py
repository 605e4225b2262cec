"""Leak audit: planted leakage shows as a gap, absent leakage does not, and the offenders are named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

import probes
from embedstore.errors import ParameterError, UnknownNameError
from embedstore.types import LayerMatrix, TrackLabels, track_id
from probes.audit import AuditReport
from probes.duplicates import near_duplicates
from probes.splits import LEVELS, group_tracks, make_folds

QUICK: dict[str, Any] = {
    "probe": "sklearn.linear_model.RidgeClassifier",
    "folds": 3,
    "seeds": 1,
    "jobs": 1,
    "resamples": 300,
}


def library(
    seed: int = 0,
    *,
    n: int = 240,
    genre: float = 0.5,
    artist: float = 0.0,
    album: float = 0.0,
    copies: int = 0,
    dim: int = 40,
) -> dict[str, Any]:
    """Make a library of 3 genres, 8 artists each with 5 albums of 2 tracks; how far genres, artists, albums stand apart.

    Copies are the first tracks of the first albums, a little changed, by another artist in other spelling, a genre further.
    """
    rng = np.random.default_rng(seed)
    y, who = np.arange(n) % 3, np.arange(n) % 24
    record = who * 5 + np.arange(n) // 24 % 5
    x = rng.normal(size=(n, dim)) + 2 * genre * np.eye(3, dim)[y]
    x += artist * rng.normal(size=(24, dim))[who] + album * rng.normal(size=(120, dim))[record]
    labels = [
        TrackLabels((f"genre {g}",), (f"Artist {a}",), f"Album {r}", f"Song no. {k} of all")
        for k, (g, a, r) in enumerate(zip(y, who, record, strict=True))
    ]
    seconds = rng.uniform(100, 300, n)
    x = np.concatenate([x, x[:copies] + 0.03 * rng.normal(size=(copies, dim))])
    labels += [TrackLabels((f"genre {y[k]}",), (f"Other {k}",), "Best of", f"S0NG {k}") for k in range(copies)]
    keys = rng.permutation(10 * len(x))[: len(x)]
    return {
        "source": [LayerMatrix(0, "sound", keys, x.astype(np.float32))],
        "labels": dict(zip(keys.tolist(), labels, strict=True)),
        "seconds": dict(zip(keys.tolist(), [*seconds, *seconds[:copies]], strict=True)),
    }


def audit(made: dict[str, Any], **options: Any) -> AuditReport:
    return probes.audit_leaks(**made, **{**QUICK, **options})


def test_planted_artists_show_as_a_gap() -> None:
    """Where only artists differ, every grouping that divides them scores above the strictest; artist groups do not."""
    report = audit(library(genre=0.0, artist=1.0), folds=5)
    named = {grouping.name: grouping for grouping in report.groupings}
    assert list(named) == [*LEVELS, "near-duplicate"]
    for name in ("none", "track", "album"):
        assert named[name].leaks
        assert named[name].gap.low > 0.3
        assert named[name].divided["artist"] == 240
    assert not named["artist"].leaks
    assert named["artist"].gap == named["near-duplicate"].gap
    assert named["artist"].gap.value == 0
    assert named["artist"].divided["artist"] == 0
    assert report.verdict.startswith("leak: the score is too high with nothing kept together: by 0.")
    artists = next(of for of in report.offenders if of.kind == "artist")
    assert 24 * 45 * 0.7 < artists.pairs < 24 * 45  # five folds part four fifths of the pairs
    assert all(" - Song no. " in name for pair in artists.examples for name in pair)
    assert len(artists.examples) == 20


def test_planted_albums_show_below_artists() -> None:
    """Where albums of an artist have a sound of their own, whole albums on one side close the gap."""
    report = audit(library(genre=0.0, album=2.0), folds=5)
    named = {grouping.name: grouping for grouping in report.groupings}
    assert named["none"].leaks
    assert named["track"].leaks
    assert not named["album"].leaks
    assert named["album"].gap.low < 0 < named["album"].gap.high


def test_planted_copies_show_below_artists() -> None:
    """Copies under other names are not seen by any label; the sound finds them, and they are listed."""
    report = audit(library(genre=0.0, copies=160), probe="sklearn.neighbors.KNeighborsClassifier", folds=5)
    named = {grouping.name: grouping for grouping in report.groupings}
    assert named["artist"].leaks
    assert named["artist"].gap.low > 0.05
    copies = next(of for of in report.offenders if of.kind == "near-duplicate")
    assert 0.7 * 160 < copies.pairs < 0.9 * 160
    first, second = copies.examples[0]
    assert first.split("no. ")[1].split(" ")[0] == second.split("S0NG ")[1]
    made = library(genre=0.0, copies=160)
    [matrix], seconds = made["source"], np.array([made["seconds"][key] for key in made["source"][0].keys.tolist()])
    known = near_duplicates(matrix.values, seconds)
    ids = {
        tuple(map(track_id, pair)): s
        for pair, s in zip(matrix.keys[known.rows].tolist(), known.similarity, strict=True)
    }
    assert [ids[pair] for pair in copies.tracks] == list(copies.similarity)
    assert list(copies.similarity) == sorted(copies.similarity, reverse=True)
    titles = {track_id(key): label.title for key, label in made["labels"].items()}
    assert all(titles[a] in x and titles[b] in y for (a, b), (x, y) in zip(copies.tracks, copies.examples, strict=True))
    assert all(of.similarity is None for of in report.offenders if of is not copies)
    assert named["artist"].divided["near-duplicate"] > 100
    assert named["near-duplicate"].divided["near-duplicate"] == 0


def test_absent_leakage_does_not_show() -> None:
    """Where genres differ and nothing else, no leak is announced, and intervals of the gap hold 0."""
    first = [audit(library(seed, n=120), seeds=[seed]).groupings[0] for seed in range(3)]
    assert not any(g.leaks for g in first)
    assert sum(g.gap.low < 0 < g.gap.high for g in first) >= 2


@pytest.mark.slow
def test_the_gap_covers_nothing_at_its_level() -> None:
    """In 200 libraries without leakage the interval misses 0 in about 5 of 100, and a leak is announced in hardly any."""
    first = [audit(library(seed), seeds=[seed], folds=5).groupings[0] for seed in range(200)]
    assert np.mean([g.gap.low < 0 < g.gap.high for g in first]) > 0.88
    assert np.mean([g.leaks for g in first]) < 0.03


def test_groupings_share_tracks_and_genres() -> None:
    """A genre of which the strictest grouping leaves one group is left out everywhere."""
    made = library(genre=1.0)
    keys = made["source"][0].keys.tolist()
    for place, key in enumerate(keys):
        if made["labels"][key].genres == ("genre 2",):
            made["labels"][key] = TrackLabels(("genre 2",), ("One",), "", f"title number {place}")
    report = audit(made)
    assert report.genres == ("genre 0", "genre 1")
    assert report.n_tracks == 160
    assert {grouping.groups for grouping in report.groupings} == {160, 80, 16}
    assert any("'genre 2' (80 tracks)" in note for note in report.notes)


def test_several_tags_a_track_are_audited_by_rank() -> None:
    """Multi-label audits compare mean average precision."""
    made = library(genre=0.0, artist=1.0, n=120)
    made["labels"] = {
        key: TrackLabels((*t.genres, "loud") if key % 2 else t.genres, t.artists, t.album, t.title)
        for key, t in made["labels"].items()
    }
    report = audit(made, multilabel=True)
    assert report.measure == "map"
    assert "loud" in report.genres
    assert report.groupings[0].gap.low > 0


def test_folds_are_as_uneven_as_those_of_the_artists() -> None:
    """Tracks dealt one by one, like folds of whole artists, give folds with exactly as many tracks of each genre."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 3
    whole = make_folds(y, y + 3 * rng.integers(4, size=200), 4, seed=1)
    alone = make_folds(y, np.arange(200), 4, seed=1, like=whole)
    even = make_folds(y, np.arange(200), 4, seed=1)

    def spread(folds: np.ndarray) -> list[list[int]]:
        return [np.bincount(y[folds == fold], minlength=3).tolist() for fold in range(4)]

    assert spread(alone) == spread(whole) != spread(even)
    assert (alone != whole).mean() > 0.5


def test_levels_of_grouping_are_nested() -> None:
    """Each level joins whatever the one before joins; spellings, co-artists and albums of one name are told apart."""
    tracks = [
        TrackLabels((), ("Nina",), "Live", "My Song"),
        TrackLabels((), ("NINA feat. Bo",), "Other", "my song!"),
        TrackLabels((), ("Bo",), "Live", "Else"),
        TrackLabels((), ("Nina",), "live", "Third"),
        TrackLabels((), (), "Live", "My Song"),
        TrackLabels((), ("Various Artists",), "Live", "my song"),
        TrackLabels((), ("Cy",), "", "Track 1"),
        TrackLabels((), ("Cy",), "", "Track 1"),
    ]
    expected = {
        "none": [0, 1, 2, 3, 4, 5, 6, 7],
        "track": [0, 0, 1, 2, 3, 3, 4, 5],
        "album": [0, 0, 1, 0, 2, 2, 3, 4],
        "artist": [0, 0, 0, 0, 1, 1, 2, 2],
    }
    assert {level: group_tracks(tracks, level).tolist() for level in LEVELS} == expected
    assert group_tracks([], "artist").tolist() == []
    with pytest.raises(UnknownNameError, match="unknown grouping 'albums'; did you mean 'album'"):
        group_tracks(tracks, "albums")


def test_counts_of_divided_pairs_are_those_of_a_loop() -> None:
    """Tracks with a companion in another fold, and pairs in different folds, counted one by one."""
    from probes.audit import _pairs_divided, _tracks_divided

    rng = np.random.default_rng(0)
    groups = np.unique(rng.integers(12, size=40), return_inverse=True)[1]
    folds = np.stack([make_folds(np.arange(40) % 2, np.arange(40), 4, seed) for seed in range(3)])
    pairs = [
        (of, a, b) for of in folds for a in range(40) for b in range(40) if groups[a] == groups[b] and of[a] != of[b]
    ]
    assert _pairs_divided(groups, folds) == len(pairs) / 2 / 3
    assert _tracks_divided(groups, folds) == len({(of.tobytes(), a) for of, a, _ in pairs}) / 3


def test_what_cannot_be_audited_is_a_clear_error() -> None:
    """No durations, some missing, vectors with NaN, a single track, unknown layers."""
    made = library(n=48)
    keys = made["source"][0].keys.tolist()
    with pytest.raises(ParameterError, match=r"an audit needs the tracks' durations .* pass seconds="):
        audit({**made, "seconds": None})
    with pytest.raises(ParameterError, match="the durations of 3 of 48 tracks are missing"):
        audit({**made, "seconds": dict.fromkeys(keys[3:], 9.0)})
    with pytest.raises(ParameterError, match="48 of 48 tracks have no duration"):
        audit({**made, "seconds": dict.fromkeys(keys, float("nan"))})
    holes = np.where(np.arange(48)[:, None] == 5, np.nan, made["source"][0].values)
    with pytest.raises(ParameterError, match="1 rows that are not finite"):
        audit({**made, "source": [LayerMatrix(0, "sound", made["source"][0].keys, holes)]})
    with pytest.raises(ParameterError, match="at least 2 genres"):
        audit({**made, "source": [LayerMatrix(0, "sound", made["source"][0].keys[:1], made["source"][0].values[:1])]})
    with pytest.raises(UnknownNameError, match="no layer 7"):
        audit(made, layer=7)


def test_report_for_people_and_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table, pairs, verdict and notes are printed; JSON, CSV and plots are written."""
    told: list[tuple[int, int]] = []
    report = audit(library(genre=0.0, artist=1.0, n=120, copies=20), progress=lambda *a: told.append(a))
    assert told[-1][0] == told[-1][1] == len(told)
    paths = probes.write_report(report, tmp_path / "new")
    probes.print_report(report, paths)
    out = capsys.readouterr().out
    for words in ("near-duplicates", "leak: the score", "S0NG", "wrote", "Artist "):
        assert words in out
    found = {path.name: path for path in paths}
    document = json.loads(found["report.json"].read_text(encoding="utf-8"))
    assert report.verdict in json.dumps(document, ensure_ascii=False)
    rows = list(csv.DictReader(found["audit.csv"].open(encoding="utf-8")))
    assert len(rows) == len(report.groupings)
    assert str(report.groupings[0].gap.low) in rows[0].values()
    assert len({tuple(pixel) for line in imread(found["audit.png"])[::5, ::5] for pixel in line}) > 10
    assert "AuditReport(" in repr(report)
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="cannot be written"):
        probes.write_report(report, tmp_path / "file")
