"""Steers vLLM's own adaptive verification (placement `native`) by the fleet's plan.

vLLM 0.29's `AdaptiveVerificationManager` sizes the verified prefix by raw confidences and by
costs profiled once, as it starts. A worker with this extension gives it calibrated
confidences, the step costs of a profile and a cap. `collective_rpc` calls every rank with the
same arguments, between steps, so that all ranks go on choosing the same budget.

What vLLM decides alone stays so: for whom to draft, requests and prompts that the plan
expects, weights of service classes. Unit-tested on a processor against vLLM's class; not run
on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoscale.calibration import Calibration
from autoscale.calibration_messages import calibrations_from_plain
from autoscale.controls import Controls
from autoscale.step_cost import StepCostTable
from autoscale.step_cost_fit import load_costs
from cluster.hooks import missing
from cluster.versions import CompatibilityError
from deployments.engine.compat import ADAPTIVE, CAPABILITIES
from deployments.engine.provenance import worker_provenance
from deployments.engine.worker_plan import WorkerPlan
from profiles.calibration_key import (
    CALIBRATION_KEYS,
    TEMPERATURE_EDGES,
    CalibrationKey,
    calibration_key,
)

Temperatures = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Sampling temperatures of requests, by their places in vLLM's request states."""
_LEAST_CONFIDENCE = 1e-6


class SteeredVerification:
    """One worker's manager, told what to go by. Without orders it decides as vLLM's own."""

    def __init__(self, manager: Any, temperatures: Temperatures, *, sampled_mode: str) -> None:
        """`sampled_mode` is how sampled requests are verified: `q` or `one-hot`."""
        self._manager = manager
        self._temperatures = temperatures
        self._keys = _keys_by_bin(sampled_mode)
        self._profiled_costs = manager.cost_tables
        self._table: StepCostTable | None = None
        self._alone_ms = np.zeros(0)  # of steps by tokens, without requests and their context
        self._most_logits: int = manager._max_total_logits
        self._cap: int | None = None
        self._inverse: torch.Tensor | None = None  # [bins, gamma]; None: raw confidences
        self._own_record, self._own_budget = manager.record_confidences, manager.get_num_tokens
        manager.record_confidences = self._record_confidences
        manager.get_num_tokens = self._get_num_tokens

    def calibrate(self, calibrations: Mapping[CalibrationKey, Calibration]) -> None:
        """Go by these; keys without one stay raw. Raises ValueError for another block size."""
        gamma = self._manager.num_speculative_steps
        inverse = np.ones((len(self._keys), gamma))
        for i, key in enumerate(self._keys):
            if key not in calibrations:
                continue
            if calibrations[key].block_size != gamma:
                raise ValueError(
                    f"the calibration of {key} has {calibrations[key].block_size} positions, "
                    f"the drafter {gamma}"
                )
            inverse[i] = 1 / np.array(calibrations[key].temperatures)
        device = self._manager.req_states.device
        is_raw = bool((inverse == 1.0).all())
        self._inverse = None if is_raw else torch.tensor(inverse, device=device).float()

    def cost(self, table: StepCostTable | None) -> None:
        """Verifying takes what `table` says, with what every step's requests and their context
        add; None: what vLLM profiled. Drafting stays."""
        self._table = table
        if table is None:
            self._manager.cost_tables = self._profiled_costs
            return
        _, verify_ms = self._profiled_costs
        self._alone_ms = 1000 * np.maximum.accumulate(table.at(np.arange(len(verify_ms))))

    def cap(self, most_drafts: int | None) -> None:
        """Verify at most so many draft tokens in a step; None: as many as pay."""
        self._cap = most_drafts

    def _record_confidences(self, confidence_probs: torch.Tensor, input_batch: Any) -> None:
        if self._inverse is not None:
            n = input_batch.num_reqs
            raw = confidence_probs[:n]
            bins = _bins(self._temperatures(input_batch.idx_mapping_np[:n]))
            inverse = self._inverse[torch.as_tensor(bins, device=raw.device)]
            odds_against = 1.0 / raw.float().clamp(min=_LEAST_CONFIDENCE) - 1.0
            confidence_probs = (1.0 / (1.0 + odds_against**inverse)).to(raw.dtype)
        self._own_record(confidence_probs, input_batch)

    def _get_num_tokens(
        self, num_tokens_per_req: dict[str, int], draft_tokens: dict[str, list[int]]
    ) -> int:
        manager, most = self._manager, self._most_logits
        if self._cap is not None:
            bonus = len(num_tokens_per_req) * manager.num_bonus_tokens
            most = min(most, bonus + self._cap)
        manager._max_total_logits = most
        if self._table is not None:
            self._cost_step(self._table, list(num_tokens_per_req))
        return int(self._own_budget(num_tokens_per_req, draft_tokens))

    def _cost_step(self, table: StepCostTable, request_ids: list[str]) -> None:
        """Every rank has the same requests and contexts, hence the same costs."""
        states, n = self._manager.req_states, len(request_ids)
        slots = [states.req_id_to_index[id_] for id_ in request_ids]
        context = float(states.num_computed_tokens_np[slots].sum())
        per_token_ms = 1000 * table.pair_s * context / max(n, 1)
        beside_ms = 1000 * (table.request_s * n + table.context_token_s * context)
        tokens = np.arange(len(self._alone_ms))
        draft_ms, _ = self._profiled_costs
        self._manager.cost_tables = (draft_ms, self._alone_ms + beside_ms + per_token_ms * tokens)


