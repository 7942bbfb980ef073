"""The settings of one target and of its drafters, each checked on its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
DraftDtype = Literal["auto", Dtype]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # a commit: branches move
_COUNTED = {"CPU": "num_cpus", "GPU": "device: cuda", "memory": "engine_kwargs"}


class Settings(BaseModel):
    """Frozen, and without room for a misspelt key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScalingSpec(Settings):
    """A pool that follows demand between `least` and `most` replicas.

    More are started once they have been wanted for `up_after_s`, fewer kept once they have been
    wanted for `down_after_s`. The policy that wants them stands in the Serve file, see
    `deployments.autoscaling`.
    """

    least: int = Field(default=1, ge=1)
    most: int = Field(ge=1)
    up_after_s: float = Field(default=5.0, ge=0)
    down_after_s: float = Field(default=300.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"most {self.most} is less than least {self.least}")
        return self


class ReplicaSpec(Settings):
    """Where a replica runs. `resources` are Ray's custom ones, which name nodes or kinds of
    nodes (`{spark-a: 0.01}`); `env` is set for the replica and all its processes. With
    `scaling` the pool starts with `replicas` and then follows demand. `gpu_memory_gib` is what
    one GPU has: when given, settings that cannot fit are refused before anything is fetched."""

    replicas: int = Field(default=1, ge=1)
    scaling: ScalingSpec | None = None
    device: Device = "cpu"
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    gpu_memory_gib: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _starts_within_bounds(self) -> Self:
        scaling = self.scaling
        if scaling is not None and not scaling.least <= self.replicas <= scaling.most:
            raise ValueError(
                f"replicas {self.replicas} is not between scaling.least {scaling.least} and "
                f"scaling.most {scaling.most}"
            )
        return self

    @model_validator(mode="after")
    def _gpus_have_memory(self) -> Self:
        if self.device == "cpu" and self.gpu_memory_gib is not None:
            raise ValueError("gpu_memory_gib needs device: cuda")
        return self

    @field_validator("resources")
    @classmethod
    def _custom_only(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value.keys() & _COUNTED.keys():
            raise ValueError(
                f"{name} is counted already: use {_COUNTED[name]}; resources are custom ones"
            )
        return value


class PrefillSpec(Settings):
    """Prompt tokens in a step beside requests that decode: between `least` and `most`, as many
    as the tightest `tpot_ms` among them leaves room for."""

    least: int = Field(default=32, ge=1)
    most: int = Field(default=2048, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"most {self.most} is less than least {self.least}")
        return self


class CaptureSpec(Settings):
    """What of the served traffic is kept to train a drafter on: nothing unless this is given.

    Token ids of a `fraction` of the requests go to `directory`, at most `max_mib` of them
    over all replicas there, the newest. `redact` takes out what looks like addresses,
    numbers and secrets. A request opts out with `vllm_xargs: {dspark_capture: "off"}`.
    """

    directory: str = Field(min_length=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    max_mib: int = Field(default=256, ge=1)
    redact: bool = True


class TargetSpec(ReplicaSpec):
    """One model's target replicas.

    `source` is a checkpoint directory (absolute, below the working directory or below
    the project) or a hub id, `revision` a commit on the hub. `tensor_parallel` is the number
    of ranks of one replica, spread evenly over `nodes`: for certain where every node has one,
    otherwise Ray fills one node after another. `threads`, `num_cpus`,
    `gpus_per_rank` and `kv_cache_mib` are per rank.
    `block_tokens` is vLLM's KV block size and the drafter's context block size.
    `step_cost` is a profile of `dspark profile`, in whose provenance the keys
    `step_cost_override` may differ; without one the worker measures as it starts.
    `stall_limit_s` is how long nothing may come from the engine, not even a one-token probe,
    before the replica is replaced: by default 30 on processors, 60 on GPUs; longer than any
    step. The first token of a start may take ten times as long. `loras` are LoRA adapters by
    name, directories or hub ids; in the API they are `MODEL:NAME`. Without `prefill` prompts
    are read as vLLM likes. A replica that is taken away finishes its streams, for at most
    `drain_s`.
    `engine_kwargs` go to vLLM as they are, over ours; speculation is the placement's.
    """

    source: str
    revision: Revision | None = None
    tensor_parallel: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    gpus_per_rank: float = Field(default=1.0, gt=0, le=1)
    dtype: Dtype = "bfloat16"
    max_model_len: int = Field(default=4096, ge=8)
    max_num_seqs: int = Field(default=32, ge=1)
    block_tokens: int = Field(default=32, ge=1)
    kv_cache_mib: int = Field(default=1024, ge=16)
    threads: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.5, ge=0)
    max_queued_requests: int = Field(default=256, ge=0)
    drain_s: float = Field(default=60.0, ge=0)
    prefill: PrefillSpec | None = None
    capture: CaptureSpec | None = None
    step_cost: str | None = None
    step_cost_override: tuple[str, ...] = ()
    stall_limit_s: float | None = Field(default=None, ge=2)
    loras: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], str] = Field(default_factory=dict)
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.tensor_parallel % self.nodes:
            raise ValueError(
                f"tensor_parallel {self.tensor_parallel} cannot be spread evenly over "
                f"{self.nodes} nodes; give a multiple of nodes"
            )
        if "speculative_config" in self.engine_kwargs:
            raise ValueError(
                "engine_kwargs cannot set speculative_config: speculation is what placement, "
                "drafter and native say"
            )
        if self.gpus_per_rank < 1 and self.tensor_parallel > 1:
            raise ValueError(
                "ranks of one replica cannot share a GPU; set gpus_per_rank: 1, or "
                "tensor_parallel: 1"
            )
        return self


