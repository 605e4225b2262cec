"""Other audio models of the transformers library, against the library itself; and code that checkpoints bring."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedstore.audio import cut_windows
from embedstore.encoders import hub as checkpoints
from embedstore.encoders.hidden_states import HiddenStates, _blocks, any_checkpoint
from embedstore.encoders.huggingface import HuggingFace
from embedstore.errors import EncoderError, ParameterError, UnknownNameError, WeightsError
from embedstore.testing import check_encoder

SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
FRONT = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
SQUEEZED = {"conv_dim": [16] * 13, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
TALKS = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1}
TALKS |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 64}
SHORT = {"encoder_num_hidden_layers": 3, "decoder_num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64}
SHORT |= {f"{half}_num_{heads}_heads": 4 for half in ("encoder", "decoder") for heads in ("attention", "key_value")}
EAR = {"patch_embeds_hidden_size": 8, "depths": [1, 1, 2, 1], "num_attention_heads": [1, 1, 2, 2], "hidden_size": 64}
FUSED = {**EAR, "enable_fusion": True, "fusion_type": "aff_2d"}
EYE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
WAVE = "Wav2Vec2FeatureExtractor"
# kind -> (type, fields, feature extractor, its options, the blocks in the library's class)
KINDS = {
    "ast": ("audio-spectrogram-transformer", SIZE, "ASTFeatureExtractor", {}, "layers encoder.layer"),
    "whisper": ("whisper", TALKS, "WhisperFeatureExtractor", {}, "layers"),
    "clap": (
        "clap",
        {"audio_config": EAR, "text_config": EYE},
        "ClapFeatureExtractor",
        {"truncation": "rand_trunc"},
        "",
    ),
    "clap-fused": ("clap", {"audio_config": FUSED, "text_config": EYE}, "ClapFeatureExtractor", {}, ""),
    "wav2vec2-bert": ("wav2vec2-bert", SIZE, "SeamlessM4TFeatureExtractor", {}, "encoder.layers"),
    "unispeech": ("unispeech", SIZE | FRONT, WAVE, {}, "encoder.layers"),
    "unispeech-stable": ("unispeech", SIZE | FRONT | STABLE, WAVE, {}, "encoder.layers"),
    "unispeech-sat": ("unispeech-sat", SIZE | FRONT | STABLE, WAVE, {}, "encoder.layers"),
    "sew": ("sew", SIZE | SQUEEZED, WAVE, {}, "encoder.layers"),
    "sew-d": ("sew-d", SIZE | SQUEEZED | {"position_buckets": 32}, WAVE, {}, "encoder.encoder.layer"),
    "wav2vec2-conformer": ("wav2vec2-conformer", SIZE | FRONT, WAVE, {}, "encoder.layers"),
    "moonshine": ("moonshine", SHORT, WAVE, {"do_normalize": False}, "layers"),
}
QUICK = ("ast", "wav2vec2-bert", "sew")  # the rest of the matrix is for the slow suite
MATRIX = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
FULL = {"ast": 10.24, "whisper": 30, "clap": 10, "clap-fused": 10}  # seconds
RATES = {"clap": 48000, "clap-fused": 48000}


def network_of(kind, folder=None):
    """Build a small network by the library's own front doors, as a checkpoint or (`folder`) from one; only what hears."""
    import torch
    import transformers

    family, fields, *_ = KINDS[kind]
    if folder:
        whole = transformers.AutoModel.from_pretrained(folder)
        if family == "clap":
            return whole.audio_model.eval()
        return (whole.get_encoder() if whole.config.is_encoder_decoder else whole).eval()
    config = transformers.AutoConfig.for_model(family, **fields)
    torch.manual_seed(0)
    network = transformers.MODEL_MAPPING[type(config)](config)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return network


