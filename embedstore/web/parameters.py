"""What many routes take from the address."""

from typing import Annotated, TypeVar

from fastapi import Depends, Query
from pydantic import StringConstraints

from embedstore.search import Filter, Shape
from embedstore.web.models import LARGEST_K, LONGEST_NAME, MOST_NAMES

__all__ = ["AFilter", "ALayer", "AMoment", "AShape"]

N = TypeVar("N", int, float)
Names = list[Annotated[str, StringConstraints(max_length=LONGEST_NAME)]]


def _shape(
    k: Annotated[int, Query(ge=1, le=LARGEST_K, description="How many.")] = 10,
    per_artist: Annotated[int | None, Query(ge=1, description="At most so many of one artist.")] = None,
    collapse: Annotated[bool, Query(description="Show one of tracks that are the same music.")] = False,
    least: Annotated[float | None, Query(ge=-1, le=1, description="Smallest similarity.")] = None,
    diversity: Annotated[float, Query(ge=0, le=1, description="Towards 1: ever more unlike each other.")] = 0.0,
) -> Shape:
    return Shape(k=k, per_artist=per_artist, collapse=collapse, least=least, diversity=diversity)


def _filter(
    genre: Annotated[Names, Query(max_length=MOST_NAMES, description="One of these genres.")] = [],  # noqa: B006 - FastAPI copies it
    artist: Annotated[Names, Query(max_length=MOST_NAMES, description="One of these artists.")] = [],  # noqa: B006
    first_year: Annotated[int | None, Query(ge=0, le=9999, description="Not older.")] = None,
    last_year: Annotated[int | None, Query(ge=0, le=9999, description="Not younger.")] = None,
    shortest: Annotated[float | None, Query(ge=0, le=1e9, description="Seconds.")] = None,
    longest: Annotated[float | None, Query(ge=0, le=1e9, description="Seconds.")] = None,
) -> Filter:
    return Filter(
        genres=tuple(genre),
        artists=tuple(artist),
        years=_range(first_year, last_year, 9999),
        seconds=_range(shortest, longest, 1e9),
    )


def _range(first: N | None, last: N | None, end: N) -> tuple[N, N] | None:
    if first is None and last is None:
        return None
    return first if first is not None else type(end)(0), last if last is not None else end


AShape = Annotated[Shape, Depends(_shape)]
AFilter = Annotated[Filter, Depends(_filter)]
AMoment = Annotated[float | None, Query(ge=0, le=1e6, description="Only the window around this second.")]
ALayer = Annotated[
    str | None,
    Query(max_length=100, description="Number or name of a layer, or `mean` over all; default: that of the service."),
]
