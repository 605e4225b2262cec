"""Decoding in this process: the recipe, and files that are broken in real ways."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
import soxr

from embedstore.audio import SoundReport, ffmpeg, read_audio
from embedstore.audio.decode import Resampler, Sound, SoundHash
from embedstore.audio.signatures import mpeg_start
from embedstore.errors import AudioError, ParameterError

needs_ffmpeg = pytest.mark.skipif(
    find_spec("torchcodec") is None or shutil.which("ffmpeg") is None, reason="needs torchcodec and the ffmpeg command"
)
rng = np.random.default_rng(0)


def music(seconds, sample_rate=44100, channels=2):
    """Make a tone in noise, which no codec finds trivial."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    noise = 0.1 * rng.standard_normal((len(time), channels))
    return (0.4 * np.sin(2 * np.pi * 440 * time)[:, None] + noise).astype(np.float32)


def decoded(path):
    """Decode all of a file: (mono at native rate, the Sound)."""
    sound = Sound(path)
    return np.concatenate(list(sound.blocks())), sound


def refusal(path):
    with pytest.raises(AudioError) as caught:
        decoded(path)
    assert "\n" not in str(caught.value)
    return caught.value.stage, str(caught.value)


def run_ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_recipe(write_audio, sample_rate):
    """A file becomes the mean over its channels, resampled by soxr HQ as if in one go."""
    sound = music(2.3, sample_rate, 3)
    path = write_audio("a.wav", sample_rate=sample_rate, samples=sound, subtype="FLOAT")
    expected = soxr.resample(sound.mean(axis=1), sample_rate, 16000, "HQ")
    got = read_audio(path, 16000)
    assert len(got.samples) == len(expected)
    assert np.abs(got.samples - expected).max() < 1e-6


@pytest.mark.parametrize("size", [1, 160, 4096, 100_000])
def test_resampling_does_not_depend_on_blocks(size):
    """Any block size gives the one-shot result."""
    sound = music(1.0, channels=1)[:, 0]
    stream = Resampler(44100, 16000)
    parts = [stream.push(sound[start : start + size]) for start in range(0, len(sound), size)]
    got, expected = np.concatenate([*parts, stream.finish()]), soxr.resample(sound, 44100, 16000, "HQ")
    assert len(got) == len(expected)
    assert np.abs(got - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.oga", {}),
        ("a.opus", {}),
        ("a.mp3", {}),
        ("a.aiff", {}),
        ("a.au", {}),
        ("a.w64", {}),
        ("a.caf", {}),
    ],
)
def test_formats(write_audio, name, options):
    """Each format decodes to the sound that was written, in blocks exactly as in one go, with nothing to complain about.

    Plain block-wise reading through soundfile damages this MP3.
    """
    path = write_audio(name, 3.0, 48000, **options)
    mono, sound = decoded(path)
    assert (sound.sample_rate, sound.channels, sound.warnings) == (48000, 1, ())
    assert sound.frames == len(mono) == 144_000
    assert np.array_equal(mono, soundfile.read(path, dtype="float32")[0])
    assert np.std(mono) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert np.argmax(np.abs(np.fft.rfft(mono))) == 440 * 3


@pytest.mark.parametrize("channels", [1, 2, 6, 32])
def test_channels_are_averaged(write_audio, channels):
    """Sound in one of n channels comes out at 1/n of its level: no gain is added."""
    sound = np.zeros((8000, channels), np.float32)
    sound[:, -1] = 0.5
    mono, _ = decoded(write_audio("a.wav", sample_rate=8000, samples=sound, subtype="FLOAT"))
    assert np.allclose(mono, 0.5 / channels, atol=1e-7)


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"new\nline\x07.mp3", b"-", b"x.raw", b"http:x.wav"])
def test_any_name_opens(write_audio, name, monkeypatch, tmp_path):
    """Names that are not UTF-8, hold control characters, or mean something to a library are just names."""
    path = write_audio("x.wav", 0.2)
    path = path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    monkeypatch.chdir(tmp_path)
    assert read_audio(path).seconds == 0.2
    assert read_audio(os.fsdecode(name)).seconds == 0.2


