"""Layer quality without training, each measure against a plain way to compute it or a published property."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.feature_selection import f_classif
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from embedstore.errors import ParameterError
from probes import quality
from probes.layers import Feature


def problem(n: int = 60, dim: int = 8, classes: int = 3, apart: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    """Standardised rows with correlated columns, and classes of different sizes."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()))
    y[:classes] = np.arange(classes)
    x = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + apart * rng.normal(size=(classes, dim))[y]
    return StandardScaler().fit_transform(x), y


def free_rows(n: int) -> Any:
    """Orthonormal rows that are orthogonal to the constant: what is left once the mean is known, shape (n - 1, n)."""
    return np.linalg.svd(np.eye(n) - 1 / n)[2][: n - 1]


@pytest.mark.parametrize("dim", [8, 90])
def test_logme_is_the_evidence_that_scikit_learn_maximises(dim: int) -> None:
    """Bayesian ridge regression without priors on the precisions, on the rows that are left, gives the same evidence."""
    x, y = problem(dim=dim)
    free = free_rows(len(x))
    expected = []
    for number in np.unique(y):
        model = BayesianRidge(
            max_iter=3000,
            tol=1e-9,
            alpha_1=0,
            alpha_2=0,
            lambda_1=0,
            lambda_2=0,
            fit_intercept=False,
            compute_score=True,
        )
        model.fit(free @ x, free @ (y == number))
        expected.append(model.scores_[-1] / len(x))
    assert quality.logme(x, y) == pytest.approx(np.mean(expected), abs=1e-5)


def test_logme_is_a_maximum_over_a_fine_grid() -> None:
    """No pair of precisions, tried one by one in the defining formula, gives more evidence."""
    x, y = problem(n=25, dim=5)
    rows = free_rows(len(x))
    f, best = rows @ x, []
    for number in np.unique(y):
        t = rows @ (y == number)
        tried = []
        for log_alpha, log_beta in np.ndindex(53, 29):
            alpha, beta = np.exp(np.array([log_alpha, log_beta]) / 2 - 6)
            covariance = np.eye(len(t)) / beta + f @ f.T / alpha  # of the targets, the weights integrated out
            _, log_det = np.linalg.slogdet(covariance)
            tried.append(-0.5 * (len(t) * np.log(2 * np.pi) + log_det + t @ np.linalg.solve(covariance, t)))
        best.append(max(tried) / len(x))
    assert np.mean(best) <= quality.logme(x, y) < np.mean(best) + 0.02


@pytest.mark.parametrize("dim", [8, 90])
def test_h_score_is_the_trace_of_its_definition(dim: int) -> None:
    """The shrunk covariances, built in full with scikit-learn's shrinkage, give the same; it stays below n_classes - 1."""
    x, y = problem(dim=dim)
    shrinkage = ledoit_wolf_shrinkage(x, assume_centered=True)
    covariance = x.T @ x / len(x)
    means = np.stack([x[y == number].mean(0) for number in np.unique(y)])[y]
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / dim * np.eye(dim)
    expected = np.trace(np.linalg.solve(shrunk, (1 - shrinkage) * means.T @ means / len(x)))
    assert quality.h_score(x, y) == pytest.approx(expected, rel=1e-9)
    assert 0 < expected < 2


def test_fisher_ratio_is_a_loop_over_classes() -> None:
    """Sums of squares between and within, and for one dimension the F statistic; of tags the mean of two-class ratios."""
    x, y = problem()
    between = sum((y == c).sum() * (x[y == c].mean(0) ** 2).sum() for c in range(3))
    within = sum(((x[y == c] - x[y == c].mean(0)) ** 2).sum() for c in range(3))
    assert quality.fisher_ratio(x, y) == pytest.approx(between / within)
    f = f_classif(x[:, :1], y)[0][0]
    assert quality.fisher_ratio(x[:, :1], y) == pytest.approx(f * 2 / (len(y) - 3))
    tags = np.stack([y == 0, y > 0, y == 2], axis=1).astype(np.int64)
    expected = np.mean([quality.fisher_ratio(x, tag) for tag in tags.T])
    assert quality.fisher_ratio(x, tags) == pytest.approx(expected)


