"""Which of two tracks people find nearer to a third: judgements from a file, to be held against similarities.

Two layouts are read, each with commas, semicolons or tabs:

- ``anchor,near,far`` in a header, or no header and three columns in this order: one judgement a row;
- MagnaTagATune's ``comparisons_final.csv`` (Law et al. 2009, ISMIR): ``clip1_id``, ``clip1_numvotes``, ``clip1_mp3_path`` and
  the same of clips 2 and 3; the votes are for the odd one out. Where one clip has more votes than each other, both others
  are an anchor once: they are nearer to each other than to it. Rows without such a clip judge nothing.

A track is named by its id, its path (absolute, or below the music's or the file's folder) or its file name, with or without
the suffix.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import LabelsError, ParameterError
from embedstore.labels.rows import Places, by_stem, read_rows
from embedstore.types import AudioFile, key_from_id

__all__ = ["Triplets", "agreement", "read_triplets"]

Ints = NDArray[np.int64]
Judged = dict[tuple[int, ...], Sequence[int]]  # anchor, near, far -> the tracks that make its group
_PLAIN = ("anchor", "near", "far")
_PLACES = (1, 2, 3)


@dataclass(frozen=True, repr=False, eq=False)
class Triplets:
    """Judgements that anchor and near are more alike than anchor and far.

    Attributes
    ----------
    keys : int64 array, shape (m, 3)
        Track keys: anchor, near, far.
    groups : int64 array, shape (m,)
        Judgements of one group are not independent: those with one anchor, or about the same three clips.
    notes : tuple of str
        Which rows could not be used.
    """

    keys: Ints
    groups: Ints
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Triplets({len(self)})"


def read_triplets(path: str | os.PathLike[str], keys: Ints, files: Sequence[tuple[AudioFile, int]] = ()) -> Triplets:
    """Read judgements about stored tracks.

    Parameters
    ----------
    path : path
    keys : int64 array
        Of the stored tracks.
    files : sequence of (AudioFile, int)
        Their files, and the key of each.

    Raises
    ------
    ParameterError
        The file cannot be read, has neither layout, or no row that can be used.
    """
    source = os.fspath(path)
    try:
        rows = list(read_rows(source))
    except LabelsError as error:
        raise ParameterError(f"no triplets: {error}") from error
    find, lost = _Finder(source, keys, files), Counter[str]()
    judge: Callable[[Sequence[int], Sequence[str]], Judged]
    header = [name.strip().lower() for name in rows[0][1]]
    votes = [f"clip{place}_numvotes" for place in _PLACES]
    if set(votes) <= set(header):
        names = [f"clip{place}_{'mp3_path' if 'clip1_mp3_path' in header else 'id'}" for place in _PLACES]
        columns, rows, judge = _columns(source, header, (*names, *votes)), rows[1:], _odd_one_out
    else:
        named = set(_PLAIN) <= set(header)
        if not named and len(header) != 3:
            raise ParameterError(
                f"{source}, line 1: triplets have the columns anchor, near, far, or those of MagnaTagATune's "
                f"comparisons_final.csv (clip1_id, clip1_numvotes, ...); found {', '.join(header)[:200]}"
            )
        columns, rows, judge = _columns(source, header, _PLAIN) if named else [0, 1, 2], rows[named:], _plain
    found: Judged = {}
    for number, row in rows:
        cells = [row[column].strip() if column < len(row) else "" for column in columns]
        tracks = [key for key in map(find, cells[:3]) if key is not None]
        if len(tracks) < 3:
            lost["name a track that is not stored, or a file name that several have"] += 1
            find.example = find.example or f"line {number}, {find.missed!r:.80}"
        elif len(set(tracks)) < 3:
            lost["name one track twice"] += 1
        elif not (judged := judge(tracks, cells[3:])):
            lost["have no single odd one out"] += 1
        else:
            found |= judged
    notes = [f"{count} of {len(rows)} rows of {source} {why} and were left out" for why, count in lost.items()]
    notes = [note + f" (first: {find.example})" * ("not stored" in note) for note in notes]
    if not found:
        raise ParameterError(f"{source}: no row can be used; {'; '.join(notes) or 'there is none'}")
    numbers: dict[frozenset[int], int] = {}
    groups = [numbers.setdefault(frozenset(group), len(numbers)) for group in found.values()]
    return Triplets(np.array(list(found), np.int64), np.array(groups, np.int64), tuple(notes))


class _Finder:
    """Finds the track that a cell names."""

    def __init__(self, source: str, keys: Ints, files: Sequence[tuple[AudioFile, int]]) -> None:
        several = [file for file, _ in files]
        self.keys = set(keys.tolist())
        self.of_file = {file.full_path: key for file, key in files}
        self.places = Places(several, source=source, ids=by_stem(several))
        self.missed = self.example = ""

    def __call__(self, name: str) -> int | None:
        key = key_from_id(name)
        if key in self.keys:
            return key
        paths = self.places.find(name, name)
        if len(paths) == 1:
            return self.of_file[paths[0]]
        self.missed = name
        return None


def _columns(source: str, header: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if lacking := [name for name in wanted if name not in header]:
        raise ParameterError(
            f"{source}, line 1: there is no column {lacking[0]!r}; the columns are {', '.join(header)[:200]}"
        )
    return [header.index(name) for name in wanted]


def _plain(tracks: Sequence[int], _: Sequence[str]) -> Judged:
    return {tuple(tracks): tracks[:1]}


def _odd_one_out(tracks: Sequence[int], cells: Sequence[str]) -> Judged:
    """Take each of the two alike for an anchor; nothing if the votes name no single odd one."""
    votes = [int(cell) if cell.isdecimal() else 0 for cell in cells]
    if votes.count(max(votes)) > 1:
        return {}
    odd = tracks[votes.index(max(votes))]
    one, other = (track for track in tracks if track != odd)
    return {(one, other, odd): tracks, (other, one, odd): tracks}


def agreement(rows: NDArray[np.float32], places: Ints) -> NDArray[np.float64]:
    """Tell which judgements the cosine shares: 1, or 0, and a half where both are equally similar; shape (m,).

    Parameters
    ----------
    rows : float32 array, shape (n, dim)
        Of length 1, or 0.
    places : int64 array, shape (m, 3)
        Rows of anchor, near and far.

    Examples
    --------
    >>> agreement(np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32), np.array([[0, 1, 2], [2, 0, 1]]))
    array([1., 0.])
    """
    anchor, near, far = (rows[column].astype(np.float64) for column in places.T)
    apart = (anchor * near).sum(1) - (anchor * far).sum(1)
    return np.asarray((np.sign(apart) + 1) / 2)
