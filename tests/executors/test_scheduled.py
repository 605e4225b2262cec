"""Plan, shards, finalize: the same store as from one process, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from embedstore.errors import EncoderMismatchError, ParameterError, StoreError, StoreLockedError
from embedstore.options import EncoderOptions
from embedstore.pipeline import build
from embedstore.planfile import read_plan
from embedstore.scheduled import finalize, plan_shards, run_shards
from embedstore.store import EmbeddingStore, shard_writer

TOY = "toy_encoder:Toy"
PLUGINS = str(Path(__file__).parent.parent / "plugins")


@pytest.fixture
def plan(music, tmp_path):
    """Plan the music in four shards."""
    report = plan_shards(music, tmp_path / "store", tmp_path / "plan.json", encoder=TOY, shard_size=4)
    assert (report.found, report.todo, report.shards) == (14, 14, 4)
    return tmp_path / "plan.json"


def local(music, tmp_path):
    """Build the same in one process."""
    report = build(music, tmp_path / "local", encoder=TOY, jobs=2)
    assert (report.added, report.known, report.failed) == (12, 1, 1)
    return tmp_path / "local"


def test_shards_in_any_order_add_up_to_a_local_build(plan, music, tmp_path, content):
    """The same keys, vectors bit for bit, files, labels and failures; a sound in two shards is one track with two files."""
    reports = [run_shards(plan, numbers, jobs=1) for numbers in (["3-4"], ["1"], [2])]
    assert [sum(getattr(r, kind) for r in reports) for kind in ("files", "added", "failed", "before")] == [14, 13, 1, 0]
    report = finalize(plan)
    assert (report.found, report.added, report.known, report.failed, report.tracks) == (14, 12, 1, 1, 12)
    assert content(tmp_path / "store") == content(local(music, tmp_path))
    again = build(music, tmp_path / "store", jobs=1)
    assert (again.added, again.skipped, again.failed, again.relabelled) == (0, 13, 1, 0)


def test_finalize_names_what_is_missing_and_harms_nothing(plan, tmp_path, content):
    """It can be asked too early, and any number of times."""
    run_shards(plan, ["1", "3"], jobs=1)
    before = set((tmp_path / "store").rglob("*-*.*"))
    with pytest.raises(StoreError, match=r"2 of the 4 shards .* are not done: 2, 4; .* run-shard .*plan.json 2 4$"):
        finalize(plan)
    assert set((tmp_path / "store").rglob("*-*.*")) == before
    run_shards(plan, ["2", "4"], jobs=1)
    first, then = finalize(plan).to_dict(), content(tmp_path / "store")
    second = finalize(plan).to_dict()
    assert [first[k] == second[k] for k in ("found", "added", "known", "skipped", "failed", "tracks")] == [True] * 6
    assert content(tmp_path / "store") == then
    EmbeddingStore.open(tmp_path / "store").compact()
    assert finalize(plan).tracks == 12, "the store remembers that the shards were done when their marks are gone"
    assert content(tmp_path / "store") == then


def test_what_is_done_is_not_done_again(plan, monkeypatch):
    """A finished shard needs no encoder; of half a shard only the rest is encoded."""
    half = []

    def stop(done, total, outcome):
        half.append(outcome)
        if done == 2:
            raise KeyboardInterrupt

    stopped = run_shards(plan, ["1"], jobs=1, progress=stop)
    assert (stopped.interrupted, stopped.added + stopped.failed) == (True, 2)
    seen = []
    rest = run_shards(plan, ["1"], jobs=1, progress=lambda done, total, outcome: seen.append(outcome))
    assert (rest.interrupted, rest.before, len(seen)) == (False, 2, 2)
    assert {o.file for o in half}.isdisjoint(o.file for o in seen)
    assert all(o.embeddings is None for o in seen), "vectors go to the store, not to who follows"
    monkeypatch.setattr(EncoderOptions, "load", lambda *_: pytest.fail("nothing is left to encode"))
    assert run_shards(plan, ["1"]).before == 4


RUN = """
import sys
sys.path.insert(0, {plugins!r})
from embedstore.scheduled import run_shards
run_shards({plan!r}, sys.argv[1:], jobs=1, progress=lambda done, total, outcome: print(done, flush=True))
"""


def start(plan, *numbers):
    """Run shards in a process of its own."""
    command = [sys.executable, "-c", RUN.format(plugins=PLUGINS, plan=str(plan)), *numbers]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_at_once_and_one_of_them_killed(plan, music, tmp_path, content):
    """They write side by side; nobody else may write meanwhile; what the killed one left undone is done again."""
    killed, other = start(plan, "1-2"), start(plan, "3-4")
    for line in killed.stdout:
        if int(line) == 6:  # in its second shard
            killed.send_signal(signal.SIGKILL)
    assert other.wait() == 0
    killed.wait()
    run_shards(plan, ["1-4"], jobs=1)
    finalize(plan)
    assert content(tmp_path / "store") == content(local(music, tmp_path))


@pytest.mark.slow
def test_the_same_shard_twice_at_once_is_one_shard(plan, music, tmp_path, content):
    """As when a scheduler takes a slow machine for a dead one."""
    for process in [start(plan, "1-4"), start(plan, "1-4")]:
        process.wait()
    finalize(plan)
    assert content(tmp_path / "store") == content(local(music, tmp_path))


def test_nobody_ends_or_builds_while_a_shard_is_written(plan, music, tmp_path, monkeypatch):
    """The line says who writes; a shard waits for a builder that is quick."""
    recipe = EmbeddingStore.open(tmp_path / "store").recipe
    run_shards(plan, ["1-4"], jobs=1)
    with shard_writer(tmp_path / "store", "9" * 32, 9, recipe), monkeypatch.context() as hurry:
        hurry.setattr(time, "sleep", lambda _: None)
        for act in (lambda: finalize(plan), lambda: build(music, tmp_path / "store", retry_failed=True)):
            with pytest.raises(StoreLockedError, match=str(os.getpid())):
                act()
    with EmbeddingStore.open(tmp_path / "store").writer():
        waiting = threading.Thread(target=run_shards, args=(plan, ["1"]))
        waiting.start()
        time.sleep(0.1)
    waiting.join()
    assert finalize(plan).tracks == 12


def test_a_plan_replaces_nothing_but_a_plan(music, tmp_path):
    """Neither a song nor a file of the store gives way to a plan; an older plan does."""
    song = next(music.rglob("*.wav"))
    for out, reason in ((song, "exists and is no plan"), (tmp_path / "store/x.json", "would lie in the store")):
        before = song.read_bytes()
        with pytest.raises(ParameterError, match=reason):
            plan_shards(music, tmp_path / "store", out, encoder=TOY)
        assert song.read_bytes() == before
    for _ in range(2):
        plan_shards(music, tmp_path / "store", tmp_path / "plan.json", encoder=TOY)


def test_what_is_merged_in_between_gives_way(music, tmp_path, write_audio):
    """A file that failed before it was planned, and is good when its shard is done, is stored; whatever is compacted when."""
    bad = music / "bad.wav"
    bad.write_bytes(b"no sound")
    build(music, tmp_path / "store", encoder=TOY)
    write_audio("music/bad.wav", seconds=0.6, frequency=2500.0)
    plan_shards(music, tmp_path / "store", tmp_path / "plan.json")
    EmbeddingStore.open(tmp_path / "store").compact()
    run_shards(tmp_path / "plan.json", ["1"], jobs=1)
    report = finalize(tmp_path / "plan.json")
    assert report.added == 1
    assert str(bad) not in [failure.file.full_path for failure in EmbeddingStore.open(tmp_path / "store").failures()]
    EmbeddingStore.open(tmp_path / "store").compact()
    assert run_shards(tmp_path / "plan.json", ["1"]).before == 1


def test_two_plans_of_one_store_do_not_take_each_other_for_done(music, tmp_path, write_audio):
    """Both were made before either was worked on, so that they have the same numbers."""
    write_audio("more/one.wav", seconds=0.6, frequency=3000.0)
    store, plans = tmp_path / "store", [tmp_path / "a.json", tmp_path / "b.json"]
    plan_shards(music, store, plans[0], encoder=TOY)
    plan_shards(tmp_path / "more", store, plans[1], encoder=TOY)
    assert run_shards(plans[0], ["1"], jobs=1).added == 12
    with pytest.raises(StoreError, match="not done: 1"):
        finalize(plans[1])
    assert run_shards(plans[1], ["1"], jobs=1).added == 1
    assert [finalize(plan).tracks for plan in plans] == [13, 13]


def test_moved_touched_and_retagged_files_are_not_encoded_again(music, tmp_path, content):
    """The plan says what its shards need to know of the store."""
    build(music, tmp_path / "store", encoder=TOY, jobs=1)
    (music / "g0" / "03.wav").rename(music / "g1" / "moved.wav")
    os.utime(music / "g1" / "04.wav", ns=(1, 1))
    with (music / "g2" / "05.wav").open("ab") as file:
        file.write(b"LIST\x04\x00\x00\x00INFO")
    shutil.copytree(tmp_path / "store", tmp_path / "local")
    report = plan_shards(music, tmp_path / "store", tmp_path / "plan.json")
    assert (report.todo, report.skipped, report.failed) == (3, 10, 1)
    ran = run_shards(tmp_path / "plan.json", ["1"], jobs=1)
    assert (ran.added, ran.known) == (0, 3)
    ended, built = finalize(tmp_path / "plan.json"), build(music, tmp_path / "local", jobs=1)
    assert (built.known, built.skipped, built.failed, built.tracks) == (3, 10, 1, 12)
    assert (ended.skipped, ended.failed, ended.tracks) == (10, 1, 12)
    assert content(tmp_path / "store") == content(tmp_path / "local")


def test_files_that_go_come_or_fail_after_the_plan(plan, music, tmp_path, write_audio):
    """Nothing is stuck: what vanished is counted, what came is noted, what cannot be read keeps its track."""
    (music / "g0" / "00.wav").unlink()
    write_audio("music/g0/late.wav", seconds=0.6, frequency=2222.0)
    ran = run_shards(plan, ["1-4"], jobs=1)
    assert ran.vanished == 1
    report = finalize(plan)
    assert (report.found, report.added, report.vanished, report.failed) == (14, 12, 1, 1)
    assert "1 files are new or have changed since the plan; plan again" in report.notes
    os.utime(music / "g1" / "01.wav", ns=(1, 1))
    plan_shards(music, tmp_path / "store", plan)
    ran = run_shards(plan, ["1"], jobs=1, timeout=1e-6)
    assert any("01.wav" in note and "is kept" in note for note in ran.notes)
    report = finalize(plan)
    assert (report.failed, report.tracks) == (3, 12)
    assert any("01.wav" in note and "is kept" in note for note in report.notes)


def test_a_plan_of_nothing_still_writes_labels(music, tmp_path):
    """As `build` with other labels does."""
    build(music, tmp_path / "store", encoder=TOY, jobs=1)
    assert plan_shards(music, tmp_path / "store", tmp_path / "plan.json", labels="none").shards == 0
    assert finalize(tmp_path / "plan.json").relabelled == 12
    with pytest.raises(ParameterError, match="has shards 1 to 0"):
        run_shards(tmp_path / "plan.json", ["1"])


def test_a_plan_finds_the_labels_of_a_reader_from_anywhere(music, tmp_path, monkeypatch):
    """The source is written down with an absolute path behind the reader's name; sides of the split travel with the files."""
    files = sorted(path for path in music.rglob("*") if path.is_file())
    (tmp_path / "labels.csv").write_text("path,genre,split\n" + "".join(f"{path},x,valid\n" for path in files))
    monkeypatch.chdir(tmp_path)
    plan_shards(music, "store", "plan.json", encoder=TOY, labels="csv:labels.csv")
    header, shards = read_plan("plan.json")
    assert header.labels == f"csv:{tmp_path}/labels.csv"
    assert {one.labels.split for shard in shards.values() for one in shard.files} == {"valid"}


