"""What is compared: a served model, and the policy its drafts are verified by."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from loadtest.policies import Policy, PolicyChoice, controls_of

VLLM, LLAMA_CPP, OPENAI = "vllm", "llama.cpp", "openai"
"""Whose request fields a server takes beside the API's own."""

_SWITCH_TIMEOUT_S = 30.0


class Gpus(NamedTuple):
    """What a replica of the target holds, and each drafter beside it; fractions of shared ones."""

    target: float = 0.0
    drafter: float = 0.0

    @classmethod
    def of_model(cls, model: Mapping[str, Any]) -> Gpus:
        """By a model's settings in a Serve file."""
        target, drafter = model.get("target", {}), model.get("drafter", {})
        ranks = target.get("tensor_parallel", 1) * target.get("gpus_per_rank", 1.0)
        return cls(
            float(ranks) if target.get("device", "cpu") == "cuda" else 0.0,
            float(drafter.get("num_gpus", 0.0)),
        )


NO_GPUS = Gpus()


@dataclass(frozen=True, slots=True)
class Arm:
    """A model id and a policy; None where the model does not draft, or by a policy of its own.

    `label` names it where the model's id does not. `dialect` is one of `VLLM`, `LLAMA_CPP` and
    `OPENAI`, which has nothing of its own. `gpus` is None where nobody says what it holds.
    """

    model: str
    policy: Policy | None = None
    label: str = ""
    dialect: str = VLLM
    gpus: Gpus | None = NO_GPUS

    @property
    def name(self) -> str:
        """`split fixed 3`, `split causal`, `split local`, `off`."""
        return " ".join([self.label or self.model, *map(str, (self.policy or {}).values())])

    @classmethod
    def of_models(
        cls, models: Sequence[Mapping[str, Any]], policies: PolicyChoice
    ) -> Iterator[Arm]:
        """The models of a Serve file: those of our drafting once with every policy of theirs;
        engines that are attached draft by themselves."""
        for model in models:
            gpus = Gpus.of_model(model) if "attach" not in model else None
            if is_drafted_by_us(model):
                policies_of = policies.of(model["id"])
                yield from (cls(model["id"], policy, gpus=gpus) for policy in policies_of)
            else:
                yield cls(model["id"], gpus=gpus)


def is_drafted_by_us(model: Mapping[str, Any]) -> bool:
    """Whether a model of a Serve file goes by a policy of ours."""
    return "attach" not in model and model.get("placement", "split") in ("split", "colocated")


def switch_to(url: str, arm: Arm, headers: Mapping[str, str]) -> None:
    """Let the arm's model use the arm's policy; returns when all its targets do.

    Raises `httpx.HTTPStatusError` when the server refuses it, RuntimeError when a target
    does not follow.
    """
    if arm.policy is None:
        return
    controls = controls_of(arm.policy)
    path = f"{url}/fleet/models/{arm.model}"
    httpx.patch(path, json=controls, headers=headers).raise_for_status()
    deadline = time.monotonic() + _SWITCH_TIMEOUT_S
    while time.monotonic() < deadline:
        fleet = httpx.get(f"{url}/fleet", headers=headers).raise_for_status().json()
        targets = fleet["models"].get(arm.model, {"targets": []})["targets"]
        if targets and all(_goes_by(target["stats"], controls) for target in targets):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the targets of {arm.model} do not take up {controls}")


def _goes_by(stats: Mapping[str, Any], controls: Mapping[str, Any]) -> bool:
    has_plan_as_asked = stats.get("controls", {}).get("plan") == controls["plan"]
    return bool(stats.get("policy") == controls["policy"] and has_plan_as_asked)
