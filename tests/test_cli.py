"""The front door: exit codes, one clear line for each fault, JSON and nothing else on stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import cli

PLUGINS = str(Path(__file__).parent / "plugins")


@pytest.fixture(autouse=True)
def toy_on_path(monkeypatch, tmp_path):
    """Let `module:Class` find the toy encoder; run in an empty folder."""
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMBEDSTORE_STORE", raising=False)


def run(*arguments, code=0):
    """Run one command; a crash with a traceback fails the test."""
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    if code:
        assert len(result.stderr.strip().splitlines()) <= 6, result.stderr
    return json.loads(result.stdout) if "--json" in arguments and not code else result


@pytest.fixture
def embedstore():
    """Name what runs one command."""
    return run


@pytest.fixture(scope="module")
def evening(tmp_path_factory):
    """Make a folder with `music`, and the store of it: three genres, three artists each, two tracks an artist.

    Genre is pitch, artist is a little detuning. Nobody changes what is there.
    """
    folder = tmp_path_factory.mktemp("evening")
    rng = np.random.default_rng(0)
    for genre, pitch in (("blues", 200), ("jazz", 900), ("rock", 2500)):
        for artist in range(3):
            there = folder / "music" / genre / f"{genre}-{artist}"
            there.mkdir(parents=True)
            for song in range(2):
                time = np.arange(16000) / 8000
                sound = np.sin(2 * np.pi * (pitch + 20 * artist + 5 * song) * time) * 0.4 + rng.normal(0, 0.05, 16000)
                soundfile.write(there / f"{song}.flac", sound.astype(np.float32), 8000)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        patch.chdir(folder)
        run("build", "music", "--encoder", "toy_encoder:Toy", "--json")
    return folder


@pytest.fixture
def at_evening(evening, monkeypatch):
    """Run in that folder: for commands that change nothing."""
    monkeypatch.chdir(evening)


@pytest.fixture
def music(evening, tmp_path):
    """Copy the music."""
    shutil.copytree(evening / "music", tmp_path / "music")
    return "music"


@pytest.fixture
def store(evening, tmp_path):
    """Copy the store; its music stays where it was."""
    shutil.copytree(evening / "embeddings", tmp_path / "embeddings")
    return "embeddings"


@pytest.fixture
def own_store(embedstore, music):
    """Build a store of the music in this folder, which may be changed."""
    embedstore("build", music, "--encoder", "toy_encoder:Toy", "--json")
    return "embeddings"


def test_build_info_failures_verify_speak_json(embedstore, music):
    """The commands of a first evening, with the keys that were promised."""
    Path(music, "blues", "broken.mp3").write_text("no sound")
    built = embedstore("build", music, "--encoder", "toy_encoder:Toy", "--json")
    assert (built["added"], built["skipped"], built["failed"]) == (18, 0, 1)
    assert built.keys() >= {"seconds_audio", "seconds_wall", "store"}
    info = embedstore("info", "--json")
    assert info.keys() >= {"tracks", "failures", "layers", "dim", "dtype", "encoder", "recipe", "genres", "bytes"}
    assert (info["tracks"], info["failures"], info["layers"], info["dim"]) == (18, 1, [0, 1], [4, 6])
    assert info["genres"] == {"blues": 6, "jazz": 6, "rock": 6}
    (failure,) = embedstore("failures", "--json")
    assert failure.keys() >= {"path", "stage", "reason"}
    assert Path(failure["path"]).exists()
    report = embedstore("verify", "--json")
    assert (report["ok"], report["rows"], report["problems"]) == (True, 18, [])


def test_windows_are_options(embedstore, music):
    """Length, hop, normalisation and keeping are in the recipe; `info` says how many windows there are."""
    cut = ("--window", "0.5", "--hop", "0.25", "--normalise", "file", "--keep-windows")
    plan = embedstore("build", music, "--encoder", "toy_encoder:Toy", *cut, "--dry-run", "--json")
    built = embedstore("build", music, "--encoder", "toy_encoder:Toy", *cut, "--json")
    assert (built["added"], built["failed"]) == (18, 0)
    info = embedstore("info", "--json")
    assert (info["windows"], plan["bytes"]) == (18 * 7, 18 * 8 * 20)
    recipe = {name: info["recipe"][name] for name in ("window_length", "window_hop", "preprocessing", "windows")}
    assert recipe == {
        "window_length": 4000,
        "window_hop": 2000,
        "preprocessing": "zero mean, unit variance per file",
        "windows": "kept",
    }
    assert "126 kept" in embedstore("info").stdout
    assert embedstore("build", music, "--json")["skipped"] == 18
    assert embedstore("verify", "--json")["ok"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--hop", "0"], 1, "a hop is a number of seconds above 0 and no more than a day; got 0"),
        (["--hop", "2"], 1, "at most a window, else sound is left out; got 2 s"),
        (["--hop", "1", "--window", "track"], 1, "leaves nothing to hop to; leave out hop 1"),
        (["--hop", "often"], 2, "'often' is not a valid float"),
        (["--normalise", "twice"], 2, "'twice' is not one of 'window', 'file', 'none'"),
        (["--hop", "1", "--encoder", "musicnn"], 1, "musicnn does not take hop; leave it out"),
        (["--normalise", "file", "--encoder", "mfcc"], 1, "mfcc does not take normalise; leave it out"),
    ],
)
def test_windows_that_make_no_sense_are_one_line(embedstore, music, options, code, words):
    """What was asked, what is possible, what to do."""
    result = embedstore("build", music, "--encoder", "toy_encoder:Toy", *options, code=code)
    assert words in result.stderr


def test_windows_cannot_be_kept_later(embedstore, at_evening):
    """A store without them says so, and how to have them."""
    result = embedstore("build", "music", "--keep-windows", code=1)
    assert "made without windows, and holds none of its 18 tracks; keep them in a new one" in result.stderr
    info = embedstore("info", "--json")
    assert info["windows"] is None
    assert "not kept" in embedstore("info").stdout


def test_build_says_where_the_time_went(embedstore, music):
    """One short line when something was encoded, none when not; the profile is a file, also of several devices."""
    toy = ("--encoder", "toy_encoder:Toy")
    first = embedstore("build", music, *toy, "--device", "cpu,cpu", "--profile", "profile.json")
    (line,) = [line for line in first.stdout.splitlines() if line.startswith("seconds")]
    assert all(stage in line for stage in ("hashing", "waiting", "encoding", "storing", "loading"))
    assert line.endswith("% of the lanes' time outside the encoder")
    assert len(json.loads(Path("profile.json").read_text())["files"]) == 18
    assert "seconds" not in embedstore("build", music).stdout
    failed = embedstore("build", music, "--profile", "no/where.json", code=1)
    assert failed.stderr.startswith("embedstore: the profile no/where.json cannot be written")


def test_search_finds_the_genre_by_track_file_and_name(embedstore, at_evening, write_audio):
    """Pitch is genre here, so the nearest tracks must share it; all three kinds of query agree on the shape."""
    path = "music/jazz/jazz-1/0.flac"
    by_track = embedstore("search", path, "-k", 3, "--layer", "1", "--json")
    assert {hit["genre"] for hit in by_track["results"]} == {"jazz"}
    assert all(not hit["path"].endswith(path) for hit in by_track["results"]), "a track is not its own neighbour"
    assert by_track["results"][0].keys() >= {"rank", "track", "path", "genre", "artist", "score"}
    by_id = embedstore("search", by_track["results"][0]["track"], "-k", 3, "--layer", "1", "--json")
    assert {hit["genre"] for hit in by_id["results"]} == {"jazz"}
    time = np.arange(16000) / 8000
    new = write_audio("new.wav", sample_rate=8000, samples=(0.4 * np.sin(2 * np.pi * 2510 * time)).astype(np.float32))
    by_file = embedstore("search", new, "-k", 3, "--layer", "1", "--json")
    assert {hit["genre"] for hit in by_file["results"]} == {"rock"}
    by_genre = embedstore("search", "--genre", "blues", "-k", 6, "--layer", "1", "--json")
    assert {hit["genre"] for hit in by_genre["results"]} == {"blues"}
    scores = [hit["score"] for hit in by_genre["results"]]
    assert scores == sorted(scores, reverse=True)


def test_index_does_not_change_the_answer(embedstore, store):
    """Search through an index and without one gives the same tracks."""
    before = embedstore("search", "--genre", "rock", "--layer", "1", "--json")
    report = embedstore("index", "--layer", "1", "--json")
    assert report.keys() >= {"kind", "layer", "rows", "recall_at_10", "seconds"}
    assert (report["rows"], report["recall_at_10"]) == (18, 1.0)
    after = embedstore("search", "--genre", "rock", "--layer", "1", "--json")
    assert [hit["track"] for hit in after["results"]] == [hit["track"] for hit in before["results"]]


def test_probe_reports_scores_with_intervals(embedstore, store):
    """Pitch is genre: the spectrum layer must beat the loudness layer, and files land in --report."""
    report = embedstore("probe", "--probe", "knn", "--folds", 3, "--seeds", 1, "--jobs", 1, "--report", "out", "--json")
    assert report.keys() >= {
        "probe",
        "genres",
        "n_tracks",
        "excluded",
        "protocol",
        "results",
        "best_layer",
        "confusion",
        "baselines",
    }
    loud, bands = report["results"]
    assert bands["macro_f1"]["low"] <= bands["macro_f1"]["value"] <= bands["macro_f1"]["high"]
    assert bands["macro_f1"]["value"] > 0.9 > loud["macro_f1"]["value"]
    assert report["best_layer"] == 1
    assert {"report.html", "report.json", "report.md"} <= {path.name for path in Path("out").iterdir()}
    assert "embedstore probe --probe knn" in Path("out/report.html").read_text(encoding="utf-8")
    assert len(list(Path(store, "cells").glob("*.cell"))) > 0


def test_baselines_curves_and_several_probes_in_one_command(embedstore, store):
    """What is asked with commas comes side by side; baselines that were built are rows of each table."""
    built = embedstore("baselines", "--device", "cpu", "--json")
    assert {name: report["added"] for name, report in built.items()} == {"mfcc": 18, "random_weights": 18}
    quick = ["--folds", 3, "--seeds", 1, "--jobs", 1]
    found = embedstore("probe", "--probe", "knn,ridge", "--train-sizes", "6,9", "--shots", "1", *quick, "--json")
    assert [report["probe"] for report in found["reports"]] == ["knn", "ridge"]
    assert len(found["comparisons"]) == 1
    for report in found["reports"]:
        assert list(report["baselines"]) == ["majority", "shuffled_labels", "mfcc", "random_weights"]
        assert [point["size"] for point in report["curve"]] == [6, 9, 1]
    other = embedstore("compare", store, Path(store, "baselines", "mfcc"), "--probe", "ridge", *quick, "--json")
    assert [report["source"]["encoder"] for report in other["reports"]] == ["toy_encoder:Toy", "mfcc"]


def test_audit_compares_groupings(embedstore, store):
    """Five groupings with scores and gaps, as JSON and as a table; files land in --report."""
    options = ("audit", "--probe", "knn", "--layer", 1, "--folds", 3, "--seeds", 1, "--jobs", 1)
    report = embedstore(*options, "--report", "out", "--json")
    assert report.keys() >= {"probe", "genres", "n_tracks", "protocol", "groupings", "offenders", "verdict", "notes"}
    assert " ".join(g["name"] for g in report["groupings"]) == "none track album artist near-duplicate"
    assert report["groupings"][0]["gap"].keys() == {"value", "low", "high"}
    assert {"report.html", "report.json", "tables", "plots"} <= {p.name for p in Path("out").iterdir()}
    both = embedstore("probe", "--audit", *options[1:], "--report", "both", "--json")
    assert both["audit"]["verdict"] == report["verdict"]
    assert "Leak audit" in Path("both/report.html").read_text(encoding="utf-8")
    assert "too high by" in embedstore(*options).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "nowhere", "--encoder", "toy_encoder:Toy"], ["nowhere"]),
        (["build", "music", "--encoder", "music2vek"], ["unknown encoder", "did you mean 'music2vec'"]),
        (["build", "music", "--encoder", "toy_encoder:Toy", "--store", "file"], ["file"]),
        (["build", "music", "--encoder", "toy_encoder:Toy", "--labels", "none.csv"], ["none.csv"]),
        (["build", "music", "--encoder", "toy_encoder:Toy", "--seed", "3"], ["seed", "random:"]),
        (["info", "--store", "nowhere"], ["nowhere", "build"]),
        (["search", "x.wav", "--store", "nowhere"], ["nowhere"]),
        (["search", "no such song"], ["no such song"]),
        (["search", "--genre", "blus"], ["blues"]),
        (["search", "--genre", "blues", "--layer", "7"], ["layer", "7"]),
        (["search", "--genre", "blues", "--layer", "mean"], ["width"]),
        (["probe", "--probe", "knm"], ["did you mean 'knn'"]),
        (["probe", "--probe", "ridge", "--split", "loo"], ["leaving one group out is for knn"]),
        (["probe", "--split", "official"], ["official split"]),
        (["probe", "--train-sizes", "500"], ["a training part of 500 tracks was asked"]),
        (["compare", "embeddings", "nowhere"], ["nowhere"]),
        (["probe", "--genres", "20"], ["20", "3"]),
        (["probe", "--genres", "blues,jaz"], ["jaz", "jazz"]),
        (["probe", "--layer", "9"], ["9"]),
        (["index", "--kind", "flot"], ["flot", "flat"]),
    ],
)
def test_faults_are_one_line_and_exit_1(embedstore, at_evening, arguments, words):
    """Each says what was asked and what there is; nothing goes to stdout."""
    Path("file").write_text("x")
    result = embedstore(*arguments, code=1)
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["search"],
        ["search", "a", "--genre", "b"],
        ["build"],
        ["probe", "--folds", "1"],
        ["probe", "--shots", "a"],
        ["nothing"],
    ],
)
def test_usage_errors_exit_2(embedstore, at_evening, arguments):
    """Wrong options are click's business."""
    embedstore(*arguments, code=2)


