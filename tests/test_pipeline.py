"""From a folder to a store: what is encoded, what is skipped, what fails, what survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedstore import pipeline
from embedstore.errors import (
    EncoderMismatchError,
    LabelsError,
    ParameterError,
    StoreError,
    StoreLockedError,
    UnknownNameError,
)
from embedstore.estimate import estimate
from embedstore.labels import Columns
from embedstore.options import EncoderOptions, encoder_of, hear_file
from embedstore.pipeline import build
from embedstore.store import EmbeddingStore, upkeep, writer

PLUGINS = str(Path(__file__).parent / "plugins")
TOY = "toy_encoder:Toy"


@pytest.fixture(autouse=True)
def toy_on_path(monkeypatch):
    """Let `module:Class` find the toy encoder."""
    monkeypatch.syspath_prepend(PLUGINS)


@pytest.fixture
def music(tmp_path, write_audio):
    """Six tracks, three genres, three codecs, in genre/artist folders."""
    for number in range(6):
        genre, suffix = ("blues", "jazz", "rock")[number % 3], (".wav", ".flac", ".ogg")[number % 3]
        write_audio(f"music/{genre}/artist{number}/song{number}{suffix}", seconds=2.5, frequency=220 * (number + 1))
    return tmp_path / "music"


def run(music, store, **options):
    return build(music, store, **{"encoder": TOY, "jobs": 1, **options})


def test_builds_then_skips_then_takes_in_what_is_new(music, tmp_path, write_audio):
    """A second build encodes nothing; a third encodes the one new file."""
    first = run(music, tmp_path / "store", jobs=2)
    assert (first.found, first.added, first.failed) == (6, 6, 0)
    assert first.seconds_audio == pytest.approx(15.0, abs=0.2)
    second = run(music, tmp_path / "store")
    assert (second.added, second.skipped) == (0, 6)
    write_audio("music/rock/new/song.wav", frequency=1234.0)
    third = run(music, tmp_path / "store")
    assert (third.added, third.skipped, third.tracks) == (1, 6, 7)


def test_default_encoder_is_the_stores_own(music, tmp_path, write_audio):
    """Whoever adds files tomorrow need not repeat the encoder or its options."""
    build(music, tmp_path / "store", encoder=EncoderOptions(name=TOY, layers="1"))
    write_audio("music/rock/new/song.wav", frequency=1234.0)
    report = build(music, tmp_path / "store")
    assert report.added == 1
    assert EmbeddingStore.open(tmp_path / "store").layer(1).values.shape == (7, 6)


def test_vectors_do_not_depend_on_jobs_or_order(music, tmp_path):
    """The same audio has the same float16 vector whatever the number of lanes."""
    stores = [EmbeddingStore.open(run(music, tmp_path / f"store{jobs}", jobs=jobs).store) for jobs in (1, 3)]
    rows = [dict(zip(m.track_ids, m.values, strict=True)) for m in (store.layer(1) for store in stores)]
    assert rows[0].keys() == rows[1].keys()
    assert all(np.array_equal(rows[0][key], rows[1][key]) for key in rows[0])


def test_stored_vector_is_what_the_encoder_says(music, tmp_path):
    """A row equals the frame-weighted mean of the windows of that file, and hear_file finds the same key."""
    store = EmbeddingStore.open(run(music, tmp_path / "store").store)
    path = next(music.rglob("*.flac"))
    report, embeddings = hear_file(encoder_of(store), path)
    key = report.key
    matrix = store.layer(1)
    row = matrix.values[matrix.keys.tolist().index(key)]
    np.testing.assert_allclose(row, embeddings.vectors[1], rtol=1e-3)
    assert store.track(str(path)).key == key


def test_moved_touched_and_copied_files_are_not_encoded_again(music, tmp_path, write_audio):
    """New names, new stamps and second copies of a known sound cost no encoding; copies share a row."""
    run(music, tmp_path / "store")
    song = next(music.glob("blues/*/*.wav"))
    shutil.copy(song, music / "jazz" / "copy.wav")
    moved = next(music.glob("rock/*/*.ogg"))
    moved.rename(music / "rock" / "moved.ogg")
    touched = next(music.glob("jazz/*/*.flac"))
    os.utime(touched, ns=(1, 1))
    report = run(music, tmp_path / "store")
    assert (report.added, report.known, report.skipped, report.tracks) == (0, 3, 4, 6)
    store = EmbeddingStore.open(tmp_path / "store")
    track = store.track(str(song))
    assert sorted(Path(file.full_path).name for file in track.files) == sorted([song.name, "copy.wav"])
    assert track.labels.genres == ("blues", "jazz"), "a sound in two genre folders has both genres"


def test_retagged_file_is_recognised_by_its_sound(music, tmp_path, write_audio):
    """Other bytes with the same samples are the same track."""
    run(music, tmp_path / "store")
    song = next(music.glob("blues/*/*.wav"))
    with song.open("ab") as file:
        file.write(b"LIST\x04\x00\x00\x00INFO")
    assert run(music, tmp_path / "store").known == 1


def test_broken_files_become_failures_and_stop_nothing(music, tmp_path, write_audio):
    """Each unusable file leaves one row with stage and reason; the others are stored."""
    (music / "blues" / "text.mp3").write_text("these are words, not sound\n" * 50)
    (music / "blues" / "empty.flac").touch()
    write_audio("music/rock/blip.wav", seconds=0.01)
    write_audio("music/rock/nan.wav", samples=np.full(16000, np.nan, np.float32), subtype="FLOAT")
    report = run(music, tmp_path / "store", jobs=2)
    assert (report.added, report.failed) == (6, 4)
    failures = {Path(f.file.path).name: f for f in EmbeddingStore.open(tmp_path / "store").failures()}
    assert set(failures) == {"text.mp3", "empty.flac", "blip.wav", "nan.wav"}
    assert all(f.reason and "\n" not in f.reason and f.stage for f in failures.values())
    again = run(music, tmp_path / "store")
    assert (again.added, again.skipped, again.failed) == (0, 6, 4)


def test_failed_file_is_tried_again_when_it_changes_or_when_asked(music, tmp_path, write_audio):
    """A mended file is stored and leaves the list of failures."""
    (music / "blues" / "song.wav").write_bytes(b"RIFF nothing")
    assert run(music, tmp_path / "store").failed == 1
    assert run(music, tmp_path / "store", retry_failed=True).failed == 1
    write_audio("music/blues/song.wav", frequency=99.0)
    report = run(music, tmp_path / "store")
    assert (report.added, report.failed) == (1, 0)
    assert EmbeddingStore.open(tmp_path / "store").failures() == []


def test_nan_from_the_encoder_fails_one_track_only(music, tmp_path, write_audio):
    """A model that gives NaN for one sound costs that sound."""
    loud = np.sign(np.sin(np.arange(40000))).astype(np.float32)
    write_audio("music/rock/loud.wav", samples=loud)
    report = build(music, tmp_path / "store", encoder=EncoderOptions(name=TOY, model="nan"))
    assert (report.added, report.failed) == (6, 1)
    (failure,) = EmbeddingStore.open(tmp_path / "store").failures()
    assert failure.stage == "encode"
    assert "NaN" in failure.reason


def test_labels_follow_their_source_without_encoding(music, tmp_path):
    """Labels can change on a built store; a later build without --labels keeps their source."""
    run(music, tmp_path / "store")
    table = tmp_path / "labels.csv"
    rows = [f"{path.relative_to(music)},polka,someone" for path in music.rglob("song*")]
    table.write_text("path,genre,artist\n" + "\n".join(rows) + "\n")
    report = run(music, tmp_path / "store", labels=table)
    assert (report.added, report.skipped) == (0, 6)
    labels = EmbeddingStore.open(tmp_path / "store").labels()
    assert {label.genres for label in labels.values()} == {("polka",)}
    run(music, tmp_path / "store")
    labels = EmbeddingStore.open(tmp_path / "store").labels()
    assert {label.genres for label in labels.values()} == {("polka",)}
    run(music, tmp_path / "store", labels="folder")
    labels = EmbeddingStore.open(tmp_path / "store").labels()
    assert {label.genres for label in labels.values()} == {("blues",), ("jazz",), ("rock",)}


def test_another_recipe_is_refused_and_named(music, tmp_path):
    """Rows of two recipes never share a store; the message says which field differs."""
    run(music, tmp_path / "store")
    with pytest.raises(EncoderMismatchError, match="layers"):
        build(music, tmp_path / "store", encoder=EncoderOptions(name=TOY, layers="0"))


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_folders_without_audio_are_refused(tmp_path, make):
    """A missing folder, a file and an empty folder each get one clear line, and no store appears."""
    folder = tmp_path / "music"
    if make == "file":
        folder.write_text("x")
    elif make == "empty":
        folder.mkdir()
    with pytest.raises(ParameterError, match="music"):
        run(folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_store_path_that_is_a_file_is_refused_before_work(music, tmp_path):
    """A file where the store should be is left alone."""
    (tmp_path / "store").write_text("mine")
    with pytest.raises(StoreError, match="store"):
        run(music, tmp_path / "store")
    assert (tmp_path / "store").read_text() == "mine"


def test_two_builds_at_once_do_not_mix(music, tmp_path, monkeypatch):
    """The second writer is told who writes."""
    run(music, tmp_path / "store")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # it waits for a builder that is quick
    with EmbeddingStore.open(tmp_path / "store").writer(), pytest.raises(StoreLockedError, match=str(os.getpid())):
        run(music, tmp_path / "store", retry_failed=True)


def test_estimate_writes_nothing_and_counts(music, tmp_path):
    """A dry run tells files, seconds and bytes, and makes no store."""
    plan = estimate(music, tmp_path / "store", encoder=TOY)
    assert (plan.found, plan.todo, plan.skipped) == (6, 6, 0)
    assert plan.seconds_audio == pytest.approx(15.0, rel=0.1)
    assert plan.bytes == 6 * 10 * 2
    assert not (tmp_path / "store").exists()


def test_encoder_of_refuses_other_weights(music, tmp_path):
    """A query is never heard by another model than the store's rows."""
    store = EmbeddingStore.open(build(music, tmp_path / "store", encoder=EncoderOptions(name=TOY, layers="1")).store)
    assert encoder_of(store).card.layers == store.card.layers
    fingerprint = {**store.recipe, "revision": "2"}
    with pytest.raises(EncoderMismatchError, match="revision"):
        store.check_recipe(fingerprint)


