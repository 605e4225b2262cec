"""What goes in comes out, whatever the names, the order and the state of the catalogue."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import store_material as m
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import (
    EncoderError,
    EncoderMismatchError,
    ParameterError,
    StoreError,
    StoreFormatError,
    TrackNotFoundError,
    UnknownNameError,
)
from embedstore.store import EmbeddingStore, writer
from embedstore.types import AudioFile, LayerEmbeddings, TrackLabels


def test_round_trip_over_several_shards(tmp_path):
    """Tracks, labels, stamps and every value come back exactly, from the writing store and from a new one."""
    store = m.make(tmp_path / "s", range(150))
    m.check(store, range(150))
    again = EmbeddingStore.open(tmp_path / "s")
    m.check(again, range(150))
    assert [shard.rows for shard in again.shards()] == [64, 64, 22]
    assert again.card == m.card()
    assert again.recipe == m.recipe()
    assert again.labels()[1001] == m.track(1).labels
    assert again.verify() == replace(again.verify(), ok=True, shards=3, rows=150, problems=())
    assert again.nbytes() == sum(p.stat().st_size for p in (tmp_path / "s").rglob("*") if p.is_file())


def test_layers_of_different_widths(tmp_path):
    """Each layer keeps its own width, and a mean over them is refused with the widths."""
    dims = (3, 200, 1, 64)
    store = m.make(tmp_path / "s", range(70), dims)
    m.check(store, range(70), dims)
    assert store.layer("layer 1").values.shape == (70, 200)
    assert store.layer().layer == store.card.default_layer
    with pytest.raises(ParameterError, match=r"different widths.*layer 0 3, layer 1 200, layer 2 1, layer 3 64"):
        store.layer("mean")
    with pytest.raises(UnknownNameError, match=r"no layer 9; .* 0, 1, 2, 3"):
        store.layer(9)


def test_mean_streams_and_single_rows_agree_with_the_whole(tmp_path):
    """The mean is taken in float32; pieces and chosen rows are those of the whole matrix, in any order."""
    store = m.make(tmp_path / "s", range(150))
    expected = np.array([np.mean(m.vectors(i).vectors, axis=0) for i in range(150)], np.float32)
    mean = store.layer("mean")
    assert (mean.layer, mean.name) == (-1, "mean")
    np.testing.assert_allclose(mean.values, expected, rtol=1e-6)
    pieces = list(store.iter_layer(2, batch=40))
    assert [len(piece) for piece in pieces] == [40, 40, 40, 30]
    whole = store.layer(2)
    np.testing.assert_array_equal(np.concatenate([p.values for p in pieces]), whole.values)
    np.testing.assert_array_equal(np.concatenate([p.keys for p in pieces]), whole.keys)
    places = np.random.default_rng(0).integers(0, 150, 400)
    np.testing.assert_array_equal(store.vectors(whole.keys[places], 2), whole.values[places])
    with pytest.raises(TrackNotFoundError, match="1 of 2 keys are not stored; first: 5"):
        store.vectors(np.array([1000, 5]))
    with pytest.raises(ParameterError, match="at least 1 row"):
        store.iter_layer(2, batch=0)


def test_empty_store(tmp_path):
    """A store without tracks answers everything with nothing."""
    store = m.make(tmp_path / "s")
    assert (len(store), store.tracks(), store.files(), store.failures(), store.shards()) == (0, [], {}, [], [])
    assert store.layer(0).values.shape == (0, 8)
    assert store.vectors(np.empty(0, np.int64)).shape == (0, 8)
    assert list(store.iter_layer()) == []
    assert store.verify().ok
    with pytest.raises(TrackNotFoundError, match=r"\(0 tracks\)"):
        store.track("anything")


NAMES = st.binary(min_size=1, max_size=20).filter(lambda b: not set(b) & {0, 47} and b not in {b".", b".."})
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_the_side_of_a_split_is_kept(tmp_path):
    """In shards and deltas, through a rebuilt catalogue and a compaction; without one, nothing is written of it."""
    store = m.make(tmp_path / "s")
    sides = ("train", "valid", "test", "")
    with store.writer() as w:
        for i, side in enumerate(sides):
            w.add(replace(m.track(i), labels=replace(m.track(i).labels, split=side)), m.file_hash(i), m.vectors(i))
    with store.writer() as w:
        w.label(1003, replace(m.track(3).labels, split="test"))
        w.label(1002, m.track(2).labels)
    wanted = {1000: "train", 1001: "valid", 1002: "", 1003: "test"}
    for _ in range(2):
        opened = EmbeddingStore.open(tmp_path / "s")
        assert {key: labels.split for key, labels in opened.labels().items()} == wanted
        assert {track.key: track.labels.split for track in opened.tracks()} == wanted
        (tmp_path / "s" / "catalog.sqlite").unlink()
    EmbeddingStore.open(tmp_path / "s").compact()
    assert {key: labels.split for key, labels in EmbeddingStore.open(tmp_path / "s").labels().items()} == wanted
    assert "split" not in m.track(3).labels.to_dict()
    with pytest.raises(ParameterError, match="a split is train, valid, test or empty; got 'holdout'"):
        TrackLabels(split="holdout")


def test_the_year_is_kept(tmp_path):
    """In shards and deltas, through a rebuilt catalogue and a compaction; unknown, nothing is written of it."""
    store = m.make(tmp_path / "s")
    with store.writer() as w:
        for i, year in enumerate((1969, 0, 2024)):
            w.add(replace(m.track(i), labels=replace(m.track(i).labels, year=year)), m.file_hash(i), m.vectors(i))
    with store.writer() as w:
        w.label(1001, replace(m.track(1).labels, year=1))
        w.label(1002, m.track(2).labels)
    wanted = {1000: 1969, 1001: 1, 1002: 0}
    for _ in range(2):
        opened = EmbeddingStore.open(tmp_path / "s")
        assert {key: labels.year for key, labels in opened.labels().items()} == wanted
        assert {track.key: track.labels.year for track in opened.tracks()} == wanted
        (tmp_path / "s" / "catalog.sqlite").unlink()
    EmbeddingStore.open(tmp_path / "s").compact()
    assert {key: labels.year for key, labels in EmbeddingStore.open(tmp_path / "s").labels().items()} == wanted
    known = replace(m.track(3).labels, year=1969)
    assert TrackLabels.from_dict(known.to_dict()) == known
    assert "year" not in m.track(3).labels.to_dict()
    for wrong in (-1, 10_000, "1969", True, 1969.0):
        with pytest.raises(ParameterError, match="a year is an int from 1 to 9999, or 0 if unknown; got "):
            TrackLabels(year=wrong)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.lists(NAMES, min_size=1, max_size=3).map(b"/".join), min_size=1, max_size=12, unique=True),
    text=TEXTS,
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
)
def test_any_name_comes_back(names, text, mtime_ns):
    """Names that are not UTF-8, hold control characters or odd Unicode survive shards, deltas and catalogue."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, "fsync"):  # durability is tested elsewhere
        store = m.make(f"{folder}/s")
        files = [AudioFile("/m", os.fsdecode(name), i, mtime_ns) for i, name in enumerate(names)]
        labels = TrackLabels((text,), (text, text), text, text, text)
        with store.writer() as w:
            for i, file in enumerate(files):
                track = replace(m.track(i), files=(file,), labels=labels, warnings=(text,))
                w.add(track, m.file_hash(i), m.vectors(i))
            for i, file in enumerate(files):
                w.link(replace(file, root="/copy"), m.file_hash(i), 1000 + i)
                w.fail(replace(file, root="/bad"), "decode", text + os.fsdecode(b"\xff"))
        for _ in range(2):
            assert [track.files for track in store.tracks()] == [(f, replace(f, root="/copy")) for f in files]
            assert {(t.labels, t.warnings) for t in store.tracks()} == {(labels, (text,))}
            assert {f.file for f in store.failures()} == {replace(f, root="/bad") for f in files}
            assert {f.reason for f in store.failures()} == {text + "\udcff"}
            assert store.files().keys() == {f"{root}/{f.path}" for f in files for root in ("/m", "/copy")}
            assert store.track(files[0].full_path).key == 1000
            store.close()
            (store.path / "catalog.sqlite").unlink()
            store = EmbeddingStore.open(store.path)
        store.close()


