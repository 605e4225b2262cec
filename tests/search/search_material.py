"""A small library in the plane: each track by its angle, so that what is near is plain to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels

LAYERS = (Layer(0, "layer 0", 2), Layer(4, "deep", 2))
CUT = {"window_length": 160_000, "window_hop": 160_000, "window_pad": 0, "window_min_tail": 0, "window_tail": "merge"}


def plane(angle: float) -> np.ndarray:
    """Point into a direction, in degrees."""
    return np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32)


class Library:
    """A store; `add` puts a track at an angle, or with several angles windows of 10 s each."""

    def __init__(self, path: Path, *, windows: bool = False) -> None:
        card = EncoderCard("toy", "toy", "", "0" * 64, 16000, LAYERS, 50.0, "none", "float32", "CC0-1.0", "", 4)
        kept = {"windows": "kept", "window_short": "keep", **CUT} if windows else {}
        self.store = EmbeddingStore.create(path, card, {"encoder": "toy", "dtype": "float16", **kept})

    def add(
        self, key: int, *angles: float, path: str | None = None, seconds: float | None = None, **labels: object
    ) -> None:
        """Add a track, or what is new of one."""
        with self.store.writer() as writer:
            writer.add(*self.entry(key, *angles, path=path, seconds=seconds, **labels))

    def entry(self, key: int, *angles: float, path: str | None, seconds: float | None, **labels: object) -> tuple:
        """Make what a writer adds."""
        file = AudioFile("/music", path or f"{key}.ogg", 1, key)
        names = {
            name: (value,) if name in ("genres", "artists") and isinstance(value, str) else value
            for name, value in labels.items()
        }
        windows = tuple(self.heard(angle, kind=np.float16) for angle in angles) if self.store.keeps_windows else ()
        mean = np.mean([plane(angle) for angle in angles], axis=0)
        vectors = LayerEmbeddings((mean * [1, -1], mean), 10 * max(1, len(windows)), windows)
        track = Track(key, (file,), seconds or 10.0 * len(angles), 44100, 2, TrackLabels(**names))
        return (
            track,
            f"{key:032x}",
            LayerEmbeddings(tuple(v.astype(np.float32) for v in vectors.vectors), vectors.n_frames, windows),
        )

    @staticmethod
    def heard(angle: float, kind: type = np.float32) -> LayerEmbeddings:
        """Make what the encoder hears at an angle; the first layer mirrors the second."""
        return LayerEmbeddings(((plane(angle) * [1, -1]).astype(kind), plane(angle).astype(kind)), 10)