def test_keyboard_interrupt_keeps_what_is_finished(music, tmp_path):
    """Ctrl-C commits the finished tracks; the same call goes on from there."""

    def stop_after_two(done, total, outcome):
        if done == 2:
            raise KeyboardInterrupt

    report = run(music, tmp_path / "store", jobs=1, progress=stop_after_two)
    assert report.interrupted
    assert report.added == len(EmbeddingStore.open(tmp_path / "store")) == 2
    assert run(music, tmp_path / "store").added == 4


def test_interrupted_batches_across_files_lose_and_double_nothing(music, tmp_path):
    """Ctrl-C while windows of several files share batches: the next builds end with the rows of one calm build."""

    def stop_after_two(done, total, outcome):
        if done == 2:
            raise KeyboardInterrupt

    batching = EncoderOptions(name=TOY, device="fake")  # batches of 5, files have 3 windows
    while (report := build(music, tmp_path / "store", encoder=batching, progress=stop_after_two)).interrupted:
        assert report.added == 2
    assert EmbeddingStore.open(run(music, tmp_path / "calm").store).verify().ok
    assert EmbeddingStore.open(tmp_path / "store").verify().ok
    calm, stormy = (EmbeddingStore.open(tmp_path / name).layer(1) for name in ("calm", "store"))
    rows = [dict(zip(m.track_ids, m.values.tolist(), strict=True)) for m in (calm, stormy)]
    assert len(rows[0]) == 6
    assert rows[0] == rows[1]


