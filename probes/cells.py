"""Finished rounds of a sweep, kept so that a stopped one goes on.

A cell is one round: all that was found with one training set. Its file is named after everything that decides it (vectors,
labels, rows, probe, settings, the code of this package and of the probe's module, versions of libraries), so nothing stale is
read, and other sweeps over the same layers that share rounds find them, too. Files are plain arrays (no pickle) behind their sum;
one that is damaged is made again. The oldest go when there are too many.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import re
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import __version__

__all__ = ["ABANDONED", "Cells", "Fitted", "digest"]

_MOST_BYTES = 256 << 20
_PARTS = ("values", "predicted", "weights")
_OURS = re.compile(r"[0-9a-f]{32}\.cell|cell-.*\.tmp")
_SUM = 16  # bytes of the sum in front of a cell
ABANDONED = 3600  # seconds after which half a file is that of a killed process


@dataclass(frozen=True, repr=False, eq=False)
class Fitted:
    """What one round found, by number of the feature.

    Attributes
    ----------
    values : dict of array
        Of a choice: class numbers (n_settings, n_eval), or with several tags the measure (n_settings, n_folds) of each
        fold that it helps to choose for. Of a test: scores (n_settings, n_eval, n_classes), float32.
    predicted : dict of int64 array, shape (n_settings, n_eval)
        Of a test: class numbers.
    weights : dict of float64 array, shape (n_layers,)
    warnings : Counter
    """

    values: dict[int, NDArray[Any]]
    predicted: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    weights: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    warnings: Counter[str] = field(default_factory=Counter)


@cache
def _code(module: str) -> str:
    """Sum the code of a module, of this package, and the version of the library; nothing where it is in no file."""
    try:
        source = Path(str(inspect.getsourcefile(sys.modules[module]))).read_bytes()
    except (TypeError, OSError):
        return ""
    ours = (file.read_bytes() for file in sorted(Path(__file__).parent.rglob("*.py")))
    library = str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))
    return hashlib.blake2b(b"".join([library.encode(), source, *ours])).hexdigest()


def _is_plain(value: Any) -> bool:
    """Tell whether a parameter's text says all of it: of an array it would not."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float)) or hasattr(value, "get_params")


def digest(array: NDArray[Any]) -> str:
    """Sum an array: its type, shape and bytes."""
    sum_ = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    sum_.update(np.ascontiguousarray(array).data)
    return sum_.hexdigest()


class Cells:
    """A folder of finished rounds; without one, or where a link stands in its place, nothing is kept."""

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None or Path(folder).is_symlink() else Path(folder)
        self._versions = [__version__, *(version(name) for name in ("numpy", "scipy", "scikit-learn", "torch"))]

    @property
    def kept(self) -> bool:
        """Whether anything is."""
        return self._folder is not None

    def name(self, probe: Any, *parts: Any) -> str:
        """Name the cell of a round; nothing if it cannot be kept, as nobody would see that the probe's code has changed."""
        params = probe.get_params()
        kinds = [type(one) for one in (probe, *params.values()) if hasattr(one, "get_params")]
        codes = [_code(kind.__module__) for kind in kinds]
        if self._folder is None or not all(codes) or not all(map(_is_plain, params.values())):
            return ""
        model = [*(kind.__qualname__ for kind in kinds), *codes, *sorted(map(repr, params.items()))]
        said = [digest(part) if isinstance(part, np.ndarray) else repr(part) for part in parts]
        return hashlib.blake2b(json.dumps([*self._versions, *model, *said]).encode(), digest_size=16).hexdigest()

    def get(self, name: str) -> Fitted | None:
        """Look a round up; None if it was not finished."""
        if self._folder is None or not name:
            return None
        try:
            data = (self._folder / f"{name}.cell").read_bytes()
            if hashlib.blake2b(data[_SUM:], digest_size=_SUM).digest() != data[:_SUM]:
                return None
            with np.load(io.BytesIO(data[_SUM:]), allow_pickle=False) as arrays:
                parts: dict[str, dict[int, NDArray[Any]]] = {part: {} for part in _PARTS}
                for key in arrays.files:
                    part, _, number = key.partition("_")
                    if part in parts:
                        parts[part][int(number)] = arrays[key]
                warned = Counter(json.loads(str(arrays["warnings"])))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Fitted(**parts, warnings=warned)

    def put(self, name: str, fitted: Fitted) -> None:
        """Keep a round; where that fails (a full disk, a store that may only be read) it is not kept."""
        if self._folder is None or not name:
            return
        arrays = {f"{part}_{number}": array for part in _PARTS for number, array in getattr(fitted, part).items()}
        buffer = io.BytesIO()
        np.savez(buffer, warnings=json.dumps(fitted.warnings), **arrays)
        half = ""
        try:
            self._folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="cell-", suffix=".tmp", delete=False) as file:
                half = file.name
                file.write(hashlib.blake2b(buffer.getbuffer(), digest_size=_SUM).digest())
                file.write(buffer.getbuffer())
            os.replace(half, self._folder / f"{name}.cell")  # noqa: PTH105
        except OSError:
            if half:
                Path(half).unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove the oldest cells beyond 256 MB, and what killed processes left."""
        if self._folder is None or not self._folder.is_dir():
            return
        try:
            ours = (file for file in self._folder.iterdir() if _OURS.fullmatch(file.name))
            total = 0
            for when, size, file in sorted(((f.stat().st_mtime, f.stat().st_size, f) for f in ours), reverse=True):
                total += size
                abandoned = file.suffix == ".tmp" and time.time() - when > ABANDONED
                if abandoned or (file.suffix != ".tmp" and total > _MOST_BYTES):
                    file.unlink(missing_ok=True)
        except OSError:
            return
