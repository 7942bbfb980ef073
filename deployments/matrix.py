"""Which placement of which model works on which machine, and what has to adapt. Pure.

Judged from vLLM 0.29's sources, as no GPU was at hand; the places are named at each rule.
Only `RUN_BY_US` has been run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from deployments.catalog import ModelFacts
from deployments.hardware import Machine
from deployments.kv_layout import kv_layers, sequence_bytes
from deployments.memory import GIB, RESERVE_BYTES
from deployments.schema import Placement

Status = Literal["works", "adapts", "no"]
PLACEMENTS: tuple[Placement, ...] = ("off", "native", "colocated", "split")
# One request of this length has to fit beside the weights.
CONTEXT_TOKENS = 8192

NO_NATIVE_ON_CPU = "vLLM's own drafting needs its V2 runner, which needs Triton and a GPU"
NO_DRAFTER_OF_OURS = (
    "our draft engine reads Gemma 4 drafters, but none was held against its authors' outputs; "
    "use native"
)
DRAFTER_IN_TARGET = "the drafter is inside the target's checkpoint, which only vLLM loads"
NO_V4_KERNELS = "DeepSeek-V4's attention kernels are for compute capability 9, 10 and 12"
NO_V4_ON_CPU = "vLLM has no DeepSeek-V4 for processors"
V4_KERNELS_ON_GB10 = "needs a FlashInfer with SM120 sparse MLA kernels for its heads and window"
V4_FIXED_ON_GB10 = (
    "no always-on variable-length graphs on GB10 for DeepSeek-V4: verification not adaptive"
)
NEEDS_DEEP_GEMM = "DeepSeek-V4 needs DeepGEMM beside vLLM"
FIXED_VERIFICATION = (
    "FlashAttention 2 and 4 and FlashInfer capture uniform batches only: verification not "
    "adaptive, unless attention_config.backend is TRITON_ATTN"
)
ADAPTER_ON_CPU_ONLY = (
    "our adapter has run on processors only, and it has the target run eagerly, without CUDA graphs"
)
TWO_RANKS_RUN = "also with the target on two tensor-parallel ranks, on one Ray node and on two"
MAIN_MEMORY = "the machine's main memory is not judged"
TOO_LARGE = "does not fit"
MISSING_HOOKS = "this vLLM lacks what it needs"

# Model, generation, architecture -> placements. The demo is the bundled 17 M parameter model.
DEMO = "demo"
RUN_BY_US: Mapping[tuple[str, str, str], frozenset[Placement]] = {
    (DEMO, "none", "x86-64"): frozenset(("off", "colocated", "split")),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`gpus` is the fewest the placement fits on; 0 on processors, None where it does not."""

    status: Status
    notes: tuple[str, ...] = ()
    gpus: int | None = 0
    run_by_us: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one kind of machine."""

    model: str
    download_bytes: int
    machine: Machine
    verdicts: Mapping[Placement, Verdict]


def judge(model: ModelFacts, machine: Machine, lacking: frozenset[Placement]) -> Row:
    """`lacking` are the placements for which the installed engine misses hooks."""
    run = RUN_BY_US.get((model.name, machine.generation, machine.architecture), frozenset())
    verdicts = {
        placement: _judge(model, machine, placement, placement in lacking, placement in run)
        for placement in PLACEMENTS
    }
    return Row(model.name, model.download_bytes, machine, verdicts)


def demo_row(machine: Machine, lacking: frozenset[Placement]) -> Row:
    """The bundled demo, on processors."""
    run = RUN_BY_US.get((DEMO, machine.generation, machine.architecture), frozenset())
    verdicts = {
        placement: _lost(MISSING_HOOKS)
        if placement in lacking
        else Verdict("works", run_by_us=placement in run)
        for placement in PLACEMENTS
    }
    if verdicts["split"].run_by_us:
        verdicts["split"] = replace(verdicts["split"], notes=(TWO_RANKS_RUN,))
    verdicts["native"] = _lost(NO_NATIVE_ON_CPU)
    return Row(DEMO, 0, machine, verdicts)


def _judge(
    model: ModelFacts, machine: Machine, placement: Placement, lacking: bool, run: bool
) -> Verdict:
    reason = _impossible(model, machine, placement)
    if reason is not None:
        return _lost(reason)
    if lacking:
        return _lost(MISSING_HOOKS)
    gpus = fewest_gpus(model, machine, placement)
    if gpus is None:
        return _lost(TOO_LARGE)
    adaptions = _adaptions(model, machine, placement)
    notes = adaptions + _conditions(model, machine, placement)
    return Verdict("adapts" if adaptions else "works", notes, gpus, run)


def _lost(reason: str) -> Verdict:
    return Verdict("no", (reason,), None)


def _impossible(model: ModelFacts, machine: Machine, placement: Placement) -> str | None:
    kind = _kind(model)
    if kind == "deepseek_v4":
        if not machine.has_gpu:
            return NO_V4_ON_CPU
        # models/deepseek_v4/sparse_mla.py and nvidia/flashinfer_sparse.py:
        # supports_compute_capability.
        if machine.capability[0] not in (9, 10, 12):
            return NO_V4_KERNELS
        if placement in ("colocated", "split"):
            return DRAFTER_IN_TARGET
    # config/vllm.py: _get_v1_model_runner_unsupported_features, use_v2_model_runner.
    if placement == "native" and not machine.has_gpu:
        return NO_NATIVE_ON_CPU
    if kind.startswith("gemma4") and placement in ("colocated", "split"):
        return NO_DRAFTER_OF_OURS
    return None


def _adaptions(model: ModelFacts, machine: Machine, placement: Placement) -> tuple[str, ...]:
    """What is not as it could be, though it runs."""
    if placement != "native":
        return ()
    # adaptive_verification.py asks AttentionCGSupport.ALWAYS of every target layer.
    if _kind(model) == "deepseek_v4":
        # nvidia/model.py picks FlashInfer's SM120 path there, which is UNIFORM_BATCH.
        return (V4_FIXED_ON_GB10,) if machine.capability[0] == 12 else ()
    if machine.capability[0] == 9:
        return ()  # flash_attn.py: FlashAttention 3 is ALWAYS
    if _kind(model).startswith("gemma4") and machine.capability[0] != 10:
        return ()  # models/config.py: without FlashAttention 4 Gemma 4 goes to Triton, ALWAYS
    return (FIXED_VERIFICATION,)


def _conditions(model: ModelFacts, machine: Machine, placement: Placement) -> tuple[str, ...]:
    """What else it takes, or what is not known."""
    if not machine.has_gpu:
        return (MAIN_MEMORY,)
    if _kind(model) == "deepseek_v4":
        # nvidia/ops/o_proj.py; nvidia/flashinfer_sparse.py: has_flashinfer_sparse_mla_sm120.
        on_gb10 = (V4_KERNELS_ON_GB10,) if machine.capability[0] == 12 else ()
        return (NEEDS_DEEP_GEMM, *on_gb10)
    return (ADAPTER_ON_CPU_ONLY,) if placement in ("colocated", "split") else ()


def fewest_gpus(model: ModelFacts, machine: Machine, placement: Placement) -> int | None:
    """The smallest tensor-parallel size that fits, one GPU per rank, and for `split` one more for
    the drafter; 0 without GPUs.

    Weights, drafter and KV cache of one request of `CONTEXT_TOKENS`, and the reserve.
    """
    if not machine.has_gpu:
        return 0
    layers = kv_layers(model.target.config)
    assert layers is not None, model.name
    drafter_bytes = model.drafter.num_bytes if model.drafter else 0
    ranks = 1
    while ranks <= machine.max_gpus and model.num_heads % ranks == 0:
        need = model.target.num_bytes / ranks + RESERVE_BYTES
        need += sequence_bytes(layers, CONTEXT_TOKENS, ranks)
        if placement == "native":
            need += drafter_bytes / ranks
        elif placement == "colocated":
            need += drafter_bytes
        if need <= machine.gpu_memory_gib * GIB:
            return ranks + (placement == "split")
        ranks *= 2
    return None


def _kind(model: ModelFacts) -> str:
    return str(model.target.config["model_type"])
