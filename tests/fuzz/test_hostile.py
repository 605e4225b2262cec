"""What strangers may hand over: nothing outside the store is read, written or removed, nothing hangs, nothing reaches the terminal."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mutate
import numpy as np
import pytest
import store_material as m
from click.testing import CliRunner
from targets import hot_journal

import cli
from embedstore.errors import EmbedstoreError, ParameterError, StoreError, StoreFormatError
from embedstore.index import LayerSearch, build_index, index_coverage
from embedstore.plan import plan_build
from embedstore.store import EmbeddingStore, disk, records, shard
from embedstore.summary import summarize

WATCHED: list[str] = []  # folders of which nothing may be touched
SEEN: list[tuple[str, str]] = []
EVENTS = {"open", "os.scandir", "os.listdir", "os.remove", "os.rename", "os.mkdir", "os.truncate", "sqlite3.connect"}


def watch(event, arguments):
    """Note what Python does to files below the watched folders; HDF5 and SQLite work in C, and are caught by pipes."""
    if WATCHED and event in EVENTS:
        follows = event in {"os.scandir", "os.listdir", "sqlite3.connect"} or (
            event == "open" and not (arguments[2] or 0) & os.O_NOFOLLOW
        )
        for one in arguments[: 2 if event == "os.rename" else 1]:
            with suppress(TypeError):
                folder, name = os.path.split(os.path.abspath(os.fsdecode(one)))
                path = f"{os.path.realpath(folder)}/{name}"
                path = os.path.realpath(path) if follows else path
                SEEN.extend((event, path) for folder in WATCHED if path.startswith(folder))


sys.addaudithook(watch)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here need outlive a crash."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def outside(tmp_path):
    """Give a folder of somebody's own, which must be as before and untouched in the end."""
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    for name in ("letter.txt", "a.tmp-1", "folder/letter.txt", "folder/a.tmp-1", "folder/meta.json"):
        (folder / name).write_text("precious" * 50)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    SEEN.clear()
    WATCHED.append(str(folder))
    yield folder
    WATCHED.clear()
    assert SEEN == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def actions(store: EmbeddingStore) -> list[Callable[[], object]]:
    """List what one can do with a store."""
    return [
        lambda: json.dumps(summarize(store, scan=False), allow_nan=False),
        lambda: store.layer(0),
        lambda: LayerSearch(store, 0).search(np.ones((1, 4), np.float32), 3),
        store.verify,
        store.repair,
        lambda: store.remember("x", 1),
        lambda: store.writer().__enter__().__exit__(None, None, None),
        store.compact,
        lambda: build_index(store, 0, kind="exact"),
        lambda: index_coverage(store),
        store.close,
    ]


def use(path: Path) -> list[str]:
    """Do with a store all that one can, twice; only our errors may come, and refusals of the system. What they say."""
    said = []
    for _ in range(2):
        try:
            store = EmbeddingStore.open(path)
        except EmbedstoreError as error:
            return [str(error)]
        for action in actions(store):
            try:
                action()
            except (EmbedstoreError, OSError) as error:
                said.append(str(error))
    return said


FILES = ("store.json", "settings.json", "writer.lock", "catalog.sqlite", "catalog.seal", "indices/0-exact-00/meta.json")
FOLDERS = ("shards", "deltas", "indices", "indices/0-exact-00", "quarantine")


@pytest.fixture
def store(tmp_path):
    """Make a store with everything in it."""
    store = m.make(tmp_path / "s", range(5))
    with store.writer() as w:
        w.fail(m.file(9), "decode", "broken")
    store.remember("labels", {"/music": {"source": "folder", "columns": {}}})
    Path(build_index(store, 0, kind="exact").path).rename(tmp_path / "s/indices/0-exact-00")
    store.close()
    (tmp_path / "s/quarantine").mkdir()
    return tmp_path / "s"


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_link_in_a_store_leads_nowhere(store, outside, name):
    """A link in the place of any file or folder of a store: what it leads to is not read, written, moved or removed."""
    place = store / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(outside / ("folder" if name in FOLDERS else "letter.txt"))
    (store / "shards" / "notes.txt").write_text("foreign") if name == "quarantine" else None
    said = use(store)
    if name in {"shards", "deltas", "store.json"}:
        assert "a link lies where a plain file or folder should be" in said[0]


