"""Prompt tokens beside decoding requests, as settings and as vLLM's engine takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoscale.service_class import ServiceClass
from deployments.specs import PrefillSpec

KEY = "dspark_prefill"  # in vLLM's `additional_config`
_SCHEDULING = "deployments.engine.prefill_scheduler"


@dataclass(frozen=True, slots=True)
class PrefillSettings:
    """Plain values, for the scheduler in the engine core. `tpot_s` is promised, by class."""

    least: int
    most: int
    tpot_s: dict[str, float]


def with_prefill_control(
    engine_kwargs: dict[str, Any],
    spec: PrefillSpec | None,
    promises: Mapping[str, ServiceClass],
    *,
    drafts: bool,
) -> dict[str, Any]:
    """`engine_kwargs` with our scheduler, unchanged without a `spec`.

    Where our adapter `drafts` vLLM schedules step by step, elsewhere a step ahead.
    """
    if spec is None:
        return engine_kwargs
    tpot_s = {one.name: one.tpot_s for one in promises.values() if not math.isinf(one.tpot_s)}
    settings = asdict(PrefillSettings(spec.least, spec.most, tpot_s))
    scheduler = "BoundedPrefillScheduler" if drafts else "BoundedPrefillAsyncScheduler"
    return engine_kwargs | {
        "scheduler_cls": f"{_SCHEDULING}.{scheduler}",
        "additional_config": engine_kwargs.get("additional_config", {}) | {KEY: settings},
    }
