"""GenreNet: the network of the student lab that this package began with, as it was."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probes.mlp import NetworkProbe
from probes.networks import Recipe

__all__ = ["GenreNetProbe"]


class GenreNetProbe(NetworkProbe):
    """A learned mix of layers, two hidden layers of 224, binary cross-entropy of each class, 30 epochs.

    A 1x1 convolution over the layers with ReLU (`n_layers` weights and a bias), then linear 224, batch norm, ReLU, linear
    224, batch norm, ReLU, dropout, linear; Adam at 1e-3 with batches of 60. Nothing is held out: the last epoch counts.
    Where the last batch of an epoch is a single row, it joins the one before.

    Parameters
    ----------
    n_layers : int
        A row of X holds so many layers of one width, one after the other.
    dropout : float
        In front of the last layer; the lab tried .6, .7 and .8.
    hidden, epochs, batch_size : int
    learning_rate : float
    device : str
    random_state : int
        Seed of weights, batches and dropout.

    Attributes
    ----------
    layer_weights_ : float32 array, shape (n_layers,)
        The convolution's: of any sign and sum.
    """

    grid = ({"dropout": 0.8}, {"dropout": 0.7}, {"dropout": 0.6})
    inner_folds = 2

    def __init__(
        self,
        n_layers: int = 1,
        dropout: float = 0.6,
        hidden: int = 224,
        epochs: int = 30,
        batch_size: int = 60,
        learning_rate: float = 1e-3,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.n_layers = n_layers
        self.dropout = dropout
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state

    @property
    def layer_weights_(self) -> NDArray[np.float32]:
        """Weight of each layer."""
        return np.asarray(self.weights_["mix.weight"][0])

    def _recipe(self) -> Recipe:
        return Recipe(
            hidden=(self.hidden, self.hidden),
            mixed=self.n_layers,
            loss="bce",
            dropout=self.dropout,
            drop_last=True,
            batch_norm=True,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            epochs=self.epochs,
            patience=None,
            seed=self.random_state,
            device=self.device,
        )
