"""Claim: a leave-one-out sweep of k nearest neighbours, 8 k x 6 weightings, takes a sixth of scikit-learn's time, or less.

1,400 tracks x 768, each judged by all others. First with features standardised once, as scikit-learn's own leave-one-out
(``KNeighborsClassifier.predict(None)``, one fit per setting) needs it; then exactly, each track by the mean and deviation of
the others, against refitting scaler and neighbours for every track (extrapolated from a few, one setting). CPU time of one
thread. Predictions are compared; of tied votes scikit-learn gives the class with the lowest number, ours the nearest of
those tied, so they are counted apart.

Run: python benchmarks/probe_knn.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, repeat, show, side_by_side, table, verdict
from probe_logistic import synthetic
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from probes.base import predictions
from probes.knn import KNNProbe
from probes.scaling import standardise

KS, TEMPERATURES = (1, 3, 5, 10, 20, 50, 100, 200), (None, 0.02, 0.05, 0.07, 0.1, 0.2)
GRID = [{"n_neighbors": k, "metric": "cosine", "temperature": t} for k in KS for t in TEMPERATURES]
FEW = 20


def neighbours(setting: dict, x: np.ndarray, y: np.ndarray) -> KNeighborsClassifier:
    t = setting["temperature"]
    weights = "uniform" if t is None else lambda distance: np.exp((1 - distance) / t)
    return KNeighborsClassifier(setting["n_neighbors"], metric="cosine", weights=weights).fit(x, y)


def refit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Leave a few rows out in turn: scale and fit again."""
    found = []
    for row in range(FEW):
        train, held = standardise(x[None], np.delete(np.arange(len(x)), row), np.array([row]))
        found.append(KNNProbe(10).fit(train[0], np.delete(y, row)).predict(held[0]))
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    x, y = synthetic(1400)
    once, rows = scale(x), np.arange(len(x))
    ours = partial(KNNProbe().score_left_out, y=y, groups=rows, settings=GRID, n_classes=10)
    with threadpool_limits(1):
        times = side_by_side(
            {
                "scikit-learn, one fit per setting": lambda: [neighbours(s, once, y).predict(None) for s in GRID],
                "ours": lambda: ours(once, standardise=False),
                "ours, each track scaled by the others": lambda: ours(x),
            },
            times=options.repeats,
            clock=time.process_time,
        )
        refits = repeat(lambda: refit(x, y), times=3, clock=time.process_time)
        exact = predictions(ours(x)[GRID.index({"n_neighbors": 10, "metric": "cosine", "temperature": None})])
        same_exact = (refit(x, y) == exact[:FEW]).mean()
        chosen = predictions(ours(once, standardise=False))
        agree, tied, at_odds = [], 0, 0
        for setting, ours_chose in zip(GRID, chosen, strict=True):
            model = neighbours(setting, once, y)
            top = np.sort(model.predict_proba(None), axis=1)[:, -2:]
            tie = top[:, 1] - top[:, 0] < 1e-12
            same = ours_chose == model.predict(None)
            agree.append(same[~tie].mean())
            tied, at_odds = tied + tie.sum(), at_odds + (~same & tie).sum()
    speed = times["scikit-learn, one fit per setting"].over(times["ours"])
    print(f"{header('numpy', 'scikit-learn')}; 1 thread; k = {KS}, temperature = {TEMPERATURES}\n")
    lines = [(name, str(taken), f"{taken.over(times['ours']):.1f} x") for name, taken in times.items()]
    whole = refits.median * len(x) / FEW
    lines.append(
        ("refitted for every track, 1 setting (extrapolated)", show(whole), f"{whole / times['ours'].median:.0f} x")
    )
    print(table(["8 k x 6 weightings, leave one out", "CPU time", "time / ours"], lines), "\n")
    print(
        f"Same predictions where no votes are tied: {100 * np.mean(agree):.3f} % (worst setting {100 * min(agree):.3f} %)."
    )
    print(
        f"Tied: {100 * tied / chosen.size:.2f} % of predictions; the rules disagree on {100 * at_odds / max(tied, 1):.0f} % of these."
    )
    print(f"Refitted for every track: {100 * same_exact:.0f} % the same.\n")
    print(
        table(
            VERDICTS,
            [
                verdict("scikit-learn / ours, time", speed, at_least=6),
                verdict("same predictions", min(agree), at_least=0.999),
            ],
        )
    )


if __name__ == "__main__":
    main()
