"""Matrix products in the form that this machine multiplies fastest.

PyTorch hands float32 products to MKL, which leaves AVX-512 unused on processors of another make than Intel's. oneDNN, which
PyTorch carries too, does not, and takes weights that were brought into its own layout once: 2.3 times as fast on an AMD
EPYC of 2024. PyTorch offers it for eager code under ``torch.ops.mkldnn`` only, which is no public interface: hence the
trial in `products_for`, and `Plain`, which always works.
"""

from __future__ import annotations

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
        self._softmax = torch.softmax

    def pack(self, weight: Any, bias: Any | None) -> Any:
        """Bring a weight into the layout of `linear`; see `Products`."""
        return self._reorder(weight.contiguous(), _ROWS), bias

    def linear(self, x: Any, packed: Any, *, gelu: bool = False, plus: Any | None = None) -> Any:
        """Multiply; see `Products`."""
        if plus is not None:
            return self._linear_plus(x, plus, *packed, "add")
        return self._linear(x, *packed, *(_GELU if gelu else _NOTHING))

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
    plain = Plain()
    x, weight, bias = torch.linspace(-1, 1, 70).view(10, 7), torch.linspace(-1, 1, 35).view(5, 7), torch.ones(5)
    q = torch.linspace(-1, 1, 24).view(1, 2, 3, 4)
    try:
        onednn = OneDNN()
        pairs = [(one.linear(x, one.pack(weight, bias), gelu=True), one.attend(q, q, q)) for one in (plain, onednn)]
        pairs += [(one.linear(x, one.pack(weight, None), plus=x[:, :5].clone()), q) for one in (plain, onednn)]
        return all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(pairs[0] + pairs[2], pairs[1] + pairs[3], strict=True)
        )
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):  # a PyTorch without them, or with other ones
        return False
