"""The wav2vec2 family at inference, in plain torch: the numbers of the transformers library in a fraction of the time.

What it does otherwise (Baevski et al. 2020, arXiv:2006.11477, figure 1 from bottom to top)::

    sound     tiles of 50 frames go through all convolutions while they are in the cache; neighbours share a few samples
    conv      frames x channels: a convolution is one matrix product with a strided view of its input
    position  grouped convolution, channels last
    blocks    one product for query, key and value; GELU and residual sums inside the products
    means     of each layer as it passes, so that no layer's frames are kept

Windows of unequal length are packed, never padded: products and norms see all rows, convolution and attention see one
length at a time. The transformers network is the oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from embedstore.encoders.products import Products

__all__ = ["Wav2Vec2Network", "not_covered", "receptive_field"]

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
_TILE = 50  # frames, one second: 10 MB in the widest place, below what malloc asks the kernel for anew each time


def not_covered(config: Any) -> str:
    """Say which part of an architecture `Wav2Vec2Network` does not have; empty if it has all."""
    if config.model_type not in FAMILIES:
        return f"model type {config.model_type}"
    if (config.hidden_act, config.feat_extract_activation) != ("gelu", "gelu"):
        return f"activations {config.hidden_act} and {config.feat_extract_activation}"
    for name in ("adapter_attn_dim", "conv_pos_batch_norm"):
        if getattr(config, name, None):
            return name
    return ""


def receptive_field(config: Any) -> int:
    """Count the samples behind one frame."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


