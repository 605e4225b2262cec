"""Claim: a grid of ridge classifiers is faster than scikit-learn's two ways to it, with identical predictions.

5 folds x 7 alphas. `RidgeClassifierCV` chooses one alpha per fold from one decomposition and predicts with that; ours predicts
with all of them, as a sweep needs it, and is compared at the alpha chosen. A loop over `RidgeClassifier`, one fit per alpha,
does the same work as ours. CPU time of one thread, synthetic features as in probe_logistic.

Run: python benchmarks/probe_ridge.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, side_by_side, table, verdict
from probe_logistic import folds, synthetic
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
from threadpoolctl import threadpool_limits

from probes.base import predictions, score_settings
from probes.ridge import RidgeProbe

ALPHAS = [setting["alpha"] for setting in RidgeProbe.grid]
CHOSEN, LOOP, OURS = "RidgeClassifierCV", "RidgeClassifier, one fit per alpha", "ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    lines, verdicts = [], []
    with threadpool_limits(1):
        for n in (280, 1120):
            problems = folds(*synthetic(n * 5 // 4), 5)
            runs = {
                CHOSEN: lambda problems=problems: [
                    RidgeClassifierCV(ALPHAS).fit(p.x_train, p.y_train).predict(p.x_eval) for p in problems
                ],
                LOOP: lambda problems=problems: [
                    [RidgeClassifier(alpha).fit(p.x_train, p.y_train).predict(p.x_eval) for alpha in ALPHAS]
                    for p in problems
                ],
                OURS: lambda problems=problems: predictions(
                    np.stack(score_settings(RidgeProbe(), problems, RidgeProbe.grid))
                ),
            }
            times = side_by_side(runs, times=options.repeats, clock=time.process_time)
            found = runs[OURS]()
            at = [ALPHAS.index(RidgeClassifierCV(ALPHAS).fit(p.x_train, p.y_train).alpha_) for p in problems]
            chosen = np.mean([ours[i] == theirs for ours, i, theirs in zip(found, at, runs[CHOSEN](), strict=True)])
            same = {CHOSEN: chosen, LOOP: np.mean(found == np.array(runs[LOOP]())), OURS: 1.0}
            for name, taken in times.items():
                ratio = taken.over(times[OURS])
                lines.append((f"{n:,}", name, str(taken), f"{ratio:.1f} x", f"{100 * same[name]:.2f} %"))
                if name != OURS:
                    verdicts.append(verdict(f"{n:,} training tracks: {name} / ours", ratio, at_least=1))
    print(f"{header('numpy', 'scikit-learn')}; 1 thread; alpha = {', '.join(f'{a:g}' for a in ALPHAS)}\n")
    columns = ["training tracks", "solver", "fit + predict, 5 folds", "time / ours", "ours predicts the same"]
    print(table(columns, lines), "\n")
    print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
