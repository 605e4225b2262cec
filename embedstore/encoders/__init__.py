"""Encoders: one file per family, found by name.

>>> sorted(BUILTIN)
['huggingface', 'mfcc', 'music2vec', 'musicnn', 'musicnn-mtt']
"""

from __future__ import annotations

import inspect

from embedstore.encoders.base import Encoder, LayerSpec, MeanPool, recipe_of
from embedstore.errors import EncoderError
from embedstore.registry import resolve

__all__ = ["BUILTIN", "Encoder", "MeanPool", "load_encoder", "recipe_of"]

BUILTIN = {
    "music2vec": "embedstore.encoders.music2vec:Music2vec",
    "huggingface": "embedstore.encoders.huggingface:HuggingFace",
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

    Raises
    ------
    UnknownNameError
        Lists the known encoders and the closest.
    WeightsError
        The weights cannot be had, or are not what was promised.
    ParameterError
        An option is outside what the encoder takes.

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
    try:
        inspect.signature(make).bind(**options)
    except (TypeError, ValueError) as error:
        raise EncoderError(
            f"{plain!r} is not an encoder class: it cannot take {', '.join(options)} ({error})"
        ) from error
    encoder: Encoder = make(**options)
    if missing := [part for part in ("card", "windowing", "encode") if not hasattr(encoder, part)]:
        raise EncoderError(f"{plain!r} is not an encoder class: what it makes has no {', '.join(missing)}")
    return encoder