STEP = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("link"), st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("touch"), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("label"), st.integers(0, 9), st.integers(0, 5)),
    st.tuples(st.just("forget"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("commit"), st.just(0), st.just(0)),
)


def _play(store, model, steps):
    """Do the same to a store and to plain dictionaries; keys of the model's rows stay for good."""
    files, labels = model
    with store.writer() as w:
        for what, a, b in steps:
            file, key = AudioFile("/m", f"{a}.ogg", b, b), 1000 + b
            match what:
                case "add":
                    track = replace(m.track(b), files=(file,))
                    assert w.add(track, m.file_hash(b), m.vectors(b)) == (key not in labels)
                    labels.setdefault(key, track.labels)
                    files[file.full_path] = (file, m.file_hash(b), key)
                case "link" if key in labels:
                    w.link(file, m.file_hash(b), key)
                    files[file.full_path] = (file, m.file_hash(b), key)
                case "touch":
                    w.touch(file)
                    if before := files.get(file.full_path):
                        files[file.full_path] = (file, *before[1:])
                case "fail":
                    w.fail(file, "decode", str(b))
                    files[file.full_path] = (file, str(b), None)
                case "label" if key in labels:
                    labels[key] = TrackLabels((str(a),))
                    w.label(key, labels[key])
                case "forget":
                    w.forget(file.full_path)
                    files.pop(file.full_path, None)
                case "commit":
                    w.commit()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(STEP, max_size=15), min_size=1, max_size=3))
