"""Errors in the shape that OpenAI's clients expect."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

_KINDS = {
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
}


def error_kind(status: int) -> str:
    return _KINDS.get(status, "InternalServerError" if status >= 500 else "BadRequestError")


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body = {"message": message, "type": error_kind(status), "param": None, "code": status}
    return JSONResponse({"error": body}, status, headers=headers)
