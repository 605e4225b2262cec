"""Trained probes on the disk: the same answers after reading, and one clear line for whatever else a file may hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from embedstore.errors import ParameterError, StoreError, StoreFormatError, UnknownNameError
from embedstore.types import Layer, LayerEmbeddings, LayerMatrix, TrackLabels
from probes.base import BUILTIN, Problem, load_probe, score_settings
from probes.layers import load_features, open_source
from probes.mlp import MLPProbe
from probes.probefile import encode, probe_path, saved_probes
from probes.saved import SavedProbe, keep_probe, load_saved, savable
from probes.scaling import standardise
from probes.splits import make_folds
from probes.task import Task, make_task

QUICK_MLP = MLPProbe(hidden=(8,), max_epochs=5)
EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in ("mlp", "genrenet") else []) for name in sorted(BUILTIN)]


def material(*, genres: int = 3, tags: bool = False, layer: object = 1, apart: float = 4.0) -> dict:
    """Make what `keep_probe` takes, but for probe, setting and scores: 60 tracks, genre known to layer 1 of 3."""
    rng = np.random.default_rng(0)
    keys, y = np.arange(60), np.arange(60) % genres
    rows = rng.normal(size=(3, 60, 10)).astype(np.float32)
    rows[1] += apart * np.eye(genres, 10, dtype=np.float32)[y]
    layers = [LayerMatrix(number, f"layer {number}", keys, values) for number, values in enumerate(rows)]
    labels = {
        int(key): TrackLabels((f"genre {'abc'[number]}",), (f"artist {key // 4}",))
        for key, number in zip(keys, y, strict=True)
    }
    source = open_source(layers, labels)
    task = make_task(source.keys, source.labels, group="none")
    if tags:
        given = np.eye(genres, dtype=np.int64)[y]
        given[::4, 0] = 1
        task = replace(task, y=given)
    (feature,) = load_features(source, layer, task.keys)
    return {"feature": feature, "layers": source.layers, "task": task, "about": {"fingerprint": "f" * 64}}


def out_of_fold(probe: object, setting: dict, task: Task, values: np.ndarray) -> np.ndarray:
    """Score each track by a probe that was trained without its group, shape (1, n, n_classes)."""
    scores = np.full((1, len(task.y), len(task.genres)), np.nan)
    folds = make_folds(task.y if task.y.ndim == 1 else task.y.argmax(1), task.groups, 3, 0)
    for fold in range(3):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        x, held = standardise(values[:1], train, test)
        problem = Problem(x[0], task.y[train], held[0], task.groups[train], len(task.genres))
        scores[0, test] = score_settings(probe, [problem], [setting])[0][0]
    return scores


def kept(path: Path, probe: object = "logistic", setting: dict | None = None, **given) -> SavedProbe:
    """Train and save."""
    model = load_probe(probe)
    setting = (dict(model.grid[-1]) if isinstance(probe, str) else {}) if setting is None else setting
    scores = out_of_fold(model, setting, given["task"], given["feature"].values)
    return keep_probe(path, probe=probe, setting=setting, scores=scores, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SavedProbe:
    """Train one for those who only read it."""
    return kept(tmp_path_factory.mktemp("saved") / "a", **material())


def stack(given: dict) -> dict[int, np.ndarray]:
    """Vectors by layer number, when all layers are heard."""
    return {layer.number: values for layer, values in zip(given["layers"], given["feature"].values, strict=True)}


@pytest.mark.parametrize("tags", [False, True], ids=["genres", "tags"])
@pytest.mark.parametrize("genres", [2, 3])
@pytest.mark.parametrize("name", EACH)
def test_a_saved_probe_is_the_probe(tmp_path, name, genres, tags):
    """Read again, it answers bit for bit as before; its scores are those of the sweep; labels that are right come first."""
    given = material(genres=genres, tags=tags)
    values, task = given["feature"].values, given["task"]
    probe = QUICK_MLP if name == "mlp" else name
    made = kept(tmp_path / "a.safetensors", probe, **given)
    read = SavedProbe.load(made.path)
    said = made.predict({1: values[0]})
    assert np.array_equal(said.probabilities, read.predict({1: values[0]}).probabilities)
    rows = np.arange(len(task.y))
    x, same = standardise(values, rows, rows)
    setting = {} if name == "mlp" else load_probe(name).grid[-1]
    swept = score_settings(load_probe(probe), [Problem(x[0], task.y, same[0], task.groups, genres)], [setting])[0][0]
    expected = made.calibration(swept)
    assert np.allclose(said.probabilities, expected, atol=2e-3)
    if not tags:
        assert np.allclose(said.probabilities.sum(1), 1)
    assert (read.probe, read.genres, read.tracks, read.multilabel) == (name, task.genres, 60, tags)


@pytest.mark.parametrize("layer", [1, "mean", "concat", "mix"])
def test_every_feature_is_put_together_again(tmp_path, layer):
    """Single layers, mean, side by side, learned mix: from the raw layers as from the sweep's feature."""
    given = material(layer=layer)
    whole = material(layer="mix")
    made = kept(tmp_path / "a.safetensors", **given)
    vectors = stack(whole)
    assert [one.number for one in made.heard] == ([1] if layer == 1 else [0, 1, 2])
    scaled = made.prepare(given["feature"].values)
    assert (made.prepare.weights is not None) == (layer == "mix")
    assert scaled.mean() == pytest.approx(0, abs=1e-9)
    assert scaled.std(0) == pytest.approx(np.ones(scaled.shape[1]))
    expected = made.calibration(made.models[0].decision_function(scaled))
    assert np.array_equal(SavedProbe.load(made.path).predict(vectors).probabilities, expected)
    heard = LayerEmbeddings(tuple(vectors[number][7] for number in (0, 1, 2)), 1)
    assert np.allclose(made.predict(heard).probabilities, expected[7:8])


