"""Windows as a variable, from a folder to a store and back: length, hop, normalisation, and rows that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedstore.audio import cut_windows, read_audio
from embedstore.encoders import base
from embedstore.errors import EncoderMismatchError, ParameterError, StoreError
from embedstore.estimate import estimate
from embedstore.options import EncoderOptions, encoder_of, hear_file
from embedstore.pipeline import build
from embedstore.store import EmbeddingStore

PLUGINS = str(Path(__file__).parent / "plugins")
TOY = "toy_encoder:Toy"


@pytest.fixture(autouse=True)
def toy_on_path(monkeypatch):
    """Let `module:Class` find the toy encoder."""
    monkeypatch.syspath_prepend(PLUGINS)


@pytest.fixture
def music(tmp_path, write_audio):
    """Four tracks of 0.9, 3.4, 5.9 and 8.4 s, each louder towards its end."""
    for number, seconds in enumerate((0.9, 3.4, 5.9, 8.4)):
        rng = np.random.default_rng(number)
        sound = rng.normal(0, 0.05, round(8000 * seconds)) * np.linspace(0.2, 2, round(8000 * seconds))
        write_audio(f"music/rock/{number}.wav", sample_rate=8000, samples=sound.astype("f4"), subtype="FLOAT")
    return tmp_path / "music"


def store_of(music, store, *, keep_windows=False, **options):
    """Build with the toy encoder."""
    report = build(music, store, encoder=EncoderOptions(name=TOY, **options), keep_windows=keep_windows, jobs=1)
    assert report.failed == 0
    return EmbeddingStore.open(store)


@pytest.mark.parametrize(
    "options", [{}, {"hop": 0.25}, {"window": "track"}, {"window": 2, "hop": 1.0, "normalise": "file"}]
)
def test_kept_windows_are_what_the_encoder_heard(music, tmp_path, options):
    """Each is the encoder's word on that piece of the sound; their weighted mean is the track's vector."""
    store = store_of(music, tmp_path / "kept", keep_windows=True, **options)
    plain = store_of(music, tmp_path / "plain", **options)
    assert sorted(store.keys()) == sorted(plain.keys())
    encoder = encoder_of(store)
    for layer, (number, _, _) in enumerate(store.spec.layers):
        np.testing.assert_array_equal(
            plain.vectors(store.keys(), number), store.layer(number).values, err_msg="keeping windows changes no vector"
        )
        for matrix, row, track in zip(
            store.iter_windows(number), store.layer(number).values, store.tracks(), strict=True
        ):
            sound = read_audio(track.path, 8000).samples
            moments = {"mean": float(sound.mean(dtype="f8")), "deviation": float(sound.std(dtype="f8"))}
            windows = list(cut_windows([sound], encoder.windowing, **moments))
            heard = encoder.encode(windows)
            np.testing.assert_allclose(matrix.values, [one.vectors[layer] for one in heard], rtol=1e-3, atol=1e-5)
            assert matrix.frames.tolist() == [one.n_frames for one in heard]
            assert set(matrix.keys.tolist()) == {track.key}
            lengths = [len(window) / 8000 for window in windows]
            np.testing.assert_allclose(matrix.ends - matrix.starts, lengths, atol=1e-9)
            hop = 0 if encoder.windowing.length is None else encoder.windowing.hop / 8000
            np.testing.assert_allclose(matrix.starts, np.arange(len(windows)) * hop)
            assert matrix.ends[-1] == pytest.approx(track.seconds)
            mean = np.average(matrix.values.astype("f8"), axis=0, weights=matrix.frames)
            np.testing.assert_allclose(mean, row, atol=2**-10 * np.abs(matrix.values).max())
    assert store.verify().ok


def test_later_builds_go_on_keeping(music, tmp_path, write_audio):
    """Without the option and with it; other options of the window are remembered too, and others than these refused."""
    store = store_of(music, tmp_path / "store", keep_windows=True, hop=0.5, normalise="file")
    assert [store.recipe[name] for name in ("windows", "window_length", "window_hop")] == ["kept", 8000, 4000]
    assert store.recipe["preprocessing"] == "zero mean, unit variance per file"
    for number, keep in ((1, False), (2, True)):
        write_audio(f"music/rock/new{number}.wav", 3.0, 8000, frequency=100.0 * number)
        assert build(music, tmp_path / "store", keep_windows=keep, jobs=1).added == 1
        assert len(store.windows(0, store.keys()[-1:])) == 5
    report, embeddings = hear_file(encoder_of(store), tmp_path / "music/rock/new1.wav")
    np.testing.assert_allclose(store.vectors([report.key], 1)[0], embeddings.vectors[1], rtol=1e-3)
    for options, field in (({"hop": 1.0}, "window_hop"), ({"normalise": "none"}, "preprocessing")):
        write_audio(f"music/rock/{field}.wav", 1.0, 8000, frequency=1000.0)
        with pytest.raises(EncoderMismatchError, match=f"; {field}: stored .*, now "):
            build(music, tmp_path / "store", encoder=EncoderOptions(**options))


@pytest.mark.parametrize("empty", [True, False])
def test_a_store_without_windows_stays_so(music, tmp_path, write_audio, empty):
    """Asked for too late, they are refused in one line; nothing changes, and the store goes on without."""
    if empty:
        encoder = EncoderOptions(name=TOY).load()
        EmbeddingStore.create(tmp_path / "store", encoder.card, base.recipe_of(encoder)).close()
    else:
        store_of(music, tmp_path / "store")
    with pytest.raises(ParameterError, match=r"was made without windows.*another --store.*leave out --keep-windows$"):
        build(music, tmp_path / "store", keep_windows=True)
    with pytest.raises(ParameterError, match="was made without windows"):
        estimate(music, tmp_path / "store", keep_windows=True)
    write_audio("music/rock/new.wav", 3.0, 8000)
    report = build(music, tmp_path / "store")
    assert report.added == (5 if empty else 1)
    with pytest.raises(StoreError, match="keeps no windows"):
        EmbeddingStore.open(tmp_path / "store").windows()


def test_per_file_normalisation_takes_level_and_offset_out(tmp_path, write_audio):
    """The same sound at another level gives the same vectors per file, and others without."""
    rng = np.random.default_rng(0)
    sound = (rng.normal(0, 0.1, 24_000) * np.repeat([0.3, 1.0, 0.1], 8000)).astype(np.float32)
    for name, scaled in (("a", sound), ("b", sound / 4 + np.float32(0.25))):
        write_audio(f"music/{name}.wav", sample_rate=8000, samples=scaled, subtype="FLOAT")
    per_file = store_of(tmp_path / "music", tmp_path / "file", keep_windows=True, normalise="file")
    first, second = (matrix.values for matrix in per_file.iter_windows(0))
    np.testing.assert_allclose(first, second, rtol=2e-3, atol=2e-3)
    assert first[1, 0] > 2 * first[0, 0] > 4 * first[2, 0], "loud and quiet windows stay loud and quiet"
    per_window = store_of(tmp_path / "music", tmp_path / "window", normalise="window").layer(0).values
    plain = store_of(tmp_path / "music", tmp_path / "none").layer(0).values
    np.testing.assert_allclose(per_window[0], per_window[1], rtol=0.05)
    assert np.abs(plain[0] - plain[1]).max() > 0.05


def test_the_estimate_counts_kept_windows(music, tmp_path):
    """Two bytes for each number of a row, of a track or a window."""
    options = EncoderOptions(name=TOY, hop=0.5)
    plain = estimate(music, tmp_path / "store", encoder=options)
    kept = estimate(music, tmp_path / "store", encoder=options, keep_windows=True)
    store = store_of(music, tmp_path / "store", keep_windows=True, hop=0.5)
    assert plain.bytes == 2 * 10 * 4
    assert kept.bytes == pytest.approx(2 * 10 * (4 + store.count_windows()), rel=0.15)


def test_a_track_with_too_many_windows_is_a_failure_row(music, tmp_path, monkeypatch):
    """The reason says what to do; the other tracks are stored."""
    monkeypatch.setattr(base, "MOST_WINDOW_BYTES", 2 * 10 * 6)
    report = build(music, tmp_path / "store", encoder=TOY, keep_windows=True)
    assert (report.added, report.failed) == (3, 1)
    store = EmbeddingStore.open(tmp_path / "store")
    (failure,) = store.failures()
    assert failure.file.path == "rock/3.wav"
    assert failure.reason.startswith("7 windows of it take more than")
    assert store.count_windows() == 1 + 4 + 6
    assert store.verify().ok


def test_a_store_without_tracks_is_a_store(tmp_path, write_audio):
    """Whoever was killed before the first commit, or had only bad files, goes on with the encoder and what is known."""
    write_audio("music/a.wav", 0.05, 8000)
    store = tmp_path / "store"
    assert build(tmp_path / "music", store, encoder=EncoderOptions(name=TOY, layers="1")).failed == 1
    write_audio("music/b.wav", 2.0, 8000)
    report = build(tmp_path / "music", store)
    assert (report.added, report.failed) == (1, 1)
    assert [layer.number for layer in EmbeddingStore.open(store).card.layers] == [1]
