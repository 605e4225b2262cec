"""Features of a probe: each layer, the mean of layers, all side by side, or a learned mix of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, UnknownNameError
from embedstore.labels import data_set_of
from embedstore.types import Layer, LayerMatrix, TrackLabels, track_id
from probes.cells import digest
from probes.duplicates import Pairs, near_duplicates

__all__ = [
    "JOINT",
    "Feature",
    "Source",
    "find_layers",
    "join_layers",
    "load_features",
    "name_tracks",
    "open_source",
    "rows_of",
]

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Ints = NDArray[np.int64]
JOINT = ("mean", "concat", "mix")


@dataclass(frozen=True, repr=False, eq=False)
class Feature:
    """What one row of the report is computed from.

    Attributes
    ----------
    layer : int or str
        Number, ``"mean"``, ``"concat"`` or ``"mix"``.
    name : str
    values : float32 array, shape (n_layers, n_tracks, dim)
        One layer, or for a mix all of them.
    parts : tuple of str
        Names of those layers.
    widths : tuple of int
        Of layers side by side: how wide each is.
    """

    layer: int | str
    name: str
    values: Floats
    parts: tuple[str, ...]
    widths: tuple[int, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Sum of the values."""
        return digest(self.values)

    def __repr__(self) -> str:
        return f"Feature({self.name}, {self.values.shape})"


@dataclass(frozen=True, repr=False)
class Source:
    """Where vectors and labels come from: a store, or matrices in memory.

    `default` is the number of the layer that stands for the sound; `seconds` gives the length of each track by its key.
    """

    keys: Ints
    layers: tuple[Layer, ...]
    read: Callable[[int], LayerMatrix]
    labels: Mapping[int, TrackLabels]
    about: Mapping[str, Any]
    default: int = 0
    seconds: Callable[[], Mapping[int, float]] | None = None

    def near_duplicates(self, keys: Ints) -> Pairs | None:
        """Find tracks that are one recording, rows being places in `keys`; None without their lengths."""
        if self.seconds is None or not len(keys):
            return None
        known = self.seconds()
        vectors = rows_of(self, next(layer for layer in self.layers if layer.number == self.default), keys)
        return near_duplicates(vectors, np.array([known[int(key)] for key in keys]))