def test_folder_of_only_broken_files_exits_1_and_lists_them(embedstore):
    """Nothing could be stored: that is a failure, and the list says why."""
    Path("bad").mkdir()
    for number in range(3):
        Path("bad", f"{number}.mp3").write_text("words")
    embedstore("build", "bad", "--encoder", "toy_encoder:Toy", code=1)
    assert len(embedstore("failures", "--json")) == 3
    assert embedstore("search", "--genre", "x", code=1).stderr


def test_strict_exits_1_if_any_file_failed(embedstore, music):
    """--strict is for scripts that need every file."""
    Path(music, "blues", "broken.mp3").write_text("no sound")
    embedstore("build", music, "--encoder", "toy_encoder:Toy", "--strict", code=1)
    assert embedstore("info", "--json")["tracks"] == 18


def test_store_can_be_named_by_the_environment(embedstore, music, monkeypatch):
    """EMBEDSTORE_STORE is the default of --store."""
    monkeypatch.setenv("EMBEDSTORE_STORE", "elsewhere")
    embedstore("build", music, "--encoder", "toy_encoder:Toy")
    assert Path("elsewhere", "store.json").exists()


def test_dry_run_writes_nothing(embedstore, music):
    """It counts and estimates."""
    plan = embedstore("build", music, "--encoder", "toy_encoder:Toy", "--dry-run", "--json")
    assert plan["todo"] == 18
    assert plan["seconds_audio"] == pytest.approx(36, rel=0.05)
    assert not Path("embeddings").exists()


