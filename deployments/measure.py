"""`dspark measure`: what speculation adds to a target step on this machine, part by part."""

from __future__ import annotations

import statistics
import timeit
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from autoscale.calibration import Calibration
from autoscale.causal_policy import Causal
from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.policies import Fixed, Policy
from autoscale.step_cost import StepCostTable
from deployments.catalog import MODELS
from deployments.draft_model import check_drafter, make_draft_engine
from deployments.engine.adapter import SpeculationAdapter
from deployments.engine.engine_step import EngineStep, RequestTerms
from deployments.engine.step_forecast import StepForecast
from deployments.engine_args import MIB, target_directory
from deployments.errors import ConfigError
from deployments.schema import ModelSpec
from deployments.serve_file import read_serve_file
from drafters.footprint import measure_footprint
from drafters.latency import latency_table, random_engine
from drafters.measure import Instant, draft_times_ms, round_trip_ms
from drafters.sources import ColocatedDraftSource
from profiles.calibration_key import calibration_key

SESSIONS = [1, 2, 4, 8, 16]
_REQUESTS, _TOKENS = 8, 8
_SCHEDULED = 256  # requests
ADVICE = ReplicaPlan(
    expected_requests=300.0, expected_prefill_tokens=200.0, class_weights={"latency": 1.3}
)
_FLAT = StepCostTable((1, 256), (0.01, 0.0101))  # so that the causal policy verifies all


def measure(config: Path, repeats: int) -> str:
    """Measure the first drafted model of a Serve file; the report as text.

    Raises ConfigError when the file has none.
    """
    model = next((m for m in read_serve_file(config).settings.launched if m.drafter), None)
    if model is None or model.drafter is None:
        raise ConfigError(f"{config} has no model with a drafter to measure")
    engine = make_draft_engine(
        model.drafter.model_dump(),
        target_dir=target_directory(model),
        dtype=model.drafter.dtype,
        device=torch.device("cpu"),
        block_tokens=model.target.block_tokens,
        num_context_tokens=model.drafter.num_context_tokens,
        context_bytes=model.drafter.context_mib * MIB,
    )
    drafts = draft_times_ms(engine, model.drafter.num_context_tokens, SESSIONS, repeats)
    feature_size = engine.model.config.feature_size
    block_size = engine.model.config.shape.block_size
    dtype = engine.model.dtype
    open_wire, encrypted = (
        round_trip_ms(_REQUESTS, feature_size, dtype, repeats * 5, encrypted=encrypted)
        for encrypted in (False, True)
    )
    footprint = measure_footprint(engine, model.target.block_tokens)
    return "\n".join(
        [
            f"model {model.id}, drafter in {str(dtype).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} thread(s), medians",
            f"adapter per step, {_REQUESTS} requests x {_TOKENS} tokens, drafting excluded: "
            f"{adapter_ms(model, feature_size, repeats * 5, Fixed(_TOKENS)):.3f} ms, with the "
            f"causal schedule {adapter_ms(model, feature_size, repeats * 5, Causal(_FLAT)):.3f} ms",
            f"causal schedule, {_SCHEDULED} requests x {block_size} "
            f"positions: {schedule_ms(block_size, repeats * 5):.3f} ms, under a plan "
            f"{schedule_ms(block_size, repeats * 5, ADVICE):.3f} ms",
            f"split round trip beyond draft compute, {_REQUESTS} requests x {_TOKENS} rows: "
            "{:.2f} ms, p99 {:.2f} ms; ".format(*open_wire)
            + "under CURVE {:.2f} ms, p99 {:.2f} ms".format(*encrypted)
            + f", {encrypted[0] - open_wire[0]:+.2f} ms",
            f"drafter memory: {footprint.session_bytes / 1024:.1f} KiB per session, "
            f"{footprint.context_bytes / MIB:.2f} MiB per 1,000 context tokens",
            f"bytes on the wire per token: prompt {footprint.prefill_bytes:.0f}, decode "
            f"{footprint.decode_bytes:.0f}; per draft token back: greedy "
            f"{footprint.greedy_draft_bytes:.0f}, sampled {footprint.sampled_draft_bytes:.0f}",
            *latency_table(engine, model.drafter.num_context_tokens, drafts),
        ]
    )