@pytest.mark.timeout(30, method="thread")
@pytest.mark.parametrize("name", [*FILES, "catalog.sqlite-journal", "shards", "deltas", "indices", "quarantine"])
def test_a_pipe_in_a_store_is_not_waited_for(store, name):
    """Who opens a pipe for reading waits for a writer: nothing here does."""
    place = store / name
    if place.exists():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    os.mkfifo(place)
    use(store)


def test_a_journal_removes_nothing(store, outside):
    """SQLite ends an interrupted transaction by removing the file that its journal names; a journal is never shown to it."""
    (store / "catalog.sqlite-journal").write_bytes(hot_journal(outside / "letter.txt"))
    m.check(EmbeddingStore.open(store), range(5))
    assert not (store / "catalog.sqlite-journal").exists()


def forge(store: Path, sql: str, *, here: bool = True) -> None:
    """Change the catalogue of a store, and seal it; `here`: as only a process on this machine can."""
    import sqlite3

    EmbeddingStore.open(store).close()
    db = sqlite3.connect(store / "catalog.sqlite")
    db.executescript(sql)
    db.close()
    file = (store / "catalog.sqlite").stat()
    place = f" {file.st_ino}-{file.st_ctime_ns}" if here else ""
    (store / "catalog.seal").write_text(hashlib.sha256((store / "catalog.sqlite").read_bytes()).hexdigest() + place)


ENDLESS = "CREATE VIEW {} AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
FORGED = {
    "name outside": "UPDATE commits SET name = '../outside/letter.txt'",
    "gone outside": "INSERT INTO commits(name, size, keys) VALUES ('../outside/letter.txt', -1, zeroblob(80))",
    "replaces outside": "UPDATE commits SET replaces = '[\"../outside/letter.txt\"]'",
    "origins of objects": "UPDATE commits SET origins = '[{}]'",
    "size missing": "UPDATE commits SET size = NULL",
    "size of text": "UPDATE commits SET size = 'x'",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON files BEGIN DELETE FROM tracks; END",
    "endless view": "DROP TABLE commits; "
    + ENDLESS.format(
        "commits", "x AS id, 'a' AS name, 1 AS size, 1 AS mtime_ns, NULL AS keys, NULL AS replaces, NULL AS origins"
    ),
    "endless files": "DROP TABLE files; " + ENDLESS.format("files", "x AS id, x AS key, NULL AS failure"),
}


@pytest.mark.timeout(30, method="thread")
@pytest.mark.parametrize("how", FORGED)
def test_a_forged_catalogue_is_made_anew(store, outside, how):
    """Names that are none, other tables, views and triggers: even under a right seal they are not believed."""
    forge(store, FORGED[how])
    opened = EmbeddingStore.open(store)
    with opened.writer() as w:
        m.fill(w, [5])
    m.check(opened, range(6))
    assert opened.verify().ok


def test_the_catalogue_of_a_copy_is_made_anew(store, tmp_path):
    """A store that comes from elsewhere brings no catalogue; one that cannot be written is read with it if it is sound."""
    forge(store, "UPDATE tracks SET labels = json_set(labels, '$.title', 'forged')", here=False)
    assert EmbeddingStore.open(store).tracks()[0].labels.title == "title 0"
    forge(store, "UPDATE tracks SET labels = json_set(labels, '$.title', 'forged')", here=False)
    lock = disk.try_lock(store, shared=True)  # nobody can mend it now
    assert EmbeddingStore.open(store).tracks()[0].labels.title == "forged"
    os.close(lock)


def test_a_catalogue_that_gives_more_than_it_has(tmp_path):
    """Pages that lead to one page again and again make endless rows of a small file: it is not sound."""
    m.make(tmp_path / "s", range(300)).close()
    data = bytearray((tmp_path / "s/catalog.sqlite").read_bytes())
    for page in range(4096, len(data), 4096):
        if data[page] == 5:  # the inside of a table: a list of children
            cells = int.from_bytes(data[page + 3 : page + 5], "big")
            starts = [page + int.from_bytes(data[page + 12 + 2 * i :][:2], "big") for i in range(cells)]
            for start in (*starts, page + 8):
                data[start : start + 4] = data[starts[0] : starts[0] + 4]
    (tmp_path / "s/catalog.sqlite").write_bytes(data)
    (tmp_path / "s/catalog.seal").write_text(hashlib.sha256(data).hexdigest())
    lock = disk.try_lock(tmp_path / "s", shared=True)
    m.check(EmbeddingStore.open(tmp_path / "s"), range(300))
    os.close(lock)


