"""Probes and audits as jobs of the service; see `embedstore.web.work`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from embedstore.store import EmbeddingStore
from probes.audit import audit_leaks
from probes.evaluation import study
from probes.studies import keep_study, make_room

__all__ = ["AuditOptions", "ProbeOptions", "audit", "probe"]

Progress = Callable[[int, int], object]


class AuditOptions(BaseModel):
    """How to audit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # by name: what a request can have imported or read is not for it to choose
    probe: Literal["centroid", "genrenet", "knn", "logistic", "mlp", "ridge"] = "logistic"
    genres: (
        Annotated[int, Field(ge=2, le=1000, description="So many, in alphabetical order.")]
        | Annotated[list[Annotated[str, Field(max_length=1000)]], Field(min_length=2, max_length=1000)]
        | None
    ) = None
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    seeds: Annotated[int, Field(ge=1, le=50)] = 3


class ProbeOptions(AuditOptions):
    """How to probe."""

    group: Literal["artist", "none"] = "artist"
    save: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")] = None


def probe(store: str, progress: Progress, *, probe: str, save: str | None = None, **asked: Any) -> str:
    """Run a probe, and keep what it found in the store, and the trained probe if `save` names one; gives the study's name."""
    opened = _open(store)
    # one process: the others of this machine answer requests, and a stopped job leaves none behind
    found = study({"": opened}, [probe], save=save, jobs=1, cells=opened.path / "cells", progress=progress, **asked)
    return keep_study(opened, found.reports[0], asked)


def audit(store: str, progress: Progress, *, probe: str, **asked: Any) -> str:
    """Run an audit, and keep it in the store; gives the study's name."""
    opened = _open(store)
    found = audit_leaks(opened, probe, jobs=1, cells=opened.path / "cells", progress=progress, **asked)
    return keep_study(opened, found, asked)


def _open(path: str) -> EmbeddingStore:
    """Open a store in which something can be kept: else say so before the work."""
    store = EmbeddingStore.open(path)
    make_room(store.path)
    return store
