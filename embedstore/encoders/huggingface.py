"""Any wav2vec2, HuBERT, WavLM or Data2Vec-audio checkpoint, run by the transformers library.

Layer 0 is what enters the first block; layer n is what block n gives. In encoders with "stable layer norm" the
transformers library 4 normalised the last of its ``hidden_states`` once more, version 5 does not; here it never is.

Windows of equal length may share a batch. Windows of unequal length never do: padding leaks through the positional
convolution, attention mask or not.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from embedstore.encoders import checkpoint, hub
from embedstore.encoders.base import LayerSpec, check_windows, default_layer, parse_layers, parse_window, pick_device
from embedstore.errors import ParameterError, WeightsError
from embedstore.types import EncoderCard, Floats, Layer, LayerEmbeddings, Windowing

__all__ = ["HuggingFace", "Published"]

PAPERS = {
    "wav2vec2": "Baevski et al. 2020, wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations",
    "hubert": "Hsu et al. 2021, HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units",
    "wavlm": "Chen et al. 2022, WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing",
    "data2vec-audio": "Baevski et al. 2022, data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language",
}
_GPU_BATCH_SECONDS = 80


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
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed : int, optional
        Draw random weights instead of the checkpoint's; only its config is read.

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
    ) -> None:
        self._device = pick_device(device)
        folder, title, fields = self._find(model, seed)
        config = checkpoint.build_config(fields, self.papers, title)
        rate, self._normalise = _preprocessing(folder)
        self._batch = 0 if self._device == "cpu" else _GPU_BATCH_SECONDS * rate  # on a CPU, batches only cost memory
        self.windowing = _windowing(config, rate, window)
        every = [Layer(n, f"layer {n}", config.hidden_size) for n in range(config.num_hidden_layers + 1)]
        wanted = parse_layers(layers, every)
        network, weights_sum = self._weights(config, folder, title, seed)
        self._numbers = [layer.number for layer in wanted]
        self._listen(network)
        self.card = EncoderCard(
            name=self.name if seed is None else f"random:{self.name}",
            model=title if seed is None else f"random weights (seed {seed}) in the shape of {title}",
            revision=checkpoint.config_digest(config),
            weights_sha256=weights_sum,
            sample_rate=rate,
            layers=wanted,
            frame_rate=rate / math.prod(config.conv_stride),
            preprocessing="zero mean, unit variance per window" if self._normalise else "none",
            precision="float32",
            licence=self._licence(folder) if seed is None else "none: random weights",
            paper=self.papers[config.model_type],
            default_layer=default_layer(wanted, config.num_hidden_layers // 2),
            path="transformers",
        )

    def encode(self, windows: Sequence[Floats]) -> list[LayerEmbeddings]:
        """Encode windows into one mean vector per layer each; see `Encoder.encode`."""
        check_windows(windows, self.windowing.minimum)
        places: dict[int, list[int]] = {}
        for place, window in enumerate(windows):
            places.setdefault(len(window), []).append(place)
        results: dict[int, LayerEmbeddings] = {}
        for length, alike in places.items():
            size = max(1, self._batch // length)
            for start in range(0, len(alike), size):
                batch = alike[start : start + size]
                results.update(zip(batch, self._run([windows[place] for place in batch]), strict=True))
        return [results[place] for place in range(len(windows))]

    def _run(self, windows: list[Floats]) -> list[LayerEmbeddings]:
        import torch

        batch = np.stack([_standardise(window) if self._normalise else window for window in windows])
        self._heard.means = []
        with torch.inference_mode():
            self._network(torch.from_numpy(batch).to(self._device))
            means = torch.stack([self._heard.means[number] for number in self._numbers]).cpu().numpy()
        frames = self._heard.frames
        return [LayerEmbeddings(tuple(vectors), frames) for vectors in means.swapaxes(0, 1)]

    def _listen(self, network: Any) -> None:
        """Cut the network after the last wanted block and take the mean of each layer as it passes."""
        import torch

        if self._device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = False  # else convolutions round their input to 10 bits: not float32
        network.encoder.layers = network.encoder.layers[: max(1, *self._numbers)]
        self._heard = threading.local()  # encode() runs in several threads at once

        def hear(_block: Any, inputs: tuple[Any, ...], output: Any) -> None:
            if not self._heard.means:
                self._heard.frames = inputs[0].shape[1]
                self._heard.means.append(inputs[0].mean(1))
            self._heard.means.append((output[0] if isinstance(output, tuple) else output).mean(1))

        for block in network.encoder.layers:
            block.register_forward_hook(hear)
        self._network = network.eval().requires_grad_(requires_grad=False).to(self._device)

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


def _preprocessing(folder: Path | None) -> tuple[int, bool]:
    """Read the sample rate in Hz, and whether windows are standardised, as Wav2Vec2FeatureExtractor would."""
    file = folder / "preprocessor_config.json" if folder else None
    fields = hub.read_json(file) if file and file.is_file() else {}
    rate, normalise = fields.get("sampling_rate", 16000), fields.get("do_normalize", True)
    if not isinstance(rate, int) or isinstance(rate, bool) or rate < 1 or not isinstance(normalise, bool):
        raise WeightsError(f"{file} is damaged: sampling_rate {rate!r} (in Hz), do_normalize {normalise!r}")
    return rate, normalise


def _windowing(config: Any, rate: int, window: float | str | None) -> Windowing:
    minimum = 1  # samples behind one frame
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        minimum = (minimum - 1) * stride + kernel
    length = parse_window(window, sample_rate=rate, default=5 * rate, minimum=minimum)
    tail = rate if length is None else min(rate, length // 2)
    return Windowing(length, hop=length or 1, min_tail=max(minimum, tail), minimum=minimum)


def _standardise(window: Floats) -> Floats:
    scaled: Floats = (window - window.mean()) / np.sqrt(window.var() + 1e-7)  # as Wav2Vec2FeatureExtractor, bit for bit
    return scaled
