"""The readers of published data sets: their quirks, their faults, and files that are made to break a reader."""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from embedstore.audio import find_audio
from embedstore.audio.tags import read_tags
from embedstore.errors import LabelsError, MissingDependencyError, ParameterError, UnknownNameError
from embedstore.labels import (
    Columns,
    LabelTable,
    data_set_of,
    full_source,
    gtzan,
    part_source,
    read_labels,
    rows,
    spotify,
)
from embedstore.labels.policy import LabelPolicy
from embedstore.labels.table import DataSet, clean, unsafe
from embedstore.types import SPLITS, AudioFile, TrackLabels

SAMPLES = Path(__file__).parent / "samples"
SPOTIFY, FMA, JAMENDO = SAMPLES / "spotify.csv", SAMPLES / "fma_tracks.csv", SAMPLES / "jamendo"


def audio(*paths: str) -> list[AudioFile]:
    return [AudioFile("/m", path, 1, 1) for path in paths]


def labels_of(table: LabelTable) -> dict[str, TrackLabels]:
    return {path.removeprefix("/m/"): labels for path, labels in table.by_path.items()}


def sid(letter: str) -> str:
    return ("invented" + letter * 22)[:22]


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Have a library not be installed."""
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == module else find(name, *rest))


# ------------------------------------------------------------------------------------------------- sources


def test_a_source_says_its_reader_and_its_path(tmp_path, monkeypatch):
    """A word, a path, or both; paths keep their colons; an unknown word is an error that names the closest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b.csv").write_text("path,genre\na.ogg,x\n")
    assert part_source("tags") == ("tags", "")
    assert part_source("a:b.csv") == ("csv", f"{tmp_path}/a:b.csv")
    assert part_source("./fma:b.csv") == ("csv", f"{tmp_path}/fma:b.csv")
    assert part_source("spotify:a:b.csv") == ("spotify", f"{tmp_path}/a:b.csv")
    assert part_source("/x/C:/y: z.csv") == ("csv", "/x/C:/y: z.csv")
    assert part_source("jamendo:data#split-2,all") == ("jamendo", f"{tmp_path}/data#split-2,all")
    assert full_source("csv:a.csv") == f"csv:{tmp_path}/a.csv"
    assert full_source("gtzan") == "gtzan"
    for wrong in ("spotfy:x.csv", "spotfy"):
        with pytest.raises(UnknownNameError, match="did you mean 'spotify'"):
            part_source(wrong)
    assert read_labels("a:b.csv", audio("a.ogg")).by_path["/m/a.ogg"].genres == ("x",)


@pytest.mark.parametrize("name", ["csv", "spotify", "fma", "jamendo"])
def test_a_reader_of_files_wants_one(name):
    """Without a path, with a missing one, with a folder: one line that says what to give."""
    with pytest.raises(LabelsError, match=f"give the path of the file, as in {name}:PATH"):
        read_labels(name, [])
    with pytest.raises(LabelsError, match="No such file"):
        read_labels(f"{name}:/nowhere/a.csv", [])
    with pytest.raises(LabelsError, match=r"Is a directory|give a copy of the data set"):
        read_labels(f"{name}:/", [])


def test_words_that_take_nothing():
    """No path after `folder`, no columns where none can be named."""
    with pytest.raises(LabelsError, match="nothing follows the word; got 'folder:/x'"):
        read_labels("folder:/x", [])
    with pytest.raises(ParameterError, match="labels from folder have none to name"):
        read_labels("folder", [], columns=Columns(genre="style"))


def test_known_headers_find_their_reader(tmp_path):
    """A plain path is enough; `csv:` reads the same file as any other table; neither waits for a pipe."""
    found = {
        str(path): read_labels(path, audio(name)).source.partition(":")[0]
        for path, name in ((SPOTIFY, f"{sid('A')}.mp3"), (FMA, "000/000002.mp3"))
    }
    assert found == {str(SPOTIFY): "spotify", str(FMA): "fma"}
    tsv = JAMENDO / "data/splits/split-0/autotagging-train.tsv"
    assert read_labels(tsv, audio("14/214.mp3")).source == f"jamendo:{tsv}"
    table = read_labels(f"csv:{SPOTIFY}", audio(f"{sid('A')}.mp3"))
    assert (table.source, table.dataset) == (f"csv:{SPOTIFY}", None)