def test_silhouette_is_scikit_learns_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows up to a bound, then a seeded sample that hardly differs; not defined where each row is its own class."""
    x, y = problem(n=500, dim=4)
    expected = silhouette_score(x, y, metric="cosine")
    assert quality.silhouette(x, y) == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(quality, "_MOST_ROWS", 300)
    assert quality.silhouette(x, y) == quality.silhouette(x, y) == pytest.approx(expected, abs=0.05)
    assert quality.silhouette(x, y) != pytest.approx(expected, abs=1e-9)
    assert quality.silhouette(x[:3], np.arange(3)) is None


@pytest.mark.parametrize(("dim", "shape"), [(2, "cube"), (5, "cube"), (2, "sphere"), (5, "sphere")])
def test_intrinsic_dimension_of_a_cube_and_a_sphere(dim: int, shape: str) -> None:
    """TwoNN finds d on d-dimensional shapes laid into 20 dimensions; equal rows change nothing."""
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(1200, dim)) if shape == "cube" else rng.normal(size=(1200, dim + 1))
    points = points if shape == "cube" else points / np.linalg.norm(points, axis=1, keepdims=True)
    x = points @ np.linalg.qr(rng.normal(size=(20, 20)))[0][: points.shape[1]]
    found = quality.intrinsic_dimension(x)
    assert found == pytest.approx(dim, rel=0.12)
    assert quality.intrinsic_dimension(np.concatenate([x, x[:300]])) == pytest.approx(found)


def test_intrinsic_dimension_needs_three_rows() -> None:
    """Two different rows have no second neighbour."""
    assert quality.intrinsic_dimension(np.repeat(np.eye(2), 5, axis=0)) is None


@pytest.mark.parametrize("n", [30, 400])
def test_cka_of_copies_and_of_noise(n: int) -> None:
    """1 for a rotated, scaled copy; about 0 for unrelated layers, also with more dimensions than rows; by its definition."""
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(n, 60)), rng.normal(size=(n, 40))
    layers = [a - a.mean(0) for a in (x, 3 * x @ np.linalg.qr(rng.normal(size=(60, 60)))[0], other)]
    found = quality.cka(layers)
    np.testing.assert_allclose(found[0, 1], 1, atol=1e-5)
    np.testing.assert_allclose(np.diag(found), 1)
    assert abs(found[0, 2]) < 0.12  # the plain estimate of unrelated layers is 0.6 with 30 rows

    def unbiased(a: Any, b: Any) -> float:  # Song et al. 2012, equation 5, as it stands
        k, l_ = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(l_, 0)
        one = np.ones(n)
        middle = (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2))
        return float(np.trace(k @ l_) + middle - 2 / (n - 2) * (one @ k @ l_ @ one))

    expected = unbiased(x, other) / np.sqrt(unbiased(x, x) * unbiased(other, other))
    assert found[0, 2] == pytest.approx(expected, abs=1e-5)


def test_cka_from_rows_and_from_columns_agree() -> None:
    """Both ways to sum the same squares; a constant layer is like nothing."""
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(300, dim)).astype(np.float32) for dim in (5, 9, 13)]
    np.testing.assert_allclose(quality._products_of_rows(layers), quality._products_of_columns(layers), rtol=1e-4)
    assert np.isnan(quality.cka([layers[0], np.zeros((300, 4))])[1]).all()
    with pytest.raises(ParameterError, match="at least 4 tracks; got 3"):
        quality.cka([np.eye(3)])


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_best_layer_ranks_first(seed: int) -> None:
    """Of layers where genres stand apart more and less, the one where they stand apart most wins every supervised measure."""
    layers = []
    for apart in (0.2, 0.4, 1.0, 0.6):
        rng = np.random.default_rng([seed, round(10 * apart)])
        y = np.arange(160) % 4
        layers.append(rng.normal(size=(160, 40)) + apart * np.random.default_rng(seed).normal(size=(4, 40))[y])
    features = [Feature(n, f"layer {n}", x[None].astype(np.float32), (f"layer {n}",)) for n, x in enumerate(layers)]
    found = quality.layer_quality(features, y)["layers"]
    for measure in ("logme", "h_score", "fisher", "silhouette"):
        assert max(found, key=lambda layer, m=measure: found[layer][m]) == 2, measure
    scaled = [StandardScaler().fit_transform(x) for x in layers]
    assert np.argsort(-quality.screen(scaled, y)).tolist() == [2, 3, 1, 0]


def test_everything_is_plain_data_with_tags_and_dead_layers() -> None:
    """With several tags a track two measures are not defined; nor is most of a constant layer; a mix is taken apart."""
    rng = np.random.default_rng(0)
    tags = (rng.random((50, 3)) < 0.4).astype(np.int64)
    tags[:, 2] = 1  # says nothing
    stack = rng.normal(size=(2, 50, 6)).astype(np.float32)
    features = [
        Feature("mix", "mix", stack, ("a", "b")),
        Feature(3, "dead", np.ones((1, 50, 4), np.float32), ("dead",)),
    ]
    found = quality.layer_quality(features, tags)
    assert list(found["layers"]) == found["cka"]["layers"] == ["a", "b", 3]
    assert found["layers"]["a"]["h_score"] is None
    assert found["layers"]["a"]["silhouette"] is None
    assert found["layers"]["a"]["logme"] > found["layers"][3]["logme"] - 0.1
    assert found["layers"][3]["fisher"] == 0
    assert found["layers"][3]["intrinsic_dimension"] is None
    assert found["cka"]["matrix"][2] == [None, None, None]
    assert quality.h_score(np.zeros((4, 3)), np.array([0, 0, 1, 1])) == 0
    with pytest.raises(ParameterError, match="at least 2 genres; all 5 tracks are of one"):
        quality.logme(rng.normal(size=(5, 2)), np.zeros(5, dtype=np.int64))
