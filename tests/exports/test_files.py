"""HDF5 and Parquet: the store's values bit for bit, readable by others; a file appears whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import store_material as m

import embedstore
from embedstore import EmbeddingStore, export
from embedstore.errors import MissingDependencyError, ParameterError, StoreError
from embedstore.types import AudioFile, TrackLabels

KEYS = [1000 + i for i in range(600)]
ODD = TrackLabels(("rock", "folk; country"), ('The "A" & B',), "", "nul \0 line \n é", "", "test", 1969)
READABLE = 'import h5py, sys; f = h5py.File(sys.argv[1]); print(f["path"].asstr()[3], f["layer_01"][3, 0], "embedstore" in sys.modules)'


def names(folder: Path) -> list[str]:
    """List a folder."""
    return sorted(path.name for path in folder.iterdir())


def matrix(number: int, numbers=range(600)) -> np.ndarray:
    """Give what the store was given, float16."""
    return np.array([m.vectors(i).vectors[number] for i in numbers], np.float16)


def add_odd(store: EmbeddingStore) -> None:
    """Add a track whose path is not UTF-8, and whose labels have all that can go wrong."""
    file = AudioFile("/music", os.fsdecode(b"caf\xe9.mp3"), 1, 1)
    with store.writer() as writer:
        writer.add(replace(m.track(600), files=(file,), labels=ODD), m.file_hash(600), m.vectors(600))


def test_h5_holds_the_store_bit_for_bit(store):
    """Every layer as float16, and what is known about each track, in the order of the store."""
    add_odd(store)
    seen = []
    report = export(store, "music.h5", progress=lambda *counts: seen.append(counts))
    assert (report.to, report.rows, report.layers) == ("h5", 601, ("layer_00", "layer_01", "layer_02"))
    assert report.bytes == Path("music.h5").stat().st_size
    assert seen == [(256, 601), (512, 601), (601, 601)]
    with h5py.File("music.h5") as file:
        assert file["key"][:].tolist() == [*KEYS, 1600]
        for number in range(3):
            dataset = file[f"layer_{number:02d}"]
            assert (dataset.dtype, dataset.attrs["name"]) == (np.float16, f"layer {number}")
            np.testing.assert_array_equal(dataset[:].view("u2"), matrix(number, range(601)).view("u2"))
        text = {
            name: file[name].asstr()[:].tolist() for name in ("track_id", "path", "genres", "artists", "album", "title")
        }
        assert text["track_id"][5] == f"{1005:016x}"
        assert text["path"][5] == m.track(5).path
        assert (text["genres"][5], text["artists"][5]) == ('["genre 2"]', '["artist 0"]')
        assert (text["album"][5], text["title"][5], file["seconds"][5]) == ("album", "title 5", 35.0)
        assert text["path"][600] == r"/music/caf\udce9.mp3"
        assert json.loads(text["genres"][600]) == list(ODD.genres)
        assert json.loads(text["artists"][600]) == list(ODD.artists)
        assert text["title"][600] == "nul \\x00 line \n é"
        assert file["split"].asstr()[599:].tolist() == ["", "test"]
        assert file["year"][599:].tolist() == [0, 1969]
        assert file.attrs["embedstore_version"] == embedstore.__version__
        assert file.attrs["embedstore_fingerprint"] == store.fingerprint
        assert file.attrs["embedstore_licence"] == "CC0-1.0"
        assert json.loads(file.attrs["embedstore_encoder"])["name"] == "toy"
        assert json.loads(file.attrs["embedstore_recipe"]) == store.recipe


def test_h5_needs_nothing_of_ours(store, run):
    """A program with h5py alone reads it."""
    export(store, "music.h5")
    done = run("-I", "-c", READABLE, "music.h5")
    assert done.stdout == f"{m.track(3).path} {m.vectors(3).vectors[1][0]} False\n", done.stderr


def test_layers_are_chosen(store):
    """By number, name or as a mean; each once; float32 for the mean, and for all if asked."""
    assert export(store, "some.h5", layers=["layer 2", 0, "2", "mean"]).layers == ("layer_02", "layer_00", "layer_mean")
    with h5py.File("some.h5") as file:
        assert {name for name in file if "layer" in name} == {"layer_00", "layer_02", "layer_mean"}
        assert file["layer_mean"].dtype == np.float32
        np.testing.assert_array_equal(file["layer_mean"][:], store.layer("mean").values)
    export(store, "single.hdf5", layers=["1"], float32=True)
    with h5py.File("single.hdf5") as file:
        assert file["layer_01"].dtype == np.float32
        np.testing.assert_array_equal(file["layer_01"][:], matrix(1).astype(np.float32))


def test_pandas_reads_the_parquet(store):
    """A row for each track; vectors bit for bit; lists of genres; where it comes from in the metadata."""
    pytest.importorskip("pyarrow")
    pandas, parquet = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    add_odd(store)
    report = export(store, "music.parquet", layers=["all", "mean"])
    assert (report.rows, report.bytes) == (601, Path("music.parquet").stat().st_size)
    frame = pandas.read_parquet("music.parquet")
    assert frame.key.tolist() == [*KEYS, 1600]
    for number in range(3):
        values = np.stack(frame[f"layer_{number:02d}"])
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, matrix(number, range(601)).astype(np.float32))
    np.testing.assert_array_equal(np.stack(frame.layer_mean), store.layer("mean").values)
    row = frame.iloc[5]
    assert (row.track_id, row.path, row.seconds) == (f"{1005:016x}", m.track(5).path, 35.0)
    assert (list(row.genres), list(row.artists), row.album, row.title) == (
        ["genre 2"],
        ["artist 0"],
        "album",
        "title 5",
    )
    odd = frame.iloc[600]
    assert (odd.path, list(odd.genres), list(odd.artists)) == (r"/music/caf\udce9.mp3", [*ODD.genres], [*ODD.artists])
    assert (row.split, odd.split) == ("", "test")
    assert (row.year, odd.year) == (0, 1969)
    file = parquet.ParquetFile("music.parquet")
    assert file.num_row_groups == 3
    assert str(file.schema_arrow.field("layer_01").type) == "fixed_size_list<element: float>[8]"
    about = {name.decode(): text.decode() for name, text in file.schema_arrow.metadata.items()}
    assert about["embedstore_fingerprint"] == store.fingerprint
    assert json.loads(about["embedstore_encoder"])["licence"] == "CC0-1.0"


@pytest.mark.parametrize("name", ["music.h5", "music.parquet"])
def test_files_are_replaced_only_when_asked(store, tmp_path, name):
    """A file that is there stays as it is; with overwrite it is replaced; nothing that is no plain file ever is."""
    pytest.importorskip("pyarrow")
    target = tmp_path / name
    target.write_text("mine")
    with pytest.raises(ParameterError, match="exists; choose another name, or give --overwrite"):
        export(store, name)
    assert target.read_text() == "mine"
    assert export(store, name, overwrite=True).bytes == target.stat().st_size > 1000
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(target)
    for other in ("folder", "link", "/dev/null"):
        with pytest.raises(ParameterError, match="exists and is no plain file"):
            export(store, other, name.rpartition(".")[2], overwrite=True)
    with pytest.raises(ParameterError, match="lies in the store"):
        export(store, "embeddings/store.json", "h5", overwrite=True)
    assert names(tmp_path) == sorted(["embeddings", "folder", "link", name])


@pytest.mark.parametrize("name", ["music.h5", "music.parquet"])
def test_a_writer_at_work(store, name):
    """Tracks that are added while it runs are not in the file; every row is that of its key."""
    pytest.importorskip("pyarrow")

    def meanwhile(done: int, _total: int) -> None:
        with EmbeddingStore.open("embeddings").writer() as writer:
            m.fill(writer, range(10_000 + done, 10_003 + done))

    assert export(store, name, layers=[1], progress=meanwhile).rows == 600
    assert len(store) == 609
    if name.endswith("h5"):
        with h5py.File(name) as file:
            keys, values = file["key"][:], file["layer_01"][:]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(name)
        keys, values = table["key"].to_numpy(), np.stack(table["layer_01"].to_numpy())
    assert keys.tolist() == KEYS
    np.testing.assert_array_equal(values, matrix(1))


def test_tracks_that_vanish_while_it_runs(store, monkeypatch, tmp_path):
    """One clear line; no file."""
    vectors = EmbeddingStore.vectors

    def late(self, keys, which=None):
        if keys[0] == 1256:
            with EmbeddingStore.open("embeddings").writer() as writer:
                writer.forget(m.file(300).full_path)
        return vectors(self, keys, which)

    monkeypatch.setattr(EmbeddingStore, "vectors", late)
    with pytest.raises(StoreError, match="lost tracks while it was read; export again"):
        export(store, "music.h5")
    assert names(tmp_path) == ["embeddings"]


@pytest.mark.parametrize(("name", "module"), [("music.parquet", "pyarrow"), ("music.db", "pymilvus")])
def test_missing_extra(store, monkeypatch, tmp_path, name, module):
    """The install line; nothing is left behind."""
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{module} is not installed; run: pip install 'embedstore-mir\["):
        export(store, name)
    assert names(tmp_path) == ["embeddings"]


# -- disks that refuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [("music.h5", "4k"), pytest.param("music.h5", "48k", marks=pytest.mark.slow), ("music.parquet", "16k")],
)
def test_full_disk(store, mounted, run, name, size):
    """One line and exit code 1, not a segmentation fault; nothing is left behind."""
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with mounted(f"size={size}") as small:
        done = run("-m", "cli", "export", small / name, "--store", store.path)
        assert (done.returncode, done.stderr) == (
            1,
            f"embedstore: cannot write {small / name}: the disk is full; make room\n",
        )
        assert names(small) == []


REFUSED = """
import errno, os, sys
from embedstore import EmbeddingStore, export
from embedstore.errors import StoreError
from embedstore.exports import h5

