"""Finished rounds of a sweep, kept so that a stopped one goes on.

A cell is one round: all that was found with one training set. Its file is named after everything that decides it (vectors,
labels, rows, probe, settings, versions), so nothing stale can be read, and other sweeps that share rounds find them, too.
Files are plain arrays (no pickle); one that cannot be read is made again. The oldest go when there are too many.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore import __version__

if TYPE_CHECKING:
    from probes.sweep import Fitted

__all__ = ["Cells", "digest"]

_MOST_BYTES = 256 << 20
_PARTS = ("values", "predicted", "weights")


def digest(array: NDArray[Any]) -> str:
    """Sum an array: its type, shape and bytes."""
    sum_ = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    sum_.update(np.ascontiguousarray(array).data)
    return sum_.hexdigest()


class Cells:
    """A folder of finished rounds; without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = Path(folder) if folder else None
        self._versions = [__version__, *(version(name) for name in ("numpy", "scipy", "scikit-learn", "torch"))]
        self.found = 0

    def name(self, probe: Any, *parts: Any) -> str:
        """Name the cell of a round; the probe by its class and settings."""
        if self._folder is None:
            return ""
        said = [digest(p) if isinstance(p, np.ndarray) else repr(p) for p in parts]
        model = f"{type(probe).__module__}.{type(probe).__qualname__} {sorted(map(repr, probe.get_params().items()))}"
        return hashlib.blake2b(json.dumps([*self._versions, model, *said]).encode(), digest_size=16).hexdigest()

    def get(self, name: str) -> Fitted | None:
        """Look a round up; None if it was not finished."""
        from probes.sweep import Fitted

        if self._folder is None:
            return None
        try:
            with np.load(self._folder / f"{name}.npz", allow_pickle=False) as arrays:
                parts: dict[str, dict[int, NDArray[Any]]] = {part: {} for part in _PARTS}
                for key in arrays.files:
                    part, _, number = key.partition("_")
                    if part in parts:
                        parts[part][int(number)] = arrays[key]
                warned = Counter(json.loads(str(arrays["warnings"])))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        self.found += 1
        return Fitted(**parts, warnings=warned)

    def put(self, name: str, fitted: Fitted) -> None:
        """Keep a round; where that fails (a full disk, a store that may only be read) it is not kept."""
        if self._folder is None:
            return
        arrays = {f"{part}_{number}": array for part in _PARTS for number, array in getattr(fitted, part).items()}
        buffer = io.BytesIO()
        np.savez(buffer, warnings=json.dumps(fitted.warnings), **arrays)
        half = ""
        try:
            self._folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".tmp", delete=False) as file:
                half = file.name
                file.write(buffer.getbuffer())
            os.replace(half, self._folder / f"{name}.npz")  # noqa: PTH105
        except OSError:
            if half:
                Path(half).unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove the oldest cells beyond 256 MB, and what killed processes left."""
        if self._folder is None or not self._folder.is_dir():
            return
        try:
            files = sorted(((f.stat().st_mtime, f.stat().st_size, f) for f in self._folder.iterdir()), reverse=True)
            total = 0
            for _, size, file in files:
                total += size
                if total > _MOST_BYTES or file.suffix == ".tmp":
                    file.unlink(missing_ok=True)
        except OSError:
            return
