"""From a `policy` setting to the policy it names."""

from __future__ import annotations

from typing import Any

from autoscale.causal_policy import Causal
from autoscale.policies import Fixed, Off, Policy
from autoscale.step_cost import StepCostTable


def make_policy(settings: dict[str, Any], step_cost: StepCostTable) -> Policy:
    """A new policy of `{kind: off}`, `{kind: fixed, k: 7}` or `{kind: causal}`.

    Raises ValueError for anything else, saying what is accepted.
    """
    match settings:
        case {"kind": "off", **rest} if not rest:
            return Off()
        case {"kind": "fixed", "k": int(k), **rest} if not rest and k >= 1:
            return Fixed(k)
        case {"kind": "causal", **rest} if not rest:
            return Causal(step_cost)
    raise ValueError(
        f"policy {settings!r} is not one of {{kind: off}}, {{kind: fixed, k: 1 or more}} and "
        "{kind: causal}"
    )


def check_policy(settings: dict[str, Any]) -> None:
    """Raises ValueError where `make_policy` would."""
    make_policy(settings, StepCostTable((1, 2), (1.0, 1.0)))
