"""The command: where it listens, who may reach it, how it ends; and a real process under load while its store changes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from click.testing import CliRunner
from starlette.exceptions import HTTPException
from threadpoolctl import threadpool_info

import cli
from embedstore.errors import MissingDependencyError, ParameterError, StoreError
from embedstore.index import build_index
from embedstore.search import Searcher
from embedstore.types import track_id
from embedstore.web import serve, server

NUMBERS = range(10)


@pytest.fixture
def told(shelf, monkeypatch):
    """Serve, without waiting for anybody; give what was said when it was ready, and close what it listened to."""

    def start(**options):
        said = []

        def run(_self, sockets):
            assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {1}
            sockets[0].close()

        monkeypatch.setattr(uvicorn.Server, "run", run)
        monkeypatch.setattr(Searcher, "close", lambda _: None)
        monkeypatch.setattr(server, "_prepare", lambda *_: None)
        serve(shelf.store, port=0, ready=said.append, **options)
        return said[0]

    return start


def test_this_machine_needs_no_token_others_do(told, shelf) -> None:
    """A random one off loopback, unless one is given; the address is one that can be asked."""
    before = dict(os.environ)
    here = told()
    assert (here.token, here.store, here.tracks) == (None, str(shelf.store.path), 10)
    assert here.url.startswith("http://127.0.0.1:")
    assert told(host="localhost").token is None
    assert dict(os.environ) == before
    tokens = {told(host="0.0.0.0").token for _ in range(3)}  # noqa: S104
    assert len(tokens) == 3
    assert min(map(len, tokens)) == 32
    assert told(token="mine").token == told(host="0.0.0.0", token="mine").token == "mine"  # noqa: S104, S105, S106


def test_the_printed_address_opens_the_page(told) -> None:
    """With its token, however that is written."""
    where = told()
    assert where.page == where.url == where.to_dict()["page"]
    where = told(token="a&b=c")  # noqa: S106
    assert where.page == f"{where.url}/?token=a%26b%3Dc" == where.to_dict()["page"]


def test_maps_that_are_missing_are_made_unasked(shelf, monkeypatch) -> None:
    """By PCA of any store, by UMAP of a small one; also where the store has outgrown one, else what is there is left alone."""
    started, made, faults = [], [], [HTTPException(409)]

    class Recorded:
        closed = threading.Event()

        def start(self, kind, options):
            started.append((kind, options["method"]))
            made.append(options)
            raise faults[0]

        def wait(self):
            pass

    Recorded.closed.set()
    searcher = Searcher(shelf.store)
    for most, covers, expected in (
        (10, {}, ["pca", "umap"]),
        (9, {}, ["pca"]),
        (10, {"pca": 5}, ["umap"]),
        (10, {"pca": 10, "umap": 10}, []),
        (10, {"pca": 4, "umap": 5}, ["pca"]),
    ):
        started.clear()
        found = {
            method: SimpleNamespace(keys=[*range(1000, 1000 + count), *range(9)], seed=7, neighbors=50)
            for method, count in covers.items()
        }  # also tracks that have gone
        monkeypatch.setattr(server, "_QUICK", most)
        monkeypatch.setattr(server, "open_map", lambda _, method, found=found: found.get(method))
        server._prepare(searcher, Recorded())
        assert started == [("map", method) for method in expected]
    assert made[0] == {"method": "pca"}
    assert made[-1] == {"method": "pca", "seed": 7, "neighbors": 50}  # as it was asked for once
    for fault in (OSError(11, "no process"), ParameterError("no")):
        faults[:] = [fault]
        started.clear()
        server._prepare(searcher, Recorded())
        assert started == [("map", "pca")]
    monkeypatch.setattr(Searcher, "view", lambda _: (_ for _ in ()).throw(StoreError("it is damaged")))
    server._prepare(searcher, Recorded())


def test_what_cannot_be_served_is_one_line(shelf) -> None:
    """A port in use, a name that is nobody's, a token that no header holds, and the extra that is missing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(cli.main, ["serve", "--store", str(shelf.store.path), "--port", str(port)])
    assert result.exit_code == 1
    assert result.stderr == (
        f"embedstore: cannot listen on 127.0.0.1, port {port}: Address already in use; choose another --port or --host\n"
    )
    with pytest.raises(
        ParameterError, match=r"cannot listen on no\.such\.host\.invalid, port 1: [^\n]+; choose another"
    ):
        serve(shelf.store, host="no.such.host.invalid", port=1)
    for token in ("", "two words", "caf\u00e9", "line\n"):
        with pytest.raises(ParameterError, match="a token is one word"):
            serve(shelf.store, token=token)