def open_source(source: Any, labels: Mapping[int, TrackLabels] | None = None, *, labelled: bool = True) -> Source:
    """See a store, or matrices with labels, in one way.

    Parameters
    ----------
    source : EmbeddingStore, or mapping of anything to LayerMatrix, or sequence of LayerMatrix
    labels : mapping of key to TrackLabels, optional
        In place of the store's; needed with matrices.
    labelled : bool
        Whether labels are wanted at all.
    """
    if hasattr(source, "card") and hasattr(source, "layer"):
        card = source.card
        about = {"encoder": card.name, "model": card.model, "store": str(getattr(source, "path", ""))}
        for name in ("licence", "paper"):
            about |= {name: said} if (said := getattr(card, name, "")) else {}
        fingerprint = getattr(source, "fingerprint", None)
        about |= {"fingerprint": str(fingerprint)} if fingerprint else {}
        found = (source.labels() if labels is None else labels) if labelled else {}
        about |= {"labels": said} if (said := _said_by(found)) else {}

        def seconds() -> dict[int, float]:
            return {track.key: track.seconds for tracks in source.iter_tracks() for track in tracks}

        keys, default = np.asarray(source.keys()), card.default_layer
        return Source(keys, tuple(card.layers), source.layer, found, about, default, seconds)
    matrices = list(source.values() if isinstance(source, Mapping) else source)
    if not matrices or not all(isinstance(matrix, LayerMatrix) for matrix in matrices):
        raise ParameterError(f"a probe reads an open store, or LayerMatrix objects; got {type(source).__name__}")
    if labels is None and labelled:
        raise ParameterError("matrices have no labels of their own: pass labels={key: TrackLabels(...)}")
    by_number = {matrix.layer: matrix for matrix in matrices}
    if len(by_number) < len(matrices):
        raise ParameterError(f"two matrices are of the same layer; got layers {[m.layer for m in matrices]}")
    if any(not np.array_equal(np.sort(matrix.keys), np.sort(matrices[0].keys)) for matrix in matrices):
        raise ParameterError(
            f"each layer needs the same keys; got {[len(matrix) for matrix in matrices]} rows, or others"
        )
    layers = tuple(Layer(m.layer, m.name, m.values.shape[1]) for _, m in sorted(by_number.items()))
    middle = layers[len(layers) // 2].number
    return Source(matrices[0].keys, layers, by_number.__getitem__, labels or {}, {}, middle)


def _said_by(labels: Mapping[int, TrackLabels]) -> dict[str, Any]:
    """Describe where most labels come from, and the data set that it is."""
    sources = Counter(track.source for track in labels.values() if track.source)
    if not sources:
        return {}
    source = sources.most_common(1)[0][0]
    known = data_set_of(source)
    return {"source": source} | ({} if known is None else asdict(known))


def name_tracks(source: Any, labels: Mapping[int, TrackLabels], keys: Ints) -> dict[int, str]:
    """Name tracks for people, by key: by path where there is one, else by artist and title, else by id."""
    paths: dict[int, str] = {}
    if hasattr(source, "described") and len(keys):
        paths = {track.key: track.files[0].path for track, _ in source.described(keys)}
    named = {}
    for key in keys.tolist():
        label = labels.get(key, TrackLabels())
        said_of = " - ".join(text for text in (", ".join(label.artists), label.title) if text)
        named[key] = paths.get(key) or (said_of if label.title else "") or track_id(key)
    return named


def load_features(source: Source, which: int | str | Sequence[int | str], keys: Ints) -> tuple[Feature, ...]:
    """Read what ``--layer`` asks for, rows in the order of `keys`.

    Parameters
    ----------
    source : Source
    which : int, str, or sequence of them
        ``"all"`` (one feature per layer), numbers, names (several with commas); ``"mean"``, ``"concat"`` (side by side) and
        ``"mix"`` (learned weights) of all layers.
    keys : int64 array, shape (n_tracks,)

    Raises
    ------
    UnknownNameError
        No such layer; the message lists those there are.
    ParameterError
        Mean or mix of layers of different width; rows that are missing or not finite.
    """
    parts = [which] if isinstance(which, int) else which.split(",") if isinstance(which, str) else which
    asked = [part.strip() if isinstance(part, str) else part for part in parts]
    joint = [name for name in JOINT if name in asked]
    single = [part for part in asked if part not in JOINT]
    layers = list(source.layers) if "all" in single else find_layers(source.layers, single)
    if not layers and not joint:
        raise ParameterError("no layer is asked for; give 'all', a number or a name")
    features = [
        Feature(layer.number, layer.name, rows_of(source, layer, keys)[None], (layer.name,)) for layer in layers
    ]
    return (*features, *_joint(source, joint, keys))


def _joint(source: Source, joint: Sequence[str], keys: Ints) -> Iterator[Feature]:
    """Make features of all layers together."""
    if not joint:
        return
    widths = {layer.dim for layer in source.layers}
    if len(widths) > 1 and joint != ["concat"]:
        listed = ", ".join(f"{_title(layer)}: {layer.dim}" for layer in source.layers)
        raise ParameterError(
            f"the {joint[0]} of layers needs layers of one width; here the widths are {listed}; "
            "use --layer all, concat or a number"
        )
    rows, names = (
        [rows_of(source, layer, keys) for layer in source.layers],
        tuple(layer.name for layer in source.layers),
    )
    for which in joint:
        wide = tuple(of_layer.shape[1] for of_layer in rows) if which == "concat" else ()
        yield Feature(which, f"{which} of {len(rows)} layers", join_layers(which, rows), names, wide)


def join_layers(which: int | str, rows: Sequence[Floats]) -> Floats:
    """Put the rows of layers, shapes (n, dim), together as `Feature.values`, shape (n_layers of a mix, else 1, n, dim)."""
    if which == "mean":
        return np.asarray(np.stack(rows).mean(0, keepdims=True, dtype=np.float64).astype(np.float32))
    return np.stack(rows) if which == "mix" else np.concatenate(rows, axis=1)[None]


def find_layers(layers: Sequence[Layer], asked: Iterable[int | str], joint: Sequence[str] = JOINT) -> list[Layer]:
    """Find layers by number or name, by rising number, each once; `joint` may be asked for instead.

    Raises
    ------
    UnknownNameError
        No such layer; lists those there are.
    """
    found = []
    for which in asked:
        hits = [layer for layer in layers if which in (layer.number, layer.name, str(layer.number))]
        if not hits:
            listed = ", ".join(_title(layer) for layer in layers)
            raise UnknownNameError(f"there is no layer {which!r}; known: all, {', '.join(joint)}, {listed}")
        found += [layer for layer in hits if layer not in found]
    return sorted(found, key=lambda layer: layer.number)


def _title(layer: Layer) -> str:
    return f"{layer.number}" if layer.name == f"layer {layer.number}" else f"{layer.number} ({layer.name})"


def rows_of(source: Source, layer: Layer, keys: Ints) -> Floats:
    """Read one layer of some tracks, shape (n, dim), in the order of `keys`.

    Raises
    ------
    ParameterError
        Rows that are missing or not finite.
    """
    matrix = source.read(layer.number)
    order = np.argsort(matrix.keys, kind="stable")
    place = np.minimum(np.searchsorted(matrix.keys, keys, sorter=order), max(len(order) - 1, 0))
    if not len(order) or (matrix.keys[order[place]] != keys).any():
        raise ParameterError(f"layer {_title(layer)} lacks rows of some tracks: each layer needs the same keys")
    values = np.asarray(matrix.values[order[place]], dtype=np.float32)
    bad = int((~np.isfinite(values)).any(1).sum())
    if bad:
        raise ParameterError(f"layer {_title(layer)} has {bad} rows that are not finite (NaN or infinite)")
    return values
