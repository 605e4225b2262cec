"""Who may ask, and how much: stands before every route, those of a page included."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedstore.web.answers import problem

__all__ = ["HEADERS", "Guard"]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Guard:
    """Lets a request through if it is meant for this service, has the token, and is not too large.

    Parameters
    ----------
    app : ASGI application
    names : iterable of str
        Host names of this machine. A page of another site can give its own name our address (DNS rebinding), but then its
        requests carry that name; so an address, which nobody can give away, or one of our names is asked for.
    token : str or None
    largest : mapping of path to int
        Bytes of a request's body; "" is for all other paths.
    """

    def __init__(self, app: ASGIApp, *, names: Iterable[str], token: str | None, largest: dict[str, int]) -> None:
        self._app, self._names = app, {"localhost", *map(str.lower, names)}
        self._token = None if token is None else token.encode()
        self._largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, most = Headers(scope=scope), self._largest.get(scope["path"], self._largest[""])
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(*_too_large(most))
            return message

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    fields.setdefault(name, value)
            await send(message)

        if refused := self._refuse(headers, most):
            code, why = refused
            more = {"WWW-Authenticate": "Bearer"} if code == HTTPStatus.UNAUTHORIZED else None
            await problem(code, HTTPStatus(code).phrase, why, more)(scope, receive, marked)
        else:
            await self._app(scope, limited, marked)

    def _refuse(self, headers: Headers, most: int) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return (
                400,
                f"the host {host!r:.80} is not this service; ask for it by its address, or start it with that --host",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, f"a page of {origin!r:.80} may not use this service"
        word, _, given = headers.get("authorization", "").partition(" ")
        if self._token is not None and not (
            word.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token)
        ):
            return 401, "the token is missing or wrong; send the header 'Authorization: Bearer TOKEN'"
        length = headers.get("content-length", "0")
        if len(length) > 18 or int(length if length.isdecimal() else 0) > most:
            return _too_large(most)
        return None

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return name.lower() in self._names
        return True


def _too_large(most: int) -> tuple[int, str]:
    return 413, f"the body of the request is larger than {most:,} bytes"
