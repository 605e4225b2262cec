"""The three probes keep scikit-learn's own rules and ours."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.dummy import DummyClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes.base import predict_one_by_one
from probes.knn import KNNProbe
from probes.logistic import LogisticProbe
from probes.mlp import MLPProbe
from probes.testing import check_probe


@pytest.mark.slow
@parametrize_with_checks([KNNProbe(), LogisticProbe(), MLPProbe(hidden=(32,), max_epochs=60, learning_rate=1e-2)])
def test_scikit_learns_estimator_checks(estimator: Any, check: Any) -> None:
    """Every check that scikit-learn has for classifiers passes."""
    check(estimator)


@pytest.mark.parametrize(
    "probe",
    ["knn", "logistic", MLPProbe(hidden=(16,), max_epochs=30, learning_rate=1e-2), "sklearn.naive_bayes.GaussianNB"],
)
def test_probes_keep_the_promises(probe: Any) -> None:
    """Ours, and a scikit-learn classifier through the default loop, pass the suite for plug-in authors."""
    check_probe(probe)


class Forgetful(GaussianNB):
    """Learns well, but its batched way forgets a few rows."""

    def predict_settings(self, problems: Any, settings: Any) -> Any:
        """Predict class 0 where nobody looks."""
        results = predict_one_by_one(self, problems, settings)
        results[0][:, :3] = 0
        return results


def test_the_suite_finds_what_is_broken() -> None:
    """A probe that cannot learn, and one whose batched way differs, are caught by name."""
    with pytest.raises(AssertionError, match="learns a separable toy"):
        check_probe(DummyClassifier())
    with pytest.raises(AssertionError, match="one at a time"):
        check_probe(Forgetful())