def test_another_store_or_encoder_is_refused(plan, music, tmp_path):
    """Before anything is written."""
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreError, match="no store"):
        run_shards(plan, ["1"])
    build(music, tmp_path / "store", encoder=EncoderOptions(name=TOY, layers="0"), jobs=1)
    with pytest.raises(EncoderMismatchError, match="layers: stored 0, now 0, 1"):
        run_shards(plan, ["1"], jobs=1)
    with pytest.raises(EncoderMismatchError, match="plan again"):
        finalize(plan)


def damaged(plan):
    """List ways in which a plan can be wrong: name, lines, words of the message."""
    head, *shards = [json.loads(line) for line in plan.read_text().splitlines()]

    def change(**fields):
        return [{**head, **fields}, *shards]

    def first(**fields):
        return [head, {**shards[0], **fields}, *shards[1:]]

    one = shards[0]["files"][0]
    return {
        "version": (change(embedstore_plan=2), "format 2"),
        "encoder": (change(encoder={"name": 3}), "options of an encoder"),
        "option": (change(encoder={"name": TOY, "exec": "x"}), "options of an encoder"),
        "columns": (change(columns={"genre": 1}), "columns of a table"),
        "relative store": (change(store="store"), "absolute"),
        "numbers": (change(id="\ud800"), "should have an id"),
        "negative": (change(shards=-1), "from 0"),
        "limit": (change(limit=0), "from 1"),
        "missing shard": ([head, *shards[:-1]], "3 of its 4 shards"),
        "extra shard": ([head, *shards, shards[0]], "5 of its 4 shards"),
        "empty shard": (first(files=[]), "1 to 4096 files"),
        "path": (first(files=[{**one, "file": {**one["file"], "path": "../../etc/passwd"}}]), "without '..'"),
        "root": (first(files=[{**one, "file": {**one["file"], "root": "/etc"}}]), "files below"),
        "stamp": (first(files=[{**one, "file": {**one["file"], "size": "big"}}]), "size"),
        "labels": (first(files=[{**one, "labels": 3}]), "labels"),
        "stored": (first(files=[{**one, "stored": "yes"}]), "stored"),
        "keys": (first(keys=[-1]), "not keys"),
        "hashes": (first(hashes={"ab": "cd"}), "not keys"),
        "list": ([[]], "embedstore_plan"),
    }


