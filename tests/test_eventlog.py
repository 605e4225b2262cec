"""The log for machines: what is in it, when it is written, and that it never stops a build; the lines for people."""

from __future__ import annotations

import errno
import io
import json
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from embedstore import eventlog, terminal
from embedstore.errors import ParameterError
from embedstore.eventlog import EventLog, event_log
from embedstore.lanes import Outcome
from embedstore.pipeline import build
from embedstore.types import AudioFile

FILE = AudioFile("/music", "a.wav", 1, 1)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder, with the toy encoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugins"))


@pytest.fixture
def music(write_audio):
    """Two tracks, a copy, and a file that fails."""
    for name, pitch in (("a", 300), ("b", 400), ("copy of b", 400)):
        write_audio(f"music/{name}.wav", frequency=pitch)
    Path("music/bad.mp3").write_text("words")
    return "music"


def lines(text: str) -> list[dict]:
    """Read JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_build_from_the_command_line_is_logged(music):
    """Start, progress, one line a file, end; the sums agree with the report, and a second build is appended."""
    command = ["build", music, "--encoder", "toy_encoder:Toy", "--jobs", "1", "--log-json", "log.jsonl"]
    assert CliRunner().invoke(cli.main, command).exit_code == 0
    start, progress, *files, end = lines(Path("log.jsonl").read_text())
    assert [start["event"], progress["event"], end["event"]] == ["start", "progress", "end"]
    assert start.keys() >= {"version", "pid", "host", "cwd", "store", "jobs"}
    assert (start["audio_dir"], start["encoder"]["name"]) == ("music", "toy_encoder:Toy")
    assert (progress["done"], progress["todo"]) == (0, 4)
    assert {line["event"] for line in files} == {"file"}
    kinds = {Path(line["path"]).name: line["kind"] for line in files}
    assert kinds == {"a.wav": "added", "b.wav": "added", "copy of b.wav": "known", "bad.mp3": "failed"}
    by_name = {Path(line["path"]).name: line for line in files}
    assert by_name["b.wav"]["id"] == by_name["copy of b.wav"]["id"] != by_name["a.wav"]["id"]
    assert (by_name["a.wav"]["seconds_audio"], by_name["copy of b.wav"]["seconds_audio"]) == (1.0, None)
    assert by_name["bad.mp3"]["stage"] == "decode"
    assert "not audio" in by_name["bad.mp3"]["reason"]
    assert by_name["a.wav"]["seconds"].keys() == {"hashing", "decoding", "waiting", "encoding"}
    assert (end["report"]["added"], end["report"]["known"], end["report"]["failed"]) == (2, 1, 1)
    times = [datetime.fromisoformat(line["time"]) for line in (start, progress, *files, end)]
    assert times == sorted(times)
    assert times[0].utcoffset() == timedelta(0)
    assert datetime.now(UTC) - times[-1] < timedelta(minutes=1)
    CliRunner().invoke(cli.main, command)
    again = lines(Path("log.jsonl").read_text())[len(files) + 3 :]
    assert [line["event"] for line in again] == ["start", "progress", "end"]
    assert (again[1]["todo"], again[2]["report"]["skipped"]) == (0, 3)


def test_errors_and_interruptions_are_events(music, monkeypatch):
    """A build that raises says why; one that is stopped before it has a report says that."""
    result = CliRunner().invoke(cli.main, ["build", "nowhere", "--log-json", "log.jsonl"])
    assert result.exit_code == 1
    start, error = lines(Path("log.jsonl").read_text())
    assert (start["event"], error["event"], error["kind"]) == ("start", "error", "ParameterError")
    assert "nowhere" in error["reason"]
    with pytest.raises(KeyboardInterrupt), event_log("stopped.jsonl"):
        raise KeyboardInterrupt
    assert lines(Path("stopped.jsonl").read_text())[-1]["event"] == "interrupted"

    def stop(done, _todo, outcome):
        log(done, _todo, outcome)
        if done == 1:
            raise KeyboardInterrupt

    with event_log("half.jsonl") as log:
        log.write("end", report=build(music, "store", encoder="toy_encoder:Toy", jobs=1, progress=stop).to_dict())
    *_, last, end = lines(Path("half.jsonl").read_text())
    assert (last["event"], end["report"]["interrupted"]) == ("file", True)


def test_dash_is_stderr_without_progress_for_people(music, monkeypatch):
    """The lines for people keep quiet, but for the notes at the end; the result is on stdout."""
    monkeypatch.setattr(terminal, "LOG_EVERY", 0.001)
    result = CliRunner().invoke(cli.main, ["build", music, "--encoder", "toy_encoder:Toy", "--log-json", "-"])
    assert "encoding:" not in result.stderr
    logged = [line for line in result.stderr.splitlines() if line.startswith("{")]
    assert lines("\n".join(logged))[-1]["event"] == "end"
    assert "2 added" in result.stdout


@pytest.mark.parametrize("where", ["missing/log.jsonl", "music", "/dev/full"])
def test_a_log_that_cannot_be_written_is_one_line_before_the_work(music, where):
    """A missing folder, a folder, a full disk: refused, and no store appears."""
    result = CliRunner().invoke(cli.main, ["build", music, "--encoder", "toy_encoder:Toy", "--log-json", where])
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert f"the log {where} cannot be written: " in result.stderr
    assert not Path("embeddings").exists()


class Filling(io.StringIO):
    """A disk that is full after a few lines."""

    def write(self, text):
        """Write, or not."""
        if self.getvalue().count("\n") >= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_disk_that_fills_up_costs_the_log_and_not_the_build(music, monkeypatch):
    """One warning, and every file is stored."""
    stream = Filling()
    monkeypatch.setattr(eventlog, "_append_to", lambda _path: stream)
    monkeypatch.setattr(eventlog, "_close", lambda _stream: None)
    with warnings.catch_warnings(record=True) as caught, event_log("log.jsonl") as log:
        warnings.simplefilter("always")
        report = build(music, "store", encoder="toy_encoder:Toy", jobs=1, progress=log)
        log.write("end", report=report.to_dict())
    assert (report.added, report.interrupted) == (2, False)
    assert [str(one.message) for one in caught] == ["the log ends here, the build goes on: No space left on device"]
    assert len(lines(stream.getvalue())) == 3


def test_every_line_is_there_at_once_and_a_cut_one_is_ended():
    """Another program may follow the file; what a kill cut short does not spoil the next line."""
    Path("log.jsonl").write_text('{"event": "fi')
    with event_log("log.jsonl") as log:
        log(1, 2, Outcome(FILE, "failed", stage="decode", reason="bad"))
        cut, start, file = Path("log.jsonl").read_text().splitlines()
    assert (cut, json.loads(start)["event"], json.loads(file)["reason"]) == ('{"event": "fi', "start", "bad")


def test_names_that_are_not_text_are_logged():
    """Bytes that are not UTF-8 and control characters come through as JSON in ASCII."""
    name = "caf\udce9\n\x1b[31m.wav"
    with event_log("log.jsonl") as log:
        log(1, 1, Outcome(AudioFile("/music", name, 1, 1), "vanished"))
    assert lines(Path("log.jsonl").read_bytes().decode("ascii"))[-1]["path"] == f"/music/{name}"


class Heard(io.StringIO):
    """Tells when something was written."""

    def __init__(self):
        super().__init__()
        self.once = threading.Event()

    def write(self, text):
        """Write a text; a line counts."""
        length = super().write(text)
        if "\n" in text:
            self.once.set()
        return length


def test_the_log_beats_when_nothing_gets_done(monkeypatch):
    """Every minute, here every few milliseconds, also before the files to do are known and in a long track."""
    monkeypatch.setattr(eventlog, "EVERY", 0.001)
    assert terminal.LOG_EVERY == 60.0
    stream = Heard()
    monkeypatch.setattr(eventlog, "_append_to", lambda _path: stream)
    monkeypatch.setattr(eventlog, "_close", lambda _stream: None)
    with event_log("log.jsonl") as log:
        stream.once.clear()
        assert stream.once.wait(10)
        log(0, 7, None)
        log(1, 7, Outcome(FILE, "failed", stage="decode", reason="bad"))
        stream.once.clear()
        assert stream.once.wait(10)
    beats = [line for line in lines(stream.getvalue()) if line["event"] == "progress"]
    assert (beats[0]["done"], beats[0]["todo"]) == (None, None)
    assert (beats[-1]["done"], beats[-1]["todo"], beats[-1]["failed"]) == (1, 7, 1)
    stream.once.clear()
    assert not stream.once.wait(0.02), "the beat ends with the block"


def test_lines_for_people_come_each_minute_whatever_gets_done(monkeypatch):
    """Off a terminal: the first after a minute, also when no file is finished; none for a short task."""
    stream = Heard()
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal.progress_bar("encoding") as tell:
        tell(1, 2, "")
    assert stream.getvalue() == ""
    monkeypatch.setattr(terminal, "LOG_EVERY", 0.001)
    with terminal.progress_bar("encoding") as tell:
        assert stream.once.wait(10)
        tell(0, 12, "0 min of sound")
        stream.once.clear()
        assert stream.once.wait(10)
        tell(3, 12, "5 min of sound, 1 failed \x1b")
        stream.once.clear()
        assert stream.once.wait(10)
        stream.once.clear()
        assert stream.once.wait(10)
    first, *_, last = stream.getvalue().splitlines()
    assert first.startswith("encoding: 0 of ?, nothing finished after ")
    assert "encoding: 0 of 12, nothing finished after " in stream.getvalue()
    assert last.startswith("encoding: 3 of 12, ")
    assert last.endswith(r"left 5 min of sound, 1 failed \x1b")


def test_no_log_is_no_file():
    """Without a path nothing is written, and the calls are the same."""
    with event_log(None) as log:
        log(1, 1, Outcome(FILE, "vanished"))
        log.write("end", report={})
    assert isinstance(log, EventLog)
    assert list(Path().iterdir()) == []
    with pytest.raises(ParameterError, match="cannot be written"), event_log("no/where"):
        pass