@pytest.fixture(scope="session")
def saved_kind(tmp_path_factory) -> Callable[[str], Path]:
    """Give the folder of a small checkpoint, by kind; shared, so leave it as it is."""
    import transformers

    from embedstore.encoders.base import import_torchaudio

    import_torchaudio()
    folders: dict[str, Path] = {}

    def folder_of(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            network_of(kind).save_pretrained(folders[kind])
            getattr(transformers, KINDS[kind][2])(**KINDS[kind][3]).save_pretrained(folders[kind])
        return folders[kind]

    return folder_of


@pytest.fixture
def mine(saved_kind, tmp_path):
    """Copy a small checkpoint, to damage; its folder is called "mine"."""
    return lambda kind: Path(shutil.copytree(saved_kind(kind), tmp_path / "mine"))


def load(folder, **options):
    """Load a checkpoint on the CPU."""
    return HiddenStates(model=str(folder), device="cpu", **options)


def sound(kind, seconds, seed=0):
    """Noise that is neither centred nor of unit variance, at the rate of a kind."""
    samples = round(RATES.get(kind, 16000) * seconds)
    return np.random.default_rng(seed).normal(0.05, 0.2, samples).astype(np.float32)


def heard_by_library(kind, folder, windows):
    """Run the library's extractor and model as its pages show, one window at a time.

    Gives the means of its hidden states, and those of its last block's output before any norm.
    """
    import torch
    from transformers import AutoFeatureExtractor

    prepare, network, means, lasts = AutoFeatureExtractor.from_pretrained(folder), network_of(kind, folder), [], []
    last: list = []
    for place in KINDS[kind][4].split():
        if blocks := dict(network.named_modules()).get(place):
            blocks[-1].register_forward_hook(lambda _b, _i, out: last.append(out[0] if isinstance(out, tuple) else out))
    for window in windows:
        inputs = prepare(window, sampling_rate=RATES.get(kind, 16000), return_tensors="pt")
        inputs = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
        mask = inputs.pop("attention_mask", None)
        if kind == "wav2vec2-bert":  # its extractor pads an odd frame, which its model is told
            inputs["attention_mask"] = mask
        with torch.no_grad():
            states = network(**inputs, output_hidden_states=True).hidden_states
        if kind.startswith("clap"):
            states = [state.flatten(2).transpose(1, 2) for state in states]
        keep = mask[0].bool() if kind == "wav2vec2-bert" else slice(None)
        means.append([state[0][keep].mean(0).numpy() for state in states])
        lasts.append(last[-1][0][keep].mean(0).numpy() if last else means[-1][-1])
    return means, lasts


def worst(embeddings, expected):
    """Largest difference between encoded windows and the expected vectors, over all layers."""
    return max(
        np.abs(vector - wanted).max()
        for embedding, wanteds in zip(embeddings, expected, strict=True)
        for vector, wanted in zip(embedding.vectors, wanteds, strict=True)
    )


@pytest.mark.parametrize("kind", MATRIX)
def test_every_layer_is_what_the_library_gives_one_window_at_a_time(kind, saved_kind):
    """Windows of different lengths in one call, down to the shortest; the last layer is its block's, before any norm."""
    windows = [sound(kind, 1), sound(kind, 0.71, seed=1), sound(kind, 1, seed=2), sound(kind, 0.1, seed=3)]
    encoder = load(saved_kind(kind))
    means, lasts = heard_by_library(kind, saved_kind(kind), windows)
    expected = [[*mean[:-1], last] for mean, last in zip(means, lasts, strict=True)]
    embeddings = encoder.encode(windows)
    assert [layer.number for layer in encoder.card.layers] == list(range(len(expected[0])))
    assert [layer.dim for layer in encoder.card.layers] == [len(vector) for vector in expected[0]]
    assert (
        max(np.abs(a - b).max() for a, b in zip(expected[0], expected[1], strict=True)) > 1e-3
    )  # else it proves nothing
    assert worst(embeddings, expected) <= 1e-5


def test_the_norm_behind_the_last_block_is_left_out(saved_kind):
    """The library puts it into the last of Whisper's hidden states; ours is the block's own."""
    import torch

    means, _ = heard_by_library("whisper", saved_kind("whisper"), [sound("whisper", 2)])
    encoder, heard = load(saved_kind("whisper")), []
    ours = encoder.encode([sound("whisper", 2)])[0].vectors[-1]
    network = network_of("whisper", saved_kind("whisper"))
    network.layers[-1].register_forward_hook(
        lambda _b, _i, out: heard.append(out[0] if isinstance(out, tuple) else out)
    )
    inputs = encoder._prepare(sound("whisper", 2))
    with torch.no_grad():
        network(**inputs)
        normed = network.layer_norm(heard[0].reshape(1, *heard[0].shape[-2:]))[0].mean(0).numpy()
    np.testing.assert_allclose(normed, means[0][-1], atol=1e-5)
    assert np.abs(ours - normed).max() > 0.01


@pytest.mark.parametrize("kind", MATRIX)
def test_the_promises_of_an_encoder_are_kept(kind, saved_kind):
    """The conformance suite: shapes, company, order, threads, card."""
    check_encoder(load(saved_kind(kind), window=0.5, layers="0,2"))


@pytest.mark.parametrize(
    ("kind", "rate", "frames", "seconds"),
    [
        ("ast", 16000, 1214 / 10.24, 10.24),
        ("whisper", 16000, 50, 30),
        ("clap", 48000, 409.6, 10),
        ("wav2vec2-bert", 16000, 50, 5),
        ("unispeech", 16000, 50, 5),
        ("sew", 16000, 25, 5),
    ],
)
def test_the_card_says_what_is_heard(kind, rate, frames, seconds, saved_kind):
    """Rate, frame rate and window of the model's own extractor."""
    encoder = load(saved_kind(kind))
    card, windowing = encoder.card, encoder.windowing
    assert (card.name, card.path, card.precision, card.sample_rate) == ("huggingface", "transformers", "float32", rate)
    assert card.frame_rate == pytest.approx(frames)
    assert (windowing.length, windowing.minimum) == (round(seconds * rate), rate // 10)
    assert "et al." in card.paper
    assert card.licence == "unknown: check the model page"
    assert card.default_layer == (len(card.layers) - 1) // 2
    assert card.preprocessing == ("zero mean, unit variance per window" if KINDS[kind][2] == WAVE else KINDS[kind][2])


@pytest.mark.parametrize("kind", ["ast", "whisper", "clap-fused", "sew-d"])
def test_fewer_layers_are_the_same_layers_by_fewer_blocks(kind, saved_kind):
    """Stopping early is exact, and it does stop: layer 0 runs no block at all."""
    windows, whole = [sound(kind, 1)], load(saved_kind(kind)).encode([sound(kind, 1)])[0].vectors
    for layers, numbers in (("0-1", [0, 1]), ("2", [2]), ("0", [0])):
        part, ran = load(saved_kind(kind), layers=layers), []
        for number, block in enumerate(_blocks(part._network, "it"), 1):
            original = block.forward
            block.forward = lambda *a, n=number, o=original, ran=ran, **k: ran.append(n) or o(*a, **k)
        assert [layer.number for layer in part.card.layers] == numbers
        np.testing.assert_array_equal(
            np.concatenate(part.encode(windows)[0].vectors), np.concatenate([whole[n] for n in numbers])
        )
        assert ran == list(range(1, max(numbers) + 1))


@pytest.mark.parametrize("kind", FULL)
def test_what_a_model_cannot_hear_at_once_is_not_given_to_it(kind, saved_kind):
    """Longer windows are refused; a sliver that joins the last full window is cut off, by us and not by chance."""
    full = round(FULL[kind] * RATES.get(kind, 16000))
    for window in (FULL[kind] + 0.01, "track"):
        with pytest.raises(ParameterError, match=f"hears {FULL[kind]:g} s at once.*at most: --window {FULL[kind]:g}"):
            load(saved_kind(kind), window=window)
    encoder = load(saved_kind(kind))
    windows = list(cut_windows([sound(kind, FULL[kind] + 0.09)], encoder.windowing))
    assert len(windows) == 1
    assert len(windows[0]) > full
    cut, joined = encoder.encode([windows[0][:full], windows[0]])
    assert cut.n_frames == joined.n_frames
    np.testing.assert_array_equal(np.concatenate(cut.vectors), np.concatenate(joined.vectors))


def test_a_padded_window_weighs_as_much_as_it_has_sound(saved_kind):
    """Else a second of sound and 29 of padding would weigh as much as 30 of sound."""
    encoder = load(saved_kind("whisper"))
    frames = [embedding.n_frames for embedding in encoder.encode([sound("whisper", s) for s in (30, 3, 0.1)])]
    assert frames == [1500, 150, 5]


def test_options_of_the_raw_wave(saved_kind):
    """Windows are normalised as asked, or as the checkpoint says; a model with features of its own refuses."""
    windows = [sound("sew", 1)]
    plain = load(saved_kind("sew"), normalise="none", hop=2.5)
    assert (plain.card.preprocessing, plain.windowing.normalise, plain.windowing.hop) == ("none", "none", 40000)
    file = load(saved_kind("sew"), normalise="file")
    assert (file.card.preprocessing, file.windowing.normalise) == ("zero mean, unit variance per file", "file")
    np.testing.assert_array_equal(plain.encode(windows)[0].vectors, file.encode(windows)[0].vectors)
    scaled = (windows[0] - windows[0].mean()) / np.sqrt(windows[0].var() + 1e-7)
    asked, default = load(saved_kind("sew"), normalise="window"), load(saved_kind("sew"))
    assert asked.card == default.card
    np.testing.assert_array_equal(asked.encode(windows)[0].vectors, plain.encode([scaled])[0].vectors)
    assert np.abs(np.array(plain.encode(windows)[0].vectors) - asked.encode(windows)[0].vectors).max() > 1e-4
    with pytest.raises(ParameterError, match="normalised per window, file, none; got 'track'"):
        load(saved_kind("sew"), normalise="track")
    with pytest.raises(ParameterError, match=r"normalise 'file' is for models.*this one's ASTFeatureExtractor"):
        load(saved_kind("ast"), normalise="file")


def test_wrong_options_are_refused(saved_kind):
    """A layer that the network has not, a window that is too short, half precision on a CPU."""
    with pytest.raises(UnknownNameError, match="no layer '4'; the layers are 0, 1, 2, 3"):
        load(saved_kind("ast"), layers="4")
    with pytest.raises(ParameterError, match="needs at least 1600"):
        load(saved_kind("ast"), window=0.05)
    with pytest.raises(ParameterError, match="at least 1600 samples; number 0"):
        load(saved_kind("ast")).encode([np.zeros(1599, np.float32)])
    with pytest.raises(ParameterError, match="precision bfloat16 needs a GPU"):
        load(saved_kind("ast"), precision="bfloat16")


def test_noise_is_not_added(mine):
    """An extractor that dithers would hear the same window differently each time."""
    folder = mine("whisper")
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**fields, "dither": 0.1}))
    encoder = load(folder)
    one, two = encoder.encode([sound("whisper", 1)] * 2)
    np.testing.assert_array_equal(one.vectors, two.vectors)


