"""FLAC of any file: its sound, rate and channels as they were, where players know them; what fails leaves nothing."""

from __future__ import annotations

import time

import numpy as np
import pytest
import soundfile

from embedstore.audio import transcode
from embedstore.audio.transcode import _write
from embedstore.errors import AudioError


def noise(frames, channels, seed=0):
    """Make loud noise, some of it louder than there is room for."""
    return np.random.default_rng(seed).uniform(-1.05, 1.05, (frames, channels)).astype(np.float32)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (8_000, 2), (96_000, 2)])
def test_the_sound_stays_as_it_is(tmp_path, rate, channels) -> None:
    """To 16 bits, clipped where it is too loud."""
    sound = noise(rate // 10, channels)
    soundfile.write(tmp_path / "a.wav", sound, rate, "FLOAT")
    _write(str(tmp_path / "a.wav"), str(tmp_path / "a.flac"))
    about = soundfile.info(tmp_path / "a.flac")
    assert (about.format, about.subtype, about.samplerate, about.channels) == ("FLAC", "PCM_16", rate, channels)
    heard = soundfile.read(tmp_path / "a.flac", always_2d=True)[0]
    assert heard.shape == sound.shape
    assert np.abs(heard - sound.clip(-1, 1)).max() <= 1 / 32768


@pytest.mark.parametrize("rate", [4_000, 192_000])
def test_rates_that_players_do_not_know_become_48_khz(tmp_path, rate) -> None:
    """As a whole resampled at once, whatever the blocks; the seconds stay."""
    import soxr

    sound = 0.5 * noise(rate, 2)
    soundfile.write(tmp_path / "a.wav", sound, rate, "FLOAT")
    _write(str(tmp_path / "a.wav"), str(tmp_path / "a.flac"))
    heard, found = soundfile.read(tmp_path / "a.flac")
    assert (found, len(heard)) == (48_000, 48_000)
    assert np.abs(heard - soxr.resample(sound, rate, 48_000, quality="HQ").clip(-1, 1)).max() < 1e-4


def test_many_channels_become_their_mean(tmp_path) -> None:
    """And what is no number is silence."""
    sound = noise(1000, 6)
    sound[7] = np.nan
    soundfile.write(tmp_path / "a.wav", sound, 44_100, "FLOAT")
    _write(str(tmp_path / "a.wav"), str(tmp_path / "a.flac"))
    heard = soundfile.read(tmp_path / "a.flac")[0]
    assert np.abs(heard - np.nan_to_num(sound.mean(axis=1)).clip(-1, 1)).max() <= 1 / 32768


@pytest.mark.slow
def test_the_process(write_audio, tmp_path) -> None:
    """It writes what can be heard of a file that is cut short; noise, a file that is too large for its room and one that takes too long leave nothing."""
    good, target = write_audio("a.ogg", sample_rate=44_100, samples=0.5 * noise(3 * 44_100, 1)), tmp_path / "out.flac"
    transcode(good, target, most=2**20)
    assert soundfile.info(target).frames == 3 * 44_100
    target.unlink()
    (tmp_path / "cut.ogg").write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    transcode(tmp_path / "cut.ogg", target, most=2**20)
    assert 1 < soundfile.info(target).duration < 3
    target.unlink()
    (tmp_path / "noise.mp3").write_bytes(b"noise" * 100)
    for path, options, said in (
        (tmp_path / "noise.mp3", {}, "not audio"), (tmp_path / "gone.ogg", {}, "cannot be opened: No such file"),
        (good, {"most": 10_000}, "there is no room for it as FLAC"), (good, {"timeout": 0.05}, r"the process that decodes it took longer than 0.05 s"),
    ):  # fmt: skip
        start = time.monotonic()
        with pytest.raises(AudioError, match=said) as error:
            transcode(path, target, **{"most": 2**20} | options)
        assert "\n" not in str(error.value)
        assert not target.exists(), path
        assert time.monotonic() - start < 10
