"""Any wav2vec2, HuBERT, WavLM or Data2Vec-audio checkpoint, run by the transformers library.

Layer 0 is what enters the first block; layer n is what block n gives. In encoders with "stable layer norm" the
transformers library 4 normalised the last of its ``hidden_states`` once more, version 5 does not; here it never is.

`Wav2Vec2Network` runs the architectures that it covers, the transformers library the others; the card says which did.
Windows of unequal length are never padded: padding leaks through the positional convolution, attention mask or not.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from embedstore.encoders import checkpoint, hub
from embedstore.encoders.base import (
    NORMALISED,
    LayerSpec,
    check_preparation,
    check_windows,
    default_layer,
    make_windowing,
    one_thread,
    parse_layers,
    pick_device,
)
from embedstore.encoders.products import products_for
from embedstore.encoders.runner import Runner, check_precision, inference
from embedstore.encoders.wav2vec2_network import Wav2Vec2Network, not_covered, receptive_field
from embedstore.errors import ParameterError, WeightsError
from embedstore.types import EncoderCard, Floats, Layer, LayerEmbeddings

__all__ = ["HuggingFace", "Published"]

PAPERS = {
    "wav2vec2": "Baevski et al. 2020, wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations",
    "hubert": "Hsu et al. 2021, HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units",
    "wavlm": "Chen et al. 2022, WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing",
    "data2vec-audio": "Baevski et al. 2022, data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language",
}


@dataclass(frozen=True)
class Published:
    """A checkpoint that has an encoder of its own name.

    Attributes
    ----------
    model : str
        Hub id.
    weights_sha256 : str
        Sum of its weights file: no other weights pass under this hub id.
    config : mapping
        The fields of its ``config.json`` that shape the network.
    licence : str
    """

    model: str
    weights_sha256: str
    config: Mapping[str, Any]
    licence: str


class HuggingFace:
    """An encoder of the wav2vec2 family.

    Parameters
    ----------
    model : str
        Folder or hub id of the checkpoint.
    layers : str, int or sequence, optional
        Which layers to return; the blocks after the last one are not run.
    window : float or str, optional
        Seconds in a window (5 by default), or ``"track"``.
    hop : float, optional
        Seconds from one window's start to the next; by default one follows the other.
    normalise : {"window", "file", "none"}, optional
        What is brought to zero mean and unit variance; by default what the checkpoint says.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed : int, optional
        Draw random weights instead of the checkpoint's; only its config is read.
    precision : {"float32", "bfloat16", "float16"}, optional
        Of the products; the last two on a GPU.

    Raises
    ------
    WeightsError
        The checkpoint cannot be had, or is not what it should be.
    ParameterError, UnknownNameError
        An option is outside what the network takes.
    """

    name: ClassVar[str] = "huggingface"
    papers: ClassVar[Mapping[str, str]] = PAPERS
    published: ClassVar[Published | None] = None

    def __init__(
        self,
        *,
        model: str | None = None,
        layers: LayerSpec = None,
        window: float | str | None = None,
        device: str = "auto",
        seed: int | None = None,
        hop: float | None = None,
        normalise: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.device = pick_device(device)
        folder, title, fields = self._find(model, seed)
        config = checkpoint.build_config(fields, self.papers, title)
        rate, stated = _preprocessing(folder)
        normalise = normalise or stated
        precision = check_precision(precision, self.device)
        self.windowing = make_windowing(
            window,
            hop,
            sample_rate=rate,
            default=5 * rate,
            minimum=receptive_field(config),
            tail=rate,
            normalise=normalise,
        )
        every = [Layer(n, f"layer {n}", config.hidden_size) for n in range(config.num_hidden_layers + 1)]
        wanted = parse_layers(layers, every)
        with one_thread():  # a weight norm's last bits must not depend on the machine's cores
            network, weights_sum = self._weights(config, folder, title, seed)
            self._network, path = _prepare(network, [layer.number for layer in wanted], self.device)
        self._precision, self._standardise = precision, normalise == "window"
        self._runner = Runner(self._hear, device=self.device, sample_rate=rate)
        self.batch = self._runner.batch
        self.card = EncoderCard(
            name=self.name if seed is None else f"random:{self.name}",
            model=title if seed is None else f"random weights (seed {seed}) in the shape of {title}",
            revision=checkpoint.config_digest(config),
            weights_sha256=weights_sum,
            sample_rate=rate,
            layers=wanted,
            frame_rate=rate / math.prod(config.conv_stride),
            preprocessing=NORMALISED[normalise],
            precision=precision,
            licence=self._licence(folder) if seed is None else "none: random weights",
            paper=self.papers[config.model_type],
            default_layer=default_layer(wanted, config.num_hidden_layers // 2),
            path=path,
        )

    def encode(self, windows: Sequence[Floats]) -> list[LayerEmbeddings]:
        """Encode windows into one mean vector per layer each; see `Encoder.encode`."""
        check_windows(windows, self.windowing.minimum)
        return self._runner(windows)

    def _hear(self, windows: list[Floats]) -> list[LayerEmbeddings]:
        import torch

        with inference(self.device, self._precision):
            sound = torch.cat([torch.from_numpy(window) for window in windows])
            if self.device.startswith("cuda"):
                sound = sound.pin_memory()
            sound = sound.to(self.device, non_blocking=True)
            pieces = torch.split(sound, [len(window) for window in windows])
            means, frames = self._network([_standardised(piece) for piece in pieces] if self._standardise else pieces)
            vectors = means.cpu().numpy()
        return [LayerEmbeddings(tuple(vectors[:, place]), count) for place, count in enumerate(frames)]

    def _find(self, model: str | None, seed: int | None) -> tuple[Path | None, str, Mapping[str, Any]]:
        """Give the checkpoint's folder, what to call it, and its config; no folder where nothing of it is needed."""
        if model is None and self.published is None:
            raise ParameterError(f"the encoder {self.name} needs a checkpoint: --model with a folder or a hub id")
        if self.published and seed is not None and model in (None, self.published.model):
            return None, self.published.model, self.published.config
        folder, title = hub.find_checkpoint(model or str(self.published and self.published.model), weights=seed is None)
        return folder, title, hub.read_json(folder / "config.json")

    def _weights(self, config: Any, folder: Path | None, title: str, seed: int | None) -> tuple[Any, str]:
        """Give the network and the sum of its weights."""
        if seed is not None or folder is None:
            network = checkpoint.random_network(config, seed or 0)
            return network, checkpoint.sum_of_tensors(network)
        files = hub.weight_files(folder)
        found = checkpoint.sum_of_files(files)
        if (
            self.published
            and self.published.model == title.partition("@")[0]
            and self.published.weights_sha256 != found
        ):
            raise WeightsError(
                f"the weights of {title} have sha256 {found}, but {self.published.weights_sha256} was published; "
                f"delete {folder} and run again, or give a copy that you trust by --model DIR"
            )
        return checkpoint.load_network(config, files), found

    def _licence(self, folder: Path | None) -> str:
        if self.published:
            return self.published.licence
        return hub.licence_of(folder) if folder else ""