@pytest.mark.parametrize("kind", ["ast", pytest.param("clap", marks=pytest.mark.slow), "sew"])
def test_every_way_to_keep_weights_gives_the_same_vectors(kind, mine, to_bin, tmp_path):
    """Safetensors, .bin in half precision (to its rounding), and a model with a head on top."""
    import torch
    import transformers
    from safetensors.torch import load_file

    folder, windows = mine(kind), [sound(kind, 1)]
    first = load(folder)
    expected = np.concatenate(first.encode(windows)[0].vectors)
    heads = {
        "ast": "ASTForAudioClassification",
        "whisper": "WhisperForConditionalGeneration",
        "clap": "ClapAudioModelWithProjection",
        "sew": "SEWForSequenceClassification",
    }
    headed = getattr(transformers, heads[kind]).from_pretrained(folder)
    headed.save_pretrained(tmp_path / "headed")
    if kind == "clap":  # its config is that of the whole
        shutil.copy(folder / "config.json", tmp_path / "headed")
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "headed")
    assert len(load_file(tmp_path / "headed" / "model.safetensors")) > 0
    topped = load(tmp_path / "headed")
    np.testing.assert_array_equal(np.concatenate(topped.encode(windows)[0].vectors), expected)
    assert topped.card.weights_sha256 != first.card.weights_sha256
    weights = to_bin(folder) / "pytorch_model.bin"
    tensors = torch.load(weights, weights_only=True)
    tensors.pop("masked_spec_embed", None)  # only training needs it
    torch.save(tensors, weights)
    np.testing.assert_array_equal(np.concatenate(load(folder).encode(windows)[0].vectors), expected)
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, weights)
    half = np.concatenate(load(folder).encode(windows)[0].vectors)
    assert 0 < np.abs(half - expected).max() < 0.1 * np.abs(expected).max()
    assert half.dtype == np.float32


