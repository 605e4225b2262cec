"""Encoders in processes of their own, one per device: the same store, clear errors, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from embedstore.devices import name_devices
from embedstore.errors import EncoderError, EncoderMismatchError, ParameterError, WeightsError
from embedstore.estimate import estimate
from embedstore.pipeline import EncoderOptions, build
from embedstore.store import EmbeddingStore

PLUGINS = str(Path(__file__).parent / "plugins")
TOY = "toy_encoder:Toy"

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@pytest.fixture(autouse=True)
def toy_on_path(monkeypatch):
    """Let `module:Class` find the toy encoder, in children too."""
    monkeypatch.syspath_prepend(PLUGINS)


@pytest.fixture
def music(tmp_path, write_audio):
    """Twelve tracks of several windows each."""
    for number in range(12):
        write_audio(f"music/g{number % 3}/{number}.wav", seconds=1.5 + 0.3 * number, frequency=100.0 + 50 * number)
    return tmp_path / "music"


def on(device, **options):
    return EncoderOptions(name=TOY, device=device, **options)


def rows(store):
    """Map each track's id to its vectors of both layers."""
    opened = EmbeddingStore.open(store)
    layers = [opened.layer(number) for number in (0, 1)]
    return {key: [layer.values[place].tolist() for layer in layers] for place, key in enumerate(layers[0].track_ids)}


def processes():
    """Map the processes that run to their parents and commands."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(folder.name)] = int(parent), (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
    return found


def descendants(parent, command=b""):
    """List the processes below one, by their ids; those with a word in their command."""
    there = processes()
    found, look = set(), {parent}
    while look := {pid for pid, (above, _) in there.items() if above in look} - found:
        found |= look
    return {pid for pid in found if command in there[pid][1]}


def children(parent):
    """List the processes that have a device."""
    return descendants(parent, b"embedstore.devices")


def gone(pids):
    """Wait for processes to end."""
    deadline = time.monotonic() + 10
    while (left := processes().keys() & pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


@pytest.mark.parametrize("devices", ["cpu,cpu", "fake:0,fake:1"], ids=["lanes", "batches across files"])
def test_several_devices_give_the_same_store(music, tmp_path, devices):
    """Bit for bit the vectors of one process; no process is left."""
    one = build(music, tmp_path / "one", encoder=on("cpu"))
    seen = set()
    many = build(music, tmp_path / "many", encoder=on(devices), progress=lambda *_: seen.update(children(os.getpid())))
    assert (one.added, many.added, many.failed, len(seen)) == (12, 12, 0, 2)
    assert rows(tmp_path / "one") == rows(tmp_path / "many")
    assert EmbeddingStore.open(tmp_path / "one").fingerprint == EmbeddingStore.open(tmp_path / "many").fingerprint
    assert many.stages.encoding > 0
    assert gone(seen)
    assert build(music, tmp_path / "many", encoder=on("cpu")).skipped == 12


def test_known_sounds_and_failures_come_through(music, tmp_path, write_audio):
    """Copies are linked, broken files are listed, windows are kept, as with one device."""
    build(music, tmp_path / "store", encoder=on("cpu"), keep_windows=True)
    write_audio("music/g0/new.wav", seconds=2.0, frequency=1234.0)
    write_audio("music/g1/copy.wav", seconds=1.5, frequency=100.0)
    (music / "broken.mp3").write_text("no sound" * 100)
    report = build(music, tmp_path / "store", encoder=on("cpu,cpu"))
    assert (report.added, report.known, report.failed) == (1, 1, 1)
    assert EmbeddingStore.open(tmp_path / "store").keeps_windows


def test_a_killed_child_ends_the_build_and_the_next_goes_on(music, tmp_path):
    """One clear error names the device; what was finished is stored; no process is left."""
    seen = set()

    def kill(done, total, outcome):
        if done == 2 and not seen:
            seen.update(*(descendants(child) | {child} for child in children(os.getpid())))
            os.kill(min(children(os.getpid())), signal.SIGKILL)

    with pytest.raises(EncoderError, match=r"on cpu died \(Killed\).*the same command goes on"):
        build(music, tmp_path / "store", encoder=on("cpu,cpu", model="slow"), jobs=2, progress=kill)
    stored = len(EmbeddingStore.open(tmp_path / "store"))
    assert 2 <= stored < 12
    assert gone(seen)
    assert build(music, tmp_path / "store", encoder=on("cpu,cpu")).added == 12 - stored


def test_ctrl_c_stops_the_children(music, tmp_path):
    """What is finished is stored, the rest is for the next build."""
    seen, stopped = set(), threading.Event()

    def watch():  # a decoder that has read all its files goes by itself, so one look may come too late
        while not stopped.wait(0.02):
            seen.update(*(descendants(child) | {child} for child in children(os.getpid())))

    def stop(done, total, outcome):
        if done == 3:
            raise KeyboardInterrupt

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = build(music, tmp_path / "store", encoder=on("cpu,cpu", model="slow"), jobs=2, progress=stop)
    finally:
        stopped.set()
        watcher.join()
    assert report.interrupted
    assert report.added == report.tracks == 3
    assert len(seen) >= 3, "two children, and the decoder of the quicker one at least"
    assert gone(seen)


STUCK = """
import time, toy_encoder
class Stuck(toy_encoder.Toy):
    def encode(self, windows):
        if len(self.seen) > 2:
            time.sleep(100)
        self.seen.append(1)
        return super().encode(windows)
    seen = []
