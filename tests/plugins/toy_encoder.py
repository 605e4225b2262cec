"""An encoder without a network, for tests of everything around it: loudness and zero crossings in two layers."""

import time

import numpy as np

from embedstore.types import EncoderCard, Layer, LayerEmbeddings, Windowing

LAYERS = (Layer(0, "loudness", 4), Layer(1, "bands", 6))


class Toy:
    """Quick and deterministic; `model="slow"` takes its time, `model="nan"` gives NaN for loud windows."""

    def __init__(self, model=None, layers=None, window=None, device="auto", seed=None):
        self.model = model
        self.card = EncoderCard(
            name="toy_encoder:Toy",
            model=model or "toy",
            revision="1",
            weights_sha256="",
            sample_rate=8000,
            layers=LAYERS if layers in (None, "all") else tuple(x for x in LAYERS if str(x.number) in str(layers)),
            frame_rate=100.0,
            preprocessing="none",
            precision="float32",
            licence="Apache-2.0",
            paper="none",
            default_layer=LAYERS[0].number if layers in (None, "all") else int(str(layers)[0]),
        )
        self.windowing = Windowing(length=8000, hop=8000, min_tail=2000, minimum=800)

    def encode(self, windows):
        """Describe each window by itself."""
        if self.model == "slow":
            time.sleep(0.02)
        return [self._one(window) for window in windows]

    def _one(self, x):
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
