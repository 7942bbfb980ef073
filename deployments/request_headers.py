"""Headers that a request goes on with, in place of whatever its client put there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.requests import Request

from autoscale.fair_queue import Flow

CLASS_HEADER = "x-dspark-class"
TENANT_HEADER = "x-dspark-tenant"
ARRIVED_HEADER = "x-dspark-arrived"  # machine, and seconds of its monotonic clock
INGRESS_HEADER = "x-dspark-ingress"  # the replica that reads the answer
ELSEWHERE_HEADER = "x-dspark-elsewhere"  # "1": who refuses it is not the last one asked
REFUSED_BY_HEADER = "x-dspark-refused-by"  # the replica that was asked before
UNSEEN_HEADER = "x-dspark-unseen"  # requests that were refused before this one, see `PoolView`
WAITED_HEADER = "x-dspark-waited"  # seconds in the ingress, by its own clock

TOLD_HEADERS = (
    INGRESS_HEADER,
    ELSEWHERE_HEADER,
    REFUSED_BY_HEADER,
    UNSEEN_HEADER,
    WAITED_HEADER,
)
"""What the ingress tells a target with each call."""

RawHeaders = list[tuple[bytes, bytes]]


def asker(headers: Mapping[str, str]) -> Flow:
    """In whose line a request waits, once its caller is known."""
    return Flow(headers.get(CLASS_HEADER, ""), headers.get(TENANT_HEADER, ""))


def overwritten(
    headers: Iterable[tuple[bytes, bytes]], ours: Mapping[str, str], *, without: Iterable[str] = ()
) -> RawHeaders:
    """`headers` as ASGI has them, with `ours` in place of theirs, and none of `without`."""
    names = {name.encode() for name in (*ours, *without)}
    kept = [pair for pair in headers if pair[0].lower() not in names]
    return kept + [(name.encode(), value.encode()) for name, value in ours.items()]


def with_headers(request: Request, ours: Mapping[str, str]) -> Request:
    """The same request, with headers of ours."""
    headers = overwritten(request.scope["headers"], ours)
    return Request({**request.scope, "headers": headers}, request.receive)
