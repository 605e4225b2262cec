"""Many files at once: the same vectors whatever the company, bounded memory, one guilty file at a time."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore import lanes
from embedstore.audio import SoundReport, cut_windows
from embedstore.channel import WAITING, Channel, Stopped
from embedstore.encoders import MeanPool
from embedstore.errors import AudioError, EncoderError
from embedstore.lanes import Known, encode_file, run_lanes
from embedstore.types import AudioFile, Windowing

sys.path.insert(0, str(Path(__file__).parent / "plugins"))

from toy_encoder import Toy

POISON, LOUD, ENDING = 0.9, 0.8, 0.7  # first sample of a sound that makes the encoder raise, give NaN, the decoder stop


class FakeDecoder:
    """Gives sounds from a table, in blocks; takes no time and no process."""

    sounds: dict[str, np.ndarray]

    def __init__(self, sample_rate, *, timeout, longest):
        self.sample_rate = sample_rate

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def stamp(self, path):
        """Say that it is as it was."""
        return 0, 0

    def file_hash(self, path):
        """Name the sound."""
        return path

    def inspect(self, path):
        """Say how long it is."""
        return SoundReport(int(path.removeprefix("/")), self.sample_rate, 1, len(self.sounds[path]), "table")

    def blocks(self, path):
        """Give it in blocks."""
        sound = self.sounds[path]
        for start in range(0, len(sound), 3000):
            yield sound[start : start + 3000]
        if sound[0] == np.float32(ENDING):
            raise AudioError("it stops here", stage="decode")


class Picky(Toy):
    """Raises for a poisoned window, whatever else is in the call, and notes how many windows each call has."""

    def __init__(self, *, batch=None, device="cpu"):
        super().__init__(model="nan")
        self.sizes = []
        if batch is not None:
            self.batch, self.device = batch, device

    def encode(self, windows):
        """Describe each window by itself, or none."""
        self.sizes.append(len(windows))
        if any(window[0] == np.float32(POISON) for window in windows):
            raise EncoderError("this sound is poison")
        return super().encode(windows)


def sound(number, length, first=0.1):
    """Noise, the same for the same number; with LOUD it is loud."""
    samples = np.random.default_rng(number).normal(0, 0.02, length).astype(np.float32)
    samples[0] = first
    if first == LOUD:
        samples[:200] = 1.0
        samples[0] = first
    return samples


def table(monkeypatch, sounds):
    """Let every decoder give these sounds; return their files."""
    decoder = type("Table", (FakeDecoder,), {"sounds": {f"/{number}": s for number, s in enumerate(sounds)}})
    monkeypatch.setattr(lanes, "Decoder", decoder)
    return [AudioFile("/", str(number), 0, 0) for number in range(len(sounds))]


def alone(samples, encoder):
    """Give a track's vectors, one window at a time."""
    pool = MeanPool()
    for window in cut_windows([samples], encoder.windowing):
        pool.add(encoder.encode([window])[0])
    return pool.result()


KINDS = st.sampled_from([0.1, 0.1, 0.1, POISON, LOUD, ENDING])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.tuples(st.integers(800, 60_000), KINDS), min_size=1, max_size=8),
    jobs=st.integers(1, 4),
    batch=st.none() | st.integers(1, 9),
    device=st.sampled_from(["cpu", "fake"]),
    order=st.randoms(use_true_random=False),
)
def test_a_vector_does_not_depend_on_its_company(shape, jobs, batch, device, order):
    """Any jobs, batch, device and order of files: bit for bit the vectors of one window at a time; faults stay at home."""
    sounds = [sound(number, *about) for number, about in enumerate(shape)]
    encoder = Picky(batch=batch, device=device)
    with pytest.MonkeyPatch.context() as patch:
        files = table(patch, sounds)
        order.shuffle(files)
        outcomes = {int(o.file.path): o for o in run_lanes(files, encoder, Known(), jobs=jobs) if o is not None}
    assert set(outcomes) == set(range(len(sounds)))
    assert max(encoder.sizes, default=0) <= (batch or lanes.BATCH)
    for number, (_, first) in enumerate(shape):
        outcome = outcomes[number]
        if first == 0.1:
            expected = alone(sounds[number], encoder)
            assert outcome.kind == "added"
            assert outcome.embeddings.n_frames == expected.n_frames
            assert all(map(np.array_equal, outcome.embeddings.vectors, expected.vectors))
        else:
            stage, reason = {POISON: ("encode", "poison"), LOUD: ("encode", "NaN"), ENDING: ("decode", "stops")}[first]
            assert (outcome.kind, outcome.embeddings) == ("failed" if first != ENDING else "vanished", None)
            assert outcome.stage == stage
            assert reason in outcome.reason


