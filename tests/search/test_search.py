"""Search: what a query may be, what comes back, and in which order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from embedstore.audio import SoundReport
from embedstore.errors import AudioError, ParameterError, TrackNotFoundError, UnknownNameError
from embedstore.index import build_index
from embedstore.options import EncoderOptions
from embedstore.search import Query, Searcher, Seed, Shape, search
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels, Windowing, track_id

Add = Callable[..., EmbeddingStore]


def degrees(angle: float, length: float = 1.0) -> list[float]:
    return [length * np.cos(np.radians(angle)), length * np.sin(np.radians(angle))]


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Store one track in each of two layers (the second one mirrored), by its angle in the plane."""
    layers = (Layer(0, "layer 0", 2), Layer(4, "deep", 2))
    card = EncoderCard("toy", "toy", "", "0" * 64, 16000, layers, 50.0, "none", "float32", "CC0-1.0", "", 4)
    store = EmbeddingStore.create(tmp_path / "store", card, {"encoder": "toy", "dtype": "float16"})

    def put(
        key: int, vector: Sequence[float], genres: tuple[str, ...] = (), path: Path | None = None
    ) -> EmbeddingStore:
        file = AudioFile("/music", f"{key}.ogg", 1, key)
        if path is not None:
            file = AudioFile(str(path.parent), path.name, path.stat().st_size, path.stat().st_mtime_ns)
        mirrored = np.array([vector[0], -vector[1]])
        vectors = LayerEmbeddings((np.array(mirrored, np.float32), np.array(vector, np.float32)), 10)
        with store.writer() as writer:
            labels = TrackLabels(genres, ("X", "Y") if key % 2 else (), title=f"title {key}" if key % 2 else "")
            writer.add(Track(key, (file,), 30.0, 44100, 2, labels), f"{key:032x}", vectors)
        return store

    return put


@pytest.fixture
def circle(add: Add) -> EmbeddingStore:
    """Tracks 0..9 at 0, 10, ..., 90 degrees; lengths differ; the first five are blues, the others rock, 4 is both."""
    for i in range(10):
        genres = ("blues",) * (i < 5) + ("rock",) * (i >= 4)
        store = add(i, degrees(10 * i, 1 + i), genres)
    return store


def found(store: EmbeddingStore, query: object = None, **options: object) -> list[int]:
    return [int(hit.track, 16) for hit in search(store, query, **options).hits]


@pytest.mark.parametrize("query", [track_id(3), "/music/3.ogg", "3.ogg", "3"])
def test_a_stored_track_by_any_of_its_names(circle: EmbeddingStore, query: str) -> None:
    """Id, path and file name lead to the same track, which is not among its own results."""
    assert found(circle, query, k=4) == [2, 4, 1, 5]


def test_hits_are_described(circle: EmbeddingStore) -> None:
    """Scores are cosines, ranks count from 1, and JSON carries the promised keys."""
    result = search(circle, track_id(3), k=2)
    assert [hit.rank for hit in result.hits] == [1, 2]
    np.testing.assert_allclose([hit.score for hit in result.hits], np.cos(np.radians(10)), atol=1e-4)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {name: document[name] for name in ("query", "layer", "notes")} == {
        "query": track_id(3),
        "layer": 4,
        "notes": [],
    }
    assert document["results"][1] == {
        "rank": 2, "track": track_id(4), "path": "/music/4.ogg", "genre": "blues;rock", "artist": None, "album": None,
        "title": None, "seconds": 30.0, "score": result.hits[1].score, "percentile": result.hits[1].percentile, "copies": [],
        "at": None, "end": None,
    }  # fmt: skip
    (odd,) = search(circle, track_id(0), k=1).to_dict()["results"]
    assert (odd["genre"], odd["artist"], odd["title"]) == ("blues", "X;Y", "title 1")


def test_layers(circle: EmbeddingStore) -> None:
    """The default layer is the card's; number, name and mean choose another; an unknown one lists what there is."""
    assert search(circle, "3", layer=0).layer == 0
    assert search(circle, "3", layer="0").layer == 0
    assert search(circle, "3", layer="deep").layer == 4
    mean = search(circle, "9", k=9, layer="mean")
    assert mean.layer == "mean"
    assert mean.hits[0].score == 0  # the two layers' sines cancel out: track 9 is left with nothing
    with pytest.raises(UnknownNameError, match=r"there is no layer '5'; .* 0, 4 \(deep\)"):
        search(circle, "3", layer="5")


