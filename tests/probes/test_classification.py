"""New files get a genre: from the sound itself, through the store's own encoder, and from a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cli
import probes
from embedstore import EmbeddingStore, build
from embedstore.errors import EncoderMismatchError, ParameterError
from probes.base import Problem, load_probe, score_settings
from probes.layers import load_features, open_source
from probes.probefile import probe_path
from probes.saved import SavedProbe
from probes.scaling import standardise
from probes.task import make_task

PLUGINS = str(Path(__file__).parent.parent / "plugins")
PITCH = {"blues": 200, "jazz": 900, "rock": 2500}


@pytest.fixture(autouse=True)
def _toy_on_path(monkeypatch, tmp_path):
    """Let `module:Class` find the toy encoder; run in an empty folder."""
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMBEDSTORE_STORE", raising=False)


def song(genre: str, number: int, seconds: float = 1.0) -> np.ndarray:
    """Draw a tone of the genre's pitch in noise."""
    rng = np.random.default_rng(number)
    time = np.arange(int(8000 * seconds)) / 8000
    sound = 0.4 * np.sin(2 * np.pi * (PITCH[genre] + 7 * number) * time) + rng.normal(0, 0.05, len(time))
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Build a store of 18 songs and save a probe in it, once."""
    import soundfile

    folder = tmp_path_factory.mktemp("trained")
    for genre in PITCH:
        for number in range(6):
            path = folder / "music" / genre / f"{genre} {number}" / "song.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, song(genre, number), 8000)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        build(folder / "music", folder / "store", encoder="toy_encoder:Toy", jobs=1)
        save(EmbeddingStore.open(folder / "store"), "genres")
    return folder


def save(store: EmbeddingStore, name: str, *, tags: bool = False, **more: object) -> None:
    """Train a probe on a store and keep it, calibrated by its scores on held-out thirds."""
    source = open_source(store)
    task = make_task(source.keys, source.labels, group="none")
    if tags:
        right = np.eye(3, dtype=np.int64)[task.y]
        task = replace(task, y=np.column_stack([right, 1 - right[:, 2]]), genres=(*task.genres, "tone"))
    (feature,) = load_features(source, 1, task.keys)
    scores = np.empty((1, len(task.y), len(task.genres)))
    for third in range(3):
        held = np.arange(len(task.y)) % 3 == third
        train, test = np.flatnonzero(~held), np.flatnonzero(held)
        x, rows = standardise(feature.values, train, test)
        problem = Problem(x[0], task.y[train], rows[0], task.groups[train], len(task.genres))
        scores[0, test] = score_settings(load_probe("logistic"), [problem], [{"C": 1.0}])[0][0]
    given = {
        "feature": feature,
        "layers": source.layers,
        "task": task,
        "about": {**source.about, **more},
        "scores": scores,
    }
    probes.keep_probe(probe_path(name, store.path), probe="logistic", setting={"C": 1.0}, **given)


@pytest.fixture
def store(trained, tmp_path) -> EmbeddingStore:
    """Copy it."""
    shutil.copytree(trained / "store", tmp_path / "embeddings")
    return EmbeddingStore.open(tmp_path / "embeddings")


def run(*arguments: object, code: int = 0) -> object:
    """Run `embedstore classify`."""
    result = CliRunner().invoke(cli.main, ["classify", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if "--json" in arguments else result


def test_new_files_get_their_genre(store, write_audio):
    """Files and folders, in the order they were named, each once, with probabilities; the store stays as it is."""
    for genre in PITCH:
        write_audio(f"new/{genre}.wav", sample_rate=8000, samples=song(genre, 20))
    single = write_audio("other.ogg", sample_rate=8000, samples=song("jazz", 21))
    before = store.keys().tolist()
    found = probes.classify(store, [single, "new", "new/rock.wav"], top=3)
    assert [(Path(answer.path).name, *answer.genres) for answer in found.answers] == [
        ("other.ogg", "jazz"),
        ("blues.wav", "blues"),
        ("jazz.wav", "jazz"),
        ("rock.wav", "rock"),
    ]
    for answer in found.answers:
        shares = [share for _, share in answer.ranking]
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)
        assert answer.ranking[0][0] == answer.genres[0]
    assert (found.probe, found.failed, found.threshold, found.coverage) == ("genres", 0, 0.0, None)
    assert store.keys().tolist() == before


def test_what_is_stored_is_not_encoded(store, trained, tmp_path, monkeypatch):
    """Stored files and copies of them are answered from the store, just as if they were encoded."""
    stored = trained / "music/rock/rock 0/song.wav"
    shutil.copy(stored, tmp_path / "copy.wav")
    (fresh,) = probes.classify(store, "copy.wav").answers
    empty = EmbeddingStore.create(tmp_path / "empty", store.card, store.recipe)
    (encoded,) = probes.classify(empty, "copy.wav", probe_path("genres", store.path)).answers
    assert fresh == encoded
    monkeypatch.setattr("embedstore.options.EncoderOptions.load", None)  # a stored file needs no network
    (known,) = probes.classify(store, stored).answers
    assert (known.genres, known.ranking) == (encoded.genres, encoded.ranking)


def test_on_a_terminal(store, trained):
    """One line a file; a file that cannot be heard is one line on stderr, and the exit code is 1."""
    song = str(trained / "music/blues/blues 0/song.wav")
    shown = run(song)
    assert "genres by the probe genres" in shown.stdout
    assert [line.split("song.wav")[1].split()[0] for line in shown.stdout.splitlines() if song in line] == ["blues"]
    Path("broken.mp3").write_text("no sound")
    shown = run("broken.mp3", song, "missing.wav", code=1)
    failed = [line for line in shown.stderr.splitlines() if not line.startswith("note: ")]
    assert [line.split(":")[0] for line in failed] == ["broken.mp3", "missing.wav"]
    assert song in shown.stdout
    told = run("broken.mp3", song, "missing.wav", "--json", code=1)
    assert [answer["genres"] for answer in told["answers"]] == [[], ["blues"], []]
    assert ["error" in answer for answer in told["answers"]] == [True, False, True]
    assert told["answers"][1]["ranking"][0].keys() == {"genre", "probability"}


def test_nothing_to_show_is_no_table(store):
    """Without a single answer there is one line a file, and nothing on stdout."""
    shown = run("missing.mp3", code=1)
    assert shown.stdout == ""
    assert shown.stderr.startswith("missing.mp3: ")
    assert len(shown.stderr.splitlines()) == 1


def test_what_the_probe_is_worth(store, trained, write_audio):
    """Training tracks, honest score, a calibration that did not help, files that it was trained on: told beside answers."""
    stored = trained / "music/blues/blues 0/song.wav"
    fresh = write_audio("a.wav", sample_rate=8000, samples=song("jazz", 20))
    score = {"layer": 1, "macro_f1": {"value": 0.5861, "low": 0.499, "high": 0.6632}}
    calibration = SavedProbe.load(probe_path("genres", store.path)).about["calibration"]
    worse = {**calibration, "after": {name: value + 0.1 for name, value in calibration["before"].items()}}
    save(store, "measured", selected=score, calibration=worse)
    found = run(stored, fresh, "--probe", "measured", "--json")
    assert [answer["trained_on"] for answer in found["answers"]] == [True, False]
    worth, calibrated, known = found["notes"]
    assert worth == ("the probe was trained on 18 tracks of 3 genres; macro-F1 0.586 [0.499, 0.663] on tracks held out")
    before = calibration["before"]["brier"]
    assert "calibration did not help on 18 tracks: " in calibrated
    assert f"brier {before:.3f} before, {before + 0.1:.3f} after" in calibrated
    assert known.startswith("1 of these files were among its training tracks")
    assert f"note: {worth}" in run(fresh, "--probe", "measured").stderr
    (plain,) = run(fresh, "--probe", "genres", "--json")["notes"][:1]
    assert plain == "the probe was trained on 18 tracks of 3 genres; no score was kept with it"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--risk", "0.5", "--abstain", "0.5"], "give one of the two"),
        (["--risk", "1"], "0<x<1"),
        (["--risk", "0"], "0<x<1"),
        (["--abstain", "1.5"], "0<=x<=1"),
    ],
)
def test_a_threshold_that_makes_no_sense(arguments, words):
    """Told as misuse of the command, before anything is opened."""
    assert words in run("a.wav", *arguments, code=2).stderr


def test_not_sure(store, trained):
    """Below --abstain there is no genre; --risk chooses the threshold and says how many reach it."""
    song = str(trained / "music/blues/blues 0/song.wav")
    assert run(song, "--abstain", "1", "--json")["answers"][0]["genres"] == []
    assert "not sure" in run(song, "--abstain", "1").stdout
    assert run(song, "--abstain", "0.01", "--json")["answers"][0]["genres"] == ["blues"]
    found = run(song, "--risk", "0.6", "--json")
    assert (found["coverage"], found["answers"][0]["genres"]) == (1.0, ["blues"])
    assert "100 % of the tracks" in run(song, "--risk", "0.6").stdout
    refused = run(song, "--risk", "0.01", code=1)
    assert "no threshold promises at most 0.01 wrong answers" in refused.stderr
    with pytest.raises(ParameterError, match="one is enough"):
        probes.classify(store, song, risk=0.5, abstain=0.5)


def test_a_probe_of_another_recipe_is_refused(store, write_audio, tmp_path):
    """Vectors of another recipe are not what it was trained on."""
    write_audio("music/x/a.wav")
    other = EmbeddingStore.create(tmp_path / "other", store.card, {**store.recipe, "revision": "2"})
    with pytest.raises(EncoderMismatchError, match=r"trained on recipe [0-9a-f]{16}; the store .*other has recipe"):
        probes.classify(other, "music", probe_path("genres", store.path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere/"], "No such file"),
        (["empty"], "there is no audio in empty"),
        (["a.wav", "--probe", "genre"], "unknown saved probe 'genre'; did you mean 'genres'"),
        (["a.wav", "--probe", "../store/x"], "cannot be read"),
        (["a.wav", "--probe", "a b"], "letters, digits"),
    ],
)
def test_what_cannot_be_done_is_one_line(store, write_audio, arguments, words):
    """What was asked, what was found."""
    write_audio("a.wav", sample_rate=8000)
    Path("empty").mkdir()
    shown = run(*arguments, code=1)
    assert words in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1


def test_the_store_lives_on_with_probes_in_it(store, trained, tmp_path, monkeypatch):
    """Verify, compact, merge, repair and info take no notice; the probe is still there."""
    assert store.verify().ok
    store.compact()
    target = EmbeddingStore.create(tmp_path / "merged", store.card, store.recipe)
    assert target.merge(store).tracks == 18
    assert store.repair().ok
    assert cli.main.main(["info", "--store", str(store.path)], standalone_mode=False) is None
    assert SavedProbe.load(probe_path("genres", store.path)).tracks == 18
    assert EmbeddingStore.open(store.path).problems == ()


def test_tags(store, write_audio):
    """Of several tags, all that are likelier than not are named."""
    save(store, "tags", tags=True)
    write_audio("a.wav", sample_rate=8000, samples=song("blues", 20))
    (answer,) = probes.classify(store, "a.wav", "tags", top=4).answers
    assert set(answer.genres) == {"blues", "tone"}
    assert [share >= 0.5 for _, share in answer.ranking] == [True, True, False, False]


@pytest.mark.slow
def test_from_probe_to_genre(store, write_audio):
    """`probe --save` keeps what `classify` takes; another kind of probe is refused before the work."""
    write_audio("a.wav", sample_rate=8000, samples=song("blues", 20))
    for name in ("knn", "mlp"):
        made = CliRunner().invoke(cli.main, ["probe", "--probe", name, "--save", name, "--seeds", "1", "--jobs", "1"])
        assert made.exit_code == 0, made.output
        found = run("a.wav", "--probe", name, "--json")
        assert found["answers"][0]["genres"] == ["blues"]
        assert re.search(r"18 tracks of 3 genres; macro-F1 [01]\.\d{3} \[.*\] on tracks held out", found["notes"][0])
        assert SavedProbe.load(probe_path(name, store.path)).about["protocol"]["folds"] == 5
    refused = CliRunner().invoke(cli.main, ["probe", "--probe", "sklearn.svm.LinearSVC", "--save", "x"])
    assert (refused.exit_code, "only built-in probes" in refused.stderr) == (1, True)


def test_odd_files_fail_alone(store, write_audio):
    """A pipe is not waited for, a link that leads nowhere is missing; the others are heard."""
    write_audio("a.wav", sample_rate=8000, samples=song("rock", 20))
    os.mkfifo("pipe.wav")
    Path("link.wav").symlink_to("nowhere")
    found = probes.classify(store, ["pipe.wav", "link.wav", "a.wav"], timeout=5)
    assert [bool(answer.error) for answer in found.answers] == [True, True, False]
    assert found.answers[2].genres == ("rock",)
    with pytest.raises(ParameterError, match="top is at least 1"):
        probes.classify(store, "a.wav", top=0)
