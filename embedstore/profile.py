"""Where the time of a build went: per stage, and per file for those who want to know what is slow."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from embedstore.errors import ParameterError
from embedstore.lanes import Outcome, Seconds, cores

__all__ = ["Profile", "Stages"]

LIBRARIES = ("embedstore-mir", "h5py", "numpy", "soundfile", "soxr", "torch", "transformers")


@dataclass
class Stages(Seconds):
    """Seconds of a build: those of its files, summed, and what is done beside them.

    Attributes
    ----------
    loading : float
        Before the first file: listing, labels, loading the encoder.
    storing : float
        Writing tracks, failures and labels, while the lanes go on.
    """

    loading: float = 0.0
    storing: float = 0.0

    def add(self, seconds: Seconds) -> None:
        """Take in a file's share."""
        for stage, spent in vars(seconds).items():
            setattr(self, stage, getattr(self, stage) + spent)

    @property
    def share_outside_encoder(self) -> float:
        """Part of the lanes' time that was not spent in the encoder, 0..1."""
        return self.waiting / (self.waiting + self.encoding) if self.encoding else 0.0

    def to_dict(self) -> dict[str, float]:
        """Plain data for JSON."""
        return {**vars(self), "share_outside_encoder": self.share_outside_encoder}


class Profile:
    """A row per file, and a JSON document of them.

    Parameters
    ----------
    path : path
        Of the document; it is not touched before `write`.

    Raises
    ------
    ParameterError
        It cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, self._rows = Path(path), list[dict[str, Any]]()
        there = self._path.exists()
        if there and not self._path.is_file():
            raise ParameterError(f"the profile {path} cannot be written: it is no regular file")
        try:
            self._path.open("ab").close()
            if not there:
                self._path.unlink()
        except OSError as error:
            raise ParameterError(f"the profile {path} cannot be written: {error.strerror}") from error

    def note(self, outcome: Outcome) -> None:
        """Take in what became of a file."""
        sound = outcome.report.seconds if outcome.report else 0.0
        about = {"path": outcome.file.full_path, "kind": outcome.kind, "seconds_audio": sound}
        self._rows.append({**about, **vars(outcome.seconds)})

    def write(self, **facts: Any) -> None:
        """Write the machine, what is known of the build, and the rows."""
        versions = {name: found for name in LIBRARIES if (found := _version(name))}
        machine = {"system": platform.platform(), "python": platform.python_version(), "cores": cores(), **versions}
        document = {"machine": machine, **facts, "files": self._rows}
        self._path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
