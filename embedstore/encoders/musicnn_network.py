"""The network of musicnn in torch: from windows of sound to the activations of each layer and the tags.

It hears a log-mel spectrogram. The front end hears timbre (filters of 7 frames x 38 or 67 bands) and time (128, 64
or 32 frames x 1 band), each at its loudest place along frequency; three residual convolutions over time follow; the back
end pools everything over the window by mean and maximum for the tagger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embedstore.types import Floats

__all__ = ["HOP", "SAMPLE_RATE", "STFT", "Network", "random_weights", "slaney_filters", "weight_shapes"]

SAMPLE_RATE = 16000  # Hz
STFT, HOP = 512, 256  # samples
_BANDS = 96
_FLOAT16_MAX = 65504.0

# TensorFlow's names, in the order of the graph: conv2d, conv2d_1, ...; kernels are (frames, bands, 1, filters)
_KERNELS = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
_KERNELS += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
_DENSE = [(1506, 200), (200, 50)]
_NORMS = [1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200]
_NORM_EPSILON = 1e-3  # tf.layers.batch_normalization's default


def _numbered(name: str, place: int) -> str:
    return f"{name}_{place}" if place else name


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """List the network's tensors by the names they have in the checkpoints."""
    shapes: dict[str, tuple[int, ...]] = {}
    for kind, kernels in (("conv2d", _KERNELS), ("dense", _DENSE)):
        for place, kernel in enumerate(kernels):
            shapes[f"{_numbered(kind, place)}/kernel"] = kernel
            shapes[f"{_numbered(kind, place)}/bias"] = kernel[-1:]
    for place, width in enumerate(_NORMS):
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{_numbered('batch_normalization', place)}/{part}"] = (width,)
    return shapes


