"""The page itself: files of this package."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

__all__ = ["PAGE", "routes"]

PAGE = Path(__file__).parent.parent / "page"


def routes() -> list[BaseRoute]:
    """Make them; they need no service."""
    for kind, ending in (("text/javascript", ".js"), ("text/css", ".css"), ("image/svg+xml", ".svg")):
        mimetypes.add_type(kind, ending)  # whatever this machine thinks

    async def index(_request: object) -> FileResponse:
        return FileResponse(PAGE / "index.html")

    return [Route("/", index), Mount("/page", StaticFiles(directory=PAGE))]
