"""Ridge classifier: least squares on +1 and -1 with an L2 penalty, all strengths from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedstore.errors import ParameterError
from probes.base import Matrix
from probes.linear import Axes, LinearProbe, Solution

__all__ = ["RidgeProbe"]


class RidgeProbe(LinearProbe):
    """Ridge regression on +1 for a class and -1 for the rest, equal to scikit-learn's ``RidgeClassifier``.

    Parameters
    ----------
    alpha : float
        Strength of the penalty, above 0.

    Examples
    --------
    >>> RidgeProbe(alpha=1.0).fit([[0.0], [1.0], [3.0]], ["a", "a", "b"]).predict([[0.5], [2.5]])
    array(['a', 'b'], dtype='<U1')
    """

    shared = "alpha"
    grid = tuple({"alpha": 10.0**power} for power in range(5, -2, -1))

    def __init__(self, alpha: float = 1000.0) -> None:
        self.alpha = alpha

    def _solve(self, x: Matrix, given: Matrix, values: Sequence[float], *, apart: bool) -> Iterator[Solution]:  # noqa: ARG002
        middle, target = x.mean(0), 2 * given - 1
        axes, mean = Axes.of(x - middle), target.mean(0)
        along = axes.along(target - mean)
        for alpha in values:
            if not alpha > 0:
                raise ParameterError(f"alpha must be above 0; got {alpha}")
            coef = axes.back(along / (axes.squares + alpha)[:, None]).T
            yield coef, mean - coef @ middle, 1
