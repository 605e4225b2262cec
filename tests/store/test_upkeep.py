"""Compacting, merging, removing, repairing: less space, more tracks, fewer tracks, and never a wrong or a lost one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_material as m

from embedstore.errors import (
    EncoderMismatchError,
    ParameterError,
    StoreLockedError,
    TrackNotFoundError,
)
from embedstore.store import (
    EmbeddingStore,
    ShardWriter,
    disk,
    finalized,
    finished_shards,
    note_finalized,
    shard_writer,
    upkeep,
)
from embedstore.types import TrackLabels


def said(store: EmbeddingStore) -> tuple:
    """All that a store says, whatever its shards are."""
    return (
        sorted(store.tracks(), key=lambda track: track.key),
        sorted(store.files().items()),
        store.failures(),
        store.labels(),
        [dict(zip(store.keys().tolist(), store.layer(i).values.tolist(), strict=True)) for i in range(len(m.DIMS))],
        store.problems,
    )


def lived_in(path: Path, numbers: range = range(200)) -> EmbeddingStore:
    """Make a store of several commits about which much has been said since."""
    store, first = m.make(path, numbers), numbers[0]
    with store.writer() as w:
        w.fail(m.file(900), "decode", "broken")
        w.label(1003 + first, TrackLabels(("new",)))
        w.link(m.file(901), m.file_hash(5 + first), 1005 + first)
    with store.writer() as w:
        w.touch(replace(m.file(4 + first), mtime_ns=5))
        w.forget(m.file(6 + first).full_path)
        w.forget(m.file(5 + first).full_path)
        w.fail(m.file(8 + first), "open", "no longer readable")
    return store


def names(store: EmbeddingStore, folder: str) -> list[str]:
    return sorted(path.name for path in (store.path / folder).iterdir())


def check_same(store: EmbeddingStore, before: tuple) -> None:
    """Check that a store says what it said, here, in another process's eyes, and without its catalogue."""
    assert said(store) == before
    again = EmbeddingStore.open(store.path)
    assert said(again) == before
    assert again.verify().ok
    for name in ("catalog.sqlite", "catalog.seal"):
        (store.path / name).unlink(missing_ok=True)
    assert said(EmbeddingStore.open(store.path)) == before


# -- compact -------------------------------------------------------------------------------------------------------


def test_compact_changes_nothing_but_the_files(tmp_path):
    """Small shards become one, deltas become one, useless rows go; every word and every vector stays; twice is once."""
    store = lived_in(tmp_path / "s")
    before = said(store)
    report = store.compact()
    assert (report.before.shards, report.after.shards, report.before.deltas, report.after.deltas) == (4, 1, 2, 1)
    assert report.dropped == 2  # rows 6 and 8, that no file holds
    assert report.after.bytes < report.before.bytes
    assert len(names(store, "shards")) == len(names(store, "deltas")) == 1
    check_same(store, before)
    assert not store.has_key(1006)
    again = store.compact()
    assert (again.before, again.dropped) == (again.after, 0)
    with store.writer() as w:
        m.fill(w, range(300, 310))
    before = said(store)
    assert store.compact().after.shards == 1
    check_same(store, before)


def test_compact_waits_until_it_is_worth_it(tmp_path):
    """With fewer shards and deltas that could go than are asked for, nothing is touched."""
    store = lived_in(tmp_path / "s")  # four shards, two deltas
    before, files = said(store), names(store, "shards") + names(store, "deltas")
    assert store.compact(least=6).after.shards == 4
    assert names(store, "shards") + names(store, "deltas") == files
    assert store.compact(least=5).after.shards == 1
    check_same(store, before)


