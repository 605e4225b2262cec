"""What people write: moments, ranges, filters, files of queries."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from embedstore.errors import ParameterError, StoreError
from embedstore.search.values import Filter, Query, Seed

__all__ = ["Line", "read_filter", "read_moment", "read_queries", "read_request"]

FIELDS = ("genre", "artist", "album", "path")
COLUMNS = ("query", "weight", "at", "genre", "name")

N = TypeVar("N", int, float)


def read_moment(text: str) -> float:
    """Read a moment or duration: seconds, or minutes:seconds, or hours:minutes:seconds.

    >>> read_moment("1:23"), read_moment("83.5"), read_moment("1:00:00")
    (83.0, 83.5, 3600.0)
    """
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text.strip(), re.ASCII):
        raise ParameterError(f"a moment is written as 83, 1:23 or 1:02:03; got {text!r}")
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def _range(text: str, read: Callable[[str], N], low: N, high: N) -> tuple[N, N]:
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not (first or last):
        raise ParameterError(f"a range is written as A-B, A- or -B; got {text!r}")
    return read(first) if first else low, read(last) if last else (high if dash else read(first))


def _year(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII):
        raise ParameterError(f"a year has up to four digits; got {text!r}")
    return int(text)


def read_filter(
    only: Iterable[str] = (), without: Iterable[str] = (), years: str | None = None, seconds: str | None = None
) -> Filter:
    """Read a filter.

    Parameters
    ----------
    only, without : iterable of str
        ``"genre=blues"``, ``"artist=..."``, ``"album=..."``, ``"path=..."``.
    years : str, optional
        ``"1990-1999"``, ``"1990-"``, ``"-1999"``, ``"1990"``.
    seconds : str, optional
        Likewise, as seconds or minutes: ``"60-5:00"``.

    Raises
    ------
    ParameterError
        It is written otherwise.

    Examples
    --------
    >>> read_filter(["genre=blues"], years="1990-").years
    (1990, 9999)
    """
    names: dict[str, tuple[str, ...]] = {}
    for some, prefix in ((only, ""), (without, "without_")):
        for text in some:
            field, sign, value = text.partition("=")
            if field not in FIELDS or not sign or not value:
                raise ParameterError(
                    f"a filter is written as FIELD=VALUE, FIELD one of {', '.join(FIELDS)}; got {text!r}"
                )
            names[f"{prefix}{field}s"] = (*names.get(f"{prefix}{field}s", ()), value)
    return Filter(
        **names,
        years=None if years is None else _range(years, _year, 0, 9999),
        seconds=None if seconds is None else _range(seconds, read_moment, 0.0, math.inf),
    )


UNLIKE = -0.5  # the weight of what results should be unlike, if none is said


@dataclass(frozen=True)
class Line:
    """A query of a file.

    Attributes
    ----------
    number : int
        Of its line, the first is 1; of several lines, the first of them.
    text : str
        What it is called.
    query : Query or None
        None: it cannot be read.
    error : str
        Why not.
    """

    number: int
    text: str
    query: Query | None
    error: str = ""


def read_request(
    tracks: Iterable[str] = (),
    like: Iterable[tuple[str, float]] = (),
    unlike: Iterable[str] = (),
    at: str | None = None,
    genre: str | None = None,
) -> list[Line]:
    """Make one query: tracks of weight 1 (or the moment `at` of them), others with their weights, and what to be unlike.

    Raises
    ------
    ParameterError
        As `Query`, `Seed` and `read_moment`.
    """
    moment = None if at is None else read_moment(at)
    seeds = [Seed(track, at=moment) for track in tracks]
    seeds += [Seed(*one) for one in (*like, *((track, UNLIKE) for track in unlike))]
    query = Query(tuple(seeds), genre)
    return [Line(0, str(query), query)]


def read_queries(path: str | os.PathLike[str]) -> list[Line]:
    r"""Read a file of queries: a query on each line; CSV with the columns query, weight, at, genre, name; or JSON lines.

    A file is CSV if its first line names the column ``query`` or ``genre``, and no others than these five, and JSON lines, with
    the same fields, if that starts with ``{``. Lines of one name are one query of several seeds. Empty lines do not count.

    Returns
    -------
    list of Line
        In the order of the file. Lines that cannot be read have an error; they do not stop the others.

    Raises
    ------
    StoreError
        The file cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")  # a path may be any bytes
    except OSError as error:
        raise StoreError(f"the queries {os.fspath(path)} cannot be read: {error.strerror or error}") from error
    named: dict[tuple[str, int], list[tuple[int, dict[str, Any]]]] = {}
    found: list[Line] = []
    for number, row in _rows(text):
        if isinstance(row, str):
            found.append(Line(number, "", None, row))
            continue
        name = row.get("name") or ""
        named.setdefault((name, 0 if name else number), []).append((number, row))
    found += [_line(name, rows) for (name, _), rows in named.items()]
    return sorted(found, key=lambda line: line.number)


def _rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Give each line's number and its fields, or what is wrong with it."""
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = lines[0][1] if lines else ""
    heads = [head.strip() for head in first.split(",")]
    if first.lstrip().startswith("{"):
        yield from ((number, _object(line)) for number, line in lines)
    elif {"query", "genre"} & set(heads) and set(heads) <= set(COLUMNS):
        yield from ((number, _cells(line, heads)) for number, line in lines[1:])
    else:
        yield from ((number, {"query": line}) for number, line in lines)


def _cells(line: str, heads: list[str]) -> dict[str, Any] | str:
    try:
        (row,) = csv.reader([line], strict=True)  # line by line: an open quote spoils one, not all that follow
    except (csv.Error, ValueError) as error:
        return f"it is no line of CSV: {error}"
    return (
        dict(zip(heads, row, strict=True)) if len(row) == len(heads) else f"{len(row)} cells for {len(heads)} columns"
    )


def _object(line: str) -> dict[str, Any] | str:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON: {error}"
    texts = ("query", "genre", "name")
    if (
        not isinstance(said, dict)
        or not set(said) <= set(COLUMNS)
        or any(type(said.get(one, "")) is not str for one in texts)
    ):
        return f"it should be an object with some of {', '.join(COLUMNS)}; {', '.join(texts)} are texts"
    return said


def _line(name: str, rows: list[tuple[int, dict[str, Any]]]) -> Line:
    """Make one query of the lines of a name."""
    number = rows[0][0]
    seeds: list[Seed] = []
    try:
        for number, row in rows:  # noqa: B007 - an error is of the line that was read last
            seeds += _seeds(row)
        number = rows[0][0]
        query = Query(tuple(seeds), _genre(row["genre"] for _, row in rows if row.get("genre")))
    except ParameterError as error:
        return Line(number, name, None, str(error))
    return Line(number, name or str(query), query)


def _genre(names: Iterable[str]) -> str | None:
    found = sorted(set(names))
    if len(found) > 1:
        raise ParameterError(f"a query has one genre; got {', '.join(found)}")
    return found[0] if found else None


def _seeds(row: dict[str, Any]) -> list[Seed]:
    if not row.get("query"):
        return []
    weight, at = row.get("weight"), row.get("at")
    try:
        heavy = 1.0 if weight in (None, "") else float(weight)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(f"a weight is a number; got {weight!r:.40}") from None
    return [Seed(row["query"], heavy, None if at in (None, "") else read_moment(str(at)))]
