"""The format on the disk: what the golden store says, and what a reader refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import store_material as m
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import StoreFormatError
from embedstore.store import EmbeddingStore, finished_shards, records, shard
from embedstore.types import LayerEmbeddings, Windowing

GOLDEN = Path(__file__).parent / "golden"
SPEC = records.Spec("0" * 32, "f" * 64, ((0, "layer 0", 8), (1, "layer 1", 8)))
KEPT = replace(SPEC, windowing=Windowing(length=2, hop=1))  # the same, with windows


def golden_script():
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def golden(tmp_path):
    """Copy the golden store: opening a store may add a catalogue to it."""
    shutil.copytree(GOLDEN / "store", tmp_path / "golden")
    return tmp_path / "golden"


def test_golden_store_says_what_it_said(golden):
    """Every field of the store that the first release wrote is read as it was meant."""
    script = golden_script()
    store = EmbeddingStore.open(golden)
    tracks = store.tracks()
    assert [t.key for t in tracks] == [1000, 1001, 1002, 1003]
    assert [[f.path for f in t.files] for t in tracks] == [
        ["genre 0/track 00000.ogg"],
        ["twin.ogg"],
        ["genre 2/track 00002.ogg"],
        ["caf\udce9 ♫\n.ogg"],
    ]
    assert tracks[0].files[0].mtime_ns == -1
    assert tracks[0].warnings == ("stopped early",)
    assert (tracks[1].seconds, tracks[1].sample_rate, tracks[1].channels) == (31.0, 44100, 2)
    assert tracks[1].labels == m.track(1).labels
    assert (tracks[2].labels.genres, tracks[2].labels.source) == (("new genre",), "labels.csv")
    (failure,) = store.failures()
    assert (failure.file, failure.stage, failure.reason) == (m.file(51, "bad.ogg"), "decode", "no frames \udcff")
    for number, dim in enumerate(script.DIMS):
        expected = np.array([m.vectors(i, script.DIMS).vectors[number] for i in range(4)])
        assert expected.shape == (4, dim)
        np.testing.assert_array_equal(store.layer(number).values, expected)
    assert [s.rows for s in store.shards()] == [3, 1]
    assert store.verify().ok


def test_golden_recipe_makes_the_same_store(golden, tmp_path):
    """The recipe beside the golden store still makes a store that says the same."""
    old, new = EmbeddingStore.open(golden), golden_script().make(str(tmp_path / "new"))
    assert old.tracks() == new.tracks()
    assert (old.files(), old.failures(), old.labels()) == (new.files(), new.failures(), new.labels())
    assert (old.card, old.recipe, old.fingerprint) == (new.card, new.recipe, new.fingerprint)
    assert all(np.array_equal(old.layer(i).values, new.layer(i).values) for i in range(3))
    for delta in (golden / "deltas").iterdir():
        assert (
            json.loads(delta.read_bytes())["statements"]
            == json.loads(next((tmp_path / "new/deltas").iterdir()).read_bytes())["statements"]
        )


def test_golden_windows_say_what_they_said(tmp_path):
    """Windows that the first release kept are read as they were meant, and the recipe makes the same ones again."""
    shutil.copytree(GOLDEN / "windows", tmp_path / "golden")
    store, script = EmbeddingStore.open(tmp_path / "golden"), golden_script()
    for number in range(3):
        for matrix, i in zip(store.iter_windows(number), range(3), strict=True):
            windows = m.windowed(i, script.DIMS).windows
            np.testing.assert_array_equal(matrix.values, [window.vectors[number] for window in windows])
            assert matrix.frames.tolist() == [window.n_frames for window in windows]
            assert (matrix.starts[3], matrix.ends[3]) == (3.0, 5.0)
    assert store.verify().ok
    new = script.make_windows(str(tmp_path / "new"))
    assert (new.tracks(), new.recipe, new.fingerprint) == (store.tracks(), store.recipe, store.fingerprint)
    np.testing.assert_array_equal(new.windows(1).values, store.windows(1).values)
    with h5py.File(store.path / store.shards()[0].name) as file:
        found = {name: (d.dtype.str, d.shape, d.chunks, d.fletcher32) for name, d in file.items() if "window" in name}
        assert found == {
            "window_counts": ("<i4", (3,), (3,), True),
            "window_frames": ("<i4", (90,), (90,), True),
            "windows_00": ("<f2", (90, 4), (90, 4), True),
            "windows_01": ("<f2", (90, 6), (90, 6), True),
            "windows_02": ("<f2", (90, 1), (90, 1), True),
        }


def test_golden_merged_store_says_what_it_said(tmp_path):
    """Merged commits and planned shards are read as they were meant, and the recipe makes the same ones again."""
    shutil.copytree(GOLDEN / "merged", tmp_path / "golden")
    store, script = EmbeddingStore.open(tmp_path / "golden"), golden_script()
    assert store.keys().tolist() == [1000, 1001, 1002, 1003, 1004]
    assert [track.path for track in store.tracks()][1:4] == [
        "/music/twin.ogg",
        m.file(2).full_path,
        f"/music/{script.ODD}",
    ]
    assert [labels.genres for labels in store.labels().values()][:3] == [
        ("newest genre",),
        ("genre 1",),
        ("new genre",),
    ]
    assert [failure.reason for failure in store.failures()] == ["no frames \udcff"]
    merged, planned = store.shards()
    assert (merged.rows, len(merged.origins), planned.origins) == (4, 2, (planned.name,))
    assert finished_shards(store.path, "0123456789abcdef" * 2) == {3}
    for number in range(3):
        expected = np.array([m.vectors(i, script.DIMS).vectors[number] for i in range(5)])
        np.testing.assert_array_equal(store.layer(number).values, expected)
    assert store.verify().ok
    new = script.make_merged(str(tmp_path / "new"))
    assert (new.tracks(), new.files(), new.failures()) == (store.tracks(), store.files(), store.failures())


def test_golden_shard_is_plain_hdf5():
    """Anyone's HDF5 library reads a shard: the names, types, shapes and filters are those of FORMAT.md."""
    with h5py.File(min((GOLDEN / "store/shards").iterdir())) as file:
        found = {name: (d.dtype.str, d.shape[1:], d.fletcher32, d.compression) for name, d in file.items()}
        assert found == {
            "header": ("|u1", (), True, None),
            "keys": ("<i8", (), True, None),
            "tracks": ("|u1", (), True, None),
            "layer_00": ("<f2", (4,), True, None),
            "layer_01": ("<f2", (6,), True, None),
            "layer_02": ("<f2", (1,), True, None),
        }
        assert json.loads(file["header"][:].tobytes())["layers"] == [
            [0, "layer 0", 4],
            [1, "layer 1", 6],
            [2, "layer 2", 1],
        ]
        assert json.loads(file["tracks"][:].tobytes())[1]["files"][0]["path"] == "genre 1/track 00001.ogg"


