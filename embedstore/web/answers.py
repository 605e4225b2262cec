"""Answers in JSON, errors in one shape, and the description of both."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from embedstore.errors import AudioError, EmbedstoreError, ParameterError, TrackNotFoundError, UnknownNameError

__all__ = ["Answer", "explain", "plain", "problem"]

_CODES = {TrackNotFoundError: 404, UnknownNameError: 404, ParameterError: 400, AudioError: 422}
_UNDECODABLE = re.compile("[\ud800-\udfff]")  # a byte of a file name that is no UTF-8


class Answer(Response):
    """Dataclasses, arrays and plain data as JSON that every parser reads."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write it."""
        text = json.dumps(content, default=_fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return _UNDECODABLE.sub("\ufffd", text).encode()


def plain(content: Any) -> Any:
    """Give what a reader of the JSON has."""
    return json.loads(bytes(Answer(content).body))


def _fields(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return dict(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value.tolist()


def problem(code: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Make the one shape of an error."""
    return Answer({"error": {"type": kind.replace(" ", ""), "message": message}}, code, headers)


def explain(_request: Request, error: Exception) -> Response:
    """Say what went wrong: what was asked (4xx), what is not to be had now (503), or a fault of ours (500)."""
    match error:
        case HTTPException(status_code=code, detail=why):
            said = HTTPStatus(code).phrase
            return problem(code, said, said.lower() if why == said else why, error.headers)
        case RequestValidationError():
            return problem(422, "ValidationError", "; ".join(map(_fault, error.errors()[:3])))
        case EmbedstoreError():
            code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), 503)
            return problem(code, type(error).__name__, str(error))
        case OSError() | MemoryError():
            return problem(503, type(error).__name__, str(error) or "out of memory")
        case ClientDisconnect():
            return Response(status_code=400)  # nobody reads it
    return problem(500, "InternalError", "a fault of the service; its log says more")


def _fault(one: Mapping[str, Any]) -> str:
    where = ".".join(map(str, one["loc"]))
    return f"{where}: {one['msg'].removeprefix('Value error, ')}"
