"""One JSON shape for every refusal and failure of the server: {"error": {"code", "message", "field"}}."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from hero.errors import HeroError

__all__ = ["ApiError", "ErrorAnswer", "error_response", "install_handlers", "unexpected"]

_log = logging.getLogger("hero.web")

_BY_STATUS = {
    400: ("bad-request", "The request cannot be read; send one JSON object."),
    404: ("not-found", "There is nothing at this address; docs/api.md lists the addresses."),
    405: ("method-not-allowed", "This address does not take that method; see the Allow header."),
}


class ErrorDetail(BaseModel):
    """What went wrong: a code for programs, a sentence for people, and the field at fault if there is one."""

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer with status 4xx or 5xx."""

    error: ErrorDetail


class ApiError(HTTPException):
    """A refusal: nothing was stored.

    Args:
        status: 4xx, or 503 where the same request may succeed later.
        code: kebab-case, part of the API.
        message: one sentence that says what to do.
        field: path of the field at fault, such as "marks.3.image_id".
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.message = message
        self.field = field


def error_response(error: ApiError) -> Response:
    """`error` as an answer."""
    detail = {"code": error.code, "message": error.message, "field": error.field}
    return JSONResponse({"error": detail}, error.status_code, error.headers)


def unexpected(error: BaseException, path: str) -> Response:
    """The answer to an unexpected failure: its traceback goes to the log, not to the page."""
    _log.error("%s failed", path, exc_info=error)
    message = "The server failed to do this; its log says more. Everything acknowledged before is stored."
    return error_response(ApiError(500, "internal-error", message))


def install_handlers(app: FastAPI) -> None:
    """Has `app` answer every error in the one shape."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HeroError, _hero)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, ApiError):
        return error_response(error)
    code, message = _BY_STATUS.get(error.status_code, ("refused", str(error.detail)))
    return error_response(ApiError(error.status_code, code, message, headers=error.headers))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = error.errors()[0]
    where = _path(first["loc"])
    message = f"{where or 'The request'}: {_printable(str(first['msg']))}. Nothing was stored."
    return error_response(ApiError(422, "invalid-request", message, where))


async def _hero(_request: Request, error: Exception) -> Response:
    """The store cannot be reached or written: the same request may succeed later."""
    _log.error("%s", error)
    return error_response(ApiError(503, "store-unavailable", str(error)))


def _path(location: Sequence[int | str]) -> str | None:
    """Where in the body, path or query the fault lies; keys that a client made up are cut short."""
    names = [_printable(str(part))[:40] for part in location[1:]]
    return ".".join(names)[:120] or None


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")[:300]