def random_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Draw He-normal kernels; batch norms change nothing but the input's.

    The input keeps a mean and variance between those of the two checkpoints: they tell of loudness, not of music, and
    without them a random network hears little else.
    """
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes().items():
        if name.endswith("kernel"):
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            values = np.full(shape, 1 - _NORM_EPSILON if name.endswith("variance") else float(name.endswith("gamma")))
        weights[name] = values.astype(np.float32)
    weights["batch_normalization/moving_mean"][:] = 1.9
    weights["batch_normalization/moving_variance"][:] = 1.7
    return weights


def slaney_filters() -> Floats:
    """Make the mel filters of Slaney's Auditory Toolbox (1998), librosa's default, each of unit area.

    The scale is linear below 1 kHz (15 mel) and logarithmic above (27 mel for a factor of 6.4).

    Returns
    -------
    float32 array, shape (257, 96)
        Weight of each STFT bin in each band, for 0 to 8 kHz.
    """
    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    mel = np.linspace(0, top, _BANDS + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    bins = np.linspace(0, SAMPLE_RATE / 2, STFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: Floats = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return filters.astype(np.float32)


Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Norm:
    """Batch normalisation with its stored moments, as one multiplication and one addition."""

    gain: Tensor
    offset: Tensor

    @classmethod
    def read(cls, weights: Weights, place: int) -> _Norm:
        prefix = _numbered("batch_normalization", place)
        gamma, beta, mean, variance = (
            weights[f"{prefix}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        gain = gamma * torch.rsqrt(variance + _NORM_EPSILON)
        return cls(gain, beta - mean * gain)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.gain + self.offset


@dataclass(frozen=True)
class _Filters:
    """Convolution with zeros around in time, ReLU, batch norm, maximum over the bands: (n, in, T, F) -> (n, out, T).

    Two identities make it fast. Weight decay has switched most front-end filters off (497 of 561 in MSD, weights of
    1e-31): they are left out, and what they give is a constant. And the maximum comes first, right after the convolution:
    ReLU and a positive gain keep the order; under a negative gain the smallest value wins, hence the `sign`.
    """

    kernel: Tensor
    bias: Tensor
    sign: Tensor
    norm: _Norm
    alive: Tensor
    constant: Tensor

    @classmethod
    def read(cls, weights: Weights, place: int) -> _Filters:
        prefix = _numbered("conv2d", place)
        kernel, bias = weights[f"{prefix}/kernel"], weights[f"{prefix}/bias"]
        norm = _Norm.read(weights, place + 1)
        # too weak to move the output by a float32 rounding, as no input comes near 100
        alive = (kernel.abs().sum((0, 1, 2)) * norm.gain.abs() > 1e-9).nonzero()[:, 0]
        sign = torch.where(norm.gain < 0, -1.0, 1.0)[alive]
        front = place < 5  # one channel of 96 bands; later the 561 or 64 features are channels of one band
        kernel = kernel.permute(3, 2, 0, 1) if front else kernel.permute(3, 1, 0, 2)
        return cls(
            (kernel[alive] * sign[:, None, None, None]).contiguous(),
            bias[alive] * sign,
            sign[:, None],
            _Norm(norm.gain[alive, None], norm.offset[alive, None]),
            alive,
            norm(functional.relu(bias))[:, None],
        )

    def __call__(self, x: Tensor) -> Tensor:
        frames = self.kernel.shape[2]
        x = functional.pad(x, (0, 0, (frames - 1) // 2, frames // 2))  # TensorFlow's "same"
        bands = functional.conv2d(x, self.kernel, self.bias)
        loudest = functional.max_pool2d(bands, (1, bands.shape[3]))[..., 0]  # 10 x as fast as amax(3) on a CPU
        out = self.constant.expand(len(x), -1, loudest.shape[2]).clone()
        out[:, self.alive] = self.norm(functional.relu(self.sign * loudest))
        return out


class Network:
    """The whole of musicnn.

    Parameters
    ----------
    weights : mapping of name to tensor
        As in `weight_shapes`, on the device where the network shall run.
    """

    def __init__(self, weights: Weights) -> None:
        device = weights["dense/bias"].device
        self._hann = torch.hann_window(STFT, dtype=torch.float64).float().to(device)
        self._bands = torch.from_numpy(slaney_filters()).to(device)
        self._input = _Norm.read(weights, 0)
        self._filters = [_Filters.read(weights, place) for place in range(len(_KERNELS))]
        self._norms = [_Norm.read(weights, 9), _Norm.read(weights, 10)]
        self._dense = [(weights[f"{name}/kernel"], weights[f"{name}/bias"]) for name in ("dense", "dense_1")]

    def log_mel(self, windows: Tensor) -> Tensor:
        """Compute ``log10(10000 * mel power + 1)``.

        The original rounds the mel power to float16 before the logarithm, and so do we (it is 5e-5 of a tag). Sound too
        loud for float16, with peaks far above 1, is clipped there instead of becoming infinite.

        Parameters
        ----------
        windows : tensor, shape (n, n_samples)

        Returns
        -------
        tensor, shape (n, 1 + (n_samples - 512) // 256, 96)
        """
        spectrum = torch.fft.rfft(windows.unfold(1, STFT, HOP) * self._hann)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = (power @ self._bands).clamp(max=_FLOAT16_MAX).half().float()
        return torch.log10(10000 * mel + 1)

    def activations(self, windows: Tensor) -> Iterator[Tensor]:
        """Yield the layers from timbral to penultimate, then the tags; what is not asked for is not computed.

        Parameters
        ----------
        windows : tensor, shape (n, n_samples)

        Yields
        ------
        tensor, shape (n, dim, n_frames) up to cnn3, then (n, dim)
        """
        x = self._input(self.log_mel(windows))[:, None]
        timbral = torch.cat([filters(x) for filters in self._filters[:2]], 1)
        yield timbral
        temporal = torch.cat([filters(x) for filters in self._filters[2:5]], 1)
        yield temporal
        features = [torch.cat([timbral, temporal], 1)]
        for filters in self._filters[5:]:
            new = filters(features[-1][..., None])
            features.append(new if len(features) == 1 else new + features[-1])
            yield features[-1]
        together = torch.cat(features, 1)
        mean_pool, max_pool = together.mean(2), together.amax(2)
        yield mean_pool
        yield max_pool
        (kernel, bias), (tag_kernel, tag_bias) = self._dense
        pooled = torch.stack([max_pool, mean_pool], 2).flatten(1)  # maximum and mean of one feature side by side
        hidden = self._norms[0](pooled) @ kernel + bias
        penultimate = self._norms[1](functional.relu(hidden))
        yield penultimate
        yield torch.sigmoid(penultimate @ tag_kernel + tag_bias)
