"""Crashes, full disks and damage: nothing finished is lost, no wrong vector is returned, each fault is one clear line."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import store_material as m

from embedstore.errors import StoreError, StoreFormatError, StoreLockedError
from embedstore.store import EmbeddingStore, catalog, disk

HERE = Path(__file__).parent


def shards(store: Path) -> list[Path]:
    return sorted((store / "shards").iterdir())


def run(script: Path | str, *arguments: object) -> str:
    """Run a script of this folder, or code, in a process of its own; its last words."""
    what = (
        [str(script)]
        if isinstance(script, Path)
        else ["-c", f"import sys; sys.path.insert(0, {str(HERE)!r})\n{script}"]
    )
    done = subprocess.run([sys.executable, *what, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- crashes -------------------------------------------------------------------------------------------------------


def test_killed_writers_lose_nothing(tmp_path):
    """SIGKILL at six random moments: what was promised is there, once, and right; the next writer goes on."""
    assert "6 kills" in run(HERE / "kill_writers.py", tmp_path / "s", 6, 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_killed_writers_lose_nothing(tmp_path):
    """The same with 200 kills."""
    assert "200 kills" in run(HERE / "kill_writers.py", tmp_path / "s", 200, 1)


class Recorder:  # its methods are those of os
    """Stands for `os` in the disk module and writes down what is done to files."""

    def __init__(self) -> None:
        self.steps: list[tuple] = []
        self._open: dict[int, str] = {}

    def __getattr__(self, name: str):
        return getattr(os, name)

    def open(self, path, flags, mode=0o777):  # noqa: D102 - as in os
        handle = os.open(path, flags, mode)
        self._open[handle] = str(path)
        if flags & os.O_EXCL:
            self.steps.append(("create", str(path)))
        return handle

    def write(self, handle, data):  # noqa: D102 - as in os
        count = os.write(handle, data[: 2000 if len(data) > 3000 else None])  # a write may be partial
        self.steps.append(("write", self._open[handle], bytes(data[:count])))
        return count

    def fsync(self, handle):  # noqa: D102 - as in os
        os.fsync(handle)
        self.steps.append(("sync", self._open[handle]))

    def rename(self, old, new):  # noqa: D102 - as in os
        Path(old).rename(new)
        self.steps.append(("rename", str(old), str(new)))

    def unlink(self, path):  # noqa: D102 - as in os
        Path(path).unlink()
        if ".tmp-" not in str(path):
            self.steps.append(("unlink", str(path)))


def after_crash(steps: list[tuple], power: str) -> dict[str, bytes]:
    """Give what the disk holds after these steps: ``"on"`` all of it (the process died), else what was synced.

    Data that was not synced is lost; a name that was not synced is ``"new"`` or still ``"old"``.
    """
    cached: dict[str, bytes] = {}
    synced: dict[str, bytes] = {}
    names: dict[str, str] = {}  # name on the disk -> file, called by its first name
    pending: list[tuple[str, str | None]] = []  # old name, new name or none
    first: dict[str, str] = {}
    for step in steps:
        match step:
            case ("create", path):
                cached[path], synced[path], first[path], names[path] = b"", b"", path, path
            case ("write", path, data):
                cached[first[path]] += data
            case ("sync", path) if path in first:
                synced[first[path]] = cached[first[path]]
            case ("sync", _):
                settle(names, pending)
                pending = []
            case ("rename", old, new):
                first[new] = first.pop(old)
                pending.append((old, new))
            case ("unlink", path):
                pending.append((path, None))
    if power in {"on", "new"}:
        settle(names, pending)
    return {name: (cached if power == "on" else synced)[file] for name, file in names.items()}


def settle(names: dict[str, str], changes: list[tuple[str, str | None]]) -> None:
    """Do to the names on the disk what was done to them in memory."""
    for old, new in changes:
        file = names.pop(old)
        if new is not None:
            names[new] = file


def test_every_recorded_step_as_a_crash(tmp_path, monkeypatch):
    """A crash after each write, sync, rename and removal, with power on and off: what was finished is there, nothing is damaged."""
    live = tmp_path / "live"
    m.make(live).close()
    recorder, sizes = Recorder(), []
    monkeypatch.setattr(disk, "os", recorder)
    store = EmbeddingStore.open(live)
    recorder.steps.clear()
    with store.writer() as w:
        for i in (0, 4):
            m.fill(w, range(i, i + 4))
            w.commit()
            sizes.append((len(recorder.steps), i + 4))
        w.fail(m.file(99), "decode", "broken")
    failed = len(recorder.steps)
    assert store.compact().after.shards == 1
    with store.writer() as w:
        m.fill(w, [8])
    sizes.append((len(recorder.steps), 9))
    monkeypatch.undo()
    steps = recorder.steps
    assert [step[0] for step in steps].count("rename") == 6
    assert [step[0] for step in steps].count("unlink") == 3
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what follows need not last
    seen = set()
    for cut in range(len(steps) + 1):
        finished = max((n for at, n in sizes if at <= cut), default=0)
        for power in ("on", "old", "new"):
            disk_holds = after_crash(steps[:cut], power)
            if (case := (cut % 2, finished, cut < failed, *sorted(disk_holds.items()))) in seen:
                continue  # the disk holds what it held in an earlier case
            seen.add(case)
            there = tmp_path / f"{cut}-{power}"
            for name in ("shards", "deltas"):
                (there / name).mkdir(parents=True)
            shutil.copy(live / "store.json", there)
            if cut % 2:  # a catalogue that knows more than survived
                for name in ("catalog.sqlite", "catalog.seal"):
                    shutil.copy(live / name, there)
            for name, data in disk_holds.items():
                (there / Path(name).relative_to(live)).write_bytes(data)
            crashed = EmbeddingStore.open(there)
            assert finished <= len(crashed) <= finished + 4
            m.check(crashed, range(len(crashed)))
            assert [p for p in crashed.problems if "is gone" not in p] == []
            assert len(crashed.failures()) == 1 or cut < failed
            with crashed.writer() as w:
                m.fill(w, range(len(crashed), 10))
            m.check(crashed, range(10))
            assert crashed.verify().ok
            assert crashed.compact().after.shards == 1
            m.check(crashed, range(10))
            assert list(there.rglob("*.tmp-*")) == []
            crashed.close()


def test_an_interrupted_commit_is_done_once(tmp_path, monkeypatch):
    """Ctrl-C between the rename and the end of the commit: the commit at the end of the block makes no second copy."""
    store = m.make(tmp_path / "s")

    def interrupted(folder):
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.writer() as w:  # noqa: PT012 - the end of the block is tested
        m.fill(w, range(3))
        monkeypatch.setattr(disk, "sync_folder", interrupted)
        w.commit()
    assert len(shards(tmp_path / "s")) == 1
    m.check(EmbeddingStore.open(tmp_path / "s"), range(3))


# -- what the disk refuses -----------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, size: str):
    """Mount a small memory disk, where that is allowed."""
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(tmp_path):
    """On a full disk the writer says so and what is safe; every finished commit is readable; with room it goes on."""
    with mounted(tmp_path / "small", "1m") as small:
        store = m.make(small / "s", range(64))
        filler = small / "filler"
        filler.write_bytes(b"x" * 600_000)
        with (
            pytest.raises(
                StoreError, match=r"cannot store more in .*small/s .*tracks of this run are safe, .*: the disk is full"
            ),
            store.writer() as w,
        ):
            m.fill(w, range(64, 10_000))
        safe = len(store)
        assert 64 <= safe < 10_000
        assert safe % 64 == 0
        assert list(small.rglob("*.tmp-*")) == []
        m.check(store, range(safe))
        again = EmbeddingStore.open(small / "s")
        m.check(again, range(safe))
        assert again.verify().ok
        filler.unlink()
        with again.writer() as w:
            m.fill(w, range(safe, safe + 10))
        m.check(EmbeddingStore.open(small / "s"), range(safe + 10))
        for open_store in (store, again):
            open_store.close()


LIMITED = """
import resource, signal
import store_material as m
from embedstore.errors import StoreError
from embedstore.store import EmbeddingStore
store = EmbeddingStore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    with store.writer() as w:
        m.fill(w, range(64, 500))
        print("all stored")
