"""Which genre a sound may have that somebody sent, by the probe that the store has kept last."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from embedstore.errors import EmbedstoreError, ParameterError
from embedstore.store import EmbeddingStore
from embedstore.types import LayerEmbeddings
from embedstore.web.offers import Guess, Guessed
from probes.classification import as_stored, worth
from probes.probefile import probe_path, saved_probes
from probes.saved import SavedProbe

__all__ = ["guess", "kept_probes", "load_kept", "stamp_of"]

_SHOWN = 5  # genres
_MOST = 100  # probes that are looked at
_RISK = 0.5  # share of wrong answers from which on it is said that the probe is not sure


def guess(store: EmbeddingStore, heard: LayerEmbeddings, key: int | None) -> Guessed | None:
    """Name the likeliest genres with calibrated probabilities; None where the store has no probe.

    A probe that is damaged, or was trained on other vectors, names none; a note says why. The first note of one that was trained on
    this very sound, as its `key` tells, says so.
    """
    probes = kept_probes(store.path)
    if not probes:
        return None
    name, path, _ = max(probes, key=lambda one: (one[2], one[0]))
    try:
        probe = load_kept(path, stamp_of(path))
        probe.check_store(store)
        [shares] = probe.predict(as_stored(store, heard)).probabilities
    except (EmbedstoreError, OSError) as error:
        return Guessed(name, (), (str(error),), sure=False)
    order = np.argsort(-shares, kind="stable")[:_SHOWN].tolist()
    known, doubt, top = list[str](), list[str](), float(shares[order[0]])
    if key is not None and key in probe.keys:
        known = ["this very sound is among its training tracks: that it knows it says nothing of others"]
    if top < _least(probe):
        doubt = [f"it is not sure: of answers at least as probable as this, more than {_RISK:.0%} may be wrong"]
    elif 1 - top > _RISK:  # a good probe's answers are mostly right, all together; this one need not be
        doubt = [f"it is not sure: by its probability, {1 - top:.0%} of answers such as this are wrong"]
    genres = tuple(Guess(probe.genres[n], float(shares[n])) for n in order)
    return Guessed(name, genres, (*known, *doubt, *worth(probe)), sure=not doubt)


def kept_probes(store: Path) -> list[tuple[str, Path, int]]:
    """List a store's saved probes by name: name, file, when it was written."""
    found = []
    for name in saved_probes(store)[:_MOST]:
        path = probe_path(name, store)
        if stamp := stamp_of(path):
            found.append((name, path, stamp[0]))
    return found


def stamp_of(path: Path) -> tuple[int, ...]:
    """Tell apart two states of a file; nothing if it is gone."""
    try:
        status = os.lstat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(8)
def load_kept(path: Path, _stamp: tuple[int, ...]) -> SavedProbe:
    """Load a probe, once for each state of its file."""
    return SavedProbe.load(path)


def _least(probe: SavedProbe) -> float:
    """Give the probability from which on no more of the answers than that are wrong."""
    try:
        return probe.curve.threshold_for(_RISK)[0]
    except ParameterError:  # none can promise it
        return np.inf
