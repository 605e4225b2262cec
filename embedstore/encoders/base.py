"""What every encoder shares: the contract, the reading of its options, pooling over windows, and the recipe.

An encoder turns windows of sound into one mean vector per layer. It is built as
``cls(model=..., layers=..., window=..., device=..., seed=...)``; `seed` is None for real weights. What else
`load_encoder` knows is given only to an encoder that takes it, and only when it is asked for.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import EncoderError, MissingDependencyError, ParameterError, UnknownNameError, WeightsError
from embedstore.types import (
    MOST_WINDOW_BYTES,
    EncoderCard,
    Floats,
    Layer,
    LayerEmbeddings,
    Windowing,
    too_many_windows,
)

__all__ = [
    "NORMALISED",
    "Encoder",
    "LayerSpec",
    "MeanPool",
    "check_preparation",
    "check_windows",
    "default_layer",
    "import_torchaudio",
    "make_windowing",
    "one_thread",
    "parse_hop",
    "parse_layers",
    "parse_window",
    "pick_device",
    "recipe_of",
]

RATES = range(1000, 768_001)  # Hz; what can be decoded to
MOST_SECONDS = 86_400  # of a window
LayerSpec = str | int | Sequence[int | str] | None

NORMALISED = {  # what is asked -> what EncoderCard.preprocessing says
    "window": "zero mean, unit variance per window",
    "file": "zero mean, unit variance per file",
    "none": "none",
}


class Encoder(Protocol):
    """A network that hears windows of sound.

    Attributes
    ----------
    card : EncoderCard
        What it is; lists only the layers that `encode` returns.
    windowing : Windowing
        How a track is cut for it.
    device : str, optional
        Where it runs. On a CPU each core's thread calls `encode`; anywhere else one thread does.
    batch : int, optional
        Windows that are worth handing over at once; 4 where it is not said.
    """

    card: EncoderCard
    windowing: Windowing

    def encode(self, windows: Sequence[Floats]) -> list[LayerEmbeddings]:
        """Encode windows; the same window gives the same vectors whatever else is in the call.

        Parameters
        ----------
        windows : sequence of float32 arrays, each shape (n_samples,)
            Mono sound at ``card.sample_rate``, at least ``windowing.minimum`` samples each.

        Returns
        -------
        list of LayerEmbeddings
            One per window, in order. May be called from several threads at once.
        """
        ...


class MeanPool:
    """Frame-weighted mean of windows, in float64 and constant memory: the vector of a track.

    Parameters
    ----------
    keep : bool
        Keep the windows, too, as float16, which is what a store keeps of them.

    Examples
    --------
    >>> pool = MeanPool()
    >>> pool.add(LayerEmbeddings((np.zeros(2, np.float32),), n_frames=3))
    >>> pool.add(LayerEmbeddings((np.ones(2, np.float32),), n_frames=1))
    >>> pool.result().vectors[0].tolist(), pool.result().n_frames
    ([0.25, 0.25], 4)
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._sums: list[NDArray[np.float64]] = []
        self._frames = 0
        self._keep, self._kept, self._bytes = keep, list[LayerEmbeddings](), 0

    def add(self, window: LayerEmbeddings) -> None:
        """Take in one window.

        Raises
        ------
        EncoderError
            A vector is not finite, the layers are not those of the windows before, or the windows are more than can be
            kept of one track.
        """
        for place, vector in enumerate(window.vectors):
            if not np.isfinite(vector).all():
                raise EncoderError(f"the encoder gave NaN or infinity in vector {place + 1} of {len(window.vectors)}")
        scaled = [vector.astype(np.float64) * window.n_frames for vector in window.vectors]
        if self._sums and [len(s) for s in self._sums] != [len(s) for s in scaled]:
            raise EncoderError(
                f"windows of one track have vectors of widths {[len(s) for s in self._sums]} and {[len(s) for s in scaled]}"
            )
        self._sums = [a + b for a, b in zip(self._sums, scaled, strict=True)] if self._sums else scaled
        self._frames += window.n_frames
        if self._keep:
            with np.errstate(over="ignore"):  # the store refuses infinity
                halfs = tuple(vector.astype(np.float16) for vector in window.vectors)
            self._kept.append(LayerEmbeddings(halfs, window.n_frames))  # type: ignore[arg-type]  # float16, see there
            self._bytes += sum(half.nbytes for half in halfs)
            if self._bytes > MOST_WINDOW_BYTES:
                raise EncoderError(too_many_windows(len(self._kept)))

    def result(self) -> LayerEmbeddings:
        """Give the mean over all frames so far.

        Raises
        ------
        EncoderError
            No window was added.
        """
        if not self._frames:
            raise EncoderError("there was no window to pool")
        means = tuple((s / self._frames).astype(np.float32) for s in self._sums)
        return LayerEmbeddings(means, self._frames, tuple(self._kept))