def test_what_is_said_of_it(tmp_path):
    """The header, and a copy of it for people, tell what was trained on what and how well."""
    given = material()
    given["about"] |= {
        "store": str(tmp_path),
        "selected": {"layer": 1, "macro_f1": {"value": 0.9, "low": 0.8, "high": 0.95}},
    }
    made = kept(probe_path("genres.v1", tmp_path), "logistic", {"C": 0.1}, **given)
    told = json.loads((tmp_path / "probes" / "genres.v1.json").read_text())
    assert told == {name: value for name, value in made.about.items() if name not in ("format", "sum")}
    assert (made.name, made.layer, made.fingerprint) == ("genres.v1", 1, "f" * 64)
    assert told["params"]["C"] == 0.1
    assert told["tracks_per_genre"] == {"genre a": 20, "genre b": 20, "genre c": 20}
    assert told["calibration"]["after"].keys() == {"calibration_error", "brier", "log_loss"}
    assert made.curve.coverage[-1] == 1
    assert (made.measure, str(made.score)) == ("macro_f1", "0.900 [0.800, 0.950]")
    assert np.array_equal(SavedProbe.load(made.path).keys, given["task"].keys)
    assert repr(made) == "SavedProbe(genres.v1: logistic, layer 1, 3 genres, 60 tracks)"


def test_a_file_of_the_users_is_left_alone(tmp_path):
    """Outside a store the description is not written: a .json of the same name may be anybody's."""
    (tmp_path / "mine.json").write_text("precious")
    given = material()
    given["about"] |= {"store": str(tmp_path / "store")}
    kept(probe_path(tmp_path / "mine", "s"), **given)
    assert (tmp_path / "mine.json").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "mine.safetensors"]


@pytest.mark.parametrize(
    "selected",
    [
        None,
        "0.9",
        {},
        {"macro_f1": 0.9},
        {"macro_f1": {"value": 0.9, "low": None, "high": 1.0}},
        {"macro_f1": {"value": 99.0, "low": 0.0, "high": 1.0}},
    ],
)
def test_a_score_that_is_none(made, selected):
    """What is not a score and its interval is not quoted as one."""
    assert SavedProbe.parse(edited(made, about=lambda said: said.update(selected=selected)), "x").score is None


def test_what_calibration_made_worse(made):
    """Measures that were better before are told, with both values; what looks equal in three digits is not."""
    before = {"calibration_error": 0.1, "brier": 0.5, "log_loss": 0.9}
    after = {"calibration_error": 0.2, "brier": 0.50001, "log_loss": 0.8}
    spoiled = edited(made, about=lambda said: said["calibration"].update(before=before, after=after))
    assert SavedProbe.parse(spoiled, "x").worsened == {"calibration_error": (0.1, 0.2)}


def test_abstaining(tmp_path):
    """Below the threshold there is a top genre, and no answer."""
    given = material(apart=1.0)
    said = kept(tmp_path / "a", **given).predict({1: given["feature"].values[0]}, 0.5)
    assert np.array_equal(said.abstained, said.probabilities.max(1) < 0.5)
    assert 0 < said.abstained.sum() < 60
    assert np.array_equal(said.top, said.probabilities.argmax(1))


