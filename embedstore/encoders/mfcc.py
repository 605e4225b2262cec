"""MFCC statistics: the floor that learned encoders have to beat, with no weights at all.

The settings are those of the MFCC baseline of Castellon et al. 2021, "Codified audio language modeling learns useful
representations for music information retrieval" (ISMIR; JukeMIR): sound scaled to a peak of 1, 20 coefficients as librosa
makes them (22,050 Hz, STFT 2048/512, 128 Slaney mel bands, decibels with a floor of -80 below the loudest), their first
and second differences in time, and of these 60 series mean and standard deviation: 120 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedstore.encoders.base import (
    LayerSpec,
    check_windows,
    import_torchaudio,
    make_windowing,
    parse_layers,
    pick_device,
)
from embedstore.errors import ParameterError
from embedstore.types import EncoderCard, Floats, Layer, LayerEmbeddings

__all__ = ["Mfcc"]

SAMPLE_RATE, STFT, HOP = 22050, 2048, 512
COEFFICIENTS = 20


class Mfcc:
    """Mean and standard deviation of MFCCs and their differences.

    Parameters
    ----------
    model : None
        There is none.
    layers : str, int or sequence, optional
        The one layer there is.
    window : float or str, optional
        Seconds in a window (30 by default), or ``"track"``.
    hop : float, optional
        Seconds from one window's start to the next; by default one follows the other.
    device : str
        See `embedstore.encoders.base.pick_device`.
    seed : None
        There are no weights to draw.

    Attributes
    ----------
    card : EncoderCard
    windowing : Windowing
        Windows of 30 s, so that hours need no more memory than minutes; a last piece under 15 s joins the window before
        it. A track under 45 s is therefore one window. For longer ones the standard deviations are those *within* windows,
        averaged: slow changes over minutes do not count.

    Raises
    ------
    ParameterError
        A model or a seed, or a window or hop that makes no sense.

    Examples
    --------
    >>> encoder = Mfcc(device="cpu")
    >>> encoder.encode([np.zeros(22050, np.float32)])
    [LayerEmbeddings(1 layers, dims [120], 44 frames)]
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        layers: LayerSpec = None,
        window: float | str | None = None,
        hop: float | None = None,
        device: str = "auto",
        seed: int | None = None,
    ) -> None:
        if model is not None or seed is not None:
            raise ParameterError("mfcc has no weights: it takes no model, and there is no random:mfcc")
        minimum = SAMPLE_RATE // 10  # the STFT reflects 1,024 samples, second differences need three frames
        default = 30 * SAMPLE_RATE
        self.windowing = make_windowing(window, hop, sample_rate=SAMPLE_RATE, default=default, minimum=minimum)
        self.device = pick_device(device)
        self._transform = (
            import_torchaudio()
            .transforms.MFCC(
                sample_rate=SAMPLE_RATE,
                n_mfcc=COEFFICIENTS,
                melkwargs={"n_fft": STFT, "hop_length": HOP, "n_mels": 128, "norm": "slaney", "mel_scale": "slaney"},
            )
            .to(self.device)
        )
        picked = parse_layers(layers, [Layer(0, "mfcc", 6 * COEFFICIENTS)])
        self.card = EncoderCard(
            name="mfcc",
            model="none",
            revision="",
            weights_sha256="",
            sample_rate=SAMPLE_RATE,
            layers=picked,
            frame_rate=SAMPLE_RATE / HOP,
            preprocessing="peak of 1 per window, 20 MFCCs of 128 Slaney mel bands of a 2048/512 Hann STFT, two differences",
            precision="float32",
            licence="none: no weights",
            paper="Castellon et al. 2021, Codified audio language modeling (its MFCC baseline)",
            default_layer=0,
            path="torchaudio",
        )

    def encode(self, windows: Sequence[Floats]) -> list[LayerEmbeddings]:
        """Encode windows; see `embedstore.encoders.base.Encoder`."""
        check_windows(windows, self.windowing.minimum)
        return [self._encode(window) for window in windows]

    def _encode(self, window: Floats) -> LayerEmbeddings:
        """Compute the numbers of one window: mean and deviation of the coefficients, of their first, second differences."""
        import torch

        with torch.inference_mode():
            sound = torch.from_numpy(window / (np.abs(window).max() or np.float32(1))).to(self.device)
            mfcc = self._transform(sound)  # (20, n_frames)
            series = [torch.diff(mfcc, n=order, dim=1) for order in range(3)]
            moments = [moment for x in series for moment in (x.mean(1), x.std(1, correction=0))]
            return LayerEmbeddings((torch.cat(moments).cpu().numpy(),), n_frames=mfcc.shape[1])
