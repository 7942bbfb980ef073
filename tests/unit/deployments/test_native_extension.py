"""vLLM's own adaptive verification, steered: the real manager, on a processor."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoscale.calibration import Calibration
from autoscale.calibration_messages import calibrations_to_plain
from autoscale.step_cost import StepCostTable
from cluster.versions import CompatibilityError
from deployments.engine.native_extension import AdaptiveVerificationExtension, SteeredVerification
from deployments.engine.worker_plan import WorkerPlan
from profiles.calibration_key import calibration_key

REQUESTS, GAMMA = 8, 7
GREEDY, SAMPLED = calibration_key("greedy", 0.0), calibration_key("q", 0.7)


class Idle:
    """A CUDA stream or event that has nothing to wait for."""

    def __init__(self, *args, **kwargs):
        pass

    def record(self, *args):
        pass

    synchronize = wait_stream = record


@pytest.fixture
def manager(monkeypatch):
    import vllm.v1.worker.gpu.spec_decode.adaptive_verification as adaptive

    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Idle)
    group = SimpleNamespace(broadcast_object=lambda sent, src: sent)
    monkeypatch.setattr(adaptive, "get_tp_group", lambda: group)
    monkeypatch.setattr(adaptive, "stream", lambda *_: contextlib.nullcontext())
    states = SimpleNamespace(
        num_speculative_steps=GAMMA,
        device=torch.device("cpu"),
        max_num_reqs=REQUESTS,
        max_num_batched_tokens=256,
        req_id_to_index={f"r{i}": i for i in range(REQUESTS)},
        num_computed_tokens_np=np.full(REQUESTS, 50),
        prefill_len=SimpleNamespace(np=np.full(REQUESTS, 40)),
    )
    starts = torch.zeros(REQUESTS + 1, dtype=torch.int32)
    made = adaptive.AdaptiveVerificationManager(states, starts, 1, max_total_logits=1000)
    made.set_cost_curves(
        [(1, 1.0), (8, 1.2)], [(1, 5.0), (8, 5.0), (16, 5.5), (32, 7.0), (64, 11.0), (256, 40.0)]
    )
    return made


TEMPERATURES = np.array([0.0] * 4 + [0.7] * 4, dtype=np.float32)


@pytest.fixture
def steered(manager):
    return SteeredVerification(manager, lambda places: TEMPERATURES[places], sampled_mode="q")


def budget(manager, confidence=0.8):
    """Draft tokens that a step of eight full drafts verifies."""
    probs = torch.full((REQUESTS, GAMMA), confidence)
    places = np.arange(REQUESTS)
    batch = SimpleNamespace(
        num_reqs=REQUESTS, idx_mapping=torch.from_numpy(places), idx_mapping_np=places
    )
    for _ in range(2):  # budgets read the step before's
        manager.record_confidences(probs, batch)
    num_tokens = {f"r{i}": 1 + GAMMA for i in range(REQUESTS)}
    drafts = {f"r{i}": [1] * GAMMA for i in range(REQUESTS)}
    return manager.get_num_tokens(num_tokens, drafts) - REQUESTS


def test_without_orders_vllm_decides_as_before(manager):
    before = budget(manager)
    SteeredVerification(manager, lambda places: TEMPERATURES[places], sampled_mode="q")
    assert budget(manager) == before > 0


def test_a_cap_bounds_the_budget_and_is_taken_back(manager, steered):
    free = budget(manager)
    for cap in (5, 3, 0):
        steered.cap(cap)
        assert budget(manager) == cap < free
    steered.cap(None)
    assert budget(manager) == free


def test_steeper_costs_verify_less_flat_ones_all(manager, steered):
    free = budget(manager)
    steered.cost(StepCostTable((1, 256), (0.005, 0.500)))
    assert budget(manager) < free
    steered.cost(StepCostTable((1, 256), (0.005, 0.0050001)))
    assert budget(manager) == REQUESTS * GAMMA
    steered.cost(None)
    assert budget(manager) == free


def test_what_requests_and_their_context_add_counts_in_every_step(manager, steered):
    alone = StepCostTable((1, 256), (0.005, 0.080))
    steered.cost(alone)
    free = budget(manager)
    steered.cost(replace(alone, request_s=0.01))  # whatever is verified: it matters less
    assert budget(manager) > free
    steered.cost(replace(alone, pair_s=1e-5))  # of every verified token and its context
    short = budget(manager)
    manager.req_states.num_computed_tokens_np[:] = 5000
    assert budget(manager) < short < free


def test_confidences_are_calibrated_by_each_requests_temperature(manager, steered):
    steered.calibrate({SAMPLED: Calibration((2.0,) * GAMMA)})
    budget(manager, 0.8)
    found = manager._confidence_probs[:, 0]
    assert found[:4].tolist() == pytest.approx([0.8] * 4)
    assert found[4:].tolist() == pytest.approx([2 / 3] * 4)  # the odds 4 become 2
    steered.calibrate({GREEDY: Calibration((0.5,) * GAMMA)})
    budget(manager, 0.8)
    assert manager._confidence_probs[:4, 0].tolist() == pytest.approx([16 / 17] * 4)


def test_a_calibration_of_another_block_size_is_refused(steered):
    with pytest.raises(ValueError, match="positions"):
        steered.calibrate({GREEDY: Calibration((1.0, 1.0))})


def worker(manager):
    made = AdaptiveVerificationExtension()
    states = SimpleNamespace(temperature=SimpleNamespace(np=TEMPERATURES))
    sampler = SimpleNamespace(sampling_states=states)
    made.model_runner = SimpleNamespace(adaptive_verification=manager, sampler=sampler)
    config = SimpleNamespace(draft_sample_method="probabilistic")
    made.vllm_config = SimpleNamespace(speculative_config=config)
    return made


def test_a_plan_reaches_the_manager_through_the_worker(manager):
    some = worker(manager)
    free = budget(manager)
    calibrations = calibrations_to_plain({SAMPLED: Calibration((2.0,) * GAMMA, 3)})
    plan = WorkerPlan(controls={"verify_budget_tokens": 5}, calibrations=calibrations)
    some.dspark_apply_plan(plan.to_plain())
    assert budget(manager) == 5
    some.dspark_apply_plan(WorkerPlan(controls={"speculation": False}).to_plain())
    assert budget(manager) == 0
    some.dspark_apply_plan(WorkerPlan().to_plain())
    assert budget(manager) == free


def test_an_engine_that_does_not_verify_adaptively_is_refused_with_the_mend():
    with pytest.raises(CompatibilityError, match=r"native\.adaptive_verification: true"):
        worker(None).dspark_apply_plan({})


def test_the_extensions_names_are_free_in_vllms_worker():
    from vllm.v1.worker.gpu_worker import Worker

    ours = [name for name in dir(AdaptiveVerificationExtension) if not name.startswith("__")]
    assert not [name for name in ours if hasattr(Worker, name)]
