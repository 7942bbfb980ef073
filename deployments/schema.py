"""The settings of an application: what stands under `args` in a Serve file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, ValidationError, field_validator, model_validator

from autoscale.policy_settings import check_policy
from autoscale.service_class import BEST_EFFORT, ServiceClass
from deployments.attach.spec import AttachedModelSpec, AttachSpec, is_attached
from deployments.class_specs import ClassSpec, KeySpec
from deployments.errors import ConfigError
from deployments.key_ring import check_keys
from deployments.request_limits import LimitSpec
from deployments.specs import (
    DrafterSpec,
    NativeSpec,
    NgramDrafterSpec,
    RandomDrafterSpec,
    Settings,
    TargetSpec,
)
from deployments.tracing.spec import TracingSpec

__all__ = [
    "DRAFTED_BY_US",
    "AppSpec",
    "AttachSpec",
    "AttachedModelSpec",
    "ClassSpec",
    "DrafterSpec",
    "KeySpec",
    "LimitSpec",
    "ModelSpec",
    "NativeSpec",
    "NgramDrafterSpec",
    "Placement",
    "RandomDrafterSpec",
    "TargetSpec",
    "TracingSpec",
    "parse_settings",
]

Placement = Literal["split", "colocated", "native", "off"]
# Where our adapter runs in the target's workers, with its policy, plan and statistics.
DRAFTED_BY_US: tuple[Placement, ...] = ("split", "colocated")
# What of a drafter means something only where it is a replica of its own.
_OF_REPLICAS = frozenset(
    {
        *("replicas", "scaling", "num_gpus", "gpu_memory_gib", "num_cpus"),
        *("resources", "env", "threads", "deadline_ms", "encrypted"),
    }
)


class ModelSpec(Settings):
    """One served model: its id in the API, its target, and how it is drafted for."""

    id: str = Field(min_length=1, pattern=r"^[^:\s]+$")  # a colon names a LoRA adapter
    target: TargetSpec
    placement: Placement = "split"
    drafter: DrafterSpec | None = None
    policy: dict[str, Any] = Field(default_factory=lambda: {"kind": "causal"})
    native: NativeSpec = NativeSpec()

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
    def _placement_has_what_it_needs(self) -> Self:
        refusal = _refusal(self)
        if refusal is not None:
            raise ValueError(refusal)
        return self


def _refusal(model: ModelSpec) -> str | None:
    """Why target, drafter and placement do not go together; None when they do."""
    placement, drafter = model.placement, model.drafter
    if placement in DRAFTED_BY_US and drafter is None:
        return f"placement {placement} needs a drafter; or set placement: off"
    if placement == "native" and model.target.device == "cpu":
        return "placement native is vLLM's own drafting on GPUs; set target.device: cuda, or split"
    if placement == "native" and model.target.loras:
        return "vLLM's own drafting would draft for adapters too; use another placement for loras"
    if placement == "native" and model.target.prefill is not None:
        return "target.prefill is not for placement native; remove it"
    if placement == "native" and "policy" in model.model_fields_set:
        return "with placement native vLLM decides what to verify; remove policy, see native"
    if drafter is None or placement == "off":  # what stands there waits for another placement
        return None
    without_effect = sorted(drafter.model_fields_set & _OF_REPLICAS)
    if placement != "split" and without_effect:
        names = ", ".join(f"drafter.{name}" for name in without_effect)
        return f"placement {placement} has no drafter replicas; remove {names}, or set split"
    if placement == "native" and drafter.calibration and not model.native.adaptive_verification:
        return (
            "vLLM reads confidences where native.adaptive_verification is true; set that, or "
            "remove drafter.calibration"
        )
    if placement == "native" and drafter.source is None:
        return "placement native loads a checkpoint; give drafter.source"
    if placement != "split" and drafter.device != model.target.device:
        return (
            f"placement {placement} drafts on the target's device; "
            f"set drafter.device: {model.target.device}"
        )
    if placement == "split" and drafter.device == "cuda" and not drafter.num_gpus:
        return "a drafter replica on a GPU takes a share of one; set drafter.num_gpus, 1 or less"
    return None


def _served_model(entry: object) -> ModelSpec | AttachedModelSpec:
    """By whether it says `attach`: errors are then those of one kind, not of both."""
    kind = AttachedModelSpec if is_attached(entry) else ModelSpec
    return kind.model_validate(entry)


ServedModel = Annotated[ModelSpec | AttachedModelSpec, PlainValidator(_served_model)]


class IngressSpec(Settings):
    """`replicas` take requests in, wherever Serve's proxies find them. A stream ends with the one
    it runs through; keys' quotas are shared among them evenly."""

    replicas: int = Field(default=1, ge=1, le=64)


class AppSpec(Settings):
    """Everything `deployments.app:build_app` takes.

    `state_dir` is a directory of the controller's node where what the fleet learned of its
    drafters and engines is kept (calibration and step-cost profiles); without one it is lost
    with the last replica. Requests are of the first of `classes` unless their key or header
    says otherwise. With `keys` or a `keys_file` there is no request without one of them; the
    file, a YAML list of the same on every node with an ingress, is read again when it changes.
    `request_log` is a directory of the ingress' node for a line per request
    (`deployments.request_log`). With `tracing` some requests are traced (`deployments.tracing`).
    `ingress` says how many take requests in.
    """

    models: tuple[ServedModel, ...] = Field(min_length=1)
    state_dir: str | None = None
    request_log: str | None = None
    tracing: TracingSpec | None = None
    classes: tuple[ClassSpec, ...] = ()
    keys: tuple[KeySpec, ...] = ()
    keys_file: str | None = None
    limits: LimitSpec = LimitSpec()
    ingress: IngressSpec = IngressSpec()

    @property
    def launched(self) -> tuple[ModelSpec, ...]:
        """The models whose engines are ours."""
        return tuple(one for one in self.models if isinstance(one, ModelSpec))

    @property
    def attached(self) -> tuple[AttachedModelSpec, ...]:
        """The models whose engines somebody else launched."""
        return tuple(one for one in self.models if isinstance(one, AttachedModelSpec))

    @property
    def promises(self) -> dict[str, ServiceClass]:
        """The classes by name, the default one first; without any, one without a promise."""
        promises = [one.promise() for one in self.classes] or [BEST_EFFORT]
        return {one.name: one for one in promises}

    @model_validator(mode="after")
    def _distinct_ids(self) -> Self:
        for what, ids in (
            ("model ids", [model.id for model in self.models]),
            ("names of classes", [one.name for one in self.classes]),
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"{what} must differ, found {ids}")
        return self

    @model_validator(mode="after")
    def _keys_name_classes(self) -> Self:
        check_keys(self.keys, self.promises)
        return self


def parse_settings(args: object) -> AppSpec:
    """Raises ConfigError with one line per wrong field."""
    try:
        return AppSpec.model_validate(args)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'args'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(["the application's settings are wrong:", *lines])) from None
