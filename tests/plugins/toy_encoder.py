"""An encoder without a network, for tests of everything around it: loudness and zero crossings in two layers."""

import time

import numpy as np

from embedstore.encoders.base import NORMALISED, make_windowing
from embedstore.types import EncoderCard, Layer, LayerEmbeddings

LAYERS = (Layer(0, "loudness", 4), Layer(1, "bands", 6))


class Toy:
    """Quick and deterministic; `model="slow"` takes its time, `model="nan"` gives NaN for loud windows.

    On a device that is named `fake...` it says so, and asks for batches of 5, as an encoder on a GPU would.
    """

    def __init__(self, model=None, layers=None, window=None, device="auto", seed=None, hop=None, normalise="none"):
        self.model = model
        if device.startswith("fake"):
            self.device, self.batch = device, 5
        self.windowing = make_windowing(
            window, hop, sample_rate=8000, default=8000, minimum=800, tail=2000, normalise=normalise
        )
        self.card = EncoderCard(
            name="toy_encoder:Toy",
            model=model or "toy",
            revision="1",
            weights_sha256="",
            sample_rate=8000,
            layers=LAYERS if layers in (None, "all") else tuple(x for x in LAYERS if str(x.number) in str(layers)),
            frame_rate=100.0,
            preprocessing=NORMALISED[normalise],
            precision="float32",
            licence="Apache-2.0",
            paper="none",
            default_layer=LAYERS[0].number if layers in (None, "all") else int(str(layers)[0]),
        )

    def encode(self, windows):
        """Describe each window by itself."""
        if self.model == "slow":
            time.sleep(0.02)
        return [self._one(window) for window in windows]

    def _one(self, x):
        if self.card.preprocessing == NORMALISED["window"]:
            x = (x - x.mean()) / (x.std() + 1e-4)
        frames = x[: len(x) // 80 * 80].reshape(-1, 80)
        loud = np.sqrt((frames**2).mean(1))
        spectrum = np.abs(np.fft.rfft(x, 8000))[:3000].reshape(6, 500).mean(1)
        if self.model == "nan" and loud.max() > 0.6:
            spectrum[:] = np.nan
        values = {
            0: np.array([loud.mean(), loud.std(), loud.max(), loud.min()], np.float32),
            1: np.log1p(spectrum).astype(np.float32),
        }
        return LayerEmbeddings(tuple(values[layer.number] for layer in self.card.layers), len(frames))