class Full:  # stands for `os`: from the last-th write on, the disk is full
    count, last = 0, 10**9
    def __getattr__(self, name):
        return getattr(os, name)
    def pwrite(self, *arguments):
        self.count += 1
        if self.count > self.last:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(*arguments)

h5.os = disk = Full()
store = EmbeddingStore.open("embeddings")
export(store, "whole.h5")
writes = disk.count
for disk.last in range(0, writes, int(sys.argv[1])):
    disk.count = 0
    try:
        export(store, "half.h5")
    except StoreError as error:
        assert str(error).endswith("the disk is full; make room"), error
    else:
        sys.exit(f"write {disk.last} was not noticed")
    assert sorted(os.listdir()) == ["embeddings", "whole.h5"], os.listdir()
print(writes)
"""


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_writes_of_hdf5_refused(store, run, step):
    """Wherever the disk becomes full, the process lives on and says so."""
    done = run("-c", REFUSED, step)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 30


def test_read_only_folder(store, mounted):
    """One clear line."""
    with mounted("size=1m,ro") as disk, pytest.raises(StoreError, match="the file system is read-only"):
        export(store, disk / "music.h5")


INTERRUPTED = """
import os, random, signal, sys, time
from embedstore import EmbeddingStore, export

def lost(found, show=sys.unraisablehook):  # Python itself drops what is raised in a weak reference's callback
    if found.exc_type is not KeyboardInterrupt:
        show(found)


