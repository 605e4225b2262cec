"""What a saved probe chose, as something to search in: ``--layer best`` and ``--layer mix``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from embedstore.errors import ParameterError
from embedstore.types import Mix
from probes.saved import SavedProbe, load_saved

__all__ = ["space_of"]


def space_of(store: Any, probe: str | os.PathLike[str] | None = None, which: str = "best") -> int | str | Mix:
    """Give the layer that a saved probe chose.

    Parameters
    ----------
    store : EmbeddingStore
    probe : str or path, optional
        Name in the store, or file; default: the store's only one.
    which : {"best", "mix"}
        Whatever it hears, or only a learned mix of layers.

    Returns
    -------
    int, str or Mix
        A number, ``"mean"``, or the mix as the probe hears it: every layer standardised, weighted, and the sum standardised,
        by what it learned of its training tracks.

    Raises
    ------
    UnknownNameError, ParameterError, StoreFormatError
        There is no such probe, or several and none is named; it hears layers side by side, or no mix; it is damaged.
    EncoderMismatchError
        It was trained on vectors of another recipe.

    Examples
    --------
    >>> from embedstore import EmbeddingStore
    >>> space_of(EmbeddingStore.open("my-store"), "genres")  # doctest: +SKIP
    6
    """
    saved = load_saved(probe, store.path)
    saved.check_store(store)
    if saved.layer == "mix":
        return _mix(saved)
    if which == "mix" or saved.layer == "concat":
        hears = {"concat": "all layers side by side", "mean": "the mean of layers"}.get(str(saved.layer))
        wanted = "a learned mix of layers" if which == "mix" else "one layer, their mean or a learned mix"
        raise ParameterError(
            f"the probe {saved.name} hears {hears or f'layer {saved.layer}'}; a search as --layer {which} needs one that hears "
            f"{wanted}: embedstore probe --layer {'mix' if which == 'mix' else 'all'} --save NAME"
        )
    return saved.layer


def _mix(saved: SavedProbe) -> Mix:
    """Fold both standardisations into the weights: sum over layers of scales * layer, plus shift."""
    prepare = saved.prepare
    if prepare.weights is None or prepare.mixed is None:
        raise ParameterError(f"the probe {saved.name} mixes a single layer, {saved.layers[0].name}; ask for that layer")
    mean, deviation = prepare.mixed.mean[0, 0], prepare.mixed.deviation[0, 0]
    scales = prepare.weights[:, None] / (prepare.scale.deviation[:, 0] * deviation)
    shift = -(scales * prepare.scale.mean[:, 0]).sum(0) - mean / deviation
    return Mix(saved.name, scales.astype(np.float32), shift.astype(np.float32))
