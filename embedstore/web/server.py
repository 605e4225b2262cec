"""Listen, say where, answer until interrupted."""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from embedstore.errors import EmbedstoreError, ParameterError
from embedstore.maps import open_map
from embedstore.registry import require
from embedstore.search import Searcher
from embedstore.store import EmbeddingStore
from embedstore.types import Keys
from embedstore.web.extension import Extension

if TYPE_CHECKING:
    from embedstore.web.jobs import Jobs

__all__ = ["Address", "serve"]

INSTALL = "pip install 'embedstore-mir[web]'"
_QUICK = 5000  # tracks of which a map by UMAP is made unasked
_LOOK = 5  # seconds until a store may have grown much
_PATIENCE = 1  # seconds that answers on their way are given when the service is stopped


@dataclass(frozen=True)
class Address:
    """Where a store is served.

    Attributes
    ----------
    url : str
        Such as ``"http://127.0.0.1:8765"``.
    token : str or None
        That each request must bring as ``Authorization: Bearer TOKEN``; None: none is needed.
    store : str
        Absolute folder.
    tracks : int
        That it holds now.
    """

    url: str
    token: str | None
    store: str
    tracks: int

    @property
    def page(self) -> str:
        """What a browser is given: the page, with the token that lets it in."""
        return self.url if self.token is None else f"{self.url}/?token={quote(self.token, safe='')}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"page": self.page, **asdict(self)}


def serve(
    store: EmbeddingStore,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    ready: Callable[[Address], None] = lambda _: None,
    extensions: Sequence[Callable[[], Extension]] = (),
    **options: Any,
) -> None:
    """Serve a page and answer searches over HTTP until interrupted; the store may grow meanwhile.

    Of the store, tracks, labels and vectors are only read; what is made of them, such as a map, lies in folders of its own. Maps
    that are missing are made as soon as it listens: by PCA, and, of up to 5,000 tracks, by UMAP.

    Parameters
    ----------
    store : EmbeddingStore
    host : str
        Name or address to listen on. Where others can reach it, not only this machine, each request needs a token.
    port : int
        0: any that is free.
    token : str, optional
        Default: none on this machine alone, else a random one.
    ready : callable
        Told the `Address` once it listens.
    extensions : sequence of functions
        Of other packages: each makes an `Extension` once it is known that the extra is there.
    **options
        Of `Searcher`: the layer, the transform, and how to load the encoder that uploads need.

    Raises
    ------
    MissingDependencyError
        The extra ``web`` is not installed.
    ParameterError
        It cannot listen there; a token that no header can hold.
    """
    require("fastapi", INSTALL)
    uvicorn = require("uvicorn", INSTALL)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from embedstore.web.app import create_app, make_jobs

    if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ParameterError("a token is one word of printable ASCII characters")
    added = [extension() for extension in extensions]
    with (
        closing(_listen(host, port)) as listening,
        closing(Searcher(store, **options)) as searcher,
        closing(make_jobs(searcher, added)) as jobs,
        _rarely_collected(),
        threadpool_limits(1, "blas"),  # requests run side by side: teams of threads would fight for the cores
    ):
        here, port = listening.getsockname()[:2]
        if token is None and not ipaddress.ip_address(here).is_loopback:
            token = secrets.token_urlsafe(24)
        config = uvicorn.Config(
            create_app(searcher, token=token, names=(host, socket.gethostname()), extensions=added, jobs=jobs),
            log_level="warning",
            server_header=False,
            access_log=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=_PATIENCE,
        )
        anywhere = ipaddress.ip_address(here).is_unspecified
        shown = socket.gethostname() if anywhere else f"[{here}]" if ":" in here else here
        ready(Address(f"http://{shown}:{port}", token, str(store.path), len(store)))
        preparing = threading.Thread(target=_prepare, args=(searcher, jobs), daemon=True)
        preparing.start()
        server, log = uvicorn.Server(config), logging.getLogger("uvicorn.error")

        def is_news(_record: logging.LogRecord) -> bool:
            return not server.should_exit  # else only who was cut off

        log.addFilter(is_news)
        try:
            with suppress(KeyboardInterrupt):  # raised again by uvicorn once it has ended
                server.run(sockets=[listening])
        finally:
            log.removeFilter(is_news)
            jobs.close()
            preparing.join()  # it reads the store, which is closed next


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """Look for garbage less often: what is said about many tracks is a million objects that stay, and half of the time to read it."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _prepare(searcher: Searcher, jobs: Jobs) -> None:
    """Read what the page asks for first; make the maps that are missing, or of less than half of the tracks, and quickly made."""
    from starlette.exceptions import HTTPException

    store = searcher.store
    mapped = {method: store.keys()[:0] for method in ("pca", "umap")}  # tracks of each map, when it was looked at
    with suppress(OSError, EmbedstoreError):
        searcher.view().columns()
    while True:
        with suppress(OSError, EmbedstoreError):  # it may go next time
            for method in mapped if len(store) <= _QUICK else ("pca",):
                if _covers(mapped[method], keys := store.keys()):
                    continue
                found = open_map(store, method)
                mapped[method] = keys[:0] if found is None else found.keys
                if not _covers(mapped[method], keys):
                    as_before = {} if found is None else {"seed": found.seed, "neighbors": found.neighbors}
                    with suppress(HTTPException):  # something else runs, or it ends already
                        jobs.start("map", {"method": method, **as_before})
                        mapped[method] = keys  # also if it fails: it would fail again
                    jobs.wait()
        if jobs.closed.wait(_LOOK):
            return


def _covers(mapped: Keys, keys: Keys) -> bool:
    """Whether half of the tracks that are there now are in a map."""
    return len(keys) <= 2 * int(np.isin(mapped, keys).sum())


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(where[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        code = getattr(error, "errno", 0)
        why = os.strerror(code) if code > 0 else getattr(error, "strerror", error)  # that of a file repeats the address
        raise ParameterError(f"cannot listen on {host}, port {port}: {why}; choose another --port or --host") from error
    # inherited by each connection; else the end of an answer waits 40 ms for a sign that its beginning has come
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
