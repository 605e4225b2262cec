"""What the API takes and gives besides the dataclasses of other rooms, and how all of these are described.

A field is described once, by the docstring of its class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from embedstore.errors import ParameterError
from embedstore.search import Filter, Hit, Query, SearchResult, Seed, Shape
from embedstore.search.genres import GenreMap, rounded
from embedstore.types import EncoderCard, Layer, Track, TrackLabels
from embedstore.web.answers import plain
from embedstore.web.jobs import JobState
from embedstore.web.mapmodels import SAMPLES as MAP_SAMPLES
from embedstore.web.offers import Guess

__all__ = [
    "BUSY",
    "CHANGED",
    "LARGEST_K",
    "LARGEST_PAGE",
    "LONGEST_NAME",
    "MOST_NAMES",
    "PLAYLIST",
    "SOUND",
    "FailedFile",
    "FailurePage",
    "Fault",
    "Genre",
    "GenreTable",
    "Health",
    "JobRequest",
    "PlaylistRequest",
    "Problem",
    "SearchRequest",
    "StoreFacts",
    "StoredTrack",
    "TrackPage",
    "Upload",
    "describe",
]

LARGEST_K = 1000  # results of one search
LARGEST_PAGE = 1000  # tracks of one page
MOST_NAMES = 100  # of a list
LONGEST_NAME = 1000  # characters
Responses = dict[int | str, dict[str, Any]]
AnId = Annotated[str, StringConstraints(max_length=LONGEST_NAME)]
_FIELD = re.compile(r"^(\w+(?:, \w+)*) : (.+)((?:\n {4}.+)*)", re.MULTILINE)


class SearchRequest(BaseModel):
    """A search: what to be like, which tracks may be results, and how these are put together.

    Attributes
    ----------
    query : Query
        Tracks to be like and unlike, or a genre. A track is named by its id, or by words of its artist and title.
    filter : Filter
        Default: every track may be a result.
    shape : Shape
        Default: the ten nearest.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    query: Query
    filter: Filter = Filter()
    shape: Shape = Shape()

    @model_validator(mode="after")
    def _within_limits(self) -> SearchRequest:
        if self.shape.k > LARGEST_K:
            raise ParameterError(f"k is at most {LARGEST_K}; got {self.shape.k}")
        lists = [self.query.seeds, *(value for value in vars(self.filter).values() if isinstance(value, tuple))]
        names = [self.query.genre or "", *(seed.what for seed in self.query.seeds)]
        names += [name for some in lists for name in some if isinstance(name, str)]
        if max(map(len, lists)) > MOST_NAMES or max(map(len, names)) > LONGEST_NAME:
            raise ParameterError(f"a list has at most {MOST_NAMES} names of at most {LONGEST_NAME} characters")
        return self


@dataclass(frozen=True)
class StoredTrack:
    """A track of the store.

    Attributes
    ----------
    id : str
        Sixteen hexadecimal digits: of the sound, the same in every store.
    paths : tuple of str
        Absolute path of every file that holds this sound; the first is the one that was encoded.
    seconds : float
        Duration of what was encoded.
    sample_rate, channels : int
        Of the file.
    labels : TrackLabels
        What people say about it.
    warnings : tuple of str
        What was wrong with the file but not fatal.
    """

    id: str
    paths: tuple[str, ...]
    seconds: float
    sample_rate: int
    channels: int
    labels: TrackLabels
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, track: Track) -> StoredTrack:
        """Show a track."""
        paths = tuple(file.full_path for file in track.files)
        return cls(track.id, paths, track.seconds, track.sample_rate, track.channels, track.labels, track.warnings)


@dataclass(frozen=True)
class TrackPage:
    """Some of the tracks that were asked for.

    Attributes
    ----------
    total : int
        Tracks that were found.
    offset : int
        How many of them come before these.
    tracks : tuple of StoredTrack
        In the order in which they were stored.
    """

    total: int
    offset: int
    tracks: tuple[StoredTrack, ...]