def test_vectors_that_are_not_what_it_hears(made):
    """Missing, of another width, not finite: said by layer and shape."""
    for wrong in ({}, {1: np.zeros((2, 9))}, {1: np.zeros(10)}, {1: np.full((1, 10), np.nan)}):
        with pytest.raises(ParameterError, match=r"hears layer 1 \(layer 1\) as finite numbers of shape \(n, 10\)"):
            made.predict(wrong)


def test_a_constant_dimension_says_nothing(tmp_path):
    """It is 0 in training and stays 0 for whatever comes."""
    given = material()
    given["feature"].values[:, :, 3] = 7
    made = kept(tmp_path / "a", **given)
    rows = given["feature"].values[0].copy()
    expected = made.predict({1: rows}).probabilities
    rows[:, 3] = -1e6
    assert np.array_equal(SavedProbe.load(made.path).predict({1: rows}).probabilities, expected)


@pytest.mark.parametrize("probe", ["sklearn.naive_bayes.GaussianNB", "sklearn.svm.LinearSVC"])
def test_only_built_in_probes_are_saved(probe):
    """Said before any work is done."""
    with pytest.raises(ParameterError, match=r"cannot be saved, only built-in probes: .*knn, logistic"):
        savable(probe)
    assert [savable(name) for name in BUILTIN] == list(BUILTIN)


def test_names_and_paths(tmp_path):
    """A name is in the store's folder and can lead nowhere else; a path leads where it says."""
    assert probe_path("a.b-c_1", tmp_path) == tmp_path / "probes" / "a.b-c_1.safetensors"
    assert probe_path(tmp_path / "x.safetensors", "s") == tmp_path / "x.safetensors"
    assert probe_path("./x", "s") == Path.cwd() / "x.safetensors"
    for name in ("", ".hidden", "-x", "a b", "ä", "x" * 101, "a\n", ".."):
        with pytest.raises(ParameterError, match="letters, digits"):
            probe_path(name, tmp_path)
    with pytest.raises(ParameterError, match="give a path"):
        probe_path("genres", None)


def test_finding_them(tmp_path):
    """By name or path; one alone needs none; several or none are listed."""
    with pytest.raises(ParameterError, match="no saved probe; train one"):
        load_saved(None, tmp_path)
    given = material()
    kept(probe_path("one", tmp_path), **given)
    assert load_saved(None, tmp_path).name == "one"
    kept(probe_path("two", tmp_path), "knn", **given)
    assert saved_probes(tmp_path) == ["one", "two"]
    assert load_saved("two", tmp_path).probe == "knn"
    assert load_saved(tmp_path / "probes" / "one.safetensors", "elsewhere").name == "one"
    with pytest.raises(ParameterError, match="2 saved probes: one, two; name one"):
        load_saved(None, tmp_path)
    with pytest.raises(UnknownNameError, match="unknown saved probe 'ones'; did you mean 'one'"):
        load_saved("ones", tmp_path)
    with pytest.raises(ParameterError, match="cannot be read: No such file"):
        load_saved("./nowhere", tmp_path)


def test_saving_twice_replaces_it_or_leaves_it(tmp_path):
    """The later one counts; one that fails changes nothing and leaves nothing behind."""
    given, path = material(), tmp_path / "a.safetensors"
    kept(path, **given)
    kept(path, "knn", **given)
    assert SavedProbe.load(path).probe == "knn"
    before = path.read_bytes()
    with pytest.raises(ParameterError, match="plain data"):
        kept(path, **given | {"about": {"odd": object()}})
    with pytest.raises(ParameterError, match="plain data"):
        kept(path, **given | {"about": {"odd": float("nan")}})
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="a link lies where"):
        kept(tmp_path / "link" / "a.safetensors", **given)
    assert path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "link"]


def edited(made: SavedProbe, about: Callable = lambda _: None, arrays: Callable = lambda _: None) -> bytes:
    """Make the bytes of a file with another description or other arrays."""
    data = Path(made.path).read_bytes()
    said, found = json.loads(json.dumps(dict(made.about))), load(data)
    about(said)
    arrays(found)
    return encode(said, found)  # with the right sum: whoever made it meant it


def curve(**columns: object) -> dict:
    """Make a description with a risk curve that has one or more other columns."""
    plain = {"thresholds": [0.9, 0.0], "coverage": [0.5, 1.0], "risk": [0.1, 0.3], "bound": [0.2, 0.4]}
    return {"calibration": {"curve": plain | columns, "before": {}, "after": {}}}


