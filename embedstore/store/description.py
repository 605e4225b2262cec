"""Who a store is: ``store.json``, which is written once, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from embedstore.errors import EncoderMismatchError, ParameterError, StoreError, StoreFormatError
from embedstore.store.disk import acquire_lock, explained, plain_file, sync_folder, write_file
from embedstore.store.records import FORMAT, Spec, dump, parse, take
from embedstore.types import EncoderCard, Windowing

__all__ = ["check_recipe", "create_folder", "fingerprint_of", "read_description"]

LARGEST = 2**24  # bytes
WIDEST = 2**24  # values of a layer
OURS = {"shards", "deltas", "indices", "writer.lock"}  # what a creation that was cut short may have left


def create_folder(folder: Path, card: EncoderCard, recipe: Mapping[str, Any]) -> None:
    """Make an empty store in a new or empty folder; see `EmbeddingStore.create`."""
    _windowing(recipe)  # refuse it before anything is written
    text = {"format": FORMAT, "id": secrets.token_hex(16), "fingerprint": fingerprint_of(recipe)}
    described = json.dumps({**text, "card": card.to_dict(), "recipe": dict(recipe)}, indent=1)
    with explained(f"cannot create a store at {folder}"):
        _check_vacant(folder)
        for name in ("shards", "deltas"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        lock = acquire_lock(folder)
        try:
            _check_vacant(folder)  # nobody else was faster
            write_file(folder / "store.json", described.encode())
        finally:
            os.close(lock)


def read_description(path: Path) -> tuple[EncoderCard, dict[str, Any], Spec]:
    """Read ``store.json``."""
    file = path / "store.json"
    with explained(f"cannot read {file}"):
        if not file.exists():
            if (path / "shards").is_dir() and any((path / "shards").iterdir()):
                raise StoreError(f"{path} holds shards but no store.json: it was lost; put it back from a copy")
            found = "a file" if path.is_file() else "a folder that is not a store" if path.exists() else "nothing"
            raise StoreError(f"there is no store at {path} (found {found}); make one with: embedstore build AUDIO_DIR")
        with plain_file(file, LARGEST) as stream:
            data = parse(stream.read(), str(file))
    try:
        dump(data)  # what could not be shown or kept again
        if (version := take(data, "format", int)) > FORMAT:
            raise StoreFormatError(f"it has format {version}, this version reads {FORMAT}: upgrade embedstore-mir")  # noqa: TRY301 - one place to name the file
        recipe, card = take(data, "recipe", dict), _card(take(data, "card", dict))
        layers = tuple((layer.number, layer.name, layer.dim) for layer in card.layers)
        spec = Spec(take(data, "id", str), take(data, "fingerprint", str), layers, _windowing(recipe))
        if spec.fingerprint != fingerprint_of(recipe) or not re.fullmatch("[0-9a-f]{32}", spec.store_id):
            raise StoreFormatError("its recipe or its id was changed")  # noqa: TRY301 - the same
    except (StoreFormatError, ParameterError, TypeError, ValueError, KeyError, RecursionError) as error:
        raise StoreFormatError(f"{file} does not describe a store: {error}") from error
    return card, recipe, spec


def _card(data: dict[str, Any]) -> EncoderCard:
    """Read an encoder card; somebody else may have written it."""
    card = EncoderCard.from_dict(data)
    for field in fields(card):
        if field.type in {"str", "int"}:
            take(vars(card), field.name, {"str": str, "int": int}[field.type])
    for layer in card.layers:
        dim = take(vars(layer), "dim", int, least=1)
        if take(vars(layer), "number", int) > 9999 or dim > WIDEST or not take(vars(layer), "name", str):
            raise StoreFormatError(f"a layer has a number up to 9999 and a width up to {WIDEST}; found {layer!r:.200}")
    if type(card.frame_rate) not in {int, float} or not isinstance(card.options, dict):
        raise StoreFormatError("its frame rate is not a number, or its options are not an object")
    return card


def check_recipe(path: Path, recipe: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuse vectors that were made another way than those of the store at `path`.

    Raises
    ------
    EncoderMismatchError
        Names each field that differs.
    """
    stored, given = dict(_flat(recipe)), dict(_flat(json.loads(dump(dict(other)))))
    differ = [name for name in sorted(stored | given) if stored.get(name) != given.get(name)]
    if differ:
        differ = ["encoder"] if "encoder" in differ else differ  # the rest follows from it
        fields = [f"{name}: stored {_shown(stored.get(name))}, now {_shown(given.get(name))}" for name in differ]
        raise EncoderMismatchError(
            f"store {path} was written with another recipe; {'; '.join(fields)}; "
            "use another --store, or leave these options out to go on as before"
        )


def _check_vacant(folder: Path) -> None:
    """Refuse to make a store in the middle of something else."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; a store is a folder")
    found = {path.name for path in folder.iterdir() if ".tmp-" not in path.name} if folder.exists() else set()
    if "store.json" in found:
        raise StoreError(f"{folder} is a store already; open it")
    if other := found - OURS:
        raise StoreError(f"{folder} is not empty (it holds {min(other)!r}); choose a new or empty folder")


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """Sum up a recipe."""
    return hashlib.sha256(dump(dict(recipe))).hexdigest()


def _windowing(recipe: Mapping[str, Any]) -> Windowing | None:
    """Read how tracks are cut, if the windows are kept."""
    if recipe.get("windows") != "kept":
        return None
    names = ("length", "hop", "pad", "min_tail", "tail", "short")
    if missing := [f"window_{name}" for name in names if f"window_{name}" not in recipe]:
        raise ParameterError(f"a recipe whose windows are kept says how tracks are cut; it has no {', '.join(missing)}")
    cut = {name: recipe[f"window_{name}"] for name in names}
    numbers = (cut["length"] or 0, cut["hop"] or 0, cut["pad"], cut["min_tail"])
    if not all(type(number) is int and abs(number) < 2**40 for number in numbers):
        raise ParameterError(f"the windows of a recipe have lengths in samples; found {cut!r:.200}")
    return Windowing(**{**cut, "hop": cut["hop"] or 1})  # a whole track has none


def _flat(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """List the leaves of nested objects by dotted name."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{name}.{key}" if name else key)
    else:
        yield name, data


def _shown(value: Any) -> str:
    """Write a recipe's value in few words; layers by number."""
    if isinstance(value, list) and all(isinstance(item, dict) and "number" in item for item in value):
        return ", ".join(str(item["number"]) for item in value)
    return f"{value!s:.80}" if value not in (None, "") else "(none)"
