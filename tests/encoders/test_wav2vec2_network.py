"""The fast network against the transformers library, layer by layer."""

from types import SimpleNamespace

import numpy as np
import pytest

from embedstore.encoders.products import Plain, products_for
from embedstore.encoders.wav2vec2_network import Wav2Vec2Network, not_covered

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
SMALL |= {"conv_dim": [32] * 7, "num_conv_pos_embedding_groups": 4}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
NETWORKS = {
    "music2vec": ("data2vec-audio", {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}),
    "even kernel": ("data2vec-audio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 18, "conv_bias": True}),
    "wav2vec2-base": ("wav2vec2", {"num_conv_pos_embeddings": 128}),
    "wav2vec2-large": ("wav2vec2", {"num_conv_pos_embeddings": 128, **STABLE}),
    "hubert-base": ("hubert", {"num_conv_pos_embeddings": 128, "conv_bias": True}),
    "hubert-large": ("hubert", {"num_conv_pos_embeddings": 33, **STABLE}),
    "distilhubert": ("hubert", {"num_conv_pos_embeddings": 16, "feat_proj_layer_norm": False}),
    "wavlm-base": ("wavlm", {"num_conv_pos_embeddings": 16}),
    "wavlm-large": ("wavlm", {"num_conv_pos_embeddings": 16, **STABLE}),
    "other strides": ("wav2vec2", {"conv_dim": [16] * 3, "conv_kernel": [8, 4, 3], "conv_stride": [4, 3, 2]}),
}


def network_of(family, fields):
    """Build a transformers network whose parameters are neither ones nor zeros."""
    import torch
    from transformers import MODEL_MAPPING, AutoConfig

    from embedstore.encoders.base import import_torchaudio

    import_torchaudio()
    config = AutoConfig.for_model(family, **{**SMALL, **fields})
    torch.manual_seed(0)
    network = MODEL_MAPPING[type(config)](config).eval().requires_grad_(requires_grad=False)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def means_of(network, window):
    """Mean over frames of what enters the first block and of what each block gives."""
    import torch

    heard = []
    hooks = [
        block.register_forward_hook(lambda _, given, gave: heard.append((given[0], gave)))
        for block in network.encoder.layers
    ]
    with torch.inference_mode():
        network(window[None])
    for hook in hooks:
        hook.remove()
    states = [heard[0][0], *(gave[0] if isinstance(gave, tuple) else gave for _, gave in heard)]
    return torch.stack([state.reshape(-1, state.shape[-1]).mean(0) for state in states]), heard[0][0].shape[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_packed_windows_is_what_transformers_gives_alone(name):
    """Both products; equal and unequal lengths in one call, one frame, several tiles."""
    import torch

    network = network_of(*NETWORKS[name])
    generator = np.random.default_rng(0)
    windows = [torch.from_numpy(generator.standard_normal(n, np.float32)) for n in (16000, 16000, 5000, 400, 60_000)]
    expected = [means_of(network, window) for window in windows]
    for products in (Plain(), products_for("cpu")):
        for layers in (range(4), [0], [1, 2], [3]):
            with torch.inference_mode():
                means, frames = Wav2Vec2Network(network, layers, products)(windows)
            assert frames == [count for _, count in expected]
            wanted = torch.stack([states[list(layers)] for states, _ in expected], 1)
            assert (means - wanted).abs().max() <= 1e-5, (products.name, layers)


@pytest.mark.slow
def test_at_full_size_it_is_as_exact_as_transformers():
    """Against float64: on weights at which float32 itself is off by 1e-5, no more than a few times as far off."""
    import torch

    from embedstore.encoders.music2vec import Music2vec

    network = network_of("data2vec-audio", {k: v for k, v in Music2vec.published.config.items() if k != "model_type"})
    window = torch.from_numpy(np.random.default_rng(0).standard_normal(80_000, np.float32))
    single, _ = means_of(network, window)
    with torch.inference_mode():
        found = [Wav2Vec2Network(network, range(13), way)([window])[0][:, 0] for way in (Plain(), products_for("cpu"))]
    exact, _ = means_of(network.double(), window.double())
    usual = (single - exact).abs().max()
    for means in found:
        assert (means - exact).abs().max() <= 4 * usual


def test_silence_and_a_constant_pass_a_group_norm():
    """Where the variance over time is zero, up to rounding."""
    import torch

    network = network_of(*NETWORKS["wav2vec2-base"])
    for window in (torch.zeros(8000), torch.full((8000,), 0.5)):
        with torch.inference_mode():
            means, _ = Wav2Vec2Network(network, range(4), Plain())([window])
        assert (means[:, 0] - means_of(network, window)[0]).abs().max() <= 1e-3  # rounding over an epsilon of 1e-5


def test_what_is_not_covered_is_named():
    """The architecture check is explicit."""
    plain = {"model_type": "hubert", "hidden_act": "gelu", "feat_extract_activation": "gelu"}
    assert not_covered(SimpleNamespace(**plain)) == ""
    for change, words in (
        ({"model_type": "sew"}, "model type sew"),
        ({"hidden_act": "relu"}, "activations relu and gelu"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
    ):
        assert not_covered(SimpleNamespace(**plain | change)) == words


@pytest.mark.parametrize("name", ["music2vec", "wav2vec2-base", "wavlm-large"])
@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.9995), ("float16", 0.99999)])
def test_half_precision_stays_near(name, precision, least):
    """Under autocast, here the CPU's: norms and sums in float32, and so are the means."""
    import torch

    network = Wav2Vec2Network(network_of(*NETWORKS[name]), range(4), Plain())
    generator = np.random.default_rng(0)
    windows = [torch.from_numpy(generator.standard_normal(n, np.float32)) for n in (16000, 5000, 400)]
    with torch.inference_mode():
        exact, _ = network(windows)
        with torch.autocast("cpu", getattr(torch, precision)):
            means, _ = network(windows)
    assert means.dtype == torch.float32
    assert not torch.equal(means, exact)
    assert torch.nn.functional.cosine_similarity(means, exact, dim=-1).min() > least


def test_a_group_norm_does_not_hear_an_offset():
    """Faint sound on a large constant, without normalisation: as near to float64 as without the constant."""
    import torch

    network = network_of(*NETWORKS["wav2vec2-base"])
    faint = 1e-2 * torch.from_numpy(np.random.default_rng(0).standard_normal(16_000, np.float32))
    with torch.inference_mode():
        means, _ = Wav2Vec2Network(network, range(4), Plain())([faint + 8.0])
    exact, _ = means_of(network.double(), (faint + 8.0).double())
    assert (means[:, 0] - exact).abs().max() <= 1e-4
