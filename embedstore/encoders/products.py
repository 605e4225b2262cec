"""Matrix products in the form that this machine multiplies fastest.

PyTorch hands float32 products to MKL, which leaves AVX-512 unused on processors of another make than Intel's. oneDNN, which
PyTorch carries too, does not, and takes weights that were brought into its own layout once: 2.3 times as fast on an AMD
EPYC of 2024. PyTorch offers it for eager code under ``torch.ops.mkldnn`` only, which is no public interface: hence the
trial in `products_for`, and `Plain`, which always works.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

__all__ = ["OneDNN", "Plain", "Products", "products_for"]

_ROWS = 249  # rows that the packed layout is chosen for: the frames of 5 s
_QUERIES = 512  # rows of attention scores that stay in the cache
_GELU: tuple[Any, ...] = ("gelu", [], "none")  # the exact one, by the error function
_NOTHING: tuple[Any, ...] = ("none", [], "")


class Products(Protocol):
    """Products of a network at inference; all arrays are torch tensors, rows last but one."""

    name: str

    def pack(self, weight: Any, bias: Any | None) -> Any:
        """Bring a weight of shape (out, in) and its bias into the layout of `linear`."""

    def linear(self, x: Any, packed: Any, *, gelu: bool = False, plus: Any | None = None) -> Any:
        """Give ``x @ weight.T + bias``, then GELU or the sum with `plus` (which it may overwrite)."""

    def pack_convolution(self, convolution: Any) -> Any:
        """Bring a Conv1d of stride 1 into the layout of `convolve`."""

    def convolve(self, x: Any, packed: Any) -> Any:
        """Convolve along the rows of x (batch, rows, in), to (batch, rows or one more, out)."""

    def attend(self, q: Any, k: Any, v: Any, bias: Any | None = None) -> Any:
        """Give softmax(q k' + bias) v, shape (batch, rows, heads, width), for q, k, v (batch, heads, rows, width)."""


class Plain:
    """PyTorch's public functions, on any device."""

    name = "PyTorch"

    def pack(self, weight: Any, bias: Any | None) -> Any:
        """Bring a weight into the layout of `linear`; see `Products`."""
        return weight.contiguous(), bias

    def linear(self, x: Any, packed: Any, *, gelu: bool = False, plus: Any | None = None) -> Any:
        """Multiply; see `Products`."""
        from torch.nn import functional

        y = functional.linear(x, *packed)
        if plus is not None:
            return y + plus
        return functional.gelu(y) if gelu else y

    def pack_convolution(self, convolution: Any) -> Any:
        """Bring a convolution into the layout of `convolve`; see `Products`."""
        weight = convolution.weight.detach()[:, :, None]  # as of an image of one line
        return weight, convolution.bias, convolution.padding[0], convolution.groups

    def convolve(self, x: Any, packed: Any) -> Any:
        """Convolve; see `Products`."""
        from torch.nn import functional

        weight, bias, padding, groups = packed
        image = x.transpose(1, 2)[:, :, None]  # channels last
        return functional.conv2d(image, weight, bias, padding=(0, padding), groups=groups)[:, :, 0].transpose(1, 2)

    def attend(self, q: Any, k: Any, v: Any, bias: Any | None = None) -> Any:
        """Attend; see `Products`."""
        from torch.nn import functional

        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).transpose(1, 2)


class OneDNN:
    """oneDNN's packed products, float32 on the CPU."""

    name = "oneDNN"

    def __init__(self) -> None:
        import torch

        ops = torch.ops.mkldnn
        self._reorder = ops._reorder_linear_weight  # noqa: SLF001 - see the top of this file
        self._linear = ops._linear_pointwise.default  # noqa: SLF001
        self._linear_plus = ops._linear_pointwise.binary  # noqa: SLF001
        self._reorder_convolution = ops._reorder_convolution_weight  # noqa: SLF001
        self._convolution = ops._convolution_pointwise.default  # noqa: SLF001
        self._channels_last, self._softmax = torch.channels_last, torch.softmax

    def pack(self, weight: Any, bias: Any | None) -> Any:
        """Bring a weight into the layout of `linear`; see `Products`."""
        return self._reorder(weight.contiguous(), _ROWS), bias

    def linear(self, x: Any, packed: Any, *, gelu: bool = False, plus: Any | None = None) -> Any:
        """Multiply; see `Products`."""
        if plus is not None:
            return self._linear_plus(x, plus, *packed, "add")
        return self._linear(x, *packed, *(_GELU if gelu else _NOTHING))

    def pack_convolution(self, convolution: Any) -> Any:
        """Bring a convolution into the layout of `convolve`; see `Products`."""
        weight = convolution.weight.detach()[:, :, None].contiguous(memory_format=self._channels_last)
        shape = ([0, convolution.padding[0]], [1, 1], [1, 1], convolution.groups)
        packed = self._reorder_convolution(weight, *shape, [1, convolution.in_channels, 1, _ROWS])
        return packed, convolution.bias, *shape

    def convolve(self, x: Any, packed: Any) -> Any:
        """Convolve; see `Products`."""
        return self._convolution(x.transpose(1, 2)[:, :, None], *packed, *_NOTHING)[:, :, 0].transpose(1, 2)

    def attend(self, q: Any, k: Any, v: Any, bias: Any | None = None) -> Any:
        """Attend; see `Products`."""
        # sdpa multiplies by MKL; head by head, a block of scores stays in the cache
        product = self._linear
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous().transpose(2, 3).contiguous()
        count, heads, rows, width = q.shape
        out = q.new_empty(count, rows, heads, width)
        for n in range(count):
            for head in range(heads):
                for start in range(0, rows, _QUERIES):
                    part = slice(start, start + _QUERIES)
                    scores = product(q[n, head, part], k[n, head], None, *_NOTHING)
                    if bias is not None:
                        scores += bias[n, head, part]
                    out[n, part, head] = product(self._softmax(scores, -1), v[n, head], None, *_NOTHING)
        return out


def products_for(device: str) -> Products:
    """Choose the products for a device: oneDNN's on a CPU where they are there and right, PyTorch's own elsewhere.

    The choice depends on the installation alone, never on a timing: equal sound must give equal bits tomorrow.
    """
    return OneDNN() if device == "cpu" and _onednn_works() else Plain()


def _onednn_works() -> bool:
    import torch

    mkldnn: Any = torch.backends.mkldnn
    if not (mkldnn.is_available() and mkldnn.enabled):
        return False

    def numbers(*shape: int) -> Any:
        return torch.linspace(-1, 1, math.prod(shape), dtype=torch.float32).view(shape)

    def results(way: Products) -> list[Any]:
        x, weight, q = numbers(10, 7), numbers(5, 7), numbers(1, 2, 3, 4)
        with torch.random.fork_rng(devices=[]):
            convolution: Any = torch.nn.Conv1d(7, 7, 3, padding=1, dtype=torch.float32)
        convolution.weight.copy_(numbers(7, 7, 3))
        convolution.bias.copy_(numbers(7))
        return [
            way.linear(x, way.pack(weight, numbers(5)), gelu=True),
            way.linear(x, way.pack(weight, None), plus=x[:, :5].clone()),
            way.convolve(x[None], way.pack_convolution(convolution)),
            way.attend(q, q, q),
        ]

    try:
        with torch.inference_mode():
            found, wanted = results(OneDNN()), results(Plain())
        return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):  # a PyTorch without them, or with other ones
        return False