def test_names_cannot_reach_the_terminal(embedstore, write_audio):
    """Escape sequences in file names are shown, not obeyed."""
    write_audio("music/blues/\x1b[31mred\x07.wav")
    Path("music", "blues", "\x1b]0;title\x07.mp3").write_text("words")
    embedstore("build", "music", "--encoder", "toy_encoder:Toy")
    for command in (["info"], ["failures"], ["search", "--genre", "blues"]):
        output = embedstore(*command).output
        assert "\x1b" not in output
        assert "\x07" not in output


def test_plugins_and_doctor_know_the_rooms(embedstore):
    """Every room is listed; doctor names versions and owners."""
    rooms = embedstore("plugins", "--json")
    assert {"music2vec", "musicnn", "mfcc"} <= rooms["encoders"].keys()
    assert {"knn", "logistic", "mlp"} <= rooms["probes"].keys()
    findings = json.loads(CliRunner().invoke(cli.main, ["doctor", "--json"]).stdout)
    assert findings["versions"]["torch"]
    assert findings["owners"].keys() == {"embedstore", "probes", "cli"}


def test_help_of_every_command_has_an_example_of_itself():
    """`--help` works for each command and says what it does."""
    for name, command in cli.main.commands.items():
        result = CliRunner().invoke(cli.main, [name, "--help"])
        assert result.exit_code == 0
        assert command.help.split(".")[0].split(":")[0].strip()[:20] in result.output.replace("\n ", "")


