"""The demo's corpus: made from packages alone, sounding, fair between the genres, and made once."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

MAKER = Path(__file__).parent.parent / "benchmarks" / "make_demo_corpus.py"
PER_GENRE = 4


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Run the maker on one folder; return the folder and what was printed."""
    pytest.importorskip("music21")
    pytest.importorskip("symusic")
    folder = tmp_path_factory.mktemp("corpus")

    def run() -> tuple[Path, str]:
        command = [sys.executable, MAKER, folder, "--per-genre", str(PER_GENRE), "--jobs", "2"]
        return folder, subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Read metadata.csv."""
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_track_sounds(make):
    """Each line of metadata.csv names a file that decodes in full, is neither silent nor clipped, and 20 to 26 s long."""
    folder, _ = make()
    for row in rows_of(folder):
        sound, rate = soundfile.read(folder / row["path"], dtype="float32", always_2d=True)
        assert (rate, sound.shape[1]) == (int(row["sample_rate"]), int(row["channels"])), row["path"]
        assert len(sound) / rate == pytest.approx(float(row["seconds"]), abs=0.1)
        assert 20 <= float(row["seconds"]) <= 26
        loudness = 10 * np.log10(np.mean(sound**2))
        assert -30 < loudness < -15, row["path"]
        assert np.abs(sound).max() < 0.99, row["path"]


@pytest.mark.slow
def test_genres_are_alike_in_all_but_the_music(make):
    """Every genre has the same number of tracks and the same ensembles, several artists, and no piece twice."""
    rows = rows_of(make()[0])
    genres = {row["genre"] for row in rows}
    assert len(genres) >= 4
    for genre in genres:
        mine = [row for row in rows if row["genre"] == genre]
        assert Counter(row["performer"] for row in mine) == Counter({row["performer"] for row in rows})
        assert len({row["artist"] for row in mine}) >= 2
    assert len({(row["source"], row["title"]) for row in rows}) == len(rows)


@pytest.mark.slow
def test_a_second_run_makes_only_what_is_missing(make):
    """A track that was lost comes back with the same sound; the others are left alone."""
    folder, _ = make()
    lost = next(folder.glob("jig/jig_00.*"))
    sound, stamps = soundfile.read(lost)[0], {path: path.stat().st_mtime_ns for path in folder.glob("*/*.*")}
    lost.unlink()
    _, said = make()
    assert re.search(rf"{len(stamps)} tracks .* {len(stamps) - 1} already there", said)
    assert np.array_equal(soundfile.read(lost)[0], sound)
    assert [path for path, stamp in stamps.items() if path != lost and path.stat().st_mtime_ns != stamp] == []
