"""Policies as the command line names them, and what each asks of a model that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]
LOCAL: Policy = {"kind": "local"}
"""Ours for `causal` without anything from the fleet: its target goes by local rules alone."""

_WITHOUT_VALUE = ("causal", "lookahead", "local", "off")


def parse_policy(text: str) -> Policy:
    """`causal`, `local`, `fixed:3` or `threshold:0.3` as the policy setting it stands for.

    Raises ValueError.
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "fixed":
            return {"kind": kind, "k": int(value)}
        if kind == "threshold":
            return {"kind": kind, "least_survival": float(value)}
    except ValueError:
        pass
    if text in _WITHOUT_VALUE:
        return {"kind": kind}
    known = ", ".join(_WITHOUT_VALUE)
    raise ValueError(f"policy {text!r}: write {known}, fixed:3 or threshold:0.3")


def controls_of(policy: Policy) -> dict[str, Any]:
    """What a model's controls have to be for its targets to go by the policy."""
    if policy == LOCAL:
        return {"policy": {"kind": "causal"}, "plan": False}
    return {"policy": dict(policy), "plan": None}


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """The policies that each model of our drafting is measured with: its own where it is named,
    those of all others elsewhere."""

    of_others: tuple[Policy, ...]
    of_model: Mapping[str, tuple[Policy, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> PolicyChoice:
        """Of `fixed:3 causal mtp=fixed:1,fixed:2`. Raises ValueError."""
        named = [text.partition("=") for text in texts if "=" in text]
        of_model: dict[str, tuple[Policy, ...]] = {}
        for model, _, policies in named:
            if model in of_model:
                raise ValueError(f"--policies names {model} twice; write {model}=fixed:3,causal")
            of_model[model] = tuple(map(parse_policy, policies.split(",")))
        of_others = tuple(parse_policy(text) for text in texts if "=" not in text)
        return cls(of_others, of_model)

    def of(self, model_id: str) -> tuple[Policy, ...]:
        return self.of_model.get(model_id, self.of_others)