@pytest.mark.parametrize(
    "name", ["../outside/letter.txt", "shards/../../outside/letter.txt", "shards", "store.json", "", "/x"]
)
def test_only_commits_are_removed(store, outside, name):
    """The last step before a file is removed looks at its name once more."""
    with pytest.raises(StoreFormatError, match="is not a shard or delta; it is not removed"):
        disk.remove_commit(store, name)


def test_what_is_foreign_moves_whatever_its_name(store):
    """Repair moves links, folders, pipes, names with line breaks, of any bytes and of full length; what moved before stays."""
    shards = store / "shards"
    for i in range(2):
        names = [b"line\nbreak", b"\xff\xfe", b"x" * 255, b"-rf", b"\x1b[2J", b"same"]
        for name in names:
            Path(os.fsdecode(bytes(shards) + b"/" + name)).write_text(str(i))
        (shards / "link").symlink_to("/etc/passwd")
        (shards / "folder").mkdir()
        (shards / "folder" / "full").write_text("x")
        os.mkfifo(shards / "pipe")
        report = EmbeddingStore.open(store).repair()
        assert len(report.quarantined) == len(names) + 3
        assert EmbeddingStore.open(store).verify().ok
    assert len(list((store / "quarantine").iterdir())) == 2 * (len(names) + 3)
    assert Path("/etc/passwd").exists()


