"""Audio by key: parts of a file as players ask for them, and only files that are as they were stored."""

from __future__ import annotations

import io
import itertools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile

from embedstore.child import Child
from embedstore.errors import AudioError
from embedstore.types import track_id
from embedstore.web import copies
from embedstore.web.app import make_jobs

SOUND = bytes([65 + 3]) * 400 + b"end"


@pytest.fixture
def own(shelf, tmp_path_factory):
    """Make a track whose file this test may spoil: its number, path and address."""
    made = []

    def make(i):
        path = shelf.music / f"own-{i}.ogg"
        key = shelf.put(i, path.name)
        made.append(key)
        return path, f"/api/tracks/{key}/audio"

    yield make
    shelf.store.remove(made, yes=True)


def test_a_whole_file(client, shelf) -> None:
    """Its bytes, kind and length."""
    whole = client.get(f"/api/tracks/{track_id(1003)}/audio")
    assert (whole.status_code, whole.content) == (200, shelf.sound(3))
    assert whole.headers["content-type"] == "audio/ogg"
    assert (whole.headers["accept-ranges"], whole.headers["content-length"]) == ("bytes", "1003")


def test_the_head_alone(client, monkeypatch) -> None:
    """As that of the whole file, which is not read, whatever part is asked for; of one that is not there, the same code."""
    where = f"/api/tracks/{track_id(1003)}/audio"
    whole = client.get(where)
    monkeypatch.delattr(os, "pread")
    head = client.head(where, headers={"Range": "bytes=5-9"})
    assert (head.status_code, head.content, head.headers) == (200, b"", whole.headers)
    assert client.head("/api/tracks/0000000000000000/audio").status_code == 404


@pytest.mark.parametrize(
    ("asked", "code", "span"),
    [
        ("bytes=0-0", 206, (0, 0)), ("bytes=0-", 206, (0, 1002)), ("bytes=5-9", 206, (5, 9)), ("bytes=1002-", 206, (1002, 1002)),
        ("bytes=1000-99999999", 206, (1000, 1002)), ("bytes=-1", 206, (1002, 1002)), ("bytes=-5000", 206, (0, 1002)),
        ("bytes=1003-", 416, None), ("bytes=1003-1004", 416, None), ("bytes=-0", 416, None), ("bytes=99999999999999999-", 416, None),
        ("bytes=9-5", 200, None), ("bytes=-", 200, None), ("bytes=0-1,5-6", 200, None), ("bytes=x-", 200, None), ("seconds=1-2", 200, None),
        ("bytes=" + "9" * 5000 + "-", 200, None), ("bytes=--1", 200, None), ("", 200, None),
    ],
)  # fmt: skip
def test_ranges_at_the_edges(client, shelf, asked, code, span) -> None:
    """First, last and more than there is; behind the end is 416; what is no range, or many, is answered in whole."""
    answer = client.get(f"/api/tracks/{track_id(1003)}/audio", headers={"Range": asked})
    assert answer.status_code == code
    if code == 206:
        assert answer.headers["content-range"] == f"bytes {span[0]}-{span[1]}/1003"
        assert answer.content == shelf.sound(3)[span[0] : span[1] + 1]
        assert answer.headers["content-length"] == str(span[1] + 1 - span[0])
    elif code == 416:
        assert (answer.headers["content-range"], answer.json()["error"]["message"]) == (
            "bytes */1003",
            "the range lies behind the end",
        )
    else:
        assert answer.content == shelf.sound(3)


def test_if_range(client) -> None:
    """A part of the file that the player knows; of another one, the whole."""
    where = f"/api/tracks/{track_id(1003)}/audio"
    known = client.get(where).headers
    for tag, code in ((known["etag"], 206), (known["last-modified"], 206), ('"other"', 200)):
        assert client.get(where, headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == code


def test_files_that_are_not_as_they_were(client, own, tmp_path) -> None:
    """Gone, changed, a link that leaves the folder, a FIFO, a folder: 410, and at once."""
    path, where = own(20)
    stamp = path.stat()
    assert client.get(where).status_code == 200
    sound = path.read_bytes()

    def refused():
        answer = client.get(where)
        assert answer.status_code == 410
        return answer.json()["error"]["message"]

    path.write_bytes(sound[:-1] + b"?")
    assert "own-20.ogg: it has changed since it was stored; build again" in refused()
    path.unlink()
    assert "No such file" in refused()
    outside = tmp_path / "outside.ogg"
    outside.write_bytes(sound)
    os.utime(outside, ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))
    path.symlink_to(outside)
    assert "a link that leaves its folder" in refused()
    path.unlink()
    os.mkfifo(path)
    assert "no plain file" in refused()
    path.unlink()
    path.mkdir()
    assert "own-20.ogg" in refused()
    path.rmdir()
    path.write_bytes(sound)
    os.utime(path, ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))
    assert client.get(where).content == sound


def test_a_link_within_the_folder_is_as_good_as_a_file(client, own) -> None:
    """As the build takes it."""
    path, where = own(21)
    path.rename(path.with_name("target.ogg"))
    path.symlink_to("target.ogg")
    assert client.get(where).status_code == 200


