"""Checkpoints of the transformers library, against the transformers library itself."""

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.encoders import MeanPool, load_encoder, recipe_of
from embedstore.encoders.products import products_for
from embedstore.errors import EncoderError, ParameterError, UnknownNameError, WeightsError
from embedstore.testing import check_encoder

KINDS = ["data2vec", "wav2vec2", "wav2vec2-stable", "hubert", "hubert-stable", "wavlm", "wavlm-stable"]


def load(folder, **options):
    """Load a checkpoint on the CPU."""
    return load_encoder("huggingface", model=str(folder), device="cpu", **options)


def worst(embeddings, expected):
    """Largest difference between encoded windows and the expected vectors, over all layers."""
    return max(
        np.abs(vector - wanted).max()
        for embedding, wanteds in zip(embeddings, expected, strict=True)
        for vector, wanted in zip(embedding.vectors, wanteds, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_what_transformers_gives_one_window_at_a_time(kind, saved, noise, oracle):
    """Windows of equal and unequal length in one call, down to the shortest, on each architecture and both norms."""
    import transformers

    windows = [noise(1), noise(0.7, seed=1), noise(1, seed=2), noise(400 / 16000, seed=3)]
    encoder = load(saved(kind))
    expected = oracle(saved(kind), windows)
    embeddings = encoder.encode(windows)
    assert [len(e.vectors) for e in embeddings] == [4] * 4
    assert [e.n_frames for e in embeddings] == [49, 34, 49, 1]
    if kind.endswith("stable") and transformers.__version__ < "5":  # there, the last one is normalised once more
        expected = [states[:-1] for states in expected]
        embeddings = load(saved(kind), layers="0-2").encode(windows)
    assert worst(embeddings, expected) <= 1e-5


@pytest.mark.parametrize("kind", ["data2vec", "wav2vec2-stable", "wavlm"])
@pytest.mark.parametrize(("layers", "numbers", "blocks"), [("0-1", [0, 1], 1), ("0,2", [0, 2], 2), ("0", [0], 0)])
def test_fewer_layers_are_the_same_layers_by_fewer_blocks(kind, layers, numbers, blocks, saved, noise):
    """Stopping early is exact, and it does stop."""
    windows = [noise(1)]
    full, part = load(saved(kind)), load(saved(kind), layers=layers)
    assert len(part._network._blocks) == blocks
    assert [layer.number for layer in part.card.layers] == numbers
    whole = full.encode(windows)[0].vectors
    np.testing.assert_array_equal(part.encode(windows)[0].vectors, [whole[n] for n in numbers])


@pytest.mark.parametrize("kind", KINDS)
def test_the_promises_of_an_encoder_are_kept(kind, saved):
    """The conformance suite: shapes, company, order, threads, card."""
    check_encoder(load(saved(kind), window=0.5))


def encode_in_batches(encoder, windows, samples):
    """Encode as on a GPU: windows of up to so many samples together."""
    encoder._runner._samples = samples
    try:
        return encoder.encode(windows)
    finally:
        encoder._runner._samples = 1


@pytest.mark.parametrize("kind", ["data2vec", "wav2vec2", "hubert-stable", "wavlm"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.sampled_from([400, 719, 720, 4800, 16000, 20001]), min_size=1, max_size=9),
    order=st.randoms(use_true_random=False),
    samples=st.integers(1, 60_000),
    threads=st.integers(1, 2),
)
def test_the_same_sound_gives_the_same_vector(kind, lengths, order, samples, threads, saved):
    """In any order and company bit for bit; packed as on a GPU, and with other threads, within 1e-5 of one at a time."""
    import torch

    windows = [np.random.default_rng(n).normal(0, 0.2, length).astype(np.float32) for n, length in enumerate(lengths)]
    encoder = once(kind, saved)
    alone = [encoder.encode([window])[0].vectors for window in windows]
    places = order.sample(range(len(windows)), len(windows))
    for place, embedding in zip(places, encoder.encode([windows[place] for place in places]), strict=True):
        np.testing.assert_array_equal(embedding.vectors, alone[place])
    torch.set_num_threads(threads)
    try:
        assert worst(encode_in_batches(encoder, windows, samples), alone) <= 1e-5
    finally:
        torch.set_num_threads(1)


ENCODERS = {}


def once(kind, saved):
    """Load a checkpoint once for all examples."""
    if kind not in ENCODERS:
        ENCODERS[kind] = load(saved(kind))
    return ENCODERS[kind]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "fast (oneDNN)" if products_for("cpu").name == "oneDNN" else "fast (PyTorch)"),
        ({"hidden_act": "relu"}, "transformers (activations relu and gelu)"),
        ({"feat_extract_activation": "relu"}, "transformers (activations gelu and relu)"),
    ],
)
def test_the_card_says_which_code_ran_and_both_are_right(fields, path, tmp_path, save, noise, oracle):
    """What the fast path does not cover is run by the transformers library, with the same promises."""
    folder = save(tmp_path / "net", "data2vec", **fields)
    encoder = load(folder)
    assert encoder.card.path == path
    windows = [noise(0.3 if n % 3 else 0.4, seed=n) for n in range(7)]
    expected = oracle(folder, windows)
    assert worst(encoder.encode(windows), expected) <= 1e-5
    assert worst(encode_in_batches(encoder, windows, 3 * 4800), expected) <= 1e-5
    part = load(folder, layers="0,2").encode(windows)
    assert worst(part, [[states[0], states[2]] for states in expected]) <= 1e-5