# -- hostile shards ------------------------------------------------------------------------------------------------


def image(change, spec=SPEC) -> bytes:
    """Make a good shard of three rows (of 2, 1 and 3 windows), changed by `change(file)`."""
    frames = [[3, 4], [5], [6, 7, 8]]
    rows = [records.Row(m.track(i), (m.file_hash(i),), sum(frames[i])) for i in range(3)]
    vectors = [[v.astype("<f2") for v in m.vectors(i, (8, 8)).vectors] for i in range(3)]
    windows = [shard.Windows(np.array(f, "<i4"), [np.full((len(f), 8), n, "<f2") for n in (0, 1)]) for f in frames]
    data = io.BytesIO(shard.build_shard(spec, 1, rows, vectors, windows))
    with h5py.File(data, "r+", libver=("v110", "v110")) as file:
        change(file)
    return data.getvalue()


def put(file, name, data, **options):
    """Put another dataset in the place of one; by default it is as the format wants it."""
    if name in file:
        del file[name]
    data = np.asarray(data)
    options = {"chunks": data.shape, "fletcher32": True, "data": data, **options}
    file.create_dataset(name, **{k: v for k, v in options.items() if v is not None})


def text(data) -> np.ndarray:
    return np.frombuffer(data if isinstance(data, bytes) else json.dumps(data).encode(), "u1")


def header(**changes):
    return text({**SPEC.header(1), "layers": [list(layer) for layer in SPEC.layers], **changes})


def rows_with(**changes):
    return text([{**records.row_record(records.Row(m.track(i), ("a",), 1)), **changes} for i in range(3)])


def files_with(**changes):
    return rows_with(files=[{"root": "/m", "path": "a", "size": 1, "mtime_ns": 1, "hash": "a", **changes}])


