"""What is taken away from the page, and what could not be put on it: playlists, failures."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.responses import Response

from embedstore.search.playlists import playlist_of
from embedstore.summary import list_failures
from embedstore.web.answers import Answer
from embedstore.web.extension import Service
from embedstore.web.library import Kept
from embedstore.web.models import LARGEST_PAGE, PLAYLIST, FailedFile, FailurePage, PlaylistRequest

__all__ = ["routes"]


def routes(service: Service) -> APIRouter:
    """Make them."""
    api, library = APIRouter(), service.library
    failures = Kept(service.store, lambda: [FailedFile(**one) for one in list_failures(service.store)])

    @api.post("/playlist", response_class=Response, responses=PLAYLIST)
    def write_playlist(wanted: PlaylistRequest) -> Response:
        """Write a playlist (M3U8) of tracks, in this order, each once."""
        text = playlist_of(library.of(wanted.tracks)).encode("utf-8", "surrogateescape")
        name = quote(f"{wanted.name}.m3u8", safe="")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(text, media_type="audio/x-mpegurl", headers=headers)

    @api.get("/failures", response_model=FailurePage)
    def show_failures(
        offset: Annotated[int, Query(ge=0, le=2**53, description="Files to skip.")] = 0,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Files to give.")] = 100,
    ) -> Response:
        """List the files that could not be stored, and why."""
        found = failures()
        return Answer(FailurePage(len(found), offset, tuple(found[offset : offset + limit])))

    return api
