"""A probe is a classifier shaped as in scikit-learn, a grid of settings, and a batched way to try them all.

The sweep hands a probe many problems (layers, folds) and many settings in one call. A probe that can share work between
them (one similarity product for every k, one rotation for every C, one stacked network for every layer) offers
``predict_settings``; any other estimator is fitted once for each, by `predict_one_by_one`, which is also the oracle of
the fast ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from embedstore.registry import known, resolve, unknown_name

__all__ = [
    "BUILTIN",
    "Probe",
    "Problem",
    "load_probe",
    "predict_one_by_one",
    "predict_settings",
    "seeded",
    "settings_of",
]

BUILTIN = {
    "knn": "probes.knn:KNNProbe",
    "logistic": "probes.logistic:LogisticProbe",
    "mlp": "probes.mlp:MLPProbe",
}

Ints = NDArray[np.int64]
Matrix = NDArray[np.float64]
Setting = Mapping[str, Any]


@dataclass(frozen=True, repr=False, eq=False)
class Problem:
    """One training part and the rows to predict.

    Attributes
    ----------
    x_train : float64 array, shape (n_train, dim)
        Already scaled with the mean and deviation of these very rows.
    y_train : int64 array, shape (n_train,)
        Class numbers.
    x_eval : float64 array, shape (n_eval, dim)
        Scaled with the training part's mean and deviation.
    groups : int64 array, shape (n_train,)
        Rows of one group belong together: a probe that holds rows out for itself never divides a group.
    """

    x_train: Matrix
    y_train: Ints
    x_eval: Matrix
    groups: Ints

    def __repr__(self) -> str:
        return f"Problem(train {self.x_train.shape}, eval {self.x_eval.shape})"


class Probe(Protocol):
    """What the sweep needs of a probe: any scikit-learn classifier has it.

    A probe may also have ``grid`` (a sequence of settings, from the most to the least regularised: the first of equals
    is chosen), ``inner_folds`` (2 when fits are costly; default: every fold left over) and
    ``predict_settings(problems, settings)``, which gives for each problem an int64 array (n_settings, n_eval).
    """

    def fit(self, X: Matrix, y: Ints) -> Any:  # noqa: N803  # scikit-learn's name
        """Learn from rows, shape (n, dim), and class numbers, shape (n,)."""

    def predict(self, X: Matrix) -> Ints:  # noqa: N803
        """Give class numbers, shape (n,)."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give the settings."""

    def set_params(self, **params: Any) -> Any:
        """Change settings."""


def load_probe(probe: str | Probe) -> Any:
    """Make a probe from its name, from the dotted path of a classifier, or from an estimator.

    Parameters
    ----------
    probe : str or estimator
        ``"knn"``, ``"logistic"``, ``"mlp"``, the name of a plug-in, ``"sklearn.svm.LinearSVC"``,
        ``"package.module:Class"``, or an unfitted estimator.

    Raises
    ------
    UnknownNameError
        Neither known nor importable; the message holds the known names and the closest.
    ParameterError
        What was imported is not a classifier that can be made without arguments.

    Examples
    --------
    >>> load_probe("sklearn.naive_bayes.GaussianNB")
    GaussianNB()
    >>> load_probe("knm")
    Traceback (most recent call last):
        ...
    embedstore.errors.UnknownNameError: unknown probe 'knm'; did you mean 'knn'? known: knn, logistic, mlp
    """
    if not isinstance(probe, str):
        if inspect.isclass(probe) or not _is_classifier(probe):
            raise ParameterError(f"a probe is a name or an unfitted classifier object; got {probe!r}")
        return probe
    made = resolve("probes", BUILTIN, _target(probe))
    if not inspect.isclass(made):
        raise ParameterError(f"{probe!r} is {type(made).__name__} {made!r}, not the class of a classifier")
    try:
        estimator = made()
    except TypeError as error:
        raise ParameterError(
            f"{probe!r} cannot be made without arguments ({error}); pass an estimator object"
        ) from error
    if not _is_classifier(estimator):
        raise ParameterError(f"{probe!r} is not a classifier with fit, predict, get_params and set_params")
    return estimator


def _target(name: str) -> str:
    """Write ``package.module.Class`` the way the registry reads it."""
    names = known("probes", BUILTIN)
    module, _, attribute = name.replace(":", ".").rpartition(".")
    if name in names or not module:
        return name
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise unknown_name("probe", name, names)
    return f"{module}:{attribute}"


def _is_classifier(estimator: Any) -> bool:
    from sklearn.base import is_classifier

    if not all(hasattr(estimator, method) for method in ("fit", "predict", "get_params", "set_params")):
        return False
    # a plug-in may have the four methods without being of scikit-learn's class tree
    return not hasattr(estimator, "__sklearn_tags__") or bool(is_classifier(estimator))


def seeded(probe: Any, seed: int) -> Any:
    """Copy a probe, unfitted, with `seed` in each ``random_state`` that it has."""
    from sklearn.base import clone

    copy = clone(probe)
    states = [name for name in copy.get_params() if name.split("__")[-1] == "random_state"]
    return copy.set_params(**dict.fromkeys(states, seed))


def settings_of(probe: Any) -> tuple[dict[str, Any], ...]:
    """List the settings to choose from; one empty setting (the defaults) for an estimator without a grid."""
    return tuple(dict(setting) for setting in getattr(probe, "grid", [{}]))


def predict_settings(probe: Any, problems: Iterable[Problem], settings: Sequence[Setting]) -> list[Ints]:
    """Fit every setting on every problem and predict its evaluation rows.

    Returns
    -------
    list of int64 arrays, each shape (n_settings, n_eval)
        One per problem: predicted class numbers.
    """
    batched = getattr(probe, "predict_settings", None)
    return list(batched(problems, settings)) if batched else predict_one_by_one(probe, problems, settings)


def predict_one_by_one(probe: Any, problems: Iterable[Problem], settings: Sequence[Setting]) -> list[Ints]:
    """Do what `predict_settings` does with one fit for each problem and setting: the plain twin."""
    from sklearn.base import clone

    takes_groups = "groups" in inspect.signature(probe.fit).parameters
    results = []
    for problem in problems:
        extra = {"groups": problem.groups} if takes_groups else {}
        models = [clone(probe).set_params(**setting) for setting in settings]
        fitted = [model.fit(problem.x_train, problem.y_train, **extra) for model in models]
        results.append(np.stack([model.predict(problem.x_eval) for model in fitted]).astype(np.int64))
    return results
