"""What the routes give, and what a study's file has to be before any of it is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from embedstore.errors import StoreFormatError
from probes.audit import AuditReport
from probes.report.words import audit_sentences, sentences
from probes.results import Interval, PerTrack, ProbeReport, Score
from probes.saved import SavedProbe

__all__ = ["SAMPLES", "Confused", "ConfusedTrack", "KeptStudy", "ProbeEntry", "StudyEntry", "StudyPage", "StudyTracks"]

Kind = Literal["probe", "audit"]


class _File(BaseModel):
    """What stands in the file of a study."""

    model_config = ConfigDict(strict=True)

    made: AwareDatetime
    state: str
    report: ProbeReport | AuditReport


@dataclass(frozen=True, repr=False, eq=False)
class KeptStudy:
    """A study that was read, every part of it checked.

    Attributes
    ----------
    made : datetime
    state : str
        Of the store when it was made; see `probes.studies.state_of`.
    report : ProbeReport or AuditReport
    keys : int64 array, shape (n,)
        Of the tracks that were tested.
    true : tuple of tuple of int
        Their genres.
    predicted : int64 array, shape (n_seeds, n)
        What was said of them; -1: a seed did not test it.
    sentences : tuple of str
        What the command prints of it besides tables and the notes of the report.
    """

    made: datetime
    state: str
    report: ProbeReport | AuditReport
    keys: NDArray[np.int64] = field(init=False)
    true: tuple[tuple[int, ...], ...] = field(init=False)
    predicted: NDArray[np.int64] = field(init=False)
    sentences: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        tested, n = self.report.tested or PerTrack((), (), ()), len(self.report.genres)
        keys = np.array(tested.keys, dtype=np.int64)
        predicted = np.array(tested.predicted, dtype=np.int64).reshape(len(tested.predicted), len(keys))
        codes = np.array([code for codes in tested.genres for code in codes], dtype=np.int64)
        fits = (
            len(keys) == len(tested.genres)
            and len(np.unique(keys)) == len(keys)
            and all(tested.genres)
            and (keys >= 0).all()
            and ((codes >= 0) & (codes < n)).all()
            and ((predicted >= -1) & (predicted < n)).all()
            and all(isinstance(score.measures.get(self.measure), Interval) for score in self._scores)
        )
        if not fits or len(set(self.report.genres)) < n or not self._scores:
            raise ValueError("its tracks, genres and scores do not fit together")
        try:
            said = tuple(line for line in _say(self.report) if line not in self.report.notes)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError("its protocol does not say what it rests on") from error
        parts = {"keys": keys, "true": tested.genres, "predicted": predicted, "sentences": said}
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> KeptStudy:
        """Read a study's JSON.

        Raises
        ------
        StoreFormatError
            It is none.
        """
        try:
            found = _File.model_validate_json(data)
            return cls(found.made, found.state, found.report)
        except (ValidationError, ValueError, OverflowError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise StoreFormatError(f"the study {path} is none that can be read: {why}; run it again") from error

    @property
    def kind(self) -> Kind:
        """What it is."""
        return "probe" if isinstance(self.report, ProbeReport) else "audit"

    @property
    def when(self) -> str:
        """When it was made, as ISO 8601 has it."""
        return self.made.astimezone(UTC).isoformat()

    @property
    def measure(self) -> str:
        """Name of the main measure."""
        return "map" if "map" in self._scores[-1].measures else "macro_f1"

    @property
    def value(self) -> Interval:
        """The score to quote: of the nested choice, or under the strictest grouping."""
        return self._scores[-1].measures[self.measure]

    @property
    def _scores(self) -> tuple[Score, ...]:
        if isinstance(self.report, ProbeReport):
            return (*self.report.results, self.report.selected)
        return tuple(grouping.score for grouping in self.report.groupings)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether what was said is among the track's genres, shape (n_seeds, n)."""
        n, rows = len(self.report.genres), np.arange(len(self.keys))
        sizes = [len(codes) for codes in self.true]
        codes = np.array([code for codes in self.true for code in codes], dtype=np.int64)
        return (self.predicted >= 0) & np.isin(rows * n + self.predicted, np.repeat(rows, sizes) * n + codes)


