"""The map of a library: what lies where, what is kept, and what is refused."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from embedstore.errors import MissingDependencyError, ParameterError, StoreError, TrackNotFoundError, UnknownNameError
from embedstore.index import LayerSearch
from embedstore.maps import Map, estimate_seconds, layout, make_map, making, open_map, place, saved
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels

DIMS = (24, 24, 9)


def vectors(i: int, groups: int = 4) -> tuple[np.ndarray, ...]:
    """One of four groups; the second layer is the first one, turned."""
    centre = 4 * np.random.default_rng(i % groups).normal(size=24)
    first = centre + np.random.default_rng([7, i]).normal(size=24)
    return first, first[::-1].copy(), first[:9] + np.random.default_rng([8, i]).normal(size=9)


def fill(path: Path, rows: dict[int, tuple[np.ndarray, ...]], dims: tuple[int, ...] = DIMS, **recipe: object):
    """Make a store, or add to it."""
    layers = tuple(Layer(2 * i, f"layer {2 * i}", dim) for i, dim in enumerate(dims))
    card = EncoderCard("toy", "toy", "", "0" * 64, 16000, layers, 50.0, "none", "float32", "CC0-1.0", "", 0)
    store = EmbeddingStore.open_or_create(path, card, {"encoder": "toy", **recipe})
    with store.writer() as writer:
        for i, values in rows.items():
            track = Track((i * 7919) % 10007, (AudioFile("/music", f"{i}.ogg", 1, i),), 30.0, 44100, 2, TrackLabels())
            embeddings = LayerEmbeddings(tuple(value.astype(np.float32) for value in values), 10)
            writer.add(track, f"{i:032x}", embeddings)
    return store


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Sixty tracks of four groups, and their map by PCA."""
    store = fill(tmp_path_factory.mktemp("maps") / "store", {i: vectors(i) for i in range(60)})
    return store, make_map(store, "pca")


@pytest.fixture
def copy(library, tmp_path):
    """Copy it, to be changed."""
    import shutil

    return EmbeddingStore.open(shutil.copytree(library[0].path, tmp_path / "copy"))


