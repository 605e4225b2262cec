"""The default encoder: its published checkpoint, its defect, its sum."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from embedstore.encoders import load_encoder
from embedstore.encoders.checkpoint import build_config, random_network, sum_of_files, sum_of_tensors
from embedstore.encoders.music2vec import Music2vec
from embedstore.errors import WeightsError


def test_the_published_defect_is_mended(checkpoint, to_bin, leak_path, noise, oracle):
    """A path as vocab_size, which transformers 5 refuses, and weights only as .bin: loads, and every layer agrees."""
    from transformers import AutoConfig, __version__

    folder = leak_path(to_bin(checkpoint))
    if __version__ >= "5":
        with pytest.raises(Exception, match="vocab_size"):
            AutoConfig.from_pretrained(folder)
    windows = [noise(1), noise(2.2, seed=1), noise(0.5, seed=2)]
    encoder = load_encoder("music2vec", model=str(folder), device="cpu")
    for embedding, states in zip(encoder.encode(windows), oracle(folder, windows), strict=True):
        assert np.abs(np.array(embedding.vectors) - states).max() <= 1e-5
    assert encoder.card.weights_sha256 == sum_of_files([folder / "pytorch_model.bin"])
    assert encoder.card.model == "mine"


def test_the_licence_excludes_commerce(checkpoint):
    """Whatever folder the checkpoint lies in."""
    card = load_encoder("music2vec", model=str(checkpoint), device="cpu").card
    assert card.licence == "CC-BY-NC-4.0 (non-commercial)"
    assert card.paper.startswith("Li et al. 2022, MAP-Music2Vec")


def test_another_architecture_is_refused(saved):
    """Music2vec is data2vec; for the others there is the huggingface encoder."""
    with pytest.raises(WeightsError, match="is a model of type 'hubert'; this encoder runs data2vec-audio"):
        load_encoder("music2vec", model=str(saved("hubert")), device="cpu")


def test_without_weights_and_network_there_are_three_ways_on(hub):
    """One line, whatever the hub's client makes of a refused connection."""
    hub.disconnect()
    with pytest.raises(WeightsError) as caught:
        load_encoder("music2vec", device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("m-a-p/music2vec-v1 are not on this machine", "connect", "--model DIR", "--encoder musicnn"):
        assert part in message


def test_no_network_is_not_tried_when_the_hub_is_switched_off(hub, monkeypatch):
    """HF_HUB_OFFLINE is respected, with the same message."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="three ways on"):
        load_encoder("music2vec", device="cpu")
    assert hub.requests == []


def test_other_weights_under_the_published_name_are_refused(hub, checkpoint, to_bin, leak_path):
    """The message holds both sums; nothing of the file is unpickled."""
    folder = leak_path(to_bin(checkpoint))
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    hub.publish("m-a-p/music2vec-v1", folder)
    found = sum_of_files([folder / "pytorch_model.bin"])
    for model in (None, "m-a-p/music2vec-v1", "m-a-p/music2vec-v1@main"):
        with pytest.raises(WeightsError, match=f"have sha256 {found}, but 801d1c93.*was published; delete"):
            load_encoder("music2vec", model=model, device="cpu")


def test_the_published_weights_are_taken_from_the_hub(hub, checkpoint, to_bin, leak_path, noise, monkeypatch):
    """The way a user's first build goes, with a small stand-in whose sum is the published one."""
    folder = leak_path(to_bin(checkpoint))
    hub.publish("m-a-p/music2vec-v1", folder)
    published = replace(Music2vec.published, weights_sha256=sum_of_files([folder / "pytorch_model.bin"]))
    monkeypatch.setattr(Music2vec, "published", published)
    fetched = load_encoder(device="cpu")
    assert fetched.card.model == f"m-a-p/music2vec-v1@{hub.commit[:12]}"
    copy = load_encoder("music2vec", model=str(folder), device="cpu")
    assert replace(fetched.card, model="") == replace(copy.card, model="")
    np.testing.assert_array_equal(fetched.encode([noise(1)])[0].vectors, copy.encode([noise(1)])[0].vectors)


@pytest.mark.slow
def test_the_full_size_network_agrees_on_every_layer(tmp_path, save, to_bin, leak_path, noise, oracle):
    """Real size, published config with its defect, .bin weights: each of the 13 layers within 1e-5 of transformers."""
    full = {name: value for name, value in Music2vec.published.config.items() if name != "model_type"}
    folder = leak_path(to_bin(save(tmp_path / "full", "data2vec", **full)))
    encoder = load_encoder("music2vec", model=str(folder), device="cpu")
    assert [(layer.number, layer.dim) for layer in encoder.card.layers] == [(n, 768) for n in range(13)]
    assert (encoder.card.default_layer, encoder.windowing.minimum, encoder.card.frame_rate) == (6, 400, 50.0)
    windows = [noise(5), noise(5, seed=1), noise(3.3, seed=2)]
    embeddings = encoder.encode(windows)
    assert [embedding.n_frames for embedding in embeddings] == [249, 249, 164]
    for embedding, states in zip(embeddings, oracle(folder, windows), strict=True):
        for number, (vector, state) in enumerate(zip(embedding.vectors, states, strict=True)):
            assert np.abs(vector - state).max() <= 1e-5, number
    part = load_encoder("music2vec", model=str(folder), device="cpu", layers="0-6").encode(windows[:1])[0]
    np.testing.assert_array_equal(part.vectors, embeddings[0].vectors[:7])


@pytest.mark.slow
def test_random_music2vec_is_the_same_in_every_process():
    """The published architecture, as large as the published file, with the seed's weights; nothing downloaded."""
    program = (
        "from embedstore.encoders import load_encoder; import json;"
        "print(json.dumps(load_encoder('random:music2vec', device='cpu', seed=3).card.to_dict()))"
    )
    card = json.loads(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    )
    here = load_encoder("random:music2vec", device="cpu", seed=3)
    assert card == json.loads(json.dumps(here.card.to_dict()))
    network = random_network(build_config(Music2vec.published.config, ["data2vec-audio"], "published"), 3)
    assert sum_of_tensors(network) == here.card.weights_sha256
    parameters = sum(p.numel() for p in network.parameters())
    mask_vector, published_bytes = 768, 372_729_461
    assert 0 < published_bytes - 4 * (parameters + mask_vector) < 100_000  # the rest is names and padding
