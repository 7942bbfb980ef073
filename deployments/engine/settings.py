"""What a target's worker needs to know, carried in vLLM's `additional_config`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

KEY = "dspark"


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Plain values only: they cross process boundaries inside vLLM's configuration.

    `target_dir` is the target's directory or its hub id, there at `target_revision`.
    `block_size` is gamma, `block_tokens` the size of a context block (vLLM's KV block),
    `deadline_s` how long a step waits for a drafter replica. `drafter` describes the
    checkpoint (see `deployments.schema.DrafterSpec`) and is read for `colocated` only.
    `calibrations` are those to start with (`autoscale.calibration_messages`).
    The target is spread over `nodes`. `step_cost` is a profile's file, in which the keys
    `step_cost_override` may differ; without one the worker measures as it starts. With
    `tracing` (`deployments.tracing.spec.TracingSpec`) drafting for traced requests is recorded.
    """

    placement: str
    target_dir: str
    target_revision: str | None
    target_layer_ids: tuple[int, ...]
    needs_tokens: bool
    block_size: int
    block_tokens: int
    num_context_tokens: int
    deadline_s: float
    policy: dict[str, Any]
    drafter: dict[str, Any]
    dtype: str
    context_bytes: int
    calibrations: dict[str, Any]
    nodes: int
    step_cost: str | None
    step_cost_override: tuple[str, ...]
    tracing: dict[str, Any] | None = None

    def to_config(self) -> dict[str, Any]:
        return {KEY: asdict(self)}

    @classmethod
    def from_config(cls, additional_config: Any) -> WorkerSettings:
        """Raises ValueError naming the missing or unknown fields."""
        values = additional_config.get(KEY) if isinstance(additional_config, dict) else None
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            found = sorted(values) if isinstance(values, dict) else values
            raise ValueError(
                f"additional_config[{KEY!r}] must hold {sorted(names)}, found {found}: build the "
                "engine's arguments with deployments.app, or with WorkerSettings.to_config()"
            )
        lists = ("target_layer_ids", "step_cost_override")
        return cls(**{**values, **{name: tuple(values[name]) for name in lists}})