@dataclass(frozen=True)
class StoreFacts:
    """What the store holds; see `embedstore info`.

    Attributes
    ----------
    path : str
        Absolute folder.
    tracks, files, failures : int
        How many; failures are files that could not be stored.
    seconds : float
        Of sound.
    layers : list of int
        Numbers of the stored layers.
    layer_names : list of str
        Their numbers and names.
    dim : int or list of int
        Width of the vectors; a list where layers differ.
    windows : int or None
        How many windows of tracks are kept; None where none are.
    dtype : str
        Of the stored values.
    encoder : EncoderCard
        The model behind the vectors.
    recipe : dict
        Everything that decides the vectors.
    fingerprint : str
        SHA-256 of the recipe.
    genres, artists : dict of str to int
        Tracks of each, most first.
    unlabelled : int
        Tracks without a genre.
    bytes : int
        Size of the store.
    warnings : int
        Tracks that were stored with a warning.
    folders : list or None
        Of the folders that it was built from; here always None, as they are not looked at.
    indices : list of dict
        Of each index: its kind, layer and quality, how many tracks it covers, and of how many.
    problems : list of str
        What of the store is damaged and left out.
    """

    path: str
    tracks: int
    files: int
    failures: int
    seconds: float
    layers: list[int]
    layer_names: list[str]
    dim: int | list[int]
    windows: int | None
    dtype: str
    encoder: EncoderCard
    recipe: dict[str, Any]
    fingerprint: str
    genres: dict[str, int]
    artists: dict[str, int]
    unlabelled: int
    bytes: int
    warnings: int
    folders: list[dict[str, Any]] | None
    indices: list[dict[str, Any]]
    problems: list[str]


@dataclass(frozen=True)
class Genre:
    """A genre.

    Attributes
    ----------
    genre : str
        Its name.
    tracks : int
        How many have it.
    """

    genre: str
    tracks: int


@dataclass(frozen=True)
class GenreTable:  # noqa: D101 - it has one
    __doc__ = GenreMap.__doc__  # which says more than is sent: the centres are left out

    layer: int | str
    transform: str
    genres: tuple[str, ...]
    counts: tuple[int, ...]
    similarity: list[list[float]]
    pairs: list[list[float | None]]
    linkage: list[list[float]]
    left_out: dict[str, int]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, found: GenreMap) -> GenreTable:
        """Show a map, its numbers to four digits."""
        numbers = {name: rounded(getattr(found, name), 4) for name in ("similarity", "pairs", "linkage")}
        return cls(**{field.name: numbers.get(field.name, getattr(found, field.name)) for field in fields(cls)})


@dataclass(frozen=True)
class Health:
    """A sign of life.

    Attributes
    ----------
    status : str
        ``"ok"``.
    version : str
        Of embedstore.
    tracks : int
        That the store holds now.
    """

    status: str
    version: str
    tracks: int


@dataclass(frozen=True)
class Fault:
    """What went wrong.

    Attributes
    ----------
    type : str
        Its kind, for programs.
    message : str
        What was asked, what was found, what to do: one line for people.
    """

    type: str
    message: str


@dataclass(frozen=True)
class Problem:
    """The one shape of an error.

    Attributes
    ----------
    error : Fault
        What went wrong.
    """

    error: Fault


@dataclass(frozen=True)
class FailedFile:
    """A file that could not be stored.

    Attributes
    ----------
    path : str
        Absolute.
    stage : str
        Where it failed.
    reason : str
        Why.
    """

    path: str
    stage: str
    reason: str


@dataclass(frozen=True)
class FailurePage:
    """Some of the files that could not be stored.

    Attributes
    ----------
    total : int
        How many there are.
    offset : int
        How many of them come before these.
    failures : tuple of FailedFile
        By path.
    """

    total: int
    offset: int
    failures: tuple[FailedFile, ...]


@dataclass(frozen=True)
class Upload:
    """A sound that was sent, and heard.

    Attributes
    ----------
    id : str
        Its name here, for a while; a search takes it as `upload:ID`.
    name : str
        What its sender calls it.
    seconds : float
        Duration.
    genres : tuple of Guess
        That it may have, most likely first; empty where no probe is trained.
    probe : str or None
        Name of the probe that guessed.
    sure : bool
        Whether the likeliest genre may be taken as its answer; False where it would rather not say, or there is no probe.
    stored : str or None
        Id of the stored track that is this very sound.
    notes : tuple of str
        What was wrong with the file but not fatal, and what the probe has to say.
    """

    id: str
    name: str
    seconds: float
    genres: tuple[Guess, ...]
    probe: str | None
    sure: bool
    stored: str | None
    notes: tuple[str, ...]


class PlaylistRequest(BaseModel):
    """A playlist to be written.

    Attributes
    ----------
    tracks : list of str
        Ids, in order.
    name : str
        Of the file, without its ending.
    """

    model_config = ConfigDict(extra="forbid")

    tracks: list[AnId] = Field(max_length=LARGEST_PAGE)
    name: Annotated[str, StringConstraints(max_length=200)] = "embedstore"