def test_mp3_that_does_not_state_its_length(write_audio, tmp_path):
    """A stream whose first frame lies about the mean bit rate is decoded to its end, where plain soundfile stops early."""
    sound = np.concatenate([music(1.0), 1e-3 * music(9.0)])
    path = write_audio("a.mp3", sample_rate=44100, samples=sound, bitrate_mode="VARIABLE", compression_level=0)
    whole, _ = decoded(path)
    data = path.read_bytes()
    start = next(at for at in range(200, 4000) if data[at] == 0xFF and mpeg_start(io.BytesIO(data[at:])) == (0, False))
    bare = tmp_path / "bare.mp3"
    bare.write_bytes(data[start:])
    assert len(soundfile.read(bare)[0]) < 0.8 * len(whole)
    mono, sound = decoded(bare)
    assert abs(len(mono) - len(whole)) < 3 * 1152
    assert sound.warnings == ()


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("a.wav", "the decoder stopped early: 2.0. s of 4.00 s kept"),
        ("a.aiff", "the decoder stopped early: 2.0. s of 4.00 s kept"),
        ("a.flac", r"the decoder stopped early: 1\.\d\d s of 4\.00 s kept \(.*flac.*\)"),
        ("a.mp3", r"the decoder stopped early: [12]\.\d\d s of 4\.00 s kept"),
        ("a.ogg", "the stream has no end mark: it was cut short, or recorded from a broadcast"),
        ("a.opus", "the stream has no end mark: it was cut short, or recorded from a broadcast"),
    ],
)
def test_truncated_files_are_kept_with_a_warning(write_audio, name, warning):
    """Half of a file gives about half of the sound, and says so."""
    path = write_audio(name, sample_rate=48000, samples=music(4.0, 48000))
    os.truncate(path, path.stat().st_size // 2)
    mono, sound = decoded(path)
    assert 0.9 < len(mono) / 48000 < 2.5
    (found,) = sound.warnings
    assert re.fullmatch(warning, found)


@pytest.mark.parametrize("fill", [b"\x00", b"\xa5"])
def test_mp3_corrupt_in_the_middle(write_audio, fill):
    """What soundfile returns less than promised is noticed, with the duration that was kept."""
    path = write_audio("a.mp3", sample_rate=44100, samples=music(6.0))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 10_000] = fill * 10_000
    path.write_bytes(data)
    mono, sound = decoded(path)
    assert 2 < len(mono) / 44100 < 4
    assert sound.warnings[0].startswith(f"the decoder stopped early: {len(mono) / 44100:.2f} s of 6.00 s kept")


def test_wav_of_unknown_length_is_not_called_short(write_audio):
    """Recorders that write to a pipe leave 0xFFFFFFFF as the length: that promises nothing."""
    path = write_audio("a.wav", 1.0)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + struct.pack("<I", 0xFFFFFFFF) + data[at + 4 :])
    mono, sound = decoded(path)
    assert (len(mono), sound.warnings) == (16000, ())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(write_audio, bad):
    """NaN and infinity are refused, with the place."""
    sound = music(1.0, 16000)
    sound[12_000, 1] = bad
    path = write_audio("a.wav", sample_rate=16000, samples=sound, subtype="FLOAT")
    assert refusal(path) == ("check", "the sample at 0.750 s is not a finite number")


def test_hostile_sample_rate(write_audio):
    """A header with an absurd rate cannot make the resampler swell."""
    path = write_audio("a.wav", 1.0)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 1)
    path.write_bytes(data)
    assert refusal(path) == ("check", "its header states 1 Hz, outside 1,000..768,000")


@pytest.mark.parametrize(
    ("name", "content", "stage", "message"),
    [
        ("a.mp3", b"these are words, not music\n" * 50, "decode", "not audio: no known signature"),
        ("a.m4a", b"#EXTM3U\nhttp://127.0.0.1:9/a.aac\n", "decode", "not audio: no known signature"),
        ("a.wav", b"", "open", "the file is empty (0 bytes)"),
        ("a.wav", b"RIFF\x24\x00\x00\x00WAVE", "decode", "libsndfile: "),
        ("a.flac", b"fLaC" + bytes(500), "decode", "libsndfile: "),
        ("a.ogg", bytes(5000), "decode", "not audio: no known signature"),
        ("a.mp3", rng.bytes(50_000), "decode", "not audio: no known signature"),
    ],
)
def test_garbage(tmp_path, name, content, stage, message):
    """What is no audio is refused in one line."""
    (tmp_path / name).write_bytes(content)
    found_stage, text = refusal(tmp_path / name)
    assert found_stage == stage
    assert text.startswith(message)


def test_no_frames(write_audio):
    """A sound header without sound is an error, not silence."""
    path = write_audio("a.wav", samples=np.zeros(0, np.float32))
    assert refusal(path) == ("decode", "no sound in it: 0 frames decoded")


def test_what_is_no_file(tmp_path):
    """A missing file, a folder and a FIFO (which would wait for ever) are refused at the open stage."""
    os.mkfifo(tmp_path / "pipe.wav")
    assert refusal(tmp_path / "gone.wav") == ("open", "cannot be opened: No such file or directory")
    assert refusal(tmp_path) == ("open", "not a regular file")
    assert refusal(tmp_path / "pipe.wav") == ("open", "not a regular file")


def test_permission_denied(write_audio):
    """A file that may not be read says so."""
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path = write_audio("a.wav")
    path.chmod(0)
    assert refusal(path) == ("open", "cannot be opened: Permission denied")


def test_rate_is_checked(write_audio):
    """A rate that no encoder has is a mistake of the caller."""
    with pytest.raises(ParameterError, match="the sample rate is in Hz"):
        read_audio(write_audio("a.wav"), 0)