def test_a_curve_that_is_right_is_read(made):
    """What the tests below spoil would be taken."""
    assert SavedProbe.parse(edited(made, about=lambda said: said.update(curve())), "x").curve.risk == (0.1, 0.3)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"format": True}, "'format' should be an int"),
        ({"probe": "os:system"}, "probe 'os:system' is none of"),
        ({"probe": "sklearn.svm.SVC"}, "is none of"),
        ({"probe": "knn"}, "arrays are no KNNProbe"),
        ({"params": {"C": [1]}}, "parameter C"),
        ({"params": {"C": {"a": 1}}}, "parameter C"),
        ({"genres": ["a"]}, "at least 2 different texts"),
        ({"genres": ["a", "a", "b"]}, "at least 2 different texts"),
        ({"genres": ["a", "b", 3]}, "at least 2 different texts"),
        ({"genres": ["a", "b", [3]]}, "at least 2 different texts"),
        ({"genres": ["a", "b", ""]}, "none empty"),
        ({"genres": ["a", "b", " "]}, "none empty"),
        ({"genres": ["a", "b", "c", "d"]}, r"'slope' should be float64 \(4,\)"),
        ({"layer": 7}, "no layer 7"),
        ({"layer": "all"}, "no layer 'all'"),
        ({"layer": None}, "no layer None"),
        ({"layer": True}, "no layer True"),
        ({"layer": "mix"}, r"'mean' should be float64 \(3, 10\)"),
        ({"layers": [{"number": 1, "name": "x", "dim": 10**12}]}, "'mean' should be float64"),
        ({"layers": [{"number": 1, "name": "x", "dim": 10}] * 2}, "one number"),
        ({"layers": [5]}, "'number' should be"),
        ({"multilabel": 1}, "'multilabel' should be bool"),
        ({"tracks": -1}, "'tracks' should be an int"),
        ({"fingerprint": None}, "'fingerprint' should be str"),
        ({"calibration": {}}, "'curve' should be dict"),
        ({"tracks": 59}, r"'keys' should be int64 \(59,\)"),
        ({"tracks": 2**62}, "'keys' should be int64"),
        (curve() | {"calibration": {**curve()["calibration"], "after": 5}}, "'after' should be dict"),
        (curve() | {"calibration": {**curve()["calibration"], "before": {"brier": 0.1}}}, "'brier' should be float"),
        (curve(thresholds=["a", 0.0]), "a risk curve has"),
        (curve(thresholds=[None, 0.0]), "a risk curve has"),
        (curve(thresholds=[True, 0.0]), "a risk curve has"),
        (curve(thresholds=[99, 0.0]), "a risk curve has"),
        (curve(thresholds=[10**400, 0.0]), "a risk curve has"),
        (curve(thresholds=[0.9]), "a risk curve has"),
        (curve(thresholds=[0.9, 0.5]), "the last threshold 0"),
        (curve(thresholds=[0.0, 0.0]), "thresholds of a risk curve fall"),
        (curve(coverage=[1.0, 0.5]), "its coverage grows"),
        (curve(risk=[0.1, -0.1]), "a risk curve has"),
        (curve(bound=[0.2, 1.1]), "a risk curve has"),
        (curve(thresholds=[], coverage=[], risk=[], bound=[]), "a risk curve has"),
        (curve(bound=[0.2, 0.3, 0.4]), "a risk curve has"),
    ],
)
def test_a_description_that_is_not_ours(made, tmp_path, about, words):
    """One line with the file and what is wrong; nothing but built-in probes is ever made."""
    path = tmp_path / "b.safetensors"
    path.write_bytes(edited(made, about=lambda said: said.update(about)))
    with pytest.raises(
        StoreFormatError, match=f"b.safetensors is no saved probe that can be used: .*{words}"
    ) as caught:
        SavedProbe.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", EACH)
def test_arrays_that_do_not_fit(tmp_path, name):
    """Each array missing, of another shape or type, not finite: refused when read."""
    made = kept(tmp_path / "a", QUICK_MLP if name == "mlp" else name, **material())
    names = {name: array for name, array in load(Path(made.path).read_bytes()).items() if ".mix." not in name}
    for array, whole in names.items():
        for change in (
            # a whole layer of a network: without one of its arrays it may be another network that makes sense
            lambda found, array=array: [found.pop(name) for name in [*found] if name[:9] == array[:9]],
            lambda found, array=array: found.update({array: np.zeros((2, 1, 2))}),
            lambda found, array=array, whole=whole: found.update({array: np.full(whole.shape, np.nan)}),
        ):
            with pytest.raises(StoreFormatError):
                SavedProbe.parse(edited(made, arrays=change), "x")