@pytest.mark.parametrize("module", ["fastapi", "uvicorn"])
def test_a_missing_extra_names_its_install_line(shelf, monkeypatch, module) -> None:
    """Before anything is opened."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"run: pip install 'embedstore-mir\[web\]'"):
        serve(shelf.store)


@contextlib.contextmanager
def service(store, *options):
    """Run the real command; give its process and where it is."""
    command = [sys.executable, "-m", "cli", "serve", "--store", str(store), "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = "".join(iter(process.stdout.readline, "}\n")) + "}"
            yield process, json.loads(said)
        finally:
            process.kill()


class Visitor(threading.Thread):
    """Asks for one thing after another, over one connection, until told to stop; remembers what was not answered."""

    def __init__(self, number, port, stop) -> None:
        super().__init__(daemon=True)
        self.random, self.port, self.stop = random.Random(number), port, stop
        self.answers, self.faults = 0, []

    def run(self):
        """Ask."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            key = track_id(1000 + self.random.choice(NUMBERS))
            search = json.dumps(
                {"query": {"seeds": [{"what": key}]}, "filter": {"genres": ["blues"]}, "shape": {"k": 3}}
            )
            method, path, body = self.random.choice(
                [
                    ("GET", f"/api/tracks/{key}/neighbors?k=5", None), ("GET", "/api/tracks?q=song&limit=5", None),
                    ("GET", f"/api/tracks/{key}/audio", None), ("GET", "/api/store", None), ("GET", "/api/genres/map", None),
                    ("POST", "/api/search", search), ("GET", f"/api/tracks/{key}", None),
                ]
            )  # fmt: skip
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
                answer = connection.getresponse()
                content = answer.read()
            except OSError as error:
                self.faults.append((path, repr(error)))
                return
            self.answers += 1
            if answer.status != 200:
                self.faults.append((path, content[:300]))