def test_broken_plans_are_one_line(plan, tmp_path):
    """Each says what is wrong with it; none is worked on."""
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    good = plan.read_bytes()
    for name, (lines, words) in damaged(plan).items():
        plan.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for act in (lambda: run_shards(plan, ["1"]), lambda: finalize(plan)):
            with pytest.raises(ParameterError, match="plan again") as caught:
                act()
            assert words in str(caught.value), name
            assert "\n" not in str(caught.value)
    for data in (b"", good[:-1], good[: len(good) // 2], b"\x00" * 100, b"[" * 100_000 + b"\n", good[1:]):
        plan.write_bytes(data)
        with pytest.raises(ParameterError, match="not a plan of this version, or damaged"):
            run_shards(plan, ["1"])
    plan.unlink()
    with pytest.raises(ParameterError, match=r"No such file .* embedstore plan AUDIO_DIR"):
        finalize(plan)
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("numbers", [["0"], ["5"], ["2-1"], ["4-5"], ["one"], ["1,2"], ["-1"], ["1-999999999"], []])
def test_numbers_that_no_shard_has(plan, numbers):
    """The message says which there are."""
    with pytest.raises(ParameterError, match=r"4 shards|shards 1 to 4"):
        run_shards(plan, numbers)


def test_commands(music, tmp_path, monkeypatch):
    """The three of them, with JSON and with the number that Slurm gives; exit codes for scripts."""
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        result = CliRunner().invoke(cli.main, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in words else result.output

    planned = run("plan", music, "--store", "store", "--encoder", TOY, "--shard-size", 7, "--json")
    assert (planned["shards"], planned["plan"]) == (2, str(tmp_path / "plan.json"))
    assert "2 of the 2 shards of plan.json are not done: 1-2" in run("finalize", "plan.json", code=1)
    assert run("run-shard", "plan.json", "2", "--jobs", 1, "--json")["shards"] == [2]
    assert "which of the plan's 2 shards?" in run("run-shard", "plan.json", code=1)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert "1 shard, 7 files: 6 added" in run("run-shard", "plan.json", "--jobs", 1)
    assert "1 shard, 7 files: 0 added, 0 known sound, 7 done before" in run("run-shard", "plan.json", "2")
    assert "14 files: 12 added, 1 known sound, 0 unchanged, 1 failed" in run("finalize", "plan.json")
    run("finalize", "plan.json", "--strict", code=1)
    assert "the plan no/plan.json cannot be written" in run(
        "plan", music, "--store", "store", "--out", "no/plan.json", code=1
    )
    assert "leave out --engine" in run("build", music, "--dry-run", "--engine", "ray", code=2)
    assert "give engine 'ray'" in run("build", music, "--address", "auto", code=1)