def test_compact_leaves_big_shards_alone(tmp_path, monkeypatch):
    """A shard of more than half the size is not written again, whatever is said about its tracks; a useless row is reason enough."""
    monkeypatch.setattr(upkeep, "ROWS", 120)
    store = m.make(tmp_path / "s", range(150))  # 64 + 64 + 22
    big = names(store, "shards")[:2]
    with store.writer() as w:
        w.label(1001, TrackLabels(("new",)))
        w.link(m.file(900), m.file_hash(1), 1001)
        w.touch(replace(m.file(2), mtime_ns=5))
        w.label(1140, TrackLabels(("newer",)))
        m.fill(w, range(200, 230))
    before = said(store)
    report = store.compact()
    assert (report.before.shards, report.after.shards) == (4, 3)
    assert set(big) < set(names(store, "shards"))
    check_same(store, before)
    store.remove([m.file(3).full_path])
    before = said(store)
    assert store.compact().dropped == 1
    assert big[0] not in names(store, "shards")
    assert big[1] in names(store, "shards")
    check_same(store, before)


def test_compact_takes_no_more_than_fits(tmp_path, monkeypatch):
    """Merged shards have at most so many rows and bytes."""
    monkeypatch.setattr(upkeep, "ROWS", 130)
    store = m.make(tmp_path / "s", range(320))
    assert [shard.rows for shard in store.shards()] == [64] * 5
    store.compact()
    assert sorted(shard.rows for shard in store.shards()) == [64, 128, 128]
    other = m.make(tmp_path / "t", range(320))
    monkeypatch.setattr(upkeep, "BYTES", 2 * max(shard.size for shard in other.shards()))
    monkeypatch.setattr(upkeep, "ROWS", 4096)
    other.compact()
    assert sorted(shard.rows for shard in other.shards()) == [64, 128, 128]


def test_a_path_that_an_older_shard_speaks_of(tmp_path, monkeypatch):
    """What replaced shards and deltas said last about a path does not give way to an older word in a shard that stays."""
    monkeypatch.setattr(upkeep, "ROWS", 100)
    store = m.make(tmp_path / "s", range(60))  # stays: more than half
    with store.writer() as w:
        w.add(m.track(70, m.file(3).path), m.file_hash(70), m.vectors(70))  # other sound at an old path
    with store.writer() as w:
        w.add(m.track(71, m.file(4).path), m.file_hash(71), m.vectors(71))
        m.fill(w, range(80, 90))
    with store.writer() as w:
        w.forget(m.file(4).full_path)
        w.link(m.file(4), m.file_hash(4), 1004)
        w.forget(m.file(3).full_path)
    before = said(store)
    big = names(store, "shards")[0]
    store.compact()
    assert big not in names(store, "shards")  # row 3 is useless
    check_same(store, before)
    with store.writer() as w:
        w.forget(m.file(5).full_path)
        w.link(m.file(5), m.file_hash(5), 1005)
        w.fail(m.file(950), "open", "x")
        m.fill(w, range(100, 105))
    before = said(store)
    store.compact()
    check_same(store, before)


def test_compact_keeps_windows(tmp_path):
    """The rows of each window move with their tracks."""
    store = m.make_kept(tmp_path / "s", range(3))
    with store.writer() as w:
        for i in range(3, 6):
            w.add(m.track(i), m.file_hash(i), m.windowed(i))
    before = store.windows(1)
    store.remove([store.tracks()[2].id])
    assert store.compact().after.shards == 1
    after = EmbeddingStore.open(tmp_path / "s").windows(1)
    kept = before.keys != 1002
    for column in ("keys", "starts", "ends", "frames", "values"):
        np.testing.assert_array_equal(getattr(after, column), getattr(before, column)[kept])
    assert store.verify().ok


def test_compact_leaves_damage_to_repair(tmp_path):
    """A shard that is damaged is not merged and not removed; the others are."""
    store = m.make(tmp_path / "s", range(150))
    victim = store.path / store.shards()[1].name
    data, stat = bytearray(victim.read_bytes()), victim.stat()
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # seen only when it is read
    report = store.compact()
    assert victim.exists()
    assert report.after.shards == 2
    again = EmbeddingStore.open(tmp_path / "s")
    m.check(again, [*range(64), *range(128, 150)])
    assert [p.split()[0] for p in again.problems] == [f"shards/{victim.name}"]


