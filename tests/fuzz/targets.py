"""What is fuzzed: each target makes one hostile thing from a seed and reads it as a user would.

A target raises if a reader does anything but refuse in one line or give a right result. What cannot be seen from inside (a
crash of a C library, a hang, too much memory) ends the process: see `run.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
import store_material as m

from embedstore.errors import EmbedstoreError, LabelsError, ParameterError, StoreFormatError
from embedstore.index import LayerSearch, build_index, index_coverage
from embedstore.labels import read_labels
from embedstore.labels.table import clean, unsafe
from embedstore.plan import PlannedFile, PlannedShard, plan_build
from embedstore.planfile import PlanHeader, read_plan, write_plan
from embedstore.store import EmbeddingStore, disk, records, shard
from embedstore.summary import list_failures, summarize
from embedstore.terminal import printable
from embedstore.types import AudioFile

__all__ = ["TARGETS", "Ground"]

DIMS = (8, 8)
GOOD = range(5)  # tracks of the good shard; the hostile one holds others
QUERY = np.random.default_rng(0).normal(size=(2, DIMS[0])).astype(np.float32)


class Ground:
    """Stores to spoil, in the working folder: a plain one, one with windows, one with an index, and an audio folder."""

    def __init__(self) -> None:
        self.here = Path.cwd()
        for name, make, track in (("plain", m.make, m.vectors), ("kept", m.make_kept, m.windowed)):
            store = make(self.here / name, GOOD, DIMS)
            with store.writer() as writer:
                for i in range(10, 13):
                    writer.add(m.track(i), m.file_hash(i), track(i, DIMS))
                writer.link(m.file(20), m.file_hash(20), 1010)
                writer.fail(m.file(21), "decode", "broken")
                writer.label(1011, m.TrackLabels(("new",)))
                writer.touch(m.file(10))
                writer.forget("/music/gone.ogg")
            store.remember("labels", {str(self.here / "audio"): {"source": "folder", "columns": {}}, "/b": {}})
            store.close()
        big = m.make(self.here / "big", range(300), DIMS)
        for kind in ("flat", "ivf", "exact"):
            build_index(big, 0, kind=kind, transform="centre")
        big.compact()
        big.close()
        (self.here / "audio").mkdir()
        (self.here / "audio" / "a.wav").write_bytes(b"RIFF")
        os.mkfifo(self.here / "fifo")  # whoever opens it waits until the clock of `run.py` ends the process
        (self.here / "elsewhere.h5").write_bytes(next((self.here / "plain" / "shards").iterdir()).read_bytes())

    def copy(self, name: str, *, catalogue: bool = False) -> Path:
        """Give a fresh copy of a store."""
        target = self.here / "now"
        shutil.rmtree(target, ignore_errors=True)
        without = () if catalogue else ("catalog.*", "writer.lock")
        shutil.copytree(self.here / name, target, ignore=shutil.ignore_patterns(*without))
        return target


def replaced(store: Path, kind: str, make: Callable[[bytes], bytes]) -> str:
    """Put other bytes in the place of the newest shard or delta, with a right sum in the name."""
    old = max((store / kind).iterdir())
    name = disk.commit_name(kind, int(old.name[:8]), data := make(old.read_bytes()))
    old.unlink()
    (store / name).write_bytes(data)
    return name


def look(path: Path, *, good: bool = True) -> None:
    """Open a store and ask for everything; only our errors may come, in one line; the good tracks are right."""
    try:
        store = EmbeddingStore.open(path)
    except EmbedstoreError as error:
        one_line(error)
        return
    for problem in store.problems:
        assert "\n" not in printable(problem)
    keys = store.keys()
    tracks = store.tracks()
    assert [track.key for track in tracks] == keys.tolist()
    if good:
        left = [i for i in GOOD if 1000 + i in keys]
        for number in range(len(DIMS)):
            try:
                matrix = store.layer(number)
            except StoreFormatError as error:
                one_line(error)
                continue
            assert np.isfinite(matrix.values).all()
            with suppress(AttributeError):
                for i in left:
                    (row,) = matrix.values[matrix.keys == 1000 + i]
                    assert np.array_equal(row, m.vectors(i, DIMS).vectors[number]) or store.keeps_windows
    if store.keeps_windows:
        with suppress(EmbedstoreError):
            store.windows()
    json.dumps(summarize(store, scan=False), allow_nan=False)
    json.dumps(list_failures(store))
    with suppress(EmbedstoreError):
        plan_build(path.parent / "audio", path)
    report = store.verify()
    assert all("\n" not in printable(problem) for problem in report.problems)
    store.close()


def one_line(error: BaseException, start: str = "") -> None:
    """Check what a user would see, before it is made fit for a terminal."""
    text = str(error)
    assert text.startswith(start)
    assert 0 < len(text) < 5000, text[:300]


def shards(chance: Random, ground: Ground) -> None:
    """Read shards with right names and anything inside."""
    which = chance.choice(("plain", "kept"))
    store = ground.copy(which)
    others = [path.read_bytes() for path in (ground.here / "kept" / "shards").iterdir()]
    texts = {name: lambda c, old: mutate.text(c, json.loads(old)) for name in ("header", "tracks")}

    def make(data: bytes) -> bytes:
        match chance.randrange(5):
            case 0:
                return mutate.spoil(chance, data, chance.choice(others), most=4)
            case 1 | 2:
                return mutate.spoil_metadata(chance, data)
            case _:
                return mutate.rebuild(chance, data, texts)

    name = replaced(store, "shards", make)
    spec = EmbeddingStore.open(ground.here / which).spec
    data = (store / name).read_bytes()
    try:
        content, matrices, _ = shard.load_shard(data, name, int(name[7:15]), spec)
    except StoreFormatError as error:
        one_line(error, name)
    else:
        assert all(np.isfinite(matrix).all() and matrix.shape == (len(content.items), 8) for matrix in matrices)
    if chance.random() < 0.3:
        look(store)


def deltas(chance: Random, ground: Ground) -> None:
    """Read deltas with right names and any JSON."""
    store = ground.copy("plain")
    replaced(store, "deltas", lambda data: mutate.text(chance, json.loads(data)))
    look(store)
    if chance.random() < 0.3:
        with suppress(EmbedstoreError), EmbeddingStore.open(store).writer():
            pass
        with suppress(EmbedstoreError):
            EmbeddingStore.open(store).compact()
        look(store)


def descriptions(chance: Random, ground: Ground) -> None:
    """Read a store.json, its fingerprint made right now and then."""
    store = ground.copy(chance.choice(("plain", "kept")))
    file = store / "store.json"
    told = json.loads(file.read_bytes())
    if chance.random() < 0.6:
        part = chance.choice(("card", "recipe"))
        changed = mutate.change(chance, told[part])
        told[part] = changed
        with suppress(ValueError, TypeError, RecursionError):
            told["fingerprint"] = hashlib.sha256(records.dump(told["recipe"])).hexdigest()
        file.write_text(json.dumps(told))
    else:
        file.write_bytes(mutate.text(chance, told))
    look(store, good=False)
    shutil.rmtree(ground.here / "merged", ignore_errors=True)
    with suppress(EmbedstoreError):
        other = EmbeddingStore.open(store)
        EmbeddingStore.create(ground.here / "merged", other.card, other.recipe).merge(other)


def preferences(chance: Random, ground: Ground) -> None:
    """Read a settings.json."""
    store = ground.copy("plain")
    file = store / "settings.json"
    file.write_bytes(mutate.text(chance, json.loads(file.read_bytes())))
    with suppress(EmbedstoreError):
        plan = plan_build(ground.here / "audio", store)
        plan.remember(EmbeddingStore.open(store))
    target = EmbeddingStore.open(ground.copy("kept").rename(ground.here / f"other{chance.random()}"))
    target.remember_from(EmbeddingStore.open(ground.copy("plain")))
    shutil.rmtree(target.path)


CSV = 'path,track_id,genre,artist,album,title\ng/a.ogg,a,blues;rock,"X, Y",One,"Say ""hi"""\n,b,jazz,Z,,T\nc.ogg,,,,\x1b[1m,\n'


def tables(chance: Random, ground: Ground) -> None:
    """Read CSV files: any bytes, encodings, quotes, huge fields."""
    text = CSV.replace(",", chance.choice((",", ",", ";", "\t"))) * chance.choice((1, 1, 3))
    data = text.encode(
        chance.choice(("utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-32", "utf-7")), "replace"
    )
    data = mutate.spoil(chance, data, data)
    if chance.random() < 0.2:
        at = chance.randrange(len(data) + 1)
        extra = chance.choice((b'"', b"\0", b"\r", b"\xe2\x80\xae", b"x" * 200_000, b'"' + b"\n" * 1000, b"," * 3000))
        data = data[:at] + extra + data[at:]
    file = ground.here / "labels.csv"
    file.write_bytes(data)
    files = [AudioFile("/m", path, 1, 1) for path in ("g/a.ogg", "b.ogg", "c.ogg")]
    try:
        table = read_labels(file, files)
    except LabelsError as error:
        one_line(error)
    else:
        assert set(table.by_path) <= {file.full_path for file in files}
        for labels in table.by_path.values():
            for word in (*labels.genres, *labels.artists, labels.album, labels.title):
                assert word == clean(word)
        assert not any(map(unsafe, table.problems))


def indices(chance: Random, ground: Ground) -> None:
    """Read index files and their metas, with right sums: what others may have written is checked, FAISS sees none of it."""
    store = EmbeddingStore.open(ground.here / "big")
    folder = chance.choice(sorted((ground.here / "big" / "indices").iterdir()))
    index, meta = folder / chance.choice(("rows", "rows", "transform")), folder / "meta.json"
    before = index.read_bytes(), meta.read_bytes()
    aside = ground.here / "aside"
    others = [one for one in (ground.here / "big" / "indices").iterdir() if one != folder]
    aside.mkdir(exist_ok=True)
    for one in others:
        one.rename(aside / one.name)
    try:
        data, told = before[0], json.loads(before[1])
        if chance.random() < 0.8:
            if chance.random() < 0.7:  # near the numbers that say how much there is
                at = chance.choice((0, 0, 40, len(data) - 12 * 300 - 16))
                data = data[:at] + mutate.spoil(chance, data[at : at + 200], most=2) + data[at + 200 :]
            else:
                data = mutate.spoil(chance, data, data)
            told["files"][index.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            if chance.random() < 0.3:
                told["rows"] = chance.choice((0, 1, 299, 301))
        else:
            told = mutate.change(chance, told)
        index.write_bytes(data)
        meta.write_text(json.dumps(told))
        try:
            live = LayerSearch(store, 0, "centre")
            found = live.search(live.place(QUERY), 5)
        except EmbedstoreError as error:
            one_line(error, "an index holds rows that are not finite")
        else:
            assert np.isfinite(found.scores).all()
            assert set(found.keys.ravel().tolist()) <= set(store.keys().tolist())
            assert all(printable(note) == note for note in live.notes)
        index_coverage(store)
    finally:
        index.write_bytes(before[0])
        meta.write_bytes(before[1])
        for one in others:
            (aside / one.name).rename(one)
        store.close()


def plans(chance: Random, ground: Ground) -> None:
    """Read plan files."""
    file = ground.here / "plan.json"
    file.unlink(missing_ok=True)
    empty = {"str": "0" * 32, "int": 1, "bool": False, "dict[str, Any]": {"name": "mfcc"}}
    values = {field.name: empty.get(str(field.type)) for field in fields(PlanHeader)}
    there = {"store": str(ground.here / "plain"), "root": "/music", "columns": {}, "shards": 2}
    header = PlanHeader(**values | there)
    planned = [PlannedShard(n, (PlannedFile(m.file(n), m.track(n).labels, False),)) for n in (1, 2)]
    write_plan(file, header, planned)
    lines = file.read_bytes().splitlines()
    which = chance.randrange(len(lines))
    lines[which] = mutate.text(chance, json.loads(lines[which]))
    data = b"\n".join(lines) + b"\n"
    file.write_bytes(mutate.spoil(chance, data, data) if chance.random() < 0.2 else data)
    try:
        found, shards_ = read_plan(file, chance.choice((None, [1], ["1-2"])))
    except ParameterError as error:
        one_line(error)
    else:
        for one in shards_.values():
            assert all(file.file.full_path.startswith(found.root) for file in one.files)
            json.dumps(found.encoder, allow_nan=False)


VIEW = "CREATE VIEW {} AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
FORGED = (
    *(f"UPDATE {table} SET {column} = {{}}" for table, columns in (  # noqa: S608 - constants
        ("commits", ("name", "size", "mtime_ns", "keys", "problem", "replaces", "origins")),
        ("tracks", ("shard", "row", "seconds", "labels", "warnings", "windows")),
        ("files", ("below", "size", "hash", "key", "failure")),
    ) for column in columns),
    "DROP TABLE files; " + VIEW.format("files", "x AS id, zeroblob(9999999) AS path, 1 AS below, 1 AS size, 1 AS mtime_ns, 'a' AS hash, 1000 AS key, NULL AS failure"),
    "DROP TABLE commits; " + VIEW.format("commits", "x AS id, 'a' AS name, 1 AS size, 1 AS mtime_ns, zeroblob(80) AS keys, NULL AS problem, NULL AS replaces, NULL AS origins"),
    "CREATE TRIGGER t AFTER INSERT ON files BEGIN DELETE FROM files; END",
    "INSERT INTO commits(name, size, keys) VALUES ('../../elsewhere.h5', -1, zeroblob(80))",
    "INSERT INTO commits(name, size, keys, replaces) VALUES ('../../elsewhere.h5', 1, zeroblob(80), '[\"../../elsewhere.h5\"]')",
    "ALTER TABLE tracks ADD COLUMN more",
)  # fmt: skip
VALUES = (
    "NULL",
    "'x'",
    "-1",
    "1.5",
    "9223372036854775807",
    "zeroblob(100000)",
    "'[\"../../elsewhere.h5\"]'",
    "'[[[[1]]]]'",
    "X'ff'",
    "'{}'",
)


def catalogues(chance: Random, ground: Ground) -> None:
    """Read catalogues that somebody forged, with a right sum in the seal: made elsewhere, so that they are made anew."""
    store = ground.copy("plain", catalogue=True)
    EmbeddingStore.open(store).close()
    file = store / "catalog.sqlite"
    if chance.random() < 0.6:
        db = sqlite3.connect(file)
        for _ in range(chance.randint(1, 3)):
            with suppress(sqlite3.Error):
                db.executescript(chance.choice(FORGED).format(chance.choice(VALUES)))
        db.commit()
        db.close()
    else:
        file.write_bytes(mutate.spoil(chance, file.read_bytes(), file.read_bytes()))
    if chance.random() < 0.3:
        (store / "catalog.sqlite-journal").write_bytes(hot_journal(ground.here / "elsewhere.h5"))
    sealed = hashlib.sha256(file.read_bytes()).hexdigest()
    place = file.stat()
    if itself := chance.random() < 0.5:  # as only a process on this machine could
        sealed += f" {place.st_ino}-{place.st_ctime_ns}"
    (store / "catalog.seal").write_text(sealed)
    if itself:
        with suppress(EmbedstoreError, TypeError, ValueError, KeyError, RecursionError, AttributeError, AssertionError):
            look(store, good=False)
    else:
        look(store)
    assert (ground.here / "elsewhere.h5").exists()


def hot_journal(victim: Path) -> bytes:
    """Make the journal of an interrupted transaction over several databases: SQLite ends it by removing the file it names."""
    magic, name = bytes.fromhex("d9d505f920a163d7"), os.fsencode(victim)
    head = magic + b"".join(n.to_bytes(4, "big") for n in (0, 0, 9, 512, 4096))
    page, total = (2**30 // 4096 + 1).to_bytes(4, "big"), sum(name).to_bytes(4, "big")
    return head.ljust(512, b"\0") + page + name + len(name).to_bytes(4, "big") + total + magic


TARGETS: dict[str, Callable[[Random, Ground], Any]] = {
    "shards": shards,
    "deltas": deltas,
    "descriptions": descriptions,
    "preferences": preferences,
    "tables": tables,
    "indices": indices,
    "plans": plans,
    "catalogues": catalogues,
}