class AdaptiveVerificationExtension:
    """vLLM's `worker_extension_cls`: `dspark_apply_plan` beside the worker's own methods."""

    def dspark_apply_plan(self, plan: dict[str, Any]) -> None:
        """Go by a `WorkerPlan`'s controls and calibrations from the next step on.

        Raises CompatibilityError where this engine cannot be steered, ValueError for
        calibrations or controls that cannot be.
        """
        steered = _steered(self)
        wanted = WorkerPlan.from_plain(plan)
        controls = Controls.model_validate(wanted.controls)
        steered.calibrate(calibrations_from_plain(wanted.calibrations))
        steered.cap(0 if controls.speculation is False else controls.verify_budget_tokens)

    def dspark_use_step_cost(self, path: str, overridden: list[str], nodes: int) -> None:
        """Go by a profile. Raises ProfileError for one that cannot be used, naming it."""
        steered = _steered(self)
        worker: Any = self
        here = worker_provenance(worker.vllm_config, worker.device, nodes)
        table, _ = load_costs(Path(path), here, overridden)
        steered.cost(table)


def _steered(worker: Any) -> SteeredVerification:
    """Of a worker, made when first asked for. Raises CompatibilityError saying why it cannot."""
    found = getattr(worker, "_dspark_steered", None)
    if found is not None:
        return found  # type: ignore[no-any-return]
    lacking = missing(CAPABILITIES[ADAPTIVE])
    if lacking:
        raise CompatibilityError(
            f"this vLLM's adaptive verification cannot be steered: {'; '.join(lacking)}. "
            "Install the vLLM version pinned in pyproject.toml."
        )
    runner = worker.model_runner
    manager = getattr(runner, "adaptive_verification", None)
    if manager is None or manager.cost_tables is None:
        raise CompatibilityError(
            "this engine does not verify adaptively, so there is nothing to steer: set "
            "native.adaptive_verification: true, on an attention back end that can "
            "(dspark matrix says which)"
        )
    sampled = worker.vllm_config.speculative_config.draft_sample_method == "probabilistic"
    states = runner.sampler.sampling_states
    steered = SteeredVerification(
        manager,
        lambda places: states.temperature.np[places],
        sampled_mode="q" if sampled else "one-hot",
    )
    worker._dspark_steered = steered
    return steered


def _keys_by_bin(sampled_mode: str) -> tuple[CalibrationKey, ...]:
    """Of greedy requests, then of sampled ones by bin of temperature."""
    greedy = calibration_key("greedy", 0.0)
    return greedy, *(key for key in CALIBRATION_KEYS if key[0] == sampled_mode and key[1] != "0")


def _bins(temperatures: NDArray[np.float32]) -> NDArray[np.int64]:
    """Places in `_keys_by_bin`."""
    return np.searchsorted(TEMPERATURE_EDGES, temperatures, side="left")