def test_report_says_where_the_time_went(music, tmp_path):
    """Seconds per stage are there when something was encoded; a slow encoder leaves little outside it."""
    report = build(music, tmp_path / "store", encoder=EncoderOptions(name=TOY, model="slow"), jobs=1)
    stages = report.to_dict()["stages"]
    assert stages.keys() == {
        *("loading", "hashing", "decoding", "waiting", "encoding", "storing", "share_outside_encoder")
    }
    assert min(stages.values()) > 0
    assert stages["encoding"] >= 0.02 * 3  # 18 windows in batches of 4, each batch 0.02 s
    assert stages["waiting"] + stages["encoding"] <= report.seconds_wall
    again = build(music, tmp_path / "store", jobs=1)
    assert (again.stages.encoding, again.stages.share_outside_encoder) == (0, 0)


def test_profile_lists_what_is_slow(music, tmp_path):
    """One row a file, whatever became of it, beside the machine and the report; written when interrupted, too."""
    (music / "broken.mp3").write_text("no sound" * 100)
    run(music, tmp_path / "store", profile=tmp_path / "profile.json")
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile.keys() == {"machine", "encoder", "device", "jobs", "report", "files"}
    assert profile["machine"].keys() >= {"cores", "python", "system", "numpy", "embedstore-mir"}
    files = {Path(row["path"]).name: row for row in profile["files"]}
    assert len(files) == 7
    assert files["broken.mp3"]["kind"] == "failed"
    assert files["song0.wav"]["seconds_audio"] == 2.5
    assert all(files["song0.wav"][stage] > 0 for stage in ("hashing", "decoding", "waiting", "encoding"))
    for stage in ("hashing", "decoding", "waiting", "encoding"):
        assert profile["report"]["stages"][stage] == pytest.approx(sum(row[stage] for row in profile["files"]))

    def stop_after_two(done, total, outcome):
        if done == 2:
            raise KeyboardInterrupt

    path = tmp_path / "interrupted.json"
    assert run(music, tmp_path / "other", jobs=1, profile=path, progress=stop_after_two).interrupted
    stopped = json.loads(path.read_text())
    assert (len(stopped["files"]), stopped["report"]["interrupted"]) == (2, True)


