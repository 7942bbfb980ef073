"""Strip vLLM's placeholder drafts from a step before it runs.

When a request with a single prompt token left joins running decodes, vLLM 0.29 pads it
with draft tokens of -1 to keep the batch uniform. On CPU its rejection kernel has no
check for negative ids and reads another row's probability, so the padding would decide
whether it is accepted. Without the padding the request simply samples one token from
its own distribution. The engine's scheduler keeps its copy: it sees K drafts and one
committed token, hence K rejections, and its counts come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np


def padded_requests(scheduled_drafts: Mapping[str, list[int]]) -> list[str]:
    """Requests whose scheduled drafts are placeholders (vLLM pads all of them or none)."""
    return [
        request_id for request_id, drafts in scheduled_drafts.items() if drafts and drafts[0] < 0
    ]


def strip_placeholders(scheduler_output: Any) -> Any:
    """The same `SchedulerOutput` when nothing is padded, else a copy without the padding."""
    drafts = scheduler_output.scheduled_spec_decode_tokens
    padded = padded_requests(drafts)
    if not padded:
        return scheduler_output
    scheduled = dict(scheduler_output.num_scheduled_tokens)
    for request_id in padded:
        scheduled[request_id] -= len(drafts[request_id])
    return replace(
        scheduler_output,
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        scheduled_spec_decode_tokens={k: v for k, v in drafts.items() if k not in padded},
    )


def strip_bitmask(grammar_output: Any, scheduled_drafts: Mapping[str, list[int]]) -> Any:
    """Drop the grammar's bitmask rows for placeholders.

    The scheduler made `1 + number of drafts` rows per structured request, counting the
    placeholders in `scheduled_drafts`, the drafts as it scheduled them.
    """
    keep: list[int] = []
    row = 0
    for request_id in grammar_output.structured_output_request_ids:
        drafts = scheduled_drafts.get(request_id, [])
        real = [token for token in drafts if token >= 0]
        keep.extend(range(row, row + 1 + len(real)))
        row += 1 + len(drafts)
    return replace(grammar_output, grammar_bitmask=grammar_output.grammar_bitmask[np.array(keep)])
