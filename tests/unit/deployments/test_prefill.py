from __future__ import annotations

import math

import pytest

from autoscale.service_class import ServiceClass
from deployments.prefill import with_prefill_control
from deployments.specs import PrefillSpec

PROMISES = {
    "fast": ServiceClass("fast", 1.0, 0.05),
    "any": ServiceClass("any", math.inf, math.inf),
}


def test_without_settings_nothing_changes():
    kwargs = {"max_model_len": 1024}
    assert with_prefill_control(kwargs, None, PROMISES, drafts=True) is kwargs


@pytest.mark.parametrize(
    ("drafts", "scheduler"),
    [(True, "BoundedPrefillScheduler"), (False, "BoundedPrefillAsyncScheduler")],
)
def test_the_scheduler_fits_and_is_told_the_promises(drafts, scheduler):
    kwargs = {"additional_config": {"dspark": {"a": 1}}}
    found = with_prefill_control(kwargs, PrefillSpec(least=16, most=64), PROMISES, drafts=drafts)
    assert found["scheduler_cls"] == f"deployments.engine.prefill_scheduler.{scheduler}"
    assert found["additional_config"] == {
        "dspark": {"a": 1},
        "dspark_prefill": {"least": 16, "most": 64, "tpot_s": {"fast": 0.05}},
    }
    assert kwargs == {"additional_config": {"dspark": {"a": 1}}}
