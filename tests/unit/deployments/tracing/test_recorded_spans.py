"""What is recorded, exported, and lost without anybody waiting for it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time

import pytest
from recorded_spans import CLIENT_SPAN, SAMPLED, TRACE_ID, UNSAMPLED, Recorded, ids, parent_id

from deployments.tracing.otel import (
    EXPORT_LOGGERS,
    MAX_QUEUED_SPANS,
    OtelTracing,
    SaidOnce,
    exporting,
)
from deployments.tracing.span import UNTRACED, Tracing
from deployments.tracing.spec import TracingSpec
from deployments.tracing.start import tracing_of
from deployments.tracing.traceparent import TraceParent

NOWHERE = TracingSpec(endpoint="http://127.0.0.1:9")


def test_spans_of_three_processes_are_one_trace():
    recorded = Recorded()
    with (
        recorded.tracing.begin("ingress", TraceParent.parse(SAMPLED)) as ingress,
        ingress.child("attempt", {"n": 1}, "client") as attempt,
        recorded.tracing.continued("target", attempt.traceparent) as target,
    ):
        assert target.trace_id == TRACE_ID
    target_span, attempt_span, ingress_span = recorded.spans
    assert recorded.names == ["target", "attempt", "ingress"]
    assert {ids(span)[0] for span in recorded.spans} == {TRACE_ID}
    assert parent_id(ingress_span) == CLIENT_SPAN
    assert parent_id(attempt_span) == ids(ingress_span)[1]
    assert parent_id(target_span) == ids(attempt_span)[1]
    assert [span.kind.name for span in recorded.spans] == ["SERVER", "CLIENT", "SERVER"]


def test_without_a_client_that_traces_a_trace_begins():
    recorded = Recorded()
    recorded.tracing.begin("ingress", None).end()
    assert parent_id(recorded.only()) is None
    assert ids(recorded.only())[0] != TRACE_ID


@pytest.mark.parametrize("traceparent", [None, "", UNSAMPLED, "nonsense"])
def test_what_the_ingress_did_not_sample_is_recorded_nowhere_else(traceparent):
    recorded = Recorded()
    span = recorded.tracing.continued("target", traceparent)
    assert span is UNTRACED
    assert recorded.names == []


def test_a_span_may_have_begun_before():
    recorded = Recorded()
    recorded.tracing.continued("round", SAMPLED, ago_s=2.0).end()
    span = recorded.only()
    assert span.start_time is not None
    assert span.end_time is not None
    assert 2.0 <= (span.end_time - span.start_time) / 1e9 < 3.0


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_clock_that_jumps_makes_no_span_longer_or_shorter(monkeypatch, jump_s):
    recorded = Recorded()
    now_ns = time.time_ns()
    with recorded.tracing.begin("a", None) as parent, parent.child("b"):
        for name in ("time.time_ns", "opentelemetry.sdk.trace.time_ns"):
            monkeypatch.setattr(name, lambda: now_ns + jump_s * 10**9)
    assert recorded.names == ["b", "a"]
    for span in recorded.spans:
        assert span.start_time is not None
        assert span.end_time is not None
        assert 0 <= (span.end_time - span.start_time) / 1e9 < 60


def test_an_exception_is_known_by_its_class_and_not_by_what_it_says():
    recorded = Recorded()
    with pytest.raises(ValueError, match="quoted"), recorded.tracing.begin("a", None):
        raise ValueError("a prompt is quoted here")
    span = recorded.only()
    assert (span.status.status_code.name, span.status.description) == ("ERROR", "ValueError")
    assert list(span.events) == []


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit])
def test_who_leaves_is_no_error(error):
    recorded = Recorded()
    with pytest.raises(error), recorded.tracing.begin("a", None):
        raise error
    span = recorded.only()
    assert dict(span.attributes or {}) == {"dspark.cancelled": True}
    assert span.status.status_code.name == "UNSET"


def test_nothing_is_done_where_nothing_is_traced():
    off = tracing_of(None, "test")
    assert type(off) is Tracing
    with off.begin("a", TraceParent.parse(SAMPLED)) as span:
        assert span is off.continued("b", SAMPLED) is span.child("c") is UNTRACED
        span.note({"k": 1})
        span.event("e")
        span.fail("f")
    assert (span.traceparent, span.trace_id) == ("", "")


def test_opentelemetry_is_imported_only_where_it_is_asked_for():
    script = (
        "import sys\n"
        "from deployments.tracing.start import tracing_of\n"
        "from deployments.tracing import draft_spans, traced_requests\n"
        "tracing_of(None, 'test')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_endpoint_that_is_not_there_is_said_once(caplog):
    processor = exporting(NOWHERE)
    try:
        tracing = OtelTracing("test", processor)
        for _ in range(MAX_QUEUED_SPANS + 100):
            tracing.begin("a", None).end()
        processor.shutdown()
        said = [r.getMessage() for r in caplog.records if r.name in EXPORT_LOGGERS]
        about_the_endpoint = [text for text in said if "http://127.0.0.1:9/v1/traces" in text]
        assert len(about_the_endpoint) == len(said) <= len(EXPORT_LOGGERS)
        assert "tracing.endpoint" in said[0]
    finally:
        for name in EXPORT_LOGGERS:
            logger = logging.getLogger(name)
            for one in [f for f in logger.filters if isinstance(f, SaidOnce)]:
                logger.removeFilter(one)