def test_readers_follow_a_compaction(tmp_path, monkeypatch):
    """An open store, an iterator in the middle and a reader without the catalogue's file go on when shards are merged."""
    store = m.make(tmp_path / "s", range(200))
    whole, copy = store.layer(1), EmbeddingStore.open(tmp_path / "s")
    copy.catalog._copy()  # as in a folder that cannot be written
    assert len(copy) == 200
    pieces = store.iter_layer(1, batch=50)
    first = next(pieces)
    EmbeddingStore.open(tmp_path / "s").compact()
    np.testing.assert_array_equal(np.concatenate([first.values, *(p.values for p in pieces)]), whole.values)
    np.testing.assert_array_equal(store.vectors(whole.keys, 1), whole.values)
    np.testing.assert_array_equal(copy.layer(1).values, whole.values)


COMPACTING = """
import sys, store_material as m
from embedstore.store import EmbeddingStore
store = EmbeddingStore.open(sys.argv[1])
for i in range(1000, 10**6, 3):
    with store.writer() as w:
        m.fill(w, [i, i + 1, i + 2])
        w.forget(m.file(i - 3).full_path)
        w.label(1029, m.TrackLabels((f"genre {i}",)))
    if i % 4 == 0:
        store.compact()
"""


def test_everybody_reads_beside_a_compaction(tmp_path):
    """Opening, reading, verifying and merging beside a process that writes and compacts: no false alarm, no removed track."""
    with m.make(tmp_path / "s", range(30)).writer() as w:
        for i in range(10):
            w.forget(m.file(i).full_path)
    code = f"import sys; sys.path.insert(0, {str(Path(m.__file__).parent)!r})" + COMPACTING
    long_open, end = EmbeddingStore.open(tmp_path / "s"), time.monotonic() + 2
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "s"], stderr=subprocess.PIPE) as process:
        try:
            while time.monotonic() < end:
                for store in (EmbeddingStore.open(tmp_path / "s"), long_open):
                    matrix = store.layer(1)
                    numbers = (matrix.keys - 1000).tolist()
                    assert min(numbers) == 10
                    assert (
                        len([i for i in numbers if i >= 1000 and (i - 1000) % 3 == 0]) <= 2
                    )  # the last, not removed yet
                    np.testing.assert_array_equal(matrix.values, [m.vectors(i).vectors[1] for i in numbers])
                    assert store.problems == ()
                assert EmbeddingStore.open(tmp_path / "s").verify().problems == ()
                other = m.make(tmp_path / f"other {time.monotonic()}")
                assert other.merge(EmbeddingStore.open(tmp_path / "s")).problems == ()
            assert process.poll() is None
        finally:
            process.kill()
            error = process.stderr.read().decode()
    assert len(long_open) > 20, error
    m_keys = EmbeddingStore.open(tmp_path / "s").keys()
    assert sorted(long_open.keys().tolist()) == sorted(m_keys.tolist())


@pytest.mark.parametrize("fault", ["write", "drop"])
def test_an_interrupted_compaction(tmp_path, monkeypatch, fault):
    """Stopped after any of its steps, a compaction has changed nothing; the next writer clears up."""
    reference = lived_in(tmp_path / "reference")
    before, cuts = said(reference), 0
    monkeypatch.setattr(upkeep, "ROWS", 130)
    where, what = (disk, "write_commit") if fault == "write" else (disk.os, "unlink")
    original = getattr(where, what)
    while True:
        path = tmp_path / f"{cuts}"
        shutil.copytree(reference.path, path)
        store, steps = EmbeddingStore.open(path), 0

        def stop_after(*arguments, cut=cuts, **options):
            nonlocal steps
            steps += 1
            if steps > cut:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(where, what, stop_after)
            try:
                store.compact()
            except KeyboardInterrupt:
                stopped = True
            else:
                stopped = False
        assert said(EmbeddingStore.open(path)) == before
        with EmbeddingStore.open(path).writer():
            pass
        again = EmbeddingStore.open(path)
        check_same(again, before)
        if not stopped:
            break
        cuts += 1
    assert cuts >= 3


# -- merge ---------------------------------------------------------------------------------------------------------


