"""Claim: the memory of a build does not grow with the length of a track: 3 hours need at most 200 MB more than 30 s.

A file of 30 s and a file of 3 hours (noisy chords, flac, stereo, 44.1 kHz) go through `build`, each alone in a fresh
process: the peak of that process (VmHWM) after it has loaded the network, and of its decoder. The network is music2vec's
with random weights, half the channels in its front end and one narrow block instead of 12: with the whole of it, which
`--encoder random:music2vec` measures, 3 hours take a quarter of an hour; what waits between decoder and encoder is
bounded in samples of sound, for any network.

Run: python benchmarks/encoder_memory.py [--encoder random:music2vec] [--hours 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import soundfile
from _common import VERDICTS, header, peak, table, verdict

from embedstore import build
from embedstore.encoders.music2vec import Music2vec
from embedstore.options import EncoderOptions

RATE = 44_100
SMALL = {
    "conv_dim": [256] * 7,
    "hidden_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 192,
}


def song(folder: Path, seconds: int) -> Path:
    """Write a noisy chord, 10 s at a time."""
    folder.mkdir()
    time = np.arange(10 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * f * time) for f in (220, 330, 440, 660)) * 0.1
    stereo = (chord[:, None] + np.random.default_rng(0).normal(0, 0.02, (len(time), 2))).astype(np.float32)
    with soundfile.SoundFile(folder / "song.flac", "w", RATE, 2, compression_level=0) as file:
        for _ in range(seconds // 10):
            file.write(stereo)
    return folder


def children(pid: int) -> list[int]:
    found = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(file).split()]
    return [*found, *(below for child in found for below in children(child))]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:  # the thread ended
        return ""


def measure(audio: Path, store: Path, name: str, model: Path | None) -> tuple[float, float, dict]:
    """Build in a fresh process: its peak and its children's, in MB, and what it says."""
    asked = [sys.executable, __file__, "--alone", audio, store, name, *([model] if model else [])]
    process = subprocess.Popen(list(map(str, asked)), stdout=subprocess.PIPE, text=True)
    below: dict[int, float] = {}
    while process.poll() is None:
        for child in children(process.pid):
            below[child] = max(below.get(child, 0.0), peak(child))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the build of {audio} failed (exit code {process.returncode})")
    said = json.loads(process.stdout.read())
    return said["peak"], sum(below.values()), said


def alone(audio: str, store: str, name: str, model: str | None = None) -> None:
    """Be the fresh process."""

    def progress(done: int, *_) -> None:
        if not done:  # all is loaded, nothing is heard: a peak of loading must not hide one of encoding
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    options = EncoderOptions(name=name, model=model, device="cpu")
    report = build(audio, store, encoder=options, jobs=1, labels="none", progress=progress)
    print(json.dumps({"peak": peak("self"), "audio": report.seconds_audio, "wall": report.seconds_wall}))


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        return alone(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="")
    parser.add_argument("--hours", type=float, default=3)
    args = parser.parse_args()
    if not Path("/proc/self/status").exists():
        print("not measured: peaks are read from /proc, which this system does not have")
        return None
    rows, peaks = [], []
    with tempfile.TemporaryDirectory() as scratch:
        model = None
        if not args.encoder:
            model = Path(scratch, "model")
            model.mkdir()
            (model / "config.json").write_text(json.dumps(Music2vec.published.config | SMALL), encoding="utf-8")
        for seconds in (30, round(args.hours * 3600)):
            audio = song(Path(scratch, f"{seconds}"), seconds)
            target = Path(scratch, f"store-{seconds}")
            inside, decoder, said = measure(audio, target, args.encoder or "random:huggingface", model)
            peaks.append((inside, decoder))
            rows.append((f"{said['audio']:,.0f} s", f"{inside:.0f} MB", f"{decoder:.0f} MB", f"{said['wall']:.0f} s"))
    print(header("embedstore-mir", "torch", "transformers", "soundfile", "soxr") + "; one lane\n")
    print(table(("sound", "peak of the build", "peak of its decoder", "took"), rows) + "\n")
    more = verdict(
        f"MB more for {args.hours:g} h than for 30 s, decoder included", sum(peaks[1]) - sum(peaks[0]), at_most=200
    )
    print(table(VERDICTS, [more]))
    return None


if __name__ == "__main__":
    main()
