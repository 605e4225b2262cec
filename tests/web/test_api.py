"""The API: what it answers, and that it is what its description says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from pydantic import TypeAdapter

from embedstore.errors import AudioError, ParameterError
from embedstore.index import build, build_index
from embedstore.search import Filter, Query, Searcher, Seed, Shape
from embedstore.summary import list_failures, summarize
from embedstore.types import AudioFile, track_id
from embedstore.web import mapmodels, models, searchers
from embedstore.web.answers import Answer, plain
from embedstore.web.routes import tracks as routes

IDS = [track_id(1000 + i) for i in range(10)]


def get(client, path, code=200, **params):
    answer = client.get(f"/api/{path}", params=params)
    assert answer.status_code == code, answer.text
    return answer.json() if code == 200 else fault(answer, code)


def fault(answer, code):
    """Give the message of an error, which has one shape."""
    assert answer.status_code == code, answer.text
    error = answer.json()
    assert error == {"error": {"type": error["error"]["type"], "message": error["error"]["message"]}}
    assert "\n" not in error["error"]["message"]
    return error["error"]["message"]


def post(client, code=200, **body):
    answer = client.post("/api/search", json=body)
    return answer.json() if code == 200 == answer.status_code else fault(answer, code)


def test_every_answer_is_what_the_description_says(client) -> None:
    """Each model has a summary, an example and a text for each field; what comes is such a model; no page needs a network."""
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    for name, schema in schemas.items():
        assert schema["description"], name
        (example,) = schema["examples"]
        assert example.keys() <= schema["properties"].keys()
        assert all(field["description"] for field in schema["properties"].values()), name
    for model, path in (
        (models.Health, "health"),
        (models.StoreFacts, "store"),
        (models.TrackPage, "tracks"),
        (models.StoredTrack, f"tracks/{IDS[3]}"),
        (models.SearchResult, f"tracks/{IDS[3]}/neighbors"),
        (list[models.Genre], "genres"),
        (models.GenreTable, "genres/map"),
        (models.FailurePage, "failures"),
        (mapmodels.MapState, "map"),
        (mapmodels.MapTracks, "map/tracks"),
    ):
        found = get(client, path)
        names = found.keys() if isinstance(found, dict) else found[0].keys()
        one = getattr(model, "__args__", (model,))[0]
        assert names == {field.name for field in dataclasses.fields(one)}
        TypeAdapter(model).validate_json(json.dumps(found))
    for operation in (one for path in document["paths"].values() for one in path.values()):
        assert operation["description"]
        assert all(
            parameter["description"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"
        )
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_examples_are_valid_requests() -> None:
    """The example of a search is one that is understood."""
    sample = models._SAMPLES[0]
    assert models.SearchRequest.model_validate(plain(sample)) == sample


def test_tracks_are_listed_page_by_page_in_the_order_of_the_store(client) -> None:
    """Total, offset and limit; behind the end there is nothing."""
    pages = [get(client, "tracks", offset=offset, limit=4) for offset in (0, 4, 8, 12)]
    assert [track["id"] for page in pages for track in page["tracks"]] == IDS
    assert {page["total"] for page in pages} == {10}
    assert get(client, "tracks", offset=2**53)["tracks"] == []


def test_tracks_are_found_by_words_of_their_names(client) -> None:
    """Artist, title, genre and path, in any case; all words must occur."""
    assert [track["id"] for track in get(client, "tracks", q="aNN")["tracks"]] == IDS[:2]
    assert [track["id"] for track in get(client, "tracks", q="ben rock")["tracks"]] == []
    assert get(client, "tracks", q="rock eve")["total"] == 2
    assert [track["id"] for track in get(client, "tracks", q="7.ogg")["tracks"]] == IDS[7:8]
    assert get(client, "tracks", q="ann " * 30 + "blues")["total"] == 2
    words = " ".join(map(str, range(21)))
    assert get(client, "tracks", 400, q=words) == "tracks are found by up to 20 words; got 21"


def test_a_track(client, shelf) -> None:
    """What is known about it, by its id only; an unknown id names the one that is like it, no id says how to find one."""
    track = get(client, f"tracks/{IDS[7]}")
    assert (track["id"], track["paths"], track["seconds"]) == (IDS[7], [str(shelf.music / "7.ogg")], 30.0)
    assert (track["labels"]["artists"], track["labels"]["title"]) == (["Dan"], "Song 7")
    typo = IDS[7][:3] + "a" + IDS[7][4:]
    assert f"{typo} (10 tracks); did you mean {IDS[7]}?" in get(client, f"tracks/{typo}", 404)
    assert "did you mean" not in get(client, "tracks/77777777ffffffff", 404)
    for trick in (
        "7.ogg",
        str(shelf.music / "7.ogg"),
        "..",
        "%2e%2e%2fetc%2fpasswd",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "%ff",
        IDS[7].upper() + "A",
    ):
        get(client, f"tracks/{trick}/audio", 404)
    assert "/api/tracks?q=TEXT" in get(client, "tracks/7.ogg", 404)


def test_neighbors_are_those_of_the_searcher(client, searcher) -> None:
    """The dataclasses of a search are the JSON."""
    expected = searcher.search(Query((Seed(IDS[3]),)), shape=Shape(k=4))
    found = get(client, f"tracks/{IDS[3]}/neighbors", k=4)
    assert found == plain(expected)
    assert [hit["track"] for hit in found["hits"]] == [IDS[i] for i in (2, 4, 1, 5)]
    rock = get(client, f"tracks/{IDS[3]}/neighbors", k=4, genre="rock", artist=["Cem", "EVE"])
    assert [hit["track"] for hit in rock["hits"]] == [IDS[i] for i in (5, 8, 9)]
    for wrong in ({"genre": ["x"] * 101}, {"artist": "x" * 1001}, {"first_year": -1}, {"shortest": "nan"}):
        get(client, f"tracks/{IDS[3]}/neighbors", 422, **wrong)


def test_a_search_takes_the_dataclasses_of_the_searcher(client, searcher) -> None:
    """Weights and negatives, a genre, filters and shape."""
    seeds = [{"what": IDS[4]}, {"what": IDS[0], "weight": -0.5}]
    found = post(client, query={"seeds": seeds}, shape={"k": 3})
    assert found == plain(searcher.search(Query((Seed(IDS[4]), Seed(IDS[0], -0.5))), shape=Shape(k=3)))
    assert {hit["genres"][0] for hit in post(client, query={"genre": "rock"}, shape={"k": 3})["hits"]} == {"rock"}
    rock = post(client, query={"seeds": seeds}, filter={"genres": ["rock"]}, shape={"per_artist": 1})["hits"]
    assert {hit["genres"][0] for hit in rock} == {"rock"}
    assert len({hit["artists"][0] for hit in rock}) == len(rock)


def test_a_seed_is_named_by_words_but_never_by_a_file(client, shelf, tmp_path, monkeypatch) -> None:
    """Artist and title do; the path of a file that is not stored does not, though the file is there."""
    assert post(client, query={"seeds": [{"what": "dan song 7"}]})["hits"][0]["track"] in (IDS[6], IDS[8])
    assert "did you mean" in post(client, 404, query={"seeds": [{"what": "Dan Sogn 7"}]})
    (tmp_path / "there.ogg").write_bytes(b"sound")
    (tmp_path / IDS[3]).write_bytes(b"no sound")
    monkeypatch.chdir(tmp_path)
    assert get(client, f"tracks/{IDS[3]}/neighbors")["hits"][0]["track"] == IDS[2]
    for name in (str(tmp_path / "there.ogg"), "there.ogg", "./there.ogg", "/etc/passwd"):
        assert "no stored track" in post(client, 404, query={"seeds": [{"what": name}]})


@pytest.mark.parametrize(
    ("code", "said", "body"),
    [
        (422, "query: Field required", {}),
        (422, "one of the two", {"query": {}}),
        (422, "Unexpected keyword argument", {"query": {"seeds": [{"what": IDS[0], "wait": 1}]}}),
        (422, "Extra inputs", {"query": {"genre": "rock"}, "k": 3}),
        (422, "or minus that", {"query": {"seeds": [{"what": IDS[0], "weight": 0}]}}),
        (422, "k is at most 1000; got 1001", {"query": {"genre": "rock"}, "shape": {"k": 1001}}),
        (422, "at least 1; got 0", {"query": {"genre": "rock"}, "shape": {"k": 0}}),
        (422, "at most 100 names", {"query": {"genre": "rock"}, "filter": {"genres": ["x"] * 101}}),
        (422, "at most 100 names", {"query": {"seeds": [{"what": "x" * 1001}]}}),
        (422, "at most 100 names", {"query": {"genre": "x" * 1001}}),
        (400, "the store keeps no windows", {"query": {"seeds": [{"what": IDS[0], "at": 3}]}}),
        (404, "did you mean 'rock'", {"query": {"genre": "rok"}}),
        (400, "no track meets the filters", {"query": {"genre": "rock"}, "filter": {"seconds": [900, 999]}}),
    ],
)  # fmt: skip
def test_a_search_that_makes_no_sense(client, code, said, body) -> None:
    """Each is refused with a line that says why."""
    assert said in post(client, code, **body)


def test_what_is_no_json_or_no_number(client) -> None:
    """A body of other kinds, numbers that are none, and words that are not UTF-8 are faults of who asks."""
    for content in (b"", b"{", b'{"query": {"seeds": [{"what": "x", "weight": NaN}]}}', b"[]"):
        fault(client.post("/api/search", content=content, headers={"Content-Type": "application/json"}), 422)
    for name in ("\\ud800", "\\u0000", " ", ""):
        for part in (f'"genre": "{name}"', f'"seeds": [{{"what": "{name}"}}]'):
            fault(
                client.post(
                    "/api/search", content=f'{{"query": {{{part}}}}}', headers={"Content-Type": "application/json"}
                ),
                404,
            )
    fault(client.post("/api/search", content=b"\xff", headers={"Content-Type": "application/json"}), 400)
    for params in (
        {"k": 1001},
        {"k": 0},
        {"k": "x"},
        {"least": "nan"},
        {"diversity": "inf"},
        {"at": "nan"},
        {"at": -1},
    ):
        get(client, f"tracks/{IDS[0]}/neighbors", 422, **params)
    for params in ({"offset": -1}, {"offset": 10**20}, {"limit": 0}, {"limit": 1001}, {"q": "x" * 201}):
        get(client, "tracks", 422, **params)
    fault(client.put("/api/search"), 405)
    fault(client.get("/api/nothing"), 404)


def test_genres_and_the_store(client, shelf) -> None:
    """The counts and the coverage that `info` shows; centres of two genres at 20 and 70 degrees."""
    assert get(client, "genres") == [{"genre": "blues", "tracks": 5}, {"genre": "rock", "tracks": 5}]
    facts = get(client, "store")
    assert (facts["path"], facts["tracks"], facts["indices"], facts["folders"]) == (str(shelf.store.path), 10, [], None)
    tree = get(client, "genres/map")
    assert (tree["genres"], tree["counts"]) == (["blues", "rock"], [5, 5])
    assert tree["similarity"] == [[1, 0.6427], [0.6427, 1]]


def test_an_index_is_read_once(shelf, monkeypatch) -> None:
    """However often the store is described anew; again once a file has changed."""
    report, read = build_index(shelf.store, kind="flat"), []
    check = build.check_sums
    monkeypatch.setattr(build, "check_sums", lambda one: (read.append(one.kind), check(one)))
    assert [summarize(shelf.store, scan=False)["indices"][0]["covers"] for _ in range(2)] == [10, 10]
    assert read == ["flat"]
    (Path(report.path) / "strange").touch()
    assert "not its own" in summarize(shelf.store, scan=False)["indices"][0]["problem"]
    shutil.rmtree(report.path)


def test_only_the_largest_genres_are_mapped(client_of, shelf, monkeypatch) -> None:
    """So many, and the answer says so; it is worked out and encoded once."""
    monkeypatch.setattr(routes, "MOST_MAPPED", 1)
    with client_of(Searcher(shelf.store)) as client:
        tree = get(client, "genres/map")
        assert (tree["genres"], tree["left_out"]) == (["blues"], {"rock": 5})
        assert tree["notes"] == ["of 2 genres the 1 with most tracks are compared"]
        monkeypatch.delattr(routes, "GenreTable")
        assert get(client, "genres/map") == tree


def test_an_upload_is_searched_and_removed(client, searcher, monkeypatch) -> None:
    """The searcher gets a file with the bytes; it is gone after the answer, be that hits or an error; neither names it."""
    heard = []

    def hear(query, *wanted):
        (seed,) = query.seeds
        with open(seed.what, "rb") as file:  # noqa: PTH123
            heard.append((seed, file.read(), *wanted))
        if heard[-1][1] == b"noise":
            raise AudioError(f"{seed.what}: no sound in it")
        if seed.at == 99:
            raise ParameterError(f"{seed.what} ends at 0:12; there is no moment 1:39")
        return dataclasses.replace(found, notes=(f"{seed.what}: it stops early",))

    found = searcher.search(Query((Seed(IDS[3]),)))
    monkeypatch.setattr(searcher, "search", hear)
    monkeypatch.setattr(searcher, "hear", lambda *_, **asked: asked["keep_windows"])
    answer = client.post("/api/search/audio?k=3&at=12.5", content=b"sound" * 100_000)
    assert answer.json() == plain(dataclasses.replace(found, query="the upload", notes=("it stops early",)))
    assert fault(client.post("/api/search/audio", content=b"noise"), 422) == "no sound in it"
    assert (
        fault(client.post("/api/search/audio?at=99", content=b"x"), 400)
        == "the upload ends at 0:12; there is no moment 1:39"
    )
    assert [(len(data), shape.k, seed.at) for seed, data, _, shape, _ in heard] == [
        (500_000, 3, 12.5),
        (5, 10, None),
        (1, 10, 99),
    ]
    client.post("/api/search/audio?genre=rock&genre=blues&artist=Ann&first_year=1990&longest=60", content=b"sound")
    assert heard[-1][2] == Filter(genres=("rock", "blues"), artists=("Ann",), years=(1990, 9999), seconds=(0, 60))
    assert heard[0][2] == Filter()
    assert [files == {seed.what: seed.at is not None} for seed, *_, files in heard] == [True] * 4
    assert "goes from the smaller" in fault(client.post("/api/search/audio?shortest=9&longest=8", content=b"x"), 400)
    for seed, *_ in heard:
        with pytest.raises(FileNotFoundError):
            open(seed.what, "rb")  # noqa: PTH123, SIM115


def test_faults_are_told_apart(client, searcher, monkeypatch) -> None:
    """What is not to be had now is 503, a fault of ours 500 without its words."""
    for error, code, said in (
        (OSError(28, "No space left on device"), 503, "No space left"),
        (MemoryError(), 503, "out of memory"),
        (RuntimeError("secret"), 500, "a fault of the service"),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(searcher, "search", fail)
        answer = client.get(f"/api/tracks/{IDS[0]}/neighbors")
        assert said in fault(answer, code)
        assert "secret" not in answer.text


def test_names_that_are_not_utf_8_are_shown_as_well_as_may_be() -> None:
    """JSON that every parser reads."""
    assert Answer({"path": "a\udcffb\ud800"}).body.decode() == '{"path":"a\ufffdb\ufffd"}'


def test_fewer_layers_are_kept_of_a_store_that_grows(new_shelf, monkeypatch) -> None:
    """As many as there is room for now, those used last; at least one."""
    monkeypatch.setattr(searchers, "_MEMORY", 32)  # bytes: two layers of two tracks
    for i in range(2):
        new_shelf.put(i)
    found = searchers.Searchers(Searcher(new_shelf.store))
    first, mean = found.of(0), found.of("mean")
    assert [found.of(layer) for layer in (0, "mean", 1, None)] == [first, mean, found.default, found.default]
    for i in range(2, 4):
        new_shelf.put(i)
    assert found.of(0) is first
    assert found.of("mean") is not mean
    assert found.of(0) is not first


def test_some_tracks_by_their_ids(client) -> None:
    """In the order that is asked for, one twice if so; the first that is not there is told."""
    found = get(client, "tracks", id=[IDS[7], IDS[2], IDS[7]])
    assert [track["id"] for track in found["tracks"]] == [IDS[7], IDS[2], IDS[7]]
    assert "(10 tracks)" in get(client, "tracks", 404, id=[IDS[7], "0" * 16])
    assert "no track id" in get(client, "tracks", 404, id=[IDS[7], "x"])
    get(client, "tracks", 422, id=IDS * 11)


def test_a_playlist(client, shelf) -> None:
    """The paths in the order of the ids, each once, as a file to be saved under any name."""
    name = 'blue "evening" \u2013 1/2'
    answer = client.post("/api/playlist", json={"tracks": [IDS[7], IDS[2], IDS[7]], "name": name})
    assert answer.headers["content-type"].startswith("audio/x-mpegurl")
    assert answer.text.splitlines() == [
        "#EXTM3U", "#EXTINF:30,Dan - Song 7", str(shelf.music / "7.ogg"), "#EXTINF:30,Ben - Song 2", str(shelf.music / "2.ogg"),
    ]  # fmt: skip
    told = answer.headers["content-disposition"].removeprefix("attachment; filename*=UTF-8''")
    assert unquote(told) == f"{name}.m3u8"
    assert told.isascii()
    assert not {*' ";/'} & {*told}
    for body, code in (
        ({"tracks": ["x"]}, 404),
        ({"tracks": [IDS[0]] * 1001}, 422),
        ({"tracks": IDS, "name": "x" * 201}, 422),
        ({}, 422),
    ):
        fault(client.post("/api/playlist", json=body), code)


def test_failures_page_by_page(shelf, client_of) -> None:
    """Path, stage and reason of each, by path; those of `embedstore failures`."""
    files = [AudioFile(str(shelf.music), f"broken {i}.ogg", 10, 1) for i in range(3)]
    with shelf.store.writer() as writer:
        for file in files:
            writer.fail(file, "decode", "no sound in it")
    with client_of(Searcher(shelf.store)) as client:
        page = get(client, "failures", offset=1, limit=1)
        assert page == {"total": 3, "offset": 1, "failures": list_failures(shelf.store)[1:2]}
        assert page["failures"][0] == {"path": files[1].full_path, "stage": "decode", "reason": "no sound in it"}
        assert get(client, "failures", offset=5)["failures"] == []
    with shelf.store.writer() as writer:
        for file in files:
            writer.forget(file.full_path)


def test_nothing_of_the_store_is_written(shelf, client_of) -> None:
    """Whatever is asked: each of its files is the same before and after."""
    files = sorted(path for path in shelf.store.path.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    with client_of(Searcher(shelf.store)) as client:
        version = get(client, "map")["version"]
        for path in ("store", "tracks?q=a", "genres", "genres/map", "failures", "jobs", "map/tracks", f"map/matches?q=a&version={version}",
                     f"tracks/{IDS[0]}", f"tracks/{IDS[0]}/neighbors", f"tracks/{IDS[0]}/audio"):  # fmt: skip
            assert client.get(f"/api/{path}").status_code == 200, path
        client.post("/api/playlist", json={"tracks": IDS})
        client.post("/api/search", json={"query": {"genre": "rock"}}, params={"layer": "mean"})
        client.delete(f"/api/tracks/{IDS[0]}")
    assert sorted(path for path in shelf.store.path.rglob("*") if path.is_file()) == files
    assert [path.read_bytes() for path in files] == before