def test_merge(tmp_path):
    """New tracks come with their vectors, labels and failures; known ones only with their files; twice is once."""
    store, other = m.make(tmp_path / "a", range(100)), lived_in(tmp_path / "b", range(50, 150))
    with other.writer() as w:
        w.link(m.file(910), m.file_hash(60), 1060)
    other.remember("labels", {"/music": "folder", "/more": "x.csv"})
    store.remember("labels", {"/music": "none"})
    ours, theirs = said(store), said(other)
    report = store.merge(other)
    assert (report.tracks, report.known, report.outdated, report.failures, report.total) == (50, 48, 0, 1, 150)
    assert said(other) == theirs
    assert {track.key for track in store.tracks()} == {1000 + i for i in range(150)}
    assert [len(t.files) for t in store.tracks() if t.key == 1060] == [2]
    np.testing.assert_array_equal(store.vectors(other.keys(), 2), other.layer(2).values)
    np.testing.assert_array_equal(store.layer(2).values[:100], list(ours[4][2].values()))
    assert [f.file.full_path for f in store.failures()] == [m.file(900).full_path]
    assert store.remembered("labels") == {"/music": "none", "/more": "x.csv"}
    check_same(store, said(store))
    before = said(store)
    again = store.merge(other)
    assert (again.tracks, again.known, again.failures) == (0, 98, 0)
    check_same(store, before)


def test_merge_prefers_what_the_store_knows(tmp_path):
    """Another sound at a path that the store knows is outdated; a path that failed here is taken; empty labels are filled."""
    store, other = m.make(tmp_path / "a", range(5)), EmbeddingStore.create(tmp_path / "b", m.card(), m.recipe())
    with store.writer() as w:
        w.fail(m.file(7), "decode", "broken here")
        w.label(1003, TrackLabels())
    with other.writer() as w:
        w.add(m.track(20, m.file(2).path), m.file_hash(20), m.vectors(20))
        m.fill(w, [3, 7])
    report = store.merge(other)
    assert (report.tracks, report.known, report.outdated) == (1, 1, 1)
    assert store.track(m.file(2).full_path).key == 1002
    assert store.track(m.file(7).full_path).key == 1007
    assert store.failures() == []
    assert store.labels()[1003] == m.track(3).labels


def test_merge_refuses(tmp_path):
    """Another recipe, and the store itself, are refused before anything is written."""
    store, good = m.make(tmp_path / "a", range(3)), m.make(tmp_path / "b", range(5))
    other = EmbeddingStore.create(tmp_path / "c", m.card(), m.recipe(encoder="other"))
    with pytest.raises(EncoderMismatchError, match="encoder: stored toy, now other"):
        store.merge(good, other)
    with pytest.raises(ParameterError, match="cannot be merged with itself"):
        store.merge(good, EmbeddingStore.open(tmp_path / "a"))
    m.check(store, range(3))


# -- remove --------------------------------------------------------------------------------------------------------


def test_remove(tmp_path):
    """By id, path, name and folder; unknown targets remove nothing; the sound is recognised until the store is compacted."""
    store = m.make(tmp_path / "s", range(12))
    with store.writer() as w:
        w.fail(m.file(30, "genre 0/bad.ogg"), "decode", "broken")
        w.fail(m.file(40), "decode", "broken")
        w.link(m.file(31, "elsewhere/twin.ogg"), m.file_hash(1), 1001)
    with pytest.raises(TrackNotFoundError, match="no stored track is called 'nothing'"):
        store.remove([m.file(1).full_path, "nothing"])
    assert len(store) == 12
    for target in ("", "/"):
        with pytest.raises(ParameterError):
            store.remove([target])
    report = store.remove([f"{1004:016x}", m.file(5).full_path, "track 00007", m.file(40).full_path])
    assert (report.tracks, report.files, report.total) == (3, 4, 9)
    report = store.remove(["/music/genre 0/", "/music/genre 1"], yes=True)
    assert (report.tracks, report.total) == (5, 4)  # track 1 is still held by its twin
    assert store.failures() == []
    assert [t.key for t in store.tracks()] == [1001, 1002, 1008, 1011]
    assert store.has_key(1004)
    store.compact()
    assert not store.has_key(1004)
    assert [t.key for t in store.tracks()] == [1001, 1002, 1008, 1011]


# -- repair --------------------------------------------------------------------------------------------------------