def test_a_window_that_gives_nan_costs_its_track_alone(checkpoint, noise):
    """The encoder passes it on; pooling refuses it by name (a track becomes a failure row)."""
    poisoned = noise(1)
    poisoned[100] = np.nan
    good, bad = load(checkpoint).encode([noise(1), poisoned])
    assert np.isfinite(good.vectors).all()
    with pytest.raises(EncoderError, match="gave NaN or infinity"):
        MeanPool().add(bad)


def test_half_precision_is_for_gpus(checkpoint):
    """On a CPU it would be slower and less exact; unknown names are refused."""
    with pytest.raises(ParameterError, match="precision bfloat16 needs a GPU"):
        load(checkpoint, precision="bfloat16")
    with pytest.raises(ParameterError, match="precision is float32, bfloat16, float16; got 'int8'"):
        load(checkpoint, precision="int8")


def on_a_gpu(folder, **options):
    """Load a checkpoint on the first GPU, or skip."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return load_encoder("huggingface", model=str(folder), device="cuda", window=0.5, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_hears_what_a_cpu_hears(kind, saved, noise):
    """Single precision throughout: no rounding of convolutions behind our back."""
    gpu = on_a_gpu(saved(kind))
    check_encoder(gpu, tolerance=1e-4)
    windows = [noise(0.5 if n % 3 else 0.7, seed=n) for n in range(20)]
    expected = [embedding.vectors for embedding in load(saved(kind)).encode(windows)]
    assert worst(gpu.encode(windows), expected) <= 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_on_a_gpu_is_near_and_says_so(precision, saved, noise):
    """The recipe tells it apart: its vectors do not go into a store of the other."""
    gpu, cpu = on_a_gpu(saved("data2vec"), precision=precision), load(saved("data2vec"))
    assert gpu.card.precision == precision
    windows = [noise(0.5, seed=n) for n in range(5)]
    expected = [embedding.vectors for embedding in cpu.encode(windows)]
    assert 0 < worst(gpu.encode(windows), expected) < 0.1


@pytest.mark.gpu
def test_batches_are_halved_until_they_fit_a_gpu(saved, noise):
    """The real thing: almost no memory is allowed, and everything is heard even so."""
    import torch

    gpu = on_a_gpu(saved("data2vec"))
    windows = [noise(0.5, seed=n) for n in range(400)]
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_allocated() + (48 << 20)) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        embeddings = gpu.encode(windows)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert worst(embeddings, [e.vectors for e in load(saved("data2vec")).encode(windows)]) <= 1e-4


def test_windows_are_standardised_as_the_feature_extractor_does(noise, checkpoint, oracle):
    """Silence and faint sound included; and not at all where the checkpoint says so."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    from embedstore.encoders.huggingface import _standardised

    prepare = Wav2Vec2FeatureExtractor(do_normalize=True)
    for window in (noise(1), np.zeros(500, np.float32), 1e-4 * noise(0.1)):
        expected = prepare(window, sampling_rate=16000).input_values[0]
        np.testing.assert_allclose(_standardised(torch.from_numpy(window)), expected, rtol=1e-5, atol=1e-5)
    offset = 0.9 + 1e-3 * noise(0.1)  # of which float32 knows the mean too badly
    exact = offset.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)
    np.testing.assert_allclose(_standardised(torch.from_numpy(offset)), expected, rtol=1e-5, atol=1e-5)
    (checkpoint / "preprocessor_config.json").write_text('{"do_normalize": false}')
    plain = load(checkpoint)
    assert plain.card.preprocessing == "none"
    assert worst(plain.encode([noise(1)]), oracle(checkpoint, [noise(1)], normalise=False)) <= 1e-5