sys.unraisablehook = lost
signal.signal(signal.SIGALRM, signal.default_int_handler)
store, name, times = EmbeddingStore.open("embeddings"), sys.argv[1], int(sys.argv[2])
began = time.perf_counter()
export(store, name)
took = time.perf_counter() - began
os.remove(name)
randomly, interrupted = random.Random(0), 0
for _ in range(times):
    try:
        signal.setitimer(signal.ITIMER_REAL, randomly.uniform(1e-4, took))
        export(store, name)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    assert set(os.listdir()) <= {"embeddings", name}, os.listdir()  # whole or not at all
    if os.path.exists(name):
        os.remove(name)
print(interrupted)
"""


@pytest.mark.parametrize(("name", "times"), [("music.h5", 15), pytest.param("music.h5", 500, marks=pytest.mark.slow)])
def test_interrupted_at_any_moment(store, run, name, times):
    """Ctrl-C, wherever it comes, ends the export and nothing else; no half file."""
    done = run("-c", INTERRUPTED, name, times)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > times / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["music.h5", "music.parquet"])
def test_memory_is_flat(tmp_path, run, name):
    """40,000 tracks, 120 MB of vectors, take less than 100 MB more than 100 tracks."""
    pytest.importorskip("pyarrow")
    code = (
        "import resource, sys; from embedstore import EmbeddingStore, export\n"
        "export(EmbeddingStore.open(sys.argv[1]), sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (100, 40_000):
        m.make(tmp_path / str(count), range(count), (512, 512, 512)).close()
        done = run("-c", code, tmp_path / str(count), tmp_path / f"{count}-{name}")
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 100_000, peaks  # kB
