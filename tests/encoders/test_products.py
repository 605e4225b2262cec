"""Matrix products: oneDNN's against PyTorch's, and the choice between them."""

import numpy as np
import pytest

from embedstore.encoders import products
from embedstore.encoders.products import OneDNN, Plain, products_for

needs_onednn = pytest.mark.skipif(products_for("cpu").name != "oneDNN", reason="this PyTorch has no oneDNN products")


def draw(*shape):
    """Seeded normal numbers."""
    import torch

    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape, np.float32))


@needs_onednn
@pytest.mark.parametrize(("rows", "width", "out"), [(1, 10, 512), (48, 1536, 512), (249, 768, 2304), (600, 33, 7)])
def test_linear_is_pytorchs(rows, width, out):
    """With and without bias, with GELU, with a sum; in one window and in several."""
    one, plain = OneDNN(), Plain()
    x, weight, bias = draw(rows, width), draw(out, width) / width**0.5, draw(out)
    for b in (bias, None):
        a, c = one.pack(weight, b), plain.pack(weight, b)
        for options in ({}, {"gelu": True}, {"plus": draw(rows, out)}):
            np.testing.assert_allclose(one.linear(x, a, **options), plain.linear(x, c, **options), atol=1e-5)
            if "plus" not in options:
                several = one.linear(x[None].expand(2, -1, -1).contiguous(), a, **options)
                np.testing.assert_allclose(several[1], plain.linear(x, c, **options), atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("rows", [1, 249, 1100])
def test_attention_is_pytorchs(rows):
    """One block of queries and several, with and without a bias; from views as the network gives them."""
    q, k, v = draw(2, rows, 3, 4, 8).permute(2, 0, 3, 1, 4)
    for bias in (None, draw(2, 4, rows, rows)):
        found, expected = (way.attend(q, k, v, bias) for way in (OneDNN(), Plain()))
        assert found.shape == (2, rows, 4, 8)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize(("rows", "kernel", "groups"), [(1, 19, 4), (249, 19, 16), (400, 128, 16), (7, 1, 1)])
def test_convolution_is_pytorchs(rows, kernel, groups):
    """Odd and even kernels, groups, other lengths than the packed one; each of several windows for itself."""
    import torch

    with torch.inference_mode():
        convolution = torch.nn.Conv1d(64, 64, kernel, padding=kernel // 2, groups=groups)
        x = draw(2, rows, 64)
        expected = convolution(x.transpose(1, 2)).transpose(1, 2)
        for way in (OneDNN(), Plain()):
            np.testing.assert_allclose(way.convolve(x, way.pack_convolution(convolution)), expected, atol=1e-5)


@needs_onednn
def test_a_row_does_not_depend_on_its_company():
    """So that a shorter last tile gives the same bits as a longer one."""
    one, x = OneDNN(), draw(249, 768)
    packed = one.pack(draw(512, 768), None)
    whole = one.linear(x, packed)
    for rows in (2, 7, 48, 100):
        np.testing.assert_array_equal(one.linear(x[:rows].contiguous(), packed), whole[:rows])


def test_elsewhere_than_on_a_cpu_products_are_pytorchs():
    """OneDNN's are for float32 on the CPU."""
    assert (products_for("cuda").name, products_for("mps").name) == ("PyTorch", "PyTorch")


def wrong(_self, x, _packed, **_options):
    """Multiply wrongly."""
    return x[..., :5] * 2


def missing(*_args, **_options):
    """Be an operator that this PyTorch does not have."""
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


@pytest.mark.parametrize("fault", [wrong, missing])
def test_products_that_are_wrong_or_missing_are_not_chosen(fault, monkeypatch):
    """The interface is not a public one: another PyTorch may do without it, or do something else by its name."""
    monkeypatch.setattr(products.OneDNN, "linear", fault)
    assert products_for("cpu").name == "PyTorch"


def test_onednn_can_be_switched_off():
    """By PyTorch's own switch."""
    import torch

    with torch.backends.mkldnn.flags(enabled=False):
        assert products_for("cpu").name == "PyTorch"


@needs_onednn
def test_the_choice_does_not_depend_on_the_users_default_type():
    """A program that computes in float64 gets the same bits."""
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        assert products_for("cpu").name == "oneDNN"
    finally:
        torch.set_default_dtype(torch.float32)
