"""Probes as others run them, by name, and one call for whatever the command line asks.

Only the classifier and its settings are theirs; folds, choices and intervals stay ours, or the numbers could not be
compared. ``seed`` is the exception: the experiment that this tool began with, in its own way and in the clean one side by
side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from embedstore.errors import ParameterError
from embedstore.registry import unknown_name
from embedstore.types import LayerMatrix
from probes.evaluation import study
from probes.results import ProbeReport, Study
from probes.studies import keep as keep_report

__all__ = ["PRESETS", "Preset", "run"]


@dataclass(frozen=True)
class Preset:
    """A probe of somebody's benchmark.

    Attributes
    ----------
    make : callable
        Gives the probe, its grid of settings included.
    source : str
        Whose it is.
    options : dict
        Of `probes.evaluation.study`, where nothing else is asked.
    """

    make: Callable[[], Any]
    source: str
    options: Mapping[str, Any]


def _with_grid(probe: Any, grid: Sequence[Mapping[str, Any]]) -> Any:
    probe.grid = tuple(grid)
    return probe


def _marble() -> Any:
    from probes.mlp import MLPProbe

    rates = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
    probe = MLPProbe(hidden=(512,), dropout=0.2, batch_size=64, plateau=6, patience=20, refit=False)
    return _with_grid(probe, [{"learning_rate": rate} for rate in rates])


def _hear() -> Any:
    from probes.mlp import MLPProbe

    grid = [
        {"hidden": hidden, "learning_rate": rate}
        for hidden in ((1024,), (1024, 1024))
        for rate in (1e-4, 3.2e-4, 1e-3, 3.2e-3)
    ]
    return _with_grid(MLPProbe(dropout=0.1, patience=20, refit=False), grid)


def _dino() -> Any:
    from probes.knn import KNNProbe

    return _with_grid(KNNProbe(temperature=0.07), [{"n_neighbors": k} for k in (200, 100, 20, 10)])


def _lab() -> Any:
    from probes.genrenet import GenreNetProbe

    return GenreNetProbe()


PRESETS = {
    "marble": Preset(_marble, "Yuan et al. 2023, arXiv:2306.10548", {}),
    "hear": Preset(_hear, "Turian et al. 2022, arXiv:2203.03022", {}),
    "dino": Preset(_dino, "Caron et al. 2021, arXiv:2104.14294", {}),
    "seed": Preset(_lab, "the student lab's GenreNet", {"layer": "concat"}),
}


def run(
    source: Any, probe: Any = None, *, preset: str | None = None, command: str = "", keep: bool = False, **options: Any
) -> ProbeReport | Study:
    """Run what the command line asks: one probe, several with commas, or a preset.

    Parameters
    ----------
    source : EmbeddingStore, or what else `probes.evaluate` takes; or a mapping of such to compare them
    probe : str or estimator
        Names with commas between them run on the same tracks, folds and seeds; default: ``"logistic"``.
    preset : {"marble", "hear", "dino", "seed"}, optional
        In place of `probe`.
    command : str
        For the reports.
    keep : bool
        Also keep each report in the store, see `probes.studies`.
    **options
        Of `probes.evaluation.study`.

    Returns
    -------
    ProbeReport or Study
        A study where there are several reports.
    """
    several = isinstance(source, dict) and not any(isinstance(one, LayerMatrix) for one in source.values())
    sources = source if several else {"": source}
    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    if probe is not None and preset is not None:
        raise ParameterError(f"give a probe or a preset, not both; got {probe!r} and {preset!r}")
    if preset == "seed":
        found = _side_by_side(sources, **{**PRESETS[preset].options, **options})
    elif preset is not None:
        chosen = PRESETS[preset]
        found = study(sources, [chosen.make()], names=[preset], **{**chosen.options, **options})
    else:
        probe = "logistic" if probe is None else probe
        asked = [name.strip() for name in probe.split(",") if name.strip()] if isinstance(probe, str) else [probe]
        found = study(sources, asked, **options)
    reports = tuple(replace(report, command=command) for report in found.reports)
    if keep:
        reports = tuple(keep_report(source, report, probe=probe, preset=preset, **options) for report in reports)
    return reports[0] if len(reports) == 1 else replace(found, reports=reports)


def _side_by_side(sources: Mapping[str, Any], **options: Any) -> Study:
    """Run the lab's experiment its own way, once for each dropout, and the clean way, which chooses one."""
    for name in ("split", "group", "save"):
        if name in options and options.pop(name) not in (None, "cv", "artist"):
            raise ParameterError(f"--preset seed runs both protocols as they are; leave out --{name}")
    dropouts = sorted((dict(setting) for setting in _lab().grid), key=lambda setting: setting["dropout"])
    lab = {**options, "split": "lab", "group": "none"}
    found = {f"lab, dropout {s['dropout']}": study(sources, [_lab().set_params(**s)], **lab) for s in dropouts}
    found["clean"] = study(sources, [_lab()], **options)
    return Study(
        reports=tuple(replace(report, probe=name) for name, one in found.items() for report in one.reports),
        comparisons=tuple(  # between encoders; the two ways test other tracks
            replace(pair, first=f"{pair.first}, {name}", second=f"{pair.second}, {name}")
            for name, one in found.items()
            for pair in one.comparisons
        ),
    )