def fitted(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Move, scale and turn points to where they fit best."""
    from scipy.linalg import orthogonal_procrustes

    points, middle = points - points.mean(0), onto.mean(0)
    turn, scale = orthogonal_procrustes(points, onto - middle)
    return points @ turn * scale / np.square(points).sum() + middle


def test_pca_is_that_of_numpy(library):
    """The first layer shows the two largest singular directions of its vectors of length 1."""
    store, made = library
    values = store.vectors(made.keys, 0).astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    left, spread, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    assert np.abs(fitted(left[:, :2] * spread[:2], made.positions[0]) - made.positions[0]).max() < 1e-4


def test_layers_share_a_frame(library):
    """A layer that is another one turned lies where that lies, and every layer is turned to the one before as scipy would."""
    made = library[1]
    assert np.abs(made.positions[0] - made.positions[1]).max() < 2e-3  # stored as float16
    before, after = made.positions[1:]
    assert np.abs(fitted(after, before) - before).mean() <= np.abs(after - before).mean() + 1e-3
    turned = making._turned(np.stack([before, after @ np.array([[0, 1], [1, 0]])]), None)
    assert np.allclose(turned, making._turned(made.positions[1:], None), atol=1e-5)
    assert made.positions.min() == 0 or made.positions.max() == 1


def test_groups_are_found_and_keep_their_numbers(library):
    """K-means finds groups that do not cross the true ones; a number means about the same tracks in the next layer."""
    store, made = library
    order = {int(key): i for i, key in enumerate(store.keys())}
    truth = np.array([order[int(key)] % 4 for key in made.keys])
    for row in made.clusters[:2]:
        assert all(len({*truth[row == group]}) == 1 for group in {*row})
    assert (made.clusters[0] == made.clusters[1]).mean() > 0.9
    assert made.layers == (0, 2, 4)


def test_seeded_and_kept(copy):
    """The same seed gives the same map; a map that is kept is read, and replaced when tracks or what is asked change."""
    kept = open_map(copy, "pca")
    (copy.path / "maps" / "pca.safetensors").unlink()
    assert open_map(copy, "pca") is None
    again = make_map(copy, "pca")
    assert np.array_equal(again.positions, kept.positions)
    assert np.array_equal(again.clusters, kept.clusters)
    assert make_map(copy, "pca").seconds == again.seconds  # read, not made
    other = make_map(copy, "pca", seed=1)
    assert (open_map(copy, "pca").seed, other.seconds != again.seconds) == (1, True)
    grown = fill(copy.path, {60: vectors(60)})
    assert len(open_map(grown, "pca")) == 60
    assert len(make_map(grown, "pca", seed=1)) == 61
    assert [file.name for file in (copy.path / "maps").iterdir()] == ["pca.safetensors"]


def test_an_interrupted_map_leaves_the_one_before(copy):
    """Ctrl-C while a map is made."""

    def stop(done: int, _steps: int, _doing: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_map(copy, "pca", seed=5, progress=stop)
    assert open_map(copy, "pca").seed == 0
    for name, age in (("tmp-1-killed", 7200), ("tmp-2-writing", 60)):
        half = copy.path / "maps" / f"pca.safetensors.{name}"
        half.write_bytes(b"of another process")
        os.utime(half, (time.time() - age,) * 2)
    make_map(copy, "pca", seed=5)
    assert {file.name for file in (copy.path / "maps").iterdir()} == {
        "pca.safetensors",
        "pca.safetensors.tmp-2-writing",
    }


def test_damage_is_as_if_there_were_no_map(copy):
    """Cut short, changed anywhere, or not a file at all: never read, never a crash, and made again."""
    path = copy.path / "maps" / "pca.safetensors"
    whole = path.read_bytes()
    spoilt = [b"", whole[:100], whole[:-1], whole + b"x", b"\xff" * len(whole)]
    spoilt += [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
    for data in spoilt:
        path.write_bytes(data)
        assert open_map(copy, "pca") is None
    path.unlink()
    os.mkfifo(path)
    assert open_map(copy, "pca") is None
    path.unlink()
    path.symlink_to(copy.path / "store.json")
    assert open_map(copy, "pca") is None
    assert not make_map(copy, "pca").notes
    assert not path.is_symlink()
    assert (copy.path / "store.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"layers": (0, 2, 3)},
        {"seconds": float("nan")},
        {"seed": -1},
        {"method": "umap"},
        {"notes": 3},
        {"notes": [3]},
        {"notes": ["x"] * 11},
        {"notes": ["x" * 501]},
        {"positions": np.full((3, 60, 2), np.nan, np.float32)},
        {"positions": np.full((3, 60, 2), 1.5, np.float32)},
        {"positions": np.zeros((3, 59, 2), np.float32)},
        {"clusters": np.full((3, 60), -2, np.int16)},
        {"keys": np.zeros(60, np.int64)},
        {"keys": np.arange(60, dtype=np.float64)},
    ],
    ids=str,
)
def test_what_somebody_made_up_is_refused(copy, library, change):
    """A file with the right sum, but of what no map holds."""
    forged = replace(library[1])
    for name, value in change.items():
        object.__setattr__(forged, name, value)
    saved.keep(copy, forged)
    (copy.path / "maps" / f"{forged.method}.safetensors").rename(copy.path / "maps" / "pca.safetensors")
    assert open_map(copy, "pca") is None


def test_a_map_of_another_recipe_is_not_ours(library, tmp_path):
    """The same tracks, other vectors."""
    store = library[0]
    other = fill(tmp_path / "other", {i: vectors(i) for i in range(60)}, window=3)
    (other.path / "maps").mkdir()
    (other.path / "maps" / "pca.safetensors").write_bytes((store.path / "maps" / "pca.safetensors").read_bytes())
    assert open_map(other, "pca") is None


def test_where_nothing_can_be_written_the_map_is_returned(library, copy, tmp_path):
    """With a note that says why, and kept elsewhere if that is wanted."""
    (copy.path / "maps" / "pca.safetensors").unlink()
    (copy.path / "maps").rmdir()
    (copy.path / "maps").write_text("in the way")
    made = make_map(copy, "pca", instead=tmp_path)
    assert np.array_equal(made.positions, library[1].positions)
    assert "could not be kept" in made.notes[0]
    assert open_map(copy, "pca", tmp_path).notes == made.notes
    with pytest.raises(StoreError):
        make_map(copy, "pca", instead=tmp_path / "no" / "such")


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("value", [0, None])
def test_few_tracks_have_a_map(tmp_path, n, value):
    """One or three tracks, of zeros or not: UMAP says that it needs more."""
    rows = {i: tuple(np.full(dim, i if value is None else value) for dim in (3, 1)) for i in range(n)}
    store = fill(tmp_path / "store", rows, (3, 1))
    for method in ("pca", "umap"):
        made = make_map(store, method)
        assert made.positions.shape == (2, n, 2)
        assert (made.clusters == 0).all()
        few = (f"{n} track{' is' if n == 1 else 's are'} too few for UMAP: placed by PCA",)
        assert made.notes == (few if method == "umap" else ())


def test_what_cannot_be_made(library, tmp_path, monkeypatch):
    """One line: what was asked, what was found, what to do."""
    store = library[0]
    with pytest.raises(ParameterError, match="holds no tracks; build first"):
        make_map(fill(tmp_path / "empty", {}), "pca")
    with pytest.raises(UnknownNameError, match="did you mean 'umap'"):
        make_map(store, "umapp")
    for wrong in ({"seed": -1}, {"seed": 2**32}, {"neighbors": 1}, {"neighbors": 201}):
        with pytest.raises(ParameterError, match="neighbors from 2 to 200"):
            make_map(store, **wrong)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedstore-mir\[web\]'"):
        make_map(store, "umap")


def test_place_is_the_weighted_mean_of_the_nearest(copy, library):
    """Against a loop over all mapped tracks; a mapped track lies where it lay."""
    made = library[1]
    store = fill(copy.path, {i: vectors(i) for i in range(60, 66)})
    for row, layer in enumerate(made.layers):
        found = place(made, LayerSearch(store, layer), layer, store.keys())
        values = store.vectors(store.keys(), layer).astype(np.float64)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        mapped = {int(key): i for i, key in enumerate(made.keys)}
        lie = np.array([made.positions[row, mapped[int(key)]] for key in store.keys()[:60]])
        assert np.array_equal(found[:60], lie)
        for value, point in zip(values[60:], found[60:], strict=True):
            apart = np.square(values[:60] - value).sum(axis=1)
            near = np.argsort(apart)[:5]
            weights = 1 / (apart[near] + 1e-3)
            assert np.allclose(point, weights @ lie[near] / weights.sum(), atol=1e-4)


def test_place_without_a_mapped_track(copy, library):
    """At the centre; a layer or a track that is not there is an error."""
    store, made = library
    none = Map("pca", made.layers, made.keys[:0], made.positions[:, :0], made.clusters[:, :0], 0, 15, 0.0)
    live = LayerSearch(store, 2)
    assert (place(none, live, 2, made.keys[:3]) == 0.5).all()
    with pytest.raises(UnknownNameError, match="it has 0, 2, 4"):
        place(made, live, 1, made.keys)
    with pytest.raises(TrackNotFoundError):
        place(made, live, 2, np.array([12345678]))


def test_the_command(copy):
    """It prints what was made, as a line or as JSON."""
    run = CliRunner().invoke(cli.main, ["map", "--method", "pca", "--store", str(copy.path), "--json"])
    told = json.loads(run.stdout)
    assert (told["method"], told["tracks"], told["layers"]) == ("pca", 60, [0, 2, 4])
    run = CliRunner().invoke(cli.main, ["map", "--method", "pca", "--store", str(copy.path)])
    assert run.stdout.startswith("60 tracks in 3 layers by PCA, seed 0, made in ")


def test_estimates_grow(library):
    """More tracks, more layers, and UMAP take longer."""
    base = estimate_seconds(1000, 3, "pca")
    assert (
        base < estimate_seconds(2000, 3, "pca") < estimate_seconds(2000, 6, "pca") < estimate_seconds(2000, 6, "umap")
    )


# -- UMAP: its code is compiled on first use, which takes 10 to 30 seconds -----------------------------------------------


@pytest.mark.slow
def test_umap_follows_each_layer_and_moves_little(tmp_path):
    """As faithful as UMAP of each layer alone, within 0.02 of trustworthiness, while points move half as far."""
    import umap
    from sklearn.manifold import trustworthiness

    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(10, 20)), rng.normal(size=(12, 20))
    own = rng.normal(size=(2, 400, 20))
    rows = {
        i: tuple(
            (1 - t) * (one[i % 10] + own[0, i] / 2) + t * (other[i % 12] + own[1, i] / 2) for t in (0, 0.25, 0.5, 1)
        )
        for i in range(400)
    }
    store = fill(tmp_path / "store", rows, (20,) * 4)
    doing = []
    made = make_map(store, progress=lambda done, steps, what: doing.append((done, steps, what)))
    assert [done for done, *_ in doing] == [0, *range(10)]
    assert "compiles" in doing[1][2]
    values = [making._reduced(store, store.keys(), layer, 0) for layer in made.layers]
    alone = making._turned(np.stack([umap.UMAP(random_state=0, n_jobs=1).fit_transform(one) for one in values]), None)
    ours = making._turned(made.positions, None)

    def faithful(positions: np.ndarray) -> float:
        return np.mean([trustworthiness(*pair, n_neighbors=10) for pair in zip(values, positions, strict=True)])

    def moved(positions: np.ndarray) -> float:
        return np.linalg.norm(np.diff(positions, axis=0), axis=-1).mean()

    assert faithful(ours) > faithful(alone) - 0.02
    assert moved(ours) < moved(alone) / 2
    assert np.array_equal(made.positions, open_map(store).positions)
    (store.path / "maps" / "umap.safetensors").unlink()
    assert np.array_equal(make_map(store).positions, made.positions)
    assert not np.array_equal(make_map(store, seed=1).positions, made.positions)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5, 16, 40])
@pytest.mark.parametrize("value", [0, 1, None])
def test_umap_of_few_or_equal_tracks(tmp_path, n, value):
    """Fewer tracks than neighbours, zeros, or all alike: finite points, no two at one place."""
    rows = {i: tuple(np.full(dim, i if value is None else value) for dim in (3, 1)) for i in range(n)}
    made = make_map(fill(tmp_path / "store", rows, (3, 1)))
    assert made.notes == ()
    assert all(len(np.unique(points, axis=0)) == n for points in made.positions)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 40])
def test_what_is_not_laid_out_keeps_its_five_surest(n):
    """Against a loop over all that umap-learn gives, in few bytes."""
    import umap

    rng = np.random.default_rng(0)
    values, others = rng.normal(size=(n, 8)).astype(np.float32), rng.normal(size=(30, 8)).astype(np.float32)
    near, found = min(15, n - 1), layout.graph(values, others, 15, 0)[1]
    model = umap.UMAP(n_neighbors=near, transform_mode="graph", random_state=0, n_jobs=1).fit(values)
    for own, every in zip(found.toarray(), model.transform(others).toarray(), strict=True):
        best = np.argsort(-every, kind="stable")[:5]
        wanted = np.zeros(n)
        wanted[best] = every[best] / every[best].sum()
        assert np.allclose(own, wanted, atol=1e-6)
    assert found.data.dtype == np.float32
    assert found.data.nbytes + found.indices.nbytes <= 30 * 5 * 8


@pytest.mark.slow
def test_umap_places_what_it_does_not_lay_out_beside_its_group(library, tmp_path, monkeypatch):
    """A large library is laid out by a sample; the others lie where their group lies."""
    monkeypatch.setattr(making, "_MOST", 40)
    store = fill(tmp_path / "store", {i: vectors(i) for i in range(60)})
    made = make_map(store, neighbors=5)
    order = {int(key): i for i, key in enumerate(store.keys())}
    truth = np.array([order[int(key)] % 4 for key in made.keys])
    for points in made.positions[:2]:
        apart = np.linalg.norm(points[:, None] - points, axis=-1) + 9 * np.eye(60)
        assert (truth[apart.argmin(axis=1)] == truth).mean() > 0.95
