"""Claim: with a million tracks the store opens within a second, and a layer of it streams through 300 MB of memory.

Stores of 10,000 and 100,000 tracks of 13 layers x 768, and of 1,000,000 tracks of one layer x 768, float16, written by the
real writer: as it leaves them (64 tracks a shard), and after `compact`; the largest is compacted and verified only if
asked (`--all`), as that takes minutes. Each step is a fresh process; its peak is the most memory that it has had (VmHWM),
Python and the libraries included. All is warm: in the page cache, as far as it fits. Opened means `open` and the first
`len`. What verify spends on a track besides its vectors (JSON, SQL) is the same for 1 layer as for 13.

Run: python benchmarks/store_scale.py [--rows 10000 100000 1000000] [--layers 13] [--all]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, peak, repeat, show, table, verdict
from store_read import DIM, create, fill

from embedstore.store import EmbeddingStore

Line = dict[str, str]  # what is shown, by name of the line
MOST = 200_000  # tracks of a store that everything is done to, and again for a median


def write(folder: str, layers: str, n: str) -> tuple[Line, dict[str, float]]:
    """Write n tracks. The numbers of a few hundred are made before, and used again and again."""
    pool = np.random.default_rng(0).standard_normal((257, int(layers), DIM), np.float32)
    store = create(Path(folder), int(layers))
    began = time.perf_counter()
    commits = fill(store, lambda i: pool[i % 257], int(n))
    took = time.perf_counter() - began
    rates = f"{int(n) / took:,.0f} tracks/s, {store.nbytes() / took / 1e6:.0f} MB/s"
    return {"write": rates, "commit of 64 tracks": str(commits), "peak of the writer": _mb(peak())}, {}


def compact(folder: str) -> tuple[Line, dict[str, float]]:
    store = EmbeddingStore.open(folder)
    began = time.perf_counter()
    store.compact()
    return {"compact": show(time.perf_counter() - began), "peak of compact": _mb(peak())}, {}


def opened(folder: str) -> tuple[Line, dict[str, float]]:
    def look() -> None:
        store = EmbeddingStore.open(folder)
        len(store)
        store.close()

    look()
    most, timing = peak(), repeat(look, times=3, warm=0)
    store = EmbeddingStore.open(folder)
    size = f"{store.nbytes() / 1e6:,.0f} MB, {len(store.shards()):,} shards"
    catalog = f"{(store.path / 'catalog.sqlite').stat().st_size / 1e6:,.1f} MB"
    lines = {"on disk": size, "of which the catalogue": catalog, "opened": str(timing), "peak, opened": _mb(most)}
    return lines, {"open": timing.median}


def rebuilt(folder: str) -> tuple[Line, dict[str, float]]:
    (Path(folder) / "catalog.sqlite").unlink()
    began = time.perf_counter()
    EmbeddingStore.open(folder)
    return {"opened, catalogue lost": show(time.perf_counter() - began)}, {}


def stream(folder: str) -> tuple[Line, dict[str, float]]:
    store = EmbeddingStore.open(folder)
    took = repeat(lambda: sum(piece.values[0, 0] for piece in store.iter_layer()), **_times(store)).median
    rate = f"{len(store) / took:,.0f} rows/s, {len(store) * DIM * 2 / took / 1e6:,.0f} MB/s"
    return {"one layer, streamed": rate, "peak, streamed": _mb(peak())}, {"peak": peak()}


def layer(folder: str) -> tuple[Line, dict[str, float]]:
    store = EmbeddingStore.open(folder)
    return {"one layer, whole": str(repeat(store.layer, **_times(store))), "peak, whole": _mb(peak())}, {}


def rows(folder: str) -> tuple[Line, dict[str, float]]:
    store = EmbeddingStore.open(folder)
    some = np.random.default_rng(0).permutation(store.keys())
    return {
        "100 random rows": str(repeat(lambda: store.vectors(some[:100]), **_times(store))),
        "10,000 random rows": str(repeat(lambda: store.vectors(some[:10_000]), **_times(store))),
    }, {}


def files(folder: str) -> tuple[Line, dict[str, float]]:
    timing = repeat((store := EmbeddingStore.open(folder)).files, times=1, warm=0)
    return {"states of all files": f"{timing}, {len(store) / timing.median:,.0f} a second"}, {}


def verify(folder: str) -> tuple[Line, dict[str, float]]:
    store = EmbeddingStore.open(folder)
    size = sum(shard.size for shard in store.shards())
    took = repeat(store.verify, **_times(store)).median
    rate = size / took / 1e6
    return {"verify": f"{show(took)}, {rate:,.0f} MB/s", "peak of verify": _mb(peak())}, {"rate": rate}


def _times(store: EmbeddingStore) -> dict[str, int]:
    """Say how often to measure."""
    return {"times": 3, "warm": 1} if len(store) <= MOST else {"times": 1, "warm": 0}


def _mb(size: float) -> str:
    return f"{size:,.0f} MB" if size else "not measured"


STEPS: dict[str, Callable[..., tuple[Line, dict[str, float]]]] = {
    step.__name__: step for step in (write, compact, opened, rebuilt, stream, layer, rows, files, verify)
}


def alone(step: str, *arguments: Any) -> tuple[Line, dict[str, float]]:
    """Run a step in a fresh process: what it shows, and its figures."""
    asked = [sys.executable, __file__, "--alone", step, *map(str, arguments)]
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{step} failed (exit code {done.returncode})")
    lines, figures = json.loads(done.stdout)
    return lines, figures


def measure(folder: Path, n: int, layers: int, *, thorough: bool) -> tuple[dict[str, Line], list[list[str]]]:
    """Measure one store, as written and compacted: the columns of a table, and rows of `VERDICTS`."""
    columns, verdicts = {}, []
    for state in ("as written", "compacted") if n <= MOST or thorough else ("as written",):
        first = alone("write", folder, layers, n) if state == "as written" else alone("compact", folder)
        steps = ["opened", "rebuilt", "stream", "layer", "rows", "files", "verify"]
        if n > MOST:
            steps.remove("rebuilt")
        if n > MOST and state == "as written":
            steps.remove("verify")
        found = {step: alone(step, folder) for step in steps}
        name = f"{n:,} x {layers}, {state}"
        columns[name] = {key: text for lines, _ in (first, *found.values()) for key, text in lines.items()}
        if n >= 1_000_000:
            verdicts.append(verdict(f"s to open, {name}", found["opened"][1]["open"], at_most=1))
            verdicts.append(verdict(f"MB of memory to stream a layer, {name}", found["stream"][1]["peak"], at_most=300))
        if n >= 100_000 and layers > 1:
            verdicts.append(verdict(f"MB/s of verify, {name}", found["verify"][1]["rate"], at_least=500))
    return columns, verdicts


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(STEPS[sys.argv[2]](*sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--layers", type=int, help="default: 13, and 1 for more than 200,000 tracks")
    parser.add_argument("--all", action="store_true", help="compact and verify the largest, too")
    options = parser.parse_args()
    print(header("embedstore-mir", "h5py", "numpy") + "\n")
    for n in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            layers = options.layers or (1 if n > MOST else 13)
            columns, verdicts = measure(Path(folder, "store"), n, layers, thorough=options.all)
        names = list(dict.fromkeys(name for lines in columns.values() for name in lines))
        body = [(name, *(lines.get(name, "") for lines in columns.values())) for name in names]
        print(table((f"{n:,} tracks", *columns), body) + "\n", flush=True)
        if verdicts:
            print(table(VERDICTS, verdicts) + "\n", flush=True)


if __name__ == "__main__":
    main()
