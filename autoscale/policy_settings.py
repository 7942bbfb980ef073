"""From a `policy` setting to the policy it names."""

from __future__ import annotations

from typing import Any

from autoscale.causal_policy import Causal, Lookahead
from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.policies import Fixed, Off, Policy, Threshold
from autoscale.step_cost import StepCostTable

FORMS = (
    "{kind: off}",
    "{kind: fixed, k: 1 or more}",
    "{kind: threshold, least_survival: above 0, at most 1}",
    "{kind: causal}",
    "{kind: lookahead}",
)


def make_policy(
    settings: dict[str, Any],
    step_cost: StepCostTable,
    drafts: DraftExperience = NO_EXPERIENCE,
) -> Policy:
    """A new policy of one of the forms in `FORMS`; `drafts` is what is known of drafting.

    Raises ValueError for anything else, saying what is accepted.
    """
    match settings:
        case {"kind": "off", **rest} if not rest:
            return Off()
        case {"kind": "fixed", "k": int(k), **rest} if not rest and k >= 1 and k is not True:
            return Fixed(k)
        case {"kind": "threshold", "least_survival": float(p) | int(p), **rest} if (
            not rest and 0 < p <= 1
        ):
            return Threshold(float(p))
        case {"kind": "causal", **rest} if not rest:
            return Causal(step_cost, drafts)
        case {"kind": "lookahead", **rest} if not rest:
            return Lookahead(step_cost, drafts)
    raise ValueError(f"policy {settings!r} is not one of {', '.join(FORMS)}")


def check_policy(settings: dict[str, Any]) -> None:
    """Raises ValueError where `make_policy` would."""
    make_policy(settings, StepCostTable((1, 2), (1.0, 1.0)))
