"""The audio room: find files, decode them in a process of their own, cut the sound into windows.

The only room that knows soundfile, soxr and torchcodec; none of them is imported before the first file is decoded.
"""

from __future__ import annotations

from embedstore.audio.decode import DECODE_RECIPE, SoundReport, read_audio
from embedstore.audio.decoder import Decoder
from embedstore.audio.find import Found, Rejected, find_audio
from embedstore.audio.transcode import transcode
from embedstore.audio.windows import cut_windows, window_spans

__all__ = [
    "DECODE_RECIPE",
    "Decoder",
    "Found",
    "Rejected",
    "SoundReport",
    "cut_windows",
    "find_audio",
    "read_audio",
    "transcode",
    "window_spans",
]
