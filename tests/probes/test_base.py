"""Probes by name, by dotted path and as objects."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedstore.errors import ParameterError, UnknownNameError
from probes.base import Problem, load_probe, predict_one_by_one, predict_settings, seeded, settings_of


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
    """An estimator whose fit takes groups gets those of the training rows."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Counts(ClassifierMixin, BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Counts:
            self.n_ = len(np.unique(groups))
            return self

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.full(len(X), self.n_)

    problem = Problem(np.zeros((4, 2)), np.array([0, 0, 1, 1]), np.zeros((3, 2)), np.array([5, 5, 6, 7]))
    assert predict_settings(Counts(), [problem], [{}])[0].tolist() == [[3, 3, 3]]
    assert predict_one_by_one(Counts(), [problem], [{}])[0].tolist() == [[3, 3, 3]]


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
