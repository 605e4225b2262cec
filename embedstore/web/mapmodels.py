"""What the routes of the map give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["MapLayer", "MapMatches", "MapMethod", "MapPositions", "MapState", "MapTracks", "NamedCodes"]


@dataclass(frozen=True)
class MapLayer:
    """A layer of the model.

    Attributes
    ----------
    number : int
        In the model.
    name : str
        What it is called.
    """

    number: int
    name: str


@dataclass(frozen=True)
class MapMethod:
    """A way to make a map.

    Attributes
    ----------
    method : {"umap", "pca"}
        Its name.
    state : {"ready", "missing", "making"}
        Whether its map may be drawn, must be made by a job of the kind `map`, or is being made.
    covers : int
        Tracks that the map was made of; the others are drawn beside the tracks that they are most like.
    seconds : float
        About how long making it takes.
    made : str
        Another one once the map was made again; empty if it is missing.
    """

    method: str
    state: Literal["ready", "missing", "making"]
    covers: int
    seconds: float
    made: str


@dataclass(frozen=True)
class MapState:
    """What may be drawn.

    Attributes
    ----------
    version : str
        Of the tracks and what is said about them; another one once that has changed.
    tracks : int
        How many the map has.
    layers : tuple of MapLayer
        Of the store, by rising number.
    default_layer : int
        Number of the layer that the service searches when none is asked.
    methods : tuple of MapMethod
        How maps are made.
    notes : tuple of str
        What a person should know, e.g. that an index was not usable.
    """

    version: str
    tracks: int
    layers: tuple[MapLayer, ...]
    default_layer: int
    methods: tuple[MapMethod, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class NamedCodes:
    """The names of each row, by number.

    Attributes
    ----------
    names : list of str
        Those of most rows first.
    codes : list of int
        Number of each row's first name; -1: it has none.
    more : list of (int, int)
        Row and number of every further name, in order.
    """

    names: list[str]
    codes: list[int]
    more: list[tuple[int, int]]


@dataclass(frozen=True)
class MapTracks:
    """The tracks of the map, column by column.

    Attributes
    ----------
    version : str
        Of these rows.
    tracks : list of str
        Id of each row's track.
    titles : list of str
        Title, or the name of the file.
    genres, artists : NamedCodes
        What each row has.
    years : list of (int or None)
        Of the first release; None if unknown.
    seconds : list of float
        Duration.
    """

    version: str
    tracks: list[str]
    titles: list[str]
    genres: NamedCodes
    artists: NamedCodes
    years: list[int | None]
    seconds: list[float]


@dataclass(frozen=True)
class MapPositions:
    """Where the tracks lie on one layer.

    Attributes
    ----------
    version : str
        Of the rows.
    method : str
        How the map was made.
    layer : int
        Number of the layer.
    x, y : list of int
        From 0 to 65535, for each row; all layers share one frame.
    clusters : list of int
        Group of each row among the vectors of this layer; -1: none, as the track came after the map.
    """

    version: str
    method: str
    layer: int
    x: list[int]
    y: list[int]
    clusters: list[int]


@dataclass(frozen=True)
class MapMatches:
    """Tracks that were found by words.

    Attributes
    ----------
    version : str
        Of the rows.
    rows : list of int
        In order.
    """

    version: str
    rows: list[int]


_LAYERS = (MapLayer(0, "input"), MapLayer(1, "layer 1"))
SAMPLES: tuple[Any, ...] = (
    MapState("5d1c2a90", 2, _LAYERS, 1, (MapMethod("umap", "ready", 2, 12.5, "17d3f0a2b4c61e08"),), ()),
    MapTracks(
        "5d1c2a90", ["00d1f2a3b4c5e697", "0123456789abcdef"], ["The Thrill Is Gone", "stormy.ogg"], NamedCodes(["blues", "rock"], [0, 0], [(1, 1)]),
        NamedCodes(["B.B. King"], [0, -1], []), [1969, None], [325.4, 181.0],
    ),
    MapPositions("5d1c2a90", "umap", 1, [0, 65535], [32768, 400], [0, -1]),
    MapMatches("5d1c2a90", [1]),
)  # fmt: skip