@pytest.mark.parametrize("name", ["spotify", "gtzan", "fma", "jamendo"])
def test_data_sets_introduce_themselves(name):
    """Licence, citation, home page and faults are there for the check and for reports, by the source of a label."""
    facts = data_set_of(f"{name}:/x/y.csv")
    assert isinstance(facts, DataSet)
    assert facts == data_set_of(name)
    assert all((facts.name, facts.licence, facts.citation, facts.faults))
    assert facts.url.startswith("http")
    assert [data_set_of(other) for other in ("folder", "/x/y.csv", "", "no:such", "\0")] == [None] * 5


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (str(SPOTIFY), f"{sid('A')}.mp3"),
        (f"spotify:{SPOTIFY}", f"{sid('A')}.mp3"),
        (f"csv:{SPOTIFY}", f"{sid('A')}.mp3"),
        (f"fma:{FMA}#small", "000/000002.mp3"),
        (f"jamendo:{JAMENDO}#split-1,all", "14/214.mp3"),
        ("gtzan", "blues/blues.00012.wav"),
    ],
)
def test_what_is_remembered_is_read_again(source, name, tmp_path, monkeypatch):
    """A later build without --labels, from another folder, labels the same with the same words."""
    files = audio(name)
    first = LabelPolicy.choose(
        files, os.path.relpath(source) if source == str(SPOTIFY) else source, None, None, new=True
    )
    monkeypatch.chdir(tmp_path)
    again = LabelPolicy.choose(files, None, None, first.memory, new=False)
    assert again.of(files[0]) == first.of(files[0]) != TrackLabels()
    assert again.table.source == first.table.source == first.of(files[0]).source
    assert again.notes == first.notes


@pytest.mark.parametrize(
    "source", ["spotify:PIPE", "csv:PIPE", "jamendo:PIPE#split-1", "gtzan:/nowhere", "fma", "nobody:x"]
)
def test_a_memory_of_somebody_else_waits_for_nothing(source, tmp_path):
    """A pipe, a missing list, a word alone: a note, and the labels stay as they are."""
    os.mkfifo(tmp_path / "pipe")
    memory = {"source": source.replace("PIPE", str(tmp_path / "pipe")), "columns": {}}
    policy = LabelPolicy.choose(audio("a.ogg"), None, None, memory, new=False)
    assert not policy.replace
    assert policy.notes[0].startswith("labels stay as they are")


# ------------------------------------------------------------------------------------------------- Spotify


def test_spotify_defects_are_found_and_counted():
    """Each defect of the table makes one line with a count."""
    files = audio("q/" + sid("A") + ".mp3", f"Low Tide [{sid('B')}].flac", sid("D") + ".ogg", "other.ogg")
    table = read_labels(SPOTIFY, files)
    assert labels_of(table) == {
        f"q/{sid('A')}.mp3": TrackLabels(
            ("acoustic", "alternative"), ("Paper Moth Club", "Ana Ñandú"), "First Light", "Morning, again"
        ),
        f"Low Tide [{sid('B')}].flac": TrackLabels(("acoustic",), ("Low Tide",), "Harbour", 'The "Long" Way'),
        f"{sid('D')}.ogg": TrackLabels(("alternative",), ("Glass Owls",), "Nine (Deluxe)", "Under Wires"),
    }
    assert table.coverage == "3 of 4 files labelled; 5 of 9 rows used"
    found = [
        line for line in table.problems if "mutagen" not in line and "embedstore-mir" not in line and "tags" not in line
    ]
    assert found == [
        "1 x row that repeats a track id under the same genre: line 4",
        "1 x row that repeats a track id under another genre: line 6",
        "1 x track id of a song that another id has, too (same artists and title): line 8",
        "1 x row without artist and title: line 9",
        "1 x file without a row: other.ogg",
        "7 track ids in 9 rows",
        "2 x row with several artists, joined by ; (each of them counts)",
        "rows stand in 3 blocks of one genre each: draw at random, never the first N rows",
    ]