def test_include_self_and_k_beyond_the_store(circle: EmbeddingStore) -> None:
    """With itself, the query comes first with score 1; k larger than the store gives all the store has."""
    everything = search(circle, "3", k=1000, include_self=True).hits
    assert (len(everything), everything[0].track, everything[0].score) == (10, track_id(3), pytest.approx(1, abs=1e-6))
    assert len(found(circle, "3", k=10**9)) == 9


def test_genre_centres_weigh_directions_not_lengths(circle: EmbeddingStore) -> None:
    """Blues lies around 20 degrees though its longest vector is at 40; a track of two genres counts in both."""
    assert found(circle, genre="blues", k=3)[0] == 2
    assert set(found(circle, genre="rock", k=2)) == {6, 7}
    assert search(circle, genre="rock").query == "genre:rock"


def test_unknown_genre_names_the_closest(circle: EmbeddingStore) -> None:
    """The known genres are listed."""
    with pytest.raises(UnknownNameError, match=r"unknown genre 'blue'; did you mean 'blues'\? known: blues, rock"):
        search(circle, genre="blue")


def test_a_store_without_labels_has_no_genres(add: Add) -> None:
    """Asking for a genre says that there are none."""
    with pytest.raises(UnknownNameError, match=r"known: \(none\)"):
        search(add(1, [1, 0]), genre="blues")


def test_wrong_arguments(circle: EmbeddingStore) -> None:
    """A k below 1, no query, two queries, and names that lead nowhere."""
    with pytest.raises(ParameterError, match="k must be a whole number, at least 1; got 0"):
        search(circle, "3", k=0)
    for both in ({}, {"query": "3", "genre": "blues"}, {"query": Query((Seed("3"),)), "genre": "blues"}):
        with pytest.raises(ParameterError, match="one of the two"):
            search(circle, **both)
    for nothing in ("nothing.mp3", "", "\0", track_id(77)):
        with pytest.raises(TrackNotFoundError):
            search(circle, nothing)


def test_empty_and_one_track_stores(tmp_path: Path, add: Add) -> None:
    """An empty store is an error that says what to do; a single track has no neighbours."""
    store = EmbeddingStore.open(tmp_path / "store")
    with pytest.raises(ParameterError, match="holds no tracks; build first"):
        search(store, "1.ogg")
    assert search(add(1, [1, 0]), "1.ogg").hits == ()


def test_zero_vectors(add: Add) -> None:
    """A silent track scores 0 with everything, whoever asks; equal scores come in order of their ids."""
    for key, vector in ((5, [0, 0]), (6, [1, 0]), (7, [-1, 0]), (8, [0, 0])):
        store = add(key, vector)
    assert [(hit.track, hit.score) for hit in search(store, "5").hits] == [(track_id(key), 0) for key in (6, 7, 8)]
    assert [(int(hit.track, 16), hit.score) for hit in search(store, "6").hits] == [(5, 0), (8, 0), (7, -1)]


def test_an_index_does_not_change_results_and_a_bad_one_is_noted(circle: EmbeddingStore) -> None:
    """The same hits with and without an index; a damaged index is a note."""
    before = search(circle, "3", k=5)
    path = Path(build_index(circle).path)
    assert search(circle, "3", k=5) == before
    for file in path.iterdir():
        file.write_bytes(b"junk")
    after = search(circle, "3", k=5)
    assert after.hits == before.hits
    assert "build it again with 'embedstore index'" in after.notes[0]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, circle: EmbeddingStore) -> dict[str, tuple[int, list[float]]]:
    """Replace the encoder: what each file name sounds like."""
    sounds: dict[str, tuple[int, list[float]]] = {}

    def hear_file(encoder: object, path: str, *, keep_windows: bool) -> tuple[SoundReport, LayerEmbeddings]:
        key, vector = sounds[Path(path).name]
        mirrored = [vector[0], -vector[1]]
        report = SoundReport(key, 16000, 1, 480_000, "none", ("stopped early",))
        whole = (np.array(mirrored, np.float32), np.array(vector, np.float32))
        parts = [np.array(degrees(angle), np.float16) for angle in (0, 45, 90)]
        windows = tuple(LayerEmbeddings((part * [1, -1], part), 5) for part in parts) if keep_windows else ()
        return report, LayerEmbeddings(whole, 5 * (len(windows) or 1), windows)

    encoder = SimpleNamespace(card=circle.card, windowing=Windowing(length=160_000, hop=160_000))
    monkeypatch.setattr("embedstore.options.encoder_of", lambda store, **_options: encoder)
    monkeypatch.setattr("embedstore.options.hear_file", hear_file)
    return sounds


