"""Genres: what is asked, what there is, what was left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import ParameterError, UnknownNameError
from embedstore.types import TrackLabels
from probes.task import choose_genres, make_task

STORED = ["rock", "Blues", "jazz", "ambient"]


def test_a_number_takes_the_first_in_the_alphabet(tmp_path: Path) -> None:
    """Numbers, lists, files and names choose genres; the order is the alphabet's, whatever the case."""
    listed = tmp_path / "genres.txt"
    listed.write_text("jazz\n\nrock\n", encoding="utf-8")
    assert choose_genres("3", STORED) == choose_genres(3, STORED) == ("ambient", "Blues", "jazz")
    assert choose_genres("rock, jazz,rock", STORED) == choose_genres(str(listed), STORED) == ("jazz", "rock")
    assert choose_genres(None, STORED) == ("ambient", "Blues", "jazz", "rock")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (20, "20 genres were asked; the store has 4: ambient, Blues, jazz, rock"),
        ("1", "at least 2 genres, got 1"),
        (-3, "at least 2 genres, got 0"),
        ("rock", "at least 2 genres, got 1"),
    ],
)
def test_what_cannot_be_chosen_says_what_there_is(asked: int | str, message: str) -> None:
    """Too many or too few genres are errors that list the stored ones."""
    with pytest.raises(ParameterError, match=message):
        choose_genres(asked, STORED)


def test_unknown_genre_names_the_closest() -> None:
    """A misspelt genre lists the known and the closest."""
    with pytest.raises(UnknownNameError, match="unknown genre 'jaz'; did you mean 'jazz'"):
        choose_genres("jaz,rock", STORED)


def test_unreadable_list_is_a_clear_error(tmp_path: Path) -> None:
    """A list that is no text says so."""
    bad = tmp_path / "list"
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match="cannot be read as UTF-8"):
        choose_genres(str(bad), STORED)


def _library(**genres: list[tuple[str, ...]]) -> dict[int, TrackLabels]:
    tracks = [TrackLabels((genre,), artists) for genre, of in genres.items() for artists in of]
    return dict(enumerate(tracks))


def test_left_out_tracks_are_counted_and_named() -> None:
    """Tracks in several of the chosen genres, without genre, and of one-artist genres leave, in counts and in words."""
    labels = _library(
        rock=[("a",), ("b",), ("c",)], jazz=[("d",), ("e",)], bach=[("JSB",), ("jsb",)], solo=[("f",)]
    ) | {100: TrackLabels(("rock", "jazz"), ("z",)), 101: TrackLabels((), ("y",))}
    task = make_task(np.array(sorted(labels)), labels)
    assert task.genres == ("jazz", "rock")
    assert task.counts == {"jazz": 2, "rock": 3}
    assert task.excluded == {
        "tracks": 5,
        "no_genre": 1,
        "several_genres": 1,
        "too_few": 3,
        "genres": ["bach", "solo"],
    }
    told = "; ".join(task.notes)
    for words in (
        "1 tracks are in several",
        "1 tracks have no genre",
        "'bach' (2 tracks); --group none would keep",
        "at least 2 tracks of a genre: 'solo' (1)",
    ):
        assert words in told


def test_a_track_in_another_genre_too_is_kept_where_that_is_not_asked() -> None:
    """Only the chosen genres can contradict each other."""
    labels = _library(rock=[("a",), ("b",)], jazz=[("c",), ("d",)]) | {9: TrackLabels(("rock", "pop"), ("z",))}
    assert make_task(np.array(sorted(labels)), labels, "rock,jazz").counts == {"jazz": 2, "rock": 3}


def test_group_none_keeps_a_genre_of_one_artist() -> None:
    """Without grouping each track stands alone."""
    labels = _library(bach=[("jsb",)] * 3, jazz=[("d",), ("e",)])
    with pytest.raises(
        ParameterError,
        match=r"2 genres that can be tested, got 1: left out, .* one artist group, .*'bach' \(3 tracks\); --group none",
    ):
        make_task(np.arange(5), labels)
    assert make_task(np.arange(5), labels, group="none").groups.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UnknownNameError, match="unknown grouping 'artists'; did you mean 'artist'"):
        make_task(np.arange(5), labels, group="artists")


def test_unknown_artists_are_told() -> None:
    """The report says how many tracks the grouping cannot see."""
    labels = _library(rock=[(), (), ("a",)], jazz=[("b",), ("c",)])
    assert "2 of 5 tracks have no known artist" in make_task(np.arange(5), labels).notes[0]


def test_a_store_without_labels_says_how_to_get_them() -> None:
    """No genres at all: the message names the option."""
    with pytest.raises(ParameterError, match="--labels"):
        make_task(np.arange(5), {})


def test_what_can_leak_is_said() -> None:
    """Ungrouped folds, and one title under two artists, are notes of the task."""
    labels = {
        key: TrackLabels((("blues", "rock")[key % 2],), (f"artist {key}",), title=f"song {key // 2}")
        for key in range(20)
    }
    keys = np.arange(20)
    assert any("share their title" in note for note in make_task(keys, labels).notes)
    assert any("not kept apart" in note for note in make_task(keys, labels, group="none").notes)
