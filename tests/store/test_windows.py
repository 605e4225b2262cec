"""Kept windows: what goes in comes out, track by track; how much of it waits; what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import store_material as m

from embedstore.errors import (
    EncoderError,
    ParameterError,
    StoreError,
    StoreFormatError,
    TrackNotFoundError,
    UnknownNameError,
)
from embedstore.store import EmbeddingStore, writer
from embedstore.store.description import fingerprint_of
from embedstore.types import LayerEmbeddings


def check_windows(store, numbers, dims=m.DIMS):
    """Check every window of these tracks, in this order, against what was added."""
    for place in range(len(dims)):
        found = list(store.iter_windows(place))
        assert [matrix.keys.tolist() for matrix in found] == [[1000 + i] * (29 + i) for i in numbers]
        for matrix, i in zip(found, numbers, strict=True):
            windows = m.windowed(i, dims).windows
            assert (matrix.layer, matrix.name, matrix.values.dtype) == (place, f"layer {place}", np.float32)
            np.testing.assert_array_equal(matrix.values, [window.vectors[place] for window in windows])
            assert matrix.frames.tolist() == [window.n_frames for window in windows]
            assert matrix.starts.tolist() == list(range(29 + i))
            assert matrix.ends.tolist() == list(range(2, 31 + i))


def test_windows_round_trip_over_several_shards(tmp_path, monkeypatch):
    """Every value, weight and place in the sound comes back, from the writing store and from a new one; so do the tracks."""
    monkeypatch.setattr(writer, "ROWS", 8)
    dims = (3, 200, 1)
    store = m.make_kept(tmp_path / "s", range(20), dims)
    for opened in (store, EmbeddingStore.open(tmp_path / "s")):
        assert opened.keeps_windows
        assert [shard.rows for shard in opened.shards()] == [8, 8, 4]
        check_windows(opened, range(20), dims)
        expected = [m.windowed(i, dims).vectors[1].astype("f2") for i in range(20)]
        np.testing.assert_array_equal(opened.layer(1).values, expected)
        assert opened.count_windows() == sum(29 + i for i in range(20))
        assert (opened.verify().ok, opened.verify().rows) == (True, 20)


def test_the_mean_of_the_windows_is_the_track(tmp_path):
    """Weighted by frames, to the rounding of float16, in every layer and in the mean over layers."""
    store = m.make_kept(tmp_path / "s", range(5))
    for which in (0, 1, 2, "mean"):
        tracks = store.layer(which)
        for matrix, row in zip(store.iter_windows(which), tracks.values, strict=True):
            mean = np.average(matrix.values.astype("f8"), axis=0, weights=matrix.frames)
            np.testing.assert_allclose(mean, row, atol=2**-10 * np.abs(matrix.values).max())


def test_windows_of_chosen_tracks(tmp_path, monkeypatch):
    """In the order that is asked, repetitions included, as one matrix; the mean over layers is that of the layers."""
    monkeypatch.setattr(writer, "ROWS", 4)
    store = m.make_kept(tmp_path / "s", range(10))
    keys = np.array([1007, 1001, 1002, 1007, 1009])
    found = store.windows(2, keys)
    expected = [m.windowed(i).windows for i in (7, 1, 2, 7, 9)]
    assert found.keys.tolist() == [key for key, windows in zip(keys, expected, strict=True) for _ in windows]
    np.testing.assert_array_equal(found.values, [window.vectors[2] for windows in expected for window in windows])
    assert found.starts.tolist() == [second for windows in expected for second in range(len(windows))]
    assert len(found) == len(found.values)
    assert repr(found) == f"WindowMatrix(layer 2, values float32 ({len(found)}, 8))"
    layers = [store.windows(layer, keys).values for layer in range(3)]
    np.testing.assert_allclose(store.windows("mean", keys).values, np.mean(layers, axis=0), rtol=1e-6)
    assert store.windows().layer == store.card.default_layer
    assert len(store.windows()) == store.count_windows()
    assert store.windows(0, np.empty(0, np.int64)).values.shape == (0, 8)
    with pytest.raises(TrackNotFoundError, match="1 of 2 keys are not stored; first: 5"):
        store.iter_windows(0, np.array([1001, 5]))
    with pytest.raises(UnknownNameError, match="no layer 9"):
        store.iter_windows(9)


def test_an_empty_store_that_keeps_windows(tmp_path):
    """It has none, of the right width."""
    store = m.make_kept(tmp_path / "s")
    assert (store.keeps_windows, store.count_windows(), list(store.iter_windows())) == (True, 0, [])
    assert store.windows(1).values.shape == (0, 8)


def test_windows_of_a_whole_track(tmp_path):
    """Where the window is the track, its one window has the track's vector and spans it."""
    store = EmbeddingStore.create(tmp_path / "s", m.card(), m.kept_recipe(window_length=None, window_hop=None))
    with store.writer() as w:
        w.add(m.track(3), "a", m.windowed(3, count=1))
    found = store.windows(0)
    assert (found.starts.tolist(), found.ends.tolist()) == ([0.0], [33.0])
    np.testing.assert_array_equal(found.values, store.layer(0).values)


def test_windows_survive_the_catalogue_and_later_files(tmp_path):
    """The count is made again from the shards; a hidden track's windows do not count."""
    store = m.make_kept(tmp_path / "s", range(3))
    with store.writer() as w:
        w.forget(m.file(1).full_path)
    store.close()
    for name in ("catalog.sqlite", "catalog.seal"):
        (tmp_path / "s" / name).unlink()
    store = EmbeddingStore.open(tmp_path / "s")
    check_windows(store, [0, 2])
    assert store.count_windows() == 29 + 31


