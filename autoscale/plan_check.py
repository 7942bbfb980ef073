"""What of a plan can be followed: every field is judged alone, and what cannot be is left out.

A plan comes from another process, of another version or gone wrong. Whoever follows one asks
here first, so that nonsense costs the field it is in and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from autoscale.plan import NO_PLAN, ReplicaPlan

_MAX_CLASSES = 64
# From, to (both included): of a number, or of every value where a field is by class.
_BOUNDS: dict[str, tuple[float, float]] = {
    "expected_requests": (0.0, 65536.0),
    "expected_prefill_tokens": (0.0, float(1 << 24)),
    "class_weights": (0.1, 10.0),
}
_BY_CLASS = ("class_weights",)


class Checked(NamedTuple):
    """The plan without what cannot be followed, and the names of what was left out."""

    plan: ReplicaPlan
    refused: tuple[str, ...]


def checked(plan: ReplicaPlan) -> Checked:
    """Refused fields are as in `NO_PLAN`: local rules decide."""
    refused = [f.name for f in fields(ReplicaPlan) if not _is_usable(f.name, getattr(plan, f.name))]
    usable = replace(plan, **{name: getattr(NO_PLAN, name) for name in refused})
    return Checked(usable, tuple(refused))


def plan_from_plain(plain: Mapping[str, Any]) -> Checked:
    """From `dataclasses.asdict` of a plan; unknown fields are refused, missing ones neutral."""
    known = {f.name for f in fields(ReplicaPlan)}
    plan, refused = checked(ReplicaPlan(**{k: v for k, v in plain.items() if k in known}))
    return Checked(plan, (*refused, *sorted(plain.keys() - known)))


def _is_usable(name: str, value: object) -> bool:
    if name in _BY_CLASS:
        if not isinstance(value, Mapping) or len(value) > _MAX_CLASSES:
            return False
        return all(isinstance(key, str) and _is_within(name, one) for key, one in value.items())
    if value is None:
        return True
    return _is_within(name, value)


def _is_within(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    lowest, highest = _BOUNDS[name]
    return lowest <= value <= highest  # of NaN neither holds