def check_windows(windows: Sequence[Floats], minimum: int) -> None:
    """Refuse what is not a window.

    Raises
    ------
    ParameterError
        Not mono float32, or shorter than `minimum` samples.
    """
    for place, window in enumerate(windows):
        if window.ndim != 1 or window.dtype != np.float32 or len(window) < minimum:
            raise ParameterError(
                f"a window is float32 (n_samples,) with at least {minimum} samples; number {place} is {window.dtype} {window.shape}"
            )


def parse_layers(spec: LayerSpec, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Pick layers by number, range or name.

    Parameters
    ----------
    spec : str, int, sequence of these, or None
        ``"all"`` (or None), ``"0-6"``, ``"3,5"``, names, or a mixture by commas.
    layers : sequence of Layer
        Those of the network.

    Raises
    ------
    ParameterError
        An empty choice or a range that runs backwards.
    UnknownNameError
        A layer that is not there; lists those that are.

    Examples
    --------
    >>> layers = [Layer(n, f"layer {n}", 768) for n in range(13)]
    >>> [layer.number for layer in parse_layers("0-2, 7", layers)]
    [0, 1, 2, 7]
    """
    if spec is None or spec == "all":
        return tuple(layers)
    parts = spec.split(",") if isinstance(spec, str) else [spec] if isinstance(spec, int) else spec
    picked: set[Layer] = set()
    for part in parts:
        ends = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", str(part))
        first, last = (_one(end, layers).number for end in (ends.groups() if ends else (part, part)))
        if first > last:
            raise ParameterError(f"layer range {part!r} runs backwards; did you mean {last}-{first}?")
        picked.update(layer for layer in layers if first <= layer.number <= last)
    if not picked:
        raise ParameterError(f"no layer is chosen by {spec!r}; {_listed(layers)}")
    return tuple(sorted(picked, key=lambda layer: layer.number))


def _one(part: int | str, layers: Sequence[Layer]) -> Layer:
    name = str(part).strip()
    if not name:
        raise ParameterError(f"the list of layers has an empty place; {_listed(layers)}")
    for layer in layers:
        if name in (layer.name, str(layer.number)):
            return layer
    raise UnknownNameError(f"there is no layer {name!r}; {_listed(layers)}")


def _listed(layers: Sequence[Layer]) -> str:
    plain = all(layer.name == f"layer {layer.number}" for layer in layers)
    names = ", ".join(f"{layer.number}" if plain else f"{layer.number} ({layer.name})" for layer in layers)
    return f"the layers are {names}; ranges such as 0-{layers[-1].number} and 'all' work too"


def check_preparation(sample_rate: Any, standardise: Any, where: str) -> int:
    """Check what a checkpoint says of its sound, the rate in Hz and whether windows are standardised; give the rate.

    Raises
    ------
    WeightsError
        No rate of sound, or neither yes nor no.
    """
    if type(sample_rate) is not int or sample_rate not in RATES or not isinstance(standardise, bool):
        raise WeightsError(
            f"the feature extractor of {where} is damaged: sampling_rate {sample_rate!r} (in Hz, {RATES[0]:,}.."
            f"{RATES[-1]:,}), do_normalize {standardise!r}"
        )
    return sample_rate


def default_layer(layers: Sequence[Layer], preferred: int) -> int:
    """Give the number in `layers` that is nearest to the preferred one (the lower of two).

    >>> default_layer([Layer(0, "a", 2), Layer(5, "b", 2)], preferred=6)
    5
    """
    return min((layer.number for layer in layers), key=lambda number: (abs(number - preferred), number))


def parse_window(window: float | str | None, *, sample_rate: int, default: int | None, minimum: int = 1) -> int | None:
    """Read a window option into samples; None stands for the whole track.

    Parameters
    ----------
    window : float, str or None
        Seconds, ``"track"``, or None for `default`.
    sample_rate : int
        Hz.
    default : int or None
        Samples when nothing is asked.
    minimum : int
        Fewest samples that the network takes.

    Raises
    ------
    ParameterError
        Not a length, or shorter than `minimum`.

    Examples
    --------
    >>> parse_window("2.5", sample_rate=16000, default=80000)
    40000
    >>> parse_window("track", sample_rate=16000, default=80000) is None
    True
    """
    if window is None:
        return default
    if window == "track":
        return None
    try:
        seconds = float(window)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise ParameterError(
            f"a window is a number of seconds above 0 or 'track', and no more than a day; got {window!r}"
        )
    samples = round(seconds * sample_rate)
    if samples < minimum:
        raise ParameterError(
            f"a window of {seconds:g} s is {samples} samples at {sample_rate} Hz; this encoder needs at least {minimum}"
        )
    return samples


def parse_hop(hop: float | str | None, *, sample_rate: int, length: int | None) -> int:
    """Read a hop option into samples.

    Parameters
    ----------
    hop : float, str or None
        Seconds from one window's start to the next; None for windows that follow each other.
    sample_rate : int
        Hz.
    length : int or None
        Samples in a window; None for the whole track, which takes no hop.

    Raises
    ------
    ParameterError
        Not a duration, longer than a window, or shorter than a sample.

    Examples
    --------
    >>> parse_hop(2.5, sample_rate=16000, length=80000), parse_hop(None, sample_rate=16000, length=80000)
    (40000, 80000)
    """
    if hop is None:
        return length or 1
    if length is None:
        raise ParameterError(f"the window is the whole track, and leaves nothing to hop to; leave out hop {hop!r}")
    try:
        seconds = float(hop)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise ParameterError(f"a hop is a number of seconds above 0 and no more than a day; got {hop!r}")
    samples = round(seconds * sample_rate)
    if not 1 <= samples <= length:
        raise ParameterError(
            f"a hop is at least one sample and at most a window, else sound is left out; got {seconds:g} s, "
            f"{samples} samples at {sample_rate} Hz, with windows of {length / sample_rate:g} s"
        )
    return samples


def make_windowing(
    window: float | str | None,
    hop: float | str | None = None,
    *,
    sample_rate: int,
    default: int | None,
    minimum: int = 1,
    tail: int | None = None,
    normalise: str = "none",
) -> Windowing:
    """Read the options that say how a track is cut.

    Parameters
    ----------
    window, hop : float, str or None
        As asked; see `parse_window` and `parse_hop`.
    sample_rate : int
        Hz.
    default : int or None
        Samples in a window when nothing is asked.
    minimum : int
        Fewest samples that the network takes.
    tail : int, optional
        Samples of the shortest last piece that is a window of its own, if that is less than half a window.
    normalise : str
        One of `NORMALISED`. Only ``"file"`` is the windowing's business; ``"window"`` is the encoder's.

    Raises
    ------
    ParameterError
        An option makes no sense, or not with the others.

    Examples
    --------
    >>> make_windowing("5", 2.5, sample_rate=16000, default=None, tail=16000, normalise="file")
    Windowing(length=80000, hop=40000, pad=0, min_tail=16000, tail='merge', short='keep', minimum=1, normalise='file')
    """
    if normalise not in NORMALISED:
        raise ParameterError(f"sound is normalised per {', '.join(NORMALISED)}; got {normalise!r}")
    length = parse_window(window, sample_rate=sample_rate, default=default, minimum=minimum)
    shortest = [samples for samples in (tail, length and length // 2) if samples is not None]
    return Windowing(
        length,
        parse_hop(hop, sample_rate=sample_rate, length=length),
        min_tail=max(minimum, min(shortest, default=0)),
        minimum=minimum,
        normalise="file" if normalise == "file" else "none",
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: some of its sums come out with other last bits on two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device(name: str = "auto") -> str:
    """Choose where the network runs.

    Parameters
    ----------
    name : str
        ``"auto"`` (cuda if there is one, else mps, else cpu), or what torch calls it: ``"cpu"``, ``"cuda:1"``, ``"mps"``.

    Raises
    ------
    ParameterError
        Unknown, or not on this machine.
    """
    import torch

    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return "cuda" if "cuda:0" in there else there[-1]
    if name not in there and not (name == "cuda" and "cuda:0" in there):
        raise ParameterError(f"there is no device {name!r} here; devices are {', '.join(there)}, or 'auto'")
    return name


def import_torchaudio() -> ModuleType:
    """Import torchaudio, also where it was built for another CUDA than torch.

    It compares the two and refuses, though nothing but its Python code is used here. The transformers library imports
    it on its own account, and fails with it.

    Raises
    ------
    MissingDependencyError
        It is missing, or cannot be imported even so.
    """
    import torch

    cuda, torch.version.cuda = torch.version.cuda, None
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"torchaudio does not work beside torch {torch.__version__} ({error}); "
            "install both from one place: pip install --force-reinstall torch torchaudio"
        ) from error
    finally:
        torch.version.cuda = cuda


def recipe_of(encoder: Encoder, *, keep_windows: bool = False) -> dict[str, Any]:
    """Write down everything that changes a vector, and nothing else: plain JSON, one fact per field.

    Two stores may be joined, and a store may grow, only under equal recipes. The program's version, the device, the
    folder of a checkpoint and the code path (`EncoderCard.path`) are not in it. That windows are kept is in it, if they
    are: a store keeps those of all its tracks or of none.
    """
    from embedstore.audio import DECODE_RECIPE

    card, windowing = encoder.card, encoder.windowing
    return {
        "encoder": card.name,
        "revision": card.revision,
        "weights_sha256": card.weights_sha256,
        "sample_rate": card.sample_rate,
        "layers": [{"number": layer.number, "name": layer.name, "dim": layer.dim} for layer in card.layers],
        "window_length": windowing.length,
        "window_hop": windowing.hop if windowing.length else None,
        "window_pad": windowing.pad,
        "window_min_tail": windowing.min_tail,
        "window_tail": windowing.tail,
        "window_short": windowing.short,
        "decoding": DECODE_RECIPE,
        "preprocessing": card.preprocessing,
        "precision": card.precision,
        "pooling": "frame-weighted mean",
        "dtype": "float16",
        **({"windows": "kept"} if keep_windows else {}),
    }
