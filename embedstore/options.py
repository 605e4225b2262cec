"""Which encoder, as people ask for it and as a store remembers it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from embedstore.audio import SoundReport
from embedstore.devices import Crew, name_devices, open_crew
from embedstore.encoders import Encoder, load_encoder, recipe_of
from embedstore.errors import AudioError, EncoderError, ParameterError, StoreFormatError
from embedstore.lanes import encode_file
from embedstore.store import EmbeddingStore
from embedstore.types import LayerEmbeddings

__all__ = ["EncoderOptions", "check_options", "encoder_of", "hear_file"]

DEFAULT_ENCODER = "music2vec"


@dataclass(frozen=True)
class EncoderOptions:
    """Which encoder, as `load_encoder` takes it. None means: as the store has it, or the encoder's default.

    Attributes
    ----------
    name : str or None
        None: the store's own encoder, ``"music2vec"`` for a new store.
    model : str or None
        Checkpoint folder, hub id or wheel.
    layers : str or None
        ``"all"``, ``"0-6"``, ``"3,5"``.
    window : float or str or None
        Seconds, or ``"track"``.
    seed : int
        Of ``random:`` encoders.
    device : str
    hop : float or None
        Seconds.
    normalise : str or None
        ``"window"``, ``"file"`` or ``"none"``.
    precision : str or None
        ``"float32"``, ``"bfloat16"``, ``"float16"``.
    trust_remote_code : bool
        Never remembered: it is asked for each time.
    """

    name: str | None = None
    model: str | None = None
    layers: str | None = None
    window: float | str | None = None
    seed: int | None = None
    device: str = "auto"
    hop: float | None = None
    normalise: str | None = None
    precision: str | None = None
    trust_remote_code: bool = False

    def load(self, remembered: Mapping[str, Any] | None = None) -> Encoder:
        """Load it; what is None here is taken from `remembered` if that is the same encoder."""
        asked = {name: value for name, value in vars(self).items() if value is not None}
        remembered = remembered and check_options(remembered)
        if remembered and asked.get("name", remembered["name"]) == remembered["name"]:
            asked = {**remembered, **asked}
        asked.setdefault("name", DEFAULT_ENCODER)
        if self.seed is not None and not asked["name"].startswith("random:"):
            raise ParameterError(
                f"a seed draws random weights; {asked['name']} has none, did you mean random:{asked['name']}?"
            )
        if (model := asked.get("model")) and Path(model).exists():
            asked["model"] = os.path.abspath(model)
        encoder = load_encoder(**asked)
        options = {name: value for name, value in asked.items() if name not in ("device", "trust_remote_code")}
        encoder.card = replace(encoder.card, options=options)
        return encoder

    def crew(
        self, remembered: Mapping[str, Any] | None = None, *, keep_windows: bool = False
    ) -> AbstractContextManager[Crew]:
        """Load it on every device that is named; see `open_crew`."""
        loaders = [(name, partial(replace(self, device=name).load, remembered)) for name in name_devices(self.device)]
        return open_crew(loaders, keep_windows=keep_windows)


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what a store or a plan cannot remember of an encoder: somebody else may have written it.

    Raises
    ------
    StoreFormatError
    """
    plain = {"str": str, "int": int, "float": float}
    kinds = {
        field.name: [plain[word] for word in str(field.type).split(" | ") if word in plain]
        for field in fields(EncoderOptions)
    }
    allowed = {
        **kinds,
        "layers": [str, int, list],
        "window": [str, int, float],
        "hop": [int, float],
        "device": [],
        "trust_remote_code": [],
    }
    wrong = [name for name, value in options.items() if value is not None and type(value) not in allowed.get(name, ())]
    if wrong or options.get("name") is None:
        raise StoreFormatError(f"'encoder' should hold the options of an encoder; found {options!r:.200}")
    return dict(options)


def encoder_of(
    store: EmbeddingStore, *, model: str | None = None, device: str = "auto", trust_remote_code: bool = False
) -> Encoder:
    """Load the encoder that filled a store, to hear new sound the same way.

    Parameters
    ----------
    store : EmbeddingStore
    model : str, optional
        Where the weights are now, if they were moved.
    device : str
    trust_remote_code : bool
        Run code that comes with the checkpoint; a store does not remember that it was trusted.

    Raises
    ------
    EncoderMismatchError
        What could be loaded is not what filled the store.
    """
    options = EncoderOptions(model=model, device=device, trust_remote_code=trust_remote_code)
    encoder = options.load(store.card.options)
    store.check_recipe(recipe_of(encoder, keep_windows=store.keeps_windows))
    return encoder


def hear_file(encoder: Encoder, path: str | Path, **options: Any) -> tuple[SoundReport, LayerEmbeddings]:
    """Encode an audio file, with options as `encode_file` takes them; errors name it.

    Raises
    ------
    AudioError, EncoderError
    """
    try:
        return encode_file(os.path.abspath(path), encoder, **options)
    except AudioError as error:
        raise AudioError(f"{path}: {error}", stage=error.stage) from error
    except EncoderError as error:
        raise EncoderError(f"{path}: {error}") from error