def test_spotify_counts_are_those_of_a_naive_count(tmp_path):
    """On a random table, every count equals what a few loops over the rows find."""
    chance = random.Random(5)
    with SPOTIFY.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    ids = [sid(letter) for letter in "ABCDEFGHIJKLMNOPQRST"]
    songs = {one: (chance.choice(("X", "Y;Z")), f"song {chance.randrange(12)}") for one in ids}
    lines = []
    for _ in range(200):
        one = chance.choice(ids)
        cells = {"track_id": one, "artists": songs[one][0], "track_name": songs[one][1]}
        lines.append(cells | {"track_genre": chance.choice("abc")})
    with (tmp_path / "s.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, restval="0")
        writer.writeheader()
        writer.writerows(lines)
    table = read_labels(tmp_path / "s.csv", audio(*(f"{one}.ogg" for one in ids)))
    pairs, seen = Counter(), Counter()
    for cells in lines:
        pairs["same"] += (cells["track_id"], cells["track_genre"]) in seen
        pairs["another"] += cells["track_id"] in seen and (cells["track_id"], cells["track_genre"]) not in seen
        seen.update([cells["track_id"], (cells["track_id"], cells["track_genre"])])
    used = {cells["track_id"] for cells in lines}
    others = len(used) - len({songs[one] for one in used})
    counts = {
        re.sub(r"^\d+ x |: line.*", "", line): int(line.split()[0]) for line in table.problems if line[0].isdigit()
    }
    assert counts["row that repeats a track id under the same genre"] == pairs["same"]
    assert counts["row that repeats a track id under another genre"] == pairs["another"]
    assert counts["track id of a song that another id has, too (same artists and title)"] == others
    assert not any("blocks" in line for line in table.problems)
    for one in used:
        genres = [cells["track_genre"] for cells in lines if cells["track_id"] == one]
        assert table.by_path[f"/m/{one}.ogg"].genres == tuple(dict.fromkeys(genres))


def test_copies_of_a_track_have_its_labels():
    """The lab's way, one file for each genre that lists it: both are the same track, with all its genres."""
    table = read_labels(SPOTIFY, audio(f"acoustic/{sid('A')}.mp3", f"alternative/{sid('A')}.mp3"))
    assert {labels.genres for labels in table.by_path.values()} == {("acoustic", "alternative")}
    assert len(table.by_path) == 2


def test_files_of_others_are_an_error():
    """A table that labels nothing is not taken for labels, and says what it looked for."""
    with pytest.raises(
        LabelsError, match=rf"the first row is {sid('A')} in line 2; the first file is 'a.ogg'\); is this"
    ):
        read_labels(SPOTIFY, audio("a.ogg"))


def test_without_mutagen_ids_still_work(monkeypatch):
    """Files without an id are counted, with the line that installs what would match them."""
    without(monkeypatch, "mutagen")
    table = read_labels(SPOTIFY, audio(f"{sid('A')}.mp3", "other.ogg"))
    assert len(table.by_path) == 1
    assert any(
        line.startswith("1 x file without a track id") and "embedstore-mir[tags]" in line for line in table.problems
    )


def test_too_many_rows_are_refused(monkeypatch):
    """A table that would fill the memory is no Spotify Tracks."""
    monkeypatch.setattr(spotify, "_MOST", 8)
    with pytest.raises(LabelsError, match="has over 8 rows; to read it as any other table: --labels csv:"):
        read_labels(SPOTIFY, audio(f"{sid('A')}.mp3"))


@pytest.mark.parametrize("cut", ["track_id", "artists", "track_genre"])
def test_a_table_without_a_column_is_read_as_what_it_is(cut, tmp_path):
    """Not recognised; forced, it says which column is missing, or does without."""
    text = (
        SPOTIFY.read_text(encoding="utf-8")
        .replace(f",{cut},", ",something,", 1)
        .replace(f",{cut}\n", ",something\n", 1)
    )
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    files = audio(f"{sid('A')}.mp3")
    if cut == "track_id":
        for source in ("", "spotify:"):
            with pytest.raises(LabelsError, match=r"no column (path or )?track_id"):
                read_labels(f"{source}{tmp_path / 's.csv'}", files)
    else:
        assert read_labels(tmp_path / "s.csv", files).source == str(tmp_path / "s.csv")
        (labels,) = read_labels(f"spotify:{tmp_path / 's.csv'}", files).by_path.values()
        assert labels.title == "Morning, again"


# ------------------------------------------------------------------------------------------------- GTZAN


def lists(folder: Path, form: str = "{genre}/{name}.wav", drop: int = 0) -> Path:
    """Write torchaudio's lists as others write them."""
    from torchaudio.datasets import gtzan as theirs

    for split in SPLITS:
        names = getattr(theirs, f"filtered_{split}")[drop:]
        number = {name: theirs.gtzan_genres.index(name[:-6]) * 100 + int(name[-5:]) + 1 for name in names}
        lines = [form.format(name=name, genre=name[:-6], number=number[name]) for name in names]
        (folder / f"{split}_filtered.txt").write_text("\n".join(lines) + "\n")
    return folder


ALL_GTZAN = [f"{genre}/{genre}.{number:05d}.wav" for genre in gtzan.GENRES for number in range(100)]


def test_gtzan_is_fault_filtered():
    """443 / 197 / 290 files of the thousand have a side; the 70 others have no labels; nobody had to give a list."""
    table = read_labels("gtzan", audio(*ALL_GTZAN))
    sides = Counter(labels.split for labels in table.by_path.values())
    assert sides == {"train": 443, "valid": 197, "test": 290}
    assert all(f"/{labels.genres[0]}." in path for path, labels in table.by_path.items())
    assert [line.split(":")[0] for line in table.problems] == [
        "70 x file outside the fault-filtered split (no labels; `folder` would give it some)"
    ]
    assert (table.rows, table.used_rows) == (930, 930)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["{genre}/{name}.wav", "{name}", "   {number}", "genres/{genre}/{name}.au"])
