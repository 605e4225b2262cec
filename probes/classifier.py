"""What our classifiers share: checked rows and classes, the class of the highest score, and how they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.base import Ints, Matrix, Setting, grade

__all__ = ["Classifier"]


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A classifier that has a ``decision_function`` or a ``predict_proba``."""

    grid: ClassVar[Sequence[Setting]]
    multilabel: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]]
    """Names of the arrays that, with the parameters and `classes_`, are all that it learned."""

    def _read(self, X: Any, y: Any) -> tuple[Matrix, Ints]:  # noqa: N803
        """Check rows X, shape (n, dim), and classes y, shape (n,); gives the rows and the numbers of their classes."""
        X, y = validate_data(self, X, y, dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return X, codes

    def _rows(self, X: Any) -> Matrix:  # noqa: N803
        """Check rows to predict, shape (n_eval, dim)."""
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, dtype=np.float64))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Class of each row, shape (n_eval,)."""
        check_is_fitted(self)
        return np.asarray(self.classes_[grade(self, X, self.classes_).argmax(1)])

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the arrays that it learned."""
        check_is_fitted(self)
        return {name.strip("_"): getattr(self, name) for name in self.learned}

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take what `state` gave."""
        for name in self.learned:
            setattr(self, name, arrays[name.strip("_")])
        return self
