"""Near-duplicates: planted copies are found, different tracks are not, whatever the library is like."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import ParameterError
from probes import duplicates
from probes.duplicates import near_duplicates


def library(n: int = 400, dim: int = 60, wide: int = 15, seed: int = 0) -> tuple[Any, Any]:
    """Vectors that vary much along a few directions and little along all, and durations of songs."""
    rng = np.random.default_rng(seed)
    style = rng.normal(size=(n, wide)) @ rng.normal(size=(wide, dim))
    return style + 0.5 * rng.normal(size=(n, dim)), rng.uniform(150, 300, n)


@pytest.mark.parametrize("seed", range(3))
def test_planted_copies_are_found_and_nothing_else(seed: int) -> None:
    """Noisy copies of about the same length come as pairs, the closest first; a library without any has none."""
    x, seconds = library(seed=seed)
    assert len(near_duplicates(x, seconds)) <= 1
    rng = np.random.default_rng(seed)
    noise = np.linspace(0.02, 0.2, 20)[:, None] * rng.normal(size=(20, x.shape[1]))
    x, seconds = np.concatenate([x, x[:20] + noise]), np.concatenate([seconds, seconds[:20] + rng.uniform(-1, 1, 20)])
    found = near_duplicates(x, seconds)
    planted = {(row, 400 + row) for row in range(20)}
    assert planted <= set(map(tuple, found.rows.tolist()))
    assert len(found) <= 21
    assert (np.diff(found.similarity) <= 0).all()
    assert repr(found) == f"Pairs({len(found)})"


def test_a_copy_is_of_one_length() -> None:
    """Within a second, or two per cent of a long track; beyond, the same vector is another track."""
    x, seconds = library()
    x[1::2], seconds[1::2] = x[::2] + 0.01, seconds[::2]
    for short, longer, same in [(20, 20.9, True), (20, 21.1, False), (200, 203.9, True), (200, 204.2, False)]:
        seconds[:2] = short, longer
        assert ([0, 1] in near_duplicates(x, seconds).rows.tolist()) is same


def test_all_tracks_may_have_copies() -> None:
    """A library that is there twice, and recordings that are there five times, are found."""
    x, seconds = library(n=200)
    rng = np.random.default_rng(1)
    twice = np.concatenate([x, x + 0.05 * rng.normal(size=x.shape)])
    found = near_duplicates(twice, np.tile(seconds, 2)).rows
    assert (found[:, 1] - found[:, 0] == 200).mean() > 0.98
    assert len(found) > 190
    often = np.concatenate([x, *(x[:4] + 0.05 * rng.normal(size=(4, x.shape[1])) for _ in range(4))])
    found = near_duplicates(often, np.concatenate([seconds, np.tile(seconds[:4], 4)])).rows
    assert {(a % 4, b % 4) for a, b in found.tolist() if a < 4 or a >= 200} == {(row, row) for row in range(4)}
    assert len(found) >= 40


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows seven at a time give the same pairs as all at once."""
    x, seconds = library()
    x[300:320] = x[:20] + 0.02
    seconds[300:320] = seconds[:20]
    whole = near_duplicates(x, seconds)
    monkeypatch.setattr(duplicates, "_CELLS", 7 * 400)
    np.testing.assert_array_equal(near_duplicates(x, seconds).rows, whole.rows)


@pytest.mark.parametrize("dim", [3, 5, 12])
def test_chance_neighbours_are_none_in_few_dimensions(dim: int) -> None:
    """In few dimensions first neighbours come close by chance: the library's own spread says how close."""
    rng = np.random.default_rng(0)
    found = [len(near_duplicates(rng.normal(size=(500, dim)), np.full(500, 30.0))) for _ in range(5)]
    assert np.mean(found) < 4