def test_gtzan_lists_of_others_say_the_same(form, tmp_path):
    """Paths, names or numbers from 1: whichever form a copy of the lists has."""
    files = audio(*ALL_GTZAN)
    assert read_labels(f"gtzan:{lists(tmp_path, form)}", files).by_path == read_labels("gtzan", files).by_path


def write_lists(folder: Path, train: bytes, valid: bytes = b"blues.00001\n", test: bytes = b"blues.00002\n") -> Path:
    for split, data in zip(SPLITS, (train, valid, test), strict=True):
        (folder / f"{split}_filtered.txt").write_bytes(data)
    return folder


def test_other_lists_are_said_to_be_others(tmp_path):
    """Wrong counts, an excerpt on two sides, and one that is missing: each said, none invented."""
    write_lists(tmp_path, b"blues.00000\nblues.00001\njazz.00054\n")
    table = read_labels(
        f"gtzan:{tmp_path}", audio("blues.00000.wav", "blues.00001.wav", "b/blues.00002.au", "c/blues.00002.wav")
    )
    assert labels_of(table) == {
        "blues.00000.wav": TrackLabels(("blues",), split="train"),
        "blues.00001.wav": TrackLabels(("blues",)),
        "b/blues.00002.au": TrackLabels(("blues",), split="test"),
        "c/blues.00002.wav": TrackLabels(("blues",), split="test"),
    }
    assert table.problems == (
        "1 x excerpt on two sides of the split (it gets none): blues.00001",
        "1 x excerpt that several files hold: blues.00002",
        "these lists have 3 / 1 / 1 excerpts, the published fault-filtered split 443 / 197 / 290: it is another one",
    )
    assert (table.rows, table.used_rows) == (4, 3)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, "there is no list .*train_filtered.txt"),
        (b"blues.00000\npolka.00001\n", "line 2: 'polka.00001' is no excerpt"),
        (b"1001\n", "line 1: '1001' is no excerpt"),
        (b"9" * 6000, "line 1: '9+' is no excerpt"),
        (b"\xff\x00\x1b[31m", "line 1: .* is no excerpt"),
    ],
)
def test_broken_gtzan_lists(train, message, tmp_path):
    """One line with the file, the line and what stands there."""
    write_lists(tmp_path, train or b"")
    if train is None:
        (tmp_path / "train_filtered.txt").unlink()
        os.mkfifo(tmp_path / "train_filtered.txt")
    with pytest.raises(LabelsError, match=message) as caught:
        read_labels(f"gtzan:{tmp_path}", audio("blues.00000.wav"))
    assert not unsafe(str(caught.value))


@pytest.mark.parametrize(
    "text", [None, "", "filtered_train = [1", "filtered_train = open('x')", "a = b = 1\nc[0] = 2\n"]
)
def test_gtzan_without_lists_has_no_split(text, tmp_path, monkeypatch):
    """Genres come from the names, no split is invented, and the faults are warned about."""
    spec = None
    if text is not None:
        (tmp_path / "datasets").mkdir()
        (tmp_path / "datasets" / "gtzan.py").write_text(text)
        spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    table = read_labels("gtzan", audio("jazz/jazz.00054.wav", "jazz/take five.wav"))
    assert labels_of(table) == {"jazz/jazz.00054.wav": TrackLabels(("jazz",))}
    assert table.problems[0] == "1 x file without the name of an excerpt, such as blues.00000: jazz/take five.wav"
    assert "no split, and replicas and mislabelled excerpts are in" in table.problems[1]


def test_other_audio_is_no_gtzan():
    """Not one name of an excerpt: an error, not an empty table."""
    with pytest.raises(LabelsError, match="none of the 1 files has the name of an excerpt"):
        read_labels("gtzan", audio("polka.00001.wav"))


# ------------------------------------------------------------------------------------------------- FMA


FMA_FILES = audio(
    "000/000002.mp3", "000/000010.mp3", "000/000140.mp3", "000/000141.mp3", "099/099134.mp3", "098/098565.mp3"
)