def test_repair(tmp_path):
    """What is damaged, foreign, or of another store moves into quarantine; what is left is whole; a writer fills the hole."""
    store = lived_in(tmp_path / "s")
    other = EmbeddingStore.create(tmp_path / "other", m.card(), m.recipe(encoder="other"))
    with other.writer() as w:
        m.fill(w, range(500, 505))
    shards, deltas = store.path / "shards", store.path / "deltas"
    flipped, cut = names(store, "shards")[1:3]
    data = bytearray((shards / flipped).read_bytes())
    data[3000] ^= 4
    (shards / flipped).write_bytes(data)
    (shards / cut).write_bytes((shards / cut).read_bytes()[:1000])
    foreign = shutil.copy(other.path / other.shards()[0].name, shards)
    os.mkfifo(shards / f"00000099-{'0' * 32}.h5")
    delta = names(store, "deltas")[0]
    (deltas / delta).write_bytes(b"{}")
    report = EmbeddingStore.open(tmp_path / "s").repair()
    assert not report.ok
    assert len(report.quarantined) == len(report.damaged) == 5
    assert f"shards/{Path(foreign).name}" in report.damaged
    assert len(names(store, "quarantine")) == 5
    whole = EmbeddingStore.open(tmp_path / "s")
    lost = {
        f"{folder}/{name}" for folder, name in zip(("shards", "shards", "deltas"), (flipped, cut, delta), strict=True)
    }
    assert lost < {problem.removesuffix(" is gone; build again") for problem in whole.verify().problems}
    assert set(whole.keys().tolist()) == {1000 + i for i in (*range(64), *range(192, 200)) if i not in (5, 6, 8)}
    with whole.writer() as w:
        m.fill(w, range(200))
        w.forget_gone()
    assert len(whole) == 200
    assert whole.repair().ok
    assert len(names(store, "quarantine")) == 5


def test_repair_while_another_process_writes(tmp_path, monkeypatch):
    """Repair waits for nobody and moves nothing under a writer."""
    store = m.make(tmp_path / "s", range(3))
    (store.path / store.shards()[0].name).write_bytes(b"x")
    monkeypatch.setattr(disk.time, "sleep", lambda seconds: None)
    with EmbeddingStore.open(tmp_path / "s").writer(), pytest.raises(StoreLockedError):
        store.repair()
    assert not (store.path / "quarantine").exists()


# -- planned shards ------------------------------------------------------------------------------------------------

PLAN = "0123456789abcdef" * 2


def planned(path: Path, number: int, **changes: object) -> ShardWriter:
    return shard_writer(path, PLAN, number, m.recipe(**changes))


def test_planned_shards_are_written_side_by_side(tmp_path, monkeypatch):
    """Several write at once without the catalogue; a whole-store writer waits its turn; readers see all that is finished."""
    store = m.make(tmp_path / "s", range(5))
    monkeypatch.setattr(disk.time, "sleep", lambda seconds: None)
    with planned(tmp_path / "s", 2) as one, planned(tmp_path / "s", 1) as two:
        m.fill(one, [10, 11])
        m.fill(two, [7])
        one.link(m.file(12), m.file_hash(3), 1003)  # known to the store, not to the shard
        two.fail(m.file(13), "decode", "broken")
        two.commit()
        assert sorted(EmbeddingStore.open(tmp_path / "s").keys().tolist()) == [1000, 1001, 1002, 1003, 1004, 1007]
        with pytest.raises(StoreLockedError):
            store.writer().__enter__()
    again = EmbeddingStore.open(tmp_path / "s")
    assert sorted(again.keys().tolist()) == [1000, 1001, 1002, 1003, 1004, 1007, 1010, 1011]
    assert sorted(store.keys().tolist()) == sorted(again.keys().tolist())
    assert len(again.track(m.file(12).full_path).files) == 2
    assert len(again.failures()) == 1
    with again.writer() as w:
        m.fill(w, [20])
    assert again.verify().ok


