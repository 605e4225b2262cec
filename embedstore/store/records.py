"""The JSON of shards and deltas, to values and back; nothing that is read is trusted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from embedstore.errors import StoreFormatError
from embedstore.types import SPLITS, AudioFile, Track, TrackLabels, Windowing

__all__ = [
    "Content",
    "Fail",
    "Forget",
    "Label",
    "Link",
    "Row",
    "Spec",
    "Statement",
    "Touch",
    "build_delta",
    "dump",
    "parse",
    "read_delta",
    "read_file",
    "read_labels",
    "read_names",
    "read_row",
    "row_record",
    "statement_record",
    "take",
]

FORMAT = 1
MOST_VALUES = 2**23  # in a JSON text: many times those of the largest that is written
COMMIT = re.compile(r"(shards/\d{8}-[0-9a-f]{32}\.h5|deltas/\d{8}-[0-9a-f]{32}\.json)")


@dataclass(frozen=True)
class Spec:
    """What a store is: its id, and what its commits agree on.

    That is the recipe's sum, each layer's number, name and dim, and how tracks are cut if their windows are kept.
    """

    store_id: str
    fingerprint: str
    layers: tuple[tuple[int, str, int], ...]
    windowing: Windowing | None = None

    def header(self, sequence: int) -> dict[str, Any]:
        """Make what every commit says of itself."""
        return {"format": FORMAT, "fingerprint": self.fingerprint, "sequence": sequence}

    def check(self, header: Any, sequence: int) -> None:
        """Refuse a commit of another store, version or place."""
        for name, value in self.header(sequence).items():
            if take(header, name, type(value)) != value:
                raise StoreFormatError(f"its {name} is {header[name]!r:.80} where {value!r:.80} is expected")


@dataclass(frozen=True)
class Row:
    """A track as a shard describes it: `hashes` are those of its files' bytes, `n_frames` the weight of its means."""

    track: Track
    hashes: tuple[str, ...]
    n_frames: int
    n_windows: int = 0


@dataclass(frozen=True)
class Link:
    """`file` holds the sound of the track `key`."""

    file: AudioFile
    hash: str
    key: int


@dataclass(frozen=True)
class Touch:
    """`file` has a new stamp and the content it had."""

    file: AudioFile


@dataclass(frozen=True)
class Fail:
    """`file` could not be stored."""

    file: AudioFile
    stage: str
    reason: str


@dataclass(frozen=True)
class Label:
    """These are the labels of the track `key` now."""

    key: int
    labels: TrackLabels


@dataclass(frozen=True)
class Forget:
    """Nothing is known about the file at this absolute path any more."""

    path: str


Statement = Link | Touch | Fail | Label | Forget


class Content(NamedTuple):
    """What a commit says.

    Attributes
    ----------
    items : sequence of Row or of Statement
    replaces : tuple of str
        Names of commits that say nothing more beside this one, and may be removed.
    origins : tuple of str
        Names of the shards that its rows were first committed in, if it was merged from others.
    """

    items: Sequence[Any]
    replaces: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


STATEMENTS: dict[str, type[Statement]] = {"link": Link, "touch": Touch, "fail": Fail, "label": Label, "forget": Forget}


def dump(data: Any) -> bytes:
    """Write canonical JSON: ASCII (lone surrogates of odd file names are escaped), keys sorted, no spaces."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse(data: bytes, what: str) -> Any:
    """Read JSON, or raise StoreFormatError."""
    if data.count(b",") > MOST_VALUES:  # each may take twenty times the room of its bytes
        raise StoreFormatError(f"{what} lists more than {MOST_VALUES} values")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreFormatError(f"{what} is not readable JSON: {error}") from error


def take(data: Any, name: str, kind: type, *, least: int = 0) -> Any:
    """Get a field of a JSON object, of the right type and size.

    >>> take({"size": -1}, "size", int)
    Traceback (most recent call last):
        ...
    embedstore.errors.StoreFormatError: 'size' should be an int from 0 to 2^63 - 1; found -1
    """
    value = data.get(name) if isinstance(data, dict) else None
    if kind is int and not (type(value) is int and least <= value < 2**63):
        raise StoreFormatError(f"{name!r} should be an int from {least} to 2^63 - 1; found {value!r:.80}")
    if type(value) is not kind:
        raise StoreFormatError(f"{name!r} should be {kind.__name__}; found {value!r:.80}")
    return value


def _texts(data: Any, name: str) -> tuple[str, ...]:
    values = take(data, name, list)
    if not all(type(value) is str for value in values):
        raise StoreFormatError(f"{name!r} should be a list of texts; found {values!r:.80}")
    return tuple(values)


def _hash(data: Any) -> str:
    value: str = take(data, "hash", str)
    if not (value.isascii() and value.isalnum() and len(value) <= 128):
        raise StoreFormatError(f"'hash' should be a hexadecimal sum; found {value!r:.80}")
    return value


def _path(path: str) -> str:
    """Refuse what is not an absolute path in plain form, or what no operating system made."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise StoreFormatError(f"the path {path!r:.200} cannot be encoded: {error.reason}") from error
    if not path.startswith("/") or "\0" in path or {"", ".", ".."} & set(path[1:].split("/")):
        raise StoreFormatError(f"a path should be absolute, without '..', '//' or NUL; found {path!r:.200}")
    return path