def test_any_audio_file(tmp_path: Path, circle: EmbeddingStore, heard: dict[str, tuple[int, list[float]]]) -> None:
    """A file that is not stored is encoded; nothing is left out; the layer is the one asked for."""
    (tmp_path / "new.wav").write_bytes(b"sound")
    heard["new.wav"] = (99, degrees(31))
    assert found(circle, tmp_path / "new.wav", k=3) == [3, 4, 2]
    assert found(circle, str(tmp_path / "new.wav"), k=1, layer=0) == [3]
    assert found(circle, tmp_path / "new.wav", k=10, layer="mean")[0] == 0
    assert search(circle, tmp_path / "new.wav").notes == (f"{tmp_path / 'new.wav'}: stopped early",)


def test_a_moment_of_a_file(tmp_path: Path, circle: EmbeddingStore, heard: dict[str, tuple[int, list[float]]]) -> None:
    """The window around it is what is searched for; of a stored sound, too, though the store keeps no windows."""
    (tmp_path / "new.wav").write_bytes(b"sound")
    for key in (99, 3):
        heard["new.wav"] = (key, degrees(31))
        for second, nearest in ((0.0, 0), (19.0, 4), (30.0, 9)):
            (hit,) = search(circle, Query((Seed(str(tmp_path / "new.wav"), at=second),)), k=1).hits
            assert (int(hit.track, 16), hit.at) == (nearest, None)
    with pytest.raises(ParameterError, match=r"new.wav ends at 0:30; there is no moment 0:30.50"):
        search(circle, Query((Seed(str(tmp_path / "new.wav"), at=30.5),)))


def test_a_file_whose_sound_is_stored(
    tmp_path: Path, circle: EmbeddingStore, heard: dict[str, tuple[int, list[float]]]
) -> None:
    """A copy of a stored recording is that recording: its stored vector, itself left out."""
    (tmp_path / "copy.wav").write_bytes(b"sound")
    heard["copy.wav"] = (3, degrees(80))
    assert found(circle, tmp_path / "copy.wav", k=2) == found(circle, track_id(3), k=2)


