"""Searches: by a track, by several, by a genre, by a sound that is sent."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from embedstore import search as asked
from embedstore.errors import EmbedstoreError
from embedstore.search import SearchResult, Seed
from embedstore.web.answers import Answer
from embedstore.web.extension import Service
from embedstore.web.models import SOUND, SearchRequest
from embedstore.web.parameters import AFilter, ALayer, AMoment, AShape
from embedstore.web.uploads import Sent

__all__ = ["routes"]


def routes(service: Service) -> APIRouter:
    """Make them."""
    api, library, searchers, uploads = APIRouter(), service.library, service.searchers, service.uploads

    def seed(wanted: Seed) -> Seed:
        start, _, name = wanted.what.partition("upload:")
        return library.seed(wanted) if start or not name else replace(wanted, what=uploads.name(name))

    @api.get("/tracks/{track}/neighbors", response_model=SearchResult)
    def neighbors(track: str, wanted: AFilter, shape: AShape, at: AMoment = None, layer: ALayer = None) -> Response:
        """Find the tracks that sound most like a track."""
        one = library.seed(Seed(library.track(track).id, at=at))
        return Answer(searchers.of(layer).search(asked.Query((one,)), wanted, shape))

    @api.post("/search", response_model=SearchResult)
    def search_tracks(wanted: SearchRequest, layer: ALayer = None) -> Response:
        """Find the tracks that sound most like some tracks and least like others, or most like a genre."""
        query = replace(wanted.query, seeds=tuple(map(seed, wanted.query.seeds)))
        return Answer(searchers.of(layer).search(query, wanted.filter, wanted.shape, uploads.heard()))

    @api.post("/search/audio", response_model=SearchResult, openapi_extra=SOUND)
    def search_audio(
        sent: Annotated[Sent, Depends(service.bodies)],
        wanted: AFilter,
        shape: AShape,
        at: AMoment = None,
        layer: ALayer = None,
    ) -> Response:
        """Find the tracks that sound most like an audio file, which is the body of the request."""
        path = sent.path
        try:
            query = asked.Query((Seed(str(path), at=at),))
            heard = {str(path): uploads.listen(sent, keep_windows=at is not None)}
            found = searchers.of(layer).search(query, wanted, shape, heard)
        except EmbedstoreError as error:
            error.args = (_without(path, str(error)),)
            raise
        notes = tuple(_without(path, note) for note in found.notes)
        return Answer(replace(found, query="the upload", notes=notes))

    return api


def _without(path: Path, said: str) -> str:
    """Say the same of an upload without the name that it has here."""
    return said.removeprefix(f"{path}: ").replace(str(path), "the upload")
