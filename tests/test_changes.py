"""The change ladder: what a second build makes of a folder in which everything happened that happens to files.

Each rung has a folder of its own; one build before, one after all changes, then a prune and a third build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from embedstore.audio import find_audio
from embedstore.errors import ParameterError
from embedstore.folders import coverage, prune
from embedstore.pipeline import build
from embedstore.store import EmbeddingStore
from embedstore.types import EncoderCard, Layer, LayerEmbeddings, Track

RATE, SECONDS = 16000, 0.5
CARD = EncoderCard("toy", "toy", "", "", RATE, (Layer(0, "layer 0", 4),), 50.0, "", "float32", "", "", 0)


def write(path: Path, pitch: float, *, seconds: float = SECONDS, tag: str = "", **options: object) -> None:
    """Write a sound of its own for each pitch; the same samples whatever the tag."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * RATE)) / RATE
    kind = {".mp3": ("MP3", None), ".flac": ("FLAC", "PCM_16"), ".wav": ("WAV", "PCM_16")}[path.suffix.lower()]
    with soundfile.SoundFile(path, "w", RATE, 1, format=kind[0], subtype=kind[1], **options) as file:
        if tag:
            file.title = tag
        file.write((16000 * np.sin(2 * np.pi * pitch * times)).astype(np.int16))


def id3(path: Path, words: bytes) -> None:
    """Put an ID3v2 tag before an MP3."""
    frame = b"TIT2" + (len(words) + 1).to_bytes(4, "big") + b"\x00\x00\x03" + words
    path.write_bytes(b"ID3\x03\x00\x00" + bytes([0, 0, len(frame) >> 7, len(frame) & 0x7F]) + frame + path.read_bytes())


def swap(a: Path, b: Path) -> None:
    """Let two files change names."""
    other = a.rename(a.with_name("other"))
    b.rename(a)
    other.rename(b)


@dataclass(frozen=True)
class Rung:
    """What lies in the folder before (file -> pitch), what happens to it, and what comes of it.

    `tracks` are the files of each visible track afterwards; `lost` those that `prune` then forgets.
    """

    before: dict[str, float]
    change: Callable[[Path, float], object]
    tracks: list[set[str]]
    lost: set[str] = field(default_factory=set)
    added: int = 0
    known: int = 0
    skipped: int = 0
    failed: int = 0
    gone: int = 0


LADDER = {
    "new": Rung({}, lambda at, pitch: write(at / "a.wav", pitch), [{"a.wav"}], added=1),
    "unchanged": Rung({"a.wav": 0}, lambda at, pitch: None, [{"a.wav"}], skipped=1),
    "touched": Rung({"a.wav": 0}, lambda at, pitch: os.utime(at / "a.wav", ns=(1, 1)), [{"a.wav"}], known=1),
    "moved": Rung(
        {"a.wav": 0, "x/b.wav": 1}, lambda at, pitch: (at / "a.wav").rename(at / "x" / "a.wav"), [{"x/a.wav"}, {"x/b.wav"}], known=1, skipped=1
    ),
    "renamed": Rung({"a.wav": 0}, lambda at, pitch: (at / "a.wav").rename(at / "b.wav"), [{"b.wav"}], known=1),
    "case": Rung({"Song.wav": 0}, lambda at, pitch: (at / "Song.wav").rename(at / "song.WAV"), [{"song.WAV"}], known=1),
    "folder renamed": Rung({"x/a.wav": 0, "x/b.wav": 1}, lambda at, pitch: (at / "x").rename(at / "y"), [{"y/a.wav"}, {"y/b.wav"}], known=2),
    "swapped": Rung(
        {"a.wav": 0, "b.wav": 1}, lambda at, pitch: swap(at / "a.wav", at / "b.wav"), [{"a.wav"}, {"b.wav"}], known=2
    ),
    "retagged flac": Rung({"a.flac": 0}, lambda at, pitch: write(at / "a.flac", pitch, tag="A title"), [{"a.flac"}], known=1),
    "retagged mp3": Rung({"a.mp3": 0}, lambda at, pitch: id3(at / "a.mp3", b"A title" * 30), [{"a.mp3"}], known=1),
    "converted without loss": Rung(
        {"a.wav": 0}, lambda at, pitch: (write(at / "a.flac", pitch), (at / "a.wav").unlink()), [{"a.flac"}], known=1
    ),
    "encoded again": Rung(
        {"a.mp3": 0}, lambda at, pitch: write(at / "a.mp3", pitch, compression_level=0.9), [{"a.mp3"}], added=1
    ),
    "encoded again elsewhere": Rung(
        {"a.wav": 0}, lambda at, pitch: (write(at / "a.mp3", pitch), (at / "a.wav").unlink()), [{"a.wav"}, {"a.mp3"}], lost={"a.wav"}, added=1, gone=1
    ),
    "duplicated": Rung(
        {"a.wav": 0}, lambda at, pitch: shutil.copy(at / "a.wav", at / "b.wav"), [{"a.wav", "b.wav"}], known=1, skipped=1
    ),
    "one of two deleted": Rung({"a.wav": 0, "b.wav": 0}, lambda at, pitch: (at / "a.wav").unlink(), [{"b.wav"}], skipped=1),
    "deleted": Rung(
        {"a.wav": 0, "b.wav": 1}, lambda at, pitch: (at / "a.wav").unlink(), [{"a.wav"}, {"b.wav"}], lost={"a.wav"}, skipped=1, gone=1
    ),
    "replaced": Rung({"a.wav": 0}, lambda at, pitch: write(at / "a.wav", pitch + 5), [{"a.wav"}], added=1),
    "moved, and its name taken": Rung(
        {"a.wav": 0}, lambda at, pitch: ((at / "a.wav").rename(at / "b.wav"), write(at / "a.wav", pitch + 5)), [{"a.wav"}, {"b.wav"}], added=1, known=1
    ),
    "a folder in its place": Rung(
        {"a.wav": 0}, lambda at, pitch: ((at / "a.wav").unlink(), write(at / "a.wav" / "b.wav", pitch + 5)), [{"a.wav"}, {"a.wav/b.wav"}], lost={"a.wav"}, added=1, gone=1
    ),
    "a link beside it": Rung({"a.wav": 0}, lambda at, pitch: (at / "b.wav").symlink_to("a.wav"), [{"a.wav"}], skipped=1),
    "a link in its place": Rung(
        {"a.wav": 0}, lambda at, pitch: ((at / "a.wav").rename(at / "b.wav"), (at / "a.wav").symlink_to("b.wav")), [{"a.wav", "b.wav"}], known=1
    ),
    "a link that leads nowhere": Rung(
        {"a.wav": 0}, lambda at, pitch: ((at / "a.wav").unlink(), (at / "a.wav").symlink_to("/nowhere/a.wav")), [{"a.wav"}]
    ),
    "spoilt": Rung({"a.wav": 0}, lambda at, pitch: (at / "a.wav").write_text("words"), [], failed=1),
    "mended": Rung({"a.wav": -1}, lambda at, pitch: write(at / "a.wav", pitch), [{"a.wav"}], added=1),
    "still broken": Rung({"a.wav": -1}, lambda at, pitch: None, []),
}  # fmt: skip


