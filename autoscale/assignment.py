"""Which drafter each target uses."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

_BAND = 0.25  # of a drafter's mean load: what differs by less is noise
_LEAST_WEIGHT = 0.25  # of a usual target: an idle one may draft in the next second
_IDLE_PER_S = 0.1  # drafts of a target: where all want fewer, nothing is known of them
_TINY = 1e-9  # of a target: sums of the same weights differ so little


def assign_drafters(
    targets: Collection[str],
    drafters: Collection[str],
    current: Mapping[str, str],
    drafts_per_s: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Give every target a drafter: loads balanced, and moving only what must move.

    Targets weigh by the drafts they want, and alike where that is unknown: then drafters come to
    the same number of targets, but for one. A target keeps its drafter, and with it its
    sessions' context, unless that drafter is gone, or has so much more to do than another that
    it still has as much when the target has gone there. What is known differs by more than a
    quarter of a drafter's mean load before anything moves for it. Targets without a place go to
    the least loaded drafter, the heaviest first; ties go by name, so the result depends on the
    input alone. Empty when there are no drafters.
    """
    if not drafters:
        return {}
    weights = _weights(targets, drafts_per_s or {})
    assigned = {t: current[t] for t in sorted(targets) if current.get(t) in drafters}
    loads = dict.fromkeys(sorted(drafters), 0.0)
    for target, drafter in assigned.items():
        loads[drafter] += weights[target]
    for target in sorted(set(targets) - assigned.keys(), key=lambda t: (-weights[t], t)):
        drafter = min(loads, key=lambda name: loads[name])
        assigned[target] = drafter
        loads[drafter] += weights[target]
    is_known = any(weight != 1.0 for weight in weights.values())
    band = _BAND * math.fsum(loads.values()) / len(loads) if is_known else 0.0
    while (move := _move(assigned, weights, loads, band)) is not None:
        target, drafter = move
        loads[assigned[target]] -= weights[target]
        loads[drafter] += weights[target]
        assigned[target] = drafter
    return assigned


def _weights(targets: Collection[str], drafts_per_s: Mapping[str, float]) -> dict[str, float]:
    """1 on average."""
    known = [drafts_per_s[target] for target in targets if target in drafts_per_s]
    mean = math.fsum(known) / len(known) if known else 0.0
    if mean < _IDLE_PER_S:
        return dict.fromkeys(targets, 1.0)
    return {t: max(drafts_per_s.get(t, mean) / mean, _LEAST_WEIGHT) for t in targets}


def _move(
    assigned: Mapping[str, str],
    weights: Mapping[str, float],
    loads: Mapping[str, float],
    band: float,
) -> tuple[str, str] | None:
    """The heaviest target of the fullest drafter that can go to the emptiest and leave it no
    fuller than the one it comes from; None where no drafter has one."""
    emptiest = min(loads, key=lambda name: loads[name])
    of_drafter: dict[str, list[str]] = {name: [] for name in loads}
    for target, drafter in assigned.items():
        of_drafter[drafter].append(target)
    for drafter in sorted(loads, key=lambda name: (loads[name], name), reverse=True):
        above = loads[drafter] - loads[emptiest]
        if above <= band:
            return None
        fit = [target for target in of_drafter[drafter] if 2 * weights[target] <= above + _TINY]
        if fit:
            return max(fit, key=lambda target: (weights[target], target)), emptiest
    return None