class Wav2Vec2Network:
    """A wav2vec2, HuBERT, WavLM or Data2Vec-audio network that gives the mean of each layer.

    Parameters
    ----------
    network : Wav2Vec2Model, HubertModel, WavLMModel or Data2VecAudioModel
        Of the transformers library, in eval mode, on its device; `not_covered` says nothing about its config.
    layers : collection of int
        Wanted layers: 0 is what enters the first block, n what block n gives. Blocks after the last one are not run.
    products : Products
    """

    def __init__(self, network: Any, layers: Collection[int], products: Products) -> None:
        config = network.config
        self._products = products
        self._layers = sorted(layers)
        self._heads = config.num_attention_heads
        self._pre_norm = getattr(config, "do_stable_layer_norm", False)
        self._steps = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self._hop, self._span = math.prod(config.conv_stride), receptive_field(config)
        convolutions = network.feature_extractor.conv_layers
        first = convolutions[0]
        self._group_norm: Any = first if getattr(config, "feat_extract_norm", "layer") == "group" else None
        self._convolutions = [
            (
                products.pack(_taps_first(layer.conv.weight), layer.conv.bias),
                None if self._group_norm else _norm(layer.layer_norm),
            )
            for layer in convolutions
        ]
        projection = network.feature_projection
        self._project_norm = _norm(projection.layer_norm) if hasattr(projection, "layer_norm") else None
        self._project = products.pack(projection.projection.weight, projection.projection.bias)
        position = network.encoder.pos_conv_embed
        self._stacked = hasattr(position, "layers")
        self._positions = [
            products.pack_convolution(layer.conv) for layer in (position.layers if self._stacked else [position])
        ]
        self._input_norm = None if self._pre_norm else _norm(network.encoder.layer_norm)
        blocks = network.encoder.layers[: self._layers[-1]]
        self._blocks = [_Block(block, products) for block in blocks]
        self._relative: Any = network.encoder.layers[0].attention if config.model_type == "wavlm" else None

    def __call__(self, windows: Sequence[Any]) -> tuple[Any, list[int]]:
        """Hear windows.

        Parameters
        ----------
        windows : sequence of float32 tensors, each shape (n_samples,)
            Windows of equal length next to each other share products.

        Returns
        -------
        means : float32 tensor, shape (n_layers, n_windows, dim)
        frames : list of int
            Frames behind each window's means.
        """
        import torch

        batches = [torch.stack(list(alike)) for _, alike in groupby(windows, key=len)]
        inputs = [self._enter(batch) for batch in batches]
        shapes = [tuple(rows.shape[:2]) for rows in inputs]
        rows = torch.cat([rows.flatten(0, 1) for rows in inputs])
        biases = [self._position_bias(length) for _, length in shapes] if self._relative else [None] * len(shapes)
        means = [_means(rows, shapes)] if self._layers[0] == 0 else []
        for number, block in enumerate(self._blocks, start=1):
            rows = self._run(block, rows, shapes, biases)
            if number in self._layers:
                means.append(_means(rows, shapes))
        return torch.stack(means), [length for count, length in shapes for _ in range(count)]

    def _enter(self, sound: Any) -> Any:
        """Turn windows (n, samples) into what enters the first block (n, frames, dim)."""
        rows = self._features(sound)
        rows = self._products.linear(_normed(rows, self._project_norm), self._project)
        return _normed(rows + self._position(rows), self._input_norm).float()  # under autocast, too

    def _features(self, sound: Any) -> Any:
        import torch

        hop, span = self._hop, self._span
        frames = (sound.shape[1] - span) // hop + 1
        if self._group_norm:  # it does not hear a constant offset, whose rounding would be heard
            sound = sound - sound.mean(1, keepdim=True)
        first = self._fold_group_norm(sound) if self._group_norm else None
        tile = _TILE if sound.device.type == "cpu" else frames
        tiles = []
        for start in range(0, frames, tile):
            stop = min(start + tile, frames)
            tiles.append(self._convolve(sound[:, start * hop : (stop - 1) * hop + span], first))
        return torch.cat(tiles, 1)

    def _convolve(self, sound: Any, first: Any | None) -> Any:
        """Take a tile (n, samples) through all convolutions, to (n, frames, channels)."""
        import torch

        rows = sound[:, :, None].contiguous()
        for place, ((kernel, stride), (packed, norm)) in enumerate(zip(self._steps, self._convolutions, strict=True)):
            taps = _taps(rows, kernel, stride)
            if place == 0 and first is not None:
                rows = torch.nn.functional.gelu(torch.baddbmm(first[1], taps, first[0]))
            elif norm is None:
                rows = self._products.linear(taps, packed, gelu=True)
            else:
                rows = torch.ops.aten.gelu_(_normed(self._products.linear(taps, packed), norm))
        return rows

    def _fold_group_norm(self, sound: Any) -> tuple[Any, Any]:
        """Fold each window's group norm after the first convolution into its weights.

        The norm needs the mean and variance of each channel over the window. A channel is w·p for patches p of the
        sound, so they are w·mean(p) and w'cov(p)w: ten numbers and a hundred, before any convolution.
        """
        layer, (kernel, stride) = self._group_norm, self._steps[0]
        exact = sound.cpu() if sound.device.type == "mps" else sound  # mps has no float64
        patches = exact.unfold(1, kernel, stride).double()
        mean = patches.mean(1, keepdim=True)
        patches = patches - mean
        covariance = patches.transpose(1, 2) @ patches / patches.shape[1]
        weight, gain, bias = (
            t.to(patches) for t in (layer.conv.weight[:, 0], layer.layer_norm.weight, layer.layer_norm.bias)
        )
        scale = gain / ((weight @ covariance) * weight).sum(-1).add(layer.layer_norm.eps).sqrt()
        shift = bias - scale * (mean @ weight.T)[:, 0]  # a bias of the convolution cancels out
        return (weight * scale[:, :, None]).transpose(1, 2).to(sound), shift[:, None].to(sound)

    def _position(self, rows: Any) -> Any:
        import torch

        length = rows.shape[1]
        for packed in self._positions:
            rows = self._products.convolve(rows, packed)[:, :length]  # an even kernel gives a frame too many
            if self._stacked:
                rows = torch.nn.functional.layer_norm(rows, rows.shape[2:])
            rows = torch.ops.aten.gelu_(rows)
        return rows

    def _run(self, block: _Block, rows: Any, shapes: list[tuple[int, int]], biases: list[Any]) -> Any:
        products = self._products
        heard = _normed(rows, block.norm) if self._pre_norm else rows
        told = products.linear(self._attention(block, heard, shapes, biases), block.out, plus=rows)
        if self._pre_norm:
            inner = products.linear(_normed(told, block.final_norm), block.up, gelu=True)
            return products.linear(inner, block.down, plus=told)
        told = _normed(told, block.norm)
        return _normed(
            products.linear(products.linear(told, block.up, gelu=True), block.down, plus=told), block.final_norm
        )

    def _attention(self, block: _Block, rows: Any, shapes: list[tuple[int, int]], biases: list[Any]) -> Any:
        import torch

        projected = self._products.linear(rows, block.query_key_value)
        results, start = [], 0
        for (count, length), bias in zip(shapes, biases, strict=True):
            stop = start + count * length
            q, k, v = projected[start:stop].view(count, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            gated = None if bias is None else block.gate(rows[start:stop].view(count, length, self._heads, -1)) * bias
            results.append(self._products.attend(q, k, v, gated).reshape(stop - start, -1))
            start = stop
        return results[0] if len(results) == 1 else torch.cat(results)

    def _position_bias(self, length: int) -> Any:
        """WavLM's relative position bias (heads, length, length), as its first block has it."""
        return self._relative.compute_bias(length, length)


class _Block:
    """The weights of one transformer block."""

    def __init__(self, block: Any, products: Products) -> None:
        import torch

        attention, forward = block.attention, block.feed_forward
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        scale = attention.head_dim**-0.5  # of the scores; a power of two in most networks, hence exact
        self.query_key_value = products.pack(
            torch.cat([query.weight * scale, key.weight, value.weight]),
            torch.cat([query.bias * scale, key.bias, value.bias]),
        )
        self.out = products.pack(attention.out_proj.weight, attention.out_proj.bias)
        self.up = products.pack(forward.intermediate_dense.weight, forward.intermediate_dense.bias)
        self.down = products.pack(forward.output_dense.weight, forward.output_dense.bias)
        self.norm, self.final_norm = _norm(block.layer_norm), _norm(block.final_layer_norm)
        self._gate: Any = getattr(attention, "gru_rel_pos_linear", None)
        self._gate_scale = getattr(attention, "gru_rel_pos_const", None)

    def gate(self, rows: Any) -> Any:
        """WavLM's gate on the position bias (Chen et al. 2022, section 3.1): (n, length, heads, width) to (n, heads, length, 1)."""
        gates = self._gate(rows.transpose(1, 2)).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        reset, update = gates[..., :1], gates[..., 1:]
        return reset * (update * self._gate_scale - 1.0) + 2.0


def _norm(layer: Any) -> tuple[Any, Any, Any, float]:
    return layer.normalized_shape, layer.weight, layer.bias, layer.eps


def _normed(rows: Any, norm: tuple[Any, Any, Any, float] | None) -> Any:
    import torch

    return rows if norm is None else torch.nn.functional.layer_norm(rows, *norm)


def _taps_first(weight: Any) -> Any:
    """Write a convolution's weight (out, in, taps) as a matrix (out, taps x in)."""
    return weight.permute(0, 2, 1).flatten(1)


def _taps(rows: Any, kernel: int, stride: int) -> Any:
    """Lay the rows under each step of a convolution side by side: (n, length, in) to (n, steps, taps x in)."""
    count, length, width = rows.shape
    steps = (length - kernel) // stride + 1
    return rows.as_strided((count, steps, kernel * width), (length * width, stride * width, 1)).contiguous()


def _means(rows: Any, shapes: list[tuple[int, int]]) -> Any:
    """Mean over the frames of each window: (rows, dim) to (windows, dim)."""
    import torch

    parts = rows.split([count * length for count, length in shapes])
    return torch.cat(
        [part.view(count, length, -1).mean(1) for part, (count, length) in zip(parts, shapes, strict=True)]
    )