def pitch_of(name: str) -> float:
    """Give each rung sounds of its own."""
    return 200.0 + 60.0 * list(LADDER).index(name)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Climb it once: build, change everything, build; and a store that was made of the changed folder at once."""
    folder = tmp_path_factory.mktemp("ladder")
    music, store = folder / "music", folder / "store"
    for name, rung in LADDER.items():
        (music / name).mkdir(parents=True)
        for file, number in rung.before.items():
            write(music / name / file, pitch_of(name) + max(number, 0))
            if number < 0:
                (music / name / file).write_text("no sound")
    first = build(music, store, encoder="mfcc", jobs=1)
    old = vectors(store)
    for name, rung in LADDER.items():
        rung.change(music / name, pitch_of(name))
    outcomes = {}

    def note(_done, _todo, outcome):
        if outcome is not None:
            outcomes[outcome.file.path] = outcome.kind

    second = build(music, store, jobs=1, progress=note)
    fresh = vectors(build(music, folder / "fresh", encoder="mfcc", jobs=1).store)
    return SimpleNamespace(
        music=music, store=store, first=first, second=second, outcomes=outcomes, old=old, fresh=fresh
    )


def vectors(store) -> dict[int, bytes]:
    """Read the stored vector of every visible track, by key."""
    matrix = EmbeddingStore.open(store).layer()
    return {key: row.tobytes() for key, row in zip(matrix.keys.tolist(), matrix.values, strict=True)}


def paths(store, folder) -> list[list[str]]:
    """List the files of each visible track that has one below a folder."""
    start = f"{folder}/"
    found = [[file.full_path for file in track.files] for track in EmbeddingStore.open(store).tracks()]
    return sorted(sorted(path.removeprefix(start) for path in one) for one in found if one[0].startswith(start))


@pytest.mark.parametrize("name", LADDER)
def test_rung(ladder, name):
    """What is encoded again, what is only looked at, what fails, and which files each track has afterwards."""
    rung = LADDER[name]
    kinds = Counter(kind for path, kind in ladder.outcomes.items() if path.startswith(f"{name}/"))
    assert kinds == Counter(added=rung.added, known=rung.known, failed=rung.failed)
    assert paths(ladder.store, ladder.music / name) == sorted(map(sorted, rung.tracks))


def test_the_whole_ladder_adds_up(ladder):
    """The report is the sum of the rungs, and only new sound was encoded."""
    report, rungs = ladder.second, LADDER.values()
    for count in ("added", "known", "skipped", "gone"):
        assert getattr(report, count) == sum(getattr(rung, count) for rung in rungs), count
    assert report.failed == 1 + LADDER["spoilt"].failed, "what failed before and is the same fails unlooked"
    assert report.found == report.added + report.known + report.skipped + report.failed
    assert report.tracks == sum(len(rung.tracks) for rung in rungs) == len(EmbeddingStore.open(ladder.store))
    assert report.seconds_audio == pytest.approx(SECONDS * report.added, rel=0.2)


def test_vectors_are_those_of_a_fresh_build(ladder):
    """Bit for bit; what is gone from the folder keeps the vectors that it had."""
    now = vectors(ladder.store)
    assert now.items() >= ladder.fresh.items()
    kept = now.keys() - ladder.fresh.keys()
    assert len(kept) == ladder.second.gone + 1, "the link that leads nowhere is not gone"
    assert all(now[key] == ladder.old[key] for key in kept)
    assert EmbeddingStore.open(ladder.store).verify().ok


def test_coverage_says_what_the_build_said(ladder):
    """Everything that is found is stored or known to fail, and what is gone is counted."""
    (folder,) = coverage(EmbeddingStore.open(ladder.store))
    report = ladder.second
    counts = (folder.found, folder.stored, folder.failed, folder.changed, folder.new, folder.gone)
    assert counts == (report.found, report.found - 2, 2, 0, 0, report.gone)
    assert (folder.root, folder.there) == (str(ladder.music), True)
    assert folder.known == folder.stored + folder.gone + 2, "two links are stored that a build does not list"


def test_prune_forgets_what_is_gone_and_what_returns_is_known(ladder, tmp_path):
    """Tracks without a file are hidden; the sound that comes back is not encoded again, unless `compact` dropped it."""
    store = shutil.copytree(ladder.store, tmp_path / "store")
    lost = {str(ladder.music / name / file) for name, rung in LADDER.items() for file in rung.lost}
    opened = EmbeddingStore.open(store)
    planned = prune(opened, dry_run=True)
    assert len(opened) == ladder.second.tracks
    report = prune(opened)
    assert set(report.forgotten) == set(planned.forgotten) == lost
    assert (report.hidden, report.refused) == (len(lost), ())
    assert report.tracks == planned.tracks - len(lost) == len(opened) == ladder.second.tracks - len(lost)
    back = ladder.music / "deleted" / "back.wav"
    write(back, pitch_of("deleted"))
    third = build(ladder.music, store, jobs=1)
    assert (third.added, third.known, third.gone, third.seconds_audio, third.stages.encoding) == (0, 1, 0, 0, 0)
    track = EmbeddingStore.open(store).track(str(back))
    assert vectors(store)[track.key] == ladder.old[track.key]
    back.unlink()
    prune(EmbeddingStore.open(store))
    EmbeddingStore.open(store).compact()
    write(back, pitch_of("deleted"))
    assert build(ladder.music, store, jobs=1).added == 1, "now its vectors are gone"
    back.unlink()


@pytest.mark.slow
def test_ten_thousand_unchanged_files_take_under_five_seconds(tmp_path):
    """The whole command, from its start to its end, over files that are all stored."""
    root, store = tmp_path / "music", EmbeddingStore.create(tmp_path / "store", CARD, {"dtype": "float16"})
    for number in range(10_000):
        write(root / f"genre {number // 1000}" / f"artist {number // 10}" / f"{number}.wav", 300, seconds=0.001)
    with store.writer() as writer:
        for number, file in enumerate(find_audio(root).files):
            vector = LayerEmbeddings((np.ones(4, np.float32),), 1)
            writer.add(Track(number, (file,), 0.001, RATE, 1), f"{number:032x}", vector)
    command = [sys.executable, "-m", "cli", "build", str(root), "--store", str(store.path)]
    for labelled in (True, False):  # the first one writes the labels of all
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "10000 unchanged" in done.stdout
        assert labelled or time.perf_counter() - began < 5


def test_an_unmounted_root_is_refused_in_words_and_loses_nothing(tmp_path):
    """An empty and a missing folder: neither `build` nor `prune` takes them for a library that was deleted."""
    music, away = tmp_path / "disk" / "music", tmp_path / "away"
    write(music / "a.wav", 300)
    write(music / "b.wav", 400)
    build(music, tmp_path / "store", encoder="mfcc", jobs=1)
    before, store = vectors(tmp_path / "store"), EmbeddingStore.open(tmp_path / "store")
    music.rename(away)
    for make in (lambda: None, music.mkdir):
        make()
        with pytest.raises(ParameterError, match=r"there is no folder|no audio file"):
            build(music, tmp_path / "store")
        report = prune(store)
        assert report.forgotten == ()
        assert "2 stored files of it are kept" in report.refused[0]
        (folder,) = coverage(store)
        assert (folder.there, folder.known, folder.gone) == (False, 2, 0)
    music.rmdir()
    away.rename(music)
    assert build(music, tmp_path / "store").skipped == 2
    assert vectors(tmp_path / "store") == before
