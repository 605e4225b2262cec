"""Claim: layers are measured without training in a fraction of a probe's time, to the value of the plain formulas.

Per layer of 1,400 tracks x 768: LogME, the H-score, Fisher ratio, linear CKA of 13 layers, each against the formula as it is
printed in its paper (loops over classes and iterations, full inverses, Gram matrices pair by pair). With --store: how well
each measure ranks a store's layers, by Spearman's correlation with the macro-F1 of the logistic probe.

Run: python benchmarks/probe_quality.py [--repeats 3] [--store DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import header, side_by_side, table
from sklearn.covariance import ledoit_wolf
from threadpoolctl import threadpool_limits

from probes import quality


def synthetic(layer: int, n: int = 1400, dim: int = 768, n_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Make a standardised layer in which a few axes hold most of the variance and classes differ along all."""
    rng = np.random.default_rng(layer)
    y, spread = np.arange(n) % n_classes, np.logspace(0, -2, dim)
    x = rng.normal(size=(n, dim)) * spread + 0.05 * layer * (rng.normal(size=(n_classes, dim)) * spread**0.7)[y]
    x @= np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (x - x.mean(0)) / x.std(0), y


def plain_logme(x: np.ndarray, y: np.ndarray) -> float:
    """Iterate the fixed point of You et al. 2021, algorithm 1, class by class; classes centred, n - 1 rows free."""
    n, dim = x.shape
    gram, scores = x.T @ x, []
    values = np.linalg.eigvalsh(gram)
    for number in np.unique(y):
        t = (y == number) - (y == number).mean()
        alpha = beta = 1.0
        for _ in range(30):
            m = beta * np.linalg.solve(alpha * np.eye(dim) + beta * gram, x.T @ t)
            gamma = (beta * values / (alpha + beta * values)).sum()
            error = ((t - x @ m) ** 2).sum()
            before, alpha, beta = alpha / beta, gamma / (m @ m), (n - 1 - gamma) / error
            if abs(before * beta / alpha - 1) < 1e-3:
                break
        m = beta * np.linalg.solve(alpha * np.eye(dim) + beta * gram, x.T @ t)
        log_det = np.linalg.slogdet(alpha * np.eye(dim) + beta * gram)[1]
        fit = beta * ((t - x @ m) ** 2).sum() + alpha * (m @ m) + log_det
        scores.append(0.5 * (dim * np.log(alpha) + (n - 1) * np.log(beta / (2 * np.pi)) - fit) / n)
    return float(np.mean(scores))


def plain_h_score(x: np.ndarray, y: np.ndarray) -> float:
    covariance, shrinkage = ledoit_wolf(x, assume_centered=True)
    means = np.stack([x[y == number].mean(0) for number in np.unique(y)])[y]
    return float(np.trace(np.linalg.inv(covariance) @ ((1 - shrinkage) * means.T @ means / len(x))))


def plain_fisher(x: np.ndarray, y: np.ndarray) -> float:
    between = sum((y == c).sum() * (x[y == c].mean(0) ** 2).sum() for c in np.unique(y))
    within = sum(((x[y == c] - x[y == c].mean(0)) ** 2).sum() for c in np.unique(y))
    return float(between / within)


def plain_cka(layers: list[np.ndarray]) -> np.ndarray:
    """Compare pair by pair, with the unbiased estimate of Song et al. 2012, equation 5."""
    n = len(layers[0])

    def likeness(a: np.ndarray, b: np.ndarray) -> float:
        k, l_ = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(l_, 0)
        return float((k * l_).sum() + k.sum() * l_.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l_.sum(0)))

    found = np.array([[likeness(a, b) for b in layers] for a in layers])
    own = np.diag(found)
    return found / np.sqrt(np.outer(own, own))


def speed(repeats: int) -> list[tuple[str, ...]]:
    x, y = synthetic(6)
    layers = [synthetic(number)[0] for number in range(13)]
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "LogME": (lambda: quality.logme(x, y), lambda: plain_logme(x, y)),
        "H-score": (lambda: quality.h_score(x, y), lambda: plain_h_score(x, y)),
        "Fisher ratio": (lambda: quality.fisher_ratio(x, y), lambda: plain_fisher(x, y)),
        "CKA, 13 layers": (lambda: quality.cka(layers), lambda: plain_cka(layers)),
    }
    rows = []
    for name, (ours, plain) in pairs.items():
        times = side_by_side({"ours": ours, "plain": plain}, times=repeats)
        apart = np.abs(np.asarray(ours()) - np.asarray(plain())).max()
        ratio = f"{times['plain'].over(times['ours']):.1f} x"
        rows.append((name, str(times["ours"]), str(times["plain"]), ratio, f"{apart:.0e}"))
    for name, run in {
        "silhouette": lambda: quality.silhouette(x, y),
        "intrinsic dimension": lambda: quality.intrinsic_dimension(x),
    }.items():
        rows.append((name, str(side_by_side({"": run}, times=repeats)[""]), "", "", ""))
    return rows


def ranking(folder: str) -> list[tuple[str, ...]]:
    from scipy.stats import spearmanr

    from embedstore import EmbeddingStore
    from probes import evaluate

    report = evaluate(EmbeddingStore.open(folder), "logistic", quality=True, resamples=100)
    scores = [result.main.value for result in report.results]
    measured = report.quality["layers"]
    rows = []
    for name in next(iter(measured.values())):
        values = [of[name] for of in measured.values()]
        first = report.results[int(np.argmax(values))]
        rank = sorted(scores, reverse=True).index(first.main.value) + 1
        rows.append((name, f"{spearmanr(values, scores).statistic:.2f}", f"{first.layer} ({rank} of {len(scores)})"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--store", help="rank the layers of this labelled store, too")
    options = parser.parse_args()
    print(f"{header('numpy', 'scipy', 'scikit-learn')}; 1 thread; 1,400 tracks x 768, 10 genres\n")
    with threadpool_limits(1):
        print(table(["measure", "ours", "as printed", "plain / ours", "largest difference"], speed(options.repeats)))
    if options.store:
        columns = ["measure", "rank correlation with the logistic probe", "its best layer (place by the probe)"]
        print("\n" + table(columns, ranking(options.store)))


if __name__ == "__main__":
    main()
