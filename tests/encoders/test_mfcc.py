"""MFCC statistics against numpy's own arithmetic and at the edges of what sound can be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedstore.audio.windows import cut_windows
from embedstore.encoders import load_encoder
from embedstore.encoders.mfcc import Mfcc
from embedstore.errors import AudioError, ParameterError


@pytest.fixture(scope="module")
def encoder() -> Mfcc:
    return load_encoder("mfcc", device="cpu")


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness and colour change with time."""
    noise = np.random.default_rng(seed).standard_normal(round(22050 * seconds))
    swell = 0.1 + 0.1 * np.sin(np.arange(len(noise)) / 3000)
    return (np.convolve(noise, [1, 0.9, 0.5], "same") * swell).astype(np.float32)


def statistics(window: np.ndarray) -> np.ndarray:
    """Compute the 120 numbers in float64, straight from the definition (librosa's, with reflected ends)."""
    x = np.pad(window / np.abs(window).max(), 1024, mode="reflect").astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(x, 2048)[::512]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    mel = np.linspace(0, 15 + 27 * np.log(11.025) / np.log(6.4), 130)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    bins = np.linspace(0, 11025, 1025)[:, None]
    rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    bands = power @ (np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2]))
    decibels = 10 * np.log10(np.maximum(bands, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    cosines = np.cos(np.pi / 128 * np.arange(20)[:, None] * (np.arange(128) + 0.5)) * np.sqrt(2 / 128)
    cosines[0] /= np.sqrt(2)
    mfcc = cosines @ decibels.T
    series = [np.diff(mfcc, n=order, axis=1) for order in range(3)]
    return np.concatenate([moment for x in series for moment in (x.mean(1), x.std(1))])


@pytest.mark.parametrize("seconds", [0.1, 1.0, 7.3])
def test_agrees_with_the_definition(encoder, seconds) -> None:
    """All 120 numbers are what float64 arithmetic gives."""
    window = sound(seconds)
    (encoded,) = encoder.encode([window])
    assert encoded.vectors[0] == pytest.approx(statistics(window), abs=2e-3)
    assert encoded.n_frames == 1 + len(window) // 512


def test_card_says_there_are_no_weights(encoder) -> None:
    """One layer of 120 numbers, no weights to sum."""
    (layer,) = encoder.card.layers
    assert (layer.number, layer.name, layer.dim) == (0, "mfcc", 120)
    assert (encoder.card.weights_sha256, encoder.card.sample_rate) == ("", 22050)


@pytest.mark.parametrize("level", [0.0, 1e-40, 1e-20, 1e4])
def test_silence_and_noise_are_finite(encoder, level) -> None:
    """Neither nothing nor too much gives NaN."""
    (encoded,) = encoder.encode([(level * sound(1.0)).astype(np.float32)])
    assert np.isfinite(encoded.vectors[0]).all()


def test_level_does_not_matter(encoder) -> None:
    """The same recording, turned down, is the same."""
    loud, quiet = encoder.encode([sound(2.0), 0.01 * sound(2.0)])
    assert loud.vectors[0] == pytest.approx(quiet.vectors[0], abs=1e-2)


def test_company_and_threads_do_not_matter(encoder) -> None:
    """A window gives the same bits alone, among others and in several threads."""
    windows = [sound(seconds, seed) for seed, seconds in enumerate([1.0, 3.0, 0.2, 1.0])]
    alone = [encoder.encode([window])[0].vectors[0] for window in windows]
    assert np.array_equal([e.vectors[0] for e in encoder.encode(windows)], alone)
    with ThreadPoolExecutor(3) as pool:
        assert np.array_equal(list(pool.map(lambda w: encoder.encode([w])[0].vectors[0], windows)), alone)


@pytest.mark.parametrize(("seconds", "lengths"), [(44, [44]), (46, [30, 16]), (0.2, [0.2]), (104, [30, 30, 44])])
def test_windows_are_long(encoder, seconds, lengths) -> None:
    """A track under 45 s is one window; no last piece is under 15 s."""
    windows = cut_windows([sound(seconds)], encoder.windowing)
    assert [len(window) / 22050 for window in windows] == pytest.approx(lengths, abs=1e-4)


def test_window_can_be_chosen() -> None:
    """Seconds, or the whole track."""
    assert Mfcc(window="3", device="cpu").windowing.length == 66150
    assert Mfcc(window="track", device="cpu").windowing.length is None
    with pytest.raises(ParameterError, match="needs at least 2205"):
        Mfcc(window=0.05, device="cpu")


def test_shortest_sound(encoder) -> None:
    """A tenth of a second is enough; less is an error."""
    assert len(list(cut_windows([sound(0.1)], encoder.windowing))) == 1
    with pytest.raises(AudioError, match="too short"):
        list(cut_windows([sound(0.0999)], encoder.windowing))
    with pytest.raises(ParameterError, match="at least 2205 samples"):
        encoder.encode([sound(0.0999)])


@pytest.mark.parametrize(("name", "options"), [("random:mfcc", {}), ("mfcc", {"model": "folder"})])
def test_has_no_weights(name, options) -> None:
    """Random weights or a model make no sense here."""
    with pytest.raises(ParameterError, match="mfcc has no weights"):
        load_encoder(name, **options)
