"""A trained probe as a file: where it lies, and its bytes, of which none is trusted.

One safetensors file: ``NAME.safetensors``, whose header says in JSON (``__metadata__.embedstore``) what it is; nothing is
pickled. in a store, ``NAME.json`` beside it repeats the description for people and is never read. Each is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, StoreFormatError
from embedstore.store.disk import explained, plain_file, refuse_link, write_file
from embedstore.store.records import dump, parse, take

__all__ = ["encode", "parse_file", "probe_path", "read_file", "saved_probes", "take_array", "write_files"]

FORMAT = 1
SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGEST = 2**25  # bytes of a header

Array = NDArray[Any]


def probe_path(name: str | os.PathLike[str], store: str | os.PathLike[str] | None = None) -> Path:
    """Say where a probe lies: a plain name in the folder ``probes`` of a store, anything with a slash or suffix where it says.

    Raises
    ------
    ParameterError
        The name has characters that a file should not have.

    Examples
    --------
    >>> str(probe_path("genres", "/music/store")), str(probe_path("/music/genres.safetensors"))
    ('/music/store/probes/genres.safetensors', '/music/genres.safetensors')
    """
    text = os.fspath(name)
    if os.sep in text or text.endswith(SUFFIX):
        return Path(os.path.abspath(text.removesuffix(SUFFIX) + SUFFIX))
    if not _NAME.fullmatch(text) or not store:
        raise ParameterError(
            f"a saved probe's name has up to 100 letters, digits, '-', '_', '.', the first a letter or digit; got {text!r:.120} "
            "(for a file elsewhere give a path, such as ./NAME)"
        )
    return Path(os.path.abspath(store)) / "probes" / (text + SUFFIX)


def saved_probes(store: str | os.PathLike[str]) -> list[str]:
    """List the names of a store's saved probes."""
    folder = Path(store) / "probes"
    names = (path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}") if not path.is_symlink())
    return [] if folder.is_symlink() else sorted(name for name in names if _NAME.fullmatch(name))


def encode(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Make the bytes of a file.

    Raises
    ------
    ParameterError
        The description is not plain data.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    try:
        said = json.loads(dump({"format": FORMAT, **about}))  # as it will be read: keys are texts
        text = dump({**said, "sum": _sum(said, arrays)}).decode()
    except (TypeError, ValueError) as error:
        raise ParameterError(f"what is kept about a probe is plain data; got {error}") from error
    return save(arrays, {"embedstore": text})


def _sum(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Sum up a description, but for the sum it tells, and arrays: names, types, shapes, values."""
    digest = hashlib.sha256(dump({name: value for name, value in about.items() if name != "sum"}) + b"\n")
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_files(path: Path, data: bytes, about: Mapping[str, Any]) -> None:
    """Write a probe; for people its description too, in its store: elsewhere a file of that name may be anybody's.

    Raises
    ------
    StoreError
        The disk refused; a probe that was there before is still there.
    """
    store = str(about.get("store") or "")
    with explained(f"cannot write the probe {path}"):
        refuse_link(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
        if store and path.parent == probe_path("x", store).parent:
            write_file(Path(str(path).removesuffix(SUFFIX) + ".json"), json.dumps(about, indent=1).encode())


def read_file(path: Path) -> bytes:
    """Read a plain file.

    Raises
    ------
    ParameterError
        It is missing, a link, a pipe, too large, or may not be read.
    """
    try:
        with plain_file(path) as stream:
            return stream.read()
    except OSError as error:
        raise ParameterError(f"the probe {path} cannot be read: {error.strerror}") from error


def parse_file(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Take a file apart: its description, and its arrays, all finite numbers."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    size = int.from_bytes(data[:8], "little")
    if size > min(_LARGEST, len(data) - 8):
        raise StoreFormatError("it does not begin as a safetensors file does")
    header = parse(data[8 : 8 + size], "its header")
    about = parse(take(take(header, "__metadata__", dict), "embedstore", str).encode(), "its description")
    if (version := take(about, "format", int)) != FORMAT:
        raise StoreFormatError(f"it has format {version}, this version reads {FORMAT}: upgrade embedstore-mir")
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise StoreFormatError(f"its arrays cannot be read: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise StoreFormatError(f"{name!r:.80} should hold finite numbers; found {array.dtype} {array.shape}")
    if take(about, "sum", str) != _sum(about, arrays):
        raise StoreFormatError("it is damaged: its description and arrays do not have the sum that it tells")
    return about, arrays


def take_array(arrays: Mapping[str, Array], name: str, shape: tuple[int, ...], kind: Any = np.float64) -> Array:
    """Get an array of the right type and shape."""
    found = arrays.get(name)
    if found is None or found.shape != shape or found.dtype != kind:
        what = "nothing" if found is None else f"{found.dtype} {found.shape}"
        raise StoreFormatError(f"{name!r} should be {np.dtype(kind)} {shape}; found {what}")
    return found
