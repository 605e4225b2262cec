"""Finished probes and audits, kept in the folder ``studies`` of their store, for whoever looks at them later.

One JSON file each, ``{"sum": SHA-256 of what follows, "study": {...}}``, written whole or not at all, and named after its
question: the same question replaces its older answer. The oldest go when there are too many. Nothing that is read is
trusted here or by who reads it (`probes.web`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from embedstore.errors import StoreError, StoreFormatError
from embedstore.store import EmbeddingStore
from embedstore.store.disk import explained, plain_file, refuse_link, write_file
from embedstore.store.records import dump
from probes.cells import ABANDONED
from probes.protocol import Protocol
from probes.results import ProbeReport

if TYPE_CHECKING:
    from probes.audit import AuditReport

__all__ = ["keep", "keep_study", "list_studies", "make_room", "read_study", "state_of", "study_name", "study_path"]

FOLDER = "studies"
MOST = 50
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGEST = 2**26  # bytes; 100,000 tracks and three seeds take 4 MB
_MOST_VALUES = 2**23
_HEAD = re.compile(rb'\{"sum": "([0-9a-f]{64})", "study": ')
_BY_KEY = ("labels", "seconds")
Report = TypeVar("Report", bound="ProbeReport | AuditReport")


def study_name(kind: Literal["probe", "audit"], probe: str, asked: Mapping[str, Any]) -> str:
    """Name a study after its question: probe, genres, and a sum of whatever else was asked.

    Parameters
    ----------
    kind : {"probe", "audit"}
    probe : str
        As the report calls it.
    asked : mapping
        Options of `probes.study` or `probes.audit_leaks`, in plain values; those that change no number are passed over.

    Examples
    --------
    >>> study_name("probe", "mlp", {"genres": 20, "folds": 5, "jobs": 2}), study_name("audit", "sklearn.svm.SVC", {"folds": 3})
    ('mlp-20-genres', 'audit-sklearn.svm.SVC-1e4d27')
    """
    usual: dict[str, Any] = {field.name: field.default for field in fields(Protocol)}
    usual |= {"layer": "all"} | dict.fromkeys(("preset", "model", *_BY_KEY))
    del usual["resamples"], usual["quality"]
    more = {name: asked[name] for name in usual if asked.get(name) not in (None, usual[name], ())}
    genres = str(more.get("genres", "")).strip()
    number = [f"{int(more.pop('genres'))}-genres"] if genres.isdecimal() else []
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", probe).strip("-.")[:60] or "probe"
    told = [hashlib.sha256(repr(sorted(more.items())).encode()).hexdigest()[:6]] if more else []
    return "-".join([*(["audit"] if kind == "audit" else []), plain, *number, *told])


def _plainly(asked: Mapping[str, Any], genres: tuple[str, ...]) -> dict[str, Any]:
    """Spell out what Python callers give as objects, and `genres`, however they were named."""
    plain = {**vars(asked.get("protocol") or Protocol()), **asked}
    if plain["genres"] is not None and not str(plain["genres"]).strip().isdecimal():
        plain["genres"] = genres
    probe: Any = plain.get("probe")
    if hasattr(probe, "get_params"):
        plain["model"] = [type(probe).__qualname__, sorted(probe.get_params().items()), getattr(probe, "grid", ())]
    for name in _BY_KEY:
        if plain.get(name) is not None:
            plain[name] = sorted((int(key), value) for key, value in plain[name].items())
    return plain


def keep(store: Any, report: Report, **asked: Any) -> Report:
    """Keep a report in its store; where that cannot be, a note of the report says why. Anything but a store keeps nothing."""
    if not isinstance(store, EmbeddingStore):
        return report
    try:
        keep_study(store, report, asked)
    except StoreError as error:
        return replace(report, notes=(*report.notes, f"the result is not kept in the store: {error}"))
    return report


def keep_study(store: EmbeddingStore, report: ProbeReport | AuditReport, asked: Mapping[str, Any]) -> str:
    """Keep a report; give the name of the study.

    Raises
    ------
    StoreError
        The disk refused; an older answer is still there.
    """
    kind: Literal["probe", "audit"] = "probe" if isinstance(report, ProbeReport) else "audit"
    made = {"kind": kind, "made": datetime.now(UTC).isoformat(timespec="seconds"), "state": state_of(store)}
    said = json.dumps({**made, "report": asdict(report)}, ensure_ascii=False).encode(errors="replace")
    path = study_path(store.path, study_name(kind, report.probe, _plainly(asked, report.genres)))
    data = b'{"sum": "%s", "study": %s}\n' % (hashlib.sha256(said).hexdigest().encode(), said)
    make_room(store.path)
    with explained(f"cannot write {path}"):
        write_file(path, data)
    _trim(store.path)
    return path.stem


def make_room(store: Path) -> None:
    """Make the folder.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    folder = store / FOLDER
    with explained(f"cannot write {folder}"):
        refuse_link(folder)
        folder.mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def study_path(store: Path, name: str) -> Path:
    """Say where a study lies."""
    return store / FOLDER / f"{name}.json"


def list_studies(store: Path) -> list[str]:
    """List the names of a store's studies, by name; at most `MOST`."""
    folder = store / FOLDER
    if folder.is_symlink():
        return []
    names = (path.name.removesuffix(".json") for path in folder.glob("*.json") if not path.is_symlink())
    return sorted(name for name in names if _NAME.fullmatch(name))[:MOST]


def read_study(path: Path) -> bytes:
    """Read the JSON of a study, of which nothing is known but that it is as it was written.

    Raises
    ------
    StoreFormatError
        It is no plain file, too large, or damaged.
    """
    try:
        with plain_file(path, _LARGEST) as file:
            data = file.read()
    except OSError as error:
        raise StoreFormatError(f"the study {path} cannot be read: {error.strerror}") from error
    head = _HEAD.match(data)
    said = data[head.end() : -2] if head else b""
    if head is None or hashlib.sha256(said).hexdigest().encode() != head[1] or data.count(b",") > _MOST_VALUES:
        raise StoreFormatError(f"the study {path} is damaged; remove it, and run it again")
    return said


def state_of(store: EmbeddingStore) -> str:
    """Sum up what studies depend on: tracks and their labels, wherever their files lie."""
    known = {key: labels for key, _, labels, _, _ in store.catalogue()}
    return hashlib.sha256(dump([store.fingerprint, *known.items()])).hexdigest()


def _trim(store: Path) -> None:
    """Remove the oldest beyond `MOST`, and what killed processes left."""
    with suppress(OSError):
        for left in (store / FOLDER).glob("*.json.tmp-*"):
            if time.time() - left.lstat().st_mtime > ABANDONED:
                left.unlink()
        found = [file for file in (store / FOLDER).glob("*.json") if _NAME.fullmatch(file.stem)]
        for file in sorted(found, key=lambda file: file.lstat().st_mtime)[:-MOST]:
            file.unlink()