def test_a_store_without_windows_says_so(tmp_path):
    """Reading them is refused in one line, with the way out."""
    store = m.make(tmp_path / "s", range(3))
    assert (store.keeps_windows, store.count_windows()) == (False, 0)
    for read in (store.windows, store.iter_windows):
        with pytest.raises(StoreError, match=r"s keeps no windows; build a new one with --keep-windows$"):
            read(0)


def test_windows_and_store_must_agree(tmp_path):
    """A track with windows for a store that keeps none, and the other way round, is refused; the writer goes on."""
    plain, kept = m.make(tmp_path / "plain"), m.make_kept(tmp_path / "kept")
    with plain.writer() as w:
        with pytest.raises(ParameterError, match=r"ogg' comes with 29 windows; .*plain was made to keep none"):
            w.add(m.track(0), "a", m.windowed(0))
        w.add(m.track(1), "b", m.vectors(1))
    with kept.writer() as w:
        with pytest.raises(ParameterError, match=r"comes with 0 windows; .*kept was made to keep those of every track"):
            w.add(m.track(0), "a", m.vectors(0))
        w.add(m.track(1), "b", m.windowed(1))
    m.check(EmbeddingStore.open(tmp_path / "plain"), [1])
    check_windows(kept, [1])


def test_a_recipe_that_keeps_windows_says_which(tmp_path):
    """Else nobody could say where they lie: refused before anything is made, and in a store.json."""
    recipe = m.kept_recipe()
    del recipe["window_hop"]
    with pytest.raises(ParameterError, match="says how tracks are cut; it has no window_hop"):
        EmbeddingStore.create(tmp_path / "s", m.card(), recipe)
    assert not (tmp_path / "s").exists()
    store = m.make_kept(tmp_path / "s")
    described = json.loads((tmp_path / "s/store.json").read_text())
    for wrong in ({"window_length": "long"}, {"window_length": 0}, {"window_hop": 32001}):
        recipe = {**described["recipe"], **wrong}
        other = EmbeddingStore.create(tmp_path / "other", m.card(), m.recipe(note=str(wrong)))
        data = json.loads((other.path / "store.json").read_text())
        changed = {**data, "recipe": recipe, "fingerprint": fingerprint_of(recipe)}
        (other.path / "store.json").write_text(json.dumps(changed))
        with pytest.raises(StoreFormatError, match="does not describe a store"):
            EmbeddingStore.open(other.path)
        shutil.rmtree(other.path)
    assert len(store) == 0


def test_values_of_windows_that_float16_cannot_hold_cost_one_track(tmp_path):
    """Infinity in one window is refused, though the mean of the track would fit."""
    store = m.make_kept(tmp_path / "s")
    bad = m.windowed(1)
    bad.windows[7].vectors[2][3] = np.inf
    with store.writer() as w:
        w.add(m.track(0), "a", m.windowed(0))
        with pytest.raises(EncoderError, match=r"layer 2 has 1 of 240 values .* 65504.*; the first is inf"):
            w.add(m.track(1), "b", bad)
        w.add(m.track(2), "c", m.windowed(2))
    check_windows(store, [0, 2])


def test_a_commit_is_due_by_bytes(tmp_path, monkeypatch):
    """Not more than the limit waits; a track that is larger than it gets a shard of its own, and the next begins another."""
    monkeypatch.setattr(writer, "BYTES", 100 * 3 * 8 * 2)  # 100 windows of three layers of 8, and a bit for frames
    store = m.make_kept(tmp_path / "s")
    counts = [40, 40, 40, 500, 10, 95, 10]
    with store.writer() as w:
        for i, count in enumerate(counts):
            w.add(m.track(i), m.file_hash(i), m.windowed(i, count=count))
            assert w._bytes < writer.BYTES
    assert [shard.rows for shard in store.shards()] == [2, 1, 1, 1, 1, 1]
    assert [len(matrix) for matrix in store.iter_windows()] == counts


def test_a_track_with_too_many_windows_is_refused(tmp_path, monkeypatch):
    """One clear line, before anything is copied; the writer goes on."""
    monkeypatch.setattr(writer, "MOST_WINDOW_BYTES", 100 * 3 * 8 * 2)
    store = m.make_kept(tmp_path / "s")
    with store.writer() as w:
        with pytest.raises(EncoderError, match=r"^'.*ogg': 101 windows of it take more than .*; split the file"):
            w.add(m.track(0), "a", m.windowed(0, count=101))
        giant = LayerEmbeddings(
            m.windowed(1, count=1).vectors, 2**31, (replace(m.windowed(1, count=1).windows[0], n_frames=2**31),)
        )
        with pytest.raises(EncoderError, match=r"a window has 2\^31 frames or more"):
            w.add(m.track(1), "b", giant)
        w.add(m.track(2), "c", m.windowed(2))
    check_windows(store, [2])


def test_a_shard_that_was_damaged_since_is_named(tmp_path):
    """Windows are read with the same distrust as rows: Fletcher32 finds a changed byte."""
    store = m.make_kept(tmp_path / "s", range(3))
    path = tmp_path / "s" / store.shards()[0].name
    data = path.read_bytes()
    row = m.windowed(1).windows[5].vectors[1].astype("<f2").tobytes()
    assert data.count(row) == 1
    path.write_bytes(data.replace(row, row[::-1]))
    with pytest.raises(StoreFormatError, match=f"{path.name} is damaged: .*run 'embedstore verify'"):
        store.windows(1)
    assert len(store.windows(0)) == store.count_windows()