except StoreError as error:
    print(error)
m.check(store, range(len(store)))
print(len(store))
"""


def test_a_shard_that_may_not_be_written(tmp_path):
    """A write that stops half-way (file size limit) leaves no trace, and what was there stays."""
    m.make(tmp_path / "s", range(64)).close()
    said = run(LIMITED, tmp_path / "s", 20_000)
    assert "(0 tracks of this run are safe, 64 are not): larger than this process may write" in said
    assert list(tmp_path.rglob("*.tmp-*")) == []
    m.check(EmbeddingStore.open(tmp_path / "s"), range(64))


def test_a_catalogue_that_may_not_be_written(tmp_path):
    """Where shards fit and the catalogue does not, all tracks are stored, and the catalogue is made again later."""
    m.make(tmp_path / "s", range(64)).close()
    assert run(LIMITED, tmp_path / "s", 40_000).split() == ["all", "stored", "500"]
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, range(500))
    assert store.verify().ok


def test_too_many_open_files(tmp_path):
    """Without a file handle left, writing, opening and reading say so; nothing is taken for damaged."""
    store = m.make(tmp_path / "s", range(64))
    other = m.make(tmp_path / "t", range(64))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with store.writer() as w:
        m.fill(w, [64])
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"0 tracks of this run are safe, 1 are not.*too many open files"):
                w.commit()
            with pytest.raises(StoreError, match="too many open files"):
                EmbeddingStore.open(tmp_path / "t")
            with pytest.raises(StoreError, match="too many open files"):
                other.layer(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    m.check(store, range(65))
    m.check(other, range(64))
    assert EmbeddingStore.open(tmp_path / "t").problems == ()


@contextmanager
def read_only(folder: Path):
    """Make a folder read-only: by its mode, or for root, who may write anyway, as a mounted disk."""
    if os.geteuid():
        folder.mkdir()
        yield folder, lambda: [p.chmod(0o555) for p in (folder, *folder.rglob("*")) if p.is_dir()]
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        return
    with mounted(folder, "4m"):
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)


@pytest.mark.parametrize("catalogue", ["kept", "lost", "open"])
def test_read_only_folder(tmp_path, catalogue):
    """A read-only store is read with and without its catalogue; writing and creating are refused in one line."""
    with read_only(tmp_path / "disk") as (folder, protect):
        m.make(folder / "s", range(70)).close()
        if catalogue == "lost":
            (folder / "s/catalog.sqlite").unlink()
        if catalogue == "open":  # the writer was killed
            (folder / "s/catalog.seal").write_text("open")
        protect()
        store = EmbeddingStore.open(folder / "s")
        m.check(store, range(70))
        assert store.verify().ok
        with pytest.raises(
            StoreError, match=r"cannot write to the store .*: (permission denied|the file system is read-only)"
        ):
            store.writer().__enter__()
        with pytest.raises(
            StoreError, match=r"cannot create a store at .*: (permission denied|the file system is read-only)"
        ):
            EmbeddingStore.create(folder / "new", m.card(), m.recipe())
        store.close()


def test_two_writers_at_once(tmp_path, monkeypatch):
    """The second writer is told who writes; it may write when the first is done; readers never wait."""
    monkeypatch.setattr(disk.time, "sleep", lambda seconds: None)
    store, other = m.make(tmp_path / "s", range(3)), EmbeddingStore.open(tmp_path / "s")
    with store.writer() as w:
        with pytest.raises(
            StoreLockedError, match=rf"another process \(pid {os.getpid()} on .*\) is writing to .*/s; wait"
        ):
            other.writer().__enter__()
        m.check(other, range(3))
        m.fill(w, [3])
    with other.writer() as w:
        m.check(other, range(4))
        m.fill(w, [4])
    m.check(store, range(5))


# -- damage --------------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 8)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flip", "value", "truncate", "empty", "garbage", "link"])
@pytest.mark.parametrize("catalogue", ["kept", "lost"])
def test_a_damaged_shard(tmp_path, damage, catalogue):
    """A damaged shard is named, the others stay usable, its tracks are absent and can be stored again."""
    store = m.make(tmp_path / "s", range(150))
    victim = shards(tmp_path / "s")[1]
    data = victim.read_bytes()
    match damage:
        case "flip":
            flip(victim, len(data) // 2)
        case "value":
            flip(victim, data.index(m.vectors(70).vectors[1].astype("<f2").tobytes()) + 3)
        case "truncate":
            victim.write_bytes(data[: len(data) // 2])
        case "empty":
            victim.write_bytes(b"")
        case "garbage":
            victim.write_bytes(bytes(range(256)) * 100)
        case "link":
            victim.unlink()
            victim.symlink_to(shards(tmp_path / "s")[0])
    store.close()
    if catalogue == "lost":
        (tmp_path / "s/catalog.sqlite").unlink()
    rest = [*range(64), *range(128, 150)]
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, rest)
    assert not store.has_key(1070)
    assert store.key_of_file_hash(m.file_hash(70)) is None
    assert m.file(70).full_path not in store.files()
    report = store.verify()
    assert not report.ok
    named = {p.split()[0].strip("'") for p in report.problems}
    assert f"shards/{victim.name}" in named
    if damage != "link" or catalogue == "kept":
        assert {p.split()[0] for p in store.problems} == {f"shards/{victim.name}"}
    with store.writer() as w:
        m.fill(w, range(64, 128))
    m.check(EmbeddingStore.open(tmp_path / "s"), [*rest, *range(64, 128)])
    victim.unlink()
    store = EmbeddingStore.open(tmp_path / "s")
    with store.writer() as w:
        w.forget_gone()  # as a build does
    assert EmbeddingStore.open(tmp_path / "s").verify().ok


def test_all_cores_find_what_one_finds(tmp_path, monkeypatch):
    """Commits that are read by several processes say the same, in the same order, damage included."""
    store = m.make(tmp_path / "s", range(200))
    with store.writer() as w:
        w.label(1003, m.TrackLabels(("new",)))
    flip(shards(tmp_path / "s")[1], 3000)
    found, said_alone = store.verify(), said(EmbeddingStore.open(tmp_path / "s"))
    monkeypatch.setattr(catalog, "MUCH", 0)
    assert store.verify() == found
    (tmp_path / "s/catalog.sqlite").unlink()
    assert said(EmbeddingStore.open(tmp_path / "s")) == said_alone


def test_damage_that_hides_from_the_stamps(tmp_path):
    """Any flipped bit that leaves size and time as they were: reads give the right vectors or an error that names the shard."""
    m.make(tmp_path / "s", range(10)).close()
    victim = shards(tmp_path / "s")[0]
    good, stat = victim.read_bytes(), victim.stat()
    expected = np.array([m.vectors(i).vectors[1] for i in range(10)])
    store, refused = EmbeddingStore.open(tmp_path / "s"), []
    for at in random.Random(0).sample(range(len(good)), 150):
        flip(victim, at)
        os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        try:
            found = store.layer(1).values
        except StoreFormatError as error:
            refused.append(str(error))
        else:
            np.testing.assert_array_equal(found, expected)
        victim.write_bytes(good)
        os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(refused) > 10
    assert all(f"shards/{victim.name}" in text and "embedstore verify" in text for text in refused)
    flip(victim, len(good) // 2)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [p.split()[0] for p in store.verify().problems] == [f"shards/{victim.name}"]
    again = EmbeddingStore.open(tmp_path / "s")  # verify had the catalogue made again
    assert (len(again), len(again.problems)) == (0, 1)


def test_a_shard_that_was_deleted(tmp_path):
    """A shard that is gone is named until a build has run; its tracks are absent; a copy put back brings them back."""
    m.make(tmp_path / "s", range(150)).close()
    victim = shards(tmp_path / "s")[1]
    data = victim.read_bytes()
    victim.unlink()
    for _ in range(2):
        store = EmbeddingStore.open(tmp_path / "s")
        m.check(store, [*range(64), *range(128, 150)])
        assert store.problems == (f"shards/{victim.name} is gone; build again",)
        assert store.verify().problems == store.problems
    victim.write_bytes(data)
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, range(150))
    assert store.problems == ()
    victim.unlink()
    with pytest.raises(StoreFormatError, match=rf"shards/{victim.name} .*No such file"):
        store.layer(0)
    with EmbeddingStore.open(tmp_path / "s").writer() as w:
        m.fill(w, range(64, 128))
        w.forget_gone()
    store = EmbeddingStore.open(tmp_path / "s")
    assert (len(store), store.problems, store.verify().ok) == (150, (), True)


def test_a_damaged_delta(tmp_path):
    """A damaged delta is named; what it said is unknown, so that the next build says it again."""
    store = m.make(tmp_path / "s", range(3))
    with store.writer() as w:
        w.link(m.file(0, "twin.ogg"), m.file_hash(9), 1000)
    (delta,) = (tmp_path / "s/deltas").iterdir()
    flip(delta, 40)
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, range(3))
    assert [p.split()[0] for p in store.problems] == [f"deltas/{delta.name}"]
    assert [p.split()[0] for p in store.verify().problems] == [f"deltas/{delta.name}"]


def test_files_that_do_not_belong(tmp_path):
    """Foreign names in the folders are reported and never read; half-written files are not."""
    m.make(tmp_path / "s", range(3)).close()
    folder = tmp_path / "s/shards"
    (folder / "notes.txt").write_text("x")
    (folder / "esc\x1b[2J").write_text("x")
    (folder / ".hidden").write_text("x")
    (folder / "00000002-0.h5.tmp-1-a").write_text("x")
    os.mkfifo(folder / f"00000009-{'0' * 32}.h5")
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, range(3))
    odd = [p.partition(" is ")[0] for p in store.verify().problems]
    assert odd == [f"'shards/00000009-{'0' * 32}.h5'", r"'shards/esc\x1b[2J'", "'shards/notes.txt'"]
    with store.writer():
        assert not list(folder.glob("*.tmp-*"))


def test_a_shard_that_cannot_be_read_is_not_damaged(tmp_path, monkeypatch):
    """A refusal of the operating system stops the opening; an input/output error costs the shard."""
    m.make(tmp_path / "s", range(70)).close()
    (tmp_path / "s/catalog.sqlite").unlink()
    first, read = shards(tmp_path / "s")[0], Path.read_bytes

    def failing(code):
        def read_bytes(path):
            if path == first:
                raise OSError(code, os.strerror(code))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    failing(errno.EACCES)
    with pytest.raises(StoreError, match=f"cannot read .*{first.name}: permission denied"):
        EmbeddingStore.open(tmp_path / "s")
    failing(errno.EIO)
    store = EmbeddingStore.open(tmp_path / "s")
    m.check(store, range(64, 70))
    assert "cannot be read: Input/output error" in store.problems[0]


# -- the catalogue -------------------------------------------------------------------------------------------------


def said(store: EmbeddingStore) -> tuple:
    """All that a store says."""
    return (
        store.tracks(),
        store.files(),
        store.failures(),
        store.labels(),
        store.layer(1).values.tolist(),
        store.problems,
    )


def spoil(path: Path, how: str, chance: random.Random, other: Path) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "flip":
            for _ in range(5):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "truncate":
            data = data[: chance.randrange(len(data))]
        case "foreign":
            data = bytearray((other / path.name).read_bytes())
            shutil.copy(other / "catalog.seal", path.parent)
        case "folder":
            path.unlink()
            return path.mkdir()
        case "delete":
            return path.unlink()
        case "journal":
            (path.parent / "catalog.sqlite-journal").write_bytes(data[:2000])
        case "killed":
            (path.parent / "catalog.seal").write_text("open")
            data[chance.randrange(len(data))] ^= 1
        case "link":
            path.unlink()
            return path.symlink_to(other / path.name)
    path.write_bytes(data)
    return None


@pytest.mark.parametrize("how", ["flip", "truncate", "foreign", "folder", "delete", "journal", "killed", "link"])
def test_a_spoiled_catalogue_changes_nothing(tmp_path, how):
    """Whatever happens to catalog.sqlite at rest, the store says the same as before and is writable."""
    store = m.make(tmp_path / "s", range(70))
    with store.writer() as w:
        w.fail(m.file(99), "decode", "broken")
        w.label(1003, m.TrackLabels(("new",)))
    before = said(store)
    store.close()
    m.make(tmp_path / "other", range(5, 9)).close()
    chance = random.Random(how)
    for i in range(8 if how == "flip" else 2):
        spoil(tmp_path / "s/catalog.sqlite", how, chance, tmp_path / "other")
        store = EmbeddingStore.open(tmp_path / "s")
        assert said(store) == before
        assert store.verify().ok
        if i % 2:
            with store.writer() as w:
                w.touch(m.file(1))
        assert said(store) == before
        store.close()
        if (tmp_path / "s/catalog.sqlite").is_dir():
            (tmp_path / "s/catalog.sqlite").rmdir()
            EmbeddingStore.open(tmp_path / "s").close()


def test_a_catalogue_spoiled_under_an_open_store(tmp_path):
    """A catalogue that is overwritten while it is open is replaced by one in memory."""
    store = m.make(tmp_path / "s", range(70))
    before = said(store)
    (tmp_path / "s/catalog.sqlite").write_bytes(b"not a database" * 5000)
    assert said(store) == before
    assert said(EmbeddingStore.open(tmp_path / "s")) == before


def test_a_catalogue_that_lies_gives_no_wrong_vector(tmp_path):
    """Rows that the catalogue confuses are noticed by the keys in the shards, and verify sees the difference."""
    store = m.make(tmp_path / "s", range(10))
    ((keys,),) = store.catalog._db.execute("SELECT keys FROM commits").fetchall()
    swapped = np.frombuffer(keys, "<i8")[::-1].tobytes()
    store.catalog._db.execute("UPDATE commits SET keys = ?", (swapped,))
    store.catalog.seal()
    liar = EmbeddingStore.open(tmp_path / "s")
    assert liar.verify().problems[0].startswith("catalog.sqlite does not say")
    with pytest.raises(StoreFormatError, match="rows are not those that the catalogue lists"):
        liar.layer(0)
    m.check(EmbeddingStore.open(tmp_path / "s"), range(10))


def test_commits_of_two_machines_may_share_a_number(tmp_path):
    """Two shards of one sequence number count in the order of their names, whichever is met first."""
    a, b = m.make(tmp_path / "a", range(5)), m.make(tmp_path / "b", range(3, 8))
    for source, target in ((a, b), (b, a)):
        shutil.copy(source.path / shards(source.path)[0].relative_to(source.path), target.path / "shards")
    first = EmbeddingStore.open(tmp_path / "a")
    second = EmbeddingStore.open(tmp_path / "b")
    assert said(first) == said(second)
    assert sorted(first.keys().tolist()) == list(range(1000, 1008))
    assert first.verify().ok
