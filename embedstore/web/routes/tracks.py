"""Tracks: listed, described, heard; the store and its genres."""

from contextlib import closing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from embedstore import __version__
from embedstore.errors import AudioError
from embedstore.search.genres import GenreMap
from embedstore.summary import summarize
from embedstore.web.answers import Answer
from embedstore.web.audio import send_audio, send_open
from embedstore.web.copies import Copies
from embedstore.web.extension import Service
from embedstore.web.library import Kept
from embedstore.web.models import (
    LARGEST_PAGE,
    MOST_NAMES,
    Genre,
    GenreTable,
    Health,
    Problem,
    StoredTrack,
    StoreFacts,
    TrackPage,
)

__all__ = ["routes"]

MOST_MAPPED = 200  # genres


def routes(service: Service) -> APIRouter:
    """Make them."""
    api, store, library = APIRouter(), service.store, service.library
    copies = service.jobs.held.enter_context(closing(Copies(service.jobs.folder)))

    def compare_genres() -> bytes:
        found = GenreMap.of(service.searchers.default.view().live, store.labels(), most=MOST_MAPPED)
        return bytes(Answer(GenreTable.of(found)).body)

    columns = service.searchers.default.view().columns
    facts = Kept(store, lambda: summarize(store, scan=False, labels=columns().labels))
    tree = Kept(store, compare_genres)

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
        id: Annotated[list[str], Query(max_length=MOST_NAMES, description="Only these, in this order.")] = [],  # noqa: A002, B006 - what it is; FastAPI copies it
    ) -> Response:
        """List tracks, page by page, in the order in which they were stored; or those of some ids, whatever else is asked."""
        if id:
            tracks = library.of(id)
            return Answer(TrackPage(len(tracks), 0, tuple(map(StoredTrack.of, tracks))))
        total, tracks = library.page(q, offset, limit)
        return Answer(TrackPage(total, offset, tuple(map(StoredTrack.of, tracks))))

    @api.get("/tracks/{track}", response_model=StoredTrack)
    def show_track(track: str) -> Response:
        """Describe a track."""
        return Answer(StoredTrack.of(library.track(track)))

    @api.head("/tracks/{track}/audio", response_class=Response, responses=_AUDIO)
    @api.get("/tracks/{track}/audio", response_class=Response, responses=_AUDIO)
    async def play(
        track: str,
        request: Request,
        form: Annotated[
            Literal["flac"] | None,
            Query(alias="as", description="For players that cannot play the file as it is; default: as it is."),
        ] = None,
    ) -> Response:
        """Send the sound of a track, or the part of it that the header Range names; 410 if its file has changed or gone."""
        found, only_head = await run_in_threadpool(library.track, track), request.method == "HEAD"
        if form is None:
            return await run_in_threadpool(send_audio, found, request.headers, only_head=only_head)
        try:
            return send_open(await copies.open(found), "audio/flac", request.headers, only_head=only_head)
        except AudioError as error:
            raise AudioError(f"{found.path}: {error}", stage=error.stage) from error

    @api.get("/genres", response_model=list[Genre])
    def list_genres() -> Response:
        """List the genres, those of most tracks first."""
        return Answer([Genre(*one) for one in facts()["genres"].items()])

    @api.get("/genres/map", response_model=GenreTable)
    def map_genres() -> Response:
        """Tell how alike the genres are; of more than 200 those that have most tracks, and the names of the others."""
        return Response(tree(), media_type=Answer.media_type)

    return api


_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}, "audio/*": {}}}
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", **_BYTES},
    206: {"description": "The part that was asked for.", **_BYTES},
    410: {"model": Problem, "description": "The file has changed or gone."},
    416: {"model": Problem, "description": "The part lies behind the end."},
}