def measure_shape(
    name: str,
    *,
    device: str,
    dtype: str,
    sessions: list[int],
    num_context_tokens: int,
    repeats: int,
) -> str:
    """The draft step of a released model's drafter with random weights: nothing is fetched.

    Raises ConfigError when there is no such model or no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("this machine has no CUDA device; measure on cpu")
    drafters = {model.name: model.drafter for model in MODELS if model.drafter is not None}
    if name not in drafters:
        raise ConfigError(f"no drafter of a model {name!r}; there are {', '.join(drafters)}")
    engine = random_engine(
        drafters[name].config,
        device=torch.device(device),
        dtype=getattr(torch, dtype),
        num_sessions=max(sessions),
        num_context_tokens=num_context_tokens,
    )
    times = draft_times_ms(engine, num_context_tokens, sessions, repeats)
    place = torch.cuda.get_device_name(device) if device == "cuda" else device
    title = f"drafter of {name}, random weights in {dtype}, on {place}, medians"
    return "\n".join([title, *latency_table(engine, num_context_tokens, times)])


def adapter_ms(model: ModelSpec, feature_size: int, repeats: int, policy: Policy) -> float:
    """Median of the adapter's own time in a step that verifies 7 drafts per request.

    Confidences are calibrated where the policy reads them, and outcomes recorded.
    """
    shape = check_drafter(model)
    adapter = SpeculationAdapter(
        ColocatedDraftSource(Instant(shape.block_size)),
        policy,
        target_id="t",
        block_size=shape.block_size,
        block_tokens=model.target.block_tokens,
        num_context_tokens=512,
        max_model_len=1 << 20,
        vocab_size=1 << 20,
        needs_tokens=shape.needs_tokens,
    )
    greedy = calibration_key("greedy", 0.0)
    adapter.calibration.replica.adopt({greedy: Calibration((1.2,) * shape.block_size, version=1)})
    ids = [f"r{i}" for i in range(_REQUESTS)]
    layers = len(shape.target_layer_ids)
    hidden = [torch.randn(_REQUESTS * _TOKENS, feature_size // layers) for _ in range(layers)]
    token_ids = np.zeros((_REQUESTS, 8 * (repeats + 1)), dtype=np.int32)
    times = []
    for step in range(repeats):
        before = adapter.stats.adapter_s
        adapter.step(
            EngineStep(
                request_ids=ids,
                num_scheduled=dict.fromkeys(ids, _TOKENS),
                drafts=dict.fromkeys(ids, [1] * (_TOKENS - 1)) if step else {},
                num_computed=np.full(_REQUESTS, step * _TOKENS, dtype=np.int32),
                sampled=[[1] * _TOKENS if step else [1]] * _REQUESTS,
                token_ids=token_ids,
                features=hidden,
            )
        )
        times.append(adapter.stats.adapter_s - before)
    return 1000 * float(np.median(times))


def schedule_ms(block_size: int, repeats: int, plan: ReplicaPlan = NO_PLAN) -> float:
    """Median of one decision of the causal policy, with draft tokens likely and unlikely.

    What the plan means for the step is worked out each time, half of the requests being of
    a class that it gives weight.
    """
    policy = Causal(StepCostTable((1, 256, 2048), (0.010, 0.011, 0.030)))
    confidences = np.random.default_rng(0).uniform(0.3, 1.0, (_SCHEDULED, block_size))
    limits = np.full(_SCHEDULED, block_size)
    forecast = StepForecast(2048, 1024)
    forecast.advice.take(asdict(plan), 3600.0)
    ids = [f"r{i}" for i in range(_SCHEDULED)]
    for i, id_ in enumerate(ids):
        forecast.open(id_, RequestTerms(service_class="latency" if i % 2 else ""))

    def schedule() -> None:
        policy.admit(confidences, limits, _SCHEDULED, forecast.terms(ids, ids))

    return 1000 * statistics.median(timeit.repeat(schedule, number=1, repeat=repeats))