def test_the_card_tells_what_ran_and_how_a_track_is_cut(saved):
    """Names, rates, layers and windows of the wav2vec2 family, from the config."""
    encoder = load(saved("hubert"))
    card = encoder.card
    assert (card.name, card.precision, card.sample_rate) == ("huggingface", "float32", 16000)
    assert (card.model, card.frame_rate, card.default_layer) == (saved("hubert").name, 50.0, 1)
    assert [(layer.number, layer.name, layer.dim) for layer in card.layers] == [(n, f"layer {n}", 32) for n in range(4)]
    assert "HuBERT" in card.paper
    assert card.licence == "unknown: check the model page"
    windowing = encoder.windowing
    assert (windowing.length, windowing.hop, windowing.min_tail, windowing.minimum) == (80000, 80000, 16000, 400)
    assert load(saved("hubert"), window=0.05).windowing.min_tail == 400
    assert load(saved("hubert"), window="track").windowing.length is None


@pytest.mark.parametrize(
    ("page", "licence"),
    [
        ("---\nlanguage: en\nlicense: mit\n---\n# A model", "mit"),
        ("---\nlicense: 'cc-by-nc-4.0'\n---\n", "cc-by-nc-4.0 (non-commercial)"),
        ("# A model\nlicense: mit\n", "unknown: check the model page"),
        ("---\nlicense:\n- a\n- b\n---\n", "unknown: check the model page"),
    ],
)
def test_the_licence_is_read_off_the_model_page(checkpoint, page, licence):
    """Only the front matter counts, and commercial use is answered in words."""
    (checkpoint / "README.md").write_text(page)
    assert load(checkpoint).card.licence == licence


def test_every_way_to_keep_weights_gives_the_same_vectors(checkpoint, to_bin, noise, tmp_path):
    """Safetensors, shards of them, .bin, and a checkpoint with a head on top; each with a sum of its own."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    shards = shutil.copytree(checkpoint, tmp_path / "shards")
    (shards / "model.safetensors").unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, shards / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    headed = to_bin(shutil.copytree(checkpoint, tmp_path / "headed"))
    head = {"lm_head.weight": torch.zeros(32, 32), **{f"data2vec_audio.{n}": t for n, t in tensors.items()}}
    del head["data2vec_audio.masked_spec_embed"]  # only training needs it
    torch.save(head, headed / "pytorch_model.bin")
    encoders = [load(folder) for folder in (checkpoint, shards, headed)] + [load(to_bin(checkpoint))]
    expected = encoders[0].encode([noise(1)])[0].vectors
    for encoder in encoders[1:]:
        np.testing.assert_array_equal(encoder.encode([noise(1)])[0].vectors, expected)
    assert len({encoder.card.weights_sha256 for encoder in encoders}) == 4
    assert {encoder.card.revision for encoder in encoders} == {encoders[0].card.revision}


def test_half_precision_weights_are_computed_with_in_single_precision(checkpoint, to_bin, noise):
    """Whatever the config calls the type of its weights, nothing is rounded after reading them."""
    import torch

    weights = to_bin(checkpoint) / "pytorch_model.bin"
    half = {name: tensor.half() for name, tensor in torch.load(weights, weights_only=True).items()}
    torch.save({name: tensor.float() for name, tensor in half.items()}, weights)
    expected = load(checkpoint).encode([noise(1)])[0].vectors
    torch.save(half, weights)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "dtype": "float16", "torch_dtype": "float16"}))
    np.testing.assert_array_equal(load(checkpoint).encode([noise(1)])[0].vectors, expected)


def test_the_revision_follows_what_the_config_makes_of_the_weights(checkpoint):
    """The same weights under another number of heads are another encoder; settings of the training are not."""
    config = json.loads((checkpoint / "config.json").read_text())
    before = load(checkpoint).card
    (checkpoint / "config.json").write_text(
        json.dumps({**config, "hidden_dropout": 0.5, "auto_map": {"AutoModel": "x"}})
    )
    assert load(checkpoint).card.revision == before.revision
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_attention_heads": 2}))
    after = load(checkpoint).card
    assert after.weights_sha256 == before.weights_sha256
    assert after.revision != before.revision


def test_random_weights_are_the_seeds_and_nobody_elses(saved, noise):
    """Equal for equal seeds, in the shape of the checkpoint, and torch's own generator is left alone."""
    import torch

    def draw(seed):
        return load_encoder("random:huggingface", model=str(saved("wav2vec2")), device="cpu", seed=seed)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.card == same.card
    assert one.card.name == "random:huggingface"
    assert one.card.licence == "none: random weights"
    assert one.card.weights_sha256 not in (other.card.weights_sha256, load(saved("wav2vec2")).card.weights_sha256)
    np.testing.assert_array_equal(one.encode([noise(1)])[0].vectors, same.encode([noise(1)])[0].vectors)
    check_encoder(load_encoder("random:huggingface", model=str(saved("wav2vec2")), device="cpu", window=0.5))