def relink(name, link):
    def change(file):
        del file[name]
        file[name] = link

    return change


def virtual(file):
    del file["layer_01"]
    layout = h5py.VirtualLayout(shape=(3, 8), dtype="<f2")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "secret", shape=(3, 8))
    file.create_virtual_dataset("layer_01", layout)


def external(file):
    del file["layer_01"]
    file.create_dataset("layer_01", (3, 8), "<f2", external=[("/etc/passwd", 0, 48)])


def sparse(file):
    """Declare 4 TiB of which nothing is written."""
    del file["layer_01"]
    file.create_dataset("layer_01", (2**38, 8), "<f2", chunks=(256, 8), fletcher32=True)


def unwritten(file):
    """Leave the right shape without its chunk: it would read as zeros."""
    del file["layer_01"]
    file.create_dataset("layer_01", (3, 8), "<f2", chunks=(3, 8), fletcher32=True)


def huge_chunk(file):
    """Declare one chunk of 2 GiB for 48 bytes."""
    del file["layer_01"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((2**27, 8))
    plan.set_fletcher32()
    space = h5py.h5s.create_simple((3, 8), (h5py.h5s.UNLIMITED, h5py.h5s.UNLIMITED))
    h5py.h5d.create(file.id, b"layer_01", h5py.h5t.IEEE_F16LE, space, plan)


GOOD = np.ones((3, 8), "<f2")
HOSTILE = {
    "external link": relink("layer_01", h5py.ExternalLink("elsewhere.h5", "secret")),
    "soft link": relink("layer_01", h5py.SoftLink("/layer_00")),
    "dangling soft link": relink("layer_01", h5py.SoftLink("/nowhere")),
    "group": lambda f: (f.__delitem__("layer_01"), f.create_group("layer_01")),
    "named type": relink("layer_01", np.dtype("<f2")),
    "virtual dataset": virtual,
    "external storage": external,
    "contiguous": lambda f: put(f, "layer_01", GOOD, chunks=None, fletcher32=None),
    "no checksum": lambda f: put(f, "layer_01", GOOD, fletcher32=None),
    "gzip": lambda f: put(f, "layer_01", GOOD, compression="gzip"),
    "shuffle": lambda f: put(f, "layer_01", GOOD, shuffle=True),
    "scale-offset": lambda f: put(f, "keys", [1, 2, 3], scaleoffset=0, fletcher32=None),
    "objects": lambda f: put(f, "layer_01", np.full((3, 8), "x", object), dtype=h5py.string_dtype(), fletcher32=None),
    "references": lambda f: put(f, "layer_01", np.full((3, 8), f["keys"].ref, object), dtype=h5py.ref_dtype),
    "float32": lambda f: put(f, "layer_01", GOOD.astype("<f4")),
    "big-endian": lambda f: put(f, "layer_01", GOOD.astype(">f2")),
    "compound": lambda f: put(f, "layer_01", np.zeros((3, 8), [("a", "<f2")])),
    "too wide": lambda f: put(f, "layer_01", np.ones((3, 9), "<f2")),
    "too short": lambda f: put(f, "layer_01", GOOD[:2]),
    "flat": lambda f: put(f, "layer_01", GOOD.ravel()),
    "scalar": lambda f: put(f, "layer_01", np.float16(1), chunks=None, fletcher32=None),
    "4 TiB": sparse,
    "unwritten": unwritten,
    "huge chunk": huge_chunk,
    "not finite": lambda f: put(f, "layer_01", GOOD * np.float16(np.inf)),
    "missing layer": lambda f: f.__delitem__("layer_01"),
    "missing keys": lambda f: f.__delitem__("keys"),
    "further dataset": lambda f: put(f, "more", [1]),
    "attribute": lambda f: f.attrs.__setitem__("a", 1),
    "negative key": lambda f: put(f, "keys", np.array([-1, 2, 3])),
    "key twice": lambda f: put(f, "keys", np.array([1, 2, 2])),
    "keys of 4 bytes": lambda f: put(f, "keys", np.array([1, 2, 3], "<i4")),
    "header not JSON": lambda f: put(f, "header", text(b"{")),
    "header deeply nested": lambda f: put(f, "header", text(b"[" * 100_000)),
    "header a list": lambda f: put(f, "header", text([])),
    "newer format": lambda f: put(f, "header", header(format=2)),
    "other recipe": lambda f: put(f, "header", header(fingerprint="0" * 64)),
    "other place": lambda f: put(f, "header", header(sequence=2)),
    "other layers": lambda f: put(f, "header", header(layers=[[0, "layer 0", 8], [2, "layer 1", 8]])),
    "tracks not a list": lambda f: put(f, "tracks", text({})),
    "a track too few": lambda f: put(f, "tracks", text(json.loads(rows_with().tobytes())[:2])),
    "tracks of text": lambda f: put(f, "tracks", text(["a", "b", "c"])),
    "tracks not UTF-8": lambda f: put(f, "tracks", text(b'["\xff"]')),
    "track without files": lambda f: put(f, "tracks", rows_with(files=[])),
    "seconds not a number": lambda f: put(f, "tracks", rows_with(seconds=float("nan"))),
    "seconds without end": lambda f: put(f, "tracks", rows_with(seconds=float("inf"))),
    "rate as text": lambda f: put(f, "tracks", rows_with(sample_rate="44100")),
    "rate as truth": lambda f: put(f, "tracks", rows_with(sample_rate=True)),
    "number with 5000 digits": lambda f: put(f, "tracks", text(b"[1" + b"0" * 5000 + b"]")),
    "labels missing": lambda f: put(f, "tracks", rows_with(labels=None)),
    "genres as text": lambda f: put(f, "tracks", rows_with(labels={**m.track(0).labels.to_dict(), "genres": "abc"})),
    "path climbs": lambda f: put(f, "tracks", files_with(path="../../etc/passwd")),
    "path absolute": lambda f: put(f, "tracks", files_with(path="/etc/passwd")),
    "root relative": lambda f: put(f, "tracks", files_with(root="m")),
    "path with NUL": lambda f: put(f, "tracks", files_with(path="a\0b")),
    "path of no system": lambda f: put(f, "tracks", files_with(path="\ud800")),
    "size of 2^70": lambda f: put(f, "tracks", files_with(size=2**70)),
    "stamp of 2^63": lambda f: put(f, "tracks", files_with(mtime_ns=2**63)),
    "hash with quotes": lambda f: put(f, "tracks", files_with(hash="';--")),
}


def ints(*values):
    return np.array(values, "<i4")


def adding_up():
    """Give three tracks the frames that numpy adds up for windows 0..2, for none from 3 on, and for 3..5."""
    rows = (records.Row(m.track(i), ("a",), n_frames) for i, n_frames in enumerate((12, 6, 21)))
    return text([records.row_record(row) for row in rows])


COUNTS, FRAMES = ints(2, 1, 3), ints(3, 4, 5, 6, 7, 8)
WINDOWS = np.ones((6, 8), "<f2")
HOSTILE_WINDOWS = {
    "none at all": lambda f: [f.__delitem__(name) for name in list(f) if name.startswith("window")],
    "no counts": lambda f: f.__delitem__("window_counts"),
    "no frames": lambda f: f.__delitem__("window_frames"),
    "a layer too few": lambda f: f.__delitem__("windows_01"),
    "further layer": lambda f: put(f, "windows_02", WINDOWS),
    "a count too few": lambda f: put(f, "window_counts", ints(2, 4)),
    "counts add up to less": lambda f: put(f, "window_counts", ints(2, 1, 2)),
    "counts add up to more": lambda f: put(f, "window_counts", ints(2, 1, 4)),
    "a count of zero": lambda f: put(f, "window_counts", ints(3, 0, 3)),
    "a count of zero that adds up": lambda f: (put(f, "window_counts", ints(3, 0, 3)), put(f, "tracks", adding_up())),
    "a negative count": lambda f: put(f, "window_counts", ints(4, -1, 3)),
    "counts that overflow": lambda f: put(f, "window_counts", ints(2**31 - 1, 2**31 - 1, 8)),
    "counts of 8 bytes": lambda f: put(f, "window_counts", COUNTS.astype("<i8")),
    "counts as a table": lambda f: put(f, "window_counts", COUNTS[:, None]),
    "counts without sum": lambda f: put(f, "window_counts", COUNTS, fletcher32=None),
    "compressed counts": lambda f: put(f, "window_counts", COUNTS, compression="gzip"),
    "frames of other tracks": lambda f: put(f, "window_frames", ints(4, 4, 4, 6, 7, 8)),
    "a frame count of zero": lambda f: put(f, "window_frames", ints(0, 7, 5, 6, 7, 8)),
    "a negative frame count": lambda f: put(f, "window_frames", ints(-1, 8, 5, 6, 7, 8)),
    "frames too few": lambda f: put(f, "window_frames", FRAMES[:5]),
    "frames without end": lambda f: (
        f.__delitem__("window_frames")
        or f.create_dataset("window_frames", (2**40,), "<i4", chunks=(256,), fletcher32=True)
    ),
    "frames linked": relink("window_frames", h5py.ExternalLink("elsewhere.h5", "secret")),
    "a row too few": lambda f: put(f, "windows_01", WINDOWS[:5]),
    "too wide": lambda f: put(f, "windows_01", np.ones((6, 9), "<f2")),
    "float32": lambda f: put(f, "windows_01", WINDOWS.astype("<f4")),
    "not finite": lambda f: put(f, "windows_01", WINDOWS * np.float16(np.nan)),
    "unwritten": lambda f: (
        f.__delitem__("windows_01") or f.create_dataset("windows_01", (6, 8), "<f2", chunks=(6, 8), fletcher32=True)
    ),
    "frames of the tracks": lambda f: put(f, "tracks", rows_with(n_frames=7)),
}


@pytest.mark.parametrize("kind", HOSTILE_WINDOWS)
def test_hostile_windows_are_refused(kind, tmp_path, monkeypatch):
    """Counts that do not add up, shapes, filters and sizes that are not the format's: as any other shard."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("elsewhere.h5", "w") as file:
        file["secret"] = FRAMES
    data = image(HOSTILE_WINDOWS[kind], KEPT)
    with pytest.raises(StoreFormatError, match=r"^shards/x\.h5 is (not a shard of this store|damaged): .+"):
        shard.parse_shard(data, "shards/x.h5", 1, KEPT, values=True)


def test_unchanged_windows_are_read():
    """What the hostile ones are made from is fine; a store without windows refuses it, and the other way round."""
    fine = [lambda f: None, lambda f: put(f, "windows_01", WINDOWS), lambda f: put(f, "window_counts", COUNTS)]
    for change in (*fine, lambda f: put(f, "window_frames", FRAMES)):
        rows = shard.parse_shard(image(change, KEPT), "x", 1, KEPT, values=True).items
        assert [(row.track, row.n_frames, row.n_windows) for row in rows] == [
            (m.track(0), 7, 2),
            (m.track(1), 5, 1),
            (m.track(2), 21, 3),
        ]
    for made, read in ((KEPT, SPEC), (SPEC, KEPT)):
        with pytest.raises(StoreFormatError, match="more or less than the format names"):
            shard.parse_shard(image(lambda f: None, made), "x", 1, read)


def test_an_unchanged_shard_is_read():
    """The shard that the hostile ones are made from is fine (else they would prove nothing)."""
    assert [row.track for row in shard.parse_shard(image(lambda f: None), "x", 1, SPEC, values=True).items] == [
        m.track(i) for i in range(3)
    ]
    for change in (lambda f: put(f, "layer_01", GOOD), lambda f: put(f, "tracks", files_with())):
        assert len(shard.parse_shard(image(change), "x", 1, SPEC, values=True).items) == 3


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_shards_are_refused(kind, tmp_path, monkeypatch):
    """A shard with a right sum and a wrong inside is refused without reading another file or taking its memory."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("elsewhere.h5", "w") as file:
        file["secret"] = GOOD
    data = image(HOSTILE[kind])
    with pytest.raises(StoreFormatError, match=r"^shards/x\.h5 is (not a shard of this store|damaged): .+"):
        shard.parse_shard(data, "shards/x.h5", 1, SPEC, values=True)


def test_a_hostile_shard_in_a_store(tmp_path):
    """In a store, too, the hostile shard is named and left out, and rows are not read from one that came later."""
    store = m.make(tmp_path / "s", range(3), (8, 8))
    spec = store.spec
    rows = [records.Row(m.track(i), (m.file_hash(i),), 1) for i in range(3)]
    data = shard.build_shard(spec, 2, rows, [[v.astype("<f2") for v in m.vectors(9, (8, 8)).vectors]] * 3)
    file = h5py.File(h5py.h5f.open_file_image(data, 0x1))
    relink("layer_01", h5py.ExternalLink("elsewhere.h5", "secret"))(file)
    file.flush()
    data = file.id.get_file_image()
    file.close()
    name = f"shards/00000002-{hashlib.sha256(data).hexdigest()[:32]}.h5"
    (tmp_path / "s" / name).write_bytes(data)
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, range(3), (8, 8))
    assert store.problems == (f"{name} is not a shard of this store: 'layer_01' is a link to elsewhere",)
    good = tmp_path / "s" / store.shards()[0].name
    stat = good.stat()
    size = stat.st_size
    good.write_bytes(data[:size].ljust(size, b"\0"))
    os.utime(good, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StoreFormatError, match=good.name):
        store.layer(1)