def _prepare(network: Any, layers: Collection[int], device: str) -> tuple[Any, str]:
    """Make a transformers network ready to be heard; say which code runs it."""
    import torch

    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False  # else convolutions round their input to 10 bits: not float32
    network = network.eval().requires_grad_(requires_grad=False).to(device)
    if lacking := not_covered(network.config):
        return _Hooked(network, layers), f"transformers ({lacking})"
    products = products_for(device)
    return Wav2Vec2Network(network, layers, products), f"fast ({products.name})"


class _Hooked:
    """The transformers network, cut after the last wanted block; the mean of each layer is taken as it passes."""

    def __init__(self, network: Any, layers: Collection[int]) -> None:
        self._layers = sorted(layers)
        self._heard = threading.local()  # encode() runs in several threads at once
        network.encoder.layers = network.encoder.layers[: max(1, self._layers[-1])]

        def hear(_block: Any, inputs: tuple[Any, ...], output: Any) -> None:
            if not self._heard.means:
                self._heard.frames = inputs[0].shape[1]
                self._heard.means.append(inputs[0].float().mean(1))
            self._heard.means.append((output[0] if isinstance(output, tuple) else output).float().mean(1))

        for block in network.encoder.layers:
            block.register_forward_hook(hear)
        self._network = network

    def __call__(self, windows: Sequence[Any]) -> tuple[Any, list[int]]:
        import torch

        parts, frames = [], []
        for _, group in groupby(windows, key=len):
            alike = list(group)
            self._heard.means = []
            self._network(torch.stack(alike))
            parts.append(torch.stack([self._heard.means[number] for number in self._layers]))
            frames += [self._heard.frames] * len(alike)
        return torch.cat(parts, 1), frames


def _preprocessing(folder: Path | None) -> tuple[int, str]:
    """Read the sample rate in Hz, and what is normalised, as Wav2Vec2FeatureExtractor would."""
    fields = hub.read_extractor(folder) if folder else {}
    normalise = fields.get("do_normalize", True)
    rate = check_preparation(fields.get("sampling_rate", 16000), normalise, str(folder))
    return rate, "window" if normalise else "none"


def _standardised(sound: Any) -> Any:
    """Bring a window to zero mean and unit variance, as Wav2Vec2FeatureExtractor does."""
    exact = (sound.cpu() if sound.device.type == "mps" else sound).double()  # mps has no float64
    centred = exact - exact.mean()  # var_mean is slower, and in float32 the square of a loud sound is infinite
    return (centred / (centred.square().mean() + 1e-7).sqrt()).to(sound)
