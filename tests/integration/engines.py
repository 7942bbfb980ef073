"""Real vLLM engines inside the test process, with and without our worker."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch

from deployments.draft_model import check_drafter, make_draft_engine
from deployments.engine.adapter import AdapterStats, SpeculationAdapter
from deployments.engine.frontend import mend_frontend
from deployments.engine_args import engine_kwargs, target_directory
from deployments.schema import parse_settings
from drafters.engine import DraftEngine
from drafters.messages import DraftSource
from tests.integration.demo import DEMO_TARGET, demo_drafter

LAYERS = (1, 4, 6)  # whose outputs the bundled drafter reads
GAMMA = 7
BLOCK_TOKENS = 32


def settings(**model: Any) -> Any:
    """One model's settings: the demo target in float32 with its drafter."""
    fixed = {"kind": "fixed", "k": 7}  # drafts in every step, whatever they cost here
    drafter = demo_drafter(model.get("placement", "split"))
    base = {"id": "demo", "policy": fixed, "target": DEMO_TARGET, "drafter": drafter}
    return parse_settings({"models": [base | model]}).models[0]


def make_engine(
    placement: str,
    *,
    target: dict[str, Any] | None = None,
    drafter: dict[str, Any] | None = None,
    **overrides: Any,
) -> Any:
    """A `vllm.LLM`: `off` is plain vLLM, the others carry our worker.

    `target` are settings over the demo target's, `drafter` the demo drafter's unless given,
    `overrides` engine arguments.
    """
    from vllm import LLM

    mend_frontend()
    model = settings(
        placement=placement,
        target=DEMO_TARGET | (target or {}),
        drafter=drafter or demo_drafter(placement),
    )
    shape = None if placement == "off" else check_drafter(model)
    kwargs = engine_kwargs(model, shape) | {"disable_log_stats": False} | overrides
    return LLM(model=target_directory(model), **kwargs)


def runner_of(engine: Any) -> Any:
    """The model runner of an in-process engine."""
    core = engine.llm_engine.engine_core.engine_core
    return core.model_executor.driver_worker.worker.model_runner


def draft_from(engine: Any, source: DraftSource) -> SpeculationAdapter:
    """Draft from `source`, with the prefix cache empty and the totals at zero."""
    adapter: SpeculationAdapter = runner_of(engine).adapter
    adapter.source = source
    adapter.stats = AdapterStats.of_blocks(GAMMA)
    engine.reset_prefix_cache()
    return adapter


def draft_engine(context_mib: int = 32, model: Any = None) -> DraftEngine:
    """The drafter of `model`, by default of `settings`, in an engine of its own."""
    model = model or settings()
    return make_draft_engine(
        model.drafter.model_dump(),
        target_dir=target_directory(model),
        dtype="float32",
        device=torch.device("cpu"),
        block_tokens=BLOCK_TOKENS,
        num_context_tokens=512,
        context_bytes=context_mib << 20,
    )
