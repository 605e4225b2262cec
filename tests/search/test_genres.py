"""Genres: what naive loops find, the tree that scipy makes, pictures and tables of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
from scipy.spatial.distance import squareform

import cli
from embedstore.errors import ParameterError, TrackNotFoundError, UnknownNameError
from embedstore.exports.genremap import save_genre_map
from embedstore.index import LayerSearch
from embedstore.search import genres
from embedstore.search.genres import GenreMap, genre_map, nearest_genres
from embedstore.store import EmbeddingStore
from embedstore.terminal import branches
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels

HOSTILE = ("$x^2$ & <b>", "a" * 300, "日本\x1b[31m\n", '=1+1,"x"', "x_1 \\frac{")
Tracks = Sequence[tuple[Sequence[float], tuple[str, ...]]]
Artists = Sequence[tuple[str, ...]]


def make(path: Path, tracks: Tracks, artists: Artists | None = None) -> EmbeddingStore:
    """Store tracks in one layer."""
    dim = len(tracks[0][0]) if tracks else 2
    card = EncoderCard(
        "toy", "toy", "", "0" * 64, 16000, (Layer(1, "one", dim),), 50.0, "none", "float32", "CC0-1.0", "", 1
    )
    store = EmbeddingStore.create(path, card, {"encoder": "toy", "dtype": "float16"})
    with store.writer() as writer:
        for i, (vector, genres) in enumerate(tracks):
            labels = TrackLabels(genres, artists[i] if artists else ())
            found = Track(i, (AudioFile("/music", f"{i}.ogg", 1, i),), 30.0, 44100, 2, labels)
            writer.add(found, f"{i:032x}", LayerEmbeddings((np.array(vector, np.float32),), 10))
    return store


def at(*degrees: float) -> list[list[float]]:
    return [[float(np.cos(np.radians(one))), float(np.sin(np.radians(one)))] for one in degrees]


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    """60 tracks of 7 genres, some of two, one of zeros, one without, and two genres of one track."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 6))
    names = ("rock", "jazz", *HOSTILE)
    found = []
    for i in range(60):
        genres = {names[i % 7], names[(i // 5) % 7]} if i % 4 == 0 else {names[i % 7]}
        found.append((centres[i % 7] + rng.normal(size=6) * (0.3 + i % 3), tuple(sorted(genres))))
    return [
        *found,
        (np.zeros(6), ("jazz",)),
        (np.ones(6), ()),
        (np.ones(6), ("lone",)),
        (-np.ones(6), ("rock", "only")),
    ]


@pytest.fixture(scope="module")
def store(tracks, tmp_path_factory) -> EmbeddingStore:
    return make(tmp_path_factory.mktemp("genres") / "store", tracks)


@pytest.fixture(scope="module")
def found(store) -> GenreMap:
    return genre_map(store)


def units(tracks: Tracks) -> np.ndarray:
    values = np.array([vector for vector, _ in tracks], np.float16).astype(np.float64)
    lengths = np.linalg.norm(values, axis=1)
    return values / np.where(lengths, lengths, 1)[:, None]


def members(tracks: Tracks, genre: str) -> list[int]:
    return [i for i, (_, genres) in enumerate(tracks) if genre in genres]


def test_every_number_is_that_of_a_loop(found, tracks):
    """Centres' cosines, and the mean over all pairs of different tracks; genres of one track are left out, and told."""
    values = units(tracks)
    assert sorted(found.genres) == sorted({"rock", "jazz", *HOSTILE})
    assert dict(found.left_out) == {"lone": 1, "only": 1}
    for i, one in enumerate(found.genres):
        mine = members(tracks, one)
        assert found.counts[i] == len(mine)
        np.testing.assert_allclose(found.centres[i], values[mine].mean(axis=0), atol=1e-6)
        for j, other in enumerate(found.genres):
            theirs = members(tracks, other)
            a, b = values[mine].mean(axis=0), values[theirs].mean(axis=0)
            assert found.similarity[i, j] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
            pairs = [values[x] @ values[y] for x in mine for y in theirs if x != y]
            assert found.pairs[i, j] == pytest.approx(np.mean(pairs), abs=1e-6)
    np.testing.assert_allclose(found.distances, 1 - found.similarity, atol=1e-6)


def test_two_tracks_of_one_artist_are_no_pair(tracks, tmp_path, monkeypatch):
    """As a loop finds it, for tracks of nobody, one artist and several, written in any case; however they are read."""
    names = [
        ("A",),
        ("a", "B"),
        ("Various Artists",),
        ("C", "D", "B"),
        ("E",),
        ("D", "A"),
        ("B",),
        ("C", "B", "A", "d"),
    ]
    artists = [names[i * i % 11 % 8] for i in range(len(tracks))]
    store, values = make(tmp_path / "s", tracks, artists), units(tracks)
    found = genre_map(store)
    folded = [{name.lower() for name in some} - {"various artists"} for some in artists]
    for i, one in enumerate(found.genres):
        for j, other in enumerate(found.genres):
            pairs = [
                values[x] @ values[y]
                for x in members(tracks, one)
                for y in members(tracks, other)
                if x != y and not folded[x] & folded[y]
            ]
            assert found.pairs[i, j] == pytest.approx(np.mean(pairs) if pairs else np.nan, abs=1e-6, nan_ok=True)
    monkeypatch.setattr(genres, "_BLOCK", 7)
    np.testing.assert_allclose(genre_map(store).pairs, found.pairs, atol=1e-9)


def test_a_genre_of_one_artist_has_no_spread(tmp_path):
    """It is on the map, without a number for its tracks; the picture, the table and JSON have none either."""
    tracks = [
        (vector, (genre,)) for vector, genre in zip(at(0, 10, 90, 100), ("one", "one", "two", "two"), strict=True)
    ]
    store = make(tmp_path / "s", tracks, [("X",), ("X",), (), ()])
    found = genre_map(store)
    rows = {row["genre"]: row for row in json.loads(json.dumps(found.to_dict(), allow_nan=False))["genres"]}
    assert (rows["one"]["within"], rows["one"]["overlaps"]) == (None, [])
    assert rows["two"]["within"] == pytest.approx(np.cos(np.radians(10)), abs=1e-3)
    assert rows["one"]["between"] == rows["two"]["between"] == pytest.approx(0, abs=1e-3)
    save_genre_map(store, found, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        assert {(row["genre"], row["other"]) for row in csv.DictReader(file) if not row["pairs"]} == {("one", "one")}
    assert "one " in CliRunner().invoke(cli.main, ["genre-map", "--store", str(store.path)]).stdout


def test_the_largest_genres_alone(store, found):
    """What is asked for is compared as before, and what is left out is told."""
    counts = sorted(found.counts, reverse=True)
    few = GenreMap.of(LayerSearch(store), store.labels(), most=3)
    assert sorted(few.counts, reverse=True) == counts[:3]
    assert len(few.left_out) == len(found.left_out) + 4
    assert few.notes == ("of 7 genres the 3 with most tracks are compared",)
    places = [found.genres.index(genre) for genre in few.genres]
    np.testing.assert_allclose(few.pairs, found.pairs[np.ix_(places, places)], atol=1e-9)


def test_the_tree_is_that_of_scipy(found):
    """Average linkage with the best order of leaves, which is the order of the genres."""
    close = squareform(found.distances, checks=False)
    shuffled = np.random.default_rng(1).permutation(len(found.genres))
    theirs = linkage(
        squareform(found.distances[np.ix_(shuffled, shuffled)], checks=False), "average", optimal_ordering=True
    )
    np.testing.assert_allclose(found.linkage[:, 2:], theirs[:, 2:], atol=1e-9)
    np.testing.assert_allclose(cophenet(found.linkage), cophenet(linkage(close, "average")), atol=1e-9)
    np.testing.assert_array_equal(leaves_list(found.linkage), np.arange(len(found.genres)))
    steps = [
        found.distances[shuffled[a], shuffled[b]]
        for a, b in zip(leaves_list(theirs), leaves_list(theirs)[1:], strict=False)
    ]
    assert np.diag(found.distances, 1).sum() == pytest.approx(sum(steps))


def test_a_wide_genre_overlaps_what_lies_in_it(tmp_path):
    """Tracks at -60 and 60 degrees are less alike than they are to those between them; the reverse does not hold."""
    wide, tight = at(-60, 60), at(-1, 1)
    found = genre_map(make(tmp_path / "s", [*((v, ("wide",)) for v in wide), *((v, ("tight",)) for v in tight)]))
    assert found.overlaps("wide") == ["tight"]
    assert found.overlaps("tight") == []
    assert found.similarity.min() == pytest.approx(1), "the centres tell nothing of it"
    assert found.pairs[found.genres.index("wide")].min() == pytest.approx(-0.5, abs=1e-3)


def test_nearest_genres(tmp_path):
    """Of a genre by the centres; of a track without its own part in them; unknown names list what there is."""
    tracks = [
        *((v, ("east",)) for v in at(0, 10, 20)),
        *((v, ("north",)) for v in at(80, 90, 100, 2)),
        ([-1, 0], ("west",)),
    ]
    store = make(tmp_path / "s", tracks)
    assert [name for name, _ in nearest_genres(store, "east")] == ["north"]
    (first, score), (second, _) = nearest_genres(store, "6.ogg")
    assert (first, second) == ("east", "north"), "the others of its genre are far"
    assert score == pytest.approx(np.cos(np.radians(8)), abs=1e-3)
    others = np.mean(at(80, 100, 2), axis=0)
    cosine = others @ at(90)[0] / np.linalg.norm(others)
    assert nearest_genres(store, "0000000000000004")[0] == ("north", pytest.approx(cosine, abs=1e-3))
    with pytest.raises(TrackNotFoundError, match=r"unknown genre 'nort'; did you mean 'north'.* and no stored track"):
        nearest_genres(store, "nort")
    with pytest.raises(UnknownNameError, match="unknown genre 'west'"):
        genre_map(store).nearest("west")


def test_a_transform_moves_the_tracks_first(store, tracks):
    """Centres are those of the moved vectors."""
    moved = genre_map(store, transform="centre")
    live = LayerSearch(store, transform="centre")
    keys = np.array(members(tracks, "jazz"))
    np.testing.assert_allclose(moved.centres[moved.genres.index("jazz")], live.vectors(keys).mean(axis=0), atol=1e-6)


def test_one_genre_and_none(tmp_path):
    """One genre is a map without a tree, and no picture; a genre with one track is none; opposite tracks have no centre."""
    store = make(tmp_path / "one", [(vector, ("x",)) for vector in at(0, 180)])
    found = genre_map(store)
    assert (found.genres, found.linkage.shape, found.similarity.tolist()) == (("x",), (0, 4), [[0]])
    assert found.to_dict()["genres"][0] == {
        "genre": "x", "tracks": 2, "within": -1, "nearest": None, "similarity": None, "between": None, "overlaps": [],
    }  # fmt: skip
    assert branches(found.linkage.tolist()) == [""]
    with pytest.raises(ParameterError, match="a picture compares two genres or more; the map has 1"):
        save_genre_map(store, found, tmp_path / "x.png")
    save_genre_map(store, found, tmp_path / "x.csv")
    with pytest.raises(ParameterError, match="no genre has two tracks with vectors; genres with one: 1"):
        genre_map(make(tmp_path / "lone", [([1, 0], ("x",)), ([1, 0], ())]))


def test_tables(found, store, tmp_path):
    """CSV and JSON hold every number, whatever the names are."""
    save_genre_map(store, found, tmp_path / "map.csv")
    with (tmp_path / "map.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.genres) ** 2
    for row in rows:
        assert not row["genre"].startswith("="), "a spreadsheet would take it for a formula"
        i, j = (found.genres.index(row[name].removeprefix("'")) for name in ("genre", "other"))
        numbers = (found.counts[i], found.similarity[i, j], found.distances[i, j], found.pairs[i, j])
        names = ("tracks", "similarity", "distance", "pairs")
        assert [float(row[name]) for name in names] == pytest.approx(numbers, abs=1e-6)
    done = save_genre_map(store, found, tmp_path / "map.json")
    assert done == {"target": str(tmp_path / "map.json"), "bytes": (tmp_path / "map.json").stat().st_size}
    assert json.loads((tmp_path / "map.json").read_text()) == json.loads(json.dumps(found.to_dict()))


@pytest.mark.slow
def test_a_picture(found, store, tmp_path):
    """An SVG that is well-formed; names start no formula and no tag."""
    save_genre_map(store, found, tmp_path / "map.svg")
    assert ET.fromstring((tmp_path / "map.svg").read_text()).tag.endswith("svg")  # noqa: S314 - ours


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 16, 80, 300])
def test_pictures_of_any_size(count, tmp_path):
    """A PNG that can be decoded, with something in every panel."""
    from matplotlib.image import imread

    rng = np.random.default_rng(count)
    store = make(
        tmp_path / "s", [(rng.normal(size=8), (f"genre {i % count} {'é' * (i % 40)}",)) for i in range(40 * count)]
    )
    save_genre_map(store, genre_map(store), tmp_path / "map.PNG")
    picture = imread(tmp_path / "map.PNG")[..., :3]
    assert all(panel.std() > 0.02 for panel in np.array_split(picture, 6, axis=1))
    assert max(picture.shape) < 8000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("map.gif", r"does not say what to write: name it \*.png, \*.svg, \*.csv, \*.json"),
        ("there.csv", "there.csv exists; choose another name, or give --overwrite"),
        ("store/map.csv", "lies in the store"),
    ],
)
def test_faults_of_files(found, store, tmp_path, monkeypatch, name, words):
    """One line, nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("there.csv").write_text("mine")
    target = store.path / "map.csv" if name.startswith("store") else name
    with pytest.raises(ParameterError, match=words):
        save_genre_map(store, found, target)
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]
    assert Path("there.csv").read_text() == "mine"


def test_a_drawn_tree():
    """Each leaf has a line; each join a corner above and one below; joins in one column are drawn over each other."""
    assert branches([[0, 1, 1], [2, 3, 1], [4, 5, 1]], 3) == ["╶─┐", "╶─┤", "╶─┤", "╶─┘"]
    assert branches([[0, 1, 0.0]], 4) == ["╷", "╵"]
    rng = np.random.default_rng(2)
    for n in (2, 5, 40):
        lines = branches(linkage(rng.normal(size=(n, 3)), "average", optimal_ordering=True).tolist(), 30)
        assert len(lines) == n
    order = leaves_list(linkage(np.array([[0.0], [1], [5], [6]]), "average"))
    assert order.tolist() == [0, 1, 2, 3]
    drawn = branches(linkage(np.array([[0.0], [1], [5], [6]]), "average").tolist(), 11)
    assert drawn == ["╶─┐", "╶─┴───────┐", "╶─┐       │", "╶─┴───────┘"]


def test_the_command(store, tmp_path, monkeypatch):
    """A row and a branch for each genre, what is left out, the file; one JSON document; the genres near to one."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> SimpleNamespace:
        done = CliRunner().invoke(cli.main, ["genre-map", "--store", str(store.path), *arguments])
        assert done.exit_code == code, done.output
        return done

    page = call("--out", "map.csv").stdout
    assert "7 genres, layer 1" in page
    assert "left out, with one track each: lone 1, only 1" in page
    assert "wrote map.csv (" in page
    assert page.count("日本\\x1b[31m\\n") >= 2
    assert "\x1b" not in page
    document = json.loads(call("--json", "--transform", "centre").stdout)
    assert (document["transform"], document["file"], len(document["genres"])) == ("centre", None, 7)
    near = json.loads(call("--near", "jazz", "--json").stdout)
    assert [one["genre"] for one in near["nearest"]] == [name for name, _ in nearest_genres(store, "jazz")]
    assert "nearest genres to 0.ogg" in call("--near", "0.ogg").stdout
    call("--near", "jazz", "--out", "map.svg", code=2)
    assert "did you mean 'jazz'" in call("--near", "jaz", code=1).output
