"""Runs of experiment trackers, read back with their own readers."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import report_material as m

from embedstore.errors import MissingDependencyError, ParameterError, UnknownNameError
from probes.results import Study
from probes.tracking import check_tracker, track

STUDY = Study(reports=(m.make_report(), m.make_report(encoder="musicnn")), comparisons=m.compared())


def test_an_unknown_tracker_lists_the_known() -> None:
    """The name is checked."""
    with pytest.raises(UnknownNameError, match="unknown tracker 'wanb'; did you mean 'wandb'"):
        check_tracker("wanb")


@pytest.mark.parametrize("where", ["wandb", "tensorboard"])
def test_a_missing_library_names_its_install_line(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra there is one line that says how to get it."""
    monkeypatch.setitem(sys.modules, where, None)
    for call in (lambda: check_tracker(where), lambda: track(m.make_report(), where, tmp_path / "new")):
        with pytest.raises(MissingDependencyError, match=rf"pip install 'embedstore-mir\[{where}\]'"):
            call()
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    """A file in the place of the folder is one line."""
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="runs cannot be written to"):
        track(m.make_report(), "tensorboard", tmp_path / "file")


def wandb_records(folder: Path) -> list[Any]:
    """Read the records of an offline run: a LevelDB log (blocks of 32 kB) of wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    records, whole, at = [], b"", 7
    while at < len(data):
        if 2**15 - at % 2**15 < 7:  # too little for a head: padding
            at += 2**15 - at % 2**15
        _, length, part = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # in one piece, or the last of several
            records.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return records


def named(items: Any) -> dict[str, Any]:
    """Read keys and JSON values."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
def test_wandb_offline_holds_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, settings, curves over layers, tracks and seeds, scores to quote and tables; nothing was sent."""
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    first, second = track(STUDY, "wandb", tmp_path)
    assert first != second
    assert first.name.startswith("offline-run")
    records = wandb_records(first)
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.display_name, run.project) == ("music2vec logistic", "embedstore")
    settings = named(run.config.update)
    assert settings["protocol"]["settings"] == [{"C": 0.01}, {"C": 0.1}]
    assert settings["source"]["fingerprint"] == "5f3c" * 8
    history = [named(record.history.item) for record in records if record.WhichOneof("record_type") == "history"]
    report = STUDY.reports[0]
    layers = {row["layer"]: row["layer/macro_f1"] for row in history if "layer" in row}
    assert layers == {n: report.results[n].main.value for n in range(3)}
    curve = {row["train_tracks"]: row["train_tracks/macro_f1_low"] for row in history if "train_tracks" in row}
    assert curve == {point.size: point.selected.main.low for point in report.curve}
    assert [row["seed/macro_f1"] for row in history if "seed" in row] == list(report.selected.by_seed)
    tables = {key.split("/")[1] for row in history for key in row if key.startswith("tables/")}
    assert {"layers", "confusion", "comparisons", "weights"} <= tables
    metrics = {
        record.metric.glob_name or record.metric.name
        for record in records
        if record.WhichOneof("record_type") == "metric"
    }
    assert {"layer", "layer/*", "train_tracks/*", "seed/*"} <= metrics
    summary: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary |= named(record.summary.update)
    assert summary["selected/macro_f1"] == report.selected.main.value
    assert summary["mfcc/macro_f1"] == report.baselines["mfcc"].main.value
    (confusion,) = (first / "files" / "media" / "table" / "tables").glob("confusion_*.json")
    found = json.loads(confusion.read_text())
    assert [row[1:] for row in found["data"]] == report.confusion["matrix"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "no such mode"])
def test_wandb_says_what_is_wrong(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online without an account, or a wrong mode: one line, no question, no waiting."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ParameterError, match=r"took no run: .*WANDB_MODE=offline needs no account"):
        track(m.make_report(), "wandb", tmp_path)


@pytest.mark.slow
def test_tensorboard_holds_the_numbers(tmp_path: Path) -> None:
    """Curves, tables and plots of each report; a second run goes to a folder of its own."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = STUDY.reports[0]
    first, second = track(STUDY, "tensorboard", tmp_path)
    assert (first.name, second.name) == ("music2vec-logistic", "musicnn-logistic")
    (again,) = track(m.make_report(layers=1, full=False), "tensorboard", tmp_path)
    assert again.name == "music2vec-logistic-2"
    events = EventAccumulator(str(first), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    layers = {event.step: event.value for event in events.Scalars("layer/macro_f1")}
    assert layers == pytest.approx({n: report.results[n].main.value for n in range(3)}, rel=1e-6)
    curve = {event.step: event.value for event in events.Scalars("train_tracks/macro_f1")}
    assert curve == pytest.approx({point.size: point.selected.main.value for point in report.curve}, rel=1e-6)
    seeds = [event.value for event in events.Scalars("seed/macro_f1")]
    assert seeds == pytest.approx(list(report.selected.by_seed), rel=1e-6)
    assert events.Scalars("summary/selected/macro_f1")[0].value == pytest.approx(0.48, rel=1e-6)
    assert {"layers", "confusion", "curve"} <= set(events.Tags()["images"])
    words = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "0.500 [0.460, 0.540]" in words["layers/text_summary"]
    assert "5f3c" * 8 in words["configuration/text_summary"]


@pytest.mark.slow
def test_hostile_names_stay_inside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with slashes and dots makes a folder here, not elsewhere."""
    pytest.importorskip("tensorboard")
    report = m.make_report(layers=1, full=False, encoder="../../up", probe="..", genres=m.HOSTILE)
    monkeypatch.chdir(tmp_path)
    (place,) = track(report, "tensorboard")
    assert place.resolve().parent == tmp_path / "runs"
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
