"""The decoding process and its client: what goes wrong in one costs one file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr

from embedstore.audio import Decoder, read_audio
from embedstore.audio.decode import Moments, Sound, SoundHash
from embedstore.audio.source import Source
from embedstore.errors import AudioError, ParameterError


@pytest.fixture
def decoder():
    with Decoder(16000) as decoder:
        yield decoder


@pytest.fixture
def minute(write_audio):
    """Make a file that is more than a pipe holds: its process cannot finish it unheard."""
    return write_audio("minute.wav", 60.0, 8000)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """Make a file that is longer than the spool: 905 s of 440 Hz."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.tile(np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32) / 2, 905), 8000)
    return path


def sound_of(decoder, path):
    return np.concatenate(list(decoder.blocks(path)))


def worker_pid(decoder):
    return decoder._worker._process.pid


@contextlib.contextmanager
def must_end(pid):
    """Wait, at the end of the block, until a process that is not our child has ended."""
    ended = os.pidfd_open(pid)
    try:
        yield
        assert select.select([ended], [], [], 20)[0], f"process {pid} goes on"
    finally:
        os.close(ended)


def run_python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(("name", "channels"), [("a.wav", 1), ("a.flac", 6), ("a.mp3", 2), ("a.ogg", 2)])
def test_blocks_are_what_read_audio_gives(decoder, write_audio, name, channels):
    """Spooled after an inspection or streamed without one: bit for bit the sound that this process decodes."""
    path = write_audio(name, 6.0, 44100, channels)
    expected = read_audio(path, 16000).samples
    assert np.array_equal(sound_of(decoder, path), expected)
    report = decoder.inspect(path)
    assert np.array_equal(sound_of(decoder, path), expected)
    assert np.array_equal(sound_of(decoder, path), expected)
    assert (report.sample_rate, report.channels, report.frames, report.seconds) == (44100, channels, 264_600, 6.0)
    assert report.decoder == f"libsndfile {soundfile.__libsndfile_version__}"
    assert report.warnings == ()


def test_key_is_that_of_the_native_sound(write_audio, long_file):
    """The key depends on the file alone: not on the rate that is asked for, nor on whether the sound was spooled."""
    short = write_audio("a.flac", 1.0, 44100, 2)
    keys = []
    for path, rate in ((short, 44100), (long_file, 8000)):
        expected = SoundHash()
        for block in Sound(path).blocks():
            expected.update(block)
        keys.append(expected.key(rate))
    for sample_rate in (16000, 44100):
        with Decoder(sample_rate) as decoder:
            assert [decoder.inspect(path).key for path in (short, long_file)] == keys


def test_long_files_stream(decoder, long_file):
    """Beyond the spool the sound is decoded again, complete and equal to one-shot resampling."""
    assert decoder.inspect(long_file).seconds == 905
    sound = sound_of(decoder, long_file)
    expected = soxr.resample(soundfile.read(long_file, dtype="float32")[0], 8000, 16000, "HQ")
    assert len(sound) == len(expected)
    assert np.abs(sound - expected).max() < 1e-6


def test_file_hash(decoder, minute):
    """The hash of a file is BLAKE2b, 128 bits, of its bytes."""
    assert decoder.file_hash(minute) == hashlib.blake2b(minute.read_bytes(), digest_size=16).hexdigest()
    with pytest.raises(AudioError, match="cannot be read: No such file") as caught:
        decoder.file_hash(minute.with_name("gone"))
    assert caught.value.stage == "open"


def test_a_changed_file_is_decoded_again(decoder, write_audio):
    """What was spooled for a file is not given for its successor of the same name."""
    path = write_audio("a.wav", 1.0)
    decoder.inspect(path)
    write_audio("a.wav", 2.0)
    assert len(sound_of(decoder, path)) == 32_000


def test_a_bad_file_costs_nothing_else(decoder, write_audio, tmp_path):
    """An error is an answer: the same process goes on with the next file."""
    good = write_audio("good.wav")
    (tmp_path / "bad.mp3").write_text("words\n" * 100)
    decoder.inspect(good)
    pid = worker_pid(decoder)
    for ask in (decoder.inspect, lambda path: list(decoder.blocks(path))):
        with pytest.raises(AudioError, match="not audio") as caught:
            ask(tmp_path / "bad.mp3")
        assert caught.value.stage == "decode"
    with pytest.raises(AudioError, match="cannot be opened: No such file"):
        list(decoder.blocks(tmp_path / "gone.wav"))
    assert len(sound_of(decoder, good)) == 16_000
    assert worker_pid(decoder) == pid


