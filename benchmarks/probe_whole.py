"""Claim: the whole question, all layers of 1,400 tracks, takes less than a minute on two cores.

`probes.evaluate(store, "logistic")` in a fresh process, imports included: 13 layers x 768 of 1,400 tracks by 280 artists in
10 genres, artist-grouped, 5 folds, 7 values of C chosen inside each training part, shuffled labels, 10,000 bootstrap
resamples and paired tests of all layers; once with one seed and once with the default of three; then again, as a second
run finds its finished rounds. Beside it what a user would write: scikit-learn's LogisticRegressionCV in a pipeline, one
layer and one seed of it timed, times the layers; it tells one score, without groups' intervals or tests.

Vectors are synthetic (float16, correlated, layer 6 planted as the best), written by the real writer.

Run: python benchmarks/probe_whole.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, repeat, table, verdict
from store_read import create, fill

TRACKS, LAYERS, DIM, GENRES, ARTISTS, BEST = 1400, 13, 768, 10, 280, 6
GRID = tuple(float(c) for c in np.logspace(-4, 0, 7))

ASK = f"""
import sys
from embedstore import EmbeddingStore
from embedstore.types import TrackLabels
from probes import evaluate, load_probe
folder, seeds, cells = sys.argv[1:]
store = EmbeddingStore.open(folder)
labels = {{int(key): TrackLabels((f"genre {{n % {GENRES}}}",), (f"artist {{n % {ARTISTS}}}",)) for n, key in enumerate(store.keys())}}
probe = load_probe("logistic")
probe.grid = tuple({{"C": c}} for c in {GRID})
report = evaluate(store, probe, labels=labels, seeds=int(seeds), cells=cells, group="artist")
print(report.best_layer, report.selected.main, report.selected.layers, *report.indistinct, sep="; ")
"""

PLAIN = f"""
import sys
import numpy as np
from embedstore import EmbeddingStore
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
store = EmbeddingStore.open(sys.argv[1])
x = store.layer({BEST}).values.astype(np.float32)
y, artist = np.arange(len(x)) % {GENRES}, np.arange(len(x)) % {ARTISTS}
model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs={GRID}, cv=4, max_iter=2000, scoring="f1_macro", n_jobs=1))
guess = cross_val_predict(model, x, y, groups=artist, cv=StratifiedGroupKFold(5), n_jobs=-1)
print(f1_score(y, guess, average="macro"))
"""


def fill_store(folder: Path) -> None:
    """Write correlated vectors in which genres stand apart most in one layer, and artists everywhere."""
    rng = np.random.default_rng(0)
    spread = np.logspace(0, -2, DIM)
    turn = [np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] for _ in range(LAYERS)]
    of_genre = rng.normal(size=(LAYERS, GENRES, DIM)) * spread**0.7
    of_artist = rng.normal(size=(LAYERS, ARTISTS, DIM)) * spread

    def vectors(n: int) -> np.ndarray:
        x = rng.normal(size=(LAYERS, DIM)) * spread + 0.5 * of_artist[:, n % ARTISTS]
        apart = 0.2 - 0.02 * np.abs(np.arange(LAYERS) - BEST)[:, None]
        x += apart * of_genre[:, n % GENRES]
        return np.stack([row @ matrix for row, matrix in zip(x, turn, strict=True)]).astype(np.float32)

    fill(create(folder, LAYERS), vectors, TRACKS)


def run(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        store, rows = Path(folder) / "store", []
        fill_store(store)
        told = {}

        def ask(seeds: int, cells: str) -> None:
            told[seeds] = run(ASK, store, seeds, cells)

        fresh = iter(range(10**6))
        one = repeat(lambda: ask(1, f"{folder}/cells{next(fresh)}"), times=repeats, warm=0)
        three = repeat(lambda: ask(3, f"{folder}/cells{next(fresh)}"), times=repeats, warm=0)
        ask(3, f"{folder}/kept")
        again = repeat(lambda: ask(3, f"{folder}/kept"), times=repeats, warm=0)
        began = time.perf_counter()
        score = run(PLAIN, store)
        plain = time.perf_counter() - began
        rows = [
            ["ours, 1 seed, 13 layers", str(one), told[1]],
            ["ours, 3 seeds, 13 layers", str(three), told[3]],
            ["ours, 3 seeds, run again", str(again), ""],
            ["scikit-learn, 1 seed, 1 layer", f"{plain:.3g} s", f"macro-F1 {float(score):.3f}"],
            ["the same for 13 layers, by multiplication", f"{LAYERS * plain:.3g} s", ""],
        ]
        print(header("numpy", "scipy", "scikit-learn"))
        print()
        print(table(["", "wall time", "best layer; macro-F1 (selected); layers chosen; not distinguishable"], rows))
        print()
        verdicts = [
            verdict("seconds, 1 seed", one.median, at_most=60),
            verdict("seconds, 3 seeds", three.median, at_most=60),
        ]
        print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