def test_no_file_stays_open(client, own) -> None:
    """After whole files, parts and refusals there are as many open files as before."""
    path, where = own(22)
    ask = [{}, {"Range": "bytes=0-1"}, {"Range": "bytes=9999-"}]
    client.get(where)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc")  # noqa: PTH112, PTH208
    for headers in ask:
        client.get(where, headers=headers)
    path.write_bytes(b"other")
    client.get(where)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_copy_for_browsers(client_of, searcher, monkeypatch) -> None:
    """Written once, by two at a time, and sent in parts as any file; a broken file is told; those used least go first."""
    written, busy = [], []

    def transcode(path, target, *, most, started):
        busy.append(1)
        assert most == 4000
        time.sleep(0.01)
        number = Path(path).stem
        written.append(number)
        busy.append(-1)
        if number == "9":
            raise AudioError("no sound in it")
        Path(target).write_bytes(f"flac {number} ".encode().ljust(1500, b"x"))

    real = copies.Copies
    monkeypatch.setattr(copies, "transcode", transcode)
    monkeypatch.setattr("embedstore.web.routes.tracks.Copies", lambda folder: real(folder, most=4000))
    with client_of(searcher) as client:

        def ask(i, part=None):
            return client.get(
                f"/api/tracks/{track_id(1000 + i)}/audio?as=flac", headers={"Range": part} if part else {}
            )

        with ThreadPoolExecutor(6) as pool:
            answers = [*pool.map(ask, [0, 0, 0, 1, 1, 1])]
        assert {answer.headers["content-type"] for answer in answers} == {"audio/flac"}
        assert [answer.content[:6] for answer in answers] == [b"flac 0"] * 3 + [b"flac 1"] * 3
        assert sorted(written) == ["0", "1"]
        part = ask(0, "bytes=5-5")
        assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"0", "bytes 5-5/1500")
        assert client.head(f"/api/tracks/{track_id(1000)}/audio?as=flac").headers["content-length"] == "1500"
        ask(2)  # there is room for two: 1 goes, as 0 was used after it
        ask(0)
        assert sorted(written) == ["0", "1", "2"]
        ask(1)
        assert sorted(written) == ["0", "1", "1", "2"]
        broken = ask(9)
        assert (broken.status_code, broken.json()["error"]["type"]) == (422, "AudioError")
        assert broken.json()["error"]["message"].endswith("9.ogg: no sound in it")
        assert client.get(f"/api/tracks/{track_id(1000)}/audio?as=mp3").status_code == 422
        assert client.get(f"/api/tracks/{'0' * 16}/audio?as=flac").status_code == 404
    assert max(itertools.accumulate(busy)) <= 2


def test_copies_that_others_took_are_written_again(searcher, client_of, monkeypatch) -> None:
    """As who cleans up temporary files does, of the one that is asked for and of one that makes room; no file stays open."""
    written = []

    def transcode(path, target, **_):
        written.append(Path(path).stem)
        Path(target).write_bytes(bytes(1500))

    real = copies.Copies
    monkeypatch.setattr(copies, "transcode", transcode)
    monkeypatch.setattr("embedstore.web.routes.tracks.Copies", lambda folder: real(folder, most=4000))
    jobs = make_jobs(searcher, ())
    with client_of(searcher, jobs=jobs) as client:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc")  # noqa: PTH112, PTH208
        for some in ((0,), (0, 1), (2, 3)):
            for i in some:
                assert client.get(f"/api/tracks/{track_id(1000 + i)}/audio?as=flac").status_code == 200
            for copy in jobs.folder.glob("*.flac"):
                copy.unlink()
        assert written == ["0", "0", "1", "2", "3"]
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    jobs.close()


def test_the_folder_of_copies_may_be_taken(searcher, client_of, monkeypatch) -> None:
    """It is made again; where it cannot be, no private path is told."""
    jobs = make_jobs(searcher, ())
    monkeypatch.setattr(copies, "transcode", lambda _, target, **__: Path(target).write_bytes(b"flac"))
    with client_of(searcher, jobs=jobs) as client:
        where = f"/api/tracks/{track_id(1000)}/audio?as=flac"
        jobs.folder.rmdir()
        assert client.get(where).content == b"flac"
        for copy in jobs.folder.iterdir():
            copy.unlink()

        def refuse(self, **_):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "mkdir", refuse)
        answer = client.get(where)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            503,
            "no copy can be written: Permission denied",
        )
    jobs.close()


def test_what_is_written_ends_with_the_service(tmp_path, monkeypatch) -> None:
    """Its process is stopped, and none is started after that."""
    keeper, begun = copies.Copies(tmp_path), threading.Event()
    script, seen = ["-S", "-c", "import sys; sys.stdin.read()"], []

    def child(_):
        seen.append(Child(script))
        return seen[-1]

    def hold(child, real=keeper._hold):
        real(child)
        begun.set()

    monkeypatch.setattr(sys.modules["embedstore.audio.transcode"], "Child", child)
    monkeypatch.setattr(keeper, "_hold", hold)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(keeper._write, "a.ogg", tmp_path / "a.flac")
        assert begun.wait(10)
        keeper.close()
        for writing in (first, pool.submit(keeper._write, "b.ogg", tmp_path / "b.flac")):
            with pytest.raises(AudioError, match=r"died \(Killed\)"):
                writing.result(10)
    assert [one.is_alive() for one in seen] == [False, False]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_copy(client_of, shelf, searcher, own, write_audio) -> None:
    """The sound of the file, as FLAC; a file that has changed since is not heard."""
    path, where = own(40)
    sound = write_audio("real.ogg", 1.0, 44_100).read_bytes()
    path.write_bytes(sound)
    with client_of(searcher) as client:
        assert client.get(f"{where}?as=flac").status_code == 410
        shelf.store.remove([where.split("/")[3]])
        shelf.sound = lambda _: sound
        shelf.put(40, path.name)
        del shelf.sound
        heard = client.get(f"{where}?as=flac")
        assert soundfile.info(io.BytesIO(heard.content)).frames == 44_100