def test_shards_of_other_stores(tmp_path):
    """A shard moves between stores of one recipe; one of another recipe, or under another number, is refused."""
    source = m.make(tmp_path / "a", range(3))
    same = m.make(tmp_path / "b")
    other = EmbeddingStore.create(tmp_path / "c", m.card(), m.recipe(dtype="other"))
    path = tmp_path / "a" / source.shards()[0].name
    for store in (same, other):
        shutil.copy(path, store.path / "shards")
    shutil.copy(path, same.path / "shards" / path.name.replace("00000001", "00000002"))
    opened = EmbeddingStore.open(same.path)
    m.check(opened, range(3))
    assert [p.partition(": ")[2] for p in opened.problems] == ["its sequence is 1 where 2 is expected"]
    refused = EmbeddingStore.open(other.path)
    assert (len(refused), len(refused.problems)) == (0, 1)
    assert "its fingerprint is" in refused.problems[0]


@pytest.mark.parametrize(
    "statement",
    [
        {"do": "explode"},
        {"do": "link", "file": None, "hash": "a", "key": 1},
        {"do": "link", "file": {"root": "/m", "path": "..", "size": 1, "mtime_ns": 1}, "hash": "a", "key": 1},
        {"do": "label", "key": -1, "labels": m.track(1).labels.to_dict()},
        {"do": "label", "key": 1, "labels": {}},
        {"do": "label", "key": 1, "labels": {**m.track(1).labels.to_dict(), "split": "holdout"}},
        {"do": "label", "key": 1, "labels": {**m.track(1).labels.to_dict(), "split": 3}},
        *(
            {"do": "label", "key": 1, "labels": {**m.track(1).labels.to_dict(), "year": year}}
            for year in (0, 10_000, "1969", True, None)
        ),
        {"do": "fail", "file": {"root": "/m", "path": "a", "size": 1, "mtime_ns": 1}, "stage": 1, "reason": ""},
        {"do": "forget", "path": "relative"},
        "link",
        None,
    ],
)
def test_hostile_deltas_are_refused(tmp_path, statement):
    """A delta with a right sum and a wrong statement is named and left out whole."""
    store = m.make(tmp_path / "s", range(3))
    good = records.statement_record(records.Forget("/music/genre 0/track 00000.ogg"))
    data = records.dump({**store.spec.header(2), "statements": [good, statement]})
    name = f"deltas/00000002-{hashlib.sha256(data).hexdigest()[:32]}.json"
    (tmp_path / "s" / name).write_bytes(data)
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, range(3))
    assert store.problems[0].startswith(f"{name} is not a delta of this store: ")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), spec=st.sampled_from([SPEC, KEPT]))
def test_any_bytes_are_refused_or_read(data, spec):
    """A shard with any of its bytes changed, and a right sum, is read or refused: no crash, no other error."""
    good = bytearray(image(lambda f: None, spec))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    with suppress(StoreFormatError):
        assert len(shard.parse_shard(bytes(good[: cut or None]), "x", 1, spec, values=True).items) == 3


def test_the_largest_half_is_kept_and_the_order_of_layers_is_the_cards(tmp_path):
    """Values up to float16's range come back as float16 holds them, layer by layer in the card's order."""
    store = m.make(tmp_path / "s")
    values = np.array([65503.9, -65503.9, 1e-8, 6e-8, 0.1, -0.0, 1.0, 2049.0], np.float32)
    with store.writer() as w:
        w.add(m.track(1), "a", LayerEmbeddings((values, values * 0, values / 2), 1))
    np.testing.assert_array_equal(store.layer(0).values[0], values.astype("<f2").astype("f4"))
    np.testing.assert_array_equal(store.layer(2).values[0], (values / 2).astype("<f2").astype("f4"))
    assert store.verify().ok
