"""Results as files: what strangers wrote comes back as it was, and means nothing else on the way."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import pytest

from embedstore.errors import ParameterError, StoreError
from embedstore.search import Hit, SearchResult
from embedstore.search.batch import Answer
from embedstore.search.playlists import csv_of, json_of, m3u8_of, write_answers

STORE = SimpleNamespace(path=Path("/no/such/store"))
NAMES = [
    "plain.mp3", "two words.mp3", "#EXTM3U.mp3", "line\nbreak.mp3", "\rreturn.mp3", " blank.mp3", "blank.mp3 ",
    "\udcff\udcfe.mp3", "ünï.mp3", "http:x.mp3", "100%25.mp3", "\u2028.mp3", 'a,b;c".mp3', "\x1b[31m.mp3", "ta\tb.mp3", "-rf.mp3",
]  # fmt: skip


def answers_of(folder: Path, **labels: object) -> list[Answer]:
    """Make one hit of each name, with files that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    hits = []
    for i, name in enumerate(NAMES):
        path = folder / name
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
        told = {"genres": ("g",), "artists": ("A", "B"), "album": "", "title": f"T {i}", "seconds": 61.6, **labels}
        hits.append(
            Hit(i + 1, f"{i:016x}", str(path), score=1 / (i + 3), percentile=12.5, copies=("f" * 16,) * (i % 3), **told)
        )
    return [Answer("the query", SearchResult("the query", 3, tuple(hits)))]


def played(playlist: Path) -> list[bytes]:
    """Read a playlist as a player does: lines, remarks left out, addresses decoded, paths from the playlist's folder."""
    found = []
    for line in playlist.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            path = (
                unquote_to_bytes(line.removeprefix("file://"))
                if line.startswith("file://")
                else os.fsencode(line.strip())
            )
            found.append((playlist.parent / os.fsdecode(path)).read_bytes())
    return found


@pytest.mark.parametrize("relative", [False, True])
def test_playlists_play(tmp_path: Path, relative: bool) -> None:
    """Every file is found again, from where the playlist lies."""
    answers = answers_of(tmp_path / "mu sic")
    path = tmp_path / "lists" / "p.m3u8"
    path.parent.mkdir()
    assert write_answers(STORE, answers, path, relative=relative) == str(path)
    assert played(path) == [name.encode("utf-8", "surrogateescape") for name in NAMES]
    text = path.read_text("utf-8")
    assert text.startswith(
        "#EXTM3U\n#EXTINF:62,A, B - T 0\n" + ("../mu sic/plain.mp3\n" if relative else str(tmp_path))
    )


def test_a_playlist_in_a_linked_folder(tmp_path: Path) -> None:
    """`..` leads to where the folder really lies."""
    answers = answers_of(tmp_path)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    write_answers(STORE, answers, tmp_path / "link" / "p.m3u8", relative=True)
    assert "../../plain.mp3" in (tmp_path / "link" / "p.m3u8").read_text("utf-8").splitlines()


def test_playlists_beside_the_music(tmp_path: Path) -> None:
    """A name that begins like a remark is none."""
    answers = answers_of(tmp_path)
    write_answers(STORE, answers, tmp_path / "p.m3u", relative=True)
    assert {"./#EXTM3U.mp3", "./http:x.mp3"} <= {*(tmp_path / "p.m3u").read_text("utf-8").splitlines()}
    assert len(played(tmp_path / "p.m3u")) == len(NAMES)


def test_titles_cannot_add_lines(tmp_path: Path) -> None:
    """A title with a line break and an address stays a remark; a track comes once however often it was found."""
    answers = answers_of(tmp_path / "m", title="x\nhttp://evil/\r\u2028\udcff y", artists=("\x1b[31mA\n",))
    text = m3u8_of([*answers, *answers])
    assert text.count("#EXTINF:62,[31mA - x http://evil/ y\n") == len(NAMES)
    assert len(text.splitlines()) == 1 + 2 * len(NAMES)
    untitled = m3u8_of(answers_of(tmp_path / "m", title="", artists=()))
    assert "#EXTINF:62,plain\n" in untitled


@pytest.mark.parametrize(
    "title", ["=cmd()", "+1", "-1", "@x", "\tx", "\rx", "'=x", "''-x", "'Round Midnight", 'a"b,c\r\nd', "\udcff", ""]
)
def test_csv_is_exact_and_no_formula(tmp_path: Path, title: str) -> None:
    """Every cell comes back; none starts a formula; one quote is to be taken away from those that could."""
    write_answers(STORE, answers_of(tmp_path / "m", title=title, album=title), tmp_path / "o.csv")
    with (tmp_path / "o.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert len(rows) == len(NAMES)
    for row, name in zip(rows, NAMES, strict=True):
        assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") for cell in row.values() if not _number(cell))
        read = re.sub(r"^'(?='*[=+\-@\t\r])", "", row["title"])
        assert (read, Path(row["path"]).name) == (title, name)
    assert [float(row["score"]) for row in rows] == [1 / (i + 3) for i in range(len(NAMES))]
    assert (rows[2]["copies"], rows[0]["query"], rows[0]["at"]) == ("f" * 16 + ";" + "f" * 16, "the query", "")


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_json_is_exact(tmp_path: Path) -> None:
    """One document in ASCII; of several queries, a list of answers with their lines."""
    answers = answers_of(tmp_path / "m")
    text = json_of(answers)
    assert text.isascii()
    assert [Path(hit["path"]).name for hit in json.loads(text)["results"]] == NAMES
    batch = [Answer("a", None, "no", 2), Answer("b", answers[0].result, "", 3)]
    told = json.loads(json_of(batch))["answers"]
    assert told[0] == {"line": 2, "name": "a", "error": "no"}
    assert (told[1]["line"], len(told[1]["results"])) == (3, len(NAMES))
    assert csv_of(batch[:1]) == csv_of([])
    assert len(list(csv.reader(io.StringIO(csv_of(batch))))) == 1 + len(NAMES)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    """Another form, a folder that is not there; an older file stays as it was."""
    answers = answers_of(tmp_path / "m")
    with pytest.raises(ParameterError, match=r"results are written as json, csv, m3u8; got 'txt'"):
        write_answers(STORE, answers, tmp_path / "o.txt")
    with pytest.raises(StoreError, match=r"cannot write .*o.csv: No such file or directory"):
        write_answers(STORE, answers, tmp_path / "none" / "o.csv")
    assert write_answers(STORE, answers, tmp_path / "o.txt", "csv") == str(tmp_path / "o.txt")
    with pytest.raises(ParameterError, match=r"o.txt exists; choose another name, or give --overwrite"):
        write_answers(STORE, answers, tmp_path / "o.txt", "json")
    write_answers(STORE, answers, tmp_path / "o.txt", "json", overwrite=True)
    assert (tmp_path / "o.txt").read_text() == json_of(answers)
    (tmp_path / "link.csv").symlink_to(tmp_path / "o.txt")
    for target, words in (("link.csv", "is no plain file"), ("o.csv", "lies in the store")):
        with pytest.raises(ParameterError, match=words):
            write_answers(
                SimpleNamespace(path=tmp_path if target == "o.csv" else STORE.path),
                answers,
                tmp_path / target,
                overwrite=True,
            )
    assert not (tmp_path / "o.csv").exists()