def test_a_stored_file_is_not_encoded_again(
    tmp_path: Path, circle: EmbeddingStore, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is stored is answered from the store, also when it is relative; a changed file is noted."""
    path = tmp_path / "here.wav"
    path.write_bytes(b"sound")
    add(50, degrees(52), path=path)
    monkeypatch.chdir(tmp_path)
    for query in ("here.wav", "./here.wav", str(path)):
        result = search(circle, query, k=1)
        assert (int(result.hits[0].track, 16), result.notes) == (5, ())
    path.write_bytes(b"other sound")
    assert "here.wav has changed since it was stored" in search(circle, "here.wav", k=1).notes[0]


def test_a_file_here_wins_over_a_stored_one_of_that_name(
    tmp_path: Path, circle: EmbeddingStore, heard: dict[str, tuple[int, list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`3.ogg` in this folder is meant, not /music/3.ogg."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3.ogg").write_bytes(b"sound")
    heard["3.ogg"] = (99, degrees(70))
    assert found(circle, "3.ogg", k=1) == [7]


@pytest.mark.slow
def test_with_the_real_encoder(tmp_path: Path) -> None:
    """Build, search by file and by copy, and fail on a file that is no audio: the real pipeline, with MFCCs."""
    from embedstore.pipeline import build

    music = tmp_path / "music"
    times = np.arange(16000 * 2) / 16000
    for i, (genre, pitch) in enumerate([("low", 110), ("low", 120), ("high", 1500), ("high", 1600)]):
        (music / genre).mkdir(parents=True, exist_ok=True)
        sound = np.sin(2 * np.pi * pitch * times) + 0.01 * np.random.default_rng(i).normal(size=len(times))
        soundfile.write(music / genre / f"{i}.wav", sound / 2, 16000)
    assert build(music, tmp_path / "store", encoder="mfcc", jobs=1).added == 4
    store = EmbeddingStore.open(tmp_path / "store")
    assert search(store, str(music / "low" / "0.wav"), k=1).hits[0].path == str(music / "low" / "1.wav")
    soundfile.write(tmp_path / "new.wav", np.sin(2 * np.pi * 1550 * times) / 2, 16000)
    assert {hit.genres for hit in search(store, tmp_path / "new.wav", k=2).hits} == {("high",)}
    (tmp_path / "copy.wav").write_bytes((music / "low" / "0.wav").read_bytes())
    assert search(store, tmp_path / "copy.wav").hits == search(store, str(music / "low" / "0.wav")).hits
    (tmp_path / "text.mp3").write_text("not audio")
    with pytest.raises(AudioError, match=r"text\.mp3"):
        search(store, tmp_path / "text.mp3")


@pytest.mark.slow
@pytest.mark.parametrize("stored", [True, False])
def test_a_moment_of_a_real_file(
    tmp_path: Path, write_audio: Any, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """The window around it is what is searched for, whether or not the sound is stored; windows need not be kept for that."""
    from embedstore.encoders import load_encoder
    from embedstore.pipeline import build

    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "plugins"))
    for i, pitch in enumerate((300.0, 1000.0, 3000.0)):
        write_audio(f"music/{i}.wav", 2.0, 8000, frequency=pitch)
    sound = np.concatenate([soundfile.read(tmp_path / f"music/{i}.wav", dtype="float32")[0] for i in (1, 2, 0)])
    path = write_audio("music/three.wav" if stored else "three.wav", sample_rate=8000, samples=sound)
    build(tmp_path / "music", tmp_path / "store", encoder=EncoderOptions(name="toy_encoder:Toy"), jobs=1)
    store = EmbeddingStore.open(tmp_path / "store")
    copy = tmp_path / "copy.wav"
    copy.write_bytes(path.read_bytes())
    for second, expected in ((0.5, "1.wav"), (3.0, "2.wav"), (5.9, "0.wav")):
        result = search(store, Query((Seed(str(copy), at=second),)), layer=1)
        assert Path(result.hits[0].path).name == expected
        assert "three.wav" not in [Path(hit.path).name for hit in result.hits]
        assert result.hits[0].at is None
    with pytest.raises(ParameterError, match=r"copy.wav ends at 0:06; there is no moment 0:07"):
        search(store, Query((Seed(str(copy), at=7.0),)))
    encoder = load_encoder("toy_encoder:Toy")
    heard = encoder.encode([sound[: encoder.windowing.length]])[0].vectors[1]
    first = search(store, Query((Seed(str(copy), at=0.1),)), layer=1).hits[0]
    row = store.vectors(np.array([int(first.track, 16)]), 1)[0]
    assert first.score == pytest.approx(heard @ row / np.linalg.norm(heard) / np.linalg.norm(row), abs=1e-5)


@pytest.mark.slow
def test_copies_in_other_formats_stand_under_one(tmp_path: Path) -> None:
    """The real encoder, a small library of melodies, and copies of some: by a lossy codec, quieter, and cut."""
    from embedstore.pipeline import build

    rng = np.random.default_rng(0)
    music, rate = tmp_path / "music", 22050
    music.mkdir()
    times = np.arange(rate // 2) / rate
    for i in range(24):
        notes = 110 * 2 ** (rng.uniform(0, 3) + rng.integers(0, 12, 20) / 12)
        strength = rng.uniform(0.05, 1, 12) / np.arange(1, 13) ** rng.uniform(0, 2)
        fade, level = np.exp(-rng.uniform(1, 10) * times), 10 ** rng.uniform(-3, -1.3)
        tones = [
            fade * sum(s * np.sin(2 * np.pi * note * h * times) for h, s in enumerate(strength, 1)) for note in notes
        ]
        melody = 0.1 * np.concatenate(tones) + level * rng.normal(size=20 * len(times))
        soundfile.write(music / f"{i}.wav", melody, rate)
        if i < 4:
            soundfile.write(music / f"{i} copy.ogg", melody, rate, compression_level=0)
            soundfile.write(music / f"{i} copy.aiff", melody / 2, rate)
            soundfile.write(music / f"{i} copy.flac", melody[rate // 4 :], rate)
    build(music, tmp_path / "store", encoder=EncoderOptions(name="mfcc"), jobs=2)
    searcher = Searcher(EmbeddingStore.open(tmp_path / "store"))
    hits = searcher.search("20.wav", shape=Shape(k=100, collapse=True)).hits
    assert sorted(len(hit.copies) for hit in hits) == [0] * 19 + [3] * 4
    near = searcher.search("0.wav", shape=Shape(k=100, collapse=True)).hits
    assert not any(Path(hit.path).name.startswith("0 copy") for hit in near)
