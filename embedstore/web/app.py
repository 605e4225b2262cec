"""The routes. A page is one more router that is included here; `Guard` stands before it as before these."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import StringConstraints
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from embedstore import __version__
from embedstore import search as asked
from embedstore.errors import EmbedstoreError
from embedstore.search import Filter, Searcher, SearchResult, Seed, Shape
from embedstore.search.genres import GenreMap
from embedstore.summary import summarize
from embedstore.web.answers import Answer, explain
from embedstore.web.audio import send_audio
from embedstore.web.guard import Guard
from embedstore.web.library import Kept, Library
from embedstore.web.models import (
    LARGEST_K,
    LARGEST_PAGE,
    LONGEST_NAME,
    MOST_NAMES,
    Genre,
    GenreTable,
    Health,
    Problem,
    SearchRequest,
    StoredTrack,
    StoreFacts,
    TrackPage,
    describe,
)
from embedstore.web.uploads import Uploads

__all__ = ["create_app"]

UPLOAD = "/api/search/audio"
N = TypeVar("N", int, float)
LARGEST_BODY = 2**16  # bytes
LARGEST_UPLOAD, ALL_UPLOADS = 2**29, 2**30
MOST_MAPPED = 200  # genres
UPLOADS = 4  # that are decoded at once


def create_app(searcher: Searcher, *, token: str | None = None, names: Collection[str] = ()) -> Guard:
    """Make the service.

    Parameters
    ----------
    searcher : Searcher
        Of the store that is served; the caller closes it.
    token : str, optional
        That each request must bring.
    names : collection of str
        Host names of this machine besides ``localhost``.
    """
    app = _Api(
        title="embedstore",
        version=__version__,
        summary="Which tracks of a music library sound alike.",
        docs_url=None,  # their pages need the network
        redoc_url=None,
        responses={code: {"model": Problem} for code in (400, 401, 403, 404, 408, 413, 422, 503)},
    )
    app.include_router(_routes(searcher))
    for kind in (
        HTTPException,
        RequestValidationError,
        EmbedstoreError,
        OSError,
        MemoryError,
        ClientDisconnect,
        Exception,
    ):
        app.add_exception_handler(kind, explain)
    # around all of it: a middleware would stand behind what answers for a fault of ours
    return Guard(app, names=names, token=token, largest={"": LARGEST_BODY, UPLOAD: LARGEST_UPLOAD})


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return describe(super().openapi())


def _shape(
    k: Annotated[int, Query(ge=1, le=LARGEST_K, description="How many.")] = 10,
    per_artist: Annotated[int | None, Query(ge=1, description="At most so many of one artist.")] = None,
    collapse: Annotated[bool, Query(description="Show one of tracks that are the same music.")] = False,
    least: Annotated[float | None, Query(ge=-1, le=1, description="Smallest similarity.")] = None,
    diversity: Annotated[float, Query(ge=0, le=1, description="Towards 1: ever more unlike each other.")] = 0.0,
) -> Shape:
    return Shape(k=k, per_artist=per_artist, collapse=collapse, least=least, diversity=diversity)


Names = list[Annotated[str, StringConstraints(max_length=LONGEST_NAME)]]


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


def _routes(searcher: Searcher) -> APIRouter:
    api = APIRouter(prefix="/api")
    store, library = searcher.store, Library(searcher)

    def compare_genres() -> bytes:
        found = GenreMap.of(searcher.view().live, store.labels(), most=MOST_MAPPED)
        return bytes(Answer(GenreTable.of(found)).body)

    facts = Kept(store, lambda: summarize(store, scan=False))
    tree = Kept(store, compare_genres)
    uploads = Uploads(UPLOADS, ALL_UPLOADS)

    @api.get("/health", response_model=Health)
    def health() -> Response:
        """Tell that the service answers."""
        return Answer(Health("ok", __version__, len(store)))

    @api.get("/store", response_model=StoreFacts)
    def describe_store() -> Response:
        """Tell what the store holds; of a store that grows, as it was a moment ago."""
        return Answer(facts())

    @api.get("/tracks", response_model=TrackPage)
    def list_tracks(
        q: Annotated[
            str, Query(max_length=200, description="Up to 20 words that all occur in a track's names or path.")
        ] = "",
        offset: Annotated[int, Query(ge=0, le=2**53, description="Tracks to skip.")] = 0,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Tracks to give.")] = 50,
    ) -> Response:
        """List tracks, page by page, in the order in which they were stored."""
        total, tracks = library.page(q, offset, limit)
        return Answer(TrackPage(total, offset, tuple(map(StoredTrack.of, tracks))))

    @api.get("/tracks/{track}", response_model=StoredTrack)
    def show_track(track: str) -> Response:
        """Describe a track."""
        return Answer(StoredTrack.of(library.track(track)))

    @api.get("/tracks/{track}/neighbors", response_model=SearchResult)
    def neighbors(track: str, wanted: AFilter, shape: AShape, at: AMoment = None) -> Response:
        """Find the tracks that sound most like a track."""
        seed = library.seed(Seed(library.track(track).id, at=at))
        return Answer(searcher.search(asked.Query((seed,)), wanted, shape))

    @api.head("/tracks/{track}/audio", response_class=Response, responses=_AUDIO)
    @api.get("/tracks/{track}/audio", response_class=Response, responses=_AUDIO)
    def play(track: str, request: Request) -> Response:
        """Send the sound of a track, or the part of it that the header Range names; 410 if its file has changed or gone."""
        return send_audio(library.track(track), request.headers, only_head=request.method == "HEAD")

    @api.post("/search", response_model=SearchResult)
    def search_tracks(wanted: SearchRequest) -> Response:
        """Find the tracks that sound most like some tracks and least like others, or most like a genre."""
        seeds = tuple(map(library.seed, wanted.query.seeds))
        return Answer(searcher.search(replace(wanted.query, seeds=seeds), wanted.filter, wanted.shape))

    @api.post("/search/audio", response_model=SearchResult, openapi_extra=_SOUND)
    def search_audio(
        path: Annotated[Path, Depends(uploads)], wanted: AFilter, shape: AShape, at: AMoment = None
    ) -> Response:
        """Find the tracks that sound most like an audio file, which is the body of the request."""
        try:
            found = searcher.search(asked.Query((Seed(str(path), at=at),)), wanted, shape)
        except EmbedstoreError as error:
            error.args = (_without(path, str(error)),)
            raise
        notes = tuple(_without(path, note) for note in found.notes)
        return Answer(replace(found, query="the upload", notes=notes))

    @api.get("/genres", response_model=list[Genre])
    def list_genres() -> Response:
        """List the genres, those of most tracks first."""
        return Answer([Genre(*one) for one in facts()["genres"].items()])

    @api.get("/genres/map", response_model=GenreTable)
    def map_genres() -> Response:
        """Tell how alike the genres are; of more than 200 those that have most tracks, and the names of the others."""
        return Response(tree(), media_type=Answer.media_type)

    return api


def _without(path: Path, said: str) -> str:
    """Say the same of an upload without the name that it has here."""
    return said.removeprefix(f"{path}: ").replace(str(path), "the upload")


_SOUND = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}, "audio/*": {}}}
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", **_BYTES},
    206: {"description": "The part that was asked for.", **_BYTES},
    410: {"model": Problem, "description": "The file has changed or gone."},
    416: {"model": Problem, "description": "The part lies behind the end."},
}
