"""Small networks, trained side by side: members of one shape share every step, and none knows of the others.

Initial weights, order of batches and dropout draws come from the seed alone, so members of one seed share the draws, and
each ends up with the weights that it gets when it trains alone: the stack of one member is the plain twin. Rate, decay and
dropout are a member's own. It leaves the stack when its patience ends, or when its loss is no number any more.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from embedstore.encoders.base import one_thread, pick_device
from embedstore.errors import ParameterError

__all__ = ["Member", "Recipe", "Trained", "logits_of", "train"]

Weights = Mapping[str, NDArray[np.float32]]

# oneDNN's products are the same bits whatever runs beside them; torch.bmm's, by MKL, are not, and take twice the time on
# processors that Intel did not make
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained.

    Attributes
    ----------
    hidden : tuple of int
        Widths of the hidden layers, each with a ReLU.
    mixed : int
        Number of layers that an input row holds one after the other and a learned weighted sum (a 1x1 convolution with one
        output channel) with ReLU reduces to one; 0: the row goes in as it is.
    loss : str
        ``"cross_entropy"`` or ``"bce"`` (binary cross-entropy of each output).
    dropout : float
        Share of hidden units that a training step leaves out, 0..1, after each hidden layer or, with `drop_last`, only
        after the last.
    batch_norm : bool
        Normalise each hidden layer before its ReLU.
    learning_rate, weight_decay : float
        Of AdamW.
    batch_size, epochs : int
    patience : int or None
        Stop after so many epochs that were no better than the best; None: never, and no rows are held out.
    plateau : int or None
        Halve the learning rate after more than so many such epochs.
    refit : bool
        Train again on all rows for as many epochs as were best.
    seed : int
    device : str
    """

    hidden: tuple[int, ...]
    mixed: int = 0
    loss: str = "cross_entropy"
    dropout: float = 0.0
    drop_last: bool = False
    batch_norm: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    epochs: int = 200
    patience: int | None = 10
    plateau: int | None = None
    refit: bool = True
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.loss not in ("cross_entropy", "bce"):
            raise ParameterError(f"loss is {self.loss!r}; known: cross_entropy, bce")
        if not 0 <= self.dropout < 1:
            raise ParameterError(f"dropout is a share of the units, at least 0 and below 1; got {self.dropout}")
        if self.batch_size < 1 + self.batch_norm:
            raise ParameterError(
                f"batches need at least {1 + self.batch_norm} rows here; batch_size is {self.batch_size}"
            )


@dataclass(frozen=True, repr=False, eq=False)
class Member:
    """One network to train.

    Attributes
    ----------
    recipe : Recipe
    x : float32 tensor, shape (n, dim)
    y : int64 tensor, shape (n,), or float32 tensor of zeros and ones, shape (n, n_outputs)
    n_outputs : int
    held : bool tensor, shape (n,)
        Rows that move no weight: they say which epoch is best.
    """

    recipe: Recipe
    x: Tensor
    y: Tensor
    n_outputs: int
    held: Tensor

    @property
    def shape(self) -> tuple[Any, ...]:
        """Members of equal shape can be stacked."""
        own = replace(self.recipe, dropout=0.0, learning_rate=0.0, weight_decay=0.0)
        return (own, self.x.shape, self.n_outputs, self.y.numpy().tobytes(), self.held.numpy().tobytes())


@dataclass(frozen=True, repr=False)
class Trained:
    """A network's weights at its best epoch, that epoch, and the epochs after which its learning rate was halved."""

    weights: Weights
    epochs: int
    halved: tuple[int, ...] = ()


def train(members: Sequence[Member]) -> list[Trained]:
    """Train all members, those of one shape together; networks come in the order of the members."""
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, member in enumerate(members):
        alike[member.shape].append(number)
    trained: dict[int, Trained] = {}
    with one_thread():  # the sweep's processes share the cores
        for numbers in alike.values():
            trained |= zip(numbers, _train_alike([members[number] for number in numbers]), strict=True)
    return [trained[number] for number in range(len(members))]


