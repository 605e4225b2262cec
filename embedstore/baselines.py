"""Stores to compare with: the same tracks heard by MFCC statistics, and by the same network with random weights.

A probe's score says little alone. Filters with random weights and plain timbre statistics know a part of the genres, too;
what training adds is the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedstore.errors import EmbedstoreError, ParameterError
from embedstore.options import EncoderOptions
from embedstore.pipeline import BuildReport, build
from embedstore.store import EmbeddingStore
from embedstore.store.disk import explained

__all__ = ["FOLDER", "build_baselines", "open_baselines"]

FOLDER = "baselines"


def _encoders(store: EmbeddingStore) -> dict[str, EncoderOptions]:
    """Name the baselines of a store: none that is the store's own encoder."""
    options = dict(store.card.options)
    name = str(options.pop("name", store.card.name))
    found = {}
    if name != "mfcc":
        found["mfcc"] = EncoderOptions(name="mfcc")
        if not name.startswith("random:"):
            options.pop("seed", None)
            found["random_weights"] = EncoderOptions(name=f"random:{name}", **options)
    return found


def build_baselines(
    store: EmbeddingStore,
    audio_dir: str | Path | None = None,
    *,
    device: str = "auto",
    progress: Callable[[str], Callable[..., None]] | None = None,
    **options: Any,
) -> dict[str, BuildReport]:
    """Build the baselines of a store, in its folder ``baselines``; what is built is skipped.

    Parameters
    ----------
    store : EmbeddingStore
    audio_dir : path, optional
        Where its music is; default: the folders that it was built from.
    device : str
    progress : callable, optional
        Gives for the name of a baseline what `build` tells its progress to.
    **options
        Of `embedstore.build`, such as ``jobs``, ``limit``, ``timeout``.

    Returns
    -------
    dict of BuildReport
        By name: ``mfcc``, ``random_weights``; with several folders, that of the last.

    Raises
    ------
    ParameterError
        The store knows no folder, or has no baselines (it is one itself).
    """
    folders = [audio_dir] if audio_dir else sorted({state.root for state in store.files().values() if state.root})
    encoders = _encoders(store)
    if not encoders:
        raise ParameterError(f"the encoder {store.card.name} is a baseline itself")
    if not folders:
        raise ParameterError(f"the store {store.path} does not know its folders; give the folder of its music")
    reports = {}
    for name, encoder in encoders.items():
        target = store.path / FOLDER / name
        with explained(f"cannot make {target.parent}"):
            target.parent.mkdir(exist_ok=True)
        for folder in folders:
            told = progress(name) if progress else None
            asked = EncoderOptions(**{**vars(encoder), "device": device})
            reports[name] = build(folder, target, encoder=asked, labels="none", progress=told, **options)
            if reports[name].interrupted:
                return reports
    return reports


def open_baselines(store: EmbeddingStore) -> tuple[dict[str, EmbeddingStore], tuple[str, ...]]:
    """Open the baselines that a store has; of one that cannot be opened, say why."""
    found, notes = {}, []
    for name in ("mfcc", "random_weights"):
        folder = store.path / FOLDER / name
        if not folder.is_dir():
            continue
        try:
            found[name] = EmbeddingStore.open(folder)
        except EmbedstoreError as error:
            notes.append(f"no baseline {name}: {error}")
    return found, tuple(notes)