def test_the_revision_follows_what_changes_a_vector(mine):
    """The network's shape and the extractor's settings do; what only training needs does not."""
    folder = mine("ast")

    def revision(name, **changes):
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps({**json.loads(before), **changes}))
        found = load(folder).card.revision
        (folder / name).write_text(before)
        return found

    first = load(folder).card.revision
    assert revision("config.json", hidden_dropout_prob=0.5, transformers_version="1", _name_or_path="x") == first
    changed = {
        revision("config.json", num_attention_heads=2),
        revision("preprocessor_config.json", mean=-4.0),
        revision("preprocessor_config.json", do_normalize=False),
    }
    assert len(changed | {first}) == 4


def test_random_weights_are_the_seeds(saved_kind):
    """Equal for equal seeds, for a part of a model and one with whole numbers among its tensors, too."""
    for kind in ("whisper", "clap"):
        one, same, other = (load(saved_kind(kind), seed=seed) for seed in (1, 1, 2))
        assert one.card == same.card
        assert one.card.name == "random:huggingface"
        assert one.card.licence == "none: random weights"
        assert one.card.weights_sha256 != other.card.weights_sha256
        windows = [sound(kind, 1)]
        np.testing.assert_array_equal(
            np.concatenate(one.encode(windows)[0].vectors), np.concatenate(same.encode(windows)[0].vectors)
        )


