"""Every request of a target runs on a seat: from its body to a seat, and out again."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from typing import Any

from autoscale.request_cost import RequestCost
from deployments.callers import age_s, machine
from deployments.class_specs import NO_ONE
from deployments.refusal import TryLater
from deployments.replica_gate import RefusedError, ReplicaGate, Seat
from deployments.request_headers import (
    CLASS_HEADER,
    ELSEWHERE_HEADER,
    INGRESS_HEADER,
    TENANT_HEADER,
    UNSEEN_HEADER,
)
from deployments.request_size import has_one_prompt, request_size
from deployments.resumption import RESUME
from deployments.tracing.span import UNTRACED, Span
from deployments.tracing.traceparent import TRACE_XARG

CLASS_XARG = "dspark_class"  # of a request's vllm_xargs: for the engine's scheduler
UNSEATED = ("tokenize", "detokenize")  # methods that never reach the engine

SEAT: ContextVar[Seat | None] = ContextVar("seat", default=None)
"""Of the request that runs in this context, for whoever sees its tokens."""


async def seated(
    gate: ReplicaGate,
    request: Any,
    headers: Mapping[str, str],
    *,
    replica_id: str,
    most_tokens: int,
    run: Callable[[], Awaitable[AsyncGenerator[Any, None]]],
    trace: Span = UNTRACED,
) -> AsyncGenerator[Any, None]:
    """What `run` answers, once the request has a seat; one `TryLater` where it gets none.

    `most_tokens` is what an output comes to at most. `replica_id` says who refuses. `trace`
    ends with the request.
    """
    size = request_size(request)
    class_name = gate.known_class(headers.get(CLASS_HEADER))
    continues = RESUME in (getattr(request, "vllm_xargs", None) or {})
    if hasattr(request, "vllm_xargs"):
        request.vllm_xargs = _xargs(request.vllm_xargs or {}, class_name, trace)
    cost = RequestCost(
        size.prompt_tokens(gate.costs.prompt_tokens),
        gate.costs.output_tokens(class_name, size.output_tokens(most_tokens)),
        size.num_sequences,
    )
    tenant = headers.get(TENANT_HEADER, NO_ONE)
    age = age_s(headers, time.monotonic(), machine())
    trace.note({"dspark.replica": replica_id, "dspark.class": class_name})
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(trace)
            stack.enter_context(gate.readers.reading(headers.get(INGRESS_HEADER, "")))
            with trace.child("admission wait"):
                seat = await stack.enter_async_context(
                    gate.seat(
                        class_name,
                        tenant,
                        cost,
                        age_s=age,
                        continues=continues,
                        goes_elsewhere=headers.get(ELSEWHERE_HEADER) == "1",
                        num_unseen=int(headers.get(UNSEEN_HEADER, 0)),
                    )
                )
            stack.callback(_note_end, trace, seat)
            SEAT.set(seat)
            failed = False
            async with aclosing(await run()) as answers:
                async for answer in answers:
                    failed |= _is_error(answer)
                    yield answer
            seat.is_whole = not failed
            if seat.prompt_tokens is not None and size.num_chars and has_one_prompt(request):
                gate.costs.record_prompt(size.num_chars, seat.prompt_tokens)
    except RefusedError as refused:
        reason, retry_after_s, work_s, scope = refused.refusal
        yield TryLater(reason, retry_after_s, replica_id, work_s, scope)


def _xargs(given: Mapping[str, Any], class_name: str, trace: Span) -> dict[str, Any]:
    """What the engine is told beside the request; of ours, whatever a client put there is gone."""
    xargs = {**given, CLASS_XARG: class_name}
    xargs.pop(TRACE_XARG, None)
    return xargs | ({TRACE_XARG: trace.traceparent} if trace.traceparent else {})


def _note_end(trace: Span, seat: Seat) -> None:
    trace.note(
        {
            "gen_ai.usage.input_tokens": seat.prompt_tokens or 0,
            "gen_ai.usage.output_tokens": seat.ticket.output_tokens,
            "dspark.is_whole": seat.is_whole,
        }
    )


def _is_error(answer: Any) -> bool:
    """Whether the engine refused the request; streams come as lists of chunks."""
    first = answer[0] if isinstance(answer, list) and answer else answer
    return isinstance(first, TryLater) or getattr(first, "error", None) is not None