def test_a_planned_shard_goes_on(tmp_path):
    """What an earlier try wrote down is known, and only that, also when others wrote since; damage is done again."""
    m.make(tmp_path / "s", range(5)).close()
    with planned(tmp_path / "s", 7) as w:
        m.fill(w, [10, 11])
        w.commit()
        m.fill(w, [12])
        w.fail(m.file(13), "decode", "broken")
        w.link(m.file(14), m.file_hash(10), 1010)
    with planned(tmp_path / "s", 70) as w:
        m.fill(w, [30])
    with planned(tmp_path / "s", 7) as w:
        assert [w.has_file(m.file(i)) for i in (*range(10, 16), 0, 30)] == [True] * 5 + [False] * 3
        assert not w.has_file(replace(m.file(10), mtime_ns=1))
        assert not w.add(m.track(10, "copy.ogg"), m.file_hash(10), m.vectors(10))
    victim = next((tmp_path / "s/shards").glob("00000002-*"))
    victim.write_bytes(b"x")
    with planned(tmp_path / "s", 7) as w:
        assert 1 <= sum(w.has_file(m.file(i)) for i in range(10, 13)) <= 2
    with pytest.raises(EncoderMismatchError, match="encoder"):
        planned(tmp_path / "s", 7, encoder="other")
    with pytest.raises(ParameterError, match=r"32 hexadecimal digits; got '\.\./\.\./x'"):
        shard_writer(tmp_path / "s", "../../x", 1, m.recipe())


def test_a_planned_shard_has_the_last_word(tmp_path):
    """What a shard says about a file counts over what was merged between its planning and its writing."""
    store = m.make(tmp_path / "s", range(5))
    with store.writer() as w:
        w.fail(m.file(10), "decode", "broken then")
    store.compact()
    with planned(tmp_path / "s", 1) as w:
        m.fill(w, [10])
    assert EmbeddingStore.open(tmp_path / "s").failures() == []
    store.compact()
    assert store.failures() == []


def test_finished_shards(tmp_path):
    """That a planned shard is done is known until its plan is finalized, whatever is merged in between."""
    store = m.make(tmp_path / "s", range(5))
    for number in (2, 3):
        with planned(tmp_path / "s", number) as w:
            m.fill(w, [10 * number])
            w.finish()
    store.compact()
    assert finished_shards(tmp_path / "s", PLAN) == {2, 3}
    assert finished_shards(tmp_path / "s", PLAN[::-1]) == set()
    assert not finalized(tmp_path / "s", PLAN)
    note_finalized(tmp_path / "s", PLAN)
    assert finalized(tmp_path / "s", PLAN)
    assert names(store, f"plans/{PLAN}") == ["finalized"]


def test_sharing_the_lock_vouches_for_nothing(tmp_path):
    """Beside planned writers, a catalogue that a killed writer left open is not believed."""
    store = m.make(tmp_path / "s", range(5))
    store.catalog._db.execute("UPDATE files SET key = 1000 + (key + 1) % 5")
    (tmp_path / "s/catalog.seal").write_text("open")
    with planned(tmp_path / "s", 1):
        m.check(EmbeddingStore.open(tmp_path / "s"), range(5))


# -- what a crafted commit may not do ------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["x", [1], ["../../etc/passwd"], ["shards/../store.json"], ["shards/00000001.h5"]])
def test_replaced_names_are_names(tmp_path, names):
    """A commit that would have other files removed is damaged."""
    store = m.make(tmp_path / "s", range(3))
    delta = {"format": 1, "fingerprint": store.fingerprint, "sequence": 2, "statements": [], "replaces": names}
    disk.write_commit(store.path, "deltas", 2, json.dumps(delta).encode())
    assert "'replaces' should be" in EmbeddingStore.open(tmp_path / "s").problems[0]


def test_a_shard_that_is_needed_is_not_removed(tmp_path):
    """A commit that claims to stand for a shard, and does not hold its tracks, has no effect on it."""
    store = m.make(tmp_path / "s", range(3))
    liar = {"statements": [], "replaces": [store.shards()[0].name]}
    data = json.dumps({"format": 1, "fingerprint": store.fingerprint, "sequence": 2, **liar}).encode()
    disk.write_commit(store.path, "deltas", 2, data)
    with EmbeddingStore.open(tmp_path / "s").writer():
        pass
    m.check(EmbeddingStore.open(tmp_path / "s"), range(3))