def test_two_threads_hear_what_one_hears(saved, noise):
    """Each thread's layers stay its own, with windows of different lengths at the same time."""
    encoder = load(saved("data2vec"))
    lists = [[noise(0.1 + 0.03 * n, seed=n) for n in range(start, start + 12)] for start in (0, 12)]
    alone = [encoder.encode(windows) for windows in lists]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            for expected, found in zip(alone, pool.map(encoder.encode, lists), strict=True):
                for a, b in zip(expected, found, strict=True):
                    assert a.n_frames == b.n_frames
                    np.testing.assert_array_equal(a.vectors, b.vectors)


def test_nothing_is_said_on_the_terminal(checkpoint, noise, capfd):
    """Progress bars and warnings of the libraries do not reach the user."""
    load(checkpoint).encode([noise(1)])
    assert capfd.readouterr() == ("", "")


class Harm:
    """A pickle that makes a folder when it is loaded as code."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        import os

        return os.mkdir, (self.folder,)


def rewrite(name, **changes):
    """Make a fault that changes fields of a JSON file of the checkpoint."""

    def fault(folder):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**fields, **changes}))

    return fault


def write(name, content):
    """Make a fault that overwrites a file of the checkpoint."""
    return lambda folder: (folder / name).write_bytes(content)


def without(*names):
    """Make a fault that removes files of the checkpoint."""
    return lambda folder: [(folder / name).unlink() for name in names]


def truncate(folder):
    """Keep the first half of the weights."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def index_to(shard):
    """Make a fault that replaces the weights with an index of shards."""

    def fault(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))

    return fault


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (without("config.json"), "config.json cannot be read"),
        (write("config.json", b'{"hidden'), "config.json cannot be read as JSON"),
        (write("config.json", b"[]"), "holds a list; expected a JSON object"),
        (
            rewrite("config.json", model_type="bert"),
            "mine is a model of type 'bert'; this encoder runs wav2vec2, hubert",
        ),
        (rewrite("config.json", model_type=["x"]), "is a model of type"),
        (rewrite("config.json", hidden_size="big"), "describes no network|do not fit its config"),
        (rewrite("config.json", conv_stride=[5, 2]), "the config of mine describes no network"),
        (rewrite("config.json", num_hidden_layers=0), "describes no network: it has no blocks"),
        (rewrite("config.json", num_attention_heads=5), "do not fit its config: embed_dim must be divisible"),
        (rewrite("config.json", intermediate_size=48), "do not fit its config.*size mismatch"),
        (rewrite("config.json", num_hidden_layers=4), "lack 16 of the network's .* tensors, encoder.layers.3"),
        (rewrite("config.json", model_type="hubert"), "they are of another model|do not fit its config"),
        (
            rewrite("preprocessor_config.json", do_normalize="no"),
            "the feature extractor of .*mine is damaged.*do_normalize 'no'",
        ),
        (rewrite("preprocessor_config.json", sampling_rate=10**9), "sampling_rate 1000000000|describes no network"),
        (rewrite("preprocessor_config.json", sampling_rate=0), "sampling_rate 0"),
        (without("model.safetensors"), "holds no weights; expected model.safetensors or pytorch_model.bin"),
        (truncate, "model.safetensors is damaged"),
        (write("model.safetensors", b""), "model.safetensors is damaged"),
        (write("model.safetensors", b"\xff" * 100), "model.safetensors is damaged"),
        (index_to("part.safetensors"), "lacks the weights file part.safetensors"),
        (index_to("../../secret.safetensors"), "does not list weights files of its own folder"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(checkpoint, fault, words):
    """Each fault is made for real, and its message names the file or the folder."""
    fault(checkpoint)
    with pytest.raises(WeightsError, match=words) as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_bin_file_is_one_clear_error(checkpoint, to_bin, share):
    """Wherever the copy broke off."""
    weights = to_bin(checkpoint) / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    with pytest.raises(WeightsError, match=r"pytorch_model.bin is damaged"):
        load(checkpoint)


def test_pickled_code_is_not_run(checkpoint, tmp_path):
    """Neither in torch's own format nor as a plain pickle; and the weapon works, or this would prove nothing."""
    import torch

    (checkpoint / "model.safetensors").unlink()
    weights = checkpoint / "pytorch_model.bin"
    torch.save({"weight": Harm(tmp_path / "harm")}, weights)
    with pytest.raises(WeightsError, match="pickled code is not run"):
        load(checkpoint)
    weights.write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(WeightsError, match="pickled code is not run"):
        load(checkpoint)
    assert not (tmp_path / "harm").exists()
    pickle.loads(weights.read_bytes())  # noqa: S301 - our own weapon
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [{"model": {"weight": 1}}, [1, 2]])
def test_what_is_no_table_of_tensors_is_refused(checkpoint, content):
    """As the checkpoints of other libraries are built."""
    import torch

    (checkpoint / "model.safetensors").unlink()
    torch.save(content, checkpoint / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="not a plain table of tensors"):
        load(checkpoint)


