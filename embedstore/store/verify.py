"""Look at everything a store consists of."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.store.catalog import Catalog
from embedstore.store.disk import acquire_lock, explained, list_commits, quarantine
from embedstore.store.records import Spec

if TYPE_CHECKING:
    from embedstore.store.store import EmbeddingStore

__all__ = ["VerifyReport", "repair", "verify"]


@dataclass(frozen=True)
class VerifyReport:
    """What `EmbeddingStore.verify` found.

    Attributes
    ----------
    ok : bool
        Nothing is wrong.
    shards : int
        Shards that were looked at.
    rows : int
        Rows in the good ones.
    problems : tuple of str
        One line each; names the file.
    damaged : tuple of str
        Names of files below the store that are damaged, or do not belong there.
    quarantined : tuple of str
        Where `EmbeddingStore.repair` has moved them, below the store.
    """

    ok: bool
    shards: int
    rows: int
    problems: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()


def verify(store: Path, spec: Spec, catalog: Catalog) -> VerifyReport:
    """Read all commits again, from the disk, and compare what they add up to with the catalogue."""
    known, state = catalog.commits(), catalog.version()  # before looking at the disk: a writer may add meanwhile
    fresh = Catalog.fresh(store, spec)
    found = fresh.commits()
    listed = {commit.name for commit in found}
    problems = fresh.problems()
    problems += [f"{commit.name} is gone; build again" for commit in known if commit.name not in listed]
    problems += [problem for problem in catalog.problems() if problem not in problems]
    stale = not catalog.agrees(fresh) and catalog.version() == state
    if stale or set(problems) != set(catalog.problems()):
        catalog.unseal()  # whoever opens the store next makes it anew
    if stale and not problems and known == found:
        problems = ["catalog.sqlite does not say what the shards say; open the store again to have it made anew"]
    foreign = list_commits(store)[1]
    problems += [f"{name!r} is not a file of the store; move it away" for name in foreign]
    damaged = [name for (name,) in fresh.select("SELECT name FROM commits WHERE problem IS NOT NULL ORDER BY id")]
    shards = sum(commit.name.endswith(".h5") for commit in found)
    rows = int(fresh.select("SELECT total(length(keys)) FROM commits")[0][0]) // 8
    return VerifyReport(not problems, shards, rows, tuple(problems), (*damaged, *foreign))


def repair(store: EmbeddingStore) -> VerifyReport:
    """Do `EmbeddingStore.repair`."""
    with explained(f"cannot repair the store {store.path}"):
        lock = acquire_lock(store.path)
        try:
            found = verify(store.path, store.spec, store.catalog)
            moved = tuple(quarantine(store.path, name) for name in found.damaged)
            store.catalog.unseal()
            store.reopen(locked=True)
            return replace(found, quarantined=moved)
        finally:
            os.close(lock)
