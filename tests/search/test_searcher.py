"""Filters, shapes, seeds: what a searcher finds, against plain loops over all tracks."""

from __future__ import annotations

import gc
import pkgutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from search_material import Library, plane

from embedstore.errors import ParameterError, StoreError, StoreFormatError, TrackNotFoundError, UnknownNameError
from embedstore.index import LayerSearch, build_index
from embedstore.search import Filter, Query, Searcher, Seed, Shape
from embedstore.search.columns import Columns
from embedstore.search.genres import nearest_genres
from embedstore.search.shaping import AtMost, Candidate, Known, OneOfEach, background_of, diverse
from embedstore.store import EmbeddingStore
from embedstore.types import Mix, Neighbors, TrackLabels, track_id


@pytest.fixture(scope="module")
def searcher(shelf: EmbeddingStore) -> Searcher:
    return Searcher(shelf)


def keys(result: object) -> list[int]:
    return [int(hit.track, 16) for hit in result.hits]


FILTERS = {
    "genres": (Filter(genres=("BLUES", "jazz")), lambda t: t.labels.genres[0] in ("Blues", "Jazz")),
    "without_genres": (Filter(without_genres=("rock",)), lambda t: t.labels.genres != ("rock",)),
    "artists": (Filter(artists=("artist 3",)), lambda t: t.labels.artists == ("Artist 3",)),
    "without_artists": (Filter(without_artists=("ARTIST 3",)), lambda t: t.labels.artists != ("Artist 3",)),
    "albums": (Filter(albums=("album 1",)), lambda t: t.labels.album == "Album 1"),
    "without_albums": (Filter(without_albums=("album 1",)), lambda t: t.labels.album != "Album 1"),
    "paths": (Filter(paths=("rock/*", "*39*")), lambda t: "/rock/" in t.path or "39" in t.path),
    "whole paths": (Filter(paths=("/music/[rf]o*",)), lambda t: "/rock/" in t.path or "/folk/" in t.path),
    "without_paths": (Filter(without_paths=("*S?ng.ogg",)), lambda t: False),
    "years": (Filter(years=(1985, 2005)), lambda t: 1985 <= t.labels.year <= 2005),
    "years from": (Filter(years=(0, 1990)), lambda t: 0 < t.labels.year <= 1990),
    "seconds": (Filter(seconds=(110, 120.5)), lambda t: 110 <= t.seconds <= 120.5),
    "all": (Filter(genres=("rock",), without_artists=("Artist 3",), years=(1991, 1993)), lambda t: 11 <= t.key <= 13),
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERS)
def test_filters_leave_what_a_loop_leaves(shelf: EmbeddingStore, searcher: Searcher, name: str) -> None:
    """Every field, wanted and unwanted; the nearest of what is left come first, and all of it comes."""
    wanted, meets = FILTERS[name]
    left = [track.key for track in shelf.tracks() if meets(track) and track.key != 17]
    if not left:
        with pytest.raises(ParameterError, match="no track meets the filters"):
            searcher.search(track_id(17), wanted)
        return
    far = sorted(abs(key - 17) for key in left)
    everything = keys(searcher.search(track_id(17), wanted, Shape(k=100)))
    assert sorted(everything) == sorted(left)
    assert [abs(key - 17) for key in everything] == far
    assert [abs(key - 17) for key in keys(searcher.search(track_id(17), wanted, Shape(k=2)))] == far[:2]


def test_filters_that_leave_nothing_say_which(searcher: Searcher) -> None:
    """One line with what each part alone leaves; unknown names suggest the closest."""
    with pytest.raises(ParameterError) as error:
        searcher.search(track_id(3), Filter(genres=("rock",), years=(1980, 1985), seconds=(100, 102)))
    assert str(error.value) == (
        "no track meets the filters; of 40 tracks each alone leaves: genre rock: 10, "
        "year 1980-1985 (4 tracks have no year): 6, 100-102 seconds: 3"
    )
    with pytest.raises(UnknownNameError, match=r"unknown artist 'Artits 3'; did you mean 'Artist 3'"):
        searcher.search("3", Filter(without_artists=("Artits 3",)))
    with pytest.raises(UnknownNameError, match=r"unknown genre 'zydeco'; known: Blues, Jazz, folk, rock"):
        searcher.search("3", Filter(genres=("zydeco",)))


