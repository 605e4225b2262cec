"""Claim: the map of 13 layers x 100,000 tracks takes minutes on two cores, is as faithful as UMAP, and moves its points half as far.

Synthetic stores of 13 layers x 768, in which one set of groups fades into another from the first layer to the last. What a user
would do otherwise: `umap.UMAP` of each layer alone, or umap-learn's own `AlignedUMAP`, of the same vectors, which come reduced to 50
directions; each layer is then turned to fit the one before, as ours are. Seeded, so in one thread; each a fresh process, whose
seconds hold what numba compiles. Faithful: mean trustworthiness at 10 over the layers (Venna & Kaski 2001), 1 is best. Moved: how
far a track is from where it was in the layer before, as a share of the map's spread; mean over tracks and layers.

Run: python benchmarks/map_speed.py [--rows 1000 100000] [--compare 1000] [--store DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, peak, show, table, verdict
from store_read import DIM, create, fill

from embedstore.maps import make_map
from embedstore.maps.making import _reduced, _turned
from embedstore.store import EmbeddingStore

LAYERS, AXES, JUDGED = 13, 60, 2000
WAYS = ("embedstore, umap", "embedstore, pca", "umap.UMAP of each layer", "umap.AlignedUMAP")


def write(folder: Path, n: int) -> None:
    """Write a store of n tracks; layer l lies between two sets of groups."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((AXES, DIM), np.float32) / DIM**0.5
    mean = rng.standard_normal(DIM, np.float32) * 7 / DIM**0.5  # all lie to one side, as a model's do
    sets = [rng.standard_normal((count, AXES), np.float32) for count in (200, 60)]
    share = np.linspace(0, 1, LAYERS, dtype=np.float32)[:, None]

    def track(_: int) -> np.ndarray:
        one, other = (
            groups[rng.integers(len(groups))] + spread * rng.standard_normal(AXES, np.float32)
            for groups, spread in zip(sets, (0.7, 0.5), strict=True)
        )
        noise = rng.standard_normal((LAYERS, DIM), np.float32) * (0.3 / DIM**0.5)
        return ((1 - share) * one + share * other) @ basis + mean + noise

    fill(create(folder, LAYERS), track, n)


def alone(way: str, folder: str) -> dict[str, Any]:
    """Be one contender: make a map, say what it took and what it is worth."""
    warnings.simplefilter("ignore")
    store = EmbeddingStore.open(folder)
    keys, layers = np.sort(store.keys()), [layer.number for layer in store.card.layers]
    values = None
    if way.startswith("umap"):
        values = [_reduced(store, store.keys(), layer, 0) for layer in layers]
    began = time.perf_counter(), time.process_time()
    if values is None:
        positions = make_map(store, way.rsplit(maxsplit=1)[-1]).positions
    else:
        import umap

        if way == "umap.AlignedUMAP":
            same = [{i: i for i in range(len(keys))}] * (len(layers) - 1)
            found = umap.AlignedUMAP(random_state=0).fit(values, relations=same).embeddings_
        else:
            found = [umap.UMAP(random_state=0, n_jobs=1).fit_transform(one) for one in values]
        positions = np.stack([np.asarray(one) for one in found])
    told = {"seconds": time.perf_counter() - began[0], "cpu": time.process_time() - began[1], "peak": peak()}
    positions = _turned(positions, None)
    told["moved"] = float(np.linalg.norm(np.diff(positions, axis=0), axis=-1).mean())
    if len(keys) <= JUDGED:
        from sklearn.manifold import trustworthiness

        values = values or [_reduced(store, store.keys(), layer, 0) for layer in layers]
        faithful = [trustworthiness(*pair, n_neighbors=10) for pair in zip(values, positions, strict=True)]
        told["faithful"] = float(np.mean(faithful))
    return told


def measure(folder: Path, ways: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Run contenders one after the other, and print their table."""
    told = {}
    for way in ways:
        shutil.rmtree(folder / "maps", ignore_errors=True)
        asked = [sys.executable, __file__, "--alone", way, str(folder)]
        done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True)
        told[way] = json.loads(done.stdout.splitlines()[-1])
    lines = [
        (
            way,
            show(one["seconds"]),
            show(one["cpu"]),
            f"{one['peak']:,.0f} MB",
            f"{one['faithful']:.3f}" if "faithful" in one else "-",
            f"{one['moved']:.2f}",
        )
        for way, one in told.items()
    ]
    store = EmbeddingStore.open(folder)
    what = f"{len(store):,} tracks x {len(store.card.layers)} layers"
    print(table((what, "time", "CPU time", "peak", "faithful", "moved"), lines) + "\n", flush=True)
    return told


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(alone(*sys.argv[2:4])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 100_000])
    parser.add_argument("--compare", type=int, default=1000, help="most tracks that umap-learn alone is asked to map")
    parser.add_argument("--store", type=Path, help="also a real store")
    options = parser.parse_args()
    print(header("embedstore-mir", "umap-learn", "numba", "numpy", "scikit-learn") + "\n")
    checks = []
    for n in [*options.rows, *([options.store] if options.store else [])]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "store"
            if isinstance(n, Path):
                shutil.copytree(n, folder)
            else:
                write(folder, n)
            small = isinstance(n, Path) or n <= options.compare
            told = measure(folder, WAYS if small else WAYS[:2])
        ours = told["embedstore, umap"]
        if small:
            apart = told["umap.UMAP of each layer"]
            lost = apart.get("faithful", 0) - ours.get("faithful", 0)
            checks.append(verdict(f"faithfulness lost against UMAP, {n}", lost, at_most=0.02))
            checks.append(verdict(f"moved, as a share of UMAP's, {n}", ours["moved"] / apart["moved"], at_most=0.6))
        elif n >= 100_000:
            checks.append(verdict(f"s for {n:,} x {LAYERS} layers", ours["seconds"], at_most=900))
            checks.append(verdict(f"MB peak, {n:,}", ours["peak"], at_most=4000))
    print(table(VERDICTS, checks))


if __name__ == "__main__":
    main()