@dataclass(frozen=True)
class StudyEntry:
    """A study in a list.

    Attributes
    ----------
    name : str
        By which it is asked for.
    kind : {"probe", "audit"}
        What it is.
    probe : str
        Which classifier.
    made : str
        When, as ISO 8601 has it.
    measure : str
        Name of the main measure, ``"macro_f1"`` or ``"map"``.
    value, low, high : float or None
        The score to quote, with its 95 % interval; of an audit: under the strictest grouping.
    tracks, genres : int
        How many.
    stale : bool
        Whether the store's tracks or labels have changed since.
    """

    name: str
    kind: Kind
    probe: str
    made: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    tracks: int
    genres: int
    stale: bool

    @classmethod
    def of(cls, name: str, study: KeptStudy) -> StudyEntry:
        """Describe a study, as one of the store as it is."""
        report, score = study.report, study.value
        return cls(
            name=name,
            kind=study.kind,
            probe=report.probe,
            made=study.when,
            measure=study.measure,
            value=_number(score.value),
            low=_number(score.low),
            high=_number(score.high),
            tracks=report.n_tracks,
            genres=len(report.genres),
            stale=False,
        )


@dataclass(frozen=True)
class StudyPage:
    """A whole study.

    Attributes
    ----------
    name : str
        As in the list.
    kind : {"probe", "audit"}
        What it is.
    made : str
        When, as ISO 8601 has it.
    report : dict
        What `embedstore probe --json` or `embedstore audit --json` prints.
    stale : bool
        Whether the store's tracks or labels have changed since.
    sentences : list of str
        What was found and how far to trust it, as the command prints it on a terminal; without the notes of the report.
    """

    name: str
    kind: Kind
    made: str
    report: dict[str, Any]
    stale: bool
    sentences: list[str]


@dataclass(frozen=True)
class StudyTracks:
    """What was said of each track while it was held out; of an audit: under the strictest grouping.

    Attributes
    ----------
    tracks : list of str
        Ids of those that were tested and are still in the store.
    genres : list of str
        What the numbers below stand for.
    true : list of int, or None
        The genre of each; None where a track may have several.
    predicted : list of list of int
        For each seed, what was said of each: where a track may have several, the one that scored highest; -1: not tested.
    right : list of float
        Share of the seeds in which that is a genre of the track.
    """

    tracks: list[str]
    genres: list[str]
    true: list[int] | None
    predicted: list[list[int]]
    right: list[float]


@dataclass(frozen=True)
class ConfusedTrack:
    """A track in a cell of a confusion matrix.

    Attributes
    ----------
    id : str
        Of the track.
    times : int
        In how many seeds.
    """

    id: str
    times: int


@dataclass(frozen=True)
class Confused:
    """A cell of a confusion matrix.

    Attributes
    ----------
    tracks : list of ConfusedTrack
        The most often confused first; those that are still in the store.
    """

    tracks: list[ConfusedTrack]


@dataclass(frozen=True)
class ProbeEntry:
    """A trained probe that the store keeps.

    Attributes
    ----------
    name : str
        Of the probe.
    probe : str
        Which classifier.
    layer : int or str
        What it hears.
    genres : list of str
        What it can say.
    tracks : int
        That it was trained on.
    measure : str
        Name of the main measure.
    value, low, high : float or None
        On tracks that were held out, with the 95 % interval; None if that was not kept.
    """

    name: str
    probe: str
    layer: int | str
    genres: list[str]
    tracks: int
    measure: str
    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, name: str, probe: SavedProbe) -> ProbeEntry:
        """Describe a probe."""
        score = probe.score
        value, low, high = (score.value, score.low, score.high) if score else (None, None, None)
        return cls(
            name=name,
            probe=probe.probe,
            layer=probe.layer,
            genres=list(probe.genres),
            tracks=probe.tracks,
            measure=probe.measure,
            value=value,
            low=low,
            high=high,
        )


def _say(report: ProbeReport | AuditReport) -> Iterator[str]:
    return sentences(report) if isinstance(report, ProbeReport) else audit_sentences(report)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


_ID = "00d1f2a3b4c5e697"
SAMPLES = (
    StudyEntry("mlp-20-genres", "probe", "mlp", "2026-01-31T12:00:00+00:00", "macro_f1", 0.52, 0.49, 0.55, 2000, 20, False),
    StudyPage("mlp-20-genres", "probe", "2026-01-31T12:00:00+00:00", {"probe": "mlp", "best_layer": 6}, False, ["baselines not given: MFCC statistics"]),
    StudyTracks([_ID], ["blues", "jazz"], [0], [[0], [0], [1]], [0.6667]),
    Confused([ConfusedTrack(_ID, 2)]),
    ProbeEntry("genres", "logistic", 6, ["blues", "jazz"], 200, "macro_f1", 0.81, 0.77, 0.85),
)  # fmt: skip