class JobRequest(BaseModel):
    """A job to be started.

    Attributes
    ----------
    kind : str
        What to do, such as `map`.
    options : dict
        What that kind takes; those of a map are `method`, `seed` and `neighbors`.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Annotated[str, StringConstraints(max_length=100)]
    options: dict[str, Any] = Field(default_factory=dict)


_LABELS = TrackLabels(("blues",), ("B.B. King",), "Completely Well", "The Thrill Is Gone", "folder")
_TRACK = StoredTrack("00d1f2a3b4c5e697", ("/music/blues/thrill.ogg",), 325.4, 44100, 2, _LABELS, ())
_CARD = EncoderCard(
    "music2vec", "m-a-p/music2vec-v1", "1", "0" * 64, 16000, (Layer(0, "input", 768), Layer(1, "layer 1", 768)), 50.0,
    "none", "float32", "CC-BY-NC-4.0", "Li et al. 2022", 1,
)  # fmt: skip
_SAMPLES = (
    SearchRequest(
        query=Query((Seed(_TRACK.id), Seed("little wing", -0.5))), filter=Filter(genres=("blues",)), shape=Shape(k=5, per_artist=1)
    ),
    SearchResult(
        _TRACK.id, 1, (Hit(1, "0123456789abcdef", "/music/blues/stormy.ogg", ("blues",), ("T-Bone Walker",), "", "Stormy Monday", 181.0, 0.93, 99.8),)
    ),
    TrackPage(1, 0, (_TRACK,)),
    StoreFacts(
        "/data/embeddings", 1000, 1004, 2, 30_000.0, [0, 1], ["0 input", "1"], 768, None, "float16", _CARD, {"encoder": "music2vec"}, "0" * 64,
        {"blues": 100}, {"B.B. King": 10}, 0, 31_000_000, 0, None, [{"kind": "flat", "layer": 1, "covers": 1000, "of": 1000}], [],
    ),
    Genre("blues", 100),
    GenreTable(
        1, "none", ("blues", "jazz"), (100, 80), [[1.0, 0.8], [0.8, 1.0]], [[0.5, 0.3], [0.3, 0.6]], [[0.0, 1.0, 0.2, 2.0]], {"polka": 1}, ()
    ),
    Health("ok", "0.7.0", 1000),
    Problem(Fault("ParameterError", "k is at most 1000; got 5000")),
    FailurePage(1, 0, (FailedFile("/music/broken.ogg", "decode", "no sound in it: 0 frames decoded"),)),
    Upload("5d1c2a90e1b2", "a song.mp3", 181.0, (Guess("blues", 0.93),), "logistic", True, None, ()),
    PlaylistRequest(tracks=[_TRACK.id], name="blue evening"),
    JobRequest(kind="map", options={"method": "umap"}),
    JobState("1", "map", {"method": "umap", "seed": 0, "neighbors": 15}, "running", 3, 13, "layer 3"),
    *MAP_SAMPLES,
)  # fmt: skip


SOUND = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
PLAYLIST: Responses = {
    200: {"description": "A playlist.", "content": {"audio/x-mpegurl": {"schema": {"type": "string"}}}}
}
CHANGED: Responses = {409: {"model": Problem, "description": "The library has changed: ask for its rows again."}}
BUSY: Responses = {409: {"model": Problem, "description": "Another job runs."}}


def describe(schema: dict[str, Any], samples: Iterable[Any] = ()) -> dict[str, Any]:
    """Put the docstrings of the classes, and an example of each, into an OpenAPI document."""
    models = schema["components"]["schemas"]
    for sample in _nested((*_SAMPLES, *samples)):
        if type(sample).__name__ not in models:
            continue
        model, words = models[type(sample).__name__], inspect.getdoc(type(sample)) or ""
        summary, _, rest = words.partition("\nAttributes\n")
        model |= {"description": " ".join(summary.split()), "examples": [plain(sample)]}
        for names, kind, text in _FIELD.findall(rest):
            for name in {*names.split(", ")} & {*model["properties"]}:
                model["properties"][name]["description"] = " ".join(text.split()) or kind
    return schema


def _nested(value: Any) -> Iterator[Any]:
    """Walk through the dataclasses within a value, itself included."""
    if is_dataclass(value) or isinstance(value, BaseModel):
        yield value
        value = vars(value).values()
    for part in value if not isinstance(value, str | dict) and hasattr(value, "__iter__") else ():
        yield from _nested(part)
