"""Any audio model of the transformers library: mean hidden states, with the model's own feature extractor.

Layer 0 is what enters the first block; layer n is what block n gives. What a model does after its last block (the norm
at the end of Whisper's encoder, which the library puts into the last of its ``hidden_states``; adapters; upsampling) is
never in them. Nothing after the last wanted block is run.

The feature extractor hears one window at a time. Those that pad to a fixed length (AST 10.24 s, Whisper 30 s, CLAP 10 s)
are given at most that; the mean is over all tokens, padding included, as these models were trained, and a short window
weighs as much in its track's mean as it has sound.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import numpy as np

from embedstore.encoders import checkpoint, hub
from embedstore.encoders.architectures import PAPERS, find_architecture
from embedstore.encoders.base import (
    NORMALISED,
    Encoder,
    LayerSpec,
    check_preparation,
    check_windows,
    default_layer,
    make_windowing,
    one_thread,
    parse_layers,
    pick_device,
)
from embedstore.encoders.huggingface import PAPERS as WAV2VEC2
from embedstore.encoders.huggingface import HuggingFace
from embedstore.encoders.runner import Runner, check_precision, inference
from embedstore.errors import EncoderError, ParameterError, WeightsError
from embedstore.types import EncoderCard, Floats, Layer, LayerEmbeddings

__all__ = ["HiddenStates", "any_checkpoint"]

_BLOCKS = ("layers", "layer", "blocks", "block")
_SHORTEST = 10  # of a second: enough for each front end


def any_checkpoint(
    *,
    model: str | None = None,
    layers: LayerSpec = None,
    window: float | str | None = None,
    hop: float | str | None = None,
    normalise: str | None = None,
    device: str = "auto",
    seed: int | None = None,
    precision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a checkpoint with the class for its type: `HuggingFace` for the wav2vec2 family, else `HiddenStates`."""
    options: dict[str, Any] = {"layers": layers, "window": window, "device": device, "seed": seed}
    asked = {"hop": hop, "normalise": normalise, "precision": precision}
    options |= {"model": model} | {name: value for name, value in asked.items() if value is not None}
    if model is None:
        return HuggingFace(**options)  # says what is missing
    folder, _ = hub.find_checkpoint(model, weights=False)
    fields = hub.read_json(folder / "config.json")
    own_code = trust_remote_code and "auto_map" in fields
    if str(fields.get("model_type")) in WAV2VEC2 and not own_code:
        return HuggingFace(**options)
    return HiddenStates(**options, trust_remote_code=trust_remote_code)


