"""Multinomial logistic regression with an L2 penalty, the field's linear probe.

The optimum is scikit-learn's; the way there is shorter. Track vectors are few and correlated: lbfgs on them takes hundreds
of steps at C near 1, or stops early. Here the rows are first rotated to their principal axes, and each axis is stretched so
that the objective curves about alike in all directions: its curvature along an axis of variance s is near
0.3 s mean(p (1 - p)) plus the penalty's, with the probabilities p of the moment. scipy's L-BFGS-B then minimises the same
objective in these coordinates, in about a third of the steps: first on float32 rows, as far as they carry, then on float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from probes.base import Matrix
from probes.linear import Axes, LinearProbe, Solution

__all__ = ["LogisticProbe"]

_Library = tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]
_COARSE = 1e-4  # what float32 rows can reach of `tol`


class LogisticProbe(LinearProbe):
    """L2-penalised logistic regression, equal to scikit-learn's at its optimum; tags are learned one against the rest.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty, as in scikit-learn. The grid ends at 1: far beyond it solvers stop short of the
        optimum, and what they return is early stopping under another name.
    tol : float
        Bound on the gradient of the mean loss in the stretched coordinates. The default leaves a relative gap to the
        optimum below 1e-6 over the whole grid (tested); scikit-learn's own default leaves up to 3e-2 at C = 1.
    max_iter : int
        Most steps; a warning says when they ran out.
    device : str
        ``"cpu"``: numpy, one C after the other. Another device of torch's, as ``"cuda"``: every C and tag in one product.
        ``"auto"``: a CUDA device if there is one.
    """

    shared = "C"
    grid = tuple({"C": c} for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0))

    def __init__(self, C: float = 0.01, tol: float = 2e-5, max_iter: int = 2000, device: str = "cpu") -> None:  # noqa: N803
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.device = device

    def predict_proba(self, X: Any) -> Matrix:  # noqa: N803
        """Probabilities, shape (n_eval, n_classes)."""
        from scipy.special import expit, softmax

        logits = self.decision_function(X)
        if logits.ndim == 1:
            return np.stack([expit(-logits), expit(logits)], axis=1)
        return np.asarray(softmax(logits, axis=1))

    def _solve(self, x: Matrix, given: Matrix, values: Sequence[float], *, apart: bool) -> Iterator[Solution]:
        xp, send, fetch = library = _library(self.device)
        axes, targets = Axes.of(send(x), xp), send(given)
        fine = xp.concatenate([xp.ones_like(axes.x[:, :1]), axes.rows], axis=1)
        rows = xp.asarray(fine, dtype=xp.float32), fine
        # one C after the other may stop when it is done; a GPU is quicker with all of them in one product
        for batch in [[value] for value in values] if xp is np else [values]:
            weights, steps = self._minimise(rows, axes.squares, targets, np.array(batch), apart, library)
            for number in range(len(batch)):
                yield fetch(axes.back(weights[1:, number])).T, fetch(weights[0, number]), steps

    def _minimise(
        self, both: tuple[Any, Any], squares: Any, given: Any, values: Matrix, apart: bool, library: _Library
    ) -> tuple[Any, int]:
        """Minimise mean cross-entropy + |w|^2 / (2 C n), summed over every C and over columns that stand apart.

        `both` are the coordinates after a column of ones, in float32 for the way and in float64 for its end. Gives weights, shape (1 + rank, n_values, n_columns), and the number of steps.
        """
        from scipy.optimize import minimize

        xp, send, fetch = library
        n, columns = given.shape
        variances = send(np.append(1, fetch(squares) / n)[:, None, None])
        ridge = np.tile(1 / (values[:, None] * n), (len(variances), 1, 1))
        ridge[0] = 0  # the intercept is free
        ridge, weights = send(ridge), send(np.zeros((len(variances), len(values), columns)))
        (rows, fine), shares = both, given[:, None].mean(0, keepdims=True)

        def objective(flat: Matrix) -> tuple[float, Matrix]:
            nonlocal shares
            w = send(flat).reshape(weights.shape) / stretch
            loss, slope, shares = _cross_entropy(rows, w, given[:, None], apart, xp)
            return float(loss + 0.5 * (ridge * w * w).sum()), fetch((slope + ridge * w) / stretch).ravel()

        steps, leg = 0, 10
        while True:
            # coordinates in which the objective curves about alike; measured again after each leg
            curvature = (shares * (1 - shares)).mean(0)
            curvature = curvature if apart else curvature.mean(1, keepdims=True)
            stretch = xp.sqrt((0.3 * curvature).clip(1e-8) * variances + ridge)
            exact = rows is fine
            tol = self.tol if exact else max(self.tol, _COARSE)
            options = {"gtol": tol, "ftol": 0.0, "maxiter": min(leg, self.max_iter - steps), "maxfun": 10 * leg}
            end = minimize(objective, fetch(weights * stretch).ravel(), jac=True, method="L-BFGS-B", options=options)
            weights, steps, leg = send(end.x).reshape(weights.shape) / stretch, steps + int(end.nit), 2 * leg
            if exact and (end.status == 0 or end.nit == 0):  # no step: this is as near as float64 comes
                return weights, steps
            if steps >= self.max_iter:
                warnings.warn(f"logistic regression stopped after {steps} steps", ConvergenceWarning, stacklevel=2)
                return weights, steps
            if end.status != 1:  # not for want of steps: float32 carries no further
                rows = fine


def _library(device: str) -> _Library:
    """Choose numpy, or torch on a device; how an array gets there, and back."""
    chosen = device
    if not device.startswith("cpu"):
        from embedstore.encoders.base import pick_device

        chosen = pick_device(device)
    if chosen == "cpu" or (device == "auto" and chosen == "mps"):  # which has no float64
        return np, np.asarray, np.asarray
    import torch

    return torch, partial(torch.tensor, device=chosen), lambda tensor: tensor.cpu().numpy()


def _cross_entropy(rows: Any, weights: Any, given: Any, apart: bool, xp: Any) -> tuple[Any, Any, Any]:
    """Mean loss, its slope, and the probabilities, shape (n, n_values, n_columns); sums over settings.

    Columns that stand apart are logistic functions of their own, others share a softmax.
    """
    n = len(rows)
    flat = xp.asarray(weights.reshape(len(weights), -1), dtype=rows.dtype)
    logits = xp.asarray(rows @ flat, dtype=xp.float64).reshape(n, *weights.shape[1:])
    top = logits.clip(0) if apart else xp.amax(logits, axis=2, keepdims=True)
    powers = xp.exp(logits - top)
    total = powers + xp.exp(-top) if apart else powers.sum(2, keepdims=True)
    loss = ((xp.log(total) + top).sum() - (given * logits).sum()) / n
    powers /= total
    residual = xp.asarray(((powers - given) / n).reshape(n, -1), dtype=rows.dtype)
    return loss, (rows.T @ residual).reshape(weights.shape), powers
