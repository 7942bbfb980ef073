"""Which drafter each target uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping


def assign_drafters(
    targets: Collection[str], drafters: Collection[str], current: Mapping[str, str]
) -> dict[str, str]:
    """Give every target a drafter: balanced to one target, and moving only what must move.

    A target keeps its drafter, and with it its sessions' context, unless that drafter is
    gone or carries more than an even share. Targets without a place go to the least
    loaded drafter; ties go by name, so the result depends on the input alone. Empty when
    there are no drafters.
    """
    if not drafters:
        return {}
    share, over = divmod(len(targets), len(drafters))
    had = Counter(current[target] for target in targets if target in current)
    # As many as the targets do not divide evenly by may keep one more than the others.
    fuller = [drafter for drafter in sorted(drafters) if had[drafter] > share][:over]
    load: Counter[str] = Counter(dict.fromkeys(drafters, 0))
    assigned: dict[str, str] = {}
    for target in sorted(targets):
        drafter = current.get(target, "")
        if drafter in load and load[drafter] < share + (drafter in fuller):
            assigned[target] = drafter
            load[drafter] += 1
    for target in sorted(set(targets) - set(assigned)):
        drafter = min(load, key=lambda name: (load[name], name))
        assigned[target] = drafter
        load[drafter] += 1
    return assigned