def test_fma_has_two_header_rows_and_a_split():
    """Top genre, artist, album, title and side of the split; files known to be broken or short are counted."""
    table = read_labels(FMA, FMA_FILES)
    assert labels_of(table) == {
        "000/000002.mp3": TrackLabels(("Hip-Hop",), ("Invented Choir",), "Alder", "One, two", split="train"),
        "000/000010.mp3": TrackLabels(("Rock",), ("Kite Machine",), "Birch", "Fly", split="valid"),
        "000/000140.mp3": TrackLabels(("Folk",), ("artist 13",), "Cedar", "No name", split="test"),
        "000/000141.mp3": TrackLabels((), ("Moss",), "Dogwood", "No genre", split="train"),
        "099/099134.mp3": TrackLabels(("Rock",), ("Silent One",), "Elm", "Nothing to hear", split="train"),
        "098/098565.mp3": TrackLabels(("Folk",), ("Short One",), "Fir", "Cut", split="test"),
    }
    assert table.coverage == "6 of 6 files labelled; 6 of 7 rows used"
    assert table.problems == (
        "1 x file that is known to hold no sound: 099/099134.mp3",
        "1 x file that is known to be much shorter than the others: 098/098565.mp3",
    )


def test_fma_subsets_hold_the_smaller_ones():
    """Tracks of larger sets have no labels then, and are counted."""
    assert len(read_labels(f"fma:{FMA}#small", FMA_FILES).by_path) == 4
    assert len(read_labels(f"fma:{FMA}#medium", FMA_FILES).by_path) == 5
    assert len(read_labels(f"fma:{FMA}#large", FMA_FILES).by_path) == 6
    with pytest.raises(LabelsError, match=r"after the # may follow one of small, medium, large, .*; got 'tiny'"):
        read_labels(f"fma:{FMA}#tiny", FMA_FILES)


def spoiled_fma(tmp_path: Path, *changes: tuple[str, str]) -> str:
    text = FMA.read_text(encoding="utf-8")
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / "tracks.csv").write_text(text, encoding="utf-8")
    return f"fma:{tmp_path / 'tracks.csv'}"


def test_broken_fma_rows_are_counted(tmp_path):
    """A row without all fields, one without a number, an unknown side, an escape: each by its line, the rest is used."""
    changes = [("\n5,", "\nfive,"), ("Kite Machine", "Kite\x1b[31m\x00 Machine"), ("test,medium", "holdout,medium")]
    source = spoiled_fma(tmp_path, *changes)
    with (tmp_path / "tracks.csv").open("a") as file:
        file.write("142,too,few\n")
    table = read_labels(source, FMA_FILES)
    assert table.by_path["/m/000/000010.mp3"].artists == ("Kite Machine",)
    assert table.by_path["/m/000/000140.mp3"].split == ""
    lines = [line for line in table.problems if "row" in line]
    assert [re.sub(r"line \d+", "line N", line) for line in lines] == [
        "2 x row that is not a track (skipped): line N, line N",
        "1 x row with control characters or terminal escapes (taken out): line N",
        "1 x row with an unknown split (taken out): line N",
    ]


def test_fma_years(tmp_path):
    """Of the album's release, else of the recording; never of the upload; a date without a year is counted."""
    changes = [
        ("\n2,0,0,0,", "\n2,0,2011-11-11 00:00:00,2009-01-05 00:00:00,"),
        ("test,medium,0,0,0,0,0", "test,medium,0,0,0,2012-01-01 00:00:00,1998-11-26 00:00:00"),
        ("\n141,0,0,0,", "\n141,0,0,soon,"),
    ]
    table = read_labels(spoiled_fma(tmp_path, *changes), FMA_FILES)
    assert [labels_of(table)[file.path].year for file in FMA_FILES] == [2009, 0, 1998, 0, 0, 0]
    assert [line[:46] for line in table.problems[2:]] == ["1 x row with a date without a year (taken out):"[:46]]


