"""Probes by name, by dotted path and as objects."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from embedstore.errors import ParameterError, UnknownNameError
from probes.base import Problem, load_probe, predictions, score_one_by_one, score_settings, seeded, settings_of
from probes.testing import toy_problem


def test_dotted_paths_and_objects_are_probes() -> None:
    """Both spellings of a path, and an estimator object, load; one without a grid has one setting."""
    for name in ("sklearn.svm.LinearSVC", "sklearn.svm:LinearSVC"):
        assert type(load_probe(name)).__name__ == "LinearSVC"
    model = make_pipeline(StandardScaler(), SGDClassifier())
    assert load_probe(model) is model
    assert settings_of(model) == ({},)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("logistik", UnknownNameError, "did you mean 'logistic'"),
        ("sklearn.svm.LinearSVCC", UnknownNameError, "no attribute 'LinearSVCC'"),
        ("sklearn.svmm.SVC", UnknownNameError, "No module named 'sklearn.svmm'"),
        ("..x", UnknownNameError, "unknown probe"),
        ("sklearn.svm.SVR", ParameterError, "not a classifier"),
        ("sklearn.metrics.f1_score", ParameterError, "not the class of a classifier"),
        ("sklearn.ensemble.VotingClassifier", ParameterError, "cannot be made without arguments"),
        ("collections.Counter", ParameterError, "not a classifier"),
    ],
)
def test_what_is_no_probe_says_why(name: str, error: type[Exception], message: str) -> None:
    """Unknown names, regressors, functions and classes that need arguments are different, clear errors."""
    with pytest.raises(error, match=message):
        load_probe(name)


def test_a_class_in_place_of_an_object_is_refused() -> None:
    """A notebook user who forgets the parentheses is told."""
    with pytest.raises(ParameterError, match="unfitted classifier object"):
        load_probe(SGDClassifier)


def test_seeds_reach_nested_estimators() -> None:
    """Every random_state is set, on a copy."""
    model = make_pipeline(StandardScaler(), SGDClassifier())
    assert seeded(model, 7).get_params()["sgdclassifier__random_state"] == 7
    assert model.get_params()["sgdclassifier__random_state"] is None


def test_the_default_loop_hands_over_groups() -> None:
    """An estimator whose fit takes groups gets those of the training rows; it need not give itself back."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Counts(ClassifierMixin, BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
            self.n_ = len(np.unique(groups))

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.full(len(X), self.n_)

    problem = Problem(np.zeros((4, 2)), np.array([0, 1, 2, 3]), np.zeros((3, 2)), np.array([5, 5, 6, 7]))
    assert predictions(score_settings(Counts(), [problem], [{}])[0]).tolist() == [[3, 3, 3]]
    assert predictions(score_one_by_one(Counts(), [problem], [{}])[0]).tolist() == [[3, 3, 3]]


def test_a_problem_knows_what_it_teaches() -> None:
    """Classes with rows and tags that vary are taught; the columns of others are -inf, and 0."""
    x, groups = np.zeros((3, 1)), np.arange(3)
    classes = Problem(x, np.array([3, 1, 3]), x, groups, 5)
    assert classes.taught.tolist() == [1, 3]
    assert classes.spread(np.array([[1.0, 2.0]])).tolist() == [[-np.inf, 1, -np.inf, 2, -np.inf]]
    tags = Problem(x, np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]]), x, groups)
    assert tags.taught.tolist() == [2]
    assert tags.spread(np.array([[4.0]])).tolist() == [[0, 0, 4]]


def test_an_svm_by_its_path_scores_by_its_decision_function() -> None:
    """LinearSVC through the default loop: its distances, -inf for the class not shown, its own predictions."""
    problem, _ = toy_problem()
    (scores,) = score_settings(load_probe("sklearn.svm.LinearSVC"), [problem], [{"C": 0.01}, {"C": 1.0}])
    for of_setting, c in zip(scores, (0.01, 1.0), strict=True):
        svm = LinearSVC(C=c).fit(problem.x_train, problem.y_train)
        assert of_setting[:, :3] == pytest.approx(svm.decision_function(problem.x_eval))
        assert (of_setting[:, 3] == -np.inf).all()
        assert (predictions(of_setting) == svm.predict(problem.x_eval)).all()


@pytest.mark.slow
def test_importing_probes_is_light() -> None:
    """`import probes` loads neither scikit-learn nor torch; the lazily loaded names do (so the test can fail)."""
    code = "import sys, probes; print([m in sys.modules for m in ('sklearn', 'torch')]); {}; print('sklearn' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code.format("probes.load_probe('sklearn.dummy.DummyClassifier')")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split("\n")[:2] == ["[False, False]", "True"]
