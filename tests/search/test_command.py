"""`embedstore search`, as people type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from search_material import Library

import cli
from embedstore.store import EmbeddingStore
from embedstore.types import track_id


@pytest.fixture
def run(shelf: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on the shelf, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: object, code: int = 0, store: object = shelf.path) -> Result:
        result = CliRunner().invoke(cli.main, ["search", "--store", str(store), *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return start


def tracks(document: dict[str, Any]) -> list[int]:
    return [int(hit["track"], 16) for hit in document["results"]]


def test_all_options_reach_the_search(run: Any) -> None:
    """Seeds with weights, filters and shapes of one command."""
    asked = (
        track_id(10),
        "--like",
        track_id(20),
        3,
        "--unlike",
        track_id(39),
        "--only",
        "genre=jazz",
        "--only",
        "genre=FOLK",
    )
    found = json.loads(
        run(*asked, "--without", "path=*25*", "--years", "2000-", "--duration", "1:30-135", "-k", 9, "--json").stdout
    )
    assert found["query"] == f"{track_id(10)} + 3 x {track_id(20)} - 0.5 x {track_id(39)}"
    assert set(tracks(found)) <= set(range(20, 36)) - {20, 25, 29}
    one = json.loads(
        run(track_id(0), "--per-artist", 1, "--least", 0.9, "--diversity", 0.2, "--collapse", "-k", 3, "--json").stdout
    )
    assert len({hit["artist"] for hit in one["results"]}) == 3
    moved = json.loads(run(track_id(0), "--transform", "centre", "--layer", "0", "--json").stdout)
    assert (moved["layer"], moved["transform"]) == (0, "centre")


def test_the_table(run: Any) -> None:
    """Ranks, scores and percentiles; copies and moments only where there are any."""
    lines = run(track_id(3), "-k", 2, "--only", "path=/music/Blues/0[24]*").stdout.splitlines()
    assert lines[0] == f"nearest to {track_id(3)}, layer 4 (cosine similarity; % of random pairs that are less alike)"
    assert lines[2].split() == ["rank", "score", "%", "genre", "artist", "title", "path"]
    assert [line.split()[0] for line in lines[4:6]] == ["1", "2"]
    assert "0.9994" in lines[4]
    heading = run("--genre", "rock", "-k", 2).stdout.splitlines()[0]
    assert heading == "nearest to genre:rock, layer 4 (cosine similarity; % of the library that is less alike)"


def test_formats(run: Any, shelf: EmbeddingStore) -> None:
    """CSV and playlists go to stdout or a file, whose name says the format."""
    assert run(track_id(3), "-k", 1, "--format", "csv").stdout.startswith('"query","rank","track","path"')
    assert run(track_id(3), "-k", 1, "--format", "json").stdout == run(track_id(3), "-k", 1, "--json").stdout
    playlist = run(track_id(3), "-k", 1, "--format", "m3u8").stdout
    said = run(track_id(3), "-k", 1, "--out", "a.m3u8")
    assert said.stdout == "1 results in a.m3u8\n"
    assert Path("a.m3u8").read_text("utf-8") == playlist
    assert (
        "a.m3u8 exists; choose another name, or give --overwrite" in run(track_id(3), "--out", "a.m3u8", code=1).stderr
    )
    assert Path("a.m3u8").read_text("utf-8") == playlist
    assert run(track_id(3), "-k", 2, "--out", "a.m3u8", "--overwrite").stdout == "2 results in a.m3u8\n"
    inside = f"{shelf.path}/list.csv"
    assert "lies in the store" in run(track_id(3), "--out", inside, "--overwrite", code=1).stderr.replace("\n", " ")
    told = json.loads(run(track_id(3), "-k", 1, "--out", "b", "--format", "csv", "--json").stdout)
    assert (told["file"], len(told["results"])) == (str(Path("b").absolute()), 1)
    assert "no such form" not in run(track_id(3), "--out", "c.txt", code=1).stderr
    assert not Path("c.txt").exists()


def test_a_file_of_queries(run: Any) -> None:
    """Answers line by line; those that fail are told with their line on stderr, and the exit code is 1."""
    Path("q.txt").write_text(f"{track_id(3)}\nnobody\n")
    result = run("--queries", "q.txt", "-k", 1, code=1)
    assert result.stderr.startswith("line 2: no stored track is called 'nobody'")
    assert f"nearest to line 1: {track_id(3)}" in result.stdout
    told = json.loads(run("--queries", "q.txt", "-k", 1, "--json", code=1).stdout)["answers"]
    assert [(answer["line"], "error" in answer) for answer in told] == [(1, False), (2, True)]
    Path("q.csv").write_text(f"name,query\nx,{track_id(3)}\nx,{track_id(5)}\n")
    assert "nearest to line 2: x" in run("--queries", "q.csv").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a QUERY"),
        (["a", "--genre", "b"], "--only genre=NAME"),
        (["a", "--queries", "f"], "give a QUERY"),
        (["--unlike", "a"], "give a QUERY"),
        (["--queries", "f", "--unlike", "a"], "a weight below 0"),
        (["a", "b", "--at", "1"], "one QUERY"),
        (["a", "--json", "--format", "csv"], "give one of the two"),
        (["a", "--out", "f", "--format", "table"], "a table is for people"),
        (["a", "--relative"], "--relative is for playlists"),
        (["a", "--overwrite"], "--overwrite replaces the FILE of --out"),
    ],
)
def test_contradictions_are_usage_errors(run: Any, arguments: list[str], words: str) -> None:
    """Exit code 2, before a store is opened."""
    assert words in " ".join(run(*arguments, code=2, store="nowhere").stderr.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "no stored track is called 'nobody'"),
        ([track_id(3), "--only", "genre=rok"], "did you mean 'rock'"),
        ([track_id(3), "--only", "mood=sad"], "FIELD one of genre"),
        ([track_id(3), "--years", "1900-1910"], "no track meets the filters"),
        ([track_id(3), "--at", "0:01"], "keeps no windows"),
        ([track_id(3), "--at", "soon"], "a moment is written as"),
        ([track_id(3), "--layer", "best"], "probe"),
        (["--queries", "none"], "cannot be read"),
    ],
)
def test_faults_are_one_line(run: Any, arguments: list[str], words: str) -> None:
    """Exit code 1, nothing on stdout."""
    result = run(*arguments, code=1)
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert result.stderr.startswith("embedstore: ")
    assert words in result.stderr


def test_hostile_names_on_a_terminal(run: Any, library: Library) -> None:
    """Escapes in titles are shown, not obeyed, in a table; a moment shows its windows."""
    library.add(1, 0.0, path="\x1b]0;x\x07.ogg", title="\x1b[31mred", artists="a\nb")
    library.add(2, 1.0, path="\udcff.ogg", title="t\u202e")
    for query in (1, 2):
        shown = run(track_id(query), store=library.store.path).output
        assert not set("\x1b\x07\u202e") & set(shown)
