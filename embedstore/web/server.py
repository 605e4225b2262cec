"""Listen, say where, answer until interrupted."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

from embedstore.errors import ParameterError
from embedstore.registry import require
from embedstore.search import Searcher
from embedstore.store import EmbeddingStore

__all__ = ["Address", "serve"]

INSTALL = "pip install 'embedstore-mir[web]'"
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def serve(
    store: EmbeddingStore,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    ready: Callable[[Address], None] = lambda _: None,
    **options: Any,
) -> None:
    """Answer searches over HTTP until interrupted; the store is only read, and may grow meanwhile.

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

    from embedstore.web.app import create_app

    if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ParameterError("a token is one word of printable ASCII characters")
    with (
        closing(_listen(host, port)) as listening,
        closing(Searcher(store, **options)) as searcher,
        threadpool_limits(1, "blas"),  # requests run side by side: teams of threads would fight for the cores
    ):
        here, port = listening.getsockname()[:2]
        if token is None and not ipaddress.ip_address(here).is_loopback:
            token = secrets.token_urlsafe(24)
        config = uvicorn.Config(
            create_app(searcher, token=token, names=(host, socket.gethostname())),
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
        server, log = uvicorn.Server(config), logging.getLogger("uvicorn.error")

        def is_news(_record: logging.LogRecord) -> bool:
            return not server.should_exit  # else only who was cut off

        log.addFilter(is_news)
        try:
            with suppress(KeyboardInterrupt):  # raised again by uvicorn once it has ended
                server.run(sockets=[listening])
        finally:
            log.removeFilter(is_news)


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