def test_a_model_that_is_nowhere_is_told_apart_from_one_that_is_not_given(tmp_path):
    """No model, no such folder, and a file instead of a folder."""
    with pytest.raises(ParameterError, match="the encoder huggingface needs a checkpoint: --model"):
        load_encoder("huggingface")
    (tmp_path / "file").touch()
    for model in ("./nowhere", "nowhere", str(tmp_path / "file"), "a/b/c", "../up/there", "~/nowhere/at/all"):
        with pytest.raises(WeightsError, match="is no folder; give the folder of a checkpoint, or its hub id"):
            load(model)


def test_wrong_options_are_refused(saved):
    """A layer that the network has not, a window that it cannot take, and windows it cannot encode."""
    with pytest.raises(UnknownNameError, match="no layer '4'; the layers are 0, 1, 2, 3"):
        load(saved("hubert"), layers="4")
    with pytest.raises(ParameterError, match="needs at least 400"):
        load(saved("hubert"), window=0.02)
    with pytest.raises(ParameterError, match="at least 400 samples; number 0"):
        load(saved("hubert")).encode([np.zeros(399, np.float32)])


def test_a_checkpoint_comes_from_the_hub_once(hub, checkpoint, noise, tmp_path):
    """The second time nothing is asked of the network, and the folder itself would have given the same recipe."""
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.publish("someone/something", checkpoint)
    fetched = load("someone/something")
    assert fetched.card.model == f"someone/something@{hub.commit[:12]}"
    assert fetched.card.licence == "mit"
    asked = len(hub.requests)
    assert load("someone/something").card == fetched.card
    assert len(hub.requests) == asked
    hub.disconnect()
    again, local = load("someone/something"), load(checkpoint)
    assert (again.card.weights_sha256, again.card.revision) == (local.card.weights_sha256, local.card.revision)
    np.testing.assert_array_equal(again.encode([noise(1)])[0].vectors, local.encode([noise(1)])[0].vectors)