def test_fma_cells_may_be_long(tmp_path):
    """A biography of 300,000 letters is read over; one of megabytes is an open quote; the limit of others is as before."""
    before = csv.field_size_limit()
    assert read_labels(spoiled_fma(tmp_path, ("We are invented", "x" * 300_000)), FMA_FILES).used_rows == 6
    with pytest.raises(LabelsError, match="field larger than field limit"):
        read_labels(spoiled_fma(tmp_path, ("We are invented", "x" * 5_000_000)), FMA_FILES)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "text", [",set,track\n,split,title\n1,a,b\n", "track_id,genre\n1,x\n", ",album,artist,set,track\n"]
)
def test_another_table_is_no_fma(text, tmp_path):
    """Missing columns are named."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(LabelsError, match=r"this is no tracks.csv of FMA.*not there: .*track genre_top"):
        read_labels(f"fma:{tmp_path / 't.csv'}", FMA_FILES)


# ------------------------------------------------------------------------------------------------- MTG-Jamendo


JAMENDO_FILES = audio("14/214.mp3", "15/215.low.mp3", "21/1021.mp3", "copy/1021.mp3", "01/1300001.mp3", "x/77.mp3")


def test_jamendo_genres_of_the_first_split():
    """Genre tags by default, without their prefix; sides from the three tables; copies and other suffixes are found."""
    table = read_labels(f"jamendo:{JAMENDO}", JAMENDO_FILES)
    assert labels_of(table) == {
        "14/214.mp3": TrackLabels(("rock", "punkrock"), ("artist_000014",), "album_000031", split="train"),
        "15/215.low.mp3": TrackLabels((), ("artist_000014",), "album_000031", split="train"),
        "21/1021.mp3": TrackLabels(("ambient",), ("artist_000020",), "album_000040", split="valid"),
        "copy/1021.mp3": TrackLabels(("ambient",), ("artist_000020",), "album_000040", split="valid"),
        "01/1300001.mp3": TrackLabels(("jazz",), ("artist_000030",), "album_000050", split="test"),
    }
    assert table.problems == (
        "1 x row without a tag of the kind genre: autotagging-train.tsv, line 3",
        "1 x file without a row: x/77.mp3",
    )


@pytest.mark.parametrize(
    ("option", "split", "tags"),
    [
        ("split-1", "valid", ("jazz",)),
        ("split-1,instrument", "valid", ("piano",)),
        ("mood/theme", "test", ("calm",)),
        ("all,split-0", "test", ("genre---jazz", "instrument---piano", "mood/theme---calm")),
    ],
)
def test_jamendo_options(option, split, tags):
    """Another split and other tags after the #, in any order."""
    labels = read_labels(f"jamendo:{JAMENDO}#{option}", JAMENDO_FILES).by_path["/m/01/1300001.mp3"]
    assert (labels.split, labels.genres) == (split, tags)


@pytest.mark.parametrize("option", ["split-9", "rock", "", "split-0,split-1", "genre,genre"])
def test_wrong_jamendo_options(option):
    """Unknown words and contradictions are errors that list what may follow."""
    with pytest.raises(LabelsError, match=r"after the # may follow one of split-0, .* and one of genre, .*; got"):
        read_labels(f"jamendo:{JAMENDO}#{option}", JAMENDO_FILES)


def test_one_jamendo_table(tmp_path):
    """A table's side is in its name; without, there is none and that is said; a path may hold a #."""
    place = tmp_path / "a#b"
    place.mkdir()
    for name in ("autotagging.tsv", "x-validation.tsv"):
        shutil.copy(JAMENDO / "data/splits/split-0/autotagging-test.tsv", place / name)
    table = read_labels(f"jamendo:{place / 'autotagging.tsv'}", JAMENDO_FILES)
    assert table.by_path["/m/01/1300001.mp3"].split == ""
    assert table.problems[-1].startswith("a single table has no split")
    table = read_labels(f"jamendo:{place / 'x-validation.tsv'}#instrument", JAMENDO_FILES)
    assert table.by_path["/m/01/1300001.mp3"] == TrackLabels(
        ("piano",), ("artist_000030",), "album_000050", split="valid"
    )


def test_broken_jamendo_tables(tmp_path):
    """Rows that are no tracks are counted, a track on two sides has none; missing and other tables are errors."""
    shutil.copytree(JAMENDO, tmp_path / "j")
    folder = tmp_path / "j/data/splits/split-0"
    with (folder / "autotagging-train.tsv").open("a") as file:
        file.write("track_x\t1\t1\tp\t1\tgenre---a\ntrack_0000007\t1\n")
        file.write("track_1300001\tartist_000030\tb\tp\t1\tgenre---fu\x1b[1msion\n")
    table = read_labels(f"jamendo:{tmp_path / 'j'}", JAMENDO_FILES)
    assert table.by_path["/m/01/1300001.mp3"].split == ""
    assert table.by_path["/m/01/1300001.mp3"].genres == ("fusion", "jazz")
    assert "1 x file on two sides of the split (it gets none): 01/1300001.mp3" in table.problems
    assert "2 x row that is not a track (skipped): autotagging-train.tsv, line 4, autotagging-train.tsv, line 5" in (
        table.problems
    )
    (folder / "autotagging-test.tsv").write_text("TRACK\tTAGS\nx\ty\n")
    with pytest.raises(LabelsError, match=r"a table of MTG-Jamendo has TRACK_ID, .*; found TRACK, TAGS"):
        read_labels(f"jamendo:{tmp_path / 'j'}", JAMENDO_FILES)
    (folder / "autotagging-test.tsv").unlink()
    with pytest.raises(LabelsError, match=r"has no data/splits/split-0/autotagging-train.tsv"):
        read_labels(f"jamendo:{tmp_path / 'j'}", JAMENDO_FILES)


# ------------------------------------------------------------------------------------------------- any CSV


