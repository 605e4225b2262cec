"""Indices on disk: a folder below ``indices/`` with ``rows``, what the kind left there, and the ``meta.json`` that says what it is.

An index is a cache. A folder is made under another name and gets its own when it is whole; nothing in it changes after that. It
is read only if its meta is ours and of this store, and each file has the sum that the meta promises. FAISS's reader believes
what it reads, so files that a kind wrote are parsed only if this user, or another who knows the secret, built the index: the meta
ends with a seal, the HMAC of the rest. Anything else makes an index unusable, never wrong: search then scans the store.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import EmbedstoreError, IndexFormatError, ParameterError, StoreError, StoreFormatError
from embedstore.index.base import Goal, Index
from embedstore.index.rows import Rows
from embedstore.index.space import Transform
from embedstore.registry import known, resolve
from embedstore.store import EmbeddingStore
from embedstore.store.disk import explained, plain_file, refuse_link, sync_folder, write_file
from embedstore.store.records import parse, take
from embedstore.types import Keys

__all__ = [
    "BUILTIN",
    "FACTORY",
    "IndexReport",
    "SavedIndex",
    "check_sums",
    "folders",
    "keys_of",
    "kind_class",
    "load_index",
    "make_secret",
    "new_folder",
    "publish",
    "read_report",
    "usable_indices",
]

# name -> class; see `Index` for what it promises
BUILTIN = {
    "exact": "embedstore.index.exact:ExactIndex",
    "flat": "embedstore.index.faisskinds:FlatIndex",
    "ivf": "embedstore.index.faisskinds:IvfIndex",
    "rabitq": "embedstore.index.faisskinds:RabitqIndex",
    "ivf-rabitq": "embedstore.index.faisskinds:IvfRabitqIndex",
    "hnsw": "embedstore.index.faisskinds:HnswIndex",
    "gpu-flat": "embedstore.index.gpukinds:GpuFlatIndex",
    "gpu-ivf": "embedstore.index.gpukinds:GpuIvfIndex",
    "gpu-cagra": "embedstore.index.gpukinds:GpuCagraIndex",
}
FACTORY = "embedstore.index.faisskinds:factory_kind"  # from any other name to a class
SECRET = "EMBEDSTORE_INDEX_SECRET"  # noqa: S105 - the name of a variable
_FORMAT = {"format": 2, "metric": "cosine"}
_LARGEST = 2**20  # bytes of a meta
_MOMENT = 5  # seconds that a new folder may be there before it is held
_OPEN = {"rows", "transform"}  # files that are checked value by value, whoever wrote them
_PORTABLE = {"exact", "flat"}  # kinds that read no others
_MAPPED = {"rows", "index.cells"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]*")
_TYPES = {"int": int, "str": str, "float": float, "dict[str, Any]": dict}


@dataclass(frozen=True)
class IndexReport:
    """What an index is and how good it was when it was built: the content of ``meta.json``.

    Attributes
    ----------
    kind : str
        Name of a kind, or a FAISS factory string.
    layer : str
        `Space.label`: number of the layer, ``"mean"``, ``"mix-..."``, with the transform behind a ``+``.
    transform : str
    rows, dim : int
    recall_at_10 : float
        Share of the ten true neighbours of up to 1,000 stored rows (themselves left out) that it finds; a row that ties
        with the tenth counts. 1 if there is only one row.
    recall_of_sums : float
        The same for sums of two stored rows, as of a search for something like two tracks: they lie where few rows are.
    latency_ms : float
        Median time of one query, in milliseconds.
    seconds : float
        That building took, without measuring.
    params : dict
        The kind's own, e.g. FAISS's factory string.
    seed : int
    goal : dict
        What it was tuned to, see `Goal`.
    fingerprint : str
        Of the store's recipe.
    files : dict
        Name to ``bytes`` and ``sha256``.
    path : str
        Absolute folder of the index.
    """

    kind: str
    layer: str
    transform: str
    rows: int
    dim: int
    recall_at_10: float
    recall_of_sums: float
    latency_ms: float
    seconds: float
    params: dict[str, Any]
    seed: int
    goal: dict[str, Any]
    fingerprint: str
    files: dict[str, Any] = field(default_factory=dict, repr=False)
    path: str = ""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(int(one["bytes"]) for one in self.files.values())

    @property
    def memory(self) -> int:
        """About how many bytes it holds in memory: its files without the memory-mapped rows; of flat kinds, the rows as float32."""
        if self.kind in _PORTABLE:
            return self.rows * (4 * self.dim + 12)
        mapped = sum(int(one["bytes"]) for name, one in self.files.items() if name in _MAPPED)
        return self.bytes - mapped + 12 * self.rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        name = self.layer.partition("+")[0]
        data = asdict(self) | {"layer": int(name) if name.isdigit() else name.partition("-")[0]}
        return data | {"bytes": self.bytes, "memory": self.memory}


@dataclass(frozen=True)
class SavedIndex:
    """An index that was read, its rows as they lie on the disk, and how they were moved."""

    index: Index
    rows: Rows
    transform: Transform | None
    report: IndexReport


def folders(store: EmbeddingStore, label: str | None = None) -> list[Path]:
    """List the folders of the indices of one space, or of all."""
    base = store.path / "indices"
    found = () if base.is_symlink() else sorted(base.glob("*/meta.json"))
    ours = (file.parent for file in found if _NAME.fullmatch(file.parent.name) and not file.parent.is_symlink())
    return [folder for folder in ours if label is None or folder.name.startswith(f"{label}-")]


@contextmanager
def new_folder(store: EmbeddingStore) -> Iterator[Path]:
    """Make a folder that nobody reads yet; it is removed at the end unless `publish` moved it.

    Raises
    ------
    StoreError
        The disk refused, here or inside the block.
    """
    base = store.path / "indices"
    with explained(f"cannot write an index in {base}"):
        refuse_link(base)
        base.mkdir(exist_ok=True)
        for left in base.iterdir():
            if (left.name.startswith(".new-") or _NAME.fullmatch(left.name)) and not (left / "meta.json").exists():
                _remove_unheld(left)
        folder = base / f".new-{secrets.token_hex(8)}"
        folder.mkdir()
        handle = _held(folder)
        try:
            yield folder
        finally:
            if handle is not None:
                os.close(handle)
            shutil.rmtree(folder, ignore_errors=True)


def _remove_unheld(folder: Path) -> None:
    """Remove what a killed process left; what a living one holds stays."""
    if not folder.is_symlink() and folder.is_dir() and time.time() - folder.stat().st_mtime > _MOMENT:
        handle = _held(folder)
        if handle is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


def _held(folder: Path) -> int | None:
    """Lock a folder, until the handle is closed or the process ends; None where somebody else has, or none can."""
    handle = None
    with suppress(OSError, ImportError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    if handle is not None:
        os.close(handle)
    return None


def publish(store: EmbeddingStore, folder: Path, report: IndexReport) -> IndexReport:
    """Add the meta to a new folder, give it its name, and remove what it replaces: the same kind over the same space.

    Only what was there before is removed: of builds that end at once, each may stay, and none removes another.
    """
    files = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            files[file.name] = {"bytes": file.stat().st_size, "sha256": sha256}
            os.fsync(opened.fileno())
    name = f"{report.layer}-{re.sub('[^A-Za-z0-9]+', '_', report.kind)[:80]}-"
    path = store.path / "indices" / (name + secrets.token_hex(4))
    report = replace(report, files=files, path="")
    data = asdict(report) | _FORMAT
    write_file(folder / "meta.json", json.dumps(data | {"seal": _seal(data)}).encode())
    before = [other for other in folders(store) if other.name.startswith(name) or other.name == name[:-1]]
    folder.rename(path)
    sync_folder(path.parent)
    for other in before:
        with suppress(OSError):
            (other / "meta.json").unlink()  # first: a folder without it is no index
            shutil.rmtree(other)
    return replace(report, path=str(path))


def make_secret(kind: str) -> None:
    """See to it that an index of this kind can be sealed, before it is built.

    Raises
    ------
    StoreError
        There is no secret, and none can be made.
    """
    if kind in _PORTABLE or os.environ.get(SECRET):
        return
    file = _secret_file()
    try:
        if not (file.exists() and file.stat().st_size):
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
            write_file(new, secrets.token_hex(32).encode(), mode=0o600)
            try:
                if file.exists():  # empty
                    new.replace(file)
                else:
                    with suppress(FileExistsError):  # of two that begin at once, the first one's counts
                        file.hardlink_to(new)
            finally:
                new.unlink(missing_ok=True)
        file.read_bytes()
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"an index of kind {kind} is sealed with a secret, and there can be none in {file}: {error}; set {SECRET}, or "
            "build --kind flat"
        ) from error


def _secret_file() -> Path:
    base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    with suppress(RuntimeError):  # a user without a home
        base = base.expanduser()
    return base / "embedstore" / "index.secret"


def _seal(data: dict[str, Any]) -> str:
    """Give the HMAC of a meta; empty if this user has no secret."""
    secret = os.environ.get(SECRET, "").encode()
    with suppress(OSError):
        secret = secret or _secret_file().read_bytes()
    text = json.dumps(data, sort_keys=True).encode()
    return hmac.new(secret, text, "sha256").hexdigest() if secret else ""


def kind_class(kind: str, dim: int = 0) -> type[Index]:
    """Find the class behind a kind's name, or a FAISS factory string for rows of this width (0: one that is saved already).

    Raises
    ------
    UnknownNameError
        It is neither.
    """
    if kind in known("indexes", BUILTIN):
        found: type[Index] = resolve("indexes", BUILTIN, kind)
    else:
        found = resolve("indexes", {"factory": FACTORY}, "factory")(kind, dim)
    return found


def read_report(folder: Path, store: EmbeddingStore) -> IndexReport:
    """Read and check a meta.

    Raises
    ------
    IndexFormatError
        It is not one of ours, not of this store, or not of this folder.
    """
    try:
        with _opened(folder / "meta.json", _LARGEST) as file:
            data = parse(file.read(), "meta.json")
        if take(data, "format", int) == 1:
            raise IndexFormatError("an earlier version made it")
        found = {item.name: take(data, item.name, _TYPES[str(item.type)]) for item in fields(IndexReport)}
        report = IndexReport(**found | {"path": str(folder)})
        for name, one in report.files.items():
            take(one, "sha256", str)
            if re.fullmatch(r"\w[\w.]*", name) is None or not 0 <= take(one, "bytes", int) < 2**50:
                raise IndexFormatError(f"it names a file {name!r:.40}")
        Goal(take(report.goal, "recall", float), take(report.goal, "memory", int))
    except (StoreFormatError, ParameterError) as error:
        raise IndexFormatError(f"{error}") from error
    if {name: data.get(name) for name in _FORMAT} != _FORMAT:
        raise IndexFormatError(f"its format is not {_FORMAT}")
    if report.fingerprint != store.fingerprint:
        raise IndexFormatError("it belongs to a store with another recipe")
    if not folder.name.startswith(f"{report.layer}-") or report.transform != (report.layer.partition("+")[2] or "none"):
        raise IndexFormatError(f"it says that it is of layer {report.layer!r:.40}")
    dims = {str(layer.number): layer.dim for layer in store.card.layers}
    dim = dims.get(report.layer.partition("+")[0], store.card.layers[0].dim)
    if report.dim != dim:
        raise IndexFormatError(f"its rows have {report.dim} values, the layer's have {dim}")
    if not all(0 <= n < 2**63 for n in (report.recall_at_10, report.recall_of_sums, report.latency_ms, report.seconds)):
        raise IndexFormatError("its figures are not numbers")
    if "rows" not in report.files or ("transform" in report.files) != (report.transform != "none"):
        raise IndexFormatError(f"it has the files {sorted(report.files)!r:.100}, not those that it needs")
    seal = data.pop("seal", "")
    portable = report.kind in _PORTABLE and report.files.keys() <= _OPEN
    if not portable and not (seal and hmac.compare_digest(str(seal).encode(), _seal(data).encode())):
        raise IndexFormatError(
            f"somebody else built it, or on another machine; build it again, or set {SECRET} to one secret for both"
        )
    return report


def usable_indices(store: EmbeddingStore, label: str) -> tuple[list[tuple[Keys, IndexReport]], list[str]]:
    """Read the reports of a space's indices, those that answer for most tracks first, each with these tracks' keys in order.

    Also say why others are of no use; one that was removed meanwhile is passed over.
    """
    ours, usable, problems = np.sort(store.keys()), [], []
    for folder in folders(store, label):
        try:
            report = read_report(folder, store)
            keys = keys_of(report)
            usable.append((keys[np.isin(keys, ours, assume_unique=True)], report))
        except IndexFormatError as error:
            if (folder / "meta.json").exists():
                problems.append(f"index {folder.name} is not usable: {error}")
    usable.sort(key=lambda one: (-len(one[0]), one[1].latency_ms))
    return usable, problems


def load_index(report: IndexReport) -> SavedIndex:
    """Read an index whose files have the sums that its meta promises, and no others; only then are they parsed.

    (By their names: whoever can exchange files between the two, while this runs, is not kept out. Nor may a file be cut short
    while it is mapped, which ends the process; nothing of ours does that.)

    Raises
    ------
    IndexFormatError
        They have not, or do not hold what the meta says.
    """
    check_sums(report)
    folder = Path(report.path)
    rows = Rows.open(folder / "rows")
    if (len(rows), rows.dim) != (report.rows, report.dim):
        raise IndexFormatError(f"it holds {len(rows)} rows of width {rows.dim}, not {report.rows} of {report.dim}")
    moved = None if report.transform == "none" else Transform.load(folder / "transform", report.dim)
    try:
        return SavedIndex(kind_class(report.kind).load(rows, folder, report.params), rows, moved, report)
    except EmbedstoreError as error:
        raise IndexFormatError(f"{error}") from error


def keys_of(report: IndexReport) -> Keys:
    """Read the keys of an index's rows, in order.

    A key is the sum of the sound, and an index is of the store's recipe: where the store holds the key, it holds these rows.

    Raises
    ------
    IndexFormatError
        Its rows cannot be used.
    """
    rows = Rows.open(Path(report.path) / "rows")
    return rows.keys[rows.order]


def check_sums(report: IndexReport) -> None:
    """Compare an index's files with the sums that its meta promises, without loading them.

    Raises
    ------
    IndexFormatError
        One has another sum, or there are others.
    """
    with suppress(OSError):
        found = {file.name for file in Path(report.path).iterdir()} - {"meta.json"}
        if strange := found - report.files.keys():
            raise IndexFormatError(f"it holds files that are not its own: {sorted(strange)!r:.100}")
    for name, one in report.files.items():
        with _opened(Path(report.path) / name, one["bytes"]) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != one["sha256"]:
                raise IndexFormatError(f"{name} does not have the sum that meta.json promises")


@contextmanager
def _opened(path: Path, most: int) -> Iterator[Any]:
    """Open a plain file of at most `most` bytes; never through a link, a pipe or a device."""
    try:
        with plain_file(path, most) as file:
            yield file
    except OSError as error:
        raise IndexFormatError(f"{path.name} cannot be read: {error.strerror}") from error