def test_a_hub_checkpoint_without_a_preprocessor_config_works_offline_afterwards(hub, checkpoint):
    """That the repository lacks a file is remembered too."""
    (checkpoint / "preprocessor_config.json").unlink()
    hub.publish("someone/something", checkpoint)
    fetched = load("someone/something@main")
    hub.disconnect()
    assert load("someone/something@main").card == fetched.card


def test_random_weights_need_only_the_config_of_a_hub_checkpoint(hub, checkpoint):
    """No weights are fetched for the control."""
    hub.publish("someone/something", checkpoint)
    load_encoder("random:huggingface", model="someone/something", device="cpu")
    assert not [path for path in hub.requests if "model.safetensors" in path]


def test_the_hub_can_lack_the_model_or_its_parts(hub, tmp_path):
    """Unknown repository, one without a config, one without weights."""
    with pytest.raises(WeightsError, match="no/such is neither a folder here nor a public model on the hub"):
        load("no/such")
    (tmp_path / "bare").mkdir()
    hub.publish("someone/bare", tmp_path / "bare")
    with pytest.raises(WeightsError, match=r"someone/bare has no config\.json"):
        load("someone/bare")
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "hubert"}')
    hub.publish("someone/weightless", tmp_path / "bare")
    with pytest.raises(WeightsError, match="holds no weights"):
        load("someone/weightless")


def test_window_hop_and_normalisation_are_options(saved, noise, oracle):
    """They are in the recipe, and an encoder that shall not normalise does not."""
    usual = load(saved("data2vec"))
    other = load(saved("data2vec"), window=2, hop=0.5, normalise="file")
    windowing = other.windowing
    assert (windowing.length, windowing.hop, windowing.normalise) == (32000, 8000, "file")
    assert other.card.preprocessing == "zero mean, unit variance per file"
    assert recipe_of(usual) != recipe_of(other)
    for normalise in ("file", "none"):
        plain = load(saved("data2vec"), normalise=normalise)
        assert worst(plain.encode([noise(1)]), oracle(saved("data2vec"), [noise(1)], normalise=False)) <= 1e-5
    with pytest.raises(ParameterError, match="normalised per window, file, none; got 'track'"):
        load(saved("data2vec"), normalise="track")


def test_rate_and_normalisation_are_read_where_newer_libraries_put_them(checkpoint):
    """Version 5 of the transformers library saves a processor as processor_config.json alone."""
    (checkpoint / "preprocessor_config.json").unlink()
    inner = {"feature_extractor": {"sampling_rate": 24000, "do_normalize": False}}
    (checkpoint / "processor_config.json").write_text(json.dumps(inner))
    card = load(checkpoint).card
    assert (card.sample_rate, card.preprocessing) == (24000, "none")


@pytest.mark.slow
def test_loading_leaves_torchaudio_whole(checkpoint):
    """Its constants are real tensors, though the network is first built without any; in a process of its own."""
    pytest.importorskip("torchaudio")
    program = (
        "import sys; from embedstore.encoders import load_encoder;"
        "load_encoder('huggingface', model=sys.argv[1], device='cpu');"
        "import torchaudio.compliance.kaldi as kaldi; print(kaldi.EPSILON.device)"
    )
    command = [sys.executable, "-c", program, str(checkpoint)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "cpu"


def test_very_loud_sound_is_not_taken_for_silence(checkpoint, noise):
    """Its square is beyond float32; the level does not matter to a window that is standardised."""
    encoder = load(checkpoint)
    loud, usual = encoder.encode([1e25 * noise(1), noise(1)])
    assert worst([loud], [usual.vectors]) <= 1e-4
    with np.errstate(over="ignore"):
        beyond = encoder.encode([np.float32(3e38) * np.sign(noise(1))])[0]
    assert worst([beyond], [encoder.encode([np.sign(noise(1))])[0].vectors]) <= 1e-4


@pytest.mark.parametrize("option", [{"window": 1e308}, {"window": 1e300}, {"window": 5, "hop": 1e308}])
def test_absurd_lengths_are_refused(saved, option):
    """Also those that no sample count can hold."""
    with pytest.raises(ParameterError, match=r"above 0.*and no more than a day"):
        load(saved("data2vec"), **option)
