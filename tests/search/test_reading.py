"""What people write: moments, ranges, filters, files of queries."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from embedstore.errors import ParameterError, StoreError
from embedstore.search import Filter, Query, Seed
from embedstore.search.batch import search_lines
from embedstore.search.reading import Line, read_filter, read_moment, read_queries, read_request
from embedstore.search.searcher import Searcher
from embedstore.store import EmbeddingStore
from embedstore.types import track_id


def test_filters() -> None:
    """Fields may come again; ranges may be open."""
    read = read_filter(["genre=a=b", "genre=c", "path=*/x/*"], ["artist=Å"], "1990-", "-1:30")
    assert read == Filter(
        genres=("a=b", "c"), paths=("*/x/*",), without_artists=("Å",), years=(1990, 9999), seconds=(0.0, 90.0)
    )
    assert read_filter(years="1990").years == (1990, 1990)
    assert read_filter(seconds="60-").seconds == (60.0, math.inf)
    assert not read_filter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["genre"]}, "FIELD=VALUE, FIELD one of genre, artist, album, path; got 'genre'"),
        ({"only": ["gender=x"]}, "got 'gender=x'"),
        ({"without": ["album="]}, "got 'album='"),
        ({"years": "-"}, "A-B, A- or -B; got '-'"),
        ({"years": "20x"}, "four digits; got '20x'"),
        ({"years": "2000-1990"}, "from the smaller to the larger"),
        ({"seconds": "1:2:3:4-"}, "written as 83, 1:23 or 1:02:03; got '1:2:3:4'"),
        ({"seconds": "1e9-"}, "got '1e9'"),
    ],
)
def test_filters_that_say_nothing(options: dict[str, object], message: str) -> None:
    """Each says how it is written."""
    with pytest.raises(ParameterError, match=message):
        read_filter(**options)


@pytest.mark.parametrize("text", ["", "a", "-1", "1:", ":1", "1:2:3:4", "1 2", "٣", "nan", "inf"])
def test_no_moments(text: str) -> None:
    """Only digits, colons and a point."""
    with pytest.raises(ParameterError, match="a moment is written as"):
        read_moment(text)


def test_requests() -> None:
    """Tracks weigh 1, what to be unlike -0.5."""
    (line,) = read_request(["a"], [("b", 2.0)], ["c"], "1:05", None)
    assert line.query == Query((Seed("a", at=65.0), Seed("b", 2.0), Seed("c", -0.5)))


def lines(path: Path, text: str | bytes) -> list[Line]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_queries(path)


def test_plain_lines(tmp_path: Path) -> None:
    """A query a line, commas and quotes included; empty lines count in numbers only; any bytes are a path."""
    found = lines(tmp_path / "q.txt", b'\xef\xbb\xbfa, b.mp3\r\n\n"x" y\n\xff.mp3')
    assert [(line.number, line.query) for line in found] == [
        (1, Query((Seed("a, b.mp3"),))),
        (3, Query((Seed('"x" y'),))),
        (4, Query((Seed("\udcff.mp3"),))),
    ]


def test_csv_lines(tmp_path: Path) -> None:
    """Columns in any order, lines of one name together; what is wrong is told by its line and stops nothing else."""
    found = lines(
        tmp_path / "q.csv",
        'name,query,weight,at\nmix,"a, b.mp3",2,\n,c.mp3,,1:30\nmix,d.mp3,-1,\n,e.mp3,heavy,\n,"open,1,\n,f,0,\n,g,1\n,h.mp3,1,\n,,1,\n',
    )
    good = {line.number: line for line in found if line.query}
    assert good[2].query == Query((Seed("a, b.mp3", 2.0), Seed("d.mp3", -1.0)))
    assert (good[2].text, good[3].text) == ("mix", "c.mp3 at 1:30")
    assert good[3].query == Query((Seed("c.mp3", at=90.0),))
    assert set(good) == {2, 3, 9}
    assert {line.number: line.error.split(";")[0] for line in found if not line.query} == {
        5: "a weight is a number",
        6: "it is no line of CSV: unexpected end of data",
        7: "a weight is 1e-06 to 1e+06, or minus that",
        8: "3 cells for 4 columns",
        10: "a search needs a track to be like or a genre, one of the two (to stay within a genre, filter by it)",
    }


def test_json_lines(tmp_path: Path) -> None:
    """The same fields as objects, one a line."""
    rows = [
        {"query": "a\nb.mp3", "at": 83},
        {"genre": "blues"},
        {"genre": "a", "name": "n"},
        {"genre": "b", "name": "n"},
    ]
    text = "\n".join(map(json.dumps, rows)) + '\n{"query": 3}\n[1]\n{"like": "x"}\n{'
    found = lines(tmp_path / "q.jsonl", text)
    assert [line.query for line in found[:2]] == [Query((Seed("a\nb.mp3", at=83.0),)), Query(genre="blues")]
    assert [line.number for line in found] == [1, 2, 3, 5, 6, 7, 8]
    assert found[2].error == "a query has one genre; got a, b"
    assert all("it should be an object with some of query" in line.error for line in found[3:6])
    assert found[6].error.startswith("it is no JSON")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(StoreError, match=r"the queries .*none cannot be read: No such file"):
        read_queries(tmp_path / "none")


def test_each_line_is_answered(tmp_path: Path, shelf: EmbeddingStore) -> None:
    """A line that fails does not stop the others."""
    asked = lines(tmp_path / "q.txt", f"{track_id(3)}\nnobody knows\n{track_id(5)}")
    answers = search_lines(Searcher(shelf), asked)
    assert [(answer.line, bool(answer.result)) for answer in answers] == [(1, True), (2, False), (3, True)]
    assert answers[1].to_dict()["error"].startswith("no stored track is called 'nobody knows'")
    assert answers[2].to_dict()["line"] == 3
