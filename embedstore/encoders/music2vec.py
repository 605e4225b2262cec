"""MAP-Music2Vec: data2vec trained on music, the encoder that `build` uses unless told otherwise."""

from __future__ import annotations

from typing import ClassVar

from embedstore.encoders.huggingface import HuggingFace, Published

__all__ = ["Music2vec"]


class Music2vec(HuggingFace):
    """The published music2vec-v1, or a checkpoint of the same architecture.

    It was trained on crops of 5 seconds, hence the default window. `model` may name a folder or another hub id; the
    weights of the published id must have the published sum. See `HuggingFace` for the options.
    """

    name: ClassVar[str] = "music2vec"
    papers = {  # noqa: RUF012 - a constant of the class
        "data2vec-audio": "Li et al. 2022, MAP-Music2Vec: A Simple and Effective Baseline for Self-Supervised Music "
        "Audio Representation Learning"
    }
    published = Published(
        model="m-a-p/music2vec-v1",
        weights_sha256="801d1c93ff5487cc37b47441dd33b4b555553881afaa78be5148c89f8746b98f",
        config={
            "model_type": "data2vec-audio",
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "conv_dim": [512] * 7,
            "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
            "conv_stride": [5, 2, 2, 2, 2, 2, 2],
            "conv_bias": False,
            "feat_extract_activation": "gelu",
            "num_conv_pos_embeddings": 5,
            "num_conv_pos_embedding_groups": 16,
            "conv_pos_kernel_size": 19,
        },
        licence="CC-BY-NC-4.0 (non-commercial)",
    )
