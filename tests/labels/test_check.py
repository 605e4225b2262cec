"""The health check: what labels cover, what would spoil a measurement, and the command that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from embedstore.errors import LabelsError, ParameterError
from embedstore.labels.check import check_labels, list_readers

ROWS = """path,genre,artist,album,title,split
a.ogg,Hip-Hop,Ana,One,Morning,train
b.ogg,hip hop,ana,One,Evening,test
c.ogg,Rock;Jazz,Low Tide,Two,Song,train
d.ogg,HipHop,LOW TIDE,,song!,valid
e.ogg,Rock,,Three,Alone,
f.ogg,,Moss,,,test
"""


@pytest.fixture
def music(tmp_path) -> Path:
    """Six files that a table names, and one that it does not; nobody listens to them."""
    for name in "abcdefg":
        (tmp_path / f"{name}.ogg").write_bytes(b"OggS")
    (tmp_path / "labels.csv").write_text(ROWS)
    return tmp_path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if not code or "--json" in arguments else result.output


def test_everything_is_counted(music):
    """Coverage, genres, artists, albums, sides; spellings of one genre; artists and songs on two sides."""
    report = check_labels(music / "labels.csv", music)
    assert (report.files, report.labelled, report.with_genre, report.rows, report.used_rows) == (7, 6, 5, 6, 6)
    assert list(report.genres.items()) == [("Rock", 2), ("Hip-Hop", 1), ("HipHop", 1), ("Jazz", 1), ("hip hop", 1)]
    assert report.artists == {"Ana": 1, "LOW TIDE": 1, "Low Tide": 1, "Moss": 1, "ana": 1}
    assert report.albums == {"One": 2, "Three": 1, "Two": 1}
    assert report.splits == {"train": 2, "valid": 1, "test": 2}
    assert (report.several_genres, report.without_artist) == (1, 1)
    assert report.alike == (("Hip-Hop", "HipHop", "hip hop"),)
    assert (report.split_artists, report.split_songs) == (("Ana", "Low Tide"), ("Low Tide: Song",))
    assert report.warnings == (
        "2 of 7 files have no genre",
        "genres that differ in case, spacing or punctuation only: 'Hip-Hop', 'HipHop', 'hip hop'",
        "1 tracks have several genres: out of a single-label task, in a multi-label one",
        "1 tracks have no artist: folds cannot keep theirs apart",
        "2 artists are on both sides of the official split: Ana, Low Tide",
        "1 songs are on both sides of the official split: Low Tide: Song",
    )
    assert report.problems == ("1 x row with an empty genre: line 7", "1 x file without a row: g.ogg")
    assert (report.with_year, report.years) == (0, ())
    assert report.dataset is None


def test_years_are_counted(music):
    """How many files have one, the first and the last; on the page, too; the column can be named."""
    (music / "labels.csv").write_text("path,genre,since\na.ogg,x,1990-01-01\nb.ogg,x,1969\nc.ogg,x,\n")
    named = ("labels", "check", music / "labels.csv", music, "--year-column", "since")
    document = json.loads(run(*named, "--json"))
    assert (document["with_year"], document["years"]) == (2, [1969, 1990])
    assert "1969 to 1990, of 2 files" in run(*named)


def test_good_labels_have_no_warnings(tmp_path):
    """Genres that differ in a letter are two; an artist on one side is no leak."""
    for name in "ab":
        (tmp_path / f"{name}.ogg").write_bytes(b"OggS")
    (tmp_path / "l.csv").write_text("path,genre,artist,split\na.ogg,rock,Ana,train\nb.ogg,rocks,Ana,train\n")
    assert check_labels(tmp_path / "l.csv", tmp_path).warnings == ()


def test_the_command_says_it_all(music):
    """As a table and as JSON; what stands in the report is on the page."""
    page = run("labels", "check", music / "labels.csv", music)
    for words in (
        "6 of 7 labelled, 5 with a genre",
        "train 2",
        "'Hip-Hop', 'HipHop', 'hip hop'",
        "row with an empty genre",
    ):
        assert words in page
    document = json.loads(run("labels", "check", music / "labels.csv", music, "--json"))
    assert document == json.loads(json.dumps(check_labels(music / "labels.csv", music).to_dict()))


def test_columns_are_named_as_for_build(music):
    """The same options."""
    (music / "other.csv").write_text("where,style,who\na.ogg,Rock,Ana\n")
    options = ("--path-column", "where", "--label-column", "style", "--artist-column", "who")
    document = json.loads(run("labels", "check", music / "other.csv", music, "--json", *options))
    assert (document["genres"], document["artists"]) == ({"Rock": 1}, {"Ana": 1})


def test_data_sets_are_introduced(tmp_path):
    """Licence, citation, home page and known faults of GTZAN, with what was found."""
    (tmp_path / "blues").mkdir()
    (tmp_path / "blues" / "blues.00012.wav").write_bytes(b"RIFF")
    page = run("labels", "check", "gtzan", tmp_path)
    for words in ("Kereliuk", "none is stated", "http://marsyas.info", "106 are mislabelled", "test 1"):
        assert words in page
    page = run("labels", "list")
    for name in ("folder", "csv", "tags", "spotify", "gtzan", "fma", "jamendo", "none", "CC BY 4.0", "Bogdanov"):
        assert name in page
    listed = json.loads(run("labels", "list", "--json"))
    assert listed == json.loads(json.dumps(list_readers()))
    assert {one["name"]: (one["dataset"] or {}).get("name") for one in listed}["fma"] == "FMA"


def test_exit_codes(music, tmp_path):
    """1 where no file gets a genre or nothing can be read, in one line; 2 for a wrong call."""
    run("labels", "check", "none", music, code=1)
    document = json.loads(run("labels", "check", "none", music, "--json", code=1))
    assert document["with_genre"] == 0
    for source, folder in ((music / "gone.csv", music), ("spotfy", music), ("folder", music / "gone")):
        line = run("labels", "check", source, folder, code=1)
        assert line.startswith("embedstore: ")
        assert line.count("\n") == 1
    run("labels", "check", code=2)
    run("labels", "wash", code=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParameterError, match="no audio file under"):
        check_labels("folder", tmp_path / "empty")
    with pytest.raises(LabelsError, match="none of its rows"):
        check_labels(Path(__file__).parent / "samples" / "spotify.csv", music)
