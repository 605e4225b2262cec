"""The service put together: its routes, those of extensions, the page, and `Guard` before all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from embedstore import __version__
from embedstore.errors import EmbedstoreError
from embedstore.search import Searcher
from embedstore.web.answers import explain
from embedstore.web.extension import Extension, Service
from embedstore.web.guard import Guard
from embedstore.web.jobs import Jobs
from embedstore.web.library import Library
from embedstore.web.mapping import MapOptions
from embedstore.web.models import Problem, describe
from embedstore.web.offers import Job
from embedstore.web.routes import ROUTES
from embedstore.web.routes.page import routes as page
from embedstore.web.searchers import Searchers
from embedstore.web.uploads import Bodies, Uploads

__all__ = ["create_app"]

UPLOADS = ("/api/search/audio", "/api/uploads")
LARGEST_BODY = 2**16  # bytes
LARGEST_UPLOAD, ALL_UPLOADS = 2**29, 2**30
DECODED = 4  # uploads at once
_LARGE = 2**15  # bytes of an answer that is worth compressing


def create_app(
    searcher: Searcher,
    *,
    token: str | None = None,
    names: Collection[str] = (),
    extensions: Sequence[Extension] = (),
    jobs: Jobs | None = None,
) -> Guard:
    """Make the service.

    Parameters
    ----------
    searcher : Searcher
        Of the store that is served; the caller closes it.
    token : str, optional
        That each request must bring.
    names : collection of str
        Host names of this machine besides ``localhost``.
    extensions : sequence of Extension
    jobs : Jobs, optional
        That `make_jobs` made, which the caller closes; default: new ones.
    """
    jobs = jobs or make_jobs(searcher, extensions)
    service = Service(
        searcher.store,
        Searchers(searcher),
        Library(searcher),
        jobs,
        Bodies(DECODED, ALL_UPLOADS),
        Uploads(searcher, [one.guess for one in extensions if one.guess], jobs.closed),
    )
    app = _Api(
        title="embedstore",
        version=__version__,
        summary="Which tracks of a music library sound alike.",
        docs_url=None,  # their pages need the network
        redoc_url=None,
        responses={code: {"model": Problem} for code in (400, 401, 403, 404, 408, 413, 422, 503)},
        routes=page(),
    )
    app.samples = tuple(sample for one in extensions for sample in one.samples)
    for make in (*ROUTES, *(one.routes for one in extensions if one.routes)):
        app.include_router(make(service), prefix="/api")
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
    app.add_middleware(_Compressed, minimum_size=_LARGE, compresslevel=1)
    # around all of it: a middleware would stand behind what answers for a fault of ours
    largest = {"": LARGEST_BODY, **dict.fromkeys(UPLOADS, LARGEST_UPLOAD)}
    return Guard(app, names=names, token=token, largest=largest)


def make_jobs(searcher: Searcher, extensions: Sequence[Extension]) -> Jobs:
    """Make what runs the jobs of the service and of its extensions."""
    kinds = {"map": Job("embedstore.web.mapping:make", MapOptions)}
    for one in extensions:
        kinds |= one.jobs
    return Jobs(searcher.store, kinds)


class _Api(FastAPI):
    samples: tuple[Any, ...] = ()

    def openapi(self) -> dict[str, Any]:
        return describe(super().openapi(), self.samples)


class _Compressed(GZipMiddleware):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/audio"):  # sound is compressed as it is
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
