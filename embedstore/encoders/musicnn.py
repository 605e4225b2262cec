"""musicnn: convolutional taggers of music with real learned weights that come in a package.

Pons & Serra 2019, "musicnn: Pre-trained convolutional neural networks for music audio tagging" (ISMIR late-breaking);
the architecture is that of Pons et al. 2018, "End-to-end learning for music audio tagging at scale" (ISMIR). The network
is rebuilt here in torch; the TensorFlow checkpoints are read out of the wheel ``musicnn==0.1.0`` without running its code.
"""

from __future__ import annotations

import ast
import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from embedstore.encoders.base import LayerSpec, check_windows, default_layer, parse_layers, pick_device
from embedstore.encoders.musicnn_network import HOP, SAMPLE_RATE, STFT, Network, random_weights, weight_shapes
from embedstore.encoders.tensorflow_checkpoint import read_checkpoint
from embedstore.encoders.wheel import Wheel
from embedstore.errors import ParameterError, WeightsError
from embedstore.types import EncoderCard, Floats, Layer, LayerEmbeddings, Windowing

__all__ = ["MusicnnMSD", "MusicnnMTT"]

WHEEL = Wheel(
    "musicnn==0.1.0",
    "musicnn-0.1.0-py3-none-any.whl",
    "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
)
PATCH = 187  # frames
LAYERS = (
    Layer(0, "timbral", 408),
    Layer(1, "temporal", 153),
    Layer(2, "cnn1", 64),
    Layer(3, "cnn2", 64),
    Layer(4, "cnn3", 64),
    Layer(5, "mean_pool", 753),
    Layer(6, "max_pool", 753),
    Layer(7, "penultimate", 200),
)


