"""A learned mix of layers: softmax weights and a linear classifier, trained together."""

from __future__ import annotations

from typing import Self

import numpy as np

from probes.base import Ints, Matrix, indicators

__all__ = ["LayerMix"]

_STRIDE = (
    30.0  # a unit step of L-BFGS moves the mixing weights so much more than the classifier's (measured: 10..100 alike)
)


class LayerMix:
    """Softmax-weighted sum of layers, the weights learned together with a linear classifier.

    The objective is that of a logistic regression on the mix (mean cross-entropy + |w|^2 / (2 C n); with several tags a row
    binary cross-entropy, added up over tags), minimised over the classifier and the layer weights at once by L-BFGS from
    equal weights. A step reads all layers twice, once to mix them and once for the slope of each weight; the rest costs as
    much as one layer. (The idea: Peters et al. 2018, arXiv:1802.05365, section 3.2; SUPERB uses it to probe speech models.)

    Nothing in the objective rewards spreading: the weights nearly always end on a single layer, and where several are about
    as good, which of them may differ from fold to fold. `entropy` rewards it.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty, as in scikit-learn.
    entropy : float
        The objective is lowered by so much for each nat of the weights' entropy. Up to 0.01 changes hardly anything, 0.03
        spreads weights over two or three layers, 0.1 over three to seven at a slightly lower score (13 synthetic layers).
    tol : float
        Stop when a step lowers the objective by less than this share.
    max_iter : int

    Attributes
    ----------
    weights_ : float64 array, shape (n_layers,)
        Positive, with sum 1.
    loss_ : float
        Objective reached.
    """

    def __init__(self, C: float = 0.01, entropy: float = 0.0, tol: float = 1e-7, max_iter: int = 500) -> None:  # noqa: N803
        self.C = C
        self.entropy = entropy
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, layers: Matrix, y: Ints) -> Self:
        """Learn from standardised layers, shape (n_layers, n, dim), and classes, shape (n,), or tags, shape (n, n_tags)."""
        from scipy.optimize import minimize
        from scipy.special import expit, log_softmax, softmax

        n_layers, n, dim = layers.shape
        target = y if y.ndim == 2 else indicators(y, np.unique(y))
        flat = layers.astype(np.float32).reshape(n_layers, n * dim)  # half the bytes to read
        penalty = 1 / (self.C * n)

        def objective(point: Matrix) -> tuple[float, Matrix]:
            mixing = softmax(_STRIDE * point[:n_layers])
            bias, head = np.split(point[n_layers:].reshape(dim + 1, -1), [1])
            mixed = (mixing.astype(np.float32) @ flat).reshape(n, dim)
            logits = mixed @ head.astype(np.float32) + bias
            if y.ndim == 2:
                loss, likely = np.logaddexp(0, logits).sum() - (logits * target).sum(), expit(logits)
            else:
                logs = log_softmax(logits, axis=1)
                loss, likely = -(logs * target).sum(), np.exp(logs)
            error = (likely - target) / n
            slope = (mixed.T @ error.astype(np.float32)).astype(np.float64) + penalty * head
            each = flat @ (error @ head.T).astype(np.float32).ravel()  # of each layer's weight
            spread = np.log(np.maximum(mixing, np.finfo(float).tiny))
            each = each + self.entropy * spread
            total = loss / n + 0.5 * penalty * (head**2).sum() + self.entropy * (mixing @ spread)
            gradient = [_STRIDE * mixing * (each - mixing @ each), error.sum(0), slope.ravel()]
            return float(total), np.concatenate(gradient)

        start = np.zeros(n_layers + (dim + 1) * target.shape[1])
        options = {"gtol": 1e-6, "ftol": self.tol, "maxiter": self.max_iter, "maxfun": 2 * self.max_iter}
        end = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.weights_, self.loss_ = softmax(_STRIDE * end.x[:n_layers]), float(end.fun)
        return self

    def transform(self, layers: Matrix) -> Matrix:
        """Mix layers, shape (n_layers, n, dim), into (n, dim)."""
        return np.asarray(np.tensordot(self.weights_, layers, 1))
