"""Claim: `embedstore serve` is up within 3 s at 100,000 tracks, and answers 200 searches/s of 50 clients on 2 cores without an error.

A store of 100,000 tracks of one layer x 768, in clusters of 60 dimensions, with genres and artists, and its index. A search
asks for the ten nearest to a random track (`GET /api/tracks/ID/neighbors`), each client over one connection, as fast as it is
answered; all clients are threads of one process, so that they and the service share the cores. Beside it, as many threads ask
a `Searcher` in a process of their own: what HTTP and JSON cost is the difference. Up means that the first request is answered,
from the start of the process, all in the page cache.

Run: python benchmarks/serve_load.py [--tracks 100000] [--seconds 10] [--store FOLDER]    (quick: --tracks 5000 --seconds 2)
"""

from __future__ import annotations

import argparse
import contextlib
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

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, peak, show, table, verdict
from store_read import DIM, create, track

from embedstore.index import build_index
from embedstore.search import Query, Searcher, Seed
from embedstore.store import EmbeddingStore
from embedstore.types import LayerEmbeddings, TrackLabels

CLIENTS = (1, 10, 50)
STARTS = 3
RANK, CLUSTERS = 60, 200
Ask = Callable[[], Callable[[str], bool]]  # a client: searches for what is near to a track; whether that went well


def make(folder: Path, n: int) -> None:
    """Write the store and its index."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, RANK), np.float32)
    spread = rng.standard_normal((RANK, DIM), np.float32)
    store = create(folder, 1)
    with store.writer() as writer:
        for i in range(n):
            row = (centres[i % CLUSTERS] + rng.standard_normal(RANK, np.float32)) @ spread
            labels = TrackLabels((f"genre {i % CLUSTERS}",), (f"Artist {i // 12}",), f"Album {i // 12}", f"Title {i}")
            writer.add(replace(track(i), labels=labels), f"{i:032x}", LayerEmbeddings((row,), 1499))
    store.compact()
    build_index(store)


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, float]]:
    """Run the command: its process, its port, and the seconds until it answered."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "cli", "serve", "--store", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            where = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
            port = int(where["url"].rpartition(":")[2])
            over_http(port)()(first_ids(folder, 1)[0])
            yield process, port, time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGINT)
            if process.wait(30):
                sys.exit(f"the service ended with {process.returncode}")


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
        rows, rates, faults, starts = [], {}, 0, []
        for _ in range(STARTS):
            with service(folder) as (_, _, took):
                starts.append(took)
        with service(folder) as (process, port, _), Searcher.open(folder) as searcher:
            searcher.search(Query((Seed(names[0]),)))
            for clients in CLIENTS:
                for way, ask in (("Searcher, threads", in_process(searcher)), ("HTTP", over_http(port))):
                    load(ask, names, clients, asked.seconds / 10)  # warm
                    rate, taken, wrong = load(ask, names, clients, asked.seconds)
                    median, late = np.quantile(taken, [0.5, 0.99])
                    rows.append([way, clients, f"{rate:,.0f}", show(median), show(late), wrong])
                    rates[way, clients], faults = rate, faults + wrong
            most = peak(process.pid)
        print(header("fastapi", "uvicorn", "faiss-cpu", "numpy"))
        print(
            f"\n{len(searcher):,} tracks; up after {', '.join(map(show, starts))}; peak of the service {most:,.0f} MB\n"
        )
        print(table(("", "clients", "searches/s", "median", "p99", "errors"), rows))
        print()
        verdicts = [
            verdict("seconds until it answers", float(np.median(starts)), at_most=3),
            verdict("searches/s of 50 clients over HTTP", rates["HTTP", 50], at_least=200),
            verdict("errors", faults, at_most=0),
        ]
        print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
