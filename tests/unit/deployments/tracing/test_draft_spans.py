"""Drafting of traced requests: rounds added up at the target, single ones at the drafter."""

from __future__ import annotations

import torch
from recorded_spans import SAMPLED, UNSAMPLED, Recorded, attributes, ids, parent_id

from autoscale.policies import Verified
from deployments.tracing.draft_spans import DraftSpans, record_step
from drafters.messages import StepBatch, StepRow
from drafters.server import TracedStep


def batch(*request_ids, prompts=()):
    rows = [StepRow(id_, 1, 0, 1, None if id_ in prompts else 7) for id_ in request_ids]
    return StepBatch("t", tuple(rows), torch.zeros(len(rows), 2))


def test_the_rounds_of_a_request_are_added_up():
    recorded = Recorded()
    spans = DraftSpans(recorded.tracing)
    spans.open("a", SAMPLED, None)
    spans.asked(batch("a", prompts="a").rows, 9.0, answered=False)  # not yet drafted for
    spans.asked(batch("a", "b").rows, 0.002, answered=True)
    spans.asked(batch("a").rows, 0.050, answered=False)
    spans.verified([Verified("a", 7, 3), Verified("b", 7, 7)])
    assert recorded.names == []
    spans.close("a")
    assert attributes(recorded.only()) == {
        "dspark.draft.rounds": 2,
        "dspark.draft.answered_rounds": 1,
        "dspark.draft.wait_ms": 52.0,
        "dspark.draft.verified_tokens": 7,
        "dspark.draft.accepted_tokens": 3,
    }
    assert len(spans) == 0
    spans.close("a")
    assert recorded.names == ["drafting"]


def test_a_request_that_is_not_drafted_for_says_why():
    recorded = Recorded()
    spans = DraftSpans(recorded.tracing)
    spans.open("a", SAMPLED, "seed")
    spans.close("a")
    assert attributes(recorded.only())["dspark.draft.without"] == "seed"
    assert attributes(recorded.only())["dspark.draft.rounds"] == 0


def test_untraced_requests_are_not_kept():
    spans = DraftSpans(Recorded().tracing)
    for traceparent in ("", UNSAMPLED, "nonsense"):
        spans.open("a", traceparent, None)
    assert not spans


def test_steps_are_marked_for_the_drafter_in_rounds_that_thin_out():
    spans = DraftSpans(Recorded().tracing)
    spans.open("a", SAMPLED, None)
    marked = []
    for number in range(1, 20):
        step = spans.marked(batch("b", "a"))
        if step.trace:
            marked.append(number)
        spans.asked(step.rows, 0.0, answered=True)
    assert marked == [1, 2, 4, 8, 16]
    untraced = batch("b")
    assert spans.marked(untraced) is untraced
    prompt = batch("a", prompts="a")
    assert spans.marked(prompt) is prompt


def test_the_drafters_span_lies_within_the_targets():
    recorded = Recorded()
    spans = DraftSpans(recorded.tracing)
    spans.open("a", SAMPLED, None)
    trace = spans.marked(batch("a")).trace
    record_step(recorded.tracing, TracedStep(trace, 3, 12, 2, step_s=0.5))
    spans.close("a")
    round_span, drafting = recorded.spans
    assert (round_span.name, parent_id(round_span)) == ("draft round", ids(drafting)[1])
    assert attributes(round_span) == {
        "dspark.draft.requests": 3,
        "dspark.draft.feature_rows": 12,
        "dspark.draft.merged_targets": 2,
    }
    assert round_span.start_time is not None
    assert round_span.end_time is not None
    assert round_span.end_time - round_span.start_time >= 5e8


def test_a_step_that_names_nonsense_is_not_recorded():
    recorded = Recorded()
    record_step(recorded.tracing, TracedStep("x" * 4096, 1, 1, 1, step_s=0.0))
    assert recorded.names == []
