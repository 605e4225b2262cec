"""The label readers: what they accept, how they match rows to files, what they report."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.errors import LabelsError, UnknownNameError
from embedstore.labels import Columns, LabelTable, read_labels
from embedstore.labels.table import clean, unsafe
from embedstore.types import AudioFile, TrackLabels


def audio(root: Path | str, *paths: str) -> list[AudioFile]:
    return [AudioFile(str(root), path, 1, 1) for path in paths]


def write(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def labels_of(table: LabelTable, root: Path | str) -> dict[str, TrackLabels]:
    return {path.removeprefix(f"{root}/"): labels for path, labels in table.by_path.items()}


def test_folders_name_genre_artist_and_album() -> None:
    """The first folder is the genre, the second the artist, the third the album; deeper ones are nothing."""
    files = audio("/m", "blues/a.ogg", "rock/Queen/b.ogg", "jazz/Monk/Solo/c.ogg", "jazz/Monk/Solo/CD1/d.ogg")
    assert labels_of(read_labels("folder", files), "/m") == {
        "blues/a.ogg": TrackLabels(("blues",)),
        "rock/Queen/b.ogg": TrackLabels(("rock",), ("Queen",)),
        "jazz/Monk/Solo/c.ogg": TrackLabels(("jazz",), ("Monk",), "Solo"),
        "jazz/Monk/Solo/CD1/d.ogg": TrackLabels(("jazz",), ("Monk",), "Solo"),
    }


def test_a_file_in_the_root_has_no_genre() -> None:
    """It is left out of the table and counted as a problem."""
    table = read_labels("folder", audio("/m", "a.ogg", "blues/b.ogg"))
    assert labels_of(table, "/m") == {"blues/b.ogg": TrackLabels(("blues",))}
    assert table.problems == ("1 x file without a genre folder: a.ogg",)
    assert table.coverage == "1 of 2 files labelled; 1 of 2 rows used"


def test_folder_names_are_made_safe() -> None:
    """Escape sequences and bytes that are not UTF-8 never reach a label."""
    table = read_labels("folder", audio("/m", "blu\x1b[31mes/a.ogg", "r\udcffock/b.ogg"))
    assert {labels.genres for labels in table.by_path.values()} == {("blues",), ("rock",)}
    assert table.problems[0].startswith("2 x folder name with control or undecodable characters")


def test_none_labels_nothing() -> None:
    """The reader `none` gives an empty table."""
    assert read_labels("none", audio("/m", "blues/a.ogg")).by_path == {}


def test_unknown_reader_names_the_closest() -> None:
    """A typo in a reader's name is not taken for a file."""
    with pytest.raises(UnknownNameError, match="'foldr'; did you mean 'folder'"):
        read_labels("foldr", [])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_dialects(tmp_path: Path, delimiter: str, encoding: str) -> None:
    """Comma, semicolon and tab, with and without a byte order mark, give the same table."""
    rows = [
        ["path", "genre", "artist"],
        ["a.ogg", '"blues;rock"', "Sørén, Jr." if delimiter != "," else '"Sørén, Jr."'],
    ]
    source = write(tmp_path, "\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    table = read_labels(source, audio("/m", "a.ogg"))
    assert table.by_path == {"/m/a.ogg": TrackLabels(("blues", "rock"), ("Sørén, Jr.",))}
    assert table.problems == ()


@pytest.mark.parametrize(
    "cell",
    [
        "blues/a b.ogg",
        "blues\\a b.ogg",
        "./blues/a b.ogg",
        "a b.ogg",
        "{root}/blues/a b.ogg",
        "music/blues/a b.ogg",
        " blues/a b.ogg ",
    ],
)
def test_a_path_is_found_however_it_is_written(tmp_path: Path, cell: str) -> None:
    """Relative to the root or to the CSV, absolute, with backslashes, or the bare name where it is unique."""
    root = tmp_path / "music"
    source = write(tmp_path, f"path,genre\n{cell.format(root=root)},blues\n")
    table = read_labels(source, audio(root, "blues/a b.ogg"))
    assert labels_of(table, root) == {"blues/a b.ogg": TrackLabels(("blues",))}


@pytest.mark.parametrize(
    ("header", "cells", "year"),
    [
        ("year", "1969", 1969),
        ("Release Date", "1969-09-26", 1969),
        ("date", "26.9.1969", 1969),
        ("release_year", "1969.0", 1969),
        ("year", "", 0),
        ("year", "0", 0),
        ("year,release_date", "1969,1971-01-01", 1969),
        ("date,release_date,original_year", "2024,1971,1969", 1969),
    ],
)
def test_years_in_a_csv(tmp_path: Path, header: str, cells: str, year: int) -> None:
    """A year or a date in any form; of several columns the one that is most surely a release."""
    source = write(tmp_path, f"path,genre,{header}\na.ogg,x,{cells}\n")
    table = read_labels(source, audio("/m", "a.ogg"))
    assert (table.by_path["/m/a.ogg"], table.problems) == (TrackLabels(("x",), year=year), ())


def test_the_first_year_counts_and_a_bad_one_is_counted(tmp_path: Path) -> None:
    """A file that is listed again was released in the earlier year; what is no date is taken out; a column can be named."""
    source = write(tmp_path, "path,genre,year,since\na.ogg,x,1990,1\na.ogg,x,1969,\nb.ogg,x,69,2001\nb.ogg,x,,2002\n")
    table = read_labels(source, audio("/m", "a.ogg", "b.ogg"))
    assert {path: labels.year for path, labels in table.by_path.items()} == {"/m/a.ogg": 1969, "/m/b.ogg": 0}
    assert "1 x row whose year cannot be read (taken out): line 4" in table.problems
    named = read_labels(source, audio("/m", "a.ogg", "b.ogg"), columns=Columns(year="since"))
    assert named.by_path["/m/b.ogg"].year == 2001


def test_accents_match_across_spellings(tmp_path: Path) -> None:
    """A decomposed file name answers to the composed cell."""
    name = "Beyoncé.ogg"
    source = write(tmp_path, f"path,genre\n{unicodedata.normalize('NFC', name)},pop\n")
    assert len(read_labels(source, audio("/m", unicodedata.normalize("NFD", name))).by_path) == 1


def test_a_bare_name_that_two_files_share_is_refused(tmp_path: Path) -> None:
    """Guessing between two files would mislabel one: neither is labelled."""
    source = write(tmp_path, "path,genre\n01.ogg,blues\nrock/02.ogg,rock\n")
    table = read_labels(source, audio("/m", "blues/01.ogg", "rock/01.ogg", "rock/02.ogg"))
    assert labels_of(table, "/m") == {"rock/02.ogg": TrackLabels(("rock",))}
    assert table.problems == (
        "1 x row that matches no file: line 2 (01.ogg)",
        "2 x file without a row: blues/01.ogg, rock/01.ogg",
    )


def test_track_ids_match_stems_and_stand_in_for_paths(tmp_path: Path) -> None:
    """An id is the file's name without suffix; it helps where the path leads nowhere; shared stems are refused."""
    source = write(tmp_path, "path,track_id,genre\nold/x.mp3,abc,blues\n,dup,rock\n,v1.2,jazz\n")
    table = read_labels(source, audio("/m", "q/abc.ogg", "q/dup.ogg", "q/dup.mp3", "q/v1.2.flac"))
    assert labels_of(table, "/m") == {"q/abc.ogg": TrackLabels(("blues",)), "q/v1.2.flac": TrackLabels(("jazz",))}
    assert "1 x row that matches no file: line 3 (dup)" in table.problems


def test_synonyms_of_columns_and_repeats(tmp_path: Path) -> None:
    """Other names of columns are understood; a track under two genres keeps both, counted."""
    source = write(
        tmp_path,
        ",track_id,artists,album_name,track_name,explicit,track_genre\n"
        '0,aaa,X;Y,"One, two","Say ""hi""",False,blues\n1,aaa,X;Y,"One, two","Say ""hi""",False,rock\n'
        '2,aaa,X;Y,"One, two","Say ""hi""",False,rock\n3,ghost,Z,L,T,False,rock\n4,bbb,,,,False,\n',
    )
    table = read_labels(f"csv:{source}", audio("/m", "aaa.ogg", "bbb.ogg", "ccc.ogg"))
    assert labels_of(table, "/m") == {
        "aaa.ogg": TrackLabels(("blues", "rock"), ("X", "Y"), "One, two", 'Say "hi"'),
        "bbb.ogg": TrackLabels(),
    }
    assert table.problems == (
        "1 x file listed again under another genre (genres united): line 3",
        "1 x file listed again: line 4",
        "1 x row that matches no file: line 5 (ghost)",
        "1 x row with an empty genre: line 6",
        "1 x file without a row: ccc.ogg",
    )
    assert (table.files, table.rows, table.used_rows, len(table.by_path)) == (3, 5, 4, 2)


def test_plain_names_beat_synonyms_and_columns_can_be_named(tmp_path: Path) -> None:
    """A column called genre wins over track_genre; naming another one wins over both."""
    source = write(tmp_path, "File-Name,Genre,track_genre,mood\na.ogg,blues,rock,calm\n")
    files = audio("/m", "a.ogg")
    assert read_labels(source, files).by_path["/m/a.ogg"].genres == ("blues",)
    assert read_labels(source, files, columns=Columns(genre="mood")).by_path["/m/a.ogg"].genres == ("calm",)
    with pytest.raises(
        LabelsError, match="line 1: there is no column 'style'; the columns are: File-Name, Genre, track_genre, mood"
    ):
        read_labels(source, files, columns=Columns(genre="style"))


def test_broken_rows_are_reported_by_line_and_the_rest_is_used(tmp_path: Path) -> None:
    """Too few and too many fields, NUL bytes, terminal escapes and cells over several lines each name their line."""
    source = write(
        tmp_path,
        "path,title,genre\na.ogg,A\nb.ogg,B,blues,extra\nc.ogg,C\x00\x1b]0;owned\x07 minor,\x1b[1mblues\n\n"
        'd.ogg,"left\nopen",rock\ne\x00.ogg,E,rock\n',
    )
    table = read_labels(source, audio("/m", *(f"{name}.ogg" for name in "abcde")))
    assert labels_of(table, "/m") == {
        "c.ogg": TrackLabels(("blues",), title="C minor"),
        "e.ogg": TrackLabels(("rock",), title="E"),
    }
    assert table.problems == (
        "2 x row without the header's 3 fields (skipped): line 2 has 2, line 3 has 4",
        "2 x row with control characters or terminal escapes (taken out): line 4, line 8",
        "1 x cell that runs over lines: is a quote left open? (row skipped): line 6",
        "3 x file without a row: a.ogg, b.ogg, d.ogg",
    )


def test_a_csv_is_known_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name is made absolute, so that a later build finds the labels from elsewhere."""
    source = write(tmp_path, "path,genre\na.ogg,blues\n")
    monkeypatch.chdir(tmp_path)
    assert read_labels("labels.csv", audio("/m", "a.ogg")).source == str(source)


def test_other_columns_may_run_over_lines(tmp_path: Path) -> None:
    """A quoted comment with line breaks is nothing of ours; line numbers stay right after it."""
    source = write(tmp_path, 'path,comment,genre\na.ogg,"one\ntwo\nthree",blues\nghost.ogg,,rock\n')
    table = read_labels(source, audio("/m", "a.ogg"))
    assert table.by_path["/m/a.ogg"].genres == ("blues",)
    assert table.problems == ("1 x row that matches no file: line 5 (ghost.ogg)",)


def test_many_problems_make_one_line_each(tmp_path: Path) -> None:
    """A thousand rows without a file are counted, five of them are named."""
    source = write(tmp_path, "path,genre\na.ogg,x\n" + "".join(f"g{i}.ogg,x\n" for i in range(1000)))
    (problem,) = read_labels(source, audio("/m", "a.ogg")).problems
    assert problem.startswith("1000 x row that matches no file: line 3 (g0.ogg), ")
    assert problem.endswith("line 7 (g4.ogg) and 995 more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the file is empty"),
        (b"\xef\xbb\xbf \n", "line 1: the file is empty"),
        (b"path,genre\n", "line 1: a header and no rows"),
        (b"path,genre\na.ogg,blues\nb.ogg,caf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
        ("path,genre\n".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        (b"song,genre\na.ogg,blues\n", "line 1: no column path or track_id; the columns are: song, genre"),
        (b"path,bpm\na.ogg,120\n", "line 1: no column genre or artist or album or title"),
        (b"path,genres,track_genre\na.ogg,x,y\n", "'genres' and 'track_genre' could both be the genre"),
        (b"path,genre,Genre\na.ogg,x,y\n", "'genre' and 'Genre' could both be the genre"),
        (b"path,genre\nx.ogg,blues\n", r"line 2 \(x.ogg\); the first file is 'a.ogg'"),
        (b"path,genre\na.ogg\n", "row without the header's 2 fields"),
        (b'path,genre\na.ogg,"' + b"x" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_fatal_files(tmp_path: Path, content: bytes, message: str) -> None:
    """What cannot be used at all is one error with the line and what was found there."""
    source = write(tmp_path, content)
    with pytest.raises(LabelsError, match=message) as caught:
        read_labels(source, audio("/m", "a.ogg"))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_in_place_of_a_file(tmp_path: Path) -> None:
    """The operating system's reason is passed on."""
    with pytest.raises(LabelsError, match="No such file"):
        read_labels(tmp_path / "gone.csv", [])
    with pytest.raises(LabelsError, match="Is a directory"):
        read_labels(tmp_path, [])
    with pytest.raises(LabelsError, match="give the path of the file"):
        read_labels("csv", [])


def test_no_files_is_no_error(tmp_path: Path) -> None:
    """With nothing to label, a good CSV gives an empty table."""
    assert read_labels(write(tmp_path, "path,genre\na.ogg,x\n"), []).by_path == {}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", b"path,genre\n", b"track_id;artist;genre\n", b"path\ttitle\n"]),
    body=st.one_of(
        st.binary(max_size=200), st.text(alphabet='a.og,;\t"\n\r\\/\x00\x1b[é', max_size=200).map(str.encode)
    ),
)
def test_any_bytes_give_a_table_or_our_error(tmp_path: Path, head: bytes, body: bytes) -> None:
    """Whatever the file holds: a table whose text is safe to print, or a LabelsError of one line."""
    source = write(tmp_path, head + body)
    try:
        table = read_labels(source, audio("/m", "a.ogg", "g/o.ogg"))
    except LabelsError as error:
        assert not unsafe(str(error))  # noqa: PT017 - the error is one of two good outcomes
    else:
        assert set(table.by_path) <= {"/m/a.ogg", "/m/g/o.ogg"}
        for labels in table.by_path.values():
            for text in (*labels.genres, *labels.artists, labels.album, labels.title):
                assert text == clean(text)
        assert not any(map(unsafe, table.problems))