LIES = {
    "not a number": ("recipe", {"x": float("nan")}),
    "endless": ("card", {"frame_rate": float("inf")}),
    "options endless": ("card", {"options": {"name": "mfcc", "hop": 1e999}}),
    "licence a list": ("card", {"licence": ["a"]}),
    "sum a number": ("card", {"weights_sha256": 5}),
    "rate as text": ("card", {"sample_rate": "44100"}),
    "layer without width": ("card", {"layers": [{"number": 0, "name": "a", "dim": 2**60}], "default_layer": 0}),
    "layer of text": ("card", {"layers": [{"number": "0", "name": "a", "dim": 4}], "default_layer": "0"}),
    "windows of text": ("recipe", {"windows": "kept", **m.CUT, "window_length": "x"}),
    "windows endless": ("recipe", {"windows": "kept", **m.CUT, "window_hop": 2**70}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_store_that_lies_about_itself(store, lie):
    """A store.json with a right sum and wrong fields is refused in one line."""
    part, changes = LIES[lie]
    told = json.loads((store / "store.json").read_bytes())
    told[part] |= changes
    text = json.dumps(told["recipe"], sort_keys=True, separators=(",", ":")).encode()
    told["fingerprint"] = hashlib.sha256(text).hexdigest()
    (store / "store.json").write_text(json.dumps(told))
    with pytest.raises(StoreFormatError, match=r"store\.json does not describe a store: "):
        EmbeddingStore.open(store)


@pytest.mark.parametrize(
    "options", [{"name": 5}, {"name": "mfcc", "trust_remote_code": True}, {"hop": 1}, {"name": "mfcc", "model": 1}]
)
def test_a_store_cannot_ask_for_anything(store, options):
    """What a store remembers of its encoder is checked before it is loaded; to run code is not among it."""
    from embedstore.options import EncoderOptions

    with pytest.raises(StoreFormatError, match="should hold the options of an encoder"):
        EncoderOptions().load(options)


@pytest.mark.timeout(30, method="thread")
@pytest.mark.parametrize(
    "settings",
    [
        b"[" * 100_000,
        b'{"labels": [1]}',
        b'{"labels": NaN}',
        b'{"labels": {"AUDIO": 5}}',
        b'{"labels": {"AUDIO": {"source": 5, "columns": {}}}}',
        b'{"labels": {"AUDIO": {"source": "PIPE", "columns": {}}}}',
        b'{"labels": {"AUDIO": {"source": "nothing", "columns": {}}}}',
        b'{"labels": {"AUDIO": {"source": "/' + b"x" * 5000 + b'", "columns": {}}}}',
        b'{"labels": {"AUDIO": {"source": "a\\u0000b/c.csv", "columns": {}}}}',
        b'{"labels": {"AUDIO": {"source": "CSV", "columns": {"genre": 5}}}}',
        b'{"labels": {"AUDIO": {"source": "CSV", "columns": {"more": "x"}}}}',
    ],
)
def test_hostile_settings(store, tmp_path, settings):
    """Preferences that are none: labels stay as they are, with a note; nothing is waited for; new ones can be kept."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "l.csv").write_text("path,genre\na.wav,x\n")
    os.mkfifo(tmp_path / "pipe")
    for word, path in (("AUDIO", "audio"), ("PIPE", "pipe"), ("CSV", "l.csv")):
        settings = settings.replace(word.encode(), bytes(tmp_path / path))
    (store / "settings.json").write_bytes(settings)
    opened = EmbeddingStore.open(store)
    plan = plan_build(tmp_path / "audio", store)
    assert all("labels stay as they are" in note for note in plan.notes if "genre folder" not in note)
    plan.remember(opened)
    opened.remember("more", 1)
    assert opened.remembered("more") == 1


def test_merging_a_liar_spoils_nothing(store, tmp_path):
    """A store whose catalogue describes its tracks in ways that cannot be written down is refused, and nothing is damaged."""
    m.make(tmp_path / "liar", range(20, 25)).close()
    forge(tmp_path / "liar", "UPDATE files SET path = CAST('/music/../../x' AS BLOB), below = 7 WHERE key = 1020")
    target = EmbeddingStore.open(store)
    with pytest.raises(ParameterError, match=r"cannot be written down: a path should be absolute"):
        target.merge(EmbeddingStore.open(tmp_path / "liar"))
    again = EmbeddingStore.open(store)
    m.check(again, range(5))
    assert again.verify().ok


@pytest.mark.parametrize("zero", range(8))
def test_chunks_that_would_end_the_process(store, zero):
    """HDF5 2.0 divides by what the layout of a dataset says: each of its bytes made zero, under right sums, is refused."""
    old = next((store / "shards").iterdir())
    good = old.read_bytes()
    mark = bytes([4, 2])  # version 4, chunks
    places = [
        at for at in range(len(good)) if good.startswith(mark, at) and good[at - 4] == 8 and good[at + 3] in {2, 3}
    ]
    assert len(places) == 6  # header, tracks, keys, three layers
    spec = EmbeddingStore.open(store).spec
    for at in places:
        data = bytearray(good)
        data[at + zero] = 0
        data = mutate.resum(data)
        with suppress(StoreFormatError):  # the flags may be anything
            shard.load_shard(data, "x", 1, spec)
            assert good[at + zero] == 0 or zero == 2


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["store.json", "settings.json", "catalog.seal", "catalog.sqlite", "indices/0-exact-00/meta.json"]
)
def test_a_file_of_4_tib_is_not_read(store, name):
    """A hole in the place of a small file takes no memory: it is refused by its size (SQLite reads a page)."""
    try:
        os.truncate(store / name, 2**42)
    except OSError:
        pytest.skip("this file system has no such files")
    if name == "catalog.sqlite":  # is summed up only if somebody says that it fits
        (store / "catalog.seal").unlink()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "store.json":
        with pytest.raises(StoreError, match="it is no plain file of at most"):
            EmbeddingStore.open(store)
    else:
        opened = EmbeddingStore.open(store)
        m.check(opened, range(5))
        json.dumps(summarize(opened, scan=False))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 100_000


def test_a_list_of_ten_million_nothings_is_not_read(store):
    """Short JSON values take twenty times the room of their text: there is a limit on how many there may be."""
    data = b"[" + b"[]," * (records.MOST_VALUES + 1) + b"0]"
    disk.write_commit(store, "deltas", 9, data)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = EmbeddingStore.open(store)
    assert "lists more than" in opened.problems[0]
    m.check(opened, range(5))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 200_000


@pytest.mark.slow
def test_commands_in_little_memory_fail_in_one_line(store):
    """A shard that says it is as large as one may be, read in less memory than that: one line, no traceback."""
    place = store / "shards" / f"00000009-{'0' * 32}.h5"
    place.touch()
    os.truncate(place, disk.LARGEST)
    for command in ("info", "verify"):
        code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); import cli; cli.main(['{command}', '--store', {str(store)!r}])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode in {0, 1}


# -- the terminal --------------------------------------------------------------------------------------------------

ODD = "\x1b[31mred\x07 \x9b2J\u202e\nline"


def test_names_and_words_cannot_reach_the_terminal(tmp_path, monkeypatch):
    """Every command that prints, on a store where all that can be a word is an escape: shown, not obeyed; JSON stays JSON."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"store {ODD}"
    store = m.make(path)
    labels = m.TrackLabels((ODD,), (ODD, "\udcff"), ODD, ODD, ODD)
    with store.writer() as w:
        for i in range(6):
            odd = replace(m.track(i, f"{i}{ODD}\udcff.wav"), labels=labels, warnings=(ODD,))
            w.add(odd, m.file_hash(i), m.vectors(i))
        w.fail(m.file(9, f"bad{ODD}.wav"), ODD, ODD)
    m.make(tmp_path / "other", range(3, 9)).close()
    told = json.loads((path / "store.json").read_bytes())
    for name in ("model", "licence", "paper", "revision", "path", "weights_sha256"):
        told["card"][name] = ODD
    (path / "store.json").write_text(json.dumps(told))
    (path / "settings.json").write_text(json.dumps({ODD: ODD}))
    build_index(EmbeddingStore.open(path), 0, kind="exact")
    (path / "indices" / f"0-{ODD}").mkdir()
    (path / "indices" / f"0-{ODD}" / "meta.json").write_text("{}")

    def foreign():
        (path / "shards" / ODD.replace("/", "")).write_text("foreign")
        disk.write_commit(path, "deltas", 90, json.dumps({"format": ODD}).encode())

    commands = [
        ["info"],
        ["failures"],
        ["failures", "--warnings"],
        ["search", f"0{ODD}"],
        ["search", ODD],
        ["search", "--genre", ODD],
        ["search", "--genre", f"{ODD}?"],
        ["verify"],
        ["verify", "--repair"],
        ["index", "--layer", "1"],
        ["index", "--layer", ODD],
        ["compact"],
        ["merge", str(tmp_path / "other")],
        ["merge", ODD],
        ["export", f"{ODD}.h5", "--overwrite"],
        ["export", f"{ODD}.parquet", "--overwrite"],
        ["export", ODD],
        ["prune"],
        ["prune", ODD],
        ["prune", "--yes", "--dry-run"],
        ["build", ODD],
        ["rm", ODD],
        ["rm", f"--{ODD}"],
        ["rm", f"1{ODD}\udcff.wav"],
        ["info", ODD],
        [ODD],
    ]
    for command in commands:
        foreign()
        for more in ([], ["--json"]):
            result = CliRunner().invoke(cli.main, [*command, "--store", str(path), *more])
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            if more and result.stdout:
                json.loads(result.stdout)
            for line in result.output.split("\n"):
                assert line.isprintable(), (command, more, line)


# -- the audio folder ----------------------------------------------------------------------------------------------


def test_what_became_a_pipe_since_it_was_listed_is_not_waited_for(tmp_path, write_audio):
    """Between the listing and the decoding a file becomes a pipe, a device or a folder: the file fails, the next is fine."""
    from embedstore.audio import Decoder
    from embedstore.errors import AudioError

    good = write_audio("good.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    (tmp_path / "folder.wav").mkdir()
    with Decoder(16000, timeout=10) as decoder:
        for name in ("pipe.wav", "zero.wav", "folder.wav"):
            for ask in (decoder.file_hash, decoder.inspect):
                with pytest.raises(AudioError, match="not a regular file") as caught:
                    ask(tmp_path / name)
                assert caught.value.stage == "open"
        assert decoder.inspect(good).seconds == 1.0
