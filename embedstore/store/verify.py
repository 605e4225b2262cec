"""Look at everything a store consists of."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.store.catalog import Catalog
from embedstore.store.disk import acquire_lock, explained, list_commits, quarantine
from embedstore.store.records import COMMIT, Spec

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
    problems = fresh.problems()
    missing = _missing(store, catalog)
    missing = missing and missing & _missing(store, catalog)  # it may be merged between two looks
    problems += [f"{name} is gone; build again" for name in sorted(missing)]
    problems += [problem for problem in catalog.problems() if problem not in problems]
    stale = known == found and not catalog.agrees(fresh) and catalog.version() == state
    if stale or set(problems) != set(catalog.problems()):
        catalog.unseal()  # whoever opens the store next makes it anew
    if stale and not problems:
        problems = ["catalog.sqlite does not say what the shards say; open the store again to have it made anew"]
    foreign = list_commits(store)[1]
    problems += [f"{name!r} is not a file of the store; move it away" for name in foreign]
    damaged = [name for (name,) in fresh.select("SELECT name FROM commits WHERE problem IS NOT NULL ORDER BY id")]
    shards = sum(commit.name.endswith(".h5") for commit in found)
    rows = int(fresh.select("SELECT total(length(keys)) FROM commits")[0][0]) // 8
    return VerifyReport(not problems, shards, rows, tuple(problems), (*damaged, *foreign))


def _missing(store: Path, catalog: Catalog) -> set[str]:
    """Name the commits that the catalogue knows and that are neither there nor replaced."""
    known = {commit.name for commit in catalog.commits()}
    return known - {commit.name for commit in list_commits(store)[0]} - catalog.replaced_names()


def repair(store: EmbeddingStore) -> VerifyReport:
    """Do `EmbeddingStore.repair`."""
    with explained(f"cannot repair the store {store.path}"):
        lock = acquire_lock(store.path)
        try:
            found = verify(store.path, store.spec, store.catalog)
            moved = tuple(quarantine(store.path, name) for name in found.damaged)
            store.catalog.unseal()
            store.reopen(locked=True).note_gone(filter(COMMIT.fullmatch, found.damaged))
            store.catalog.seal()
            return replace(found, quarantined=moved)
        finally:
            os.close(lock)