@pytest.mark.parametrize(
    "name", [b"caf\xe9.wav", b'line\nbreak\r\x00"\\{}.wav'.replace(b"\x00", b"\x1b"), b"\xff\xfe.wav"]
)
def test_any_name_passes_through(decoder, write_audio, name):
    """Names that are not UTF-8, or hold line breaks and quotes, do not break the conversation."""
    path = write_audio(os.fsdecode(name))
    assert decoder.inspect(path).seconds == 1.0
    with pytest.raises(AudioError, match="No such file"):
        decoder.inspect(str(path) + "\n.gone")
    assert decoder.inspect(path).seconds == 1.0


def test_relative_paths(decoder, write_audio, monkeypatch, tmp_path):
    """A relative path is meant from where the client is now, wherever the process was started."""
    decoder.inspect(write_audio("a/x.wav"))
    monkeypatch.chdir(tmp_path / "a")
    assert decoder.inspect("x.wav").seconds == 1.0


@pytest.mark.parametrize(
    ("death", "word"), [(signal.SIGKILL, "Killed"), (signal.SIGSEGV, "Segmentation fault"), (signal.SIGABRT, "Aborted")]
)
def test_a_crash_in_the_middle_costs_one_file(decoder, write_audio, minute, death, word):
    """When the process dies in a file, that file fails at the limit stage, and the next one has a new process."""
    good = write_audio("good.wav")
    blocks = decoder.blocks(minute)
    next(blocks)
    pid = worker_pid(decoder)
    os.kill(pid, death)
    with pytest.raises(AudioError, match=rf"^the decoder process died \({word}") as caught:
        list(blocks)
    assert caught.value.stage == "limit"
    assert decoder.inspect(good).seconds == 1.0
    assert worker_pid(decoder) != pid


def test_a_process_that_died_idle_is_replaced(decoder, write_audio):
    """A process that was killed between files costs no file."""
    path = write_audio("a.wav")
    decoder.inspect(path)
    process = decoder._worker._process
    process.kill()
    process.wait()
    assert decoder.inspect(path).seconds == 1.0


def test_a_hang_costs_one_file(write_audio):
    """A process that gives no sign of life is killed; the next file has a new one."""
    path = write_audio("a.wav")
    with Decoder(16000, timeout=0.5) as decoder:
        list(_patiently(decoder, path))
        pid = worker_pid(decoder)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(
            AudioError, match=r"^no sign of life from the decoder for 0\.5 s; it was stopped$"
        ) as caught:
            decoder.inspect(path)
        assert caught.value.stage == "limit"
        assert len(list(_patiently(decoder, path))) == 1
        assert worker_pid(decoder) != pid


def _patiently(decoder, path):
    """Start a process with all the time it needs on a busy machine, then go back to the short limit."""
    decoder._timeout, limit = 60, decoder._timeout
    yield from decoder.blocks(path)
    decoder._timeout = limit


def test_memory_is_limited(write_audio):
    """A file that makes the process swell beyond its limit fails at the limit stage; the next one is fine."""
    path, good = write_audio("a.wav", 400.0, 8000), write_audio("good.wav")  # 307 MB at 192 kHz
    with Decoder(192_000, memory_limit=250 * 2**20) as decoder:
        with pytest.raises(AudioError, match="needs more memory") as caught:
            decoder.inspect(path)
        assert caught.value.stage == "limit"
        assert decoder.inspect(good).seconds == 1.0
    with Decoder(8000, memory_limit=250 * 2**20) as decoder:  # the file itself is sound
        assert decoder.inspect(path).seconds == 400


def test_a_process_that_cannot_start_says_why(write_audio):
    """When the process dies before its first answer, its last words are in the message."""
    path = write_audio("a.wav")
    with (
        Decoder(16000, memory_limit=1) as decoder,
        pytest.raises(AudioError, match=r"process died \(.+: .+\)") as caught,
    ):
        decoder.inspect(path)
    assert caught.value.stage == "limit"


def test_blocks_left_in_the_middle(decoder, write_audio, minute):
    """Blocks may be abandoned, and another file asked for; the old blocks then refuse to go on."""
    good = write_audio("good.wav")
    left = decoder.blocks(minute)
    next(left)
    assert decoder.inspect(good).seconds == 1.0
    with pytest.raises(ParameterError, match="left for another"):
        next(left)
    for _ in decoder.blocks(minute):
        break
    assert len(sound_of(decoder, good)) == 16_000


