"""Kill a writer with SIGKILL, again and again, and look at the store after each time: kill_writers.py FOLDER KILLS SEED."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import store_material as m

from embedstore.store import EmbeddingStore


def write(path: str, acknowledge: int) -> None:
    """Add tracks for ever, two and a note a commit; tell how many are safe after each; compact the store in between."""
    store = EmbeddingStore.open(path)
    while True:
        with store.writer() as writer:
            first = len(store)
            for i in range(first, first + 6, 2):
                m.fill(writer, [i, i + 1])
                writer.fail(m.file(i, f"bad {i}.ogg"), "decode", "broken")
                writer.commit()
                os.write(acknowledge, f"{i + 2}\n".encode())
        store.compact()


def kill_once(path: str, chance: random.Random) -> list[int]:
    """Let a writer work for a few commits and kill it somewhere; return how many tracks it had promised, each time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write(path, writing)
        finally:
            os._exit(1)
    os.close(writing)
    told = b""
    for _ in range(chance.randrange(1, 5)):
        told += os.read(reading, 1000)
    time.sleep(chance.random() * 0.03)  # chance, not synchronisation: anywhere in a commit
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while rest := os.read(reading, 1000):
        told += rest
    os.close(reading)
    return [int(number) for number in told.split()]


def main(folder: str, kills: int, seed: int) -> None:
    """Make a store every 25 kills, and let no kill lose or double anything."""
    chance = random.Random(seed)
    leftovers = 0
    for kill in range(kills):
        path = f"{folder}/{kill // 25}"
        if kill % 25 == 0:
            m.make(path).close()
            failed: set[str] = set()
        promises = kill_once(path, chance)
        promised = max(promises, default=0)
        failed |= {m.file(i - 2, f"bad {i - 2}.ogg").full_path for i in promises}
        leftovers += len(list(Path(path).rglob("*.tmp-*")))
        if chance.random() < 0.3:
            (Path(path) / "catalog.sqlite").unlink(missing_ok=True)
        store = EmbeddingStore.open(path)
        n = len(store)
        if n < promised or n % 2:
            raise SystemExit(f"{promised} tracks were promised, {n} are there")
        m.check(store, range(n))
        if lost := failed - {failure.file.full_path for failure in store.failures()}:
            raise SystemExit(f"{len(lost)} of {len(failed)} failures that were promised are lost: {min(lost)}")
        report = store.verify()
        if not report.ok or report.rows < n:
            raise SystemExit(f"{n} tracks, but {report}")
        store.close()
    print(f"{kills} kills, {leftovers} half-written files, no track lost, no failure lost, nothing wrong")  # noqa: T201 - a command


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
