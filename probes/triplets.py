"""Which of two tracks people find nearer to a third: judgements from a file, to be held against similarities.

Two layouts are read, each with commas, semicolons or tabs:

- ``anchor,near,far`` in a header, or no header and three columns in this order: one judgement a row;
- MagnaTagATune's ``comparisons_final.csv`` (Law et al. 2009, ISMIR): ``clip1_id``, ``clip1_numvotes``, ``clip1_mp3_path`` and
  the same of clips 2 and 3; the votes are for the odd one out.

Rows that ask the same are votes, added up: each plain row is one vote for its far track to be the odd one of the two, and the
votes of rows about the same three clips belong together. Where one track has more votes than each other, it is far from the
anchor, or from both other clips, each of them an anchor once. Where none has, nothing is judged.

A track is named by its id, its path (absolute, or below the music's or the file's folder) or its file name, with or without
the suffix.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import LabelsError, ParameterError
from embedstore.labels.rows import Places, by_stem, read_rows
from embedstore.types import AudioFile, key_from_id
from probes.splits import join_groups

__all__ = ["Triplets", "agreement", "read_triplets"]

Ints = NDArray[np.int64]
Asked = tuple[int | None, frozenset[int]]  # the anchor, if there is one, and the tracks of which one is odd
_PLAIN = ("anchor", "near", "far")
_PLACES = (1, 2, 3)
_UNKNOWN = "name a track that is not stored, or a file name that several have"


@dataclass(frozen=True, repr=False, eq=False)
class Triplets:
    """Judgements that anchor and near are more alike than anchor and far.

    Attributes
    ----------
    keys : int64 array, shape (m, 3)
        Track keys: anchor, near, far.
    groups : int64 array, shape (m,)
        Judgements of one group are not independent: those that tracks in common join, by any chain.
    notes : tuple of str
        Which rows could not be used, and where people disagree.
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
    find = _Finder(source, keys, files)
    header = [name.strip().lower() for name in rows[0][1]]
    votes = [f"clip{place}_numvotes" for place in _PLACES]
    if by_votes := set(votes) <= set(header):
        names = [f"clip{place}_{'mp3_path' if 'clip1_mp3_path' in header else 'id'}" for place in _PLACES]
        columns, rows = _columns(source, header, (*names, *votes)), rows[1:]
    else:
        named = set(_PLAIN) <= set(header)
        if not named and len(header) != 3:
            raise ParameterError(
                f"{source}, line 1: triplets have the columns anchor, near, far, or those of MagnaTagATune's "
                f"comparisons_final.csv (clip1_id, clip1_numvotes, ...); found {', '.join(header)[:200]}"
            )
        columns, rows = _columns(source, header, _PLAIN) if named else [0, 1, 2], rows[named:]
    ballots: dict[Asked, Counter[int]] = {}
    lost: dict[str, list[str]] = {}
    for number, row in rows:
        cells = [row[column].strip() if column < len(row) else "" for column in columns]
        tracks = [key for key in map(find, cells[:3]) if key is not None]
        counts = [_votes(cell) for cell in cells[3:]] if by_votes else [0, 0, 1]
        if len(tracks) < 3:
            lost.setdefault(_UNKNOWN, []).append(f"line {number}, {find.missed!r:.80}")
        elif len(set(tracks)) < 3:
            lost.setdefault("name one track twice", []).append(f"line {number}")
        elif None in counts:
            lost.setdefault("have votes that are no whole numbers", []).append(f"line {number}, {cells[3:]!r:.80}")
        else:
            asked = (None, frozenset(tracks)) if by_votes else (tracks[0], frozenset(tracks[1:]))
            voted = zip(tracks, counts, strict=True)
            ballots.setdefault(asked, Counter()).update({track: count for track, count in voted if count})
    notes = [
        f"{len(where)} of {len(rows)} rows of {source} {why} and were left out (first: {where[0]})"
        for why, where in lost.items()
    ]
    found = [triplet for (anchor, of), votes in ballots.items() for triplet in _judged(anchor, of, votes)]
    if tied := sum(not _judged(anchor, of, votes) for (anchor, of), votes in ballots.items()):
        notes.append(f"{tied} of {len(ballots)} questions in {source} have no single odd one out and were left out")
    if both := sum(anchor is not None and len(votes) > 1 for (anchor, _), votes in ballots.items()):
        notes.append(f"{both} of {len(ballots)} questions in {source} were answered both ways: the majority counts")
    if not found:
        raise ParameterError(f"{source}: no row can be used; {'; '.join(notes) or 'there is none'}")
    judged = np.array(found, np.int64)
    tracks_of = np.unique(judged, return_inverse=True)[1].reshape(judged.shape)
    joined = join_groups(np.arange(tracks_of.max() + 1), tracks_of[:, [0, 1, 0, 2]].reshape(-1, 2))
    return Triplets(judged, np.unique(joined[tracks_of[:, 0]], return_inverse=True)[1], tuple(notes))


def _votes(cell: str) -> int | None:
    """Read a count; a spreadsheet may have made 2.0 of 2."""
    return int(found[1]) if (found := re.fullmatch(r"([0-9]+)(\.0*)?", cell)) else None


def _judged(anchor: int | None, of: frozenset[int], votes: Counter[int]) -> list[tuple[int, int, int]]:
    """Give anchor, near and far: none if no single one of the tracks is the odd one."""
    (odd, most), (_, next_most) = (*votes.most_common(2), *[(0, 0)] * 2)[:2]
    if most == next_most:
        return []
    others = sorted(of - {odd})
    if anchor is not None:
        return [(anchor, others[0], odd)]
    return [(others[0], others[1], odd), (others[1], others[0], odd)]


class _Finder:
    """Finds the track that a cell names."""

    def __init__(self, source: str, keys: Ints, files: Sequence[tuple[AudioFile, int]]) -> None:
        several = [file for file, _ in files]
        self.keys = set(keys.tolist())
        self.of_file = {file.full_path: key for file, key in files}
        self.places = Places(several, source=source, ids=by_stem(several))
        self.missed = ""

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