def test_batches_are_gathered_across_files(monkeypatch):
    """Short files share the batches of an encoder that likes large ones."""
    encoder = Picky(batch=6, device="fake")
    files = table(monkeypatch, [sound(number, 8000) for number in range(30)])
    outcomes = [o for o in run_lanes(files, encoder, Known(), jobs=3) if o is not None]
    assert len(outcomes) == 30
    assert len(encoder.sizes) <= 10, f"30 windows in batches of 6, and a few that a pause cut short: {encoder.sizes}"


def test_a_batch_that_is_not_full_does_not_wait_for_ever(monkeypatch):
    """What is there is encoded while the next file takes its time; outcomes do not wait for other files."""
    files = table(monkeypatch, [sound(0, 16000), sound(1, 16000)])
    slow = threading.Event()
    inspect = lanes.Decoder.inspect
    monkeypatch.setattr(
        lanes.Decoder, "inspect", lambda self, path: (path == "/0" or slow.wait(20)) and inspect(self, path)
    )
    with closing(run_lanes(files, Picky(batch=100, device="fake"), Known(), jobs=1)) as outcomes:
        first = next(filter(None, outcomes))
        assert (first.file.path, first.kind, slow.is_set()) == ("0", "added", False)
        slow.set()
        assert next(filter(None, outcomes)).file.path == "1"


class Watched(Channel):
    """Remembers the most samples that any of them held."""

    most = 0

    def send(self, item, size=1):
        """Look how much there is."""
        super().send(item, size)
        with self._moved:
            windows = [item[1] for item, _ in self._items if item is not None]
            Watched.most = max(Watched.most, sum(len(w) for w in windows if isinstance(w, np.ndarray)))


@pytest.mark.parametrize("room", [20_000, 3_000], ids=["two windows", "less than a window"])
def test_sound_that_waits_is_bounded(monkeypatch, room):
    """Long files and a slow encoder: the decoders wait, the channel holds its room or one window."""
    monkeypatch.setattr(lanes, "SOUND", room)
    monkeypatch.setattr(lanes, "Channel", Watched)
    monkeypatch.setattr(Watched, "most", 0)
    files = table(monkeypatch, [sound(number, 200_000) for number in range(3)])
    encoder = Picky(batch=50, device="fake")
    calls, encode = [], encoder.encode
    encoder.encode = lambda windows: calls.append(sum(map(len, windows))) or time.sleep(0.005) or encode(windows)
    assert len([o for o in run_lanes(files, encoder, Known(), jobs=3) if o is not None]) == 3
    assert 0 < Watched.most <= max(room, 8000)
    assert max(calls) < room + 8000, "a batch is bounded, too"
    assert sum(calls) == 600_000


def test_channel_keeps_order_lets_large_items_through_and_lets_go():
    """One item may be larger than the room; nobody waits for ever once it is stopped."""
    stop = threading.Event()
    channel = Channel(10, stop)
    channel.send("large", 100)
    sent = []
    thread = threading.Thread(target=lambda: (channel.send("next", 5), sent.append(True)), daemon=True)
    thread.start()
    thread.join(0.3)
    assert not sent, "there is no room beside a large item"
    assert (channel.receive(), channel.receive(), channel.receive(patience=0.01)) == ("large", "next", WAITING)
    stop.set()
    with pytest.raises(Stopped):
        channel.receive()