def test_key_is_pinned():
    """The key of a sound never changes: stores depend on it. It depends on samples and rate, not on blocks."""
    sound = (np.arange(1000) / 1000).astype(np.float32)
    one, two, other_rate = SoundHash(), SoundHash(), SoundHash()
    one.update(sound)
    for block in np.array_split(sound, 7):
        two.update(block)
    other_rate.update(sound)
    assert one.key(16000) == two.key(16000) == 0x66B5B5ED2EB59DC2
    assert other_rate.key(8000) != 0x66B5B5ED2EB59DC2


def test_same_sound_same_key(write_audio):
    """FLAC and WAV of the same samples have one key, and so has a copy with two equal channels."""
    keys = set()
    sound = (music(0.5, 16000, 1) * 32767).astype(np.int16)
    for name, channels in [("a.wav", 1), ("b.flac", 1), ("c.wav", 2)]:
        digest = SoundHash()
        for block in Sound(write_audio(name, samples=np.repeat(sound, channels, axis=1))).blocks():
            digest.update(block)
        keys.add(digest.key(16000))
    assert len(keys) == 1
    assert 0 <= keys.pop() < 2**63


def test_report_round_trip():
    """A report survives JSON."""
    report = SoundReport(2**63 - 1, 44100, 2, 22050, "libsndfile 1", ("stopped early",), 1e-9 / 3, 0.1)
    assert SoundReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert report.seconds == 0.5


def test_without_torchcodec(tmp_path, monkeypatch):
    """M4A without torchcodec is an error that holds the install line."""
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    (tmp_path / "a.m4a").write_bytes(b"\x00\x00\x00\x20ftypM4A " + bytes(100))
    stage, text = refusal(tmp_path / "a.m4a")
    assert stage == "decode"
    assert 'torchcodec is not installed; run: pip install "embedstore-mir[codecs]", and install FFmpeg' in text


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.wma", "a.mp4"])
def test_ffmpeg_formats(write_audio, tmp_path, name):
    """FFmpeg's formats come at native rate and channels, at the level of the file, and stream as one whole."""
    source = write_audio("a.wav", 3.0, 44100, 2)
    run_ffmpeg("-i", source, "-vn", "-b:a", "192k", tmp_path / name)
    mono, sound = decoded(tmp_path / name)
    assert (sound.sample_rate, sound.channels, sound.warnings) == (44100, 2, ())
    assert sound.decoder.startswith("FFmpeg through torchcodec")
    assert abs(len(mono) / 44100 - 3.0) < 0.1
    reference, _ = decoded(source)
    assert np.sqrt(np.mean(mono**2)) == pytest.approx(np.sqrt(np.mean(reference**2)), rel=0.05)


@needs_ffmpeg
def test_opus_that_libsndfile_refuses(write_audio, tmp_path):
    """Opus cut with ffmpeg -c copy is malformed to libsndfile; FFmpeg reads it."""
    source = write_audio("a.opus", sample_rate=48000, samples=music(8.0, 48000))
    run_ffmpeg("-ss", "2.3", "-i", source, "-t", "4", "-c", "copy", tmp_path / "cut.opus")
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(tmp_path / "cut.opus")
    mono, sound = decoded(tmp_path / "cut.opus")
    assert sound.decoder.startswith("FFmpeg")
    assert 3.9 < len(mono) / 48000 < 4.5


@needs_ffmpeg
def test_long_files_decode_in_pieces(write_audio, tmp_path, monkeypatch):
    """Pieces of a long file join to exactly what one call gives."""
    source = write_audio("a.wav", sample_rate=8000, samples=music(95.0, 8000, 1))
    run_ffmpeg("-i", source, tmp_path / "a.m4a")
    whole, _ = decoded(tmp_path / "a.m4a")
    monkeypatch.setattr(ffmpeg, "_WHOLE", 0.0)
    pieces, sound = decoded(tmp_path / "a.m4a")
    assert sound.warnings == ()
    assert abs(len(pieces) - len(whole)) <= 1024  # the last, padded AAC frame may be left out
    assert np.array_equal(pieces, whole[: len(pieces)])


@needs_ffmpeg
def test_broken_m4a(write_audio, tmp_path):
    """A truncated M4A is refused, or kept with a warning when its index comes first."""
    source = write_audio("a.wav", sample_rate=44100, samples=music(8.0))
    run_ffmpeg("-i", source, tmp_path / "end.m4a")
    run_ffmpeg("-i", source, "-movflags", "faststart", tmp_path / "front.m4a")
    for name in ["end.m4a", "front.m4a"]:
        os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    assert refusal(tmp_path / "end.m4a")[1].startswith("FFmpeg: ")
    _, sound = decoded(tmp_path / "front.m4a")
    assert sound.warnings[0].startswith("the decoder stopped early: ")
