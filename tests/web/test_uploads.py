"""Sounds that are sent: heard once, remembered as vectors, compared in any layer, beside stored tracks or instead of them."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.audio import SoundReport
from embedstore.errors import AudioError
from embedstore.search import Query, Searcher, Seed, Shape
from embedstore.search.seeds import Heard
from embedstore.types import LayerEmbeddings, Windowing, track_id
from embedstore.web import uploads
from embedstore.web.answers import plain
from embedstore.web.extension import Extension
from embedstore.web.offers import Guess, Guessed

IDS = [track_id(1000 + i) for i in range(10)]


def on_circle(*angles, key=77):
    """Make a sound whose vector in each layer lies at one of these degrees."""
    vectors = tuple(np.array([np.cos(np.radians(a)), np.sin(np.radians(a))], np.float32) for a in angles)
    report = SoundReport(key, 44100, 2, 88_200, "nothing", ("it stops early",))
    return Heard(report, LayerEmbeddings(vectors, 10), Windowing(16000, 16000))


@pytest.fixture
def send(client, searcher, client_of, monkeypatch):
    """Send a sound that lies at these degrees, to a service with this guess; give the answer, its client, and what was heard."""
    heard = []

    def make(*angles, guess=None, error=None, key=77):
        def hear(path, **_):
            heard.append(path.read_bytes())
            if error:
                raise AudioError(f"{path}: {error}", stage="decode")
            return on_circle(*angles, key=key)

        monkeypatch.setattr(searcher, "hear", hear)
        asked = client_of(searcher, extensions=[Extension(guess=guess)]) if guess else client
        return asked.post("/api/uploads?name=my%20song.mp3", content=b"sound"), asked, heard

    return make


def test_a_sound_is_heard_once_and_compared_in_every_layer(send) -> None:
    """At 31 degrees in one layer and 72 in the other, its neighbours differ; its own name is what its sender calls it."""
    answer, client, heard = send(31, 72)
    said = answer.json()
    assert answer.status_code == 201
    assert said == {
        "id": said["id"], "name": "my song.mp3", "seconds": 2.0, "genres": [], "probe": None, "sure": False, "stored": None, "notes": ["it stops early"],
    }  # fmt: skip
    for layer, nearest in ((0, [3, 4, 2]), ("layer 1", [7, 8, 6]), (None, [7, 8, 6]), ("mean", [5, 6, 4])):
        asked = {"k": 3} | ({} if layer is None else {"layer": layer})
        found = client.get(f"/api/uploads/{said['id']}/neighbors", params=asked).json()
        assert [hit["track"] for hit in found["hits"]] == [IDS[i] for i in nearest], layer
        assert found["query"] == f"upload:{said['id']}"
    rock = client.get(f"/api/uploads/{said['id']}/neighbors", params={"layer": 0, "k": 1, "genre": "rock"}).json()
    assert rock["hits"][0]["track"] == IDS[5]
    assert heard == [b"sound"]


def test_more_like_a_sound_and_less_like_a_track(send, searcher) -> None:
    """It is a seed as stored tracks are, with any weight: the sum of the vectors by hand."""
    answer, client, _ = send(20, 20)
    name = f"upload:{answer.json()['id']}"
    seeds = [{"what": name}, {"what": IDS[0], "weight": -0.5}]
    hits = client.post("/api/search", json={"query": {"seeds": seeds}, "shape": {"k": 9}}).json()["hits"]
    at = {i: np.array([np.cos(np.radians(10 * i)), np.sin(np.radians(10 * i))]) for i in range(10)}
    wanted = at[2] - 0.5 * at[0]
    expected = sorted(range(1, 10), key=lambda i: -(at[i] @ wanted))
    assert [hit["track"] for hit in hits] == [IDS[i] for i in expected]
    for what in ("upload:nothing", "upload:", "xupload:1"):
        answer = client.post("/api/search", json={"query": {"seeds": [{"what": what}]}})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "TrackNotFoundError"), what
    moment = client.post("/api/search", json={"query": {"seeds": [{"what": name, "at": 1}]}})
    assert moment.status_code == 400
    assert "the windows of upload:" in moment.json()["error"]["message"]


def test_a_guess_is_told(send) -> None:
    """What the probe thinks of the very vectors; without one to ask, nothing."""
    asked = []

    def guess(store, heard, key):
        asked.append((len(store), [vector.tolist() for vector in heard.vectors], key))
        return Guessed("logistic", (Guess("rock", 0.75), Guess("blues", 0.25)), ("it is not sure",), sure=not asked[1:])

    said = send(0, 90, guess=guess)[0].json()
    assert said["genres"] == [{"genre": "rock", "probability": 0.75}, {"genre": "blues", "probability": 0.25}]
    assert (said["probe"], said["notes"], said["sure"]) == ("logistic", ["it stops early", "it is not sure"], True)
    ((tracks, vectors, key),) = asked
    assert (tracks, key) == (10, 77)
    assert send(0, 90, guess=guess)[0].json()["sure"] is False
    assert np.allclose(vectors, [[1, 0], [0, 1]], atol=1e-6)
    assert send(0, 90, guess=lambda *_: None)[0].json()["probe"] is None


def test_a_sound_that_is_stored_is_told(send) -> None:
    """The id of the track that is this very sound; which is then not its own neighbour."""
    answer, client, _ = send(40, 40, key=1004)
    assert answer.json()["stored"] == IDS[4]
    hits = client.get(f"/api/uploads/{answer.json()['id']}/neighbors?k=2").json()["hits"]
    assert {hit["track"] for hit in hits} == {IDS[3], IDS[5]}


def test_what_cannot_be_heard_leaves_nothing(send) -> None:
    """One line, without the name that it has here."""
    answer, client, _ = send(error="no sound in it")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "no sound in it")
    assert client.get("/api/uploads/1/neighbors").status_code == 404


def test_the_last_sounds_are_remembered(send, monkeypatch) -> None:
    """Those before are forgotten, and whoever asks is told to send them again."""
    monkeypatch.setattr(uploads, "_REMEMBERED", 2)
    answer, client, _ = send(0, 0)
    first = answer.json()["id"]
    others = [client.post("/api/uploads", content=b"x").json()["id"] for _ in range(2)]
    assert "send it again" in client.get(f"/api/uploads/{first}/neighbors").json()["error"]["message"]
    assert all(client.get(f"/api/uploads/{one}/neighbors").status_code == 200 for one in others)


def test_every_search_takes_a_layer(client, searcher) -> None:
    """By number, by name, the mean; what there is not is told. Few searchers are kept, and they share what is said of the tracks."""
    query = {"query": {"seeds": [{"what": IDS[3]}]}}
    for layer in (0, "layer 0", "mean", 1, None):
        asked = {} if layer is None else {"layer": layer}
        own = Searcher(searcher.store, layer=layer).search(Query((Seed(IDS[3]),)), shape=Shape(k=10))
        assert client.get(f"/api/tracks/{IDS[3]}/neighbors", params=asked | {"k": 10}).json() == plain(own)
        assert client.post("/api/search", json=query, params=asked).json()["hits"] == plain(own)["hits"]
    answer = client.get(f"/api/tracks/{IDS[3]}/neighbors?layer=12")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "UnknownNameError")
    beside = searcher.beside(0)
    assert beside.view().columns() is searcher.view().columns()
    assert (beside.layer, searcher.layer) == (0, 1)


@pytest.mark.slow
def test_a_real_sound(tmp_path, write_audio, client_of) -> None:
    """Sent once, it finds the tracks of its pitch in each layer, and itself if it is stored; the encoder is loaded once."""
    from embedstore.pipeline import build

    for i, (genre, pitch) in enumerate([("low", 110), ("low", 120), ("high", 1500), ("high", 1600)]):
        write_audio(f"music/{genre}/{i}.wav", 2.0, frequency=pitch)
    build(tmp_path / "music", tmp_path / "store", encoder="mfcc", jobs=1)
    with Searcher.open(tmp_path / "store") as searcher, client_of(searcher) as client:
        new = client.post("/api/uploads", content=write_audio("new.flac", 2.0, 44100, frequency=1550).read_bytes())
        known = client.post("/api/uploads", content=(tmp_path / "music/low/1.wav").read_bytes()).json()
        for layer in searcher.store.card.layers:
            hits = client.get(f"/api/uploads/{new.json()['id']}/neighbors?k=2&layer={layer.number}").json()["hits"]
            assert [hit["genres"] for hit in hits] == [["high"], ["high"]]
        assert client.get(f"/api/tracks/{known['stored']}").json()["paths"] == [str(tmp_path / "music/low/1.wav")]
        assert len(searcher._ear._loaded) == 1
        assert client.post("/api/uploads", content=b"noise").status_code == 422
