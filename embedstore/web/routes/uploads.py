"""Sounds that are sent: heard once, then compared in every layer."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from embedstore import search as asked
from embedstore.search import SearchResult, Seed
from embedstore.web.answers import Answer
from embedstore.web.extension import Service
from embedstore.web.models import SOUND, Upload
from embedstore.web.parameters import AFilter, ALayer, AShape
from embedstore.web.uploads import Sent

__all__ = ["routes"]


def routes(service: Service) -> APIRouter:
    """Make them."""
    api, uploads, searchers = APIRouter(), service.uploads, service.searchers

    @api.post("/uploads", response_model=Upload, status_code=201, openapi_extra=SOUND)
    def upload(
        sent: Annotated[Sent, Depends(service.bodies)],
        name: Annotated[str, Query(max_length=200, description="What the sound is called.")] = "",
    ) -> Response:
        """Hear an audio file, which is the body of the request, and remember it for a while as vectors.

        Afterwards its id, as `upload:ID`, may be a seed of a search.
        """
        return Answer(uploads.hear(sent, name), 201)

    @api.get("/uploads/{upload}/neighbors", response_model=SearchResult)
    def neighbors(upload: str, wanted: AFilter, shape: AShape, layer: ALayer = None) -> Response:
        """Find the tracks that sound most like a sound that was sent."""
        seed = uploads.name(upload)
        return Answer(searchers.of(layer).search(asked.Query((Seed(seed),)), wanted, shape, uploads.heard()))

    return api
