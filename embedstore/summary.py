"""What a store holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from embedstore.folders import coverage
from embedstore.index import index_coverage
from embedstore.store import EmbeddingStore
from embedstore.types import Layer, TrackLabels

__all__ = ["list_failures", "list_warnings", "summarize"]


def summarize(
    store: EmbeddingStore, *, scan: bool = True, labels: Iterable[TrackLabels] | None = None
) -> dict[str, Any]:
    """Count what a store holds: plain data for `info`.

    Parameters
    ----------
    store : EmbeddingStore
    scan : bool
        Look at the folders that it was built from, too: about a second for 50,000 files.
    labels : iterable of TrackLabels, optional
        Of all tracks, if they were read before.

    Returns
    -------
    dict
        ``path``, ``tracks``, ``files``, ``failures``, ``seconds``, ``layers``, ``dim`` (one number, or a list where
        layers differ), ``windows`` (how many are kept, None where none are), ``dtype``, ``encoder`` (the card), ``recipe``, ``fingerprint``, ``genres`` and ``artists``
        (name -> tracks, most first), ``unlabelled``, ``bytes``, ``warnings``, ``folders`` (see `coverage`; None if they
        were not looked at), ``indices``, ``problems``.
    """
    card, totals = store.card, store.totals()
    described = list(store.labels().values() if labels is None else labels)
    dims = [layer.dim for layer in card.layers]
    return {
        "path": str(store.path),
        "tracks": totals.tracks,
        "files": totals.files,
        "failures": totals.failures,
        "seconds": totals.seconds,
        "layers": [layer.number for layer in card.layers],
        "layer_names": [_layer_name(layer) for layer in card.layers],
        "dim": dims[0] if len(set(dims)) == 1 else dims,
        "windows": store.count_windows() if store.keeps_windows else None,
        "dtype": store.recipe.get("dtype", "float16"),
        "encoder": card.to_dict(),
        "recipe": store.recipe,
        "fingerprint": store.fingerprint,
        "genres": _counted(genre for one in described for genre in one.genres),
        "artists": _counted(artist for one in described for artist in one.artists),
        "unlabelled": totals.tracks - sum(bool(one.genres) for one in described),
        "bytes": store.nbytes(),
        "warnings": totals.warnings,
        "folders": [folder.to_dict() for folder in coverage(store)] if scan else None,
        "indices": index_coverage(store),
        "problems": list(store.problems),
    }


def list_failures(store: EmbeddingStore) -> list[dict[str, str]]:
    """List the files that could not be stored: ``path``, ``stage``, ``reason`` of each."""
    return [{"path": f.file.full_path, "stage": f.stage, "reason": f.reason} for f in store.failures()]


def list_warnings(store: EmbeddingStore) -> list[dict[str, str]]:
    """List what was stored with a warning, in the same form."""
    return [
        {"path": track.path, "stage": "warning", "reason": warning}
        for track in store.tracks()
        for warning in track.warnings
    ]


def _layer_name(layer: Layer) -> str:
    return str(layer.number) if layer.name == f"layer {layer.number}" else f"{layer.number} {layer.name}"


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
