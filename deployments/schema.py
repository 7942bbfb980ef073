"""The settings of an application: what stands under `args` in a Serve file."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autoscale.policy_settings import check_policy
from deployments.errors import ConfigError

Placement = Literal["split", "colocated", "off"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetSpec(_Settings):
    """One model's target replicas.

    `source` is a checkpoint directory (absolute, below the working directory or below
    the project) or a hub id. `tensor_parallel` is the number of ranks of one replica, and
    `threads` and `num_cpus` are per rank. `block_tokens` is vLLM's KV block size and the
    drafter's context block size. `engine_kwargs` go to vLLM as they are, over ours.
    """

    source: str
    replicas: int = Field(default=1, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_model_len: int = Field(default=4096, ge=8)
    max_num_seqs: int = Field(default=32, ge=1)
    block_tokens: int = Field(default=32, ge=1)
    kv_cache_mib: int = Field(default=1024, ge=16)
    threads: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.5, ge=0)
    max_queued_requests: int = Field(default=256, ge=0)
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)


class RandomDrafterSpec(_Settings):
    """A drafter with random weights, for a path that runs before a drafter is trained."""

    num_layers: int = Field(default=2, ge=1)
    block_size: int = Field(default=7, ge=1)
    markov_rank: int = Field(default=64, ge=0)
    target_layer_ids: tuple[int, ...]
    seed: int = 0


class DrafterSpec(_Settings):
    """One model's drafters: `source` names a checkpoint, or `random` describes one.

    `num_context_tokens` is the sliding window over a session's context, `context_mib`
    the memory for all sessions' context. `deadline_ms` bounds what a target step waits
    for a reply. `encrypted` drafters talk CURVE, with keys made anew at every start.
    """

    source: str | None = None
    random: RandomDrafterSpec | None = None
    replicas: int = Field(default=1, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    num_context_tokens: int = Field(default=512, ge=1)
    context_mib: int = Field(default=256, ge=1)
    deadline_ms: float = Field(default=50.0, gt=0)
    encrypted: bool = False
    threads: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.25, ge=0)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.source is None) == (self.random is None):
            raise ValueError("give either source (a checkpoint) or random (a description)")
        return self


class ModelSpec(_Settings):
    """One served model: its id in the API, its target, and how it is drafted for."""

    id: str = Field(min_length=1)
    target: TargetSpec
    placement: Placement = "split"
    drafter: DrafterSpec | None = None
    policy: dict[str, Any] = Field(default_factory=lambda: {"kind": "causal"})

    @field_validator("placement", mode="before")
    @classmethod
    def _off_means_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads an unquoted off as false

    @field_validator("policy", mode="before")
    @classmethod
    def _off_policy_means_off(cls, value: object) -> object:
        return {"kind": "off"} if value == {"kind": False} else value

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_policy(value)
        return value

    @model_validator(mode="after")
    def _drafter_where_needed(self) -> Self:
        if self.placement != "off" and self.drafter is None:
            raise ValueError(f"placement {self.placement} needs a drafter; or set placement: off")
        return self


class AppSpec(_Settings):
    """Everything `deployments.app:build_app` takes."""

    models: tuple[ModelSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct_ids(self) -> Self:
        ids = [model.id for model in self.models]
        if len(set(ids)) != len(ids):
            raise ValueError(f"model ids must differ, found {ids}")
        return self


def parse_settings(args: object) -> AppSpec:
    """Raises ConfigError with one line per wrong field."""
    try:
        return AppSpec.model_validate(args)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'args'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(["the application's settings are wrong:", *lines])) from None