def _train_alike(members: Sequence[Member]) -> list[Trained]:
    recipe = members[0].recipe
    found = _run(members, [Trained({}, recipe.epochs)] * len(members))
    if recipe.refit and members[0].held.any():
        again = [number for number, network in enumerate(found) if network.epochs]  # those that did not diverge at once
        everything = [replace(members[number], held=torch.zeros_like(members[number].held)) for number in again]
        for number, network in zip(again, _run(everything, [found[number] for number in again]), strict=True):
            found[number] = network
    return found


@dataclass
class _Progress:
    """How far a member is: a plan of epochs to follow, the best score, and what it will answer with."""

    number: int
    plan: Trained
    best: Trained
    score: tuple[float, float] = (np.inf, np.inf)
    halved: list[int] = field(default_factory=list)


def _run(members: Sequence[Member], plans: Sequence[Trained]) -> list[Trained]:
    """Train each for the epochs of its plan, or until its patience ends."""
    if not members:
        return []
    stack = _Stack(members)
    recipe, valid = members[0].recipe, bool(members[0].held.any())
    runs = [
        _Progress(number, plan, Trained(plan.weights or stack.weights(number), 0)) for number, plan in enumerate(plans)
    ]
    results = list(runs)
    for epoch in range(1, max(plan.epochs for plan in plans) + 1):
        losses = stack.epoch()
        scores = stack.validate() if valid else [(0.0, 0.0)] * len(runs)
        going = []
        for slot, (run, loss, score) in enumerate(zip(runs, losses, scores, strict=True)):
            if not np.isfinite([loss, *score]).all():
                _say_diverged(members[run.number].recipe, epoch, run.best.epochs)
                continue
            done = epoch == run.plan.epochs
            if score < run.score if valid else done:
                run.score, run.best = score, Trained(stack.weights(slot), epoch, tuple(run.halved))
            waited = epoch - run.best.epochs
            if done or (valid and waited >= (recipe.patience or np.inf)):
                continue
            since = epoch - max([run.best.epochs, *run.halved])
            if (valid and recipe.plateau is not None and since > recipe.plateau) or epoch in run.plan.halved:
                run.halved.append(epoch)
                stack.halve(slot)
            going.append(slot)
        if len(going) < len(runs):
            runs = [runs[slot] for slot in going]
            stack.keep(going)
        if not runs:
            break
    return [run.best for run in results]


def _say_diverged(recipe: Recipe, epoch: int, best: int) -> None:
    kept = f"the weights of epoch {best} are kept" if best else "it stays untrained"
    warnings.warn(
        f"a network's loss was no number any more in epoch {epoch} with learning_rate={recipe.learning_rate:g}: {kept}; "
        "ask for a lower learning rate",
        ConvergenceWarning,
        stacklevel=2,
    )


