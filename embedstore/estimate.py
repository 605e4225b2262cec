"""Say what a build would do, how long it would take and how much it would need, before it is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.audio import Decoder, window_spans
from embedstore.devices import name_devices
from embedstore.encoders import Encoder, recipe_of
from embedstore.errors import AudioError
from embedstore.labels import Columns
from embedstore.lanes import lanes_for, on_cpu, use_one_thread
from embedstore.options import EncoderOptions
from embedstore.plan import plan_build
from embedstore.types import AudioFile

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a build would do.

    Attributes
    ----------
    found, todo, skipped, failed : int
        Files: in the folder, to encode, unchanged, known to be unusable.
    seconds_audio : float
        Of the files to encode, from the headers of up to 100 of them.
    bytes : int
        That the new rows will take.
    seconds_wall : float
        Loading, and the speed of decoding those files and of the encoder on noise, measured now.
    encoder : str
    """

    found: int
    todo: int
    skipped: int
    failed: int
    seconds_audio: float
    bytes: int
    seconds_wall: float
    encoder: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(vars(self))


def estimate(
    audio_dir: str | Path,
    store: str | Path = "embeddings",
    *,
    encoder: EncoderOptions | str | None = None,
    labels: str | Path | None = None,
    columns: Columns | None = None,
    jobs: int | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    timeout: float = 60.0,
    keep_windows: bool = False,
) -> Estimate:
    """Say what `build` with the same arguments would do; writes nothing.

    Durations come from decoding a few files of each kind; speed from the encoder itself, on noise, now.

    Raises
    ------
    ParameterError, EncoderMismatchError, LabelsError
        As `build` would.
    """
    options = encoder if isinstance(encoder, EncoderOptions) else EncoderOptions(name=encoder)
    plan = plan_build(
        audio_dir,
        store,
        labels=labels,
        columns=columns,
        limit=limit,
        retry_failed=retry_failed,
        keep_windows=keep_windows,
    )
    devices = name_devices(options.device)
    began = time.perf_counter()
    network = replace(options, device=devices[0]).load(plan.remembered)
    if plan.store is not None:
        plan.store.check_recipe(recipe_of(network, keep_windows=plan.keep_windows))
    loading = time.perf_counter() - began
    seconds, longest, decoding = _seconds_of(plan.todo, network.card.sample_rate, timeout)
    windows = _count_windows(network, seconds, len(plan.todo)) if plan.keep_windows else 0
    lanes, decoders = lanes_for(network, jobs)
    files = max(1, min(lanes * decoders, len(plan.todo)))  # at a time
    networks = min(files, lanes if lanes > 1 else len(devices))
    cost = _cost(network)
    working = max(seconds * (cost / networks + decoding / files), longest * cost)  # one file is never shared by lanes
    return Estimate(
        found=len(plan.files),
        todo=len(plan.todo),
        skipped=plan.skipped,
        failed=plan.failed,
        seconds_audio=seconds,
        bytes=2 * sum(layer.dim for layer in network.card.layers) * (len(plan.todo) + windows),
        seconds_wall=loading + working,
        encoder=network.card.name,
    )


def _seconds_of(
    files: Sequence[AudioFile], sample_rate: int, timeout: float, sample: int = 8
) -> tuple[float, float, float]:
    """Estimate the sound in files, that in the longest, from a few of each suffix; and the seconds to decode one."""
    by_suffix: dict[str, list[AudioFile]] = {}
    for file in files:
        by_suffix.setdefault(Path(file.path).suffix.lower(), []).append(file)
    total = longest = all_heard = took = 0.0
    with Decoder(sample_rate, timeout=timeout) as decoder:
        for group in by_suffix.values():
            heard, read = 0.0, 0
            for file in group[:: max(1, len(group) // sample)][:sample]:
                began = time.perf_counter()
                with suppress(AudioError):
                    decoder.file_hash(file.full_path)
                    heard += decoder.inspect(file.full_path).seconds
                    read += file.size
                    deque(decoder.blocks(file.full_path), maxlen=0)
                    took += time.perf_counter() - began
            all_heard += heard
            density = heard / max(1, read)
            total += density * sum(file.size for file in group)
            longest = max(longest, density * max(file.size for file in group))
    return total, longest, took / max(1.0, all_heard)


def _count_windows(network: Encoder, seconds: float, tracks: int) -> int:
    """Estimate the windows of so many tracks with so much sound: those of tracks of the mean length."""
    mean = round(seconds / max(1, tracks) * network.card.sample_rate)
    return tracks * len(window_spans(mean, network.windowing))


def _cost(network: Encoder) -> float:
    """Seconds of one lane per second of sound, the faster of two tries."""
    use_one_thread()
    length = network.windowing.length or 30 * network.card.sample_rate
    windows = 1 if on_cpu(network) else getattr(network, "batch", 1)  # as a lane hands them over
    noise = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    tries = []
    for _ in range(2):
        began = time.perf_counter()
        network.encode([noise] * windows)
        tries.append(time.perf_counter() - began)
    hop = network.windowing.hop if network.windowing.length else length
    return min(tries) / windows * network.card.sample_rate / hop