class _Musicnn:
    """What the two checkpoints share; see `MusicnnMSD`."""

    name: ClassVar[str]
    checkpoint: ClassVar[str]

    def __init__(
        self,
        *,
        model: str | None = None,
        layers: LayerSpec = None,
        window: float | str | None = None,
        device: str = "auto",
        seed: int | None = None,
    ) -> None:
        if window is not None:
            raise ParameterError(
                f"musicnn hears patches of {PATCH} frames (3 s) and no others; leave out window {window!r}"
            )
        picked = parse_layers(layers, LAYERS)
        self.device = pick_device(device)
        self._together = 1 if self.device == "cpu" else 32  # windows; a CPU's caches hold one
        self.batch = max(4, self._together)
        if self.device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = False  # else convolutions round their input to 10 bits: not float32
        weights, weights_sum, self._tag_names = self._weights(model, seed)
        self._network = Network({name: torch.from_numpy(w.copy()).to(self.device) for name, w in weights.items()})
        # patches of 187 centred STFT frames of the whole track, as the original cuts them
        self.windowing = Windowing(
            length=STFT + (PATCH - 1) * HOP,
            hop=PATCH * HOP,
            pad=STFT // 2,
            tail="drop",
            short="repeat",
            minimum=SAMPLE_RATE // 10,
        )
        self.card = EncoderCard(
            name=self.name if seed is None else f"random:{self.name}",
            model=self.checkpoint
            if seed is None
            else f"random weights (seed {seed}) in the shape of {self.checkpoint}",
            revision=WHEEL.requirement if seed is None else "",
            weights_sha256=weights_sum,
            sample_rate=SAMPLE_RATE,
            layers=picked,
            frame_rate=SAMPLE_RATE / HOP,
            preprocessing="96 Slaney mel bands of a 512/256 Hann STFT, rounded to float16, log10(10000 x + 1)",
            precision="float32",
            licence="ISC" if seed is None else "none: random weights",
            paper="Pons & Serra 2019, musicnn: Pre-trained convolutional neural networks for music audio tagging",
            default_layer=default_layer(picked, preferred=5),
        )

    def encode(self, windows: Sequence[Floats]) -> list[LayerEmbeddings]:
        """Encode windows; see `embedstore.encoders.base.Encoder`.

        The layers before the pooling are means over the window's frames. A window need not be a patch of 3 s, as long
        as it fills one STFT frame (512 samples).

        Raises
        ------
        ParameterError
            A window is shorter than that, or not mono float32.
        """
        check_windows(windows, minimum=STFT)
        numbers = [layer.number for layer in self.card.layers]
        encoded = []
        with torch.inference_mode():
            for batch in self._batches(windows):
                found = [x for _, x in zip(range(numbers[-1] + 1), self._network.activations(batch), strict=False)]
                means = [(x.mean(2) if x.ndim == 3 else x).cpu().numpy() for x in found]
                n_frames = 1 + (batch.shape[1] - STFT) // HOP
                encoded += [
                    LayerEmbeddings(tuple(means[number][row].copy() for number in numbers), n_frames)
                    for row in range(len(batch))
                ]
        return encoded

    def tags(self, windows: Sequence[Floats]) -> tuple[tuple[str, ...], Floats]:
        """Say what the network was trained for: how likely people tag this sound so.

        Parameters
        ----------
        windows : sequence of float32 arrays, each shape (n_samples,)
            Of one track, as `windowing` cuts it.

        Returns
        -------
        names : tuple of str
            The 50 tags.
        likelihood : float32 array, shape (50,)
            In 0..1 each, mean over the windows.

        Raises
        ------
        ParameterError
            No window, or random weights, which know no tags.
        """
        if not windows or not self._tag_names:
            raise ParameterError("tags need at least one window and an encoder with its trained weights")
        check_windows(windows, minimum=STFT)
        with torch.inference_mode():
            tags = torch.cat([list(self._network.activations(batch))[-1] for batch in self._batches(windows)])
            return self._tag_names, tags.mean(0).cpu().numpy()

    def _batches(self, windows: Sequence[Floats]) -> Iterator[Tensor]:
        """Put neighbours of one length together."""
        for _, alike in groupby(windows, len):
            batch = list(alike)
            for start in range(0, len(batch), self._together):
                yield torch.from_numpy(np.stack(batch[start : start + self._together])).to(self.device)

    def _weights(self, model: str | None, seed: int | None) -> tuple[dict[str, Floats], str, tuple[str, ...]]:
        """Read or draw the weights; also their sum and the names of the tags."""
        if seed is None:
            return self._read_wheel(model)
        if model is not None:
            raise ParameterError(f"random weights are not read from a file; leave out model {model!r}")
        weights = random_weights(seed)
        return weights, hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest(), ()

    def _read_wheel(self, model: str | None) -> tuple[dict[str, Floats], str, tuple[str, ...]]:
        with zipfile.ZipFile(io.BytesIO(WHEEL.read(model))) as wheel:
            index = wheel.read(f"musicnn/{self.checkpoint}/.index")
            data = wheel.read(f"musicnn/{self.checkpoint}/.data-00000-of-00001")
            settings = ast.parse(wheel.read("musicnn/configuration.py"))  # parsed, not run
        shapes = weight_shapes()
        weights = read_checkpoint(index, data, shapes)
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise WeightsError(f"tensor {name!r} of {self.checkpoint} has shape {weights[name].shape}, not {shape}")
        labels = f"{self.checkpoint.removesuffix('_musicnn')}_LABELS"
        tags = next(s.value for s in settings.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == labels)
        return weights, hashlib.sha256(data).hexdigest(), tuple(ast.literal_eval(tags))


class MusicnnMSD(_Musicnn):
    """musicnn trained on the tags of 200,000 songs of the Million Song Dataset.

    Parameters
    ----------
    model : str, optional
        The wheel ``musicnn-0.1.0-py3-none-any.whl`` or a folder that holds it; None fetches it once into the cache.
    layers : str, int or sequence, optional
        Which of the eight layers to give; see `embedstore.encoders.base.parse_layers`.
    window : None
        musicnn's patches are fixed.
    device : str
        See `embedstore.encoders.base.pick_device`.
    seed : int, optional
        Random weights instead of the trained ones; nothing is fetched.

    Attributes
    ----------
    card : EncoderCard
    windowing : Windowing
        The original's patches: 187 frames each, one after the other, of a centred STFT with reflected ends. What is left
        after the last whole patch is not heard. A track under 3 s is repeated until it fills a patch; under 0.1 s it
        cannot be encoded.

    Raises
    ------
    WeightsError
        The wheel cannot be had, or is not the one that was promised.
    ParameterError
        A window, or a model together with a seed.

    Examples
    --------
    >>> encoder = MusicnnMSD(seed=0, device="cpu", layers="2-4")
    >>> encoder.encode([np.zeros(48128, np.float32)])
    [LayerEmbeddings(3 layers, dims [64, 64, 64], 187 frames)]
    """

    name = "musicnn"
    checkpoint = "MSD_musicnn"


class MusicnnMTT(_Musicnn):
    """musicnn trained on the tags of 19,000 songs of MagnaTagATune; otherwise as `MusicnnMSD`."""

    name = "musicnn-mtt"
    checkpoint = "MTT_musicnn"