def test_a_csv_may_name_sides(tmp_path):
    """The usual words for the sides of a split; another word is counted and taken out."""
    source = tmp_path / "l.csv"
    source.write_text("path,genre,split\na.ogg,x,training\nb.ogg,x,Val\nc.ogg,x,test\nd.ogg,x,\ne.ogg,x,fold3\n")
    table = read_labels(source, audio(*(f"{name}.ogg" for name in "abcde")))
    assert [table.by_path[f"/m/{name}.ogg"].split for name in "abcde"] == ["train", "valid", "test", "", ""]
    assert table.problems == ("1 x row with a split that is not train, valid or test (taken out): line 6",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"path,genre\n" + b"x" * 2**24, "line 2: it is over 16 MiB long"),
        (b"\0" * (2**24 + 5), "line 1: it is over 16 MiB long"),
        (b"path,genre\na.ogg," + b"y" * 200_000 + b"\n", "line 2: field larger than field limit"),
        (b"path,genre\n" + b"\n" * 1000, "a header and no rows"),
    ],
    ids=["line", "zeros", "cell", "blank"],
)
def test_bombs_end_early(data, message, tmp_path):
    """Endless lines and cells are refused where they are met."""
    (tmp_path / "l.csv").write_bytes(data)
    with pytest.raises(LabelsError, match=message):
        read_labels(tmp_path / "l.csv", audio("a.ogg"))


def test_a_table_over_the_limit_is_refused(tmp_path, monkeypatch):
    """However many lines it has."""
    monkeypatch.setattr(rows, "_MAX_CHARS", 1000)
    (tmp_path / "l.csv").write_text("path,genre\n" + "a.ogg,x\n" * 200)
    with pytest.raises(LabelsError, match="keep only the columns that are needed"):
        read_labels(tmp_path / "l.csv", audio("a.ogg"))


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["spotify", "fma", "jamendo", "gtzan"])
def test_spoiled_tables_give_a_table_or_our_error(sample, tmp_path, monkeypatch):
    """500 tables with bytes changed, cut and doubled: labels that are safe to print, or one line."""
    without(monkeypatch, "mutagen")
    chance = random.Random(sample)
    if sample == "gtzan":
        path, source = (
            write_lists(tmp_path, b"blues.00000\nblues/blues.00003.wav\n7\n") / "train_filtered.txt",
            f"gtzan:{tmp_path}",
        )
    else:
        good = {"spotify": SPOTIFY, "fma": FMA, "jamendo": JAMENDO / "data/splits/split-0/autotagging-train.tsv"}[
            sample
        ]
        path, source = Path(shutil.copy(good, tmp_path)), f"{sample}:{tmp_path / good.name}"
    data = path.read_bytes()
    files = [*FMA_FILES, *JAMENDO_FILES, *audio(f"{sid('A')}.ogg", f"{sid('B')}.ogg", "blues.00000.wav")]
    for _ in range(500):
        spoiled = bytearray(data)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(spoiled) + 1)
            extra = chance.choice(
                (b"", b'"', b"\0", b"\n", b"\r", b"\t\t", b",,", b"\x1b[2J", b"\xff", "\u202e".encode())
            )
            spoiled[at : at + chance.choice((0, 0, 1, 50))] = extra
        path.write_bytes(spoiled)
        try:
            table = read_labels(source, files)
        except LabelsError as error:
            assert not unsafe(str(error))  # noqa: PT017 - the error is one of two good outcomes
        else:
            for labels in table.by_path.values():
                for text in (*labels.genres, *labels.artists, labels.album, labels.title):
                    assert text == clean(text)
            assert not any(map(unsafe, table.problems))


# ------------------------------------------------------------------------------------------------- tags


