"""Workers of a Ray cluster: the same store as from one process, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from embedstore.errors import EncoderError, EncoderMismatchError, MissingDependencyError, ParameterError, WeightsError
from embedstore.executors.ray import _share_out
from embedstore.options import EncoderOptions
from embedstore.pipeline import build
from embedstore.store import EmbeddingStore

PLUGINS = str(Path(__file__).parent.parent / "plugins")
TOY = "toy_encoder:Toy"


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster with two cores; builds in this process find it."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = signal.getsignal(signal.SIGTERM)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    signal.signal(signal.SIGTERM, before)
    yield ray
    ray.shutdown()


@pytest.fixture
def many(tmp_path, write_audio):
    """Sixty tracks of one window."""
    for number in range(60):
        write_audio(f"many/g{number % 3}/{number:02d}.wav", seconds=0.3, frequency=100.0 + 20 * number)
    return tmp_path / "many"


def workers():
    """List the processes that have loaded the encoder: Ray shows the method that runs, or the class that waits."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has just ended
            continue
        if words.startswith(b"ray::") and b"_Worker" in words and state != "Z":
            found[int(folder.name)] = words
    return found


def gone(look, seconds=20):
    """Wait until nothing is found."""
    deadline = time.monotonic() + seconds
    while look() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not look()


def toy(**options):
    return EncoderOptions(name=TOY, **options)


@pytest.mark.slow
def test_two_workers_make_the_store_of_a_local_build(cluster, music, tmp_path, content):
    """Keys, vectors bit for bit, files, labels, failures; what is counted, profiled and followed; then only what is new."""
    seen = []
    report = build(
        music,
        tmp_path / "store",
        encoder=toy(),
        engine="ray",
        profile=tmp_path / "profile.json",
        progress=lambda done, total, outcome: seen.append((done, total, outcome)),
    )
    one = build(music, tmp_path / "local", encoder=toy())
    assert (report.found, report.added + report.known, report.failed, report.tracks) == (14, 13, 1, 12)
    assert report.relabelled == one.relabelled == 0
    assert content(tmp_path / "store") == content(tmp_path / "local")
    assert (seen[0][:2], seen[-1][:2]) == ((0, 14), (14, 14))
    assert all(outcome.embeddings is None for _, _, outcome in seen[1:])
    assert len(json.loads((tmp_path / "profile.json").read_text())["files"]) == 14
    assert min(report.stages.encoding, report.stages.storing, report.seconds_audio) > 0
    assert gone(workers)
    os.utime(music / "g1" / "01.wav", ns=(1, 1))
    (music / "g1" / "04.wav").rename(music / "g1" / "moved.wav")
    again = build(music, tmp_path / "store", engine="ray", retry_failed=True)
    assert (again.added, again.known, again.skipped, again.failed, again.tracks) == (0, 2, 11, 1, 12)