def test_any_history_adds_up(sessions):
    """Whatever was added, linked, touched, failed, labelled and forgotten: the store says what plain dictionaries say."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, "fsync"):  # durability is tested elsewhere
        store = m.make(f"{folder}/s")
        model = ({}, {})
        for steps in sessions:
            _play(store, model, steps)
        files, labels = model
        held = {path: state for path, state in files.items() if state[2] is not None}
        visible = {state[2] for state in held.values()}
        for _ in range(2):
            found = {path: (s.size, s.mtime_ns, s.file_hash, s.key) for path, s in store.files().items()}
            assert found == {path: (f.size, f.mtime_ns, h, key) for path, (f, h, key) in held.items()}
            assert {(f.file, f.reason) for f in store.failures()} == {v[:2] for v in files.values() if v[2] is None}
            assert store.labels() == {key: labels[key] for key in visible}
            assert {t.key: {f.path for f in t.files} for t in store.tracks()} == {
                key: {f.path for f, _, k in held.values() if k == key} for key in visible
            }
            assert set(store.keys().tolist()) == visible
            assert all(store.has_key(key) for key in labels)
            expected = np.array([m.vectors(key - 1000).vectors[1] for key in store.keys().tolist()], np.float32)
            np.testing.assert_array_equal(store.layer(1).values, expected.reshape(-1, 8))
            assert store.verify().ok
            store.close()
            (store.path / "catalog.sqlite").unlink()
            store = EmbeddingStore.open(store.path)
        store.close()


def test_same_sound_is_stored_once(tmp_path):
    """The second file of a sound becomes a link, before and after the commit; both paths lead to the track."""
    store = m.make(tmp_path / "s")
    with store.writer() as w:
        assert w.add(m.track(1), m.file_hash(1), m.vectors(1))
        assert w.has_key(1001)
        assert not w.add(m.track(1, "twin.ogg"), m.file_hash(8), m.vectors(1))
    with store.writer() as w:
        assert not w.add(m.track(1, "triplet.ogg"), m.file_hash(9), m.vectors(1))
    assert [f.path for f in store.tracks()[0].files] == ["genre 1/track 00001.ogg", "twin.ogg", "triplet.ogg"]
    assert store.verify().rows == 1
    assert [store.key_of_file_hash(m.file_hash(i)) for i in (1, 8, 9, 2)] == [1001, 1001, 1001, None]
    assert store.track("twin.ogg") == store.track("triplet") == store.tracks()[0]


def test_track_by_every_name(tmp_path, monkeypatch):
    """A track is found by id, absolute path, path from here, path below the root, file name and stem."""
    monkeypatch.chdir(tmp_path)
    store = m.make("s")
    with store.writer() as w:
        for i, path in enumerate(["a/one.ogg", "a/two.ogg", "b/two.ogg"]):
            w.add(replace(m.track(i), files=(m.file(i, path, str(tmp_path)),)), m.file_hash(i), m.vectors(i))
    (tmp_path / "a").mkdir()
    one = store.tracks()[0]
    for query in (one.id, str(tmp_path / "a/one.ogg"), "./a/one.ogg", "a/one.ogg", "one.ogg", "one"):
        assert store.track(query) == one
    monkeypatch.chdir(tmp_path / "a")
    assert store.track("one.ogg") == one
    assert store.track("two.ogg").path == str(tmp_path / "a/two.ogg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=r"2 tracks answer to 'two.ogg', such as .*a/two.ogg.*b/two.ogg"):
        store.track("two.ogg")
    with pytest.raises(TrackNotFoundError, match=r"no stored track is called 'won' \(3 tracks\); did you mean .*'one'"):
        store.track("won")
    with pytest.raises(TrackNotFoundError):
        store.track(f"{12345:016x}")


def test_values_that_float16_cannot_hold_cost_one_track(tmp_path):
    """Overflow, infinity, NaN and wrong widths are refused by add; the others are stored."""
    store = m.make(tmp_path / "s")
    bad = {5: 65504.0, 6: np.inf, 7: np.nan, 8: -70000.0}
    with store.writer() as w:
        for i in range(10):
            values = [v.copy() for v in m.vectors(i).vectors]
            if i in bad:
                values[1][3] = bad[i]
                with pytest.raises(EncoderError, match=r"layer 1 has 1 of 8 values .* 65504.*; the first is"):
                    w.add(m.track(i), m.file_hash(i), LayerEmbeddings(tuple(values), 1))
            else:
                w.add(m.track(i), m.file_hash(i), LayerEmbeddings(tuple(values), 1))
        with pytest.raises(EncoderError, match=r"widths \[8, 8\]; the store holds \[8, 8, 8\]"):
            w.add(m.track(50), m.file_hash(50), LayerEmbeddings(m.vectors(50).vectors[:2], 1))
    m.check(store, [0, 1, 2, 3, 4, 9])


@pytest.mark.parametrize(
    "change",
    [
        {"key": -1},
        {"key": 2**63},
        {"seconds": np.nan},
        {"files": ()},
        {"files": (AudioFile("/m", "../up", 1, 1),)},
        {"files": (AudioFile("relative", "a", 1, 1),)},
        {"files": (AudioFile("/m", "nul\0", 1, 1),)},
        {"files": (AudioFile("/m", "\ud800", 1, 1),)},
        {"files": (AudioFile("/m", "a", 1, 2**63),)},
        {"warnings": (1,)},
    ],
)
def test_a_track_that_cannot_be_read_back_is_not_written(tmp_path, change):
    """What would make a shard unreadable is refused by add, and the shard's other tracks are stored."""
    store = m.make(tmp_path / "s")
    with store.writer() as w:
        m.fill(w, [0])
        with pytest.raises(ParameterError):
            w.add(replace(m.track(1), **change), m.file_hash(1), m.vectors(1))
        with pytest.raises(ParameterError, match="no stored track has the key 5"):
            w.label(5, TrackLabels())
    m.check(EmbeddingStore.open(tmp_path / "s"), [0])