@pytest.mark.parametrize(
    ("fault", "raised", "message"),
    [
        (SystemExit(4), EncoderError, "ended by SystemExit 4"),
        (RuntimeError("CUDA error: an illegal memory access\nmore"), EncoderError, r"device gave up \(CUDA.*access\);"),
    ],
)
def test_what_is_no_files_fault_ends_the_run(monkeypatch, fault, raised, message):
    """A plug-in that wants to leave, or a device that is lost, reaches the consumer, and no thread stays."""
    files = table(monkeypatch, [sound(number, 30_000) for number in range(4)])
    before = threading.active_count()
    encoder = Picky(batch=4, device="fake")

    def encode(_windows):
        raise fault

    encoder.encode = encode
    with pytest.raises(raised, match=message):
        list(run_lanes(files, encoder, Known(), jobs=2))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_whatever_a_network_raises_costs_one_file(monkeypatch):
    """Libraries raise what they like over some sound: the reason names it, and the others are encoded."""
    files = table(monkeypatch, [sound(number, 9_000) for number in range(4)])
    encoder = Picky(batch=4, device="fake")
    inner, guilty = encoder.encode, sound(2, 9_000)[1]

    def encode(windows):
        if any(window[1] == guilty for window in windows):
            raise ValueError("expected more than one value per channel")
        return inner(windows)

    encoder.encode = encode
    outcomes = {outcome.file.path: outcome for outcome in run_lanes(files, encoder, Known(), jobs=2) if outcome}
    assert [outcome.kind for _, outcome in sorted(outcomes.items())] == ["added", "added", "failed", "added"]
    assert outcomes["2"].reason == "ValueError: expected more than one value per channel"


def test_too_few_results_are_no_embeddings(monkeypatch):
    """An encoder that leaves windows out."""
    (file,) = table(monkeypatch, [sound(0, 9_000)])
    encoder = Picky(batch=4)
    encoder.encode = lambda _windows: []
    with pytest.raises(EncoderError, match="gave 0 results for 1 windows"):
        list(run_lanes([file], encoder, Known(), jobs=1))


def test_a_file_that_changes_while_it_is_read_is_for_later(monkeypatch):
    """Its hash, key and windows are of different sounds: none of it is kept, and the next build tries again."""
    files = table(monkeypatch, [sound(number, 9_000) for number in range(3)])
    stamps = itertools.count()
    monkeypatch.setattr(FakeDecoder, "stamp", lambda _self, path: (next(stamps), 0) if path == "/1" else (0, 0))
    for known in (Known(), Known(keys={0, 1, 2})):
        outcomes = {o.file.path: o for o in run_lanes(files, Picky(batch=4), known, jobs=1) if o}
        assert (outcomes["1"].kind, outcomes["1"].stage) == ("vanished", "open")  # it lies nowhere but in the table
        assert outcomes["1"].reason == "it changed while it was read"
        assert {outcomes["0"].kind, outcomes["2"].kind} <= {"added", "known"}


