"""Requests that are not let in, whatever room there is, and how many of them by why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from starlette.responses import JSONResponse

from deployments.openai_errors import error_response

DENIED: Counter[str] = Counter()
"""Requests that this process did not let in, by why. A revoked key is an unknown one."""


def denied(
    reason: str, status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to such a request, which is counted."""
    DENIED[reason] += 1
    return error_response(status, message, headers)