def test_names_in_two_forms_of_unicode_are_one(library: Library) -> None:
    """A file system writes ö as o and two dots; a person types one letter."""
    library.add(1, 0.0, artists="Björk")
    library.add(2, 1.0, artists="Bjo\u0308rk", title="Jóga")
    assert keys(Searcher(library.store).search("1.ogg", Filter(artists=("björk",)))) == [2]
    assert keys(Searcher(library.store).search("bjork joga")) == [1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Filter(years=(2000, 1990)), "from the smaller to the larger; got 2000-1990"),
        (lambda: Filter(genres=("a",), without_genres=("a",)), "'a' is both wanted and unwanted"),
        (lambda: Shape(k=0), "k must be a whole number, at least 1; got 0"),
        (lambda: Shape(per_artist=0), "per artist must be a whole number, at least 1; got 0"),
        (lambda: Shape(least=1.5), "-1..1; got 1.5"),
        (lambda: Shape(diversity=-1), "diversity is 0..1; got -1"),
        (lambda: Shape(k=1.5), "k must be a whole number, at least 1; got 1.5"),
        (lambda: Seed("a", 1e-60), "or minus that; got 1e-60 for"),
        (lambda: Filter(genres="jig"), "genres of a filter are several texts; got one, 'jig'"),
        (lambda: Seed("a", 0), "or minus that; got 0 for"),
        (lambda: Seed("a", float("nan")), "or minus that; got nan for"),
        (lambda: Seed("a", at=-1), "seconds from its start; got -1"),
        (lambda: Query((Seed("a", -1),)), "one of the two"),
        (lambda: Query((Seed("a"), Seed("a", -1))), "like and unlike 'a' at once"),
    ],
)
def test_contradictions(make: object, message: str) -> None:
    """Each says what was asked."""
    with pytest.raises(ParameterError, match=message):
        make()


def test_seeds_add_up(searcher: Searcher) -> None:
    """Weights move the sum; what is unlike pushes it away; no seed is a result, unless it is wanted and asked for."""
    between = Query((Seed(track_id(10)), Seed(track_id(20))))
    assert keys(searcher.search(between, shape=Shape(k=3))) == [15, 14, 16]
    total = 3 * plane(20) + plane(40) - 0.5 * plane(60)
    angle = np.degrees(np.arctan2(total[1], total[0]))
    asked = Query((Seed(track_id(10), 3), Seed(track_id(20)), Seed(track_id(30), -0.5)))
    others = [key for key in range(40) if key not in (10, 20, 30)]
    expected = sorted(others, key=lambda key: abs(2 * key - angle))
    result = searcher.search(asked, shape=Shape(k=5))
    assert keys(result) == expected[:5]
    assert result.query == f"3 x {track_id(10)} + {track_id(20)} - 0.5 x {track_id(30)}"
    kept = keys(searcher.search(asked, shape=Shape(k=40, include_self=True)))
    assert (10 in kept, 20 in kept, 30 in kept) == (True, True, False)
    assert keys(searcher.search(Query((Seed(track_id(3), -1),), genre="FOLK"), shape=Shape(k=2))) == [39, 38]


def test_seeds_that_cancel_out(library: Library) -> None:
    """Nothing is left of a direction and its opposite."""
    library.add(1, 0.0)
    library.add(2, 180.0)
    with pytest.raises(ParameterError, match=r"1 \+ 2: these cancel each other out"):
        Searcher(library.store).search(Query((Seed("1"), Seed("2"))))


