"""Claim: 10,000 resamples of 13 layers take a fraction of a second, at least 500 times less than a loop over f1_score.

Ours (`probes.statistics`, `probes.significance`) against the loop that people write: draw artists, take their tracks, score
each layer with scikit-learn; for the test: swap the predictions of random artists between two layers and score both. Same
resamples, same swaps, so that the results must agree. The loops run on fewer resamples, their time is multiplied; ours also
gives accuracy and balanced accuracy. Rankings (several tags a track) are compared with a loop over average_precision_score.

Run: python benchmarks/probe_bootstrap.py [--repeats 5] [--loop 20]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, header, side_by_side, table, verdict
from sklearn.metrics import average_precision_score, f1_score
from threadpoolctl import threadpool_limits

from probes.significance import paired_tests
from probes.statistics import cluster_bootstrap, cluster_bootstrap_tags, resample_counts

RESAMPLES, LAYERS, TRACKS, ARTISTS, GENRES, TAGS = 10_000, 13, 1400, 450, 10, 10
LAST = [(LAYERS - 1, other) for other in range(LAYERS - 1)]


def corpus() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make genres, artists, and what 13 layers say: better ones further up. The same as tags and scores."""
    rng = np.random.default_rng(0)
    groups = np.sort(np.concatenate([np.arange(ARTISTS), rng.integers(ARTISTS, size=TRACKS - ARTISTS)]))
    y = groups % GENRES
    right = rng.random((LAYERS, 1, TRACKS)) < np.linspace(0.3, 0.6, LAYERS)[:, None, None]
    predictions = np.where(right, y, rng.integers(GENRES, size=(LAYERS, 1, TRACKS)))
    tags = np.eye(TAGS, dtype=np.int64)[y] | (rng.random((TRACKS, TAGS)) < 0.05)
    scores = (tags + rng.normal(size=(LAYERS, 1, TRACKS, TAGS))).astype(np.float32)
    return y, predictions, groups, tags, scores


def drawn(groups: np.ndarray, resamples: int) -> list[np.ndarray]:
    """Draw the artists as ours does, and write the numbers of their tracks as often as they came."""
    counts = resample_counts(ARTISTS, resamples, np.random.default_rng([0, 0xB007]))
    return [np.repeat(np.arange(TRACKS), one[groups]) for one in counts]


def swaps(groups: np.ndarray, resamples: int) -> np.ndarray:
    """Draw the swaps of ours."""
    return np.random.default_rng([0, 0x5AAB]).integers(2, size=(resamples, ARTISTS))[:, groups] == 1


def macro(y: np.ndarray, p: np.ndarray) -> float:
    return f1_score(y, p, average="macro", labels=np.unique(y), zero_division=0)


def loop_f1(y: np.ndarray, p: np.ndarray, groups: np.ndarray, resamples: int) -> np.ndarray:
    return np.array([[macro(y[rows], one[0, rows]) for one in p] for rows in drawn(groups, resamples)])


def loop_map(y: np.ndarray, scores: np.ndarray, groups: np.ndarray, resamples: int) -> np.ndarray:
    return np.array(
        [[average_precision_score(y[rows], one[0, rows]) for one in scores] for rows in drawn(groups, resamples)]
    )


def loop_test(y: np.ndarray, p: np.ndarray, groups: np.ndarray, resamples: int) -> np.ndarray:
    found = []
    for a, b in LAST:
        least = abs(macro(y, p[a, 0]) - macro(y, p[b, 0])) - 1e-9
        both = [(np.where(s, p[b, 0], p[a, 0]), np.where(s, p[a, 0], p[b, 0])) for s in swaps(groups, resamples)]
        found.append((1 + sum(abs(macro(y, one) - macro(y, other)) >= least for one, other in both)) / (resamples + 1))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loop", type=int, default=20, help="resamples that the loops make")
    options = parser.parse_args()
    y, p, groups, tags, scores = corpus()
    few, many = options.loop, {"bootstrap": RESAMPLES, "paired tests": RESAMPLES, "bootstrap of rankings": 1000}
    ours: dict[str, Callable[[int], np.ndarray]] = {
        "bootstrap": lambda n: cluster_bootstrap(y, p, groups, n_classes=GENRES, resamples=n)["macro_f1"],
        "paired tests": lambda n: paired_tests(y, p, groups, LAST, resamples=n),
        "bootstrap of rankings": lambda n: cluster_bootstrap_tags(tags, scores, groups, resamples=n)["map"],
    }
    loops: dict[str, Callable[[int], np.ndarray]] = {
        "bootstrap": lambda n: loop_f1(y, p, groups, n),
        "paired tests": lambda n: loop_test(y, p, groups, n),
        "bootstrap of rankings": lambda n: loop_map(tags, scores, groups, n),
    }
    with threadpool_limits(1):
        runs = {("ours", name): lambda name=name: ours[name](many[name]) for name in ours}
        runs |= {("loop", name): lambda name=name: loops[name](few) for name in loops}
        times = side_by_side(runs, times=options.repeats)
        lines, verdicts = [], []
        for name, total in many.items():
            scale = total / few
            ratio = scale * times["loop", name].over(times["ours", name])
            apart = np.abs(ours[name](few) - loops[name](few)).max()
            loop = f"{times['loop', name].median * scale:.0f} s"
            lines.append([name, f"{total:,}", str(times["ours", name]), loop, f"{ratio:,.0f} x", f"{apart:.0e}"])
            if name != "bootstrap of rankings":
                verdicts.append(verdict(f"{name}: times faster than the loop", ratio, at_least=500))
    print(f"{header('numpy', 'scipy', 'scikit-learn')}; 1 thread")
    print(
        f"{LAYERS} layers, {TRACKS} tracks of {ARTISTS} artists, {GENRES} genres or {TAGS} tags; {len(LAST)} pairs of layers;"
    )
    print(f"the loops made {few} resamples, their times are multiplied\n")
    print(table(["work", "resamples", "ours", "loop, scaled", "faster", "largest difference"], lines))
    print("\n" + table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
