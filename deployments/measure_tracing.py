"""`dspark measure --tracing`: what tracing takes of a request, on all threads together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import torch
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from starlette.types import ASGIApp, Receive, Scope, Send

from autoscale.policies import Verified
from deployments.tracing.draft_spans import DraftSpans, record_step
from deployments.tracing.otel import OtelTracing
from deployments.tracing.span import Tracing, span_of
from deployments.tracing.traced_requests import TraceRequests
from drafters.messages import StepBatch, StepRow
from drafters.server import TracedStep

ROUNDS = 40  # of drafting, in a request
ROUND_S = 0.020  # of the demo on a quiet machine (README, "Measured"); shorter ones weigh more
_BLOCK = 200  # requests, before whatever was recorded of them is encoded


class _Encoding(SpanExporter):
    """Makes of spans what the collector would be sent, and sends nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


class _Served:
    """All that ingress, target, worker and drafter say of a request, and nothing else of it."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._step = StepBatch("t", (StepRow("r", 1, 0, 1, 1),), torch.empty(1, 1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with (
            span_of(scope).child("target attempt", {}, "client") as attempt,
            self._tracing.continued("target", attempt.traceparent) as target,
        ):
            target.note({"dspark.replica": "r", "dspark.class": "c"})
            target.child("admission wait").end()
            if target.traceparent:
                self._draft(target.traceparent)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"."})

    def _draft(self, traceparent: str) -> None:
        spans = DraftSpans(self._tracing)
        spans.open("r", traceparent, None)
        for _ in range(ROUNDS):
            step = spans.marked(self._step)
            if step.trace:
                record_step(self._tracing, TracedStep(step.trace, 1, 1, 1, 0.0))
            spans.asked(step.rows, 0.0, answered=True)
            spans.verified([Verified("r", 7, 3)])
        spans.close("r")


def measure_tracing(repeats: int) -> str:
    """Processor time per request: of one that is not sampled, and of one that is."""
    batches = BatchSpanProcessor(_Encoding())
    tracing = OtelTracing("dspark-measure", batches)
    plain = _Served(Tracing())
    traced = (TraceRequests(_Served(tracing), lambda: tracing, share) for share in (0.0, 1.0))
    arms: list[ASGIApp] = [plain, *traced]
    seconds = [0.0, 0.0, 0.0]
    for turn in range(repeats + 1):  # in turns: clock rates move; the first one warms up
        for i, arm in enumerate(arms):
            began_s = time.process_time()
            asyncio.run(_block(arm))
            batches.force_flush()
            seconds[i] += (time.process_time() - began_s) * (turn > 0)
    batches.shutdown()  # type: ignore[no-untyped-call]
    plain_us, unsampled_us, sampled_us = (1e6 * s / (repeats * _BLOCK) for s in seconds)
    return (
        "tracing, processor time per request of "
        f"{ROUNDS} draft rounds, and its share of as many rounds of {1000 * ROUND_S:.0f} ms: "
        f"not sampled {_cost(unsampled_us - plain_us)}; "
        f"sampled, encoded and not sent {_cost(sampled_us - plain_us)}"
    )


def _cost(us: float) -> str:
    return f"{us:.1f} us, {us / (1e6 * ROUNDS * ROUND_S):.4%}"


async def _block(application: ASGIApp) -> None:
    async def receive() -> Any:
        return {}

    async def send(message: Any) -> None:
        del message

    for _ in range(_BLOCK):
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        await application(scope, receive, send)
