"""Finished reports as runs of an experiment tracker: Weights & Biases, or TensorBoard.

A run has the settings as its configuration, each layer's scores as a curve over layers, the learning curve over training
tracks, the main score of each seed, and the tables of the report. W&B stays offline unless the environment variable
``WANDB_MODE`` says otherwise: nothing leaves the machine, nothing waits for a network; ``wandb sync`` sends it later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from embedstore.errors import ParameterError
from embedstore.registry import require, resolve
from embedstore.terminal import printable
from probes.report.contents import Contents
from probes.report.formats import markdown_of, markdown_text, plain_rows
from probes.report.plots import draw
from probes.report.words import facts
from probes.results import ProbeReport, Score, Study

__all__ = ["BUILTIN", "check_tracker", "track"]

BUILTIN = {
    "tensorboard": "probes.tracking:to_tensorboard",
    "wandb": "probes.tracking:to_wandb",
}


def check_tracker(where: str) -> None:
    """Say that a tracker or its library is not there: now, not after the work.

    Raises
    ------
    UnknownNameError, MissingDependencyError
        As `track` does.
    """
    resolve("trackers", BUILTIN, where)
    if where in BUILTIN:
        _library(where)


def _library(name: str) -> Any:
    return require(name, f"pip install 'embedstore-mir[{name}]'")


def track(
    found: ProbeReport | Study | Sequence[ProbeReport], where: str, folder: str | Path | None = None
) -> list[Path]:
    """Write each report as a run.

    Parameters
    ----------
    found : ProbeReport, Study or sequence of ProbeReport
    where : {"wandb", "tensorboard"}
    folder : path, optional
        Where runs are kept; made if it is not there. Default: ``runs`` in the current folder.

    Returns
    -------
    list of Path
        The folder of each run.

    Raises
    ------
    UnknownNameError
        No such tracker.
    MissingDependencyError
        Its library is not installed; the message holds the install line.
    ParameterError
        The folder cannot be written to, or the tracker refuses.
    """
    check_tracker(where)
    write: Callable[[Contents, Path], Path] = resolve("trackers", BUILTIN, where)
    folder = Path("runs" if folder is None else folder)
    contents = Contents.of(found)
    runs = [Contents((report,), contents.comparisons) for report in contents.reports]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [write(run, folder) for run in runs]
    except OSError as error:
        raise ParameterError(f"runs cannot be written to {folder}: {error.strerror or error}") from error


def to_wandb(contents: Contents, folder: Path) -> Path:
    """Write a run of Weights & Biases."""
    wandb = _library("wandb")
    (report,) = contents.reports
    try:
        settings = wandb.Settings(
            mode=os.environ.get("WANDB_MODE", "offline"),
            init_timeout=30,
            login_timeout=30,
            silent=True,
            console="off",
            save_code=False,
        )
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "embedstore"),
            name=_name(report),
            config=_configuration(report),
            dir=str(folder),
            settings=settings,
            reinit="create_new",
        )
    except (wandb.errors.Error, ValueError) as error:
        reason = printable(" ".join(str(error).split()))[:200]
        raise ParameterError(f"Weights & Biases took no run: {reason}; WANDB_MODE=offline needs no account") from error
    with run:
        for axis in dict.fromkeys(axis for axis, _, _ in _curves(report)):
            run.define_metric(axis, hidden=True)
            run.define_metric(f"{axis}/*", step_metric=axis)
        for axis, at, values in _curves(report):
            run.log({axis: at} | {f"{axis}/{name}": value for name, value in values.items()})
        for table in contents.tables:
            heads, *rows = plain_rows(table)
            run.log({f"tables/{table.name}": wandb.Table(columns=heads, data=rows)})
        run.summary.update(_summary(report))
        return Path(run.dir).parent


def to_tensorboard(contents: Contents, folder: Path) -> Path:
    """Write a run of TensorBoard, in a folder of its own: two runs in one would be drawn as one curve."""
    from torch.utils.tensorboard import SummaryWriter

    (report,) = contents.reports
    place = _new_folder(folder / (re.sub(r"[^\w.-]+", "-", _name(report)).strip("-.")[:80] or "run"))
    writer: Any = SummaryWriter(str(place))
    with writer:
        for axis, at, values in _curves(report):
            for name, value in values.items():
                writer.add_scalar(f"{axis}/{name}", value, at)
        for name, value in _summary(report).items():
            if not isinstance(value, str):
                writer.add_scalar(f"summary/{name}", value)
        for figure in contents.figures:
            writer.add_figure(figure.name, draw(figure))
        writer.add_text(
            "configuration", "\n".join(f"- {markdown_text(f'{k}: {v}')}" for k, v in facts(_configuration(report)))
        )
        for table in contents.tables:
            if not table.heat:
                writer.add_text(table.name, markdown_of(table))
    return place


def _new_folder(wanted: Path) -> Path:
    for number in count(1):
        place = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            place.mkdir()
        except FileExistsError:
            continue
        break
    return place


def _name(report: ProbeReport) -> str:
    return printable(f"{report.source.get('encoder', 'vectors')} {report.probe}")


def _configuration(report: ProbeReport) -> dict[str, Any]:
    """Give what it takes to do it again."""
    kept = ("probe", "command", "source", "genres", "n_tracks", "protocol", "excluded", "versions")
    document = report.to_dict()
    return {name: document[name] for name in kept}


def _curves(report: ProbeReport) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Give axis, place on it and values there: over layers, over training tracks, over seeds."""
    for result in report.results:
        if isinstance(result.layer, int):
            inner = {} if result.inner is None else {"inner_score": result.inner}
            yield "layer", result.layer, _numbers(result) | inner
    for point in report.curve:
        yield "train_tracks", round(point.n_train), _numbers(point.selected)
    for seed, value in zip(report.protocol["seeds"], report.selected.by_seed, strict=False):
        yield "seed", seed, {report.measure: value}


def _numbers(score: Score) -> dict[str, float]:
    return {
        f"{name}{end}": getattr(interval, field)
        for name, interval in score.measures.items()
        for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _summary(report: ProbeReport) -> dict[str, Any]:
    """Give the scores to quote: chosen inside training, rows that are no layer, baselines."""
    rows = {"selected": report.selected, **report.baselines}
    rows |= {str(result.layer): result for result in report.results if not isinstance(result.layer, int)}
    numbers = {f"{row}/{name}": value for row, score in rows.items() for name, value in _numbers(score).items()}
    gap = {"selectivity": report.selectivity.value} if report.selectivity else {}
    return numbers | gap | {"best_layer": report.best_layer}
