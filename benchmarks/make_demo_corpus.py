"""Make the demo's music: real compositions, played by a synthesiser.

    python benchmarks/make_demo_corpus.py demo/audio

The scores (demo_scores.csv lists them) come out of the package `music21`, the instruments out of the soundfont inside
`pretty_midi`, the sound out of `symusic`: three packages of PyPI, nothing else. Every genre is played by the same four
ensembles equally often and saved in the same five formats, so neither the instrument nor the codec gives the genre away:
what is left is the composition and its tempo. The sound is the same in every run (with the same packages and
--per-genre); a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
from scipy.signal import oaconvolve

SEED = 1600
SECONDS = (20.0, 26.0)  # length of a track
FEWEST_NOTES = 16  # in a track; a score with fewer is passed over
FORMATS = [("ogg", 44100, 2), ("mp3", 44100, 2), ("flac", 22050, 1), ("ogg", 48000, 2), ("mp3", 48000, 1)]
ENSEMBLES = {  # General MIDI programs, dealt to the voices in turn
    "piano": [0],
    "guitars": [24, 25],
    "strings": [40, 41, 42],
    "winds": [73, 68, 71],
}
README = """This music was rendered from scores by a synthesiser. These are not recordings, and nobody plays here.

Scores: the corpus inside the PyPI package music21 (some of its encodings exclude commercial use: see the licences there).
Instruments: TimGM6mb.sf2, the General MIDI soundfont inside the PyPI package pretty_midi (GPL). Synthesiser: symusic.
Made by benchmarks/make_demo_corpus.py for trying embedstore out on your own machine; not for redistribution.

