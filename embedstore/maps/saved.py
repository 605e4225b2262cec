"""Maps on disk: one safetensors file for each method below ``maps/``, with a JSON text about it and a sum over all.

A map is a cache: what is damaged, or of another recipe, is as if it were not there.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import EmbedstoreError, StoreFormatError
from embedstore.maps.values import Map
from embedstore.store import EmbeddingStore
from embedstore.store.disk import explained, plain_file, refuse_link, write_file
from embedstore.store.records import parse, take

__all__ = ["keep", "open_map", "where"]

_FORMAT = 1
_POINTS = ("keys", "positions", "clusters")
_ABANDONED = 3600  # seconds after which half a file is that of a killed process
_LARGEST = 2**33  # bytes: 13 layers of 60 million tracks
NOTES, NOTE = 10, 500  # notes, and characters of each
_ABOUT = {"format": int, "method": str, "seed": int, "neighbors": int, "seconds": float, "layers": list}


def keep(store: EmbeddingStore, made: Map, folder: Path | None = None) -> None:
    """Write a map beside the vectors that it is of, or below another folder, in place of one by the same method.

    Raises
    ------
    StoreError
        The folder cannot be written; the map that was there stays.
    """
    from safetensors.numpy import save

    # safetensors writes the bytes as they lie in memory
    points = {name: np.ascontiguousarray(getattr(made, name)) for name in _POINTS}
    about = {name: getattr(made, name) for name in ("method", "seed", "neighbors", "seconds", "layers", "notes")}
    about |= {"format": _FORMAT, "fingerprint": store.fingerprint}
    about["sum"] = _sum(about, points)
    data = save({**points, "about": np.frombuffer(json.dumps(about).encode(), np.uint8)})
    path = where(folder or store.path, made.method)
    with explained(f"cannot keep the map in {path.parent}"):
        refuse_link(path.parent)
        path.parent.mkdir(exist_ok=True)
        for left in path.parent.glob(f"{path.name}.tmp-*"):
            with suppress(FileNotFoundError):  # it has just become a map
                if time.time() - left.lstat().st_mtime > _ABANDONED:
                    left.unlink()
        write_file(path, data)


def open_map(store: EmbeddingStore, method: str = "umap", folder: Path | None = None) -> Map | None:
    """Read the map that was kept; None if there is none of this method for these layers and this recipe, or it is damaged.

    Tracks may have come or gone since: see `place`. `folder` is another one than the store's that it was kept below.
    """
    with suppress(OSError, EmbedstoreError):
        return _read(store, method, folder or store.path)
    return None


def _read(store: EmbeddingStore, method: str, folder: Path) -> Map:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = where(folder, method)
    refuse_link(path.parent)
    with plain_file(path, _LARGEST) as file:
        data = file.read()
    try:
        found = load(data)
        about = parse(found.pop("about").tobytes(), path.name)
        points = {name: found[name] for name in _POINTS}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreFormatError(f"{path.name} is not a map: {error}") from error
    told = {name: take(about, name, kind) for name, kind in _ABOUT.items()}
    ours = {"format": _FORMAT, "method": method, "layers": [layer.number for layer in store.card.layers]}
    if about.pop("sum", None) != _sum(about, points) or about.get("fingerprint") != store.fingerprint:
        raise StoreFormatError(f"{path.name} is damaged, or of another recipe")
    if ours != {name: told[name] for name in ours} or not 0 <= told["seconds"] < math.inf:
        raise StoreFormatError(f"{path.name} is not of the layers {ours['layers']}")
    del told["format"]
    notes = take(about, "notes", list)
    if len(notes) > NOTES or not all(isinstance(note, str) and len(note) <= NOTE for note in notes):
        raise StoreFormatError(f"{path.name} should hold up to {NOTES} notes of up to {NOTE} characters")
    return Map(**told | points | {"layers": tuple(told["layers"]), "notes": tuple(notes)})


def where(folder: Path, method: str) -> Path:
    """Say which file the map by a method is, of a store or another folder that it was kept below."""
    return folder / "maps" / f"{method}.safetensors"


def _sum(about: dict[str, Any], points: dict[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(points):
        found.update(points[name].tobytes())
    return found.hexdigest()