def test_commits_by_count_by_time_and_at_the_end(tmp_path, monkeypatch):
    """64 tracks or 30 seconds make a commit, and so does the end of the block, also by an exception or Ctrl-C."""
    now = 0.0
    monkeypatch.setattr(writer.time, "monotonic", lambda: now)
    store = m.make(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt), store.writer() as w:  # noqa: PT012 - the end of the block is tested
        m.fill(w, range(64))
        assert (w.committed, len(store)) == (64, 64)
        m.fill(w, range(64, 66))
        now = 29.9
        w.commit_if_due()
        assert w.committed == 64
        now = 30.0
        w.commit_if_due()
        assert w.committed == 66
        m.fill(w, [66])
        raise KeyboardInterrupt
    m.check(EmbeddingStore.open(tmp_path / "s"), range(67))
    with pytest.raises(ZeroDivisionError), store.writer() as w:  # noqa: PT012 - the same
        m.fill(w, [67])
        raise ZeroDivisionError
    m.check(EmbeddingStore.open(tmp_path / "s"), range(68))
    with pytest.raises(StoreError, match="with block"):
        w.fail(m.file(0), "open", "late")


def test_the_latest_word_about_a_file_wins_inside_one_commit(tmp_path):
    """A failure said before the file was stored does not outlive it, one said after does."""
    store = m.make(tmp_path / "s")
    with store.writer() as w:
        w.fail(m.file(1), "decode", "first try")
        m.fill(w, [1, 2])
        w.fail(m.file(2), "decode", "gone bad")
    again = EmbeddingStore.open(tmp_path / "s")
    assert [t.key for t in again.tracks()] == [1001]
    assert [(f.file, f.reason) for f in again.failures()] == [(m.file(2), "gone bad")]


