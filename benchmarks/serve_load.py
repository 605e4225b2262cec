"""Claim: up within 3 s at 100,000 tracks, `embedstore serve` answers 200 searches/s of 50 clients on 2 cores while 50 people listen.

A store of 100,000 tracks of one layer x 768, in clusters of 60 dimensions, with genres and artists, and its index. A search
asks for the ten nearest to a random track (`GET /api/tracks/ID/neighbors`), each client over one connection, as fast as it is
answered; all clients are threads of one process, so that they and the service share the cores. Beside it, as many threads ask
a `Searcher` in a process of their own: what HTTP and JSON cost is the difference. Up means that the first request is answered,
from the start of the process, all in the page cache; drawn, that a page has what it draws the map of (by PCA, which is there).

A listener reads a file as a player does: 64 KiB at a time, each when it has played the one before, at 256 kbit/s. A read that takes
longer than its sound lasts is a gap, and counts as an error, as does whatever else goes wrong.

Run: python benchmarks/serve_load.py [--tracks 100000] [--seconds 10] [--store FOLDER]    (quick: --tracks 5000 --seconds 2)
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, peak, show, table, verdict
from store_read import DIM, create, track

from embedstore.index import build_index
from embedstore.maps import make_map
from embedstore.search import Query, Searcher, Seed
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, LayerEmbeddings, TrackLabels

CLIENTS = (1, 10, 50)
LISTENERS = 50
PIECE, SPEED = 2**16, 32_000  # bytes, and of these a second
SOUND = 4_000_000  # bytes of a file: two minutes
STARTS = 3
RANK, CLUSTERS = 60, 200
Ask = Callable[[], Callable[[str], bool]]  # a client: searches for what is near to a track; whether that went well


def make(folder: Path, n: int) -> None:
    """Write the store, its index and its map, and files to listen to."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, RANK), np.float32)
    spread = rng.standard_normal((RANK, DIM), np.float32)
    store = create(folder, 1)
    with store.writer() as writer:
        for i in range(n):
            row = (centres[i % CLUSTERS] + rng.standard_normal(RANK, np.float32)) @ spread
            one = track(i)
            if i < LISTENERS:
                sound = folder.with_name(f"{folder.name}-sound") / f"{i}.mp3"
                sound.parent.mkdir(exist_ok=True)
                sound.write_bytes(rng.bytes(SOUND))
                at = sound.stat()
                one = replace(one, files=(AudioFile(str(sound.parent), sound.name, at.st_size, at.st_mtime_ns),))
            labels = TrackLabels((f"genre {i % CLUSTERS}",), (f"Artist {i // 12}",), f"Album {i // 12}", f"Title {i}")
            writer.add(replace(one, labels=labels), f"{i:032x}", LayerEmbeddings((row,), 1499))
    store.compact()
    build_index(store)
    make_map(store, "pca")


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, float, float]]:
    """Run the command: its process, its port, and the seconds until it answered, and until a map could be drawn."""
    first = track(0).id
    began = time.perf_counter()
    command = [sys.executable, "-m", "cli", "serve", "--store", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            where = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
            port = int(where["url"].rpartition(":")[2])
            over_http(port)()(first)
            up = time.perf_counter() - began
            draw(port)
            yield process, port, up, time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGINT)
            if process.wait(30):
                sys.exit(f"the service ended with {process.returncode}")


def draw(port: int) -> None:
    """Ask for all that a page draws the map of."""

    def ask(path: str) -> dict[str, Any]:
        asked = Request(f"http://127.0.0.1:{port}/{path}", headers={"Accept-Encoding": "gzip"})
        with urlopen(asked) as answer:  # noqa: S310
            data = answer.read()
            return json.loads(gzip.decompress(data) if answer.headers["Content-Encoding"] == "gzip" else data)

    ask("api/store")
    state = ask("api/map")
    ask("api/map/tracks")
    ask(f"api/map/positions?method=pca&layer={state['default_layer']}&version={state['version']}")