class HiddenStates:
    """An encoder of any architecture that the transformers library can run on sound.

    Parameters
    ----------
    model : str
        Folder or hub id of the checkpoint.
    layers : str, int or sequence, optional
        Which layers to return; the blocks after the last one are not run.
    window : float or str, optional
        Seconds in a window (what the model hears at once, else 5), or ``"track"``.
    hop : float, optional
        Seconds from one window's start to the next.
    normalise : {"window", "file", "none"}, optional
        For models that hear the raw wave; None is what the checkpoint says.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed : int, optional
        Draw random weights instead of the checkpoint's.
    precision : {"float32", "bfloat16", "float16"}, optional
        The last two on a GPU.
    trust_remote_code : bool
        Run the Python code that the checkpoint brings along, with all rights of the user.

    Raises
    ------
    WeightsError
        The checkpoint cannot be had, is not what it should be, or needs code that is not trusted.
    ParameterError, UnknownNameError
        An option is outside what the network takes.
    """

    name = "huggingface"

    def __init__(
        self,
        *,
        model: str,
        layers: LayerSpec = None,
        window: float | str | None = None,
        hop: float | str | None = None,
        normalise: str | None = None,
        device: str = "auto",
        seed: int | None = None,
        precision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.device = pick_device(device)
        self._precision = check_precision(precision, self.device)
        folder, title = hub.find_checkpoint(model, weights=seed is None, code=trust_remote_code)
        found = find_architecture(folder, title, trusted=trust_remote_code)
        self._extractor, rate = (
            found.extractor,
            check_preparation(
                getattr(found.extractor, "sampling_rate", None), getattr(found.extractor, "do_normalize", True), title
            ),
        )
        preparation = self._prepare_as(normalise)
        self._full = _full_length(found.extractor)
        self.windowing = make_windowing(
            window,
            hop,
            sample_rate=rate,
            default=self._full or 5 * rate,
            minimum=rate // _SHORTEST,
            tail=rate // _SHORTEST if self._full else rate,
            normalise=normalise or "none",
        )
        if self._full and (self.windowing.length or self._full + 1) > self._full:
            raise ParameterError(
                f"{title} hears {self._full / rate:g} s at once, and would not hear the rest of a window of {window!r}; "
                f"at most: --window {self._full / rate:g}"
            )
        with one_thread():  # a weight norm's last bits must not depend on the machine's cores
            if seed is None:
                files = hub.weight_files(folder)
                network = checkpoint.fill_network(found.kind, found.config, files, found.part)
                total = checkpoint.sum_of_files(files)
            else:
                network = checkpoint.random_network(found.config, seed, found.kind)
                total = checkpoint.sum_of_tensors(network)
        blocks = _blocks(network, title)
        wanted = parse_layers(layers, [Layer(n, f"layer {n}", 0) for n in range(len(blocks) + 1)])
        self._listen(network, blocks, [layer.number for layer in wanted])
        widths, frame_rate = self._try(title, rate)
        wanted = tuple(Layer(layer.number, layer.name, width) for layer, width in zip(wanted, widths, strict=True))
        self._runner = Runner(self._hear, device=self.device, sample_rate=rate)
        self.batch = self._runner.batch
        self.card = EncoderCard(
            name=self.name if seed is None else f"random:{self.name}",
            model=title if seed is None else f"random weights (seed {seed}) in the shape of {title}",
            revision=found.revision,
            weights_sha256=total,
            sample_rate=rate,
            layers=wanted,
            frame_rate=frame_rate,
            preprocessing=preparation,
            precision=self._precision,
            licence=hub.licence_of(folder) if seed is None else "none: random weights",
            paper=PAPERS.get(found.type, "unknown: see the model page"),
            default_layer=default_layer(wanted, len(blocks) // 2),
            path="transformers",
        )

    def encode(self, windows: Sequence[Floats]) -> list[LayerEmbeddings]:
        """Encode windows into one mean vector per layer each; see `Encoder.encode`."""
        check_windows(windows, self.windowing.minimum)
        return self._runner(windows)

    def _hear(self, windows: list[Floats]) -> list[LayerEmbeddings]:
        alike = groupby(windows, key=lambda window: self._full or len(window))
        return [embedding for _, group in alike for embedding in self._run(list(group))]

    def _run(self, windows: list[Floats]) -> list[LayerEmbeddings]:
        import torch

        inputs = [self._prepare(window[: self._full]) for window in windows]
        batch = {name: torch.cat([one[name] for one in inputs]).to(self.device) for name in inputs[0]}
        self._heard.states = {}
        with inference(self.device, self._precision), suppress(_Enough):
            self._network(**batch, **self._further)
        if missing := [number for number in self._numbers if number not in self._heard.states]:
            raise EncoderError(f"the network ran without its block {missing[0]}")
        means = [self._heard.states[number].cpu().numpy() for number in self._numbers]
        shares = [min(1.0, len(window) / self._full) if self._full else 1.0 for window in windows]
        frames = [max(1, round(self._heard.tokens * share)) for share in shares]
        return [LayerEmbeddings(tuple(mean[place] for mean in means), count) for place, count in enumerate(frames)]

    def _prepare(self, window: Floats) -> dict[str, Any]:
        """Turn one window into what the network takes; a batch of one."""
        further = (
            {"pad_to_multiple_of": None} if type(self._extractor).__name__ == "SeamlessM4TFeatureExtractor" else {}
        )
        rate = self._extractor.sampling_rate
        inputs = dict(self._extractor(window, sampling_rate=rate, return_tensors="pt", **further))
        mask = inputs.pop("attention_mask", None)
        if mask is not None and not mask.all():
            raise EncoderError("the feature extractor pads its windows and masks the padding, which is not supported")
        return {
            name: value.float() if value.is_floating_point() else value
            for name, value in inputs.items()
            if name in self._takes
        }

    def _prepare_as(self, normalise: str | None) -> str:
        """Set the feature extractor up; say what it does."""
        extractor = self._extractor
        if getattr(extractor, "dither", 0.0):
            extractor.dither = 0.0  # noise, a new one each time
        if type(extractor).__name__ != "Wav2Vec2FeatureExtractor":
            if normalise is not None:
                raise ParameterError(
                    f"normalise {normalise!r} is for models that hear the raw wave; this one's "
                    f"{type(extractor).__name__} has a way of its own"
                )
            return type(extractor).__name__
        chosen = normalise or ("window" if extractor.do_normalize else "none")
        extractor.do_normalize = chosen == "window"
        return NORMALISED.get(chosen, chosen)

    def _listen(self, network: Any, blocks: Any, numbers: list[int]) -> None:
        """Take the mean of each wanted layer as it passes, and stop the network after the last one."""
        import torch

        if self.device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = False  # else convolutions round their input to 10 bits: not float32
        self._numbers, self._heard = numbers, threading.local()  # encode() runs in several threads at once

        def hear(number: int, state: Any) -> None:
            if number == min(numbers):
                self._heard.tokens = state.shape[1]
            self._heard.states[number] = state.float().mean(1)
            if number == max(numbers):
                raise _Enough

        def enter(_block: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            hear(0, inputs[0] if inputs else named["hidden_states"])

        def leave(number: int) -> Any:
            return lambda _block, _inputs, output: hear(number, output[0] if isinstance(output, tuple) else output)

        for number in numbers:
            if number:
                blocks[number - 1].register_forward_hook(leave(number))
            else:
                blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
        self._takes = inspect.signature(type(network).forward).parameters
        self._further = (
            {"return_dict": True} if "return_dict" in self._takes else {}
        )  # older code asks the config for it
        self._network = network.eval().requires_grad_(requires_grad=False).to(self.device)

    def _try(self, title: str, rate: int) -> tuple[list[int], float]:
        """Let the network hear noise: how wide each wanted layer is, and how many tokens there are in a second."""
        noise = np.random.default_rng(0).normal(0, 0.1, self._full or 2 * rate).astype(np.float32)
        with checkpoint.no_network(f"{title} cannot hear a window of noise"):
            heard = self._run([noise])[0]
            tokens = heard.n_frames - (0 if self._full else self._run([noise[:rate]])[0].n_frames)
        return [len(vector) for vector in heard.vectors], tokens / (len(noise) / rate if self._full else 1.0)


class _Enough(Exception):  # noqa: N818 - not an error
    """Every wanted layer was heard."""


def _full_length(extractor: Any) -> int | None:
    """Give the samples that a feature extractor pads to and cuts at; None if it takes any length."""
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return int(extractor.max_length * extractor.sampling_rate // 100)  # frames of 10 ms
    return getattr(extractor, "n_samples", None) or getattr(extractor, "nb_max_samples", None)


def _blocks(network: Any, title: str) -> Any:
    """Find the blocks: the first list of that name, outermost, that is as long as the config says."""
    import torch

    counts = {getattr(network.config, name, None) for name in ("num_hidden_layers", "encoder_num_hidden_layers")}
    for name, module in network.named_modules():
        listed = isinstance(module, torch.nn.ModuleList) and name.rpartition(".")[2] in _BLOCKS
        if listed and len(module) and len(module) in counts:
            return module
    raise WeightsError(f"{title} has no list of as many blocks as its config says, so none could be listened to")
