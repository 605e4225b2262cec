"""One classic HDF5 file, for any HDF5 library of the last 15 years.

HDF5 brings the whole process down (a segmentation fault) when a write to the disk fails. So it never learns of it: it
writes through `_Disk`, which keeps what the real disk refused until this module has seen why and closed the file.
"""

from __future__ import annotations

import io
import json
import os
from typing import Any

import h5py
import numpy as np

from embedstore.exports.base import ROWS, Content
from embedstore.store.disk import new_file

__all__ = ["write"]


def write(content: Content, target: str, *, float32: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Write the file.

    It holds a dataset ``layer_NN`` (n, dim) for each layer, float16 as stored, its name in the attribute ``name``;
    ``layer_mean`` is float32. Beside them, with a row for each track: ``key`` (int64), ``seconds`` (float64), ``year``
    (int32, 0 if unknown), and as UTF-8 strings of variable length ``track_id``, ``path``, ``album``, ``title``, ``split``,
    and ``genres`` and ``artists``, each a JSON list. The attributes of the file say where the vectors come from.
    """
    with new_file(target, content.store.path, overwrite=overwrite) as handle:
        disk, rows = _Disk(handle), 0
        # without the version bounds of newer releases: HDF5 1.8 can read it
        with h5py.File(disk, "w") as file:
            _begin(file, content, float32)
            for piece in content.pieces():
                disk.check()
                _append(file, piece)
                rows += len(piece["key"])
        disk.check()
        size = os.fstat(handle).st_size
    return {"target": os.path.abspath(target), "rows": rows, "bytes": size}


def _begin(file: h5py.File, content: Content, float32: bool) -> None:
    file.attrs.update(content.about())
    rows = min(ROWS, len(content.store))

    def add(name: str, dtype: Any, *shape: int) -> Any:
        return file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape))

    for column in content.columns:
        half = column.which != "mean" and not float32
        add(column.name, "<f2" if half else "<f4", column.dim).attrs["name"] = column.title
    add("key", "<i8")
    add("seconds", "<f8")
    add("year", "<i4")
    for name in ("track_id", "path", "genres", "artists", "album", "title", "split"):
        add(name, h5py.string_dtype())


def _append(file: h5py.File, piece: dict[str, Any]) -> None:
    first = len(file["key"])
    lists = {name: [json.dumps(texts, ensure_ascii=False) for texts in piece[name]] for name in ("genres", "artists")}
    for name, values in (piece | lists).items():
        dataset = file[name]
        dataset.resize(first + len(values), 0)
        dataset[first:] = np.asarray(values, dataset.dtype)


class _Disk(io.RawIOBase):
    """The file under HDF5: a disk that never fails. What it could not write it holds, until `check` raises the reason."""

    def __init__(self, handle: int) -> None:
        self._handle, self._at = handle, 0
        self._held: list[tuple[int, bytes]] = []
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + (0 if whence == os.SEEK_SET else os.fstat(self._handle).st_size)
        return self._at

    def write(self, data: Any) -> int:
        """Write, or hold."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._handle, data[done:], self._at + done)
        except OSError as error:
            self._error = self._error or error
            self._held.append((self._at, bytes(data)))
        return len(data)

    def readinto(self, buffer: Any) -> int:
        """Read what was written, held or not."""
        buffer[:] = os.pread(self._handle, len(buffer), self._at).ljust(len(buffer), b"\0")
        for at, data in self._held:
            first, last = max(at, self._at), min(at + len(data), self._at + len(buffer))
            if first < last:
                buffer[first - self._at : last - self._at] = data[first - at : last - at]
        return len(buffer)

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        size = self._at if size is None else size
        try:
            os.ftruncate(self._handle, size)
        except OSError as error:
            self._error = self._error or error
        return size
