"""Who may ask, and how much: stands before every route, those of a page included."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import quote, unquote

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedstore.web.answers import problem

__all__ = ["HEADERS", "PAGE_POLICY", "Guard"]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LOCKED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>embedstore</title>
<p>This page needs its token. Open the address that <code>embedstore serve</code> printed when it was started.
"""


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
                if scope["path"] == "/" or scope["path"].startswith("/page/"):
                    fields.setdefault("Content-Security-Policy", PAGE_POLICY)
                for name, value in HEADERS.items():
                    fields.setdefault(name, value)
            await send(message)

        if answer := self._let_in(scope, headers):
            await answer(scope, receive, marked)
        elif refused := self._refuse(headers, most):
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
        if not self._has_token(headers):
            return 401, "the token is missing or wrong; send the header 'Authorization: Bearer TOKEN'"
        length = headers.get("content-length", "0")
        if len(length) > 18 or int(length if length.isdecimal() else 0) > most:
            return _too_large(most)
        return None

    def _let_in(self, scope: Scope, headers: Headers) -> Response | None:
        """Answer a browser that opens the page with the token in the address, or without any."""
        if scope["path"] != "/" or self._token is None or not self._is_ours(headers.get("host", "")):
            return None
        given = QueryParams(scope["query_string"]).get("token")
        if given is not None and self._is_token(given):  # out of the address, the history and what is sent to others
            answer = RedirectResponse("/", 303)
            # "strict" would not be sent after a click in a mail or chat; what other sites post is refused by its Origin
            answer.set_cookie(_cookie(headers), quote(given, safe=""), httponly=True, samesite="lax")
            return answer
        if self._has_token(headers):
            return None
        return HTMLResponse(_LOCKED, 401, {"WWW-Authenticate": "Bearer"})

    def _has_token(self, headers: Headers) -> bool:
        """Whether a request brings the token: in a header, or in the cookie of the page, as players can set no header."""
        word, _, given = headers.get("authorization", "").partition(" ")
        kept = unquote(cookie_parser(headers.get("cookie", "")).get(_cookie(headers), ""))
        return (
            self._token is None or (word.lower() == "bearer" and self._is_token(given.strip())) or self._is_token(kept)
        )

    def _is_token(self, given: str) -> bool:
        return self._token is not None and secrets.compare_digest(given.encode("utf-8", "replace"), self._token)

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return name.lower() in self._names
        return True


def _cookie(headers: Headers) -> str:
    """Name the cookie: all ports of a machine share theirs."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"embedstore-{port if port.isdecimal() else 80}"


def _too_large(most: int) -> tuple[int, str]:
    return 413, f"the body of the request is larger than {most:,} bytes"
