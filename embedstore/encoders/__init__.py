"""Encoders: one file per family, found by name.

>>> sorted(BUILTIN)
['huggingface', 'mfcc', 'music2vec', 'musicnn', 'musicnn-mtt']
"""

from __future__ import annotations

import inspect

from embedstore.encoders.base import Encoder, LayerSpec, MeanPool, recipe_of
from embedstore.errors import EncoderError, ParameterError
from embedstore.registry import resolve

__all__ = ["BUILTIN", "Encoder", "MeanPool", "load_encoder", "recipe_of"]

BUILTIN = {
    "music2vec": "embedstore.encoders.music2vec:Music2vec",
    "huggingface": "embedstore.encoders.hidden_states:any_checkpoint",
    "musicnn": "embedstore.encoders.musicnn:MusicnnMSD",
    "musicnn-mtt": "embedstore.encoders.musicnn:MusicnnMTT",
    "mfcc": "embedstore.encoders.mfcc:Mfcc",
}


def load_encoder(
    name: str = "music2vec",
    *,
    model: str | None = None,
    layers: LayerSpec = None,
    window: float | str | None = None,
    device: str = "auto",
    seed: int = 0,
    hop: float | None = None,
    normalise: str | None = None,
    precision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load an encoder with its weights.

    Parameters
    ----------
    name : str
        A registered name, ``"package.module:Class"``, or ``"random:NAME"``: the same network with random weights.
    model : str, optional
        Checkpoint: a folder or a hub id, for the encoders that take one.
    layers : str, int or sequence, optional
        ``"all"``, ``"0-6"``, ``"3,5"`` or names; the network stops after the last one.
    window : float or str, optional
        Seconds of sound in a window, or ``"track"``; None for the encoder's own.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed : int
        Of the random weights; of no effect otherwise.
    hop : float, optional
        Seconds from one window's start to the next; None: one window after the other.
    normalise : str, optional
        Bring each ``"window"``, each ``"file"`` or ``"none"`` to zero mean and unit variance; None: as the checkpoint
        says.
    precision : str, optional
        Arithmetic inside the network: ``"float32"``, ``"bfloat16"``, ``"float16"``.
    trust_remote_code : bool
        Run code that comes with a checkpoint.

    Raises
    ------
    UnknownNameError
        Lists the known encoders and the closest.
    WeightsError
        The weights cannot be had, or are not what was promised.
    ParameterError
        An option is outside what the encoder takes, or the encoder does not take it at all.

    Examples
    --------
    >>> load_encoder("music2vek")
    Traceback (most recent call last):
        ...
    embedstore.errors.UnknownNameError: unknown encoder 'music2vek'; did you mean 'music2vec'? known: music2vec, huggingface, musicnn, musicnn-mtt, mfcc
    """
    plain = name.removeprefix("random:")
    make = resolve("encoders", BUILTIN, plain)
    options = {
        "model": model,
        "layers": layers,
        "window": window,
        "device": device,
        "seed": None if plain == name else seed,
    }
    further = {"hop": hop, "normalise": normalise, "precision": precision, "trust_remote_code": trust_remote_code}
    asked = {option: value for option, value in further.items() if value is not None and value is not False}
    try:
        signature = inspect.signature(make)
        signature.bind(**options)
    except (TypeError, ValueError) as error:
        raise EncoderError(
            f"{plain!r} is not an encoder class: it cannot take {', '.join(options)} ({error})"
        ) from error
    try:
        signature.bind(**options, **asked)
    except TypeError:
        refused = [option for option in asked if option not in signature.parameters]
        raise ParameterError(f"{plain} does not take {', '.join(refused)}; leave it out") from None
    encoder: Encoder = make(**options, **asked)
    if missing := [part for part in ("card", "windowing", "encode") if not hasattr(encoder, part)]:
        raise EncoderError(f"{plain!r} is not an encoder class: what it makes has no {', '.join(missing)}")
    return encoder