@pytest.mark.slow
@pytest.mark.parametrize("when", [2, 30])
def test_a_killed_worker_costs_nothing(cluster, many, tmp_path, content, when):
    """Another takes its place; nothing is lost, nothing is counted twice."""
    killed = []

    def kill(done, total, outcome):
        if done >= when and not killed:
            busy = [pid for pid, words in workers().items() if b".run" in words]
            killed.extend(busy[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    report = build(many, tmp_path / "store", encoder=toy(model="slow"), engine="ray", progress=kill)
    assert len(killed) == 1
    assert (report.added, report.known, report.failed, report.interrupted) == (60, 0, 0, False)
    build(many, tmp_path / "local", encoder=toy(model="slow"))
    assert content(tmp_path / "store") == content(tmp_path / "local")


POISON = """
import os, toy_encoder
class Poison(toy_encoder.Toy):
    def encode(self, windows):
        if any(len(window) > 10_000 for window in windows):
            os.kill(os.getpid(), 9)
        return super().encode(windows)
"""


@pytest.mark.slow
def test_a_file_that_kills_every_worker_ends_the_build(cluster, many, tmp_path, write_audio, monkeypatch):
    """One line that says where to look; what was finished is stored, and the same command goes on."""
    (tmp_path / "poison.py").write_text(POISON)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_audio("many/g9/poison.wav", seconds=1.7)
    options = EncoderOptions(name="poison:Poison", window="track")
    with pytest.raises(
        EncoderError, match=r"3 workers died over the shard that begins with .*goes on from here"
    ) as caught:
        build(many, tmp_path / "store", encoder=options, engine="ray")
    assert "\n" not in str(caught.value)
    (many / "g9" / "poison.wav").unlink()
    report = build(many, tmp_path / "store", engine="ray")
    assert report.added + report.skipped == report.tracks == 60
    assert report.skipped > 20


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(cluster, many, tmp_path):
    """The workers stop at once, and let go of the store."""
    began = time.monotonic()

    def stop(done, total, outcome):
        if done == 20:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    report = build(many, tmp_path / "store", encoder=toy(model="slow"), engine="ray", progress=stop)
    assert report.interrupted
    assert time.monotonic() - began < 30
    assert 20 <= report.added == report.tracks < 60
    assert gone(workers)
    rest = build(many, tmp_path / "store", engine="ray")
    assert (rest.added, rest.skipped) == (60 - report.added, report.added)


BUILD = """
import sys
sys.path.insert(0, {plugins!r})
from embedstore.pipeline import EncoderOptions, build
build({music!r}, {store!r}, encoder=EncoderOptions(name={toy!r}, model="slow"), engine="ray", address={address!r},
      progress=lambda done, total, outcome: print(done, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("address", ["auto", "local"])
def test_a_killed_driver_leaves_nobody_behind_and_the_next_goes_on(cluster, many, tmp_path, content, address):
    """The workers go when it goes, those of a cluster that it started itself too; finished shards are not done again."""
    code = BUILD.format(plugins=PLUGINS, music=str(many), store=str(tmp_path / "store"), toy=TOY, address=address)
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in driver.stdout:
        if int(line) == 20:
            driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert gone(workers)
    done = len(EmbeddingStore.open(tmp_path / "store"))
    assert 20 <= done < 60
    report = build(many, tmp_path / "store", engine="ray")
    assert (report.added, report.skipped) == (60 - done, done)
    build(many, tmp_path / "local", encoder=toy(model="slow"))
    assert content(tmp_path / "store") == content(tmp_path / "local")


@pytest.mark.slow
def test_what_a_worker_cannot_load_is_one_line(cluster, music, tmp_path, monkeypatch):
    """It names the machine; no store appears. A bug in a plug-in is one line, too."""
    missing = EncoderOptions(name="huggingface", model=str(tmp_path / "missing"))
    with pytest.raises(WeightsError, match=r"the worker on .*missing"):
        build(music, tmp_path / "store", encoder=missing, engine="ray")
    (tmp_path / "buggy.py").write_text(
        "import os, dataclasses, toy_encoder\n"
        "class Buggy(toy_encoder.Toy):\n"
        "    def __init__(self, **options):\n"
        "        raise KeyError('a bug')\n"
        "class Moody(toy_encoder.Toy):\n"
        "    def __init__(self, **options):\n"
        "        super().__init__(**options)\n"
        "        self.card = dataclasses.replace(self.card, name='buggy:Moody', precision=str(os.getpid()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EncoderError, match=r"a worker failed: .*a bug"):
        build(music, tmp_path / "store", encoder="buggy:Buggy", engine="ray")
    assert not (tmp_path / "store").exists()
    with pytest.raises(EncoderMismatchError, match=r"is not the one on .*precision"):
        build(music, tmp_path / "moody", encoder="buggy:Moody", engine="ray")


@pytest.mark.slow
def test_clusters_that_are_not_there(music, tmp_path):
    """One line, soon; Ray alone would try for minutes."""
    pytest.importorskip("ray")
    code = f"from embedstore.pipeline import build; build({str(music)!r}, {str(tmp_path / 's')!r}, encoder='mfcc', engine='ray', address="
    for address in ("127.0.0.1:1", "nonsense:99999", "http://x"):
        command = [sys.executable, "-c", f"{code}{address!r})"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert f"ParameterError: no Ray cluster answers at {address}" in done.stderr.splitlines()[-1]


LOUD = """
import os, sys, cli
from tests_of_ray import workers
import embedstore.pipeline as pipeline
build, killed = pipeline.build, []
def kill(done, *_):
    if done and not killed:
        killed.extend(sorted(workers().items(), key=lambda one: b".run" not in one[1]))  # rather one that works
        os.kill(killed[0][0], 9)
pipeline.build = lambda *args, **options: build(*args, **{**options, "progress": kill})
cli.main()
"""


@pytest.mark.slow
def test_the_command_says_its_result_and_nothing_of_ray(many, tmp_path):
    """With a cluster of its own that is gone afterwards, and a worker that is killed: two quiet streams."""
    pytest.importorskip("ray")
    (tmp_path / "tests_of_ray.py").write_text(Path(__file__).read_text())
    settings = {**os.environ, "PYTHONPATH": f"{PLUGINS}{os.pathsep}{tmp_path}"}
    arguments = ["build", many, "--store", tmp_path / "s", "--encoder", TOY, "--model", "slow", "--engine", "ray"]
    command = [sys.executable, "-c", LOUD, *arguments, "--address", "local"]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    assert done.stdout.startswith("60 files: 60 added"), done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""
    assert gone(workers)


def node(**resources):
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "device", "jobs", "expected"),
    [
        ([node(CPU=8.0), node(CPU=3.0)], "auto", None, (11, {"num_cpus": 1}, "cpu")),
        ([node(CPU=8.0), node(CPU=3.0)], "auto", 4, (2, {"num_cpus": 4}, "cpu")),
        ([node(CPU=8.0, GPU=2.0), node(CPU=64.0)], "auto", None, (2, {"num_gpus": 1, "num_cpus": 4}, "cuda")),
        ([node(CPU=8.0, GPU=2.0), node(CPU=64.0)], "cpu", None, (72, {"num_cpus": 1}, "cpu")),
        ([node(CPU=64.0, GPU=1.0)], "cuda", None, (1, {"num_gpus": 1, "num_cpus": 16}, "cuda")),
        ([node(CPU=8.0, GPU=4.0)], "cuda", 4, (2, {"num_gpus": 1, "num_cpus": 4}, "cuda")),
        ([node(CPU=8.0), {**node(CPU=9.0), "Alive": False}, node()], "auto", None, (8, {"num_cpus": 1}, "cpu")),
    ],
)
def test_machines_are_shared_out(nodes, device, jobs, expected):
    """A worker on each core, or on each GPU with its share of the cores; only what fits on one machine counts."""
    count, needs, options = _share_out(nodes, toy(device=device), jobs)
    assert (count, needs, options.device) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "jobs", "words"),
    [
        ([node(CPU=8.0)], "auto", 9, "needs so many CPUs; the largest machine of the Ray cluster has 8"),
        ([node(CPU=8.0)], "cuda", None, "no machine of the Ray cluster has a GPU"),
        ([node(CPU=8.0)], "cuda:0,cuda:1", None, "a device of its own"),
        ([node(CPU=8.0)], "mps", None, "a device of its own"),
    ],
)
def test_clusters_without_room_are_refused(nodes, device, jobs, words):
    """What was asked, what there is."""
    with pytest.raises(ParameterError, match=words):
        _share_out(nodes, toy(device=device), jobs)


def test_without_ray_the_line_says_how_to_have_it(music, tmp_path, monkeypatch):
    """And no store appears."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedstore-mir\[ray\]'"):
        build(music, tmp_path / "store", encoder=TOY, engine="ray")
    with pytest.raises(ParameterError, match="'local' or 'ray'; got 'dask'"):
        build(music, tmp_path / "store", engine="dask")
    assert not (tmp_path / "store").exists()
