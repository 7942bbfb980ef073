"""Whether a target accepts of its drafter what there is reason to expect.

A drafter can fit its target in every size and still have been trained for another one: the
target was quantised or fine-tuned since, or another revision is served. Nothing fails then,
and drafting brings little. How many tokens a draft has accepted depends on how many the
scheduler admits; what is watched is the share accepted of the tokens tried, each draft's
tokens up to its first rejection, which does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from autoscale.draft_sample import DraftSample

_MIN_TRIED = 200  # tokens in the window, before it says anything
_DEVIATIONS = 4.0  # standard ones that a share may be off by chance ...
_ALIKE = 2.0  # ... where tokens of one text count for so many fewer
_HALF_LIFE_TRIED = 4_000
_USUAL_HALF_LIFE_TRIED = 400_000
_COLLAPSED, _RECOVERED = 0.5, 0.7  # of what is expected


class Expectation(NamedTuple):
    """The share of tried draft tokens that should be accepted, and who says so."""

    rate: float
    source: str


def acceptance_rate(acceptance_length: float, block_size: int) -> float:
    """The share c for which whole drafts commit `acceptance_length` tokens, bonus included.

    Solves 1 + c + ... + c ** block_size = acceptance_length. Raises ValueError for a length
    that is not in 1 to block_size + 1.
    """
    if not 1 <= acceptance_length <= block_size + 1:
        raise ValueError(
            f"acceptance_length {acceptance_length} is not in 1 to {block_size + 1}: a draft has "
            f"{block_size} tokens, and the target adds one"
        )
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(middle**k for k in range(block_size + 1)) < acceptance_length:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class _Share:
    """Accepted of tried tokens, both fading with `half_life_tried`."""

    def __init__(self, half_life_tried: float) -> None:
        self._half_life_tried = half_life_tried
        self.tried = self.accepted = self.claimed = 0.0

    def add(self, tried: float, accepted: float, claimed: float) -> None:
        fade = 0.5 ** (tried / self._half_life_tried)
        self.tried = fade * self.tried + tried
        self.accepted = fade * self.accepted + accepted
        self.claimed = fade * self.claimed + claimed

    @property
    def rate(self) -> float:
        return self.accepted / self.tried if self.tried else 0.0

    def doubt(self, rate: float) -> float:
        """How far from `rate` the share may be by chance alone."""
        return _DEVIATIONS * math.sqrt(_ALIKE * rate * (1 - rate) / self.tried)

    @property
    def claimed_rate(self) -> float:
        return self.claimed / self.tried if self.tried else 0.0


class AcceptanceAlarm:
    """On while surely less than half of what is expected is accepted; off again from 70 % on.

    Where drafting has stopped as it does not pay, a few drafts a minute are all that is seen:
    a share far below is found by 200 tokens, one at 0.8 of the bar by some 2,000.

    Expected is the highest of three: what the drafter's card promises (`promised`, None
    where nobody said), what its own confidences claim before any calibration, as they were
    trained with the target it knows (`is_trained`; one that was not only guesses), and what was
    usual here over the last hundred thousands of tokens. While the alarm is on, the usual is not
    learned.
    """

    def __init__(self, promised: float | None = None, *, is_trained: bool = True) -> None:
        self.active = False
        self._promised = promised
        self._is_trained = is_trained
        self._recent = _Share(_HALF_LIFE_TRIED)
        self._usual = _Share(_USUAL_HALF_LIFE_TRIED)

    @property
    def rate(self) -> float:
        """The share accepted of the tokens tried of late."""
        return self._recent.rate

    @property
    def expected(self) -> Expectation:
        """What it is held against."""
        found = [Expectation(self._usual.rate, "what was usual before")]
        if self._is_trained:
            found.append(Expectation(self._recent.claimed_rate, "its own confidences"))
        if self._promised is not None:
            found.append(Expectation(self._promised, "its card"))
        return max(found)

    def observe(self, drafts: DraftSample) -> None:
        """Outcomes since the last call."""
        tried = drafts.num_accepted + (drafts.num_accepted < drafts.num_admitted)
        was_tried = np.arange(drafts.confidences.shape[1]) < tried[:, None]
        counts = (
            float(tried.sum()),
            float(drafts.num_accepted.sum()),
            float(drafts.confidences[was_tried].sum()),
        )
        self._recent.add(*counts)
        if self._recent.tried >= _MIN_TRIED:
            self.active = self._is_collapsed()
        if not self.active:
            self._usual.add(*counts)

    def _is_collapsed(self) -> bool:
        expected = self.expected.rate
        if self.active:
            return self.rate < _RECOVERED * expected
        bar = _COLLAPSED * expected
        return self.rate < bar - self._recent.doubt(bar)

    def memory(self) -> dict[str, Any]:
        """What a new controller goes on from: the usual, and whether it is on."""
        usual = self._usual
        return {"tried": usual.tried, "accepted": usual.accepted, "active": self.active}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from another's `memory`. Raises ValueError for what none can be."""
        try:
            tried, accepted = float(memory["tried"]), float(memory["accepted"])
            active = memory["active"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no memory of an acceptance alarm: {error!r}") from None
        if not (0 <= accepted <= tried < math.inf and isinstance(active, bool)):
            raise ValueError(f"accepted {accepted} of {tried} tried tokens, active {active!r}")
        self._usual.tried, self._usual.accepted, self.active = tried, accepted, active

    def snapshot(self) -> dict[str, Any]:
        """As plain values; shares are of the tokens tried."""
        expected = self.expected
        return {
            "rate": round(self.rate, 4),
            "expected_rate": round(expected.rate, 4),
            "expected_by": expected.source,
            "recent_tokens": round(self._recent.tried),
            "collapsed": self.active,
        }
