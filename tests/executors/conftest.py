"""Music and the comparison of stores, for all who encode besides one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedstore.store import EmbeddingStore

PLUGINS = str(Path(__file__).parent.parent / "plugins")


@pytest.fixture(autouse=True)
def toy_on_path(monkeypatch):
    """Let `module:Class` find the toy encoder."""
    monkeypatch.syspath_prepend(PLUGINS)


@pytest.fixture
def music(tmp_path, write_audio):
    """Twelve tracks of three genres, one of them twice, and a file that is no sound."""
    for number in range(12):
        write_audio(f"music/g{number % 3}/{number:02d}.wav", seconds=0.6, frequency=100.0 + 50 * number)
    write_audio("music/g2/copy.wav", seconds=0.6, frequency=100.0)
    (tmp_path / "music" / "g0" / "broken.mp3").write_text("no sound" * 50)
    return tmp_path / "music"


@pytest.fixture
def content():
    """Say all that a store holds, in a form in which two stores can be compared."""

    def tell(path):
        store = EmbeddingStore.open(path)
        assert store.verify().ok
        assert store.problems == ()
        matrices = [store.layer(layer.number) for layer in store.card.layers]
        vectors = {
            key: [matrix.values[row].tobytes() for matrix in matrices] for row, key in enumerate(store.keys().tolist())
        }
        tracks = {t.key: (set(t.files), t.seconds, t.sample_rate, t.channels, t.warnings) for t in store.tracks()}
        return {
            "recipe": store.recipe,
            "vectors": vectors,
            "tracks": tracks,
            "labels": {key: (set(one.genres), set(one.artists), one.source) for key, one in store.labels().items()},
            "files": store.files(),
            "failures": {(f.file, f.stage, f.reason) for f in store.failures()},
        }

    return tell
