"""A probe is a classifier shaped as in scikit-learn, a grid of settings, and a batched way to try them all.

The sweep hands a probe many problems (layers, folds) and many settings in one call. A probe that can share work between
them (one similarity product for every k, one rotation for every C, one stacked network for every layer) offers
``score_settings``; any other estimator is fitted once for each, by `score_one_by_one`, which is also the oracle of the
fast ones.

Probes answer in scores, one per class or tag, higher is likelier: the highest names the genre (`predictions`), their order
gives average precision, and a temperature turns them into probabilities.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError
from embedstore.registry import known, resolve, unknown_name

__all__ = [
    "BUILTIN",
    "Probe",
    "Problem",
    "at_least_two",
    "both_sides",
    "fit_model",
    "grade",
    "indicators",
    "load_probe",
    "predictions",
    "score_one_by_one",
    "score_settings",
    "seeded",
    "settings_of",
]

BUILTIN = {
    "centroid": "probes.centroid:CentroidProbe",
    "genrenet": "probes.genrenet:GenreNetProbe",
    "knn": "probes.knn:KNNProbe",
    "logistic": "probes.logistic:LogisticProbe",
    "mlp": "probes.mlp:MLPProbe",
    "ridge": "probes.ridge:RidgeProbe",
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
    y_train : int64 array, shape (n_train,), or (n_train, n_classes)
        Class numbers; or for several tags a track, 1 where a tag is given and 0 where it is not.
    x_eval : float64 array, shape (n_eval, dim)
        Scaled with the training part's mean and deviation.
    groups : int64 array, shape (n_train,)
        Rows of one group belong together: a probe that holds rows out for itself never divides a group.
    n_classes : int
        Classes or tags of the task; some may be missing in this training part. 0: as many as `y_train` shows.
    """

    x_train: Matrix
    y_train: Ints
    x_eval: Matrix
    groups: Ints
    n_classes: int = 0

    def __post_init__(self) -> None:
        if not self.n_classes:
            shown = self.y_train.shape[1] if self.multilabel else int(self.y_train.max(initial=-1)) + 1
            object.__setattr__(self, "n_classes", shown)

    @property
    def multilabel(self) -> bool:
        """Whether a row may have several tags."""
        return self.y_train.ndim == 2

    @property
    def taught(self) -> Ints:
        """Numbers of the classes that training rows have; of the tags that some of them have and some lack."""
        y = self.y_train
        return np.flatnonzero(y.any(0) & ~y.all(0)) if self.multilabel else np.unique(y)

    def spread(self, scores: Matrix) -> Matrix:
        """Put scores of what is taught, shape (..., n_taught), in their columns, shape (..., n_classes).

        A class that is not taught scores -inf, a tag 0.
        """
        full = np.full((*scores.shape[:-1], self.n_classes), 0.0 if self.multilabel else -np.inf)
        full[..., self.taught] = scores
        return full

    def __repr__(self) -> str:
        return f"Problem(train {self.x_train.shape}, eval {self.x_eval.shape})"


