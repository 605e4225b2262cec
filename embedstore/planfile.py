"""A plan of shards as a file of JSON lines: what it is about, then one line a shard; it appears whole or not at all."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from embedstore.errors import EncoderMismatchError, ParameterError, StoreFormatError
from embedstore.labels import Columns
from embedstore.lanes import Known
from embedstore.options import check_options
from embedstore.plan import PlannedFile, PlannedShard
from embedstore.store import EmbeddingStore
from embedstore.store.disk import plain_file, write_file
from embedstore.store.records import dump, parse, read_file, read_labels, take

__all__ = ["MOST_FILES", "PlanHeader", "ranges", "read_plan", "write_plan"]

FORMAT = 1
MOST_FILES = 4096  # in a shard
MOST_SHARDS = 10**8 - 1
LONGEST = 2**26  # bytes of a line


@dataclass(frozen=True)
class PlanHeader:
    """The first line of a plan.

    Attributes
    ----------
    id : str
        Of this plan, random.
    store, fingerprint : str
        Where the store is, and the sum of its recipe.
    keep_windows : bool
    encoder : dict
        Options, as a store remembers them.
    root : str
        The audio folder.
    labels, columns, limit
        As `build` was asked.
    shards : int
        Lines that follow; shards are numbered from 1.
    """

    id: str
    store: str
    fingerprint: str
    keep_windows: bool
    encoder: dict[str, Any]
    root: str
    labels: str | None
    columns: dict[str, str]
    limit: int | None
    shards: int

    def open_store(self) -> EmbeddingStore:
        """Open the store.

        Raises
        ------
        EncoderMismatchError
            There is another one now.
        StoreError, StoreFormatError
            As `EmbeddingStore.open`.
        """
        store = EmbeddingStore.open(self.store)
        if store.fingerprint != self.fingerprint:
            raise EncoderMismatchError(
                f"the plan was made for another store than the one at {self.store}: their recipes differ; plan again"
            )
        return store


def write_plan(path: str | Path, header: PlanHeader, shards: Sequence[PlannedShard]) -> None:
    """Write a plan; one that is there is replaced, and nothing else.

    Raises
    ------
    ParameterError
        It cannot be written.
    """
    here = Path(os.path.abspath(path))
    if here.resolve().is_relative_to(Path(header.store).resolve()):
        raise ParameterError(f"the plan {path} would lie in the store; choose a place outside of it")
    if os.path.lexists(here) and not _is_plan(here):
        raise ParameterError(f"{path} exists and is no plan; choose another name with --out")
    lines = [{"embedstore_plan": FORMAT, **asdict(header)}, *map(_shard_record, shards)]
    try:
        write_file(here, b"".join(dump(line) + b"\n" for line in lines))
    except OSError as error:
        raise ParameterError(f"the plan {path} cannot be written: {error.strerror or error}") from error


def _is_plan(path: Path) -> bool:
    with suppress(OSError), plain_file(path, sys.maxsize) as file:
        return b'"embedstore_plan":' in file.readline(2**20)
    return False


def _shard_record(shard: PlannedShard) -> dict[str, Any]:
    files = [{"file": vars(one.file), "labels": one.labels.to_dict(), "stored": one.stored} for one in shard.files]
    return {"files": files, "keys": sorted(shard.known.keys), "hashes": shard.known.key_of_hash}


def read_plan(
    path: str | Path, numbers: Sequence[str | int] | None = None
) -> tuple[PlanHeader, dict[int, PlannedShard]]:
    """Read a plan, of its shards those that are wanted; all of it is checked, as anybody may have written it.

    Raises
    ------
    ParameterError
    """
    try:
        with Path(path).open("rb") as file:
            header = _header(parse(_line(file.readline(LONGEST)), "its first line"))
            wanted = [range(1, header.shards + 1)] if numbers is None else _numbers(numbers, header.shards)
            shards, count = {}, 0
            while line := file.readline(LONGEST):
                line, count = _line(line), count + 1
                if any(count in some for some in wanted):
                    shards[count] = _shard(parse(line, f"its shard {count}"), header, count)
            if count != header.shards:
                raise StoreFormatError(f"it holds {count} of its {header.shards} shards")  # noqa: TRY301 - one place names the file
    except OSError as error:
        raise ParameterError(
            f"the plan {path} cannot be read: {error.strerror or error}; make one with: embedstore plan AUDIO_DIR"
        ) from error
    except StoreFormatError as error:
        raise ParameterError(f"{path} is not a plan of this version, or damaged: {error}; plan again") from error
    return header, shards


def _line(line: bytes) -> bytes:
    if not line.endswith(b"\n"):
        raise StoreFormatError("a line is cut short, or too long")
    return line


def _header(data: Any) -> PlanHeader:
    if (version := take(data, "embedstore_plan", int)) != FORMAT:
        raise StoreFormatError(f"it has format {version}, this version reads {FORMAT}")
    encoder = check_options(take(data, "encoder", dict))
    columns = take(data, "columns", dict)
    if not (columns.keys() <= {field.name for field in fields(Columns)} and _plain(columns, str)):
        raise StoreFormatError(f"'columns' should name the columns of a table; found {columns!r:.80}")
    root, store = take(data, "root", str), take(data, "store", str)
    if not (root.startswith("/") and store.startswith("/")):
        raise StoreFormatError(f"its paths should be absolute; found {root!r:.80} and {store!r:.80}")
    shards, plan = take(data, "shards", int), take(data, "id", str)
    if not re.fullmatch("[0-9a-f]{32}", plan) or shards > MOST_SHARDS:
        raise StoreFormatError(f"it should have an id and up to {MOST_SHARDS} shards; found {plan!r:.40} and {shards}")
    return PlanHeader(
        id=plan,
        store=store,
        fingerprint=take(data, "fingerprint", str),
        keep_windows=take(data, "keep_windows", bool),
        encoder=encoder,
        root=root,
        labels=take(data, "labels", str) if data.get("labels") is not None else None,
        columns=columns,
        limit=take(data, "limit", int, least=1) if data.get("limit") is not None else None,
        shards=shards,
    )


def _plain(data: Mapping[str, Any], *kinds: type) -> bool:
    return all(value is None or type(value) in kinds for value in data.values())


def _shard(data: Any, header: PlanHeader, number: int) -> PlannedShard:
    files = tuple(_file(one) for one in take(data, "files", list))
    if not 1 <= len(files) <= MOST_FILES or any(one.file.root != header.root for one in files):
        raise StoreFormatError(
            f"a shard has 1 to {MOST_FILES} files below {header.root!r:.80}; shard {number} has others"
        )
    keys, hashes = take(data, "keys", list), take(data, "hashes", dict)
    if not all(type(key) is int and 0 <= key < 2**63 for key in (*keys, *hashes.values())):
        raise StoreFormatError(f"the keys that shard {number} knows are not keys")
    return PlannedShard(number, files, Known(set(keys), hashes))


def _file(data: Any) -> PlannedFile:
    file = take(data, "file", dict)
    return PlannedFile(read_file(file), read_labels(take(data, "labels", dict)), take(data, "stored", bool))


def _numbers(words: Sequence[str | int], shards: int) -> list[range]:
    """Read shard numbers.

    >>> _numbers(["7", "2-4"], 9)
    [range(7, 8), range(2, 5)]
    """
    wanted = []
    for word in words:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(word), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= shards:
            raise ParameterError(f"the plan has shards 1 to {shards}; got {word!r}, where 3 or 5-9 is expected")
        wanted.append(range(first, last + 1))
    if not wanted:
        raise ParameterError(f"which of the plan's {shards} shards? Give numbers such as 3 or 5-9")
    return wanted


def ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers in few words.

    >>> ranges([2, 5, 6, 7])
    '2, 5-7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
