"""Our probes keep scikit-learn's own rules and ours, and answer as scikit-learn does on its real data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes.base import Problem, predictions, score_one_by_one, score_settings
from probes.centroid import CentroidProbe
from probes.genrenet import GenreNetProbe
from probes.knn import KNNProbe
from probes.logistic import LogisticProbe
from probes.mlp import MLPProbe
from probes.ridge import RidgeProbe
from probes.testing import check_probe


@pytest.mark.slow
@parametrize_with_checks(
    [
        CentroidProbe(),
        CentroidProbe("cosine"),
        KNNProbe(),
        KNNProbe(20, "l2", 0.07),
        LogisticProbe(),
        LogisticProbe(device="cpu:0"),
        MLPProbe(hidden=(32,), max_epochs=60, learning_rate=1e-2),
        GenreNetProbe(hidden=32, batch_size=16, learning_rate=1e-2),
        RidgeProbe(),
    ]
)
def test_scikit_learns_estimator_checks(estimator: Any, check: Any) -> None:
    """Every check that scikit-learn has for classifiers passes."""
    check(estimator)


@pytest.mark.parametrize(
    "probe",
    [
        "knn",
        "logistic",
        "ridge",
        "centroid",
        MLPProbe(hidden=(16,), max_epochs=30, learning_rate=1e-2),
        "sklearn.naive_bayes.GaussianNB",
        "sklearn.svm.LinearSVC",
    ],
)
def test_probes_keep_the_promises(probe: Any) -> None:
    """Ours, and scikit-learn's classifiers through the default loop, pass the suite for plug-in authors."""
    check_probe(probe)


class Broken(KNNProbe):
    """Learns well, but breaks one promise."""

    grid = ({"n_neighbors": 5},)
    fault = ""

    @classmethod
    def by(cls, fault: str) -> KNNProbe:
        """Make one with a fault."""
        return type("Broken", (cls,), {"fault": fault})()

    def state(self) -> dict[str, Any]:
        """Leave the state as it is, or keep names in it."""
        return super().state() | ({"names": np.array(["a"])} if self.fault == "names" else {})

    def load_state(self, arrays: Any) -> Any:
        """Load the state, or lose the classes."""
        return super().load_state(arrays | ({"y": arrays["y"] * 0} if self.fault == "load" else {}))

    def score_settings(self, problems: Any, settings: Any) -> Any:
        """Score as the default loop does, then spoil it."""
        results = score_one_by_one(KNNProbe(), problems, settings)
        for scores in results:
            tags = scores.shape[1] == 60 and not np.isinf(scores).any()
            if self.fault == "rows":
                scores[:, :3, 0] = 9
            elif self.fault == "infinite":
                scores[..., 3] = -9
            elif self.fault == "tags" and tags:
                scores[..., 1] = scores[..., 1].round()
            elif self.fault == "no tag" and tags:
                scores[..., 3] = 1
        return results


@pytest.mark.parametrize(
    ("probe", "broken"),
    [
        (DummyClassifier(), "learns a separable toy"),
        (Broken.by("rows"), "one at a time"),
        (Broken.by("infinite"), "not shown -inf"),
        (Broken.by("tags"), "ranked as one at a time"),
        (Broken.by("no tag"), "that no training row has"),
        (Broken.by("names"), "arrays of numbers"),
        (Broken.by("load"), "alike from its state"),
    ],
)
def test_the_suite_finds_what_is_broken(probe: Any, broken: str) -> None:
    """Each broken promise is caught by name."""
    check_probe(Broken())
    with pytest.raises(AssertionError, match=broken):
        check_probe(probe)


def splits(load: Any) -> Any:
    """Twenty halves of a data set, scaled by the training half."""
    x, y = load(return_X_y=True)
    for seed in range(20):
        train, test, y_train, y_test = train_test_split(x, y, train_size=0.5, stratify=y, random_state=seed)
        scaler = StandardScaler().fit(train)
        x_train, x_test = scaler.transform(train), scaler.transform(test)
        yield Problem(x_train, y_train, x_test, np.arange(len(y_train))), y_test