Every genre is played by the same ensembles (piano, guitars, strings, winds), so the instrument says nothing about the
genre; the tempo is drawn from what is usual for it. "artist" is the composer; for songs whose composer is unknown the
region or the book; for dance tunes the book and who typed the tune in. All are excerpts of 20 to 26 s; a short tune is
repeated.
"""
Row = dict[str, str]  # one line of a table
with Path(__file__).with_name("demo_scores.csv").open(newline="", encoding="utf-8") as file:
    SCORES: list[Row] = list(csv.DictReader(file))  # artist, scores in music21's corpus, ABC headers a tune must have
TEMPO = {row["genre"]: (int(row["slowest"]), int(row["fastest"])) for row in SCORES}  # quarter notes a minute


class Piece(NamedTuple):
    """One composition that could become a track."""

    artist: str
    album: str
    title: str
    path: str  # below music21's corpus
    abc: str  # the tune's own text; "" where the file is the piece


class Note(NamedTuple):
    """A note; onset and length in quarter notes."""

    onset: float
    quarters: float
    pitch: int
    voice: int


def package_folder(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        sys.exit(f"make_demo_corpus: {name} is not installed; run: pip install -e '.[demo]'")
    return Path(spec.origin).parent


def find_pieces(artist: str, files: str, headers: str) -> Iterator[Piece]:
    """All pieces of one line of demo_scores.csv, in a fixed order."""
    corpus = package_folder("music21") / "corpus"
    wanted = re.findall(r"([A-Z]):(.*?)(?= [A-Z]:|$)", headers)
    for path in sorted({path for pattern in files.split() for path in corpus.glob(pattern)}):
        inside = path.relative_to(corpus).as_posix()
        if not wanted:
            title = re.sub(r"[_-]+", " ", re.sub(r"PMFC_[\d_a-z-]+", "", path.stem)).strip()
            yield Piece(artist, path.parent.name, title, inside, "")
            continue
        tunes = re.split(r"(?m)^(?=X:)", path.read_text("latin-1").replace("\r", ""))[1:]
        album = path.parent.name if len(tunes) == 1 else path.stem
        for tune in tunes:
            head = {field: text.strip() for field, text in reversed(re.findall(r"(?m)^([A-Z]):(.*)", tune))}
            if all(re.search(pattern, head.get(field, ""), re.IGNORECASE) for field, pattern in wanted):
                yield Piece(artist, album, head.get("T", "untitled"), inside, tune.strip() + "\n")


def deal(genre: str) -> list[Piece]:
    """Line the pieces of a genre up so that its artists take turns; a title comes once."""
    rng = random.Random(f"{SEED} {genre}")
    piles = [list(find_pieces(row["artist"], row["files"], row["headers"])) for row in SCORES if row["genre"] == genre]
    for pile in piles:
        rng.shuffle(pile)
    once: dict[str, Piece] = {}
    while any(piles):
        for piece in [pile.pop() for pile in piles if pile]:
            work = piece.title if piece.abc else f"{piece.album} {piece.title}"
            once.setdefault(re.sub(r"\W|the", "", work.lower()), piece)
    return list(once.values())


def read_notes(piece: Piece) -> list[Note]:
    """Read a score: every voice, ties joined, grace notes and chord symbols (which have no length) left out."""
    from music21 import converter, stream

    if piece.abc:
        score = converter.parseData(piece.abc, format="abc")
    else:
        path = package_folder("music21") / "corpus" / piece.path
        score = converter.parse(path, forceSource=True, storePickle=False)
    if isinstance(score, stream.Opus):  # Josquin: each voice is a tune of its own in the file
        score = score.mergeScores()
    notes: list[Note] = []
    for voice, part in enumerate(score.parts):
        tied: dict[int, int] = {}  # pitch -> place of the note that goes on
        for element in part.flatten().notes:
            onset, quarters = float(element.offset), float(element.quarterLength)
            for tone in getattr(element, "notes", [element]) if quarters else []:
                tie, pitch = tone.tie.type if tone.tie else "", tone.pitch.midi
                if tie in ("stop", "continue") and pitch in tied:
                    first = notes[tied[pitch]]
                    notes[tied[pitch]] = first._replace(quarters=onset + quarters - first.onset)
                else:
                    notes.append(Note(onset, quarters, pitch, voice))
                    tied[pitch] = len(notes) - 1
                if tie not in ("start", "continue"):
                    tied.pop(pitch, None)
    return sorted(notes)


def excerpt(notes: list[Note], quarters: float, rng: random.Random) -> list[Note]:
    """Cut `quarters` out of a long piece; play a short one again from the top until it is long enough."""
    end = max((note.onset + note.quarters for note in notes), default=0.0)
    if end > 2 * quarters:
        start = rng.choice([note.onset for note in notes if note.onset < end - quarters])
        notes = [note._replace(onset=note.onset - start) for note in notes if note.onset >= start]
    rounds = int(quarters // end) + 1 if end else 0
    again = (note._replace(onset=note.onset + end * r) for r in range(rounds) for note in notes)
    return [note for note in again if note.onset < quarters]


def play(
    notes: list[Note], bpm: float, programs: list[int], rate: int, channels: int, rng: random.Random
) -> np.ndarray:
    """Render with a little human unevenness in a small room: (n_samples, channels), about -20 dB RMS."""
    import symusic

    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, bpm))
    tracks = {
        voice: symusic.Track(program=programs[voice % len(programs)]) for voice in sorted({n.voice for n in notes})
    }
    for note in notes:
        onset = max(0, round(480 * note.onset + rng.gauss(0, 4)))
        velocity = round(rng.gauss(88 if note.onset % 1 == 0 else 74, 5))
        tracks[note.voice].notes.append(symusic.Note(onset, max(30, round(470 * note.quarters)), note.pitch, velocity))
    score.tracks.extend(tracks.values())
    font = package_folder("pretty_midi") / "TimGM6mb.sf2"
    dry = symusic.Synthesizer(str(font), rate, 0).render(score, stereo=channels == 2).T
    noise = np.random.default_rng(SEED).standard_normal((rate, channels))
    room = noise * np.exp(-np.arange(rate) / (0.15 * rate))[:, None] * 0.25 / np.sqrt(0.075 * rate)
    room[0] = 1.0
    sound = oaconvolve(dry, room.astype("float32"), axes=0)
    return sound * min(0.1 / np.sqrt(np.mean(sound**2)), 0.9 / np.abs(sound).max())


def save(path: Path, sound: np.ndarray, rate: int) -> None:
    """Write under a hidden name, then rename: a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with sf.SoundFile(part, "w", rate, sound.shape[1], format=path.suffix[1:].upper()) as file:
        for start in range(0, len(sound), rate):  # libsndfile's Vorbis writer overflows its stack on long blocks
            file.write(sound[start : start + rate].astype("float32"))
    part.replace(path)


