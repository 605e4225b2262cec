"""The values that cross rooms: frozen, self-checking, with a unit and a shape on every field.

``repr`` prints shapes, never data. Scores are always similarities: higher is nearer. Layer 0 is the input of the first
transformer block (projected convolution features), layers 1..L are block outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ParameterError, UnknownNameError

__all__ = [
    "SPLITS",
    "AudioFile",
    "EncoderCard",
    "Layer",
    "LayerEmbeddings",
    "LayerMatrix",
    "Mix",
    "Neighbors",
    "Track",
    "TrackLabels",
    "Waveform",
    "WindowMatrix",
    "Windowing",
    "key_from_id",
    "track_id",
]

SPLITS = ("train", "valid", "test")
MOST_WINDOW_BYTES = 2**29  # of the kept windows of one track: half of what a shard may have

Floats = NDArray[np.float32]
Keys = NDArray[np.int64]


def track_id(key: int) -> str:
    """Write a 63-bit track key as the 16 hexadecimal digits that people see.

    >>> track_id(255)
    '00000000000000ff'
    """
    return f"{key:016x}"


def key_from_id(text: str) -> int | None:
    """Read a track id back into its key; None if `text` is not one.

    >>> key_from_id("00000000000000ff"), key_from_id("a song.mp3")
    (255, None)
    """
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        return None
    key = int(text, 16)
    return key if key < 2**63 else None


@dataclass(frozen=True)
class AudioFile:
    """A file that was found under a root folder.

    Attributes
    ----------
    root : str
        Absolute folder that was searched.
    path : str
        Path below `root`, with forward slashes.
    size : int
        Bytes.
    mtime_ns : int
        Modification time in nanoseconds since the epoch.
    """

    root: str
    path: str
    size: int
    mtime_ns: int

    @property
    def full_path(self) -> str:
        """Absolute path."""
        return f"{self.root.rstrip('/')}/{self.path}"


@dataclass(frozen=True, repr=False)
class Waveform:
    """Mono sound.

    Attributes
    ----------
    samples : float32 array, shape (n_samples,)
        Amplitude, nominally within -1..1, finite.
    sample_rate : int
        Hz.
    """

    samples: Floats
    sample_rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            raise ParameterError(
                f"a waveform is mono float32 (n_samples,); got {self.samples.dtype} {self.samples.shape}"
            )
        if self.sample_rate < 1:
            raise ParameterError(f"the sample rate is in Hz and at least 1; got {self.sample_rate}")

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate

    def __repr__(self) -> str:
        return f"Waveform({self.seconds:.2f} s at {self.sample_rate} Hz)"


@dataclass(frozen=True)
class Windowing:
    """How a waveform is cut before it meets the encoder. All lengths are samples at the encoder's rate.

    Attributes
    ----------
    length : int or None
        Samples in a window; None makes the whole track one window.
    hop : int
        Samples from one window's start to the next (ignored when `length` is None).
    pad : int
        Samples of reflected sound added at both ends of the track before cutting (a centred STFT needs half a frame).
    min_tail : int
        With ``tail="merge"``: a last piece shorter than this joins the window before it.
    tail : {"merge", "drop"}
        What happens to the sound after the last full window: kept as a window of its own (or joined, see `min_tail`),
        or left out when there is at least one full window.
    short : {"keep", "repeat"}
        A track shorter than one window: encoded at its own length, or repeated until it fills one window.
    minimum : int
        Fewest samples of a track that can be encoded.
    normalise : {"none", "file"}
        ``"file"``: the whole track is brought to zero mean and unit variance before it is cut. What an encoder does to
        each window is its own business. The recipe has it in words, as ``EncoderCard.preprocessing``.
    """

    length: int | None
    hop: int
    pad: int = 0
    min_tail: int = 0
    tail: Literal["merge", "drop"] = "merge"
    short: Literal["keep", "repeat"] = "keep"
    minimum: int = 1
    normalise: Literal["none", "file"] = "none"

    def __post_init__(self) -> None:
        if self.length is not None and not 0 < self.hop <= self.length:
            raise ParameterError(f"window hop must be in 1..length; got hop {self.hop}, length {self.length} samples")
        if min(self.pad, self.min_tail) < 0 or self.minimum < 1:
            raise ParameterError(f"pad and min_tail must be >= 0 and minimum >= 1; got {self}")


@dataclass(frozen=True)
class Layer:
    """One layer of an encoder.

    Attributes
    ----------
    number : int
        In the model.
    name : str
    dim : int
        Width of its vectors.
    """

    number: int
    name: str
    dim: int


@dataclass(frozen=True)
class EncoderCard:
    """What a store says about the model behind its vectors.

    Attributes
    ----------
    name : str
        Registered name, e.g. ``"music2vec"``.
    model : str
        Checkpoint: hub id, folder name or wheel.
    revision : str
        Revision of the checkpoint, ``""`` where there is none.
    weights_sha256 : str
        Sum of the weights file (for random weights: of the tensors).
    sample_rate : int
        Hz.
    layers : tuple of Layer
        The layers this encoder returns, by rising number.
    frame_rate : float
        Frames per second inside the network.
    preprocessing : str
        What happens to a window before the network, e.g. ``"zero mean, unit variance per window"``.
    precision : str
        Arithmetic inside the network, e.g. ``"float32"``.
    licence : str
        SPDX identifier or a short text; says so when commercial use is excluded.
    paper : str
        Authors, year, title.
    default_layer : int
        Number of the layer that `search` uses when none is asked.
    path : str
        Which code ran the network, e.g. ``"transformers"``. Not part of the recipe.
    options : mapping
        Arguments of `load_encoder` that make this encoder again. Not part of the recipe.
    """

    name: str
    model: str
    revision: str
    weights_sha256: str
    sample_rate: int
    layers: tuple[Layer, ...]
    frame_rate: float
    preprocessing: str
    precision: str
    licence: str
    paper: str
    default_layer: int
    path: str = "torch"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [layer.number for layer in self.layers]
        if not numbers or numbers != sorted(set(numbers)):
            raise ParameterError(f"an encoder card lists its layers by rising number; got {numbers}")
        if self.default_layer not in numbers:
            raise ParameterError(f"default layer {self.default_layer} is not among the layers {numbers}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderCard:
        """Read what `to_dict` wrote."""
        return cls(**{**data, "layers": tuple(Layer(**layer) for layer in data["layers"])})

    def layer(self, which: int | str) -> Layer:
        """Find a layer by number or name.

        Raises
        ------
        UnknownNameError
            Lists the layers there are.
        """
        for layer in self.layers:
            if which in (layer.number, layer.name, str(layer.number)):
                return layer
        listed = ", ".join(
            f"{layer.number}" if layer.name == f"layer {layer.number}" else f"{layer.number} ({layer.name})"
            for layer in self.layers
        )
        raise UnknownNameError(f"there is no layer {which!r}; this model's stored layers are {listed}")


@dataclass(frozen=True, repr=False)
class LayerEmbeddings:
    """What an encoder heard in one window, or (after pooling) in one track.

    Attributes
    ----------
    vectors : tuple of float32 arrays, each shape (dim of that layer,)
        One mean vector per layer of the encoder's card, in the card's order.
    n_frames : int
        Frames behind the mean: the weight of this window in the track's mean.
    windows : tuple of LayerEmbeddings
        Of a track whose windows are kept: what was heard in each, in order, as float16 arrays; together they have
        `n_frames`. Else empty.
    """

    vectors: tuple[Floats, ...]
    n_frames: int
    windows: tuple[LayerEmbeddings, ...] = ()

    def __post_init__(self) -> None:
        if self.n_frames < 1 or not self.vectors:
            raise ParameterError(f"embeddings need at least one layer and one frame; got {self!r}")
        if any(v.ndim != 1 for v in self.vectors):
            raise ParameterError(f"each layer's vector has shape (dim,); got {[v.shape for v in self.vectors]}")
        shapes = [vector.shape for vector in self.vectors]
        if self.windows and (
            sum(window.n_frames for window in self.windows) != self.n_frames
            or any([vector.shape for vector in window.vectors] != shapes for window in self.windows)
        ):
            raise ParameterError(
                f"windows have the layers and frames of their track; got {self!r} of {self.windows!r:.200}"
            )

    def __repr__(self) -> str:
        return f"LayerEmbeddings({len(self.vectors)} layers, dims {[len(v) for v in self.vectors]}, {self.n_frames} frames)"


def too_many_windows(count: int) -> str:
    """Say that the windows of one track are more than can be kept."""
    return (
        f"{count} windows of it take more than the {MOST_WINDOW_BYTES >> 20} MiB that can be kept of one track; split the "
        "file, keep fewer layers, choose a longer window or hop, or use a store without windows"
    )


@dataclass(frozen=True, repr=False)
class LayerMatrix:
    """One layer of many tracks.

    Attributes
    ----------
    layer : int
        Number of the layer; -1 for the mean over layers.
    name : str
        Name of the layer.
    keys : int64 array, shape (n,)
        Track keys, one per row.
    values : float32 array, shape (n, dim)
        The stored vectors.
    """

    layer: int
    name: str
    keys: Keys
    values: Floats

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.keys) != len(self.values):
            raise ParameterError(f"one key per row: got keys {self.keys.shape}, values {self.values.shape}")

    @property
    def track_ids(self) -> list[str]:
        """The rows' track ids (16 hexadecimal digits each)."""
        return [track_id(int(key)) for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"LayerMatrix({self.name}, values float32 {self.values.shape})"


@dataclass(frozen=True, repr=False, eq=False)
class Mix:
    """A sum over all layers of an encoder: ``sum(scales[l] * layer_l) + shift``, value by value.

    Attributes
    ----------
    name : str
        Where it comes from, e.g. the saved probe that learned it.
    scales : float32 array, shape (n_layers, dim)
    shift : float32 array, shape (dim,)

    Raises
    ------
    ParameterError
        The shapes do not fit, or a value is not finite.
    """

    name: str
    scales: Floats
    shift: Floats

    def __post_init__(self) -> None:
        fits = self.scales.ndim == 2 and self.shift.shape == self.scales.shape[1:]
        if not fits or not (np.isfinite(self.scales).all() and np.isfinite(self.shift).all()):
            raise ParameterError(
                f"a mix has finite scales (n_layers, dim) and shift (dim,); got {self.scales.shape}, {self.shift.shape}"
            )

    def __call__(self, layers: Iterable[NDArray[Any]]) -> Floats:
        """Sum an encoder's layers, each of shape (..., dim), in its card's order."""
        return sum((scale * layer for scale, layer in zip(self.scales, layers, strict=True)), self.shift)

    @property
    def digest(self) -> str:
        """SHA-256 of its values."""
        return hashlib.sha256(self.scales.astype("<f4").tobytes() + self.shift.astype("<f4").tobytes()).hexdigest()

    def __repr__(self) -> str:
        return f"Mix({self.name!r}, {self.scales.shape})"


@dataclass(frozen=True, repr=False)
class WindowMatrix:
    """One layer of the windows of some tracks, track after track, in the order of their sound.

    Attributes
    ----------
    layer : int
        Number of the layer; -1 for the mean over layers.
    name : str
        Name of the layer.
    keys : int64 array, shape (n,)
        Key of the track that each window is of.
    starts, ends : float64 arrays, shape (n,)
        Where in the track it begins and ends, in seconds.
    frames : int64 array, shape (n,)
        Its weight in the track's mean.
    values : float32 array, shape (n, dim)
        The stored vectors.
    """

    layer: int
    name: str
    keys: Keys
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    frames: NDArray[np.int64]
    values: Floats

    def __post_init__(self) -> None:
        shapes = [column.shape for column in (self.keys, self.starts, self.ends, self.frames)]
        if self.values.ndim != 2 or set(shapes) != {self.values.shape[:1]}:
            raise ParameterError(
                f"one key, start, end and number of frames per row: got {shapes} for {self.values.shape}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"WindowMatrix({self.name}, values float32 {self.values.shape})"


@dataclass(frozen=True, repr=False)
class Neighbors:
    """The nearest rows of each query, nearest first.

    Attributes
    ----------
    keys : int64 array, shape (n_queries, k)
        Track keys; -1 where there are fewer than k rows.
    scores : float32 array, shape (n_queries, k)
        Cosine similarity, higher is nearer; -inf where the key is -1.
    """

    keys: Keys
    scores: Floats

    def __post_init__(self) -> None:
        if self.keys.shape != self.scores.shape or self.keys.ndim != 2:
            raise ParameterError(f"keys and scores are (n_queries, k); got {self.keys.shape} and {self.scores.shape}")

    def __repr__(self) -> str:
        return f"Neighbors({self.keys.shape[0]} queries, k = {self.keys.shape[1]})"


@dataclass(frozen=True)
class TrackLabels:
    """What people say about a track. Unknown is an empty tuple or an empty string.

    Attributes
    ----------
    genres, artists : tuple of str
    album, title : str
    source : str
        Who said it: ``"folder"``, the absolute path of a CSV file, ``"fma:/data/tracks.csv"``: see `read_labels`.
    split : str
        On which side of the data set's official split it is: ``"train"``, ``"valid"`` or ``"test"``.
    year : int
        Of the first release, 1..9999; 0 if unknown.

    Raises
    ------
    ParameterError
        `split` is another word, or `year` outside of 0..9999.
    """

    genres: tuple[str, ...] = ()
    artists: tuple[str, ...] = ()
    album: str = ""
    title: str = ""
    source: str = field(default="", repr=False)
    split: str = ""
    year: int = 0

    def __post_init__(self) -> None:
        if self.split and self.split not in SPLITS:
            raise ParameterError(f"a split is {', '.join(SPLITS)} or empty; got {self.split!r:.80}")
        if type(self.year) is not int or not 0 <= self.year <= 9999:
            raise ParameterError(f"a year is an int from 1 to 9999, or 0 if unknown; got {self.year!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; without split and year, what was written before there were any."""
        return {name: value for name, value in vars(self).items() if name not in ("split", "year") or value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrackLabels:
        """Read what `to_dict` wrote."""
        texts = (data["album"], data["title"], data.get("source", ""), data.get("split", ""))
        return cls(tuple(data["genres"]), tuple(data["artists"]), *texts, data.get("year", 0))


@dataclass(frozen=True)
class Track:
    """One stored recording.

    Attributes
    ----------
    key : int
        63-bit hash of the decoded sound.
    files : tuple of AudioFile
        Every file that holds this sound; the first is the one that was encoded.
    seconds : float
        Duration of what was encoded.
    sample_rate, channels : int
        Of the file, before downmix and resampling.
    labels : TrackLabels
    warnings : tuple of str
        What was wrong but not fatal, e.g. a decoder that stopped early.
    """

    key: int
    files: tuple[AudioFile, ...]
    seconds: float
    sample_rate: int
    channels: int
    labels: TrackLabels = field(default_factory=TrackLabels)
    warnings: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits."""
        return track_id(self.key)

    @property
    def path(self) -> str:
        """Absolute path of the first file."""
        return self.files[0].full_path
