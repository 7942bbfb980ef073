"""How many draft tokens of each request a step verifies.

Pure decisions: the engine's adapter asks, before drafts are requested, whether a
policy wants any, and afterwards how many of them are admitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Off:
    """No drafts: plain decoding. Features keep flowing, so drafting can resume warm."""

    @property
    def wants_drafts(self) -> bool:
        return False

    def admit(self, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros_like(limits)


@dataclass(frozen=True, slots=True)
class Fixed:
    """The first `k` draft tokens of every request, whatever the load."""

    k: int

    @property
    def wants_drafts(self) -> bool:
        return self.k > 0

    def admit(self, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draft tokens to verify per request: `limits` is `[R]`, what each can take."""
        return np.minimum(limits, self.k)


Policy = Off | Fixed


def policy_from_dict(settings: dict[str, Any]) -> Policy:
    """`{"kind": "off"}` or `{"kind": "fixed", "k": 7}`.

    Raises ValueError for anything else, saying what is accepted.
    """
    match settings:
        case {"kind": "off", **rest} if not rest:
            return Off()
        case {"kind": "fixed", "k": int(k), **rest} if not rest and k >= 1:
            return Fixed(k)
    raise ValueError(
        f"policy {settings!r} is not one of {{kind: off}} and {{kind: fixed, k: 1 or more}}"
    )
