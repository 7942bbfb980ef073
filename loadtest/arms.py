"""What is compared: a served model, and the policy its drafts are verified by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

_SWITCH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Arm:
    """A model id and a policy; None where the model does not draft."""

    model: str
    policy: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """`split fixed 3`, `split causal`, `off`."""
        return " ".join([self.model, *map(str, (self.policy or {}).values())])


def parse_policy(text: str) -> dict[str, Any]:
    """`causal` or `fixed:3` as the policy setting it stands for. Raises ValueError."""
    kind, _, k = text.partition(":")
    return {"kind": kind, "k": int(k)} if k else {"kind": kind}


def arms_of(models: Sequence[dict[str, Any]], policies: Sequence[dict[str, Any]]) -> list[Arm]:
    """The models that do not draft, and the others once with every policy."""
    return [
        arm
        for model in models
        for arm in (
            [Arm(model["id"])]
            if model.get("placement") in ("off", False)
            else [Arm(model["id"], policy) for policy in policies]
        )
    ]


def switch_to(url: str, arm: Arm) -> None:
    """Let the arm's model use the arm's policy; returns when all its targets do.

    Raises `httpx.HTTPStatusError` when the server refuses it, RuntimeError when a target
    does not follow.
    """
    if arm.policy is None:
        return
    change = {"policy": arm.policy}
    httpx.patch(f"{url}/fleet/models/{arm.model}", json=change).raise_for_status()
    deadline = time.monotonic() + _SWITCH_TIMEOUT_S
    while time.monotonic() < deadline:
        fleet = httpx.get(f"{url}/fleet").raise_for_status().json()
        targets = fleet["models"].get(arm.model, {"targets": []})["targets"]
        if targets and all(t["stats"].get("policy") == arm.policy for t in targets):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the targets of {arm.model} do not take up {arm.policy}")