def test_decoder_messages_stay_off_the_terminal(decoder, write_audio, capfd):
    """What libmpg123 writes to stderr when a file is damaged is not seen."""
    path = write_audio("a.mp3", 5.0, 44100)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    path.write_bytes(data)
    list(Sound(path).blocks())
    assert "mpg123" in capfd.readouterr().err  # here, it would be seen
    assert decoder.inspect(path).warnings
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("doing", ["decoder.inspect(sys.argv[1])", "next(decoder.blocks(sys.argv[1]))"])
def test_the_process_ends_with_its_client(minute, doing):
    """A client that is killed leaves no process behind, neither an idle one nor one in the middle of a file."""
    code = f"""if True:
        import sys
        from embedstore.audio import Decoder
        decoder = Decoder(16000)
        {doing}
        print(decoder._worker._process.pid, flush=True)
        sys.stdin.read()
    """
    with run_python(code, minute) as client, must_end(int(client.stdout.readline())):
        client.kill()


def test_ctrl_c_is_for_the_client(minute):
    """Ctrl-C reaches the client alone: one traceback, and no process left."""
    code = """if True:
        import signal, sys
        from embedstore.audio import Decoder
        with Decoder(16000) as decoder:
            blocks = decoder.blocks(sys.argv[1])
            next(blocks)
            print(decoder._worker._process.pid, flush=True)
            signal.pause()
    """
    with run_python(code, minute) as client, must_end(int(client.stdout.readline())):
        os.killpg(client.pid, signal.SIGINT)
        _, errors = client.communicate()
        assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1


def test_import_is_light():
    """Importing the room, and making a Decoder, loads no audio library."""
    code = """if True:
        import sys
        from embedstore.audio import Decoder
        Decoder(16000)
        print({"soundfile", "soxr", "torch", "torchcodec", "h5py", "sqlite3"} & set(sys.modules))
    """
    with run_python(code) as client:
        assert client.communicate()[0] == "set()\n"


@pytest.mark.parametrize("options", [{"sample_rate": 0}, {"timeout": 0}, {"memory_limit": -1}])
def test_settings_are_checked(options):
    """Settings that make no sense are refused at once."""
    with pytest.raises(ParameterError):
        Decoder(**{"sample_rate": 16000, **options})


def test_sound_that_is_too_long_is_refused(write_audio, monkeypatch):
    """Before it is decoded where its header tells, else once there is too much; as long as allowed is well."""
    path, given = write_audio("two.wav", 2.0, 8000), []
    with Decoder(16000, longest=1.9) as decoder:
        for ask in (decoder.inspect, lambda path: [*decoder.blocks(path)]):
            with pytest.raises(AudioError, match=r"^the sound is longer than 0\.000527778 h$"):
                ask(path)
    assert sum(map(len, Sound(path, longest=2).blocks())) == 16_000

    def blocks():
        for _ in range(100):
            given.append(1)
            yield np.zeros((3600, 1), np.float32)

    for promised, decoded in ((7201, 0), (0, 3)):
        source = Source(blocks(), 1000, 1, "nothing", promised, 0)
        monkeypatch.setattr("embedstore.audio.decode.open_source", lambda _, source=source: source)
        given.clear()
        with pytest.raises(AudioError, match=r"longer than 0\.002 h"):
            [*Sound(path, longest=7.2).blocks()]
        assert len(given) == decoded


def test_the_report_knows_the_moments_of_the_resampled_sound(decoder, write_audio, long_file):
    """Mean and deviation are those of what `blocks` gives, also beyond the spool, of silence and of a constant."""
    noise = np.random.default_rng(0).normal(0.2, 0.1, (30_000, 2)).astype(np.float32)
    files = {
        "noise": write_audio("noise.wav", sample_rate=44100, samples=noise, subtype="FLOAT"),
        "constant": write_audio("flat.wav", sample_rate=16000, samples=np.full(9000, 0.25, np.float32)),
        "silence": write_audio("silence.wav", sample_rate=8000, samples=np.zeros(900, np.float32)),
        "long": long_file,
    }
    for name, path in files.items():
        report, sound = decoder.inspect(path), sound_of(decoder, path).astype(np.float64)
        assert report.mean == pytest.approx(sound.mean(), abs=1e-9), name
        assert report.deviation == pytest.approx(sound.std(), abs=1e-9), name
    assert decoder.inspect(files["constant"]).deviation == 0


def test_moments_keep_their_digits():
    """A small wave on a large offset, in blocks of all sizes: as numpy says it of the whole."""
    sound = (1000 + np.random.default_rng(1).normal(0, 1e-2, 100_000)).astype(np.float32)
    moments = Moments()
    for block in np.split(sound, [0, 1, 2, 1000, 65_536]):
        moments.update(block)
    assert moments.mean == pytest.approx(sound.mean(dtype="f8"), rel=1e-12)
    assert moments.deviation == pytest.approx(sound.std(dtype="f8"), rel=1e-9)
    assert Moments().deviation == 0