def test_progress_off_a_terminal_is_quiet(music):
    """A log gets the result and no bar: no carriage returns, no escape sequences."""
    environment = {**os.environ, "PYTHONPATH": PLUGINS, "FORCE_COLOR": "0"}
    command = [sys.executable, "-m", "cli", "build", music, "--encoder", "toy_encoder:Toy"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "18 added" in result.stdout
    assert result.stderr == ""


def test_answers_from_a_part_of_the_store_say_so(embedstore, own_store):
    """A damaged shard is named by search, index and probe, on stderr and in the JSON; the exit code of verify is 1."""
    (shard,) = Path(own_store, "shards").iterdir()
    time = np.arange(16000) / 8000
    soundfile.write("music/rock/new.wav", (0.4 * np.sin(2 * np.pi * 2700 * time)).astype(np.float32), 8000)
    embedstore("build", "music", "--encoder", "toy_encoder:Toy")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    found = embedstore("search", "new.wav", "--layer", "1", "--json")
    assert any(shard.name in note for note in found["notes"])
    assert shard.name in embedstore("index", "--layer", "1").stderr
    assert shard.name in embedstore("verify", code=1).stderr
    embedstore("build", "music", "--encoder", "toy_encoder:Toy")
    assert embedstore("info", "--json")["tracks"] == 19


def test_output_that_cannot_be_written_is_one_line(at_evening):
    """A full disk behind a redirection is no traceback."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "cli", "info", "--json"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr


def test_errors_and_interruptions_are_json_too(embedstore, music, monkeypatch):
    """One document on stdout whatever happens, and the line for people on stderr."""
    from embedstore import pipeline

    failed = embedstore("build", "nowhere", "--json", code=1)
    assert json.loads(failed.stdout)["error"] in failed.stderr

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "build", interrupt)
    stopped = embedstore("build", music, "--json", code=1)
    assert json.loads(stopped.stdout) == {"error": "interrupted"}
    assert stopped.stderr == "embedstore: interrupted\n"
    assert embedstore("build", music, code=1).stdout == ""


def test_what_a_plug_in_prints_is_not_in_the_document(embedstore, music, tmp_path, monkeypatch):
    """It goes to stderr."""
    (tmp_path / "chatty.py").write_text(
        "import toy_encoder\n"
        "class Chatty(toy_encoder.Toy):\n"
        "    def __init__(self, **options):\n"
        "        print('HELLO')\n"
        "        super().__init__(**options)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert embedstore("build", music, "--encoder", "chatty:Chatty", "--json")["added"] == 18


def test_an_ignored_hang_up_stays_ignored(embedstore, music, monkeypatch):
    """As `nohup embedstore build` asks for; SIGTERM still commits what is finished."""
    import signal

    before = {name: signal.getsignal(name) for name in (signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        embedstore("build", music, "--encoder", "toy_encoder:Toy")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def test_rm_compact_merge(embedstore, own_store, music):
    """Tracks go, space is freed, the rest of another store comes in, and what was removed comes back with a build."""
    gone = embedstore("rm", f"{music}/rock", "blues/blues-0/0.flac", "--yes", "--json")
    assert (gone["tracks"], gone["files"], gone["total"]) == (7, 7, 11)
    small = embedstore("compact", "--json")
    assert (small["dropped"], small["after"]["shards"]) == (7, 1)
    assert "0 useless rows dropped" in embedstore("compact").stdout
    embedstore("build", f"{music}/rock", "--store", "rocks", "--encoder", "toy_encoder:Toy")
    merged = embedstore("merge", "rocks", "--json")
    assert (merged["tracks"], merged["known"], merged["total"]) == (6, 0, 17)
    both = embedstore("merge", "rocks", "embeddings", "--store", "both")
    assert "17 tracks in the store now" in both.stdout
    again = embedstore("build", music, "--json")
    assert (again["added"], again["skipped"]) == (1, 17)
    assert embedstore("verify", "--json")["ok"]
    refused = embedstore("rm", "no such track", code=1)
    assert "no stored track is called 'no such track'" in refused.stderr


def test_verify_repairs(embedstore, own_store, music):
    """A flipped bit is named; repair moves the shard away, and a build fills the hole."""
    (shard,) = Path(own_store, "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    damaged = embedstore("verify", code=1)
    assert shard.name in damaged.stderr
    assert "embedstore verify --repair" in damaged.stderr
    repaired = embedstore("verify", "--repair")
    assert f"moved: quarantine/shards-{shard.name}; the next build encodes what is missing" in repaired.stderr
    assert "is gone; build again" in embedstore("verify", code=1).stderr
    assert embedstore("info", "--json")["tracks"] == 0
    assert embedstore("build", music, "--json")["added"] == 18
    assert "all is well" in embedstore("verify", "--repair").stdout
