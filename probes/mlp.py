"""A multilayer perceptron in torch, with early stopping on whole groups of its own training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from embedstore.errors import ParameterError
from probes.base import Matrix, Problem, Setting, at_least_two, both_sides
from probes.classifier import Classifier
from probes.networks import Member, Recipe, Trained, logits_of, train
from probes.splits import hold_out

__all__ = ["MLPProbe", "NetworkProbe"]

_STACK = 32  # networks that train side by side: more only take more memory


class NetworkProbe(Classifier):
    """What probes that train networks share; a probe gives the `Recipe` of its settings.

    With several tags a row (`y` of shape (n, n_tags), zeros and ones) each tag is an output of one network.

    Attributes
    ----------
    weights_ : dict of float32 arrays
        As in torch: ``"0.weight"`` has shape (width, dim).
    n_iter_ : int
        Epochs of training that the weights had; 0 if the very first diverged, of which a warning tells.
    several_ : bool
        Whether it learned several tags a row.
    """

    def _recipe(self) -> Recipe:
        raise NotImplementedError

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:  # noqa: N803
        """Train on rows X, shape (n, dim), and classes y, shape (n,), or tags; `groups`, shape (n,), are held out whole."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True)  # noqa: N806
        self.several_ = np.ndim(y) == 2 and y.shape[1] > 1
        if self.several_:
            self.classes_, y = np.arange(y.shape[1]), y.astype(np.int64)
        else:
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
            self.classes_, y = np.unique(y, return_inverse=True)
        groups = np.arange(len(y)) if groups is None else np.asarray(groups)
        self._take(*train(list(_members([self], Problem(X, y, X[:0], groups), {}))))
        return self

    def _take(self, trained: Trained) -> None:
        self.weights_, self.n_iter_ = dict(trained.weights), trained.epochs

    def decision_function(self, X: Any) -> Matrix:  # noqa: N803
        """Logits, shape (n_eval, n_classes); of two classes the difference, shape (n_eval,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 and not self.several_ else logits

    def predict_proba(self, X: Any) -> Matrix:  # noqa: N803
        """Probabilities, shape (n_eval, n_classes); with several tags a row each its own."""
        from scipy.special import expit, softmax

        logits = self._logits(X)
        return np.asarray(expit(logits) if self.several_ else softmax(logits, axis=1))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Class of each row, shape (n_eval,); with several tags a row zeros and ones, shape (n_eval, n_tags)."""
        check_is_fitted(self)
        return (self._logits(X) > 0).astype(np.int64) if self.several_ else super().predict(X)

    def _logits(self, X: Any) -> Matrix:  # noqa: N803
        return logits_of(self._rows(X), self.weights_)

    def score_settings(self, problems: Iterable[Problem], settings: Sequence[Setting]) -> Iterator[Matrix]:
        """Score with every setting; problems and settings of one shape train side by side."""
        probes = [clone(self).set_params(**setting) for setting in settings]
        problems, held = iter(problems), dict[Any, torch.Tensor]()
        while some := list(islice(problems, max(1, _STACK // len(probes)))):
            trained = iter(train([member for problem in some for member in _members(probes, problem, held)]))
            for problem in some:
                networks = islice(trained, len(probes))
                yield np.stack([_scores(logits_of(problem.x_eval, n.weights), problem) for n in networks])

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays that, with the parameters and `classes_`, are the fitted probe."""
        check_is_fitted(self)
        return self.weights_ | {"several": np.array(self.several_), "n_iter": np.array(self.n_iter_)}

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take over what `state` gave."""
        weights = {name: np.asarray(array) for name, array in arrays.items() if "." in name}
        self.several_ = bool(arrays["several"])
        self._take(Trained(weights, int(arrays["n_iter"])))
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = tags.target_tags.multi_output = True
        return tags


def _members(probes: Sequence[NetworkProbe], problem: Problem, known: dict[Any, torch.Tensor]) -> Iterator[Member]:
    """Make one member for each probe, all on the same rows; what was held out of the same rows before is `known`."""
    x = torch.from_numpy(problem.x_train.astype(np.float32))
    if problem.multilabel:
        if not np.isin(problem.y_train, (0, 1)).all():
            raise ParameterError("several tags a row are zeros and ones; y has other values")
        kinds, n_outputs = problem.y_train, problem.n_classes
    else:
        classes, kinds = np.unique(problem.y_train, return_inverse=True)
        at_least_two(classes)
        n_outputs = len(classes)
    for probe in probes:
        recipe = probe._recipe()  # noqa: SLF001
        if recipe.mixed and x.shape[1] % recipe.mixed:
            raise ParameterError(f"{x.shape[1]} columns are not {recipe.mixed} layers of one width; set n_layers")
        key = (recipe.seed, recipe.patience is None, kinds.tobytes(), problem.groups.tobytes())
        if key not in known:
            nothing = np.zeros(len(x), dtype=np.bool_)
            known[key] = torch.from_numpy(
                nothing if recipe.patience is None else hold_out(kinds, problem.groups, recipe.seed)
            )
        y = torch.from_numpy(kinds.astype(np.float32 if problem.multilabel else np.int64))
        yield Member(recipe, x, y, n_outputs, known[key])


def _scores(logits: Matrix, problem: Problem) -> Matrix:
    """Put logits in the columns of their classes, shape (n_eval, n_classes)."""
    if problem.multilabel:
        logits = logits[:, problem.taught]
    elif logits.shape[1] == 2:  # only the difference counts
        logits = both_sides(logits[:, 1] - logits[:, 0])
    return problem.spread(logits)


class MLPProbe(NetworkProbe):
    """Hidden layers of ReLU units (one of 256 by default) with dropout, AdamW and early stopping.

    About a fifth of the training rows (whole groups) are held out. Training stops when neither their errors nor, with
    equally many, their loss has improved for `patience` epochs, and the best epoch counts: its weights are restored, or
    with `refit` a new network is trained for so many epochs on all rows, because the rows held out are whole artists that
    a small collection misses (macro-F1 .33 against .30 on 520 tracks of 13 genres). The last batch of an epoch may be
    smaller; it is never dropped. On few tracks 512 units and a patience of 20, as in the MARBLE and HEAR benchmarks, score
    alike at three times the cost.

    With several tags a row the loss is binary cross-entropy, which alone says what epoch is best.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    dropout : float
        Share of hidden units that a training step leaves out, 0..1.
    batch_norm : bool
        Normalise each hidden layer before its ReLU.
    learning_rate, weight_decay : float
        Of AdamW.
    batch_size, max_epochs : int
    patience : int or None
        None trains for `max_epochs` on all rows.
    plateau : int or None
        Halve the learning rate after more than so many epochs without improvement (MARBLE: 6).
    refit : bool
        Train again on all rows, or restore the weights of the best epoch.
    loss : str
        ``"cross_entropy"``, or ``"bce"`` (binary cross-entropy of each class against the others).
    device : str
        ``"cpu"``, ``"cuda"``, ...; ``"auto"`` takes the GPU if there is one.
    random_state : int
        Seed of weights, batches, dropout and held-out rows.
    """

    grid = ({"dropout": 0.5}, {"dropout": 0.2})
    inner_folds = 2

    def __init__(
        self,
        hidden: tuple[int, ...] = (256,),
        dropout: float = 0.2,
        batch_norm: bool = False,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 64,
        max_epochs: int = 200,
        patience: int | None = 10,
        plateau: int | None = None,
        refit: bool = True,
        loss: str = "cross_entropy",
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.plateau = plateau
        self.refit = refit
        self.loss = loss
        self.device = device
        self.random_state = random_state

    def _recipe(self) -> Recipe:
        return Recipe(
            hidden=tuple(self.hidden),
            loss=self.loss,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.max_epochs,
            patience=self.patience,
            plateau=self.plateau,
            refit=self.refit,
            seed=self.random_state,
            device=self.device,
        )
