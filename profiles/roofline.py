"""Step costs of machines that nobody had, computed from data sheets: a roofline.

A step reads the weights and the context, computes its tokens, and waits for its ranks; it
takes what the slower of reading and computing takes, and overheads. Such a profile is marked
as modelled, lists what was assumed, and no engine loads it as if it had been measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from profiles.step_cost import (
    DRAFT,
    MODELLED,
    PREFILL,
    VERIFY,
    EngineProvenance,
    StepCostProfile,
    StepCostRow,
)

_N_TOKENS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
_CONTEXTS = (0, 1024, 8192)
_MOST_CONTEXT = 1 << 19  # tokens of all requests: caches hold no more
_DRAFTED = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class MachineModel:
    """`num_ranks` GPUs that hold equal parts of the weights.

    Bandwidths are in bytes per second, `flops_per_s` is what dense bfloat16 reaches at best;
    both are achieved to `efficiency`. Every layer waits twice for `all_reduce_s` where there
    are several ranks. `overhead_s` is what launching and sampling take in every step.
    """

    name: str
    num_ranks: int
    bytes_per_s: float
    flops_per_s: float
    efficiency: float
    all_reduce_s: float
    overhead_s: float


@dataclass(frozen=True, slots=True)
class ModelModel:
    """A dense decoder and its drafter, in bfloat16; sizes in parameters."""

    name: str
    num_parameters: float
    num_layers: int
    kv_bytes_per_token: float
    hidden_size: int
    drafter_parameters: float
    block_size: int


H200 = MachineModel("H200", 1, 4.8e12, 989e12, 0.75, 0.0, 0.5e-3)
TWO_DGX_SPARKS = MachineModel("DGX Spark, two", 2, 273e9, 125e12, 0.75, 40e-6, 1.5e-3)
MACHINES = {"h200": H200, "2x-dgx-spark": TWO_DGX_SPARKS}

# Qwen3-14B: 40 layers, 8 key-value heads of 128, and its released DSpark drafter.
QWEN3_14B = ModelModel("Qwen/Qwen3-14B", 14.77e9, 40, 40 * 2 * 8 * 128 * 2.0, 5120, 1.8e9, 7)


def modelled_profile(machine: MachineModel, model: ModelModel) -> StepCostProfile:
    """All three phases of `model` on `machine`."""
    rows = [
        _row(phase, n, n_requests, context, step_cost_s(machine, model, n, n_requests, context))
        for phase, request_counts in ((VERIFY, _requests_of), (PREFILL, lambda _: (1,)))
        for n in _N_TOKENS
        for n_requests in request_counts(n)
        for context in _CONTEXTS
        if n_requests * context <= _MOST_CONTEXT
    ]
    rows += [
        _row(DRAFT, n * model.block_size, n, 0, draft_cost_s(machine, model, n)) for n in _DRAFTED
    ]
    provenance = EngineProvenance(
        hardware=machine.name,
        model_id=model.name,
        model_revision="none",
        dtype="bfloat16",
        parallelism=f"tp{machine.num_ranks}",
        engine="roofline",
        engine_version="1",
        driver="none",
    )
    return StepCostProfile(
        provenance,
        MODELLED,
        date(2026, 1, 1),
        tuple(rows),
        assumptions=_assumptions(machine, model),
    )


def step_cost_s(
    machine: MachineModel, model: ModelModel, n_tokens: int, n_requests: int, context_tokens: int
) -> float:
    """Seconds of a target step; `context_tokens` are those of each request."""
    weights = 2 * model.num_parameters
    kv_cache = model.kv_bytes_per_token * n_requests * context_tokens
    pairs = n_tokens * context_tokens
    flops = 2 * model.num_parameters * n_tokens + 4 * model.num_layers * model.hidden_size * pairs
    return _roofline_s(machine, weights + kv_cache, flops) + _waits_s(machine, model.num_layers)


def draft_cost_s(machine: MachineModel, model: ModelModel, n_requests: int) -> float:
    """Seconds of drafting a block for each of `n_requests`, beside the target."""
    flops = 2 * model.drafter_parameters * n_requests * model.block_size
    return _roofline_s(machine, 2 * model.drafter_parameters, flops) + _waits_s(machine, 5)


def _roofline_s(machine: MachineModel, read_bytes: float, flops: float) -> float:
    slowest = max(read_bytes / machine.bytes_per_s, flops / machine.flops_per_s)
    return slowest / (machine.num_ranks * machine.efficiency)


def _waits_s(machine: MachineModel, num_layers: int) -> float:
    waits_s = 2 * num_layers * machine.all_reduce_s if machine.num_ranks > 1 else 0.0
    return machine.overhead_s + waits_s


def _requests_of(n_tokens: int) -> tuple[int, ...]:
    return tuple(sorted({n_tokens, max(1, n_tokens // 4), max(1, n_tokens // 8)}))


def _row(phase: str, n: int, n_requests: int, context: int, cost_s: float) -> StepCostRow:
    return StepCostRow(phase, n, n_requests, context, cost_s, 0.0, 1)


def _assumptions(machine: MachineModel, model: ModelModel) -> tuple[str, ...]:
    return (
        f"{machine.num_ranks} GPU(s) of {machine.bytes_per_s / 1e9:.0f} GB/s and "
        f"{machine.flops_per_s / 1e12:.0f} TFLOP/s dense bfloat16, from data sheets",
        f"both reached to {machine.efficiency:.0%}, reading and computing overlap fully",
        f"{1e6 * machine.all_reduce_s:.0f} us per all-reduce, two per layer, of several ranks",
        f"{1000 * machine.overhead_s:.1f} ms per step for launches, sampling and scheduling",
        f"{model.name} of {model.num_parameters / 1e9:.2f} G parameters in bfloat16; drafter of "
        f"{model.drafter_parameters / 1e9:.1f} G on the same GPUs, one pass per draft",
        "no padding to captured graph sizes, no preemption, no effect of temperature or power",
    )