class Listener(threading.Thread):
    """Plays one file over and over; `faults` counts the reads that came too late, or not."""

    def __init__(self, port: int, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.port, self.stop, self.faults, self.reads, self.longest = port, stop, 0, 0, 0.0
        self.name, self.wait = track(number).id, number / LISTENERS * PIECE / SPEED

    def run(self) -> None:
        """Listen."""
        self.stop.wait(self.wait)  # they did not all begin at once
        connection, start = HTTPConnection("127.0.0.1", self.port, timeout=60), 0
        while not self.stop.is_set():
            began = time.perf_counter()
            last = min(start + PIECE, SOUND) - 1
            connection.request("GET", f"/api/tracks/{self.name}/audio", headers={"Range": f"bytes={start}-{last}"})
            answer = connection.getresponse()
            whole = len(answer.read()) == last + 1 - start and answer.status == 206
            took, lasts = time.perf_counter() - began, (last + 1 - start) / SPEED
            self.faults, self.reads, self.longest = (
                self.faults + (not whole or took > lasts),
                self.reads + 1,
                max(self.longest, took),
            )
            start = (last + 1) % SOUND
            self.stop.wait(lasts - took)


@contextlib.contextmanager
def listening(port: int) -> Iterator[list[Listener]]:
    """Let people listen meanwhile."""
    stop = threading.Event()
    people = [Listener(port, number, stop) for number in range(LISTENERS)]
    for one in people:
        one.start()
    try:
        yield people
    finally:
        stop.set()
        for one in people:
            one.join()


def first_ids(folder: Path, count: int) -> list[str]:
    return [one.id for one in next(EmbeddingStore.open(folder).iter_tracks(count))]


def over_http(port: int) -> Ask:
    def client() -> Callable[[str], bool]:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)

        def ask(name: str) -> bool:
            connection.request("GET", f"/api/tracks/{name}/neighbors?k=10")
            answer = connection.getresponse()
            return len(json.loads(answer.read())["hits"]) == 10 and answer.status == 200

        return ask

    return client


def in_process(searcher: Searcher) -> Ask:
    return lambda: lambda name: len(searcher.search(Query((Seed(name),))).hits) == 10


def load(ask: Ask, names: list[str], clients: int, seconds: float) -> tuple[float, list[float], int]:
    """Let clients ask for some seconds: answers per second, the seconds of each, faults."""
    taken: list[float] = []
    faults = 0
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        nonlocal faults
        one, chosen = ask(), random.Random(number)
        while (began := time.perf_counter()) < end:
            try:
                good = one(chosen.choice(names))
            except (OSError, ValueError, KeyError) as error:
                print(f"fault: {error!r}", file=sys.stderr)
                good = False
            faults += not good
            taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(taken) / (time.perf_counter() - began), taken, faults


def main() -> None:
    """Make the store, start the service some times, and ask it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--store", type=Path, help="Made here if it is not there, and kept.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.store or Path(temporary) / "store"
        if not EmbeddingStore.exists(folder):
            make(folder, asked.tracks)
        names = first_ids(folder, 20_000)
        rows, rates, faults, starts, drawn = [], {}, 0, [], []
        for _ in range(STARTS):
            with service(folder) as (_, _, up, shown):
                starts.append(up)
                drawn.append(shown)
        with service(folder) as (process, port, _, _), Searcher.open(folder) as searcher:
            searcher.search(Query((Seed(names[0]),)))
            for clients in CLIENTS:
                for way, ask in (("Searcher, threads", in_process(searcher)), ("HTTP", over_http(port))):
                    load(ask, names, clients, asked.seconds / 10)  # warm
                    rate, taken, wrong = load(ask, names, clients, asked.seconds)
                    median, late = np.quantile(taken, [0.5, 0.99])
                    rows.append([way, clients, f"{rate:,.0f}", show(median), show(late), wrong])
                    rates[way, clients], faults = rate, faults + wrong
            with listening(port) as people:
                ask = over_http(port)
                load(ask, names, CLIENTS[-1], asked.seconds / 10)
                rate, taken, wrong = load(ask, names, CLIENTS[-1], asked.seconds)
            median, late = np.quantile(taken, [0.5, 0.99])
            wrong += sum(one.faults for one in people)
            rows.append([f"HTTP, {LISTENERS} listen", CLIENTS[-1], f"{rate:,.0f}", show(median), show(late), wrong])
            rates["listening"], faults = rate, faults + wrong
            reads, longest = sum(one.reads for one in people), max(one.longest for one in people)
            most = peak(process.pid)
        print(header("fastapi", "uvicorn", "faiss-cpu", "numpy"))
        print(
            f"\n{len(searcher):,} tracks; up after {', '.join(map(show, starts))}, drawn after {', '.join(map(show, drawn))}; peak of the service {most:,.0f} MB\n"
        )
        print(f"{reads:,} reads of {PIECE >> 10} KiB while others searched; the longest took {show(longest)}\n")
        print(table(("", "clients", "searches/s", "median", "p99", "errors"), rows))
        print()
        verdicts = [
            verdict("seconds until it answers", float(np.median(starts)), at_most=3),
            verdict("searches/s of 50 clients over HTTP", rates["HTTP", 50], at_least=200),
            verdict("seconds until the map is drawn", float(np.median(drawn)), at_most=5),
            verdict(f"searches/s of 50 clients while {LISTENERS} listen", rates["listening"], at_least=200),
            verdict("errors", faults, at_most=0),
        ]
        print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
