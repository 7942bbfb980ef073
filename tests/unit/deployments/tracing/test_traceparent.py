"""Which requests are traced, and which of their draft rounds."""

from __future__ import annotations

import pytest
from recorded_spans import CLIENT_SPAN, SAMPLED, TRACE_ID, UNSAMPLED

from deployments.tracing.traceparent import TraceParent, is_sampled, is_traced_round


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (SAMPLED, True),
        (UNSAMPLED, False),
        (f"00-{TRACE_ID}-{CLIENT_SPAN}-03", True),  # flags of a later version beside it
        (f"01-{TRACE_ID}-{CLIENT_SPAN}-01-more", True),
    ],
)
def test_a_traceparent_is_read(text, sampled):
    assert TraceParent.parse(text) == TraceParent(TRACE_ID, CLIENT_SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        f"ff-{TRACE_ID}-{CLIENT_SPAN}-01",
        f"00-{'0' * 32}-{CLIENT_SPAN}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{CLIENT_SPAN}-01",
        f"00-{TRACE_ID}-{CLIENT_SPAN}",
        f"{SAMPLED}\n",
        f" {SAMPLED}",
    ],
)
def test_what_is_none_is_nobodys(text):
    assert TraceParent.parse(text) is None


def test_it_is_written_as_it_is_read():
    assert str(TraceParent(TRACE_ID, CLIENT_SPAN, True)) == SAMPLED
    assert str(TraceParent(TRACE_ID, CLIENT_SPAN, False)) == UNSAMPLED


def test_a_client_that_traces_decides_and_the_share_does_for_others():
    assert is_sampled(TraceParent.parse(SAMPLED), sample=0, draw=0.99)
    assert not is_sampled(TraceParent.parse(UNSAMPLED), sample=1, draw=0)
    assert is_sampled(None, sample=0.25, draw=0.249)
    assert not is_sampled(None, sample=0.25, draw=0.25)
    assert not is_sampled(None, sample=0, draw=0)


def test_rounds_that_are_recorded_thin_out():
    assert [n for n in range(1, 1000) if is_traced_round(n)] == [2**k for k in range(10)]