def test_broken_input_is_a_clear_error() -> None:
    """No durations, no numbers, shapes that do not fit; a handful of tracks, or equal ones, have none."""
    x, seconds = library(n=20)
    holes = np.where(np.arange(20) < 3, np.nan, seconds)
    for vectors, durations, message in [
        (x, holes, "3 of 20 tracks have no duration"),
        (x, np.zeros(20), "20 of 20 tracks have no duration"),
        (np.where(np.arange(20)[:, None] == 1, np.inf, x), seconds, "1 of 20 vectors are not finite"),
        (x, seconds[:5], r"a duration each; got vectors \(20, 60\) and durations \(5,\)"),
        (x[0], seconds, "got vectors"),
    ]:
        with pytest.raises(ParameterError, match=message):
            near_duplicates(vectors, durations)
    for n in (0, 1, 11, 12, 13):
        assert len(near_duplicates(x[:n], seconds[:n])) <= 1
    assert not len(near_duplicates(np.ones((30, 4)), np.full(30, 9.0)))


def _tune(path: Path, seed: int) -> None:
    """Write 12 s of plucked notes of one of three instruments: tracks of one instrument are alike."""
    import soundfile

    rng, rate, sound = np.random.default_rng(seed), 32000, np.zeros(12 * 32000)
    overtones = np.random.default_rng([1, seed % 3]).uniform(0.1, 1, 6)
    scale = 220 * 2 ** (rng.permutation(12)[:6] / 12)
    time = np.arange(rate) / rate
    for start in np.sort(rng.uniform(0, 11, 40)):
        pitch, at = rng.choice(scale) * rng.choice([1, 2]), int(start * rate)
        note = sum(a * np.sin(2 * np.pi * pitch * k * time) for k, a in enumerate(overtones, 1))
        sound[at : at + rate] += (note * np.exp(-rng.uniform(3, 6) * time))[: len(sound) - at]
    sound += 0.005 * rng.normal(size=len(sound))
    soundfile.write(path, 0.5 * sound / np.abs(sound).max(), rate)


@pytest.mark.slow
def test_re_encoded_files_are_found(tmp_path: Path) -> None:
    """Other formats, bit rates and sample rates, other levels and trimmed starts of real files are found by MFCC statistics."""
    import shutil

    import soundfile

    from embedstore import EmbeddingStore
    from embedstore.pipeline import build

    if shutil.which("ffmpeg") is None:
        pytest.skip("re-encodes with ffmpeg")
    music = tmp_path / "music"
    music.mkdir()
    for number in range(120):
        _tune(music / f"{number:03d}.flac", number)
    ways = {
        "mp3": ["-b:a", "96k"],
        "ogg": ["-c:a", "libvorbis", "-q:a", "5"],
        "wav": ["-ar", "22050"],
        "aiff": ["-af", "volume=-3dB"],
    }
    planted = set()
    for place, (ending, how) in enumerate(ways.items()):
        for number in range(10 * place, 10 * place + 10):
            source, copy = music / f"{number:03d}.flac", music / f"{number:03d}x.{ending}"
            subprocess.run(["ffmpeg", "-v", "error", "-i", source, *how, copy], check=True)
            planted.add(f"{number:03d}")
    for number in range(40, 50):  # a start that is cut off
        sound, rate = soundfile.read(music / f"{number:03d}.flac")
        soundfile.write(music / f"{number:03d}x.flac", sound[rate // 5 :], rate)
        planted.add(f"{number:03d}")
    build(music, tmp_path / "store", encoder="mfcc", labels="none", jobs=1)
    store = EmbeddingStore.open(tmp_path / "store")
    tracks = {track.key: track for track in store.tracks()}
    names = [Path(tracks[key].path).stem for key in store.keys().tolist()]
    seconds = np.array([tracks[key].seconds for key in store.keys().tolist()])
    found = near_duplicates(store.layer(0).values, seconds).rows
    right = [names[a].rstrip("x") for a, b in found if names[a].rstrip("x") == names[b].rstrip("x")]
    assert len(right) >= 0.75 * len(planted)
    assert len(found) - len(right) <= 3