def test_a_reader_beside_a_writer_sees_whole_commits(tmp_path):
    """A store opened while another writes reads what is committed, and later calls see later commits."""
    store = m.make(tmp_path / "s", range(3))
    early = EmbeddingStore.open(tmp_path / "s")
    with store.writer() as w:
        m.fill(w, range(3, 70))
        beside = EmbeddingStore.open(tmp_path / "s")
        m.check(beside, range(67))
        m.check(early, range(67))
        w.commit()
        m.check(beside, range(70))
        assert beside.verify().ok
    m.check(early, range(70))


def test_recipes_must_agree(tmp_path):
    """A store refuses another recipe and names each field that differs, nested ones too."""
    m.make(tmp_path / "s", range(2))
    same = EmbeddingStore.open_or_create(tmp_path / "s", m.card(), m.recipe())
    m.check(same, range(2))
    other = m.recipe(window={"samples": 240000, "hop": 80000}, layers=[1, 2])
    with pytest.raises(EncoderMismatchError) as caught:
        EmbeddingStore.open_or_create(tmp_path / "s", m.card(), other)
    assert "layers: stored (none), now [1, 2]; window.samples: stored 80000, now 240000;" in str(caught.value)
    assert "hop" not in str(caught.value)


def test_places_that_are_no_stores(tmp_path):
    """A missing path, a file and another folder are each told apart; nothing is created in a folder with other things."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "music").mkdir()
    (tmp_path / "music/a.ogg").write_text("x")
    for name, found in {"none": "nothing", "file": "a file", "music": "a folder that is not a store"}.items():
        assert not EmbeddingStore.exists(tmp_path / name)
        with pytest.raises(StoreError, match=f"no store at .*{name} .found {found}"):
            EmbeddingStore.open(tmp_path / name)
    with pytest.raises(StoreError, match="is a file; a store is a folder"):
        EmbeddingStore.create(tmp_path / "file", m.card(), m.recipe())
    with pytest.raises(StoreError, match="Not a directory"):
        EmbeddingStore.create(tmp_path / "file/s", m.card(), m.recipe())
    with pytest.raises(StoreError, match=r"is not empty .it holds 'a.ogg'"):
        EmbeddingStore.create(tmp_path / "music", m.card(), m.recipe())
    m.make(tmp_path / "deep/er/s", range(1))
    with pytest.raises(StoreError, match="is a store already"):
        EmbeddingStore.create(tmp_path / "deep/er/s", m.card(), m.recipe())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2, this version reads 1: upgrade"),
        (lambda d: d.update(format="1"), "'format' should be an int"),
        (lambda d: d.pop("recipe"), "'recipe' should be dict"),
        (lambda d: d["recipe"].update(dtype="float64"), "was changed"),
        (lambda d: d["card"].pop("licence"), "licence"),
        (lambda d: d["card"]["layers"][0].update(dim="8"), "'dim' should be an int from 1"),
        (lambda d: d.update(id="../x"), "was changed"),
        (lambda d: d["card"].update(layers=5), "does not describe a store"),
    ],
)
def test_store_json_that_was_tampered_with(tmp_path, change, message):
    """Each fault of store.json is one clear line."""
    m.make(tmp_path / "s")
    path = tmp_path / "s/store.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(StoreFormatError, match=message):
        EmbeddingStore.open(tmp_path / "s")


def test_store_json_that_is_not_json(tmp_path):
    """Truncated, binary and deeply nested descriptions are one clear line."""
    m.make(tmp_path / "s")
    path: Path = tmp_path / "s/store.json"
    for text in (path.read_bytes()[:100], b"", b"\xff\xfe", b"[" * 100_000, b"[1]"):
        path.write_bytes(text)
        with pytest.raises(StoreFormatError, match=r"store\.json"):
            EmbeddingStore.open(tmp_path / "s")


def test_equal_tracks_make_equal_bytes(tmp_path):
    """The same tracks give the same shard, name included, on any machine."""
    names = [[s.name for s in m.make(tmp_path / name, range(100)).shards()] for name in ("a", "b")]
    assert names[0] == names[1]