@pytest.mark.parametrize("slope", [1e308, -1.0])
def test_slopes_that_make_no_probabilities(made, slope):
    """Too steep for a finite logit, or turned: refused when read, in one line."""
    spoiled = edited(made, arrays=lambda found: found.update(slope=np.full(3, slope)))
    with pytest.raises(StoreFormatError, match=r"slopes are within 0\.\.1e\+18") as caught:
        SavedProbe.parse(spoiled, "x")
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_not_heard_costs_nothing(made):
    """A file may tell of layers of any size: only those that the probe hears are looked at."""
    wide = edited(made, about=lambda said: said["layers"].append({"number": 9, "name": "x", "dim": 2**61}))
    assert SavedProbe.parse(wide, "x").tracks == 60


def test_the_sum_is_of_what_is_read(tmp_path):
    """Keys that JSON turns into texts, and sorts otherwise, do not spoil it."""
    made = kept(tmp_path / "a", **material() | {"about": {"folds": {2: "b", 10: "a"}, "odd": "\udce9"}})
    assert SavedProbe.load(made.path).about["folds"] == {"2": "b", "10": "a"}


def test_bytes_that_are_no_probe(made):
    """Cut anywhere, or damaged, or another format: never anything but one clear error."""
    data = Path(made.path).read_bytes()
    whole = [b"", b"{}", b"\xff" * 8, b"\xff" * 100, (2**40).to_bytes(8, "little") + data[8:], save({"x": np.zeros(2)})]
    for wrong in whole + [data[:end] for end in range(0, len(data), 97)]:
        with pytest.raises(StoreFormatError, match="x is no saved probe"):
            SavedProbe.parse(wrong, "x")
    rows = np.random.default_rng(0).normal(size=(5, 10))
    for place in range(0, len(data), 7):
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << place % 8
        try:
            read = SavedProbe.parse(bytes(spoiled), "x")
        except StoreFormatError:
            continue
        # it reads the same, as a capital letter in an escape does
        assert read.about == made.about
        assert np.array_equal(read.predict({1: rows}).probabilities, made.predict({1: rows}).probabilities)


@pytest.mark.parametrize(("old", "new"), [(b'layer\\":1,', b'layer\\":0,'), (b"genre b", b"genre x")])
def test_a_changed_description_is_damage(made, old, new):
    """A layer's number or a genre's name that makes sense but is not what was written."""
    data = Path(made.path).read_bytes()
    assert data.count(old) >= 1
    with pytest.raises(StoreFormatError, match="it is damaged: its description and arrays"):
        SavedProbe.parse(data.replace(old, new), "x")


def test_what_is_no_plain_file(made, tmp_path):
    """Links are not followed, pipes not waited for."""
    (tmp_path / "link.safetensors").symlink_to(made.path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("link", "pipe", "missing", "."):
        with pytest.raises(ParameterError, match="cannot be read"):
            SavedProbe.load(tmp_path / f"{name}.safetensors" if name != "." else tmp_path)


READ = """
import sys
from probes.saved import SavedProbe
found = set()
print("ready", flush=True)
for _ in range(60):
    found.add(SavedProbe.load(sys.argv[1]).probe)
print(sorted(found), flush=True)
"""


@pytest.mark.slow
def test_reading_while_it_is_replaced(tmp_path):
    """Two processes read whole probes, one or the other, while a third saves again and again."""
    given, path = material(), tmp_path / "a.safetensors"
    kept(path, **given)
    readers = [
        subprocess.Popen([sys.executable, "-c", READ, path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    while any(reader.poll() is None for reader in readers):
        kept(path, "knn", **given)
        kept(path, "logistic", **given)
    for reader in readers:
        assert reader.returncode == 0
        assert set(json.loads(reader.stdout.read().replace("'", '"'))) <= {"knn", "logistic"}


def test_matrices_without_a_store(tmp_path):
    """Vectors in memory have no recipe: the probe says so and answers."""
    given = material() | {"about": None}
    made = kept(tmp_path / "a", **given)
    assert made.fingerprint == ""
    layer = LayerMatrix(1, "layer 1", given["task"].keys, given["feature"].values[0])
    assert (made.predict({1: layer.values}).top == given["task"].y).mean() > 0.9
    assert made.layers[1] == Layer(1, "layer 1", 10)