def test_text_finds_a_track(searcher: Searcher) -> None:
    """Words of artist and title in any order and case; several answers are listed, wrong letters suggested."""
    assert searcher.search("song 7 ARTIST 1", shape=Shape(k=1)).hits[0].track in (track_id(6), track_id(8))
    assert keys(searcher.search("Song 12", shape=Shape(k=1, include_self=True))) == [12]
    with pytest.raises(
        ParameterError, match=r"6 tracks answer to 'artist 3': .*, Artist 3 - Song 15 \(0+f\), .* 1 more; give"
    ):
        searcher.search("artist 3")
    with pytest.raises(TrackNotFoundError, match=r"did you mean 'Artist 6 - Song 33' or .*no file of that name"):
        searcher.search("Artst 6 Sonk 33")
    with pytest.raises(TrackNotFoundError, match=r"'12 Sung.ogg'.* did you mean '12 Söng.ogg'"):
        searcher.search("12 Sung.ogg")
    assert keys(searcher.search("rock/12 Söng.ogg", shape=Shape(k=1, include_self=True))) == [12]
    assert keys(searcher.search("12 Söng", shape=Shape(k=1, include_self=True))) == [12]
    assert nearest_genres(searcher.store, "song 12 artist 2") == nearest_genres(searcher.store, track_id(12))
    for strange in ("y" * 300, "\ud800", "y/" * 3000):
        with pytest.raises(TrackNotFoundError, match="no file of that name"):
            searcher.search(strange)


def test_percentile_of_a_track_is_the_share_of_pairs_that_are_less_alike(
    shelf: EmbeddingStore, searcher: Searcher
) -> None:
    """Counted over all pairs of a small library; a library of one has none."""
    rows = LayerSearch(shelf).vectors(shelf.keys())
    pairs = np.array([a @ b for a, b in combinations(rows, 2)])
    for hit in searcher.search(track_id(3), shape=Shape(k=39)).hits:
        below = 100 * (pairs < hit.score - 1e-6).mean(), 100 * (pairs < hit.score + 1e-6).mean()
        assert below[0] - 1e-9 <= hit.percentile <= below[1] + 1e-9


@pytest.mark.parametrize("query", [Query((), "rock"), Query((Seed(track_id(3)), Seed(track_id(30)))), Query((Seed(track_id(3)), Seed(track_id(9), -0.5)))])  # fmt: skip
def test_percentile_of_other_queries_is_the_share_of_tracks(searcher: Searcher, query: Query) -> None:
    """What is near to all tracks is near to its results, too: the nearest of 40 are above 90 %, the median at 50."""
    result = searcher.search(query, shape=Shape(k=40, include_self=True))
    shares = [hit.percentile for hit in result.hits]
    below = [100 * np.mean([other.score < hit.score for other in result.hits]) for hit in result.hits]
    if len(shares) == 40:
        assert shares == pytest.approx(below, abs=2.6)  # of equal scores, one may be a bit lower
    assert (result.percentile_of, result.to_dict()["percentile_of"]) == ("tracks", "tracks")
    assert shares[0] > 90


def test_few_of_an_artist_and_a_least_similarity(searcher: Searcher) -> None:
    """The search goes on until k are found, or says that none are alike enough."""
    wide = searcher.search(track_id(0), shape=Shape(k=8, per_artist=1))
    assert keys(wide) == [1, 5, 10, 15, 20, 25, 30, 35]
    assert keys(searcher.search(track_id(0), shape=Shape(k=100, per_artist=2)))[:4] == [1, 2, 5, 6]
    near = searcher.search(track_id(0), shape=Shape(k=30, least=float(np.cos(np.radians(6.5)))))
    assert keys(near) == [1, 2, 3]
    none = searcher.search(track_id(0), shape=Shape(least=1.0))
    assert (none.hits, none.notes) == ((), ("no track is 1 alike; the nearest is 0.9994",))