class RandomDrafterSpec(Settings):
    """A drafter with random weights, for a path that runs before a drafter is trained."""

    num_layers: int = Field(default=2, ge=1)
    block_size: int = Field(default=7, ge=1)
    markov_rank: int = Field(default=64, ge=0)
    target_layer_ids: tuple[int, ...]
    seed: int = 0


class NgramDrafterSpec(Settings):
    """Lookup of the text's last tokens in the text itself: no weights, no features.

    The last `max_match` tokens are looked for, then fewer, down to `min_match`; what followed
    them is drafted, `block_size` tokens. `confidence_by_match` has a probability for every number
    of tokens, `min_match` first (`dspark confidence ngram` fits them).
    """

    block_size: int = Field(default=7, ge=1)
    min_match: int = Field(default=1, ge=1)
    max_match: int = Field(default=4, ge=1)
    confidence_by_match: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None

    @model_validator(mode="after")
    def _matches_in_order(self) -> Self:
        if self.max_match < self.min_match:
            raise ValueError(f"max_match {self.max_match} is less than min_match {self.min_match}")
        needed = self.max_match - self.min_match + 1
        given = self.confidence_by_match
        if given is not None and len(given) != needed:
            raise ValueError(
                f"confidence_by_match has {len(given)} probabilities; needed are {needed}, for "
                f"matches of {self.min_match} to {self.max_match} tokens"
            )
        return self


class DrafterSpec(ReplicaSpec):
    """One model's drafters: `source` names a checkpoint, `random` describes one with random
    weights, `ngram` (`{}` will do) is lookup in the text.

    `num_gpus` is what one drafter replica (`split`) takes of a GPU. `num_context_tokens` is
    the sliding window over a session's context, `context_mib` the memory for all sessions'
    context. Sampled drafts are drawn from their `num_candidates` likeliest tokens: more of them
    are accepted the more there are, and each travels with its probability (8 bytes).
    `deadline_ms` bounds what a target step waits for a reply. `encrypted` drafters
    talk CURVE, with keys made anew at every start. `calibration` is a profile to start from
    (see `dspark calibrate`), refused where it is another pair's. `acceptance_length` is what
    the drafter's card promises, the bonus token included, or what its training measured: far
    less raises an alarm.
    """

    source: str | None = None
    revision: Revision | None = None
    random: RandomDrafterSpec | None = None
    ngram: NgramDrafterSpec | None = None
    num_gpus: float = Field(default=0, ge=0, le=1)
    dtype: DraftDtype = "auto"
    num_context_tokens: int = Field(default=512, ge=1)
    context_mib: int = Field(default=256, ge=1)
    num_candidates: int = Field(default=32, ge=1, le=1024)
    deadline_ms: float = Field(default=50.0, gt=0)
    encrypted: bool = False
    calibration: str | None = None
    acceptance_length: float | None = Field(default=None, ge=1)
    threads: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.25, ge=0)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.source, self.random, self.ngram)) != 1:
            raise ValueError(
                "give one of source (a checkpoint), random (a description) and ngram (lookup)"
            )
        if self.source is None and self.revision is not None:
            raise ValueError("revision belongs to a source on the hub; there is none")
        if self.device == "cpu" and self.num_gpus:
            raise ValueError("num_gpus needs device: cuda")
        return self


class NativeSpec(Settings):
    """How vLLM's own `method: dspark` drafts and verifies (placement `native`).

    `adaptive_verification` sizes the verified prefix by confidence; it needs an attention
    back end with always-on variable-length graphs (`dspark matrix` says where).
    `sample_drafts`: `probabilistic` verifies against the draft distribution, `greedy` one-hot.
    """

    adaptive_verification: bool = False
    sample_drafts: Literal["probabilistic", "greedy"] = "probabilistic"