def read_file(data: Any) -> AudioFile:
    """Read where a file is and what stamp it has."""
    root = take(data, "root", str).rstrip("/") or "/"
    stamp = take(data, "mtime_ns", int, least=-(2**63))  # a time may lie before 1970
    file = AudioFile(root, take(data, "path", str), take(data, "size", int), stamp)
    _path(file.full_path)
    return file


def read_labels(data: Any) -> TrackLabels:
    """Read the labels of a track."""
    album, title, source = (take(data, name, str) for name in ("album", "title", "source"))
    split = take(data, "split", str) if "split" in data else ""
    if split and split not in SPLITS:
        raise StoreFormatError(f"'split' should be {', '.join(SPLITS)}; found {split!r:.80}")
    year = take(data, "year", int, least=1) if "year" in data else 0
    if year > 9999:
        raise StoreFormatError(f"'year' should be an int from 1 to 9999; found {year}")
    return TrackLabels(_texts(data, "genres"), _texts(data, "artists"), album, title, source, split, year)


def row_record(row: Row) -> dict[str, Any]:
    """Make the JSON object of one track in a shard."""
    track = row.track
    return {
        "files": [{**vars(file), "hash": h} for file, h in zip(track.files, row.hashes, strict=True)],
        "seconds": float(track.seconds),
        "sample_rate": track.sample_rate,
        "channels": track.channels,
        "n_frames": row.n_frames,
        "warnings": track.warnings,
        "labels": track.labels.to_dict(),
    }


def read_row(key: int, data: Any, n_windows: int = 0) -> Row:
    """Read what `row_record` wrote; the number of kept windows is not in it."""
    files = take(data, "files", list)
    seconds = take(data, "seconds", float)
    if not files or not 0 <= seconds < 1e9:
        raise StoreFormatError(f"a track has at least one file and 0..1e9 seconds; found {len(files)}, {seconds}")
    track = Track(
        key,
        tuple(read_file(file) for file in files),
        seconds,
        take(data, "sample_rate", int),
        take(data, "channels", int),
        read_labels(data.get("labels")),
        _texts(data, "warnings"),
    )
    return Row(track, tuple(_hash(file) for file in files), take(data, "n_frames", int), n_windows)


_READ: dict[str, Callable[[Any], Any]] = {
    "file": lambda data: read_file(data.get("file")),
    "hash": _hash,
    "key": lambda data: take(data, "key", int),
    "stage": lambda data: take(data, "stage", str),
    "reason": lambda data: take(data, "reason", str),
    "labels": lambda data: read_labels(data.get("labels")),
    "path": lambda data: _path(take(data, "path", str)),
}


def statement_record(statement: Statement) -> dict[str, Any]:
    """Make the JSON object of one statement in a delta."""
    said = {"do": type(statement).__name__.lower(), **vars(statement)}
    for name, value in said.items():
        if isinstance(value, TrackLabels):
            said[name] = value.to_dict()
        elif isinstance(value, AudioFile):
            said[name] = vars(value)
    return said


def build_delta(spec: Spec, sequence: int, content: Content) -> bytes:
    """Make the bytes of a delta."""
    said = {"statements": [statement_record(statement) for statement in content.items]}
    return dump({**spec.header(sequence), **said, **({"replaces": content.replaces} if content.replaces else {})})


def read_delta(data: bytes, sequence: int, spec: Spec) -> Content:
    """Read what `build_delta` made."""
    delta = parse(data, "it")
    spec.check(delta, sequence)
    statements = [read_statement(statement) for statement in take(delta, "statements", list)]
    return Content(statements, read_names(delta, "replaces"))


def read_names(header: Any, field: str) -> tuple[str, ...]:
    """Read a list of commits, if there is one; nothing else can pass for their names, as such files may be removed."""
    names = _texts(header, field) if field in header else ()
    if not all(COMMIT.fullmatch(name) for name in names):
        raise StoreFormatError(f"{field!r} should be a list of shards and deltas; found {names!r:.200}")
    return names


def read_statement(data: Any) -> Statement:
    """Read what `statement_record` wrote."""
    kind = STATEMENTS.get(do := take(data, "do", str))
    if kind is None:
        raise StoreFormatError(f"a delta cannot say {do!r:.40}")
    return kind(**{field.name: _READ[field.name](data) for field in fields(kind)})