@pytest.mark.parametrize("where", ["missing/profile.json", "music"])
def test_profile_that_cannot_be_written_is_refused_before_work(music, tmp_path, where):
    """Nobody learns of it after the work; no store appears, and a file that was there is untouched."""
    with pytest.raises(ParameterError, match=f"profile .*{where} cannot be written"):
        run(music, tmp_path / "store", profile=tmp_path / where)
    assert not (tmp_path / "store").exists()
    (tmp_path / "old.json").write_text("old")
    with pytest.raises(UnknownNameError, match="music2vek"):
        run(music, tmp_path / "store", encoder="random:music2vek", profile=tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "old"


BUILD = """
import sys
sys.path.insert(0, {plugins!r})
from embedstore.pipeline import EncoderOptions, build
build({music!r}, {store!r}, encoder=EncoderOptions(name={toy!r}, model="slow"), jobs=2,
      progress=lambda done, total, outcome: print(done, flush=True))
"""


def test_killed_build_is_resumed_and_equal_to_an_undisturbed_one(tmp_path, write_audio, monkeypatch):
    """SIGKILL in the middle, again and again: the finished store equals one that was never disturbed."""
    for number in range(100):
        write_audio(f"music/g{number % 3}/{number}.wav", seconds=0.3, frequency=100.0 + 7 * number)
    music, store = tmp_path / "music", tmp_path / "store"
    code = BUILD.format(plugins=PLUGINS, music=str(music), store=str(store), toy=TOY)
    for kill_at in (10, 75):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if int(line) >= kill_at:
                process.send_signal(signal.SIGKILL)
        process.wait()
    final = build(music, store, jobs=2)
    assert final.added < 100, "nothing survived the kills"
    calm = EmbeddingStore.open(build(music, tmp_path / "calm", encoder=TOY).store)
    stormy = EmbeddingStore.open(store)
    assert stormy.verify().ok
    rows = [dict(zip(m.track_ids, m.values.tolist(), strict=True)) for m in (calm.layer(1), stormy.layer(1))]
    assert len(rows[0]) == 100
    assert rows[0] == rows[1]


def test_many_small_shards_are_merged(tmp_path, write_audio, monkeypatch):
    """A build that leaves many small shards merges them; where that is refused, the build says so and is done."""
    for number in range(6):
        write_audio(f"music/{number}.wav", seconds=0.3, frequency=100.0 + 7 * number)
    monkeypatch.setattr(writer, "ROWS", 2)
    monkeypatch.setattr(pipeline, "MANY", 4)
    report = run(tmp_path / "music", tmp_path / "few")
    assert [shard.rows for shard in EmbeddingStore.open(report.store).shards()] == [2, 2, 2]
    monkeypatch.setattr(pipeline, "MANY", 3)
    before = EmbeddingStore.open(report.store).layer(1)
    run(tmp_path / "music", tmp_path / "few")
    merged = EmbeddingStore.open(report.store)
    assert [shard.rows for shard in merged.shards()] == [6]
    np.testing.assert_array_equal(merged.layer(1).values, before.values)

    def full(*_arguments):
        raise StoreError("cannot store more: the disk is full")

    monkeypatch.setattr(upkeep, "_put", full)
    report = run(tmp_path / "music", tmp_path / "full")
    assert report.added == 6
    assert report.notes[-1] == "small shards are not merged: cannot store more: the disk is full"


def genres(store):
    """Count tracks by genre."""
    counted = {}
    for labels in EmbeddingStore.open(store).labels().values():
        for genre in labels.genres or ("-",):
            counted[genre] = counted.get(genre, 0) + 1
    return counted


def write_csv(path, music, pattern, **columns):
    """One row for each file that matches, with the same values."""
    rows = [",".join([str(file.relative_to(music)), *columns.values()]) for file in sorted(music.rglob(pattern))]
    path.write_text("\n".join([",".join(["path", *columns]), *rows]) + "\n")
    return path


def test_labels_that_were_asked_rule_and_are_remembered_with_their_columns(music, tmp_path):
    """A new source takes away what it does not name; the next build without --labels reads it again, same columns."""
    run(music, tmp_path / "store")
    everything = write_csv(tmp_path / "a.csv", music, "song*", genre="polka", style="fast")
    run(music, tmp_path / "store", labels=everything, columns=Columns(genre="style"))
    assert genres(tmp_path / "store") == {"fast": 6}
    assert run(music, tmp_path / "store").relabelled == 0
    assert genres(tmp_path / "store") == {"fast": 6}
    some = write_csv(tmp_path / "b.csv", music, "blues/*/song*", genre="slow")
    assert run(music, tmp_path / "store", labels=some).relabelled == 6
    assert genres(tmp_path / "store") == {"slow": 2, "-": 4}
    run(music, tmp_path / "store", labels="none")
    run(music, tmp_path / "store")
    assert genres(tmp_path / "store") == {"-": 6}


def test_building_a_part_does_not_rename_genres(music, tmp_path, write_audio):
    """Another folder has no say over labels that are there; its new tracks get its own folder names."""
    run(music, tmp_path / "store")
    before = genres(tmp_path / "store")
    write_audio("music/blues/artist9/song.wav", frequency=4321.0)
    report = run(music / "blues", tmp_path / "store")
    assert (report.added, report.relabelled) == (1, 0)
    assert genres(tmp_path / "store") == {**before, "artist9": 1}


def test_lost_label_file_is_a_note_unless_it_was_asked_for(music, tmp_path, write_audio):
    """New tracks are stored all the same, and old labels stay."""
    table = write_csv(tmp_path / "a.csv", music, "song*", genre="polka")
    run(music, tmp_path / "store", labels=table)
    table.unlink()
    write_audio("music/blues/new.wav", frequency=4321.0)
    report = run(music, tmp_path / "store")
    assert report.added == 1
    assert any("labels stay as they are" in note for note in report.notes)
    assert genres(tmp_path / "store") == {"polka": 6, "-": 1}
    with pytest.raises(LabelsError):
        run(music, tmp_path / "store", labels=table)


def test_passing_fault_keeps_the_stored_track_and_is_tried_again(music, tmp_path):
    """A decoder that says nothing in time is not the file's fault: the track stays, the next build looks again."""
    run(music, tmp_path / "store")
    song = next(music.glob("blues/*/*.wav"))
    os.utime(song, ns=(1, 1))
    report = run(music, tmp_path / "store", timeout=1e-6)
    assert (report.failed, report.tracks) == (1, 6)
    assert any(song.name in note and "kept" in note for note in report.notes)
    report = run(music, tmp_path / "store")
    assert (report.known, report.failed) == (1, 0)
    new = build(music, tmp_path / "other", encoder=TOY, timeout=1e-6)
    assert (new.added, new.failed) == (0, 6)
    assert run(music, tmp_path / "other").added == 6


def test_paths_that_are_gone_are_dropped_where_the_sound_lies_elsewhere(music, tmp_path):
    """After a move only the new path is shown; a deleted file's track is kept and counted."""
    run(music, tmp_path / "store")
    moved = music.rename(tmp_path / "moved")
    report = run(moved, tmp_path / "store")
    assert (report.added, report.known, report.gone) == (0, 6, 0)
    tracks = EmbeddingStore.open(tmp_path / "store").tracks()
    assert all(len(track.files) == 1 and Path(track.path).exists() for track in tracks)
    next(moved.glob("rock/*/*.ogg")).unlink()
    report = run(moved, tmp_path / "store")
    assert (report.gone, report.tracks) == (1, 6)
    assert any("do not now" in note for note in report.notes)


def test_files_that_vanish_are_counted_apart(music, tmp_path):
    """A file that is deleted between listing and decoding leaves no failure row."""

    def delete_all(done, total, outcome):
        if outcome is None:
            for file in music.rglob("song*.*"):
                file.unlink()

    report = run(music, tmp_path / "store", progress=delete_all)
    assert report.found == report.added + report.vanished
    assert report.vanished > 0
    assert EmbeddingStore.open(tmp_path / "store").failures() == []


def test_official_splits_reach_the_store(music, tmp_path):
    """A data set's reader and the sides of its split survive a second build; a sound on two sides is on none, and said."""
    copy = music / "copy.flac"
    shutil.copy(music / "jazz/artist1/song1.flac", copy)
    rows = [f"{path.relative_to(music)},x,{'test' if path == copy else 'train'}" for path in music.rglob("*.*")]
    table = tmp_path / "labels.csv"
    table.write_text("path,genre,split\n" + "\n".join(rows) + "\n")
    first = run(music, tmp_path / "store", labels=f"csv:{table}")
    assert "1 tracks lie in files of different sides of the official split; they are on none" in first.notes
    for _ in range(2):
        labels = EmbeddingStore.open(tmp_path / "store").labels().values()
        assert sorted(one.split for one in labels) == ["", *["train"] * 5]
        assert {one.source for one in labels} == {f"csv:{table}"}
        assert run(music, tmp_path / "store").relabelled == 0


def test_interrupted_build_remembers_its_labels(music, tmp_path):
    """Whoever goes on without --labels goes on with the same ones, also after a kill in the middle."""
    table = write_csv(tmp_path / "a.csv", music, "song*", genre="polka")

    def stop_after_two(done, total, outcome):
        if done == 2:
            raise KeyboardInterrupt

    assert run(music, tmp_path / "store", labels=table, jobs=1, progress=stop_after_two).interrupted
    run(music, tmp_path / "store")
    assert genres(tmp_path / "store") == {"polka": 6}


def test_columns_without_a_file_are_refused(music, tmp_path):
    """A named column is never dropped silently."""
    with pytest.raises(ParameterError, match=r"style.*--labels"):
        run(music, tmp_path / "store", columns=Columns(genre="style"))


def test_other_folders_are_left_alone(music, tmp_path, write_audio):
    """Building one folder forgets no path of another, not even one that is away."""
    other = write_audio("other/rock/far.wav", frequency=4321.0)
    run(tmp_path / "other", tmp_path / "store")
    other.rename(tmp_path / "away.wav")
    report = run(music, tmp_path / "store")
    assert (report.added, report.gone, report.tracks) == (6, 0, 7)
