"""The span of a request at the ingress, as clients and the application see it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from recorded_spans import (
    CLIENT_SPAN,
    SAMPLED,
    TRACE_ID,
    UNSAMPLED,
    Recorded,
    attributes,
    ids,
    parent_id,
)
from starlette.requests import Request

from deployments.request_headers import CLASS_HEADER, TENANT_HEADER
from deployments.request_log import RequestLog
from deployments.tracing.span import UNTRACED, span_of
from deployments.tracing.traced_requests import TraceRequests, carrying

OURS = {TENANT_HEADER: "acme", CLASS_HEADER: "batch"}
SECRET = "prompt that nobody may read"


class Application:
    """Answers in two chunks, and breaks between them where `breaks`."""

    def __init__(self, status: int = 200, breaks: bool = False) -> None:
        self.status, self.breaks = status, breaks
        self.scope: Any = None

    async def __call__(self, scope, receive, send):
        self.scope = scope
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"answer", "more_body": True})
        if self.breaks:
            raise ConnectionError(SECRET)
        await send({"type": "http.response.body", "body": b"!"})


def ask(application, *, sample=1.0, draw=0.5, path="/v1/completions", **headers):
    """What was recorded of a request, and the lines that were logged."""
    recorded, lines = Recorded(), []
    app = TraceRequests(
        RequestLog(application, lines.append), lambda: recorded.tracing, sample, lambda: draw
    )

    async def run():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            sent = OURS | {"x-request-id": "r-7"} | headers
            await http.post(path, content=SECRET, headers=sent)

    asyncio.run(run())
    return recorded, lines


def test_a_span_says_who_asked_and_what_became_of_it_and_not_what_was_said():
    recorded, (line,) = ask(Application(), traceparent=SAMPLED)
    span = recorded.only()
    assert (span.name, ids(span)[0], parent_id(span)) == (
        "POST /v1/completions",
        TRACE_ID,
        CLIENT_SPAN,
    )
    assert attributes(span) == {
        "http.request.method": "POST",
        "url.path": "/v1/completions",
        "http.response.status_code": 200,
        "dspark.tenant": "acme",
        "dspark.class": "batch",
        "dspark.request_id": "r-7",
        "dspark.is_whole": True,
    }
    assert [event.name for event in span.events] == ["first byte"]
    assert SECRET not in span.to_json()
    assert line["trace_id"] == TRACE_ID


def test_a_request_that_is_not_sampled_passes_as_it_came():
    application = Application()
    recorded, (line,) = ask(application, traceparent=UNSAMPLED)
    assert recorded.names == []
    assert span_of(application.scope) is UNTRACED
    assert (b"traceparent", UNSAMPLED.encode()) in application.scope["headers"]
    assert "trace_id" not in line


@pytest.mark.parametrize(("draw", "traced"), [(0.24, 1), (0.25, 0)])
def test_a_share_is_traced_of_requests_whose_client_does_not_say(draw, traced):
    recorded, _ = ask(Application(), sample=0.25, draw=draw)
    assert len(recorded.spans) == traced


def test_what_is_no_request_to_a_model_is_not_traced():
    recorded, _ = ask(Application(), path="/fleet", traceparent=SAMPLED)
    assert recorded.names == []


def test_a_stream_that_breaks_is_not_whole():
    recorded, _ = ask(Application(breaks=True))
    span = recorded.only()
    assert span.status.description == "ConnectionError"
    assert "dspark.is_whole" not in attributes(span)
    assert SECRET not in span.to_json()


def test_an_answer_of_ours_that_failed_is_a_failed_span():
    recorded, _ = ask(Application(status=503))
    assert recorded.only().status.description == "503"
    recorded, _ = ask(Application(status=429))
    assert recorded.only().status.status_code.name == "UNSET"


def test_what_goes_on_to_a_target_names_the_attempt():
    scope = {"type": "http", "headers": [(b"traceparent", SAMPLED.encode()), (b"x-a", b"1")]}
    request, attempt = Request(scope), Recorded().tracing.begin("attempt", None)
    within = carrying(request, attempt)
    assert dict(within.headers) == {"x-a": "1", "traceparent": attempt.traceparent}
    assert request.headers["traceparent"] == SAMPLED
    assert carrying(request, UNTRACED) is request
