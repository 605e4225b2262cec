"""Look at everything a store consists of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedstore.store.catalog import Catalog
from embedstore.store.disk import list_commits
from embedstore.store.records import Spec

__all__ = ["VerifyReport", "verify"]


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
    """

    ok: bool
    shards: int
    rows: int
    problems: tuple[str, ...]


def verify(store: Path, spec: Spec, catalog: Catalog) -> VerifyReport:
    """Read all commits again, from the disk, and compare what they add up to with the catalogue."""
    known, state = catalog.commits(), catalog.version()  # before looking at the disk: a writer may add meanwhile
    fresh = Catalog.fresh(store, spec)
    found = fresh.commits()
    listed = {commit.name for commit in found}
    problems = fresh.problems()
    problems += [f"{commit.name} is gone; build again" for commit in known if commit.name not in listed]
    problems += [problem for problem in catalog.problems() if problem not in problems]
    stale = catalog.digest() != fresh.digest() and catalog.version() == state
    if stale or set(problems) != set(catalog.problems()):
        catalog.unseal()  # whoever opens the store next makes it anew
    if stale and not problems and known == found:
        problems = ["catalog.sqlite does not say what the shards say; open the store again to have it made anew"]
    problems += [f"{name!r} is not a file of the store; move it away" for name in list_commits(store)[1]]
    shards = sum(commit.name.endswith(".h5") for commit in found)
    rows = int(fresh.select("SELECT total(rows) FROM commits")[0][0])
    return VerifyReport(not problems, shards, rows, tuple(problems))
