"""vLLM's schedulers, which read prompts in pieces: `scheduler_cls` names one of them."""

from __future__ import annotations

from deployments.engine.bounded_prefill import BoundedPrefill
from deployments.engine.said import ResumingAsyncScheduler, ResumingScheduler


class BoundedPrefillScheduler(BoundedPrefill, ResumingScheduler):
    """Where we draft: vLLM schedules step by step."""


class BoundedPrefillAsyncScheduler(BoundedPrefill, ResumingAsyncScheduler):
    """Where nobody drafts, and vLLM schedules ahead."""