"""


@pytest.fixture
def stuck(tmp_path, monkeypatch):
    """Name an encoder that soon says nothing more, as a network on a very long window."""
    (tmp_path / "stuck.py").write_text(STUCK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "stuck:Stuck"


def test_ctrl_c_does_not_wait_for_the_network(music, tmp_path, stuck):
    """Children that are in the middle of something long are stopped at once."""
    began = time.monotonic()

    def stop(done, total, outcome):
        if done == 2:  # a moment later, when nothing comes any more
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    options = EncoderOptions(name=stuck, device="cpu,cpu")
    assert build(music, tmp_path / "store", encoder=options, jobs=2, progress=stop).interrupted
    assert time.monotonic() - began < 30


BUILD = """
import sys
sys.path[:0] = {folders!r}
from embedstore.pipeline import EncoderOptions, build
build({music!r}, {store!r}, encoder=EncoderOptions(name={encoder!r}, device="cpu,cpu"), jobs=2,
      progress=lambda done, total, outcome: print(done, flush=True))
"""


def test_nothing_outlives_a_killed_parent(music, tmp_path, stuck):
    """SIGKILL for the parent: children and decoders see that it is gone, and go, whatever they are doing."""
    folders, store = [PLUGINS, str(tmp_path)], str(tmp_path / "store")
    code = BUILD.format(folders=folders, music=str(music), store=store, encoder=stuck)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == 2:
            end = time.monotonic() + 30  # until the other device has begun, too
            while len(seen := descendants(process.pid)) < 4 and time.monotonic() < end:
                time.sleep(0.02)
            process.kill()
    process.wait()
    assert len(seen) >= 4
    assert gone(seen)


def test_devices_that_disagree_are_refused_before_work(music, tmp_path, monkeypatch):
    """Rows of two recipes never meet in one store."""
    (tmp_path / "moody.py").write_text(
        "import dataclasses, toy_encoder\n"
        "class Moody(toy_encoder.Toy):\n"
        "    def __init__(self, **options):\n"
        "        super().__init__(**options)\n"
        "        self.card = dataclasses.replace(self.card, name='moody:Moody', precision=options['device'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EncoderMismatchError, match=r"fake:1 is not the one on fake:0.*precision"):
        build(music, tmp_path / "store", encoder=EncoderOptions(name="moody:Moody", device="fake:0,fake:1"))
    assert not (tmp_path / "store").exists()


def test_errors_of_a_child_are_the_parents(music, tmp_path, monkeypatch):
    """What an encoder refuses is said as with one device; a bug names its device."""
    with pytest.raises(WeightsError, match="missing"):
        build(
            music,
            tmp_path / "store",
            encoder=EncoderOptions(name="huggingface", model=str(tmp_path / "missing"), device="cpu,cpu"),
        )
    (tmp_path / "buggy.py").write_text(
        "import toy_encoder\n"
        "class Buggy(toy_encoder.Toy):\n"
        "    def encode(self, windows):\n"
        "        raise SystemExit('enough')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EncoderError, match="a worker ended by SystemExit enough"):
        build(music, tmp_path / "store", encoder=EncoderOptions(name="buggy:Buggy", device="fake:0,fake:1"))


@pytest.mark.parametrize("device", ["cpu,", ",", "cpu,,cpu", ""])
def test_lists_with_an_empty_place_are_refused(device):
    """A slip of the pen does not become another device."""
    with pytest.raises(ParameterError, match="empty place"):
        name_devices(device)


def test_all_cuda_devices(monkeypatch):
    """`cuda:all` is each of them, and an error where there is none."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert name_devices("cuda:all") == ["cuda:0", "cuda:1", "cuda:2"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ParameterError, match="no CUDA device"):
        name_devices("cuda:all")


def test_estimate_takes_several_devices(music, tmp_path):
    """A dry run loads the encoder on the first of them."""
    assert estimate(music, tmp_path / "store", encoder=on("fake:0,fake:1")).todo == 12


@pytest.mark.slow
@pytest.mark.parametrize("family", ["data2vec-audio", "wav2vec2"])
def test_a_real_checkpoint_gives_the_same_store_from_two_processes(music, tmp_path, family):
    """A small network with weights in a file: bit for bit the same rows from one process and from two."""
    from safetensors.torch import save_file

    from embedstore.encoders.checkpoint import build_config, random_network

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    fields = {**small, "model_type": family, "conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 2}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(fields))
    network = random_network(build_config(fields, [family], "here"), 0)
    save_file(network.state_dict(), tmp_path / "model" / "model.safetensors")
    stores = []
    for device in ("cpu", "cpu,cpu"):
        options = EncoderOptions(name="huggingface", model=str(tmp_path / "model"), device=device)
        report = build(music, tmp_path / device, encoder=options)
        assert report.added == 12, report
        layer = EmbeddingStore.open(tmp_path / device).layer(1)
        stores.append(layer.values[np.argsort(layer.keys)])
    assert np.array_equal(*stores)
