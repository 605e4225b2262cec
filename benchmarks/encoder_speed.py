"""Claim: hearing 30 s of sound costs less than the model card's way of doing it, and gives the same numbers.

The full-size music2vec architecture with seeded random weights (the published weights cannot be shipped), float32, one
thread. The model card's way: eager attention, all 13 hidden states of the clip kept, averaged over time, under no_grad.
Both ways hear the whole clip at once, and the same clip in windows of 5 s.

Run: python benchmarks/encoder_speed.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from _common import header, side_by_side, table

from embedstore.encoders import MeanPool, load_encoder
from embedstore.encoders.music2vec import Music2vec

RATE, SECONDS, WINDOW = 16_000, 30, 5


def model_card(network: torch.nn.Module, pieces: list[np.ndarray]) -> np.ndarray:
    """Average all hidden states over time, as the model card's example does; then over the pieces."""
    heard = []
    for piece in pieces:
        scaled = (piece - piece.mean()) / np.sqrt(piece.var() + 1e-7)
        with torch.no_grad():
            states = network(torch.from_numpy(scaled)[None], output_hidden_states=True).hidden_states
        heard.append(torch.stack(states)[:, 0].mean(1).numpy())
    return np.mean(heard, axis=0)


def ours(encoder, pieces: list[np.ndarray]) -> np.ndarray:
    pool = MeanPool()
    for window in encoder.encode(pieces):
        pool.add(window)
    return np.stack(pool.result().vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    encoder = load_encoder("random:music2vec", seed=0, device="cpu")
    from transformers import Data2VecAudioConfig, Data2VecAudioModel  # after load_encoder, which mends its imports

    fields = {name: value for name, value in Music2vec.published.config.items() if name != "model_type"}
    card = Data2VecAudioModel(
        Data2VecAudioConfig(**fields, mask_time_prob=0.0, mask_feature_prob=0.0, attn_implementation="eager")
    ).eval()
    card.load_state_dict(encoder._network.state_dict())
    sound = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE).astype(np.float32)
    clips = {f"whole {SECONDS} s": [sound], f"{SECONDS // WINDOW} x {WINDOW} s": np.split(sound, SECONDS // WINDOW)}
    runs = {}
    for name, pieces in clips.items():
        runs[f"model card's way, {name}"] = lambda pieces=pieces: model_card(card, pieces)
        runs[f"embedstore, {name}"] = lambda pieces=pieces: ours(encoder, pieces)
    truth = {name: model_card(card, pieces) for name, pieces in clips.items()}
    times = side_by_side(runs, times=repeats)
    rows = []
    for name, pieces in clips.items():
        reference = times[f"model card's way, {name}"].median
        difference = np.abs(ours(encoder, pieces) - truth[name]).max()
        for way in ("model card's way", "embedstore"):
            time = times[f"{way}, {name}"]
            rows.append(
                (way, name, time, f"{SECONDS / time.median:.1f}", f"{reference / time.median:.2f}", f"{difference:.1e}")
            )
    print(header("embedstore-mir", "torch", "transformers", "numpy") + f"; one thread, {repeats} repeats\n")
    print(table(("way", "sound", "median (range)", "x real time", "gain", "max abs difference, 13 layers"), rows))


if __name__ == "__main__":
    main()
