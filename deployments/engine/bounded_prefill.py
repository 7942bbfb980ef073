"""Prompts in pieces that leave decoding requests their promise.

It runs in the engine core, where no RPC of ours reaches: what it has to know comes with the
engine's configuration, a request's service class with the request (`vllm_xargs`), and the
fleet's plan by a channel of its own.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from autoscale.prefill_budget import PrefillBounds, PrefillBudget, tightest_s
from deployments.plan_channel import PlanSubscriber
from deployments.prefill import KEY, PrefillSettings
from deployments.seated_requests import CLASS_XARG

_MOST_STEP_S = 5.0  # longer between two steps: the engine was idle


class BoundedPrefill:
    """Before vLLM's scheduler in the order of bases. Requests that decode are scheduled first."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, *args, **kwargs)  # type: ignore[call-arg]
        settings = PrefillSettings(**vllm_config.additional_config[KEY])
        self._tpot_s = settings.tpot_s
        self._prefill = PrefillBudget(PrefillBounds(settings.least, settings.most))
        self._plans = PlanSubscriber.of_this_process()
        self._most_step_tokens: int = self.max_num_scheduled_tokens
        self._last: tuple[float, int] | None = None  # when, and prompt tokens beside decoding

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._learn(time.monotonic())
        self.running.sort(key=lambda request: request.is_prefill_chunk)  # type: ignore[attr-defined]
        decoding = [one for one in self.running if not one.is_prefill_chunk]  # type: ignore[attr-defined]
        decode_tokens = sum(
            one.num_tokens_with_spec + one.num_output_placeholders - one.num_computed_tokens
            for one in decoding
        )
        self.max_num_scheduled_tokens = self._most_step_tokens
        if decoding:
            bounded = decode_tokens + self._prefill.tokens(self._promised_s(decoding))
            self.max_num_scheduled_tokens = min(self._most_step_tokens, bounded)
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        scheduled = output.total_num_scheduled_tokens
        if decoding and scheduled:
            self._last = (time.monotonic(), max(scheduled - decode_tokens, 0))
        return output

    def _learn(self, now_s: float) -> None:
        """A step takes from when it is scheduled to when the next one is."""
        if self._last is None:
            return
        at_s, prefill_tokens = self._last
        self._last = None
        if now_s - at_s < _MOST_STEP_S:
            self._prefill.record(now_s - at_s, prefill_tokens)

    def _promised_s(self, decoding: list[Any]) -> float:
        reading = [one for one in self.running if one.is_prefill_chunk]  # type: ignore[attr-defined]
        reading += islice(self.waiting, 1)  # type: ignore[attr-defined]
        return tightest_s(
            self._tpot_s,
            decoding=map(_class_name, decoding),
            reading=map(_class_name, reading),
            weights=self._plans.current().class_weights,
        )


def _class_name(request: Any) -> str:
    params = request.sampling_params
    extra_args = params.extra_args if params is not None else None
    name: str = (extra_args or {}).get(CLASS_XARG, "")
    return name