def test_copies_stand_under_one(library: Library) -> None:
    """The same artist and title, or the same length and hardly another sound; copies of the query are left out, too."""
    rng = np.random.default_rng(0)
    for key in range(100, 130):
        library.add(key, float(rng.uniform(45, 315)), seconds=float(1000 + 10 * key))
    library.add(1, 0.0, seconds=200.0, artists="A", title="One")
    library.add(2, 0.5, seconds=200.4)  # a copy of 1 by sound
    library.add(3, 3.0, seconds=300.0, artists=("The B", "C"), title="Two")
    library.add(4, 40.0, seconds=320.0, artists=("c", "B"), title=" TWO")  # of 3 by name
    library.add(5, 3.4, seconds=300.9)  # of 3 by sound
    library.add(6, 3.3, seconds=302.0)  # another length
    library.add(7, 30.0, seconds=300.0)  # another sound
    library.add(8, 35.0, seconds=335.0, artists=("B", "C"), title="Two")  # another length by more than 10 %
    library.add(9, 36.0, seconds=50.0, artists="Various Artists", title="Intro")
    library.add(10, 37.0, seconds=52.0, artists="Various Artists", title="Intro")  # nobody, and no title
    library.add(11, 38.0, seconds=70.0, artists="D", title="Track 1")
    library.add(12, 39.0, seconds=72.0, artists="D", title="Track 1")
    searcher = Searcher(library.store)
    hits = {int(hit.track, 16): hit for hit in searcher.search(track_id(1), shape=Shape(k=30, collapse=True)).hits}
    assert hits[3].copies == (track_id(5), track_id(4))
    assert {6, 7, 8, 9, 10, 11, 12} <= set(hits)
    assert not {1, 2, 4, 5} & set(hits)
    shown = keys(searcher.search(track_id(1), shape=Shape(k=2, collapse=True, include_self=True)))
    assert shown == [1, 3]


def test_guests_count_and_nobody_does_not(library: Library) -> None:
    """Queen with a guest is Queen, however it is written; a sampler is by nobody."""
    names = ("Queen", "Queen feat. David Bowie", "QUEEN", "David Bowie", "Various Artists", "various artists", "")
    with library.store.writer() as writer:
        for key, name in enumerate(names):
            writer.add(*library.entry(key, float(key), path=None, seconds=None, artists=(name,) * bool(name)))
    assert keys(Searcher(library.store).search("6", shape=Shape(per_artist=1))) == [5, 4, 3, 2]


