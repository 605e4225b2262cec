"""The map: which tracks, where they lie, which of them hold some words."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from embedstore.web.answers import Answer
from embedstore.web.extension import Service
from embedstore.web.mapmodels import MapMatches, MapPositions, MapState, MapTracks
from embedstore.web.mapping import Mapping
from embedstore.web.models import CHANGED

__all__ = ["routes"]

AVersion = Annotated[str, Query(max_length=100, description="Of the rows, as `/api/map` tells it.")]


def routes(service: Service) -> APIRouter:
    """Make them."""
    api, library = APIRouter(), service.library
    mapping = Mapping(service.searchers, service.jobs)

    @api.get("/map", response_model=MapState)
    def describe_map() -> Response:
        """Tell what may be drawn, and what must be made before; of a store that grows, as it was a moment ago."""
        return Answer(mapping.state())

    @api.get("/map/tracks", response_model=MapTracks)
    def list_rows() -> Response:
        """List the tracks of the map, column by column; whatever else is asked about the map is in the order of these rows."""
        return Response(mapping.tracks(), media_type=Answer.media_type)

    @api.get("/map/positions", response_model=MapPositions, responses=CHANGED)
    def locate(
        method: Annotated[str, Query(max_length=100, description="`pca` or `umap`.")],
        layer: Annotated[int, Query(description="Number of a layer.", ge=-(2**31), lt=2**31)],
        version: AVersion,
    ) -> Response:
        """Say where the tracks lie on one layer; those that came after the map, beside the tracks that they are most like."""
        return Response(mapping.positions(method, layer, version), media_type=Answer.media_type)

    @api.get("/map/matches", response_model=MapMatches, responses=CHANGED)
    def match(
        q: Annotated[
            str, Query(max_length=200, description="Up to 20 words that all occur in a track's names or path.")
        ],
        version: AVersion,
    ) -> Response:
        """Find the rows of the tracks whose names or path hold all words."""
        return Answer(MapMatches(version, mapping.rows(library.matching(q), version)))

    return api
