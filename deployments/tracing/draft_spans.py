"""What a trace shows of drafting: a span of each request in the target's worker, with its rounds
added up, and spans of single rounds in the drafter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deployments.tracing.span import Attributes, Span, Tracing
from deployments.tracing.traceparent import is_traced_round
from drafters.messages import StepBatch, StepRow
from drafters.server import TracedStep


@dataclass(slots=True)
class _Drafting:
    """Of one request: rounds asked for and answered, what they waited, and what came of them."""

    span: Span
    rounds: int = 0
    answered: int = 0
    wait_s: float = 0.0
    verified_tokens: int = 0
    accepted_tokens: int = 0

    def totals(self) -> Attributes:
        return {
            "dspark.draft.rounds": self.rounds,
            "dspark.draft.answered_rounds": self.answered,
            "dspark.draft.wait_ms": round(1000 * self.wait_s, 3),
            "dspark.draft.verified_tokens": self.verified_tokens,
            "dspark.draft.accepted_tokens": self.accepted_tokens,
        }


class DraftSpans:
    """Of the requests of an engine that are traced; its length is their number now."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: dict[str, _Drafting] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, request_id: str, traceparent: str, ineligible: str | None) -> None:
        """A request arrived; `ineligible` is why it is never drafted for."""
        span = self._tracing.continued("drafting", traceparent, kind="client")
        if not span.traceparent:
            return
        if ineligible is not None:
            span.note({"dspark.draft.without": ineligible})
        self._open[request_id] = _Drafting(span)

    def marked(self, batch: StepBatch) -> StepBatch:
        """The step as it is sent: within the trace of a request whose round is to be recorded."""
        for row in batch.rows:
            drafting = self._open.get(row.request_id) if row.anchor is not None else None
            if drafting is not None and is_traced_round(drafting.rounds + 1):
                return replace(batch, trace=drafting.span.traceparent)
        return batch

    def asked(self, rows: Sequence[StepRow], wait_s: float, *, answered: bool) -> None:
        """A step's drafts were waited for."""
        for row in rows:
            drafting = self._open.get(row.request_id) if row.anchor is not None else None
            if drafting is not None:
                drafting.rounds += 1
                drafting.answered += answered
                drafting.wait_s += wait_s

    def verified(self, drafts: Iterable[tuple[str, int, int]]) -> None:
        """Drafts were verified."""
        for request_id, num_drafts, num_accepted in drafts:
            drafting = self._open.get(request_id)
            if drafting is not None:
                drafting.verified_tokens += num_drafts
                drafting.accepted_tokens += num_accepted

    def close(self, request_id: str) -> None:
        """A request ended."""
        drafting = self._open.pop(request_id, None)
        if drafting is not None:
            drafting.span.note(drafting.totals())
            drafting.span.end()


def record_step(tracing: Tracing, step: TracedStep) -> None:
    """A step that a drafter has just answered, whole: other requests may share it."""
    attributes = {
        "dspark.draft.requests": step.num_drafts,
        "dspark.draft.feature_rows": step.num_rows,
        "dspark.draft.merged_targets": step.num_merged,
    }
    tracing.continued("draft round", step.trace, attributes, ago_s=step.step_s).end()