def make_track(out: Path, genre: str, slot: int, pieces: list[Piece]) -> Row:
    """Make the first of `pieces` that can be read and is long enough."""
    number = list(TEMPO).index(genre)
    ensemble = list(ENSEMBLES)[(slot + 3 * number) % len(ENSEMBLES)]
    suffix, rate, channels = FORMATS[(slot + slot // len(FORMATS) + number) % len(FORMATS)]
    for piece in pieces:
        rng = random.Random(f"{SEED} {genre} {slot}")
        seconds, bpm = rng.uniform(*SECONDS), rng.uniform(*TEMPO[genre])
        try:
            notes = excerpt(read_notes(piece), seconds * bpm / 60, rng)
        except Exception as error:  # noqa: BLE001 - music21 raises many kinds on a faulty score; the next one steps in
            print(f"  passed over {piece.path} ({piece.title}): {type(error).__name__}", file=sys.stderr)
            continue
        if len(notes) < FEWEST_NOTES:
            continue
        sound = play(notes, bpm, ENSEMBLES[ensemble], rate, channels, rng)[: int(seconds * rate)]
        fade = int(1.5 * rate)
        sound[-fade:] *= np.linspace(1, 0, fade)[:, None]
        name = f"{genre}_{slot:02d}"
        save(out / genre / f"{name}.{suffix}", sound, rate)
        row = {"path": f"{genre}/{name}.{suffix}", "track_id": name, "genre": genre, "artist": piece.artist}
        row |= {"album": piece.album, "title": piece.title, "performer": f"synthesised {ensemble}"}
        row |= {"seconds": f"{len(sound) / rate:.2f}", "sample_rate": str(rate), "channels": str(channels)}
        return row | {"codec": suffix, "source": f"music21 corpus: {piece.path}"}
    sys.exit(f"make_demo_corpus: no usable score for {genre}, track {slot}; is music21 another version?")


def make_tracks(pool: ProcessPoolExecutor, out: Path, per_genre: int, names: set[str]) -> Iterator[Row]:
    """Make the tracks in `names`, each given as soon as it is there."""
    jobs = []
    for genre in TEMPO:
        slots = [slot for slot in range(per_genre) if f"{genre}_{slot:02d}" in names]
        pieces = deal(genre) if slots else []
        jobs += [pool.submit(make_track, out, genre, slot, pieces[slot::per_genre]) for slot in slots]
    for job in as_completed(jobs):
        yield job.result()


def write_table(table: Path, rows: dict[str, Row]) -> None:
    """Write metadata.csv whole, then rename it."""
    part = table.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(next(iter(rows.values()))))
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))
    part.replace(table)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--per-genre", type=int, default=16, metavar="N", help="tracks in each genre [16]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="worker processes [all cores]")
    args = parser.parse_args()
    started, table = time.monotonic(), args.out / "metadata.csv"
    done: dict[str, Row] = {}
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            done = {row["track_id"]: row for row in csv.DictReader(file) if (args.out / row["path"]).exists()}
    wanted = {f"{genre}_{slot:02d}" for genre in TEMPO for slot in range(args.per_genre)}
    print(
        f"{args.out}: {len(wanted)} tracks in {len(TEMPO)} genres, {len(wanted & set(done))} already there", flush=True
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "README.txt").write_text(README, encoding="utf-8")
    with ProcessPoolExecutor(args.jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            for count, row in enumerate(make_tracks(pool, args.out, args.per_genre, wanted - set(done)), 1):
                done[row["track_id"]] = row
                write_table(table, done)  # after every track: a stopped run goes on from here
                if count % 16 == 0:
                    print(f"  {count} made, {time.monotonic() - started:.0f} s", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            sys.exit("stopped; the same command goes on from here")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file()) / 1e6
    print(f"{args.out}: {len(done)} tracks, {size:.0f} MB, rendered from scores by a synthesiser (see its README.txt)")


if __name__ == "__main__":
    main()
