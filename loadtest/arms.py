"""What is compared: a served model, and the policy its drafts are verified by."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

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
    policy: Mapping[str, Any] | None = None
    label: str = ""
    dialect: str = VLLM
    gpus: Gpus | None = NO_GPUS

    @property
    def name(self) -> str:
        """`split fixed 3`, `split causal`, `off`."""
        return " ".join([self.label or self.model, *map(str, (self.policy or {}).values())])

    @classmethod
    def of_models(
        cls, models: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]]
    ) -> Iterator[Arm]:
        """The models of a Serve file: those of our drafting once with every policy; engines
        that are attached draft by themselves."""
        for model in models:
            placement = "attached" if "attach" in model else model.get("placement", "split")
            gpus = Gpus.of_model(model) if placement != "attached" else None
            if placement in ("split", "colocated"):
                yield from (cls(model["id"], policy, gpus=gpus) for policy in policies)
            else:
                yield cls(model["id"], gpus=gpus)


def parse_policy(text: str) -> dict[str, Any]:
    """`causal`, `fixed:3` or `threshold:0.3` as the policy setting it stands for.

    Raises ValueError.
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "fixed":
            return {"kind": kind, "k": int(value)}
        if kind == "threshold":
            return {"kind": kind, "least_survival": float(value)}
        if not value:
            return {"kind": kind}
    except ValueError:
        pass
    raise ValueError(f"policy {text!r}: write causal, off, fixed:3 or threshold:0.3")


def switch_to(url: str, arm: Arm, headers: Mapping[str, str]) -> None:
    """Let the arm's model use the arm's policy; returns when all its targets do.

    Raises `httpx.HTTPStatusError` when the server refuses it, RuntimeError when a target
    does not follow.
    """
    if arm.policy is None:
        return
    change = {"policy": arm.policy}
    path = f"{url}/fleet/models/{arm.model}"
    httpx.patch(path, json=change, headers=headers).raise_for_status()
    deadline = time.monotonic() + _SWITCH_TIMEOUT_S
    while time.monotonic() < deadline:
        fleet = httpx.get(f"{url}/fleet", headers=headers).raise_for_status().json()
        targets = fleet["models"].get(arm.model, {"targets": []})["targets"]
        if targets and all(t["stats"].get("policy") == arm.policy for t in targets):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the targets of {arm.model} do not take up {arm.policy}")
