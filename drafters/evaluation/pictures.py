"""Whether pictures can be drawn here; `drafters.evaluation.plots` cannot be imported otherwise."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec


def can_draw(progress: Callable[[str], None]) -> bool:
    """Whether matplotlib is installed; where it is not, `progress` hears of it."""
    if find_spec("matplotlib") is None:
        progress("no pictures: matplotlib is not installed; with it, run the same command again")
        return False
    return True