def rewrite(name, **changes):
    """Make a fault that changes fields of a JSON file of the checkpoint."""

    def fault(folder):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**fields, **changes}))

    return fault


def without_tensor(folder):
    """Make the weights lack one tensor."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop(sorted(tensors)[5])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (rewrite("config.json", model_type="bert"), None),
        (rewrite("config.json", model_type=["x"]), "is a model of type"),
        (rewrite("config.json", model_type="encodec"), "no list of as many blocks|do not fit|lack"),
        (rewrite("config.json", hidden_size="big"), "describes no network|do not fit its config"),
        (rewrite("config.json", num_attention_heads=5), "do not fit its config|describes no network"),
        (rewrite("config.json", intermediate_size=48), "do not fit its config"),
        (rewrite("config.json", num_hidden_layers=4), "lack 16 of the network's .* tensors"),
        (rewrite("config.json", num_hidden_layers=0), "no list of as many blocks"),
        (rewrite("config.json", max_length=512), "do not fit its config"),
        (rewrite("preprocessor_config.json", max_length=512), "mine cannot hear a window of noise"),
        (rewrite("preprocessor_config.json", sampling_rate=10**9), "sampling_rate 1000000000|describes no network"),
        (rewrite("preprocessor_config.json", sampling_rate=0), "sampling_rate 0|describes no network"),
        (rewrite("preprocessor_config.json", do_normalize="no"), "do_normalize 'no'"),
        (rewrite("preprocessor_config.json", feature_extractor_type="AutoModel"), "is a model of type"),
        (rewrite("preprocessor_config.json", feature_extractor_type=WAVE), "mine cannot hear a window of noise"),
        (without_tensor, "lack 1 of the network's .* tensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(mine, fault, words):
    """Each fault is made for real, and its message names the file or the folder."""
    folder = mine("ast")
    if words is None:
        (folder / "preprocessor_config.json").unlink()
        words = (
            "mine is a model of type 'bert'; this encoder runs wav2vec2, .*whisper.*, and most others that hear sound"
        )
    fault(folder)
    with pytest.raises(WeightsError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_masked_padding_is_refused_and_not_averaged(mine):
    """An extractor that pads every window asks for more than a plain mean."""
    encoder = load(mine("sew"))
    encoder._extractor = lambda *_a, **_k: {"input_values": None, "attention_mask": np.array([[1, 0]])}
    encoder._extractor.sampling_rate = 16000
    with pytest.raises(EncoderError, match="masks the padding"):
        encoder.encode([sound("sew", 1)])


@pytest.mark.parametrize("kind", ["ast", "whisper", "wav2vec2-bert", "sew"])
def test_the_extractor_is_found_where_newer_and_older_libraries_put_it(kind, mine):
    """In a file of its own, inside the processor's, or nowhere: then it is the one of the type."""
    folder = mine(kind)
    expected = np.concatenate(load(folder).encode([sound(kind, 1)])[0].vectors)
    inner = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": inner, "processor_class": "X"}))
    np.testing.assert_array_equal(np.concatenate(load(folder).encode([sound(kind, 1)])[0].vectors), expected)
    (folder / "processor_config.json").unlink()
    np.testing.assert_array_equal(np.concatenate(load(folder).encode([sound(kind, 1)])[0].vectors), expected)


