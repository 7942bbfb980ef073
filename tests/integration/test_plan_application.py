"""A plan in a live worker: what can be followed is, from the next step on; the rest is counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from vllm import SamplingParams

from autoscale.draft_experience import DraftExperience
from autoscale.fleet_step_cost import StepCostReport
from autoscale.plan import ReplicaPlan
from autoscale.step_cost import StepCostTable
from deployments.engine.worker_plan import WorkerPlan
from drafters.sources import ColocatedDraftSource
from tests.integration.engines import draft_engine, draft_from, runner_of

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
TABLE = StepCostTable((1, 8, 64), (0.010, 0.012, 0.040))


def apply(engine: Any, **plan: Any) -> bool:
    (adopted,) = engine.collective_rpc("dspark_apply_plan", args=(WorkerPlan(**plan).to_plain(),))
    return bool(adopted)


@pytest.fixture
def adapter(speculative: Any) -> Any:
    made = draft_from(speculative, ColocatedDraftSource(draft_engine()))
    yield made
    apply(speculative)  # back to the settings


def generate(engine: Any) -> list[int]:
    (result,) = engine.generate(["The sum of 2 and 2 is"], GREEDY, use_tqdm=False)
    return list(result.outputs[0].token_ids)


def test_advice_changes_no_token_and_nonsense_in_it_is_counted(
    speculative: Any, adapter: Any
) -> None:
    plain = generate(speculative)
    advice = asdict(ReplicaPlan(expected_requests=40.0, expected_prefill_tokens=500.0))
    nonsense = {"class_weights": {"any": float("nan")}}
    assert not apply(speculative, advice=advice | nonsense, advice_s=60.0)
    assert adapter.forecast.advice.current().expected_requests == 40.0
    assert adapter.stats.refused_advice == 1
    assert generate(speculative) == plain


def test_parts_that_cannot_be_are_left_aside_one_by_one(speculative: Any, adapter: Any) -> None:
    plain = generate(speculative)
    apply(
        speculative,
        controls={"max_draft_tokens": 2},
        calibrations={"greedy/0": {"version": 1, "temperatures": [float("nan")]}},
        step_cost={"n_tokens": [3, 2, 1]},
        canary={
            "name": "x",
            "address": "a",
            "key": None,
            "share": 7.0,
            "is_promoted": False,
            "calibrations": {},
        },
    )
    assert adapter.stats.refused_plan_parts == 3
    assert adapter.max_draft_tokens == 2
    assert generate(speculative) == plain


def test_step_costs_of_the_fleet_are_for_an_engine_that_is_new(
    speculative: Any, adapter: Any
) -> None:
    drafts = DraftExperience(((1, 0.5),), 2.0, 4.0, 100)
    report = StepCostReport(TABLE, (100.0,) * 3, drafts).to_plain()
    causal = {"policy": {"kind": "causal"}}
    assert apply(speculative, step_cost=report, controls=causal)
    learned = runner_of(speculative).adapter.policy.learned()
    assert learned.table == TABLE
    assert (learned.drafts.draft_s, learned.drafts.accepted) == (drafts.draft_s, 2.0)
    for _ in range(10):
        generate(speculative)
    assert adapter.stats.steps > 32
    assert not apply(speculative, step_cost=report, controls=causal)