class Probe(Protocol):
    """What the sweep needs of a probe: any scikit-learn classifier has it.

    A probe may also have ``grid`` (a sequence of settings, from the most to the least regularised: the first of equals
    is chosen), ``inner_folds`` (2 when fits are costly; default: every fold left over) and
    ``score_settings(problems, settings)``, which gives for each problem a float64 array (n_settings, n_eval, n_classes):
    higher is likelier, -inf for a class that the training part lacks. One that offers it and sets ``multilabel = True``
    also takes problems with several tags a row; for all others one copy is fitted per tag.

    A ``fit`` with a parameter ``groups`` gets the groups of the rows, see `Problem`. A ``score_left_out`` as `probes.knn`
    has it makes ``--split loo`` possible. A built-in probe is saved by its ``state()``, a dict of arrays that with the
    parameters and classes are all it learned; ``load_state(arrays)`` takes them into an unfitted copy, on which whoever
    restores has set ``classes_`` and ``n_features_in_``.
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
    embedstore.errors.UnknownNameError: unknown probe 'knm'; did you mean 'knn'? known: centroid, genrenet, knn, logistic, mlp, ridge
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


def score_settings(probe: Any, problems: Iterable[Problem], settings: Sequence[Setting]) -> list[Matrix]:
    """Fit every setting on every problem and score its evaluation rows.

    Returns
    -------
    list of float64 arrays, each shape (n_settings, n_eval, n_classes)
        One per problem; higher is likelier.
    """
    batched = getattr(probe, "score_settings", None)
    problems = iter(problems)  # a sweep makes them as they are asked for
    first = next(problems, None)
    if first is None:
        return []
    if batched is None or (first.multilabel and not getattr(probe, "multilabel", False)):
        batched = partial(score_one_by_one, probe)
    return list(batched(chain([first], problems), settings))


def score_one_by_one(probe: Any, problems: Iterable[Problem], settings: Sequence[Setting]) -> list[Matrix]:
    """Do what `score_settings` does with one fit for each problem and setting (and tag): the plain twin."""
    return [np.stack([_score(probe, problem, setting) for setting in settings]) for problem in problems]


def _score(probe: Any, problem: Problem, setting: Setting) -> Matrix:
    from sklearn.base import clone

    if problem.multilabel:
        return np.stack([_score_tag(probe, problem, tag, setting) for tag in range(problem.n_classes)], axis=1)
    model = fit_model(clone(probe).set_params(**setting), problem.x_train, problem.y_train, problem.groups)
    scores = problem.spread(grade(model, problem.x_eval, problem.taught))
    chosen = np.asarray(model.predict(problem.x_eval), dtype=np.int64)
    at_odds = np.flatnonzero(predictions(scores) != chosen)  # its own word counts: a threshold, a rule for ties
    scores[at_odds, chosen[at_odds]] = np.nextafter(scores[at_odds].max(1), np.inf)
    return scores


def fit_model(model: Any, x: Matrix, y: Ints, groups: Ints) -> Any:
    """Fit a classifier, and tell it the groups of the rows if it asks for them."""
    extra = {"groups": groups} if "groups" in inspect.signature(model.fit).parameters else {}
    model.fit(x, y, **extra)  # a plug-in's may give nothing back
    return model


def grade(model: Any, x: Matrix, classes: Ints) -> Matrix:
    """Take the finest scores that a classifier of `classes` has, shape (n, n_classes)."""
    for method in ("decision_function", "predict_proba"):
        if hasattr(model, method):
            scores = np.asarray(getattr(model, method)(x), dtype=np.float64)
            return both_sides(scores) if scores.ndim == 1 else scores
    return indicators(model.predict(x), classes)


def both_sides(margin: Matrix) -> Matrix:
    """Score two classes, shape (..., 2), by their difference, shape (...): the log-odds, where there are any."""
    return np.stack([-margin, margin], axis=-1) / 2


def indicators(y: Ints, classes: Ints) -> Matrix:
    """Write which of `classes` each row has, shape (n, n_classes): 0 or 1, from class numbers or from all tags."""
    return np.asarray(y[:, classes] if y.ndim == 2 else y[:, None] == classes, dtype=np.float64)


def at_least_two(classes: Ints) -> None:
    """Refuse a training part with nothing to tell apart."""
    if len(classes) < 2:
        raise ParameterError("a classifier needs at least 2 classes; the training rows have one class")


def _score_tag(probe: Any, problem: Problem, tag: int, setting: Setting) -> Matrix:
    """Score one tag against its absence, shape (n_eval,); 0 for a tag that all or no training rows have."""
    given = problem.y_train[:, tag]
    if given.min() == given.max():
        return np.zeros(len(problem.x_eval))
    scores = _score(probe, Problem(problem.x_train, given, problem.x_eval, problem.groups), setting)
    return np.asarray(scores[:, 1] - scores[:, 0])


def predictions(scores: Matrix) -> Ints:
    """Name the class with the highest score, shape (...,); the first of equals."""
    return np.asarray(scores.argmax(-1), dtype=np.int64)