class _Stack:
    """Networks of one shape in training.

    Each weight is a list of tensors, one for each member that still trains; activations have a leading axis over members.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.recipe, device = members[0].recipe, pick_device(members[0].recipe.device)
        self.device = device
        self.random = torch.Generator().manual_seed(self.recipe.seed)
        inputs = {id(member.x): member.x for member in members}  # settings of one problem share it
        self.of = [list(inputs).index(id(member.x)) for member in members]
        held, y = members[0].held, members[0].y
        self.x, self.x_valid = ([x[rows].to(device) for x in inputs.values()] for rows in (~held, held))
        self.y, self.y_valid = (y[rows].to(device) for rows in (~held, held))
        self.keep_rate = 1 - torch.tensor([m.recipe.dropout for m in members], device=device)[:, None, None]
        self.layers = self._start(members[0], len(members))
        # members of one rate share a call of the optimiser, unless a rate may change by itself
        how = [
            (m.recipe.learning_rate, m.recipe.weight_decay, 0 if m.recipe.plateau is None else slot)
            for slot, m in enumerate(members)
        ]
        kinds = list(dict.fromkeys(how))
        self.group_of = [kinds.index(own) for own in how]
        self.adam = torch.optim.AdamW(
            [
                {"params": self._trained_in(number), "lr": rate, "weight_decay": decay}
                for number, (rate, decay, _) in enumerate(kinds)
            ],
            fused=True,
        )

    def _start(self, member: Member, n: int) -> dict[str, list[Tensor]]:
        """Draw weights as torch.nn's layers do, the same for each of n members."""
        mixed = self.recipe.mixed
        widths = (member.x.shape[1] // max(mixed, 1), *self.recipe.hidden, member.n_outputs)
        shapes = {"mix": (mixed, 1)} if mixed else {}
        shapes |= {str(number): ends for number, ends in enumerate(pairwise(widths))}
        start = {}
        for name, (fan_in, fan_out) in shapes.items():
            bound = fan_in**-0.5
            start[f"{name}.weight"] = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=self.random)
            start[f"{name}.bias"] = torch.empty(fan_out).uniform_(-bound, bound, generator=self.random)
        if self.recipe.batch_norm:
            for number, width in enumerate(self.recipe.hidden):
                for part, fill in (("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("variance", 1.0)):
                    start[f"{number}.{part}"] = torch.full((width,), fill)
        fixed = {f"{number}.{part}" for number in range(len(self.recipe.hidden)) for part in ("mean", "variance")}
        if self.recipe.batch_norm:  # takes a bias away again: training it would follow rounding errors alone
            fixed |= {f"{number}.bias" for number in range(len(self.recipe.hidden))}
        return {
            name: [tensor.to(self.device, copy=True).requires_grad_(name not in fixed) for _ in range(n)]
            for name, tensor in start.items()
        }

    def _trained_in(self, group: int) -> list[Tensor]:
        slots = [slot for slot, own in enumerate(self.group_of) if own == group]
        return [each[slot] for slot in slots for each in self.layers.values() if each[slot].requires_grad]

    def weights(self, slot: int) -> Weights:
        """Copy one member's weights."""
        return {name: tensors[slot].detach().cpu().numpy().copy() for name, tensors in self.layers.items()}

    def halve(self, slot: int) -> None:
        """Halve a member's learning rate."""
        self.adam.param_groups[self.group_of[slot]]["lr"] /= 2

    def keep(self, slots: Sequence[int]) -> None:
        """Let the other members go."""
        self.of = [self.of[slot] for slot in slots]
        self.keep_rate = self.keep_rate[list(slots)]
        self.layers = {name: [tensors[slot] for slot in slots] for name, tensors in self.layers.items()}
        self.group_of = [self.group_of[slot] for slot in slots]
        for number, group in enumerate(self.adam.param_groups):
            group["params"] = self._trained_in(number)

    def epoch(self) -> list[float]:
        """Pass once over the training rows, the last batch as large as is left; gives the members' summed losses."""
        order = torch.randperm(len(self.y), generator=self.random).to(self.device)
        batches = list(torch.split(order, self.recipe.batch_size))
        if self.recipe.batch_norm and len(batches[-1]) == 1 and len(batches) > 1:  # one row has no variance
            batches[-2:] = [torch.cat(batches[-2:])]
        total = torch.zeros(len(self.of), device=self.device)
        for rows in batches:
            self.adam.zero_grad()
            losses = self._loss(self._forward([x.index_select(0, rows) for x in self.x], training=True), self.y[rows])
            losses.sum().backward()  # type: ignore[no-untyped-call]  # members do not meet: each gets its own gradient
            self.adam.step()
            total += losses.detach()
        return list(total.tolist())

    def validate(self) -> list[tuple[float, float]]:
        """Share of errors (0 for tags) and loss of each member on its held-out rows: the lower, the better."""
        with torch.no_grad():
            logits = self._forward(self.x_valid, training=False)
            losses = self._loss(logits, self.y_valid)
            errors = torch.zeros_like(losses)
            if self.y_valid.ndim == 1:
                errors = (logits.argmax(-1) != self.y_valid).float().mean(1)
            return list(zip(errors.tolist(), losses.tolist(), strict=True))

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean over rows (and outputs), shape (members,): one by one, as exp rounds by its place in an array."""
        if self.recipe.loss == "bce" or y.ndim == 2:
            y = y if y.ndim == 2 else torch.nn.functional.one_hot(y, logits.shape[2]).float()
            return torch.stack([torch.nn.functional.binary_cross_entropy_with_logits(each, y) for each in logits])
        return torch.stack([torch.nn.functional.cross_entropy(each, y) for each in logits])

    def _forward(self, inputs: Sequence[Tensor], *, training: bool) -> Tensor:
        """Logits, shape (members, rows, n_outputs), of one matrix for each distinct input."""
        own = [inputs[place] for place in self.of]
        x = _mix(own, self.layers["mix.weight"], self.layers["mix.bias"]) if self.recipe.mixed else own
        last = len(self.recipe.hidden)
        for number in range(last):
            x = self._linear(x, number)
            if self.recipe.batch_norm:
                x = self._normalise(x, number, training=training)
            x = x.relu()
            if training and (number == last - 1 or not self.recipe.drop_last):
                draws = torch.rand(x.shape[1:], generator=self.random).to(self.device)
                x = x * ((draws < self.keep_rate) / self.keep_rate)
        return self._linear(x, last)

    def _linear(self, x: Sequence[Tensor] | Tensor, number: int) -> Tensor:
        weights, biases = self.layers[f"{number}.weight"], self.layers[f"{number}.bias"]
        return _Linear.apply(len(weights), *x, *weights, *biases)  # type: ignore[no-any-return]

    def _normalise(self, x: Tensor, number: int, *, training: bool) -> Tensor:
        parts = [self.layers[f"{number}.{part}"] for part in ("mean", "variance", "scale", "shift")]
        normed = [
            torch.nn.functional.batch_norm(rows, mean, variance, scale, shift, training)
            for rows, mean, variance, scale, shift in zip(x, *parts, strict=True)
        ]
        return torch.stack(normed)


def _mix(x: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Weigh and add up each member's layers: rows of shape (n_layers * dim) become rows of shape (dim)."""
    mixed = [w @ rows.view(len(rows), w.shape[1], -1) + b for rows, w, b in zip(x, weights, biases, strict=True)]
    return torch.stack(mixed)[:, :, 0].relu()


class _Linear(torch.autograd.Function):
    """Each member's rows times its own weights plus its bias, shape (members, rows, width)."""

    @staticmethod
    def forward(ctx: Any, n: int, *tensors: Tensor) -> Tensor:
        x, weights, biases = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        ctx.save_for_backward(*x, *weights)
        return torch.stack(_products(x, [w.T for w in weights], biases))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        n, parts = len(slope), slope.unbind()
        x, weights = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        down = _products(parts, weights) if ctx.needs_input_grad[1] else (None,) * n
        return None, *down, *_products([part.T for part in parts], x), *slope.sum(1)


def _products(left: Sequence[Tensor], right: Sequence[Tensor], plus: Sequence[Tensor] = ()) -> list[Tensor]:
    """Multiply matrices pair by pair, and add a row to each; on a GPU all at once."""
    if _ONEDNN and left[0].is_cpu:
        rows: Sequence[Tensor | None] = plus or [None] * len(left)
        return [_ONEDNN(a, b.T, c, "none", [], "") for a, b, c in zip(left, right, rows, strict=True)]
    products = torch.bmm(torch.stack(tuple(left)), torch.stack(tuple(right)))
    return list(products + torch.stack(tuple(plus))[:, None] if plus else products)


def logits_of(x: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """Run a trained network on rows, shape (n, dim): one number for each class or tag, shape (n, n_outputs)."""
    if "mix.weight" in weights:
        mix = weights["mix.weight"][0]
        x = np.maximum(np.tensordot(x.reshape(len(x), len(mix), -1), mix, (1, 0)) + weights["mix.bias"], 0)
    last = sum(name.endswith(".weight") and name != "mix.weight" for name in weights) - 1
    for number in range(last + 1):
        part = {name.partition(".")[2]: value for name, value in weights.items() if name.startswith(f"{number}.")}
        x = x @ part["weight"].T + part["bias"]
        if "scale" in part:
            x = (x - part["mean"]) / np.sqrt(part["variance"] + 1e-5) * part["scale"] + part["shift"]
        if number < last:
            x = np.maximum(x, 0)
    return x
