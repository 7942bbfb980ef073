"""Spans recorded by OpenTelemetry's SDK, and exported by a thread of its own.

Requests never wait for an export: ended spans go into a bounded queue, whose oldest are dropped
when it is full. A process that ends takes its last second of spans with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace import Span as RecordedSpan

from deployments.tracing.span import NOTHING, Attributes, Kind, Span, Tracing
from deployments.tracing.spec import EXPORT_EVERY_MS, EXPORT_TIMEOUT_S, TracingSpec
from deployments.tracing.traceparent import TraceParent

MAX_QUEUED_SPANS = 2048
MAX_EXPORTED_SPANS = 512  # in one request to the collector

# Who speaks where spans cannot be exported: exporters, ours and vLLM's, and their queues.
EXPORT_LOGGERS = (OTLPSpanExporter.__module__, "opentelemetry.sdk._shared_internal")
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}


class OtelSpan(Span):
    """A span that is recorded. It begins by the wall clock and lasts by one that does not jump."""

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        context: Context,
        kind: SpanKind,
        attributes: Attributes,
        ago_s: float = 0.0,
    ) -> None:
        ago_ns = round(ago_s * 1e9)
        self._tracer = tracer
        self._start_ns = time.time_ns() - ago_ns
        self._steady_start_ns = time.monotonic_ns() - ago_ns
        self._span: RecordedSpan = tracer.start_span(
            name, context, kind, attributes, start_time=self._start_ns
        )

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        ids = format_trace_id(context.trace_id), format_span_id(context.span_id)
        return str(TraceParent(*ids, is_sampled=True))

    def child(self, name: str, attributes: Attributes = NOTHING, kind: Kind = "internal") -> Span:
        within = set_span_in_context(self._span, Context())
        return OtelSpan(self._tracer, name, within, _KINDS[kind], attributes)

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str) -> None:
        self._span.add_event(name)

    def fail(self, reason: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        self._span.end(self._start_ns + time.monotonic_ns() - self._steady_start_ns)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if isinstance(error, GeneratorExit | asyncio.CancelledError):
            self.note({"dspark.cancelled": True})
        elif error is not None:
            self.fail(type(error).__name__)
        self.end()


class OtelTracing(Tracing):
    """Spans of one process, handed to `processor` as they end."""

    def __init__(self, service: str, processor: SpanProcessor) -> None:
        resource = Resource.create(
            {
                "service.name": service,
                "host.name": socket.gethostname(),
                "process.pid": os.getpid(),
            }
        )
        # Not at exit, which would wait for an endpoint that is not there.
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("dspark")

    def begin(
        self,
        name: str,
        parent: TraceParent | None,
        attributes: Attributes = NOTHING,
        kind: Kind = "server",
        *,
        ago_s: float = 0.0,
    ) -> Span:
        return OtelSpan(self._tracer, name, _within(parent), _KINDS[kind], attributes, ago_s)


def _within(parent: TraceParent | None) -> Context:
    if parent is None:
        return Context()
    remote = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def exporting(spec: TracingSpec) -> SpanProcessor:
    """To the collector of `spec`, in batches. Where it does not answer, that is logged once."""
    lost = f"spans are dropped while {spec.traces_url} (tracing.endpoint) does not take them"
    for name in EXPORT_LOGGERS:
        logging.getLogger(name).addFilter(SaidOnce(lost))
    return BatchSpanProcessor(
        OTLPSpanExporter(endpoint=spec.traces_url, timeout=EXPORT_TIMEOUT_S),
        max_queue_size=MAX_QUEUED_SPANS,
        schedule_delay_millis=EXPORT_EVERY_MS,
        max_export_batch_size=MAX_EXPORTED_SPANS,
    )


class SaidOnce(logging.Filter):
    """Lets a logger's first record pass, behind `text`, and nothing after it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self._is_said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if self._is_said:
            return False
        self._is_said = True
        record.msg, record.args = f"{self._text}: {record.getMessage()}", ()
        return True