def test_nothing_is_said_on_the_terminal(saved_kind, capfd):
    """Progress bars and reports of the library do not reach the user."""
    folders = {kind: saved_kind(kind) for kind in ("ast", "whisper", "clap")}
    capfd.readouterr()  # of saving them
    for kind, folder in folders.items():
        load(folder).encode([sound(kind, 1)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_torchaudio_can_be_missing(saved_kind):
    """AST's extractor has a way without it, to a little rounding."""
    script = (
        "import sys, numpy as np\n"
        "sys.modules['torchaudio'] = None\n"
        "from embedstore.encoders.hidden_states import HiddenStates\n"
        "window = np.random.default_rng(0).normal(0.05, 0.2, 16000).astype(np.float32)\n"
        "encoder = HiddenStates(model=sys.argv[1], device='cpu')\n"
        "np.save(sys.argv[2], encoder.encode([window])[0].vectors)\n"
    )
    folder = saved_kind("ast")
    subprocess.run([sys.executable, "-c", script, str(folder), str(folder / "heard.npy")], check=True)
    with_it = load(folder).encode([sound("ast", 1)])[0].vectors
    np.testing.assert_allclose(np.load(folder / "heard.npy"), with_it, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_hears_what_a_cpu_hears(kind, saved_kind):
    """In single precision; windows of equal length share a batch there."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    gpu = HiddenStates(model=str(saved_kind(kind)), device="cuda", window=0.5)
    check_encoder(gpu, tolerance=1e-4)
    windows = [sound(kind, 0.5, seed=n) for n in range(5)]
    expected = [embedding.vectors for embedding in load(saved_kind(kind)).encode(windows)]
    assert worst(gpu.encode(windows), expected) <= 1e-3
    half = HiddenStates(model=str(saved_kind(kind)), device="cuda", window=0.5, precision="bfloat16")
    assert half.card.precision == "bfloat16"
    assert 0 < worst(half.encode(windows), expected) < 0.5


@pytest.mark.parametrize(("kind", "batches"), [("sew", [3, 2]), ("clap-fused", [5]), ("whisper", [5])])
def test_windows_that_share_a_batch_do_not_hear_each_other(kind, batches, saved_kind):
    """As on a GPU: those of one length go together, and each result finds its place."""
    encoder = load(saved_kind(kind))
    windows = [sound(kind, 0.3 if n % 3 else 0.4, seed=n) for n in range(5)]
    alone = [encoder.encode([window])[0] for window in windows]
    encoder._runner._samples, sizes = 10**9, []
    encoder._network.register_forward_pre_hook(
        lambda _network, _inputs, named: sizes.append(len(next(iter(named.values())))), with_kwargs=True
    )
    together = encoder.encode(windows)
    assert sizes == batches
    assert worst(together, [embedding.vectors for embedding in alone]) <= 1e-5
    assert [embedding.n_frames for embedding in together] == [embedding.n_frames for embedding in alone]


@pytest.mark.parametrize(("kind", "expected"), [("data2vec", HuggingFace), ("wavlm", HuggingFace)])
def test_the_wav2vec2_family_keeps_its_class(kind, expected, saved):
    """Everything else goes to the class for everything else."""
    assert type(any_checkpoint(model=str(saved(kind)), device="cpu")) is expected


def test_everything_else_is_dispatched(saved_kind):
    """By the type that config.json names; options travel along."""
    encoder = any_checkpoint(model=str(saved_kind("sew")), device="cpu", layers="1", hop=1.0, normalise="none")
    assert type(encoder) is HiddenStates
    assert (encoder.card.preprocessing, encoder.windowing.hop) == ("none", 16000)
    with pytest.raises(ParameterError, match="needs a checkpoint: --model"):
        any_checkpoint()


CONFIGURATION = """
from transformers import HubertConfig


class MertLikeConfig(HubertConfig):
    model_type = "mert_like"
"""
MODELING = """
from pathlib import Path

from transformers import HubertModel

from .configuration_like import MertLikeConfig
from .helper_like import HELPED

Path({trace!r}).touch()  # what a stranger's code may do
print("WARNING: a library is missing")  # as MERT's does


class MertLike(HubertModel):
    config_class = MertLikeConfig
"""
MAP = {"AutoConfig": "configuration_like.MertLikeConfig", "AutoModel": "modeling_like.MertLike"}


@pytest.fixture(scope="session")
def _modules(tmp_path_factory):
    """Let the library keep its copies of code in a folder of our own."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        yield


@pytest.fixture
def own_code(saved, tmp_path, _modules):
    """Make a checkpoint like MERT's: HuBERT at 24 kHz by code of its own, which leaves a trace when it is run."""
    folder = Path(shutil.copytree(saved("hubert"), tmp_path / f"like_{abs(hash(tmp_path))}"))
    rewrite("config.json", model_type="mert_like", auto_map=MAP)(folder)
    prepare = {"feature_extractor_type": WAVE, "sampling_rate": 24000, "do_normalize": True, "feature_size": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    (folder / "configuration_like.py").write_text(CONFIGURATION)
    (folder / "modeling_like.py").write_text(MODELING.format(trace=str(tmp_path / "trace")))
    (folder / "helper_like.py").write_text("HELPED = True\n")  # imported, and not named
    return folder


def test_code_of_a_checkpoint_is_not_run_unless_trusted(own_code, tmp_path):
    """One line says what it is, which files, and how to run them; with the flag they are run, and that is said."""
    for options in ({}, {"seed": 1}):
        with pytest.raises(
            WeightsError,
            match=r"brings its own Python code \(configuration_like.py, modeling_like.py, helper_like.py\)",
        ) as caught:
            any_checkpoint(model=str(own_code), device="cpu", **options)
        assert "nothing of it was run. --trust-remote-code runs it, with all your rights" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()
    assert not [name for name in sys.modules if name.endswith("modeling_like")]
    with pytest.warns(UserWarning, match="runs its own Python code: .*modeling_like.py"):
        any_checkpoint(model=str(own_code), device="cpu", trust_remote_code=True)
    assert (tmp_path / "trace").exists()


@pytest.mark.filterwarnings("ignore:.*runs its own Python code")
def test_trusted_code_hears_what_it_should(own_code, saved, oracle, noise, to_bin, capsys):
    """Every layer is that of the same weights in the library's own class; .bin files, too, and random weights."""
    windows = [noise(1), noise(0.7, seed=1)]
    expected = oracle(saved("hubert"), windows)
    encoder = load(own_code, trust_remote_code=True)
    said = capsys.readouterr()
    assert (said.out, "a library is missing" in said.err) == ("", True)
    assert worst(encoder.encode(windows), expected) <= 1e-5
    assert (encoder.card.sample_rate, encoder.windowing.length, encoder.card.frame_rate) == (24000, 120000, 75.0)
    assert encoder.card.paper == "unknown: see the model page"
    check_encoder(load(own_code, trust_remote_code=True, window=0.5))
    assert worst(load(to_bin(own_code), trust_remote_code=True).encode(windows), expected) <= 1e-5
    assert load(own_code, trust_remote_code=True, seed=3).card.name == "random:huggingface"


@pytest.mark.filterwarnings("ignore:.*runs its own Python code")
def test_other_code_is_another_recipe(own_code):
    """So is a change in a file that the named ones import; the same code elsewhere is the same recipe."""
    first = load(own_code, trust_remote_code=True).card.revision
    assert ", code " in first
    moved = Path(shutil.copytree(own_code, own_code.with_name(f"{own_code.name}_moved")))
    assert load(moved, trust_remote_code=True).card.revision == first
    (moved / "helper_like.py").write_text("HELPED = False\n")
    assert load(moved, trust_remote_code=True).card.revision != first


@pytest.mark.filterwarnings("ignore:.*runs its own Python code")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (rewrite("config.json", auto_map={**MAP, "AutoModel": "../evil.Model"}), "names '../evil.Model' as its code"),
        (
            rewrite("config.json", auto_map={**MAP, "AutoModel": "user/repo--module.Class"}),
            "names 'user/repo--module.Class'",
        ),
        (rewrite("config.json", auto_map={**MAP, "AutoModel": "/tmp/evil.Model"}), "names '/tmp/evil.Model'"),
        (rewrite("config.json", auto_map={**MAP, "AutoModel": "a.b.C"}), "names 'a.b.C' as its code"),
        (rewrite("config.json", auto_map={**MAP, "AutoModel": ["a.B", None]}), r"names \['a.B', None\] as its code"),
        (rewrite("config.json", auto_map={"AutoConfig": MAP["AutoConfig"]}), "its auto_map names no AutoModel"),
        (rewrite("config.json", auto_map=7), "is a model of type 'mert_like'|brings its own"),
        (lambda folder: (folder / "configuration_like.py").unlink(), "lacks configuration_like.py, code that it names"),
        (lambda folder: (folder / "helper_like.py").unlink(), "lacks helper_like.py"),
        (
            lambda folder: (folder / "modeling_like.py").write_text("import no_such_library"),
            "does not work here.*no_such_library",
        ),
        (lambda folder: (folder / "modeling_like.py").write_text("class MertLike:"), "does not work here"),
        (lambda folder: (folder / "modeling_like.py").write_text("raise SystemError('no')"), "does not work here: no"),
        (without_tensor, "lack 1 of the network's .* tensors"),
    ],
)
def test_code_that_cannot_be_run_is_one_clear_error(own_code, fault, words):
    """Paths out of the folder and other people's repositories are refused even where the checkpoint is trusted."""
    fault(own_code)
    with pytest.raises(WeightsError, match=words) as caught:
        load(own_code, trust_remote_code=True)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*runs its own Python code")
def test_pickled_code_is_not_run_even_where_code_is_trusted(own_code, tmp_path):
    """Trust is for the files that can be read."""
    import torch

    class Harm:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "harm",)

    (own_code / "model.safetensors").unlink()
    torch.save({"weight": Harm()}, own_code / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickled code is not run"):
        load(own_code, trust_remote_code=True)
    assert not (tmp_path / "harm").exists()


@pytest.mark.filterwarnings("ignore:.*runs its own Python code")
def test_the_hub_gives_code_only_when_it_is_trusted(hub, own_code, noise):
    """The named files and what they import, of the commit that the config is of; then nothing more is asked."""
    hub.publish("someone/like", own_code)
    with pytest.raises(WeightsError, match="brings its own Python code"):
        any_checkpoint(model="someone/like", device="cpu")
    assert not [path for path in hub.requests if path.endswith(".py")]
    encoder = any_checkpoint(model="someone/like", device="cpu", trust_remote_code=True)
    asked = {path for path in hub.requests if path.endswith(".py")}
    assert asked == {
        f"/someone/like/resolve/{hub.commit}/{name}_like.py" for name in ("configuration", "modeling", "helper")
    }
    assert encoder.card.revision == load(own_code, trust_remote_code=True).card.revision
    hub.disconnect()
    again = any_checkpoint(model="someone/like", device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(again.encode([noise(1)])[0].vectors, encoder.encode([noise(1)])[0].vectors)


def test_a_model_of_the_library_never_needs_code(mine, tmp_path):
    """What a config names beside a known type is left alone."""
    folder = mine("sew")
    rewrite("config.json", auto_map={"AutoModel": "modeling_evil.Evil"})(folder)
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    assert load(folder).card.sample_rate == 16000
    assert not (tmp_path / "trace").exists()
    assert [file.name for file in checkpoints.code_files(folder)] == ["modeling_evil.py"]