def test_tags_without_mutagen(monkeypatch):
    """The line that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "mutagen", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedstore-mir\[tags\]'"):
        read_labels("tags", [])


def tagged(path: Path, **tags: str) -> None:
    """Write a second of silence and give it tags."""
    import mutagen

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, [0.0] * 8000, 8000)
    file = mutagen.File(path, easy=True)
    if file.tags is None:
        file.add_tags()
    file.update(tags)
    file.save()


def test_tags_are_read_from_the_files(tmp_path):
    """Genres and artists split at semicolons, ID3's numbers are names; what cannot be read is counted, not an error."""
    mutagen = pytest.importorskip("mutagen")
    tagged(tmp_path / "a.ogg", genre="Blues; Rock", artist="Ana Ñandú", album="First\x1b[1m Light", title="Morning")
    tagged(tmp_path / "b.flac", artist="Low Tide", date="2009-05-04", originaldate="1969")
    tagged(tmp_path / "c.mp3", genre="(17)", title="Old way", date="1971-02")
    tagged(tmp_path / "e.ogg", genre="Folk", date="long ago")
    soundfile.write(tmp_path / "d.wav", [0.0] * 800, 8000)
    (tmp_path / "broken.mp3").write_bytes(b"ID3\x04\0\0\0\0\0\x10TIT2 nothing of it is true")
    (tmp_path / "empty.flac").write_bytes(b"")
    table = read_labels("tags", find_audio(tmp_path).files)
    assert {Path(path).name: labels for path, labels in table.by_path.items()} == {
        "a.ogg": TrackLabels(("Blues", "Rock"), ("Ana Ñandú",), "First Light", "Morning"),
        "b.flac": TrackLabels((), ("Low Tide",), year=1969),
        "c.mp3": TrackLabels(("Rock",), title="Old way", year=1971),
        "e.ogg": TrackLabels(("Folk",)),
    }
    assert table.problems[2] == "1 x file whose tags have a date without a year: e.ogg"
    assert table.problems[0] == "2 x file without a genre in its tags: b.flac, d.wav"
    assert table.problems[1].startswith("2 x file whose tags cannot be read: broken.mp3 (")
    assert mutagen.File(tmp_path / "a.ogg")["album"] == ["First\x1b[1m Light"], "the file was not touched"


def test_spotify_finds_files_by_their_tags(tmp_path):
    """Artist and title, however they are spelled, where the name has no id; all ids of the song count."""
    pytest.importorskip("mutagen")
    tagged(tmp_path / "one.ogg", artist="glass  owls", title="UNDER WIRES!")
    tagged(tmp_path / "two.flac", artist="Ana ñandú; Somebody Else", title="Morning again")
    tagged(tmp_path / "three.ogg", artist="Low Tide", title="Another Song")
    table = read_labels(SPOTIFY, find_audio(tmp_path).files)
    found = {Path(path).name: labels.genres for path, labels in table.by_path.items()}
    assert found == {"one.ogg": ("alternative",), "two.flac": ("acoustic", "alternative")}
    assert "2 x file found by artist and title in its tags, as its name holds no track id" in table.problems


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg to write the containers")
@pytest.mark.parametrize("suffix", ["m4a", "wma", "wv", "opus", "spx", "ogg", "flac", "mp3", "aiff"])
def test_every_container_says_the_same(suffix, tmp_path):
    """ID3, MP4, ASF, APEv2 and Vorbis comments have other names for the same five things; each is given once."""
    pytest.importorskip("mutagen")
    tags = {"genre": "Folk; Rock", "artist": "Ana Ñandú", "album": "First Light", "title": "Morning"}
    words = [word for pair in {**tags, "date": "1969"}.items() for word in ("-metadata", "=".join(pair))]
    how = ["-write_id3v2", "1"] if suffix == "aiff" else []
    path = tmp_path / f"a.{suffix}"
    tone = ["-f", "lavfi", "-i", "sine=d=1"]
    if subprocess.run(["ffmpeg", "-v", "error", *tone, *how, *words, path], check=False).returncode:
        pytest.skip("this ffmpeg writes no such file")
    artists = 2 if suffix == "wma" else 1  # ffmpeg says it twice there
    tags["year"] = "1969"
    assert read_tags(path) == {name: [text] * (artists if name == "artist" else 1) for name, text in tags.items()}


@pytest.mark.slow
def test_bombs_in_tags_cost_one_file(tmp_path):
    """A title of 2 GiB when unpacked, and a tag of ten million frames: the file is counted, the next one is read."""
    pytest.importorskip("mutagen")

    def safe(size: int) -> bytes:
        return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))

    packer = zlib.compressobj(9)
    zeros = b"\3" + b"x" * (2**26 - 1)
    title = b"".join([packer.compress(zeros) for _ in range(32)]) + packer.flush()
    frame = b"TIT2" + safe(len(title) + 4) + b"\0\x09" + safe(2**27) + title
    (tmp_path / "a.mp3").write_bytes(b"ID3\4\0\0" + safe(len(frame)) + frame + b"\0" * 500)
    frames = (b"XXXX" + struct.pack(">L", 1) + b"\0\0x") * 10_000_000
    (tmp_path / "b.mp3").write_bytes(b"ID3\3\0\0" + safe(len(frames)) + frames)
    tagged(tmp_path / "c.ogg", genre="Blues")
    table = read_labels("tags", find_audio(tmp_path).files)
    assert [labels.genres for labels in table.by_path.values()] == [("Blues",)]
    (problem,) = table.problems
    assert problem.startswith("2 x file whose tags cannot be read: a.mp3 (decoding it needs more memory"), problem
    assert "b.mp3 (no sign of life" in problem