@pytest.mark.parametrize("piece", [1, 7, 500])
def test_one_of_each_is_that_of_a_loop(piece: int) -> None:
    """Whatever the pieces; names, durations and sounds by chance, many of them the same."""
    rng = np.random.default_rng(0)
    n = 300
    rows = np.repeat(rng.normal(size=(n // 3, 4)), 3, axis=0) + rng.normal(size=(n, 4)) * rng.choice([0, 0.1], (n, 1))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    seconds = rng.integers(100, 112, n) / 2
    labels = [
        TrackLabels(artists=(f"A {rng.integers(9)}",), title=f"t {t}" if (t := rng.integers(9)) else "")
        for _ in range(n)
    ]
    background = background_of(rows)
    least = 1 - 0.03 * (1 - np.median(background))
    shown: dict[int, list[int]] = {}
    for i in range(5, n):  # the first five are seeds
        named = [j for j in [*range(5), *shown] if labels[i].title and labels[i] == labels[j] and abs(seconds[i] - seconds[j]) <= 0.1 * max(seconds[i], seconds[j])]  # fmt: skip
        heard = [j for j in [*range(5), *shown] if abs(seconds[i] - seconds[j]) <= 1 and rows[i] @ rows[j] >= least]
        first = (named or heard or [i])[0]
        if first == i:
            shown[i] = []
        elif first >= 5:
            shown[first].append(i)
    same = OneOfEach(background, Known(rows[:5], seconds[:5], labels[:5]))
    found = []
    for i in range(5, n, piece):
        part = slice(i, i + piece)
        some = [Candidate(j, 0.0) for j in range(n)[part]]
        found += same(some, Known(rows[part], seconds[part], labels[part]))
    assert {one.key: one.copies for one in found} == shown
    assert 50 < len(shown) < 250


def test_each_track_is_judged_once_and_not_without_end(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier round looked at is not looked at again; where the cap stops a search, a note says so."""
    with library.store.writer() as writer:
        for key in range(60):
            writer.add(
                *library.entry(key, 3.0 * key, path=None, seconds=None, artists=("A",) if key < 50 else (f"B {key}",))
            )
    judged: list[int] = []

    class Watched(AtMost):
        def __call__(self, candidates: list[Candidate], *labels: object) -> list[Candidate]:
            judged.extend(one.key for one in candidates)
            return super().__call__(candidates, *labels)

    monkeypatch.setattr("embedstore.search.searcher.AtMost", Watched)
    monkeypatch.setattr("embedstore.search.searcher._LOOKED_AT_LEAST", 40)
    found = Searcher(library.store).search(track_id(0), shape=Shape(k=2, per_artist=1))
    assert keys(found) == [1]
    assert found.notes == ("only the 40 nearest tracks were looked at; some farther away may fit, too",)
    assert judged == list(range(1, 41))
    monkeypatch.setattr("embedstore.search.searcher._LOOKED_AT_LEAST", 4000)
    found = Searcher(library.store).search(track_id(0), shape=Shape(k=20, per_artist=1))
    assert (keys(found), found.notes) == ([1, *range(50, 60)], ())


def test_what_an_index_finds_late_takes_its_place(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """An approximate index may miss a near track until it is asked for more."""
    with library.store.writer() as writer:
        for key in range(30):
            writer.add(*library.entry(key, float(key), path=None, seconds=None, artists={5: "B", 6: "C"}.get(key, "A")))
    real = LayerSearch.search

    def forgetful(live: LayerSearch, queries: np.ndarray, k: int, **options: object) -> Neighbors:
        found = real(live, queries, k + 1, **options)
        late = (found.keys == 5) & (k < 20)
        return Neighbors(found.keys[~late][None, :k], found.scores[~late][None, :k])

    monkeypatch.setattr(LayerSearch, "search", forgetful)
    assert keys(Searcher(library.store).search(track_id(0), shape=Shape(k=3, per_artist=1))) == [1, 5, 6]


def test_diversity_is_mmr(searcher: Searcher) -> None:
    """Against a plain loop over a pool; without diversity the nearest come as they are."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(30, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows[0]
    for diversity in (0.0, 0.3, 0.8):
        chosen: list[int] = []
        while len(chosen) < 10:
            left = [i for i in range(30) if i not in chosen]
            worth = [
                (1 - diversity) * scores[i] - diversity * max((rows[i] @ rows[j] for j in chosen), default=0)
                for i in left
            ]
            chosen.append(left[int(np.argmax(worth))])
        assert diverse(scores.tolist(), rows, 10, diversity) == chosen
    near, spread = (keys(searcher.search(track_id(20), shape=Shape(k=4, diversity=d))) for d in (0.0, 0.7))
    assert near == [19, 21, 18, 22]
    assert spread[0] == 19
    assert np.ptp(spread) > np.ptp(near)


def test_transform_and_mix(shelf: EmbeddingStore) -> None:
    """Centred vectors are compared around the library's mean; a mix of layers is a layer."""
    rows = shelf.vectors(shelf.keys(), 4).astype(np.float64)
    moved = rows - rows.mean(axis=0)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    result = Searcher(shelf, transform="centre").search(track_id(3), shape=Shape(k=39))
    expected = dict(zip(shelf.keys().tolist(), moved @ moved[3], strict=True))
    assert (result.transform, result.to_dict()["transform"]) == ("centre", "centre")
    for hit in result.hits:
        assert hit.score == pytest.approx(expected[int(hit.track, 16)], abs=1e-3)
    mix = Mix("m", np.array([[1, 1], [2, 2]], np.float32), np.array([0.5, 0], np.float32))
    mixed = Searcher(shelf, layer=mix).search(track_id(3), shape=Shape(k=1))
    both = shelf.vectors(shelf.keys(), 0) + 2 * shelf.vectors(shelf.keys(), 4) + [0.5, 0]
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    assert mixed.layer == "mix"
    assert mixed.hits[0].score == pytest.approx(np.sort(both @ both[3])[-2], abs=1e-4)


def test_moments(tmp_path: Path) -> None:
    """The window that holds the moment is the query, and of each hit the nearest window is told."""
    library = Library(tmp_path / "kept", windows=True)
    library.add(1, 0.0, 90.0, 180.0)
    library.add(2, 170.0, 100.0)
    library.add(3, 10.0, 20.0)
    searcher = Searcher(library.store)
    result = searcher.search(Query((Seed("1", at=12.0),)))
    assert keys(result) == [2, 3]
    assert [(hit.at, hit.end) for hit in result.hits] == [(10.0, 20.0), (10.0, 20.0)]
    assert result.query == "1 at 0:12"
    (first, _) = searcher.search(Query((Seed("1", at=29.9),))).hits
    assert (first.track, first.at, first.to_dict()["end"]) == (track_id(2), 0.0, 10.0)
    assert searcher.search("1").hits[0].at is None
    with pytest.raises(ParameterError, match=r"1 ends at 0:30; there is no moment 1:00"):
        searcher.search(Query((Seed("1", at=60.0),)))


def test_moments_need_windows(searcher: Searcher) -> None:
    """The error says what to build."""
    with pytest.raises(StoreError, match=r"there is no moment 0:01 of 0+3: .* keeps no windows; build a new one"):
        searcher.search(Query((Seed(track_id(3), at=1.0),)))


def test_it_follows_the_store(library: Library) -> None:
    """Tracks that another process adds, labels and deletes are so in the next search; an open searcher needs nothing done."""
    library.add(1, 0.0, genres="a")
    searcher = Searcher.open(library.store.path)
    assert (searcher.search("1").hits, searcher.search("1", shape=Shape(include_self=True)).hits[0].percentile) == (
        (),
        None,
    )
    library.add(2, 1.0, genres="a")
    assert keys(searcher.search("1", Filter(genres=("a",)))) == [2]
    view = searcher.view()
    with library.store.writer() as writer:
        writer.label(2, TrackLabels(("b",)))
    with pytest.raises(ParameterError, match=r"genre a: 1, path 2\*: 1$"):
        searcher.search("2", Filter(genres=("a",), paths=("2*",)))
    assert keys(searcher.search("1", Filter(genres=("b",)))) == [2]
    assert searcher.view().live is view.live, "labels do not change vectors"
    library.store.remove([track_id(2)], yes=True)
    assert keys(searcher.search("1")) == []
    with pytest.raises(TrackNotFoundError):
        searcher.search(track_id(2))
    searcher.close()


def test_what_goes_wrong_because_the_store_changes_is_tried_again(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails while something is added is looked at again, also by a writer of this process; else the fault is told."""
    library.add(1, 0.0)
    library.add(2, 1.0)
    searcher, real, calls = Searcher(library.store), LayerSearch.search, []

    def broken(live: LayerSearch, *args: object, **options: object) -> object:
        calls.append(live)
        if len(calls) == 1:
            library.add(3, 0.5)
            raise StoreFormatError("shard 1 is gone")
        return real(live, *args, **options)

    monkeypatch.setattr(LayerSearch, "search", broken)
    assert keys(searcher.search("1")) == [3, 2]
    calls.clear()
    monkeypatch.setattr(library, "add", lambda *_args: None)
    with pytest.raises(StoreFormatError, match="shard 1 is gone"):
        searcher.search("1")


def test_a_track_that_goes_while_a_view_is_made(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view is made again."""
    for key in range(4):
        library.add(key, float(key))
    searcher, real, calls = Searcher(library.store), LayerSearch, []

    def vanishing(*args: object, **options: object) -> LayerSearch:
        calls.append(1)
        if len(calls) == 1:
            library.store.remove([track_id(2)], yes=True)
            raise TrackNotFoundError("1 of 5 keys are not stored")
        return real(*args, **options)

    library.add(4, 4.0)
    monkeypatch.setattr("embedstore.search.searcher.LayerSearch", vanishing)
    assert keys(searcher.search(track_id(0))) == [1, 3, 4]


def test_a_track_that_goes_before_it_is_described(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one takes its place."""
    for key in range(9):
        library.add(key, float(key))
    searcher, real = Searcher(library.store), EmbeddingStore.described

    def late(store: EmbeddingStore, wanted: np.ndarray) -> object:
        if np.isin(2, store.keys()):
            library.store.remove([track_id(2)], yes=True)
        return real(store, wanted)

    monkeypatch.setattr(EmbeddingStore, "described", late)
    assert keys(searcher.search(track_id(0), shape=Shape(k=3))) == [1, 3, 4]


def test_a_genre_that_grows_meanwhile(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels may be newer than vectors: the centre is that of the tracks that can be searched."""
    library.add(1, 0.0, genres="a")
    library.add(2, 20.0, genres="a")
    searcher, real = Searcher(EmbeddingStore.open(library.store.path)), Columns.__init__

    def late(columns: Columns, *args: object) -> None:
        library.add(3, 90.0, genres=("a", "b"))
        real(columns, *args)

    monkeypatch.setattr(Columns, "__init__", late)
    assert [hit.score for hit in searcher.search(Query((), "a")).hits] == pytest.approx(
        [np.cos(np.radians(10))] * 2, abs=1e-3
    )
    monkeypatch.setattr(Columns, "__init__", real)
    assert keys(searcher.search(Query((), "b")))[0] == 3


def test_labels_that_stayed_are_not_read_again(library: Library) -> None:
    """What changed is; and what is not used any more is freed at once."""
    for key in (1, 2, 3):
        library.add(key, float(key), genres="a")
    old = Columns(library.store)
    old.allowed(Filter(genres=("a",)))
    with library.store.writer() as writer:
        writer.label(2, TrackLabels(("b",)))
        writer.add(*library.entry(1, 1.0, path="other.ogg", seconds=None))
    new = Columns(library.store, old)
    assert [one is other for one, other in zip(old.labels, new.labels, strict=True)] == [False, False, True]
    assert new.allowed(Filter(paths=("other*",))).tolist() == [1]
    assert new.allowed(Filter(genres=("b",))).tolist() == [2]
    gone = weakref.ref(old)
    gc.disable()
    del old
    gc.enable()
    assert gone() is None


@pytest.mark.parametrize("what", ["searcher.LayerSearch", "columns.Columns", "searcher.background_of"])
def test_threads_share_one_view_of_a_commit(library: Library, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """However many ask at once, what takes time is done once for each commit."""
    library.add(1, 0.0)
    library.add(2, 1.0, genres="a")
    searcher, made = Searcher(EmbeddingStore.open(library.store.path)), []
    real = pkgutil.resolve_name(f"embedstore.search.{what}")

    def slow(*args: object, **options: object) -> object:
        made.append(what)
        time.sleep(0.02)
        return real(*args, **options)

    monkeypatch.setattr(f"embedstore.search.{what}", slow)
    for key in (3, 4):
        library.add(key, float(key), genres="a")
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: keys(searcher.search("1", Filter(genres=("a",)))), range(6)))
        assert found == [list(range(2, key + 1))] * 6
        assert len(made) == key - 2


def test_a_slow_thread_puts_no_older_stamp_on_a_newer_view(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each search after it would make the view again."""
    library.add(1, 0.0)
    searcher = Searcher(EmbeddingStore.open(library.store.path))
    real, begun, newer = searcher._stamp, threading.Event(), threading.Event()

    def slow() -> object:
        stamp = real()
        if not begun.is_set():
            begun.set()
            newer.wait(0.1)
        return stamp

    monkeypatch.setattr(searcher, "_stamp", slow)
    thread = threading.Thread(target=searcher.view)
    thread.start()
    begun.wait()
    library.add(2, 1.0)
    assert len(searcher) == 2
    newer.set()
    thread.join()
    assert searcher._view.stamp == real()


@pytest.mark.slow
def test_no_answer_is_from_the_past(library: Library) -> None:
    """Six threads search while two add, delete and merge: no fault, nothing that was gone or missing before a search began."""
    added, going, gone = {0: 0.0}, {}, {}
    faults, searches, done, turn = [], [0], threading.Event(), threading.Lock()
    library.add(0, 0.0, genres="a")
    searcher = Searcher(EmbeddingStore.open(library.store.path))

    def write(first: int) -> None:
        rng = np.random.default_rng(first)
        store = EmbeddingStore.open(library.store.path)
        for key in range(first, first + 60):
            with turn:
                with store.writer() as writer:
                    writer.add(*library.entry(key, float(key % 90), path=None, seconds=None, genres=("a",)))
                added[key] = time.monotonic()
                here = [one for one in added if one not in going and one]
                if rng.random() < 0.5:
                    out = int(rng.choice(here))
                    going[out] = time.monotonic()
                    store.remove([track_id(out)], yes=True)
                    gone[out] = time.monotonic()
                if key % 15 == 0:
                    store.compact()
            time.sleep(0.02)

    def look(number: int) -> None:
        asked = (
            (track_id(0), None, Shape(k=500, include_self=True)),
            (Query((), "a"), None, Shape(k=500)),
            (track_id(0), Filter(genres=("a",)), Shape(k=500, include_self=True, per_artist=1)),
        )
        while not done.is_set():
            start = time.monotonic()
            try:
                found = set(keys(searcher.search(*asked[number % 3])))
                end = time.monotonic()
                late = {key for key in found if gone.get(key, end) < start}
                missing = {key for key, when in [*added.items()] if when < start and going.get(key, end) >= end} - found
                assert not late | missing, (late, missing)
                searches[0] += 1
            except BaseException as error:  # noqa: BLE001 - told below
                faults.append(error)
                return

    writers = [threading.Thread(target=write, args=(first,)) for first in (1, 1001)]
    threads = [threading.Thread(target=look, args=(number,)) for number in range(6)]
    for thread in (*threads, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert searches[0] > 100


def test_many_threads_while_the_store_grows(library: Library) -> None:
    """No search fails or sees what is half there; the last ones see all."""
    for key in range(5):
        library.add(key, 10.0 * key)
    searcher, faults, done = Searcher(EmbeddingStore.open(library.store.path)), [], threading.Event()

    def work() -> None:
        while not done.is_set():
            try:
                found = keys(searcher.search(track_id(0), Filter(seconds=(0, 99)), Shape(k=50, collapse=True)))
                assert found == list(range(1, len(found) + 1)), found
            except BaseException as error:  # noqa: BLE001 - told below
                faults.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for key in range(5, 15):
        library.add(key, 10.0 * key)
    library.store.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert keys(searcher.search(track_id(0), shape=Shape(k=50))) == list(range(1, 15))


def test_a_new_index_is_taken_up(library: Library) -> None:
    """Answers are the same, and the index is used without opening the store again."""
    for key in range(30):
        library.add(key, 5.0 * key)
    searcher = Searcher(library.store)
    before = searcher.search("3")
    assert searcher.view().live.report is None
    build_index(library.store)
    assert searcher.search("3") == before
    assert searcher.view().live.report is not None


def test_duplicates_and_one_track(library: Library) -> None:
    """Equal vectors come in the order of their ids; a store of one track has no neighbours, and no percentile."""
    for key in (4, 2, 9):
        library.add(key, 33.0)
    assert keys(Searcher(library.store).search(track_id(2))) == [4, 9]