def test_closing_the_iterator_ends_the_lanes(monkeypatch):
    """Whoever has enough closes it: every thread ends, though there is work left."""
    files = table(monkeypatch, [sound(number % 50, 100_000) for number in range(50)])
    before = threading.active_count()
    with closing(run_lanes(files, Picky(), Known(), jobs=2)) as outcomes:
        assert len(list(itertools.islice(filter(None, outcomes), 2))) == 2
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_seconds_add_up(monkeypatch):
    """A lane's time is waiting or encoding, hashing and decoding happen beside it; each file has its share."""
    files = table(monkeypatch, [sound(number, 40_000) for number in range(6)])
    inspect, blocks, encoder = lanes.Decoder.inspect, lanes.Decoder.blocks, Picky()
    encode = encoder.encode
    encoder.encode = lambda windows: time.sleep(0.02 * len(windows)) or encode(windows)
    monkeypatch.setattr(lanes.Decoder, "inspect", lambda self, path: time.sleep(0.05) or inspect(self, path))

    def slowly(self, path):
        time.sleep(0.03)
        yield from blocks(self, path)

    monkeypatch.setattr(lanes.Decoder, "blocks", slowly)
    began = time.perf_counter()
    seconds = [o.seconds for o in run_lanes(files, encoder, Known(), jobs=1) if o is not None]
    wall = time.perf_counter() - began
    assert all(s.hashing >= 0.05 and s.decoding >= 0.03 and s.encoding >= 5 * 0.02 for s in seconds)
    lane = sum(s.waiting + s.encoding for s in seconds)
    assert lane == pytest.approx(wall, rel=0.1)
    assert sum(s.encoding for s in seconds) == pytest.approx(6 * 5 * 0.02, rel=0.3)
    assert sum(s.waiting for s in seconds) >= 0.08, "the first window cannot come sooner"


def test_windows_are_kept_in_order(monkeypatch):
    """A track whose windows are kept has them as its sound has them, though others were in the batches."""
    sounds = [sound(number, 50_000 + 7000 * number) for number in range(5)]
    files, encoder = table(monkeypatch, sounds), Picky(batch=7, device="fake")
    for outcome in filter(None, run_lanes(files, encoder, Known(), jobs=3, keep_windows=True)):
        windows = cut_windows([sounds[int(outcome.file.path)]], encoder.windowing)
        expected = [encoder.encode([window])[0].vectors[1].astype(np.float16) for window in windows]
        assert [list(kept.vectors[1]) for kept in outcome.embeddings.windows] == [list(vector) for vector in expected]


def test_encode_file_names_the_fault(monkeypatch, tmp_path, write_audio):
    """One file alone is heard as in a build, and its fault is an error of the right class."""
    report, heard = encode_file(str(write_audio("a.wav", seconds=3.3, sample_rate=8000)), Toy())
    assert (report.frames, heard.n_frames) == (26400, 330)
    loud = write_audio("loud.wav", sample_rate=8000, samples=np.ones(8000, np.float32))
    with pytest.raises(EncoderError, match="NaN"):
        encode_file(str(loud), Toy(model="nan"))
    with pytest.raises(AudioError, match="too short"):
        encode_file(str(write_audio("short.wav", seconds=0.01)), Toy())
    with pytest.raises(AudioError, match="No such file"):
        encode_file(str(tmp_path / "none.wav"), Toy())


def test_a_file_that_nobody_wants_any_more_is_left(monkeypatch):
    """What works on it is ended at the next look; one that is wanted is waited for."""
    looks, ended = [True, False], []

    def run_lanes(*_, **options):
        assert options["longest"] == 5
        try:
            while True:
                yield None
        finally:
            ended.append(True)

    monkeypatch.setattr("embedstore.lanes.run_lanes", run_lanes)
    with pytest.raises(AudioError, match="nobody waits"):
        encode_file("a.wav", Toy(), longest=5, wanted=lambda: looks.pop(0))
    assert (looks, ended) == ([], [True])


def test_whole_tracks_are_windows_too(monkeypatch):
    """Windows without a length stream as any other."""
    sounds = [sound(number, 5000 + 1000 * number) for number in range(4)]
    files, encoder = table(monkeypatch, sounds), Picky(batch=3, device="fake")
    encoder.windowing = Windowing(length=None, hop=1)
    for outcome in filter(None, run_lanes(files, encoder, Known(), jobs=2)):
        (expected,) = encoder.encode([sounds[int(outcome.file.path)]])
        assert all(map(np.array_equal, outcome.embeddings.vectors, expected.vectors))