@pytest.mark.slow
def test_fifty_clients_while_the_store_changes(shelf) -> None:
    """Nobody gets an error while tracks come and go, shards are merged and an index is built twice; Ctrl-C ends it with 0."""
    with service(shelf.store.path) as (process, where):
        assert (where["token"], where["tracks"]) == (None, 10)
        port, stop = int(where["url"].rpartition(":")[2]), threading.Event()
        visitors = [Visitor(i, port, stop) for i in range(50)]
        for visitor in visitors:
            visitor.start()
        for i in range(100, 140):
            shelf.put(i)
            if i % 10 == 5:
                shelf.store.remove([track_id(1000 + i)], yes=True)
                build_index(shelf.store, kind=("flat", "rabitq")[i // 10 % 2])
            if i % 10 == 9:
                shelf.store.compact()
            time.sleep(0.1)
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        last = shelf.put(140)  # at the angle of track 32, or near it
        connection.request("GET", f"/api/tracks/{last}/neighbors?k=100")
        hits = json.loads(connection.getresponse().read())["hits"]
        stop.set()
        for visitor in visitors:
            visitor.join(60)
        faults = [fault for visitor in visitors for fault in visitor.faults]
        assert not faults, faults[:5]
        assert min(visitor.answers for visitor in visitors) > 0
        found = {hit["track"] for hit in hits}
        assert track_id(1139) in found
        assert track_id(1135) not in found
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert time.monotonic() - start < 5
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_player_that_listens_does_not_keep_the_service_alive(shelf, tmp_path) -> None:
    """Ctrl-C ends it although somebody has a file half way, and SIGTERM does the same."""
    big = shelf.music / "30.ogg"
    shelf.sound = lambda _: b"x" * 50_000_000
    key = shelf.put(30)
    del shelf.sound
    for ending in (signal.SIGINT, signal.SIGTERM):
        with service(shelf.store.path) as (process, where):
            connection = HTTPConnection("127.0.0.1", int(where["url"].rpartition(":")[2]), timeout=60)
            connection.request("GET", f"/api/tracks/{key}/audio")
            assert len(connection.getresponse().read(1000)) == 1000
            process.send_signal(ending)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""
    shelf.store.remove([key])
    big.unlink()


@pytest.mark.slow
def test_a_track_that_is_made_playable_does_not_keep_the_service_alive(shelf) -> None:
    """Four hours of sound would take ten seconds; Ctrl-C ends it, and half a copy goes."""
    frames = 4 * 3600 * 1000
    head = struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + frames, b"WAVEfmt ", 16, 1, 1, 1000, 1000, 1, 8, b"data", frames
    )
    shelf.sound = lambda _: head + b"\x80" * frames
    key = shelf.put(31, "31.wav")
    del shelf.sound
    before = {*Path(tempfile.gettempdir()).glob("embedstore-jobs-*")}
    with service(shelf.store.path) as (process, where):
        connection = HTTPConnection("127.0.0.1", int(where["url"].rpartition(":")[2]), timeout=60)
        connection.request("GET", f"/api/tracks/{key}/audio?as=flac")
        end = time.monotonic() + 20
        while not [*Path(tempfile.gettempdir()).glob("embedstore-jobs-*/*.part")]:
            assert time.monotonic() < end
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert time.monotonic() - start < 4
        assert process.stderr.read() == ""
    assert {*Path(tempfile.gettempdir()).glob("embedstore-jobs-*")} <= before
    shelf.store.remove([key])
    (shelf.music / "31.wav").unlink()


@pytest.mark.slow
def test_real_uploads(tmp_path, write_audio, client_of) -> None:
    """Sound that is stored finds its track and others of its pitch; a long, a short and a spoilt file are told; nothing is left behind."""
    from embedstore.pipeline import build

    for i, (genre, pitch) in enumerate([("low", 110), ("low", 120), ("high", 1500), ("high", 1600)]):
        write_audio(f"music/{genre}/{i}.wav", 2.0, frequency=pitch)
    build(tmp_path / "music", tmp_path / "store", encoder="mfcc", jobs=1)
    with Searcher.open(tmp_path / "store") as searcher, client_of(searcher) as client:
        copy = client.post("/api/search/audio?k=1", content=(tmp_path / "music/low/0.wav").read_bytes()).json()
        assert (copy["query"], copy["hits"][0]["path"]) == ("the upload", str(tmp_path / "music/low/1.wav"))
        new = write_audio("new.flac", 2.0, 44100, frequency=1550).read_bytes()
        threads, codes = [], []
        for _ in range(4):
            ask = lambda: codes.append(client.post("/api/search/audio?k=2", content=new).json()["hits"][0]["genres"])  # noqa: E731
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert codes == [["high"]] * 4
        for content in (b"", b"noise", new[:100], b"RIFF" + bytes(1000), write_audio("short.wav", 0.001).read_bytes()):
            answer = client.post("/api/search/audio", content=content)
            assert answer.status_code == 422, answer.text
            assert "/tmp" not in answer.text
            assert answer.json()["error"]["type"] == "AudioError"
    assert not [*tmp_path.parent.glob("embedstore-*")]
    assert not [*Path(tempfile.gettempdir()).glob("embedstore-????????")]
