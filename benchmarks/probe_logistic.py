"""Claim: a grid of logistic regressions is 2 x scikit-learn's float32 loop on few tracks, no slower on more, and nearer the optimum.

5 folds x 7 C from 1e-4 to 100, each fitted and its test part predicted: ours (rotation to principal axes, stretched
coordinates) against the loop that users write, scikit-learn on float32 features at its default tolerance, which stops
early; and against scikit-learn at a tolerance that brings it as near the optimum as ours is. CPU time of one thread. The
features are synthetic, with the spectrum of track vectors (variances fall as 1 / i^1.5; try --store for real ones).
Each gap is the largest over folds and C, relative to the optimum (scikit-learn at tol 1e-10, or lower); predictions are
compared with that optimum's.

Run: python benchmarks/probe_logistic.py [--repeats 3] [--large] [--store DIR]      (--large: 16,000 tracks, some minutes)
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, side_by_side, table, verdict
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from probes.base import Problem, predictions, score_settings
from probes.logistic import LogisticProbe
from probes.scaling import standardise

CS = [float(c) for c in np.logspace(-4, 2, 7)]
GRID = [{"C": c} for c in CS]
OURS, LOOP, EXACT = "ours", "scikit-learn, float32, default tol", "scikit-learn, float64, as near as ours"


def synthetic(n: int, dim: int = 768, n_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Make correlated features: a few axes hold most of the variance, the classes differ a little along all of them."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    spread = np.arange(1, dim + 1) ** -0.75
    x = rng.normal(size=(n, dim)) * spread + 0.1 * (rng.normal(size=(n_classes, dim)) * spread**0.7)[y]
    return x @ np.linalg.qr(rng.normal(size=(dim, dim)))[0], y


def stored(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Take the widest layer of a store and its genres."""
    from embedstore import EmbeddingStore
    from probes.layers import load_features, open_source
    from probes.task import make_task

    source = open_source(EmbeddingStore.open(folder))
    task = make_task(source.keys, source.labels, group="none")
    widest = max(source.layers, key=lambda layer: layer.dim)
    return load_features(source, widest.number, task.keys)[0].values[0], task.y


def folds(x: np.ndarray, y: np.ndarray, count: int) -> list[Problem]:
    """Deal rows to five folds; the first `count` of them are tested."""
    made = []
    for train, test in list(StratifiedKFold(5, shuffle=True, random_state=1).split(x, y))[:count]:
        x_train, x_eval = standardise(x[None], train, test)
        made.append(Problem(x_train[0], y[train], x_eval[0], np.arange(len(train))))
    return made


def plain(problems: Sequence[Problem], dtype: str, tol: Callable[[float], float], steps: int = 100) -> list[list[Any]]:
    """Fit each fold and C with scikit-learn."""
    return [
        [LogisticRegression(C=c, tol=tol(c), max_iter=steps).fit(p.x_train.astype(dtype), p.y_train) for c in CS]
        for p in problems
    ]


def objective(model: Any, c: float, p: Problem) -> float:
    coef, intercept = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    logs = log_softmax(p.x_train @ coef.T + intercept, axis=1)
    return float(-c * logs[np.arange(len(p.y_train)), p.y_train].sum() + 0.5 * (coef**2).sum())


def compare(
    name: str, problems: list[Problem], repeats: int, at_least: float
) -> tuple[list[tuple[str, ...]], list[str]]:
    def predicted(models: list[list[Any]]) -> np.ndarray:
        return np.stack([[m.predict(p.x_eval) for m in of] for of, p in zip(models, problems, strict=True)])

    near = partial(plain, problems, "f8", lambda c: min(1e-4, 3e-7 / c), 20_000)
    loop = partial(plain, problems, "f4", lambda _: 1e-4)
    runs: dict[str, Callable[[], Any]] = {
        LOOP: lambda: predicted(loop()),
        EXACT: lambda: predicted(near()),
        OURS: lambda: predictions(np.stack(score_settings(LogisticProbe(), problems, GRID))),
    }
    times = side_by_side(runs, times=repeats, warm=min(1, repeats - 1), clock=time.process_time)
    models = {LOOP: loop(), EXACT: near()}
    models[OURS] = [[LogisticProbe(C=c).fit(p.x_train, p.y_train) for c in CS] for p in problems]
    best = plain(problems, "f8", lambda _: 1e-10, 50_000)
    reached = {
        key: np.array(
            [[objective(m, c, p) for m, c in zip(of, CS, strict=True)] for of, p in zip(all_, problems, strict=True)]
        )
        for key, all_ in {**models, "best": best}.items()
    }
    optimum, truth = np.minimum.reduce(list(reached.values())), predicted(best)
    found = []
    for key in runs:
        gap = ((reached[key] - optimum) / optimum).max(0)
        same = 100 * (predicted(models[key]) == truth).mean()
        gaps = f"{gap[:5].max():.0e}", f"{gap.max():.0e}"
        found.append((name, key, str(times[key]), f"{times[key].over(times[OURS]):.2f} x", *gaps, f"{same:.2f} %"))
    return found, verdict(f"{name}: {LOOP} / ours", times[LOOP].over(times[OURS]), at_least=at_least)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="one fold of 16,000 training tracks, once, too")
    parser.add_argument("--store", help="take the widest layer of this labelled store, too")
    options = parser.parse_args()
    tasks = [("280 training tracks", synthetic(350), 5, options.repeats, 2.0)]
    tasks += [("1,120 training tracks", synthetic(1400), 5, options.repeats, 1.0)]
    if options.large:
        tasks += [("16,000 training tracks, 1 fold", synthetic(20_000), 1, 1, 1.0)]
    if options.store:
        x, y = stored(options.store)
        tasks += [(f"real, {len(x) * 4 // 5} training tracks", (x, y), 5, options.repeats, 1.0)]
    lines, verdicts = [], []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (x, y), count, repeats, at_least in tasks:
            found, reached = compare(name, folds(x, y, count), repeats, at_least)
            lines += found
            verdicts.append(reached)
    print(
        f"{header('numpy', 'scipy', 'scikit-learn')}; 1 thread; dimensions: 768; C = {', '.join(f'{c:g}' for c in CS)}\n"
    )
    columns = [
        "features",
        "solver",
        "fit + predict",
        "time / ours",
        "worst gap, C <= 1",
        "worst gap",
        "same predictions",
    ]
    print(table(columns, lines), "\n")
    print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