def fitted(model: Any, problem: Problem) -> Any:
    return model.fit(problem.x_train, problem.y_train)


def objective(model: Any, c: float, x: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's: C times the summed cross-entropy, plus half the squared weights."""
    shares = model.predict_proba(x)[np.arange(len(y)), y]
    return float(-c * np.log(np.maximum(shares, 1e-300)).sum() + 0.5 * (model.coef_**2).sum())


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_digits, load_wine, load_breast_cancer])
class TestRealData:
    """Digits, wine, breast cancer: twenty seeds each."""

    def test_neighbours(self, load: Any) -> None:
        """Every k of 1..10, both metrics: the shares of votes, and the class unless votes are tied."""
        for metric, theirs in (("cosine", "cosine"), ("l2", "euclidean")):
            grid = [{"n_neighbors": k, "metric": metric} for k in range(1, 11)]
            for problem, _ in splits(load):
                (scores,) = score_settings(KNNProbe(), [problem], grid)
                plain = fitted(KNeighborsClassifier(metric=theirs), problem)
                for k, ours in enumerate(scores, 1):
                    shares = plain.set_params(n_neighbors=k).predict_proba(problem.x_eval)
                    assert ours == pytest.approx(shares, abs=1e-8)
                    top = np.sort(shares, axis=1)[:, -2:]
                    clear = top[:, 1] > top[:, 0]
                    assert (predictions(ours) == shares.argmax(1))[clear].all()

    def test_logistic(self, load: Any) -> None:
        """Each C of the grid: no worse than scikit-learn's best by 1e-6, the same predictions, the same macro-F1."""
        for problem, truth in splits(load):
            (scores,) = score_settings(LogisticProbe(), [problem], LogisticProbe.grid)
            for setting, ours in zip(LogisticProbe.grid, scores, strict=True):
                plain = fitted(LogisticRegression(**setting, tol=1e-8, max_iter=20_000), problem)
                best = objective(plain, setting["C"], problem.x_train, problem.y_train)
                model = fitted(LogisticProbe(**setting), problem)
                assert objective(model, setting["C"], problem.x_train, problem.y_train) < best * (1 + 1e-6)
                theirs, chosen = plain.predict(problem.x_eval), predictions(ours)
                assert (chosen == theirs).mean() > 0.998
                f1 = [f1_score(truth, each, average="macro") for each in (chosen, theirs)]
                assert f1[0] == pytest.approx(f1[1], abs=0.005)

    def test_ridge(self, load: Any) -> None:
        """Each alpha of the grid: the same predictions, and the same objective to 1e-10."""
        for problem, _ in splits(load):
            (scores,) = score_settings(RidgeProbe(), [problem], RidgeProbe.grid)
            for setting, ours in zip(RidgeProbe.grid, scores, strict=True):
                plain, model = fitted(RidgeClassifier(**setting), problem), fitted(RidgeProbe(**setting), problem)
                assert (predictions(ours) == plain.predict(problem.x_eval)).all()
                losses = []
                for each in (plain, model):
                    z = each.decision_function(problem.x_train)
                    target = 2 * (np.eye(len(each.classes_))[problem.y_train] if z.ndim == 2 else problem.y_train) - 1
                    losses.append(((z - target) ** 2).sum() + setting["alpha"] * (each.coef_**2).sum())
                assert losses[1] == pytest.approx(losses[0], rel=1e-10)

    @pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")
    def test_centroid(self, load: Any) -> None:
        """Euclidean: the same predictions."""
        for problem, _ in splits(load):
            (scores,) = score_settings(CentroidProbe(), [problem], [{"metric": "l2"}])
            assert (predictions(scores[0]) == fitted(NearestCentroid(), problem).predict(problem.x_eval)).all()
