"""To which replica a request goes.

Of two replicas drawn at random, and the one that knows most of the prompt where it knows more than
both, to the one that will be done with it first: outstanding work, and the request's own less
what is in the prefix cache, over speed. Affinity thus wins where reading the prompt again costs
more than waiting behind others does, and nowhere else. Two random ones instead of the best of all:
many routers with the same numbers, a second old, would all send to the same replica. So would they
with a prefix that all replicas know: it draws nobody.
"""

from __future__ import annotations

import random
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

_SPEEDS = (1 / 8, 8.0)  # relative to the others', that are believed


class Candidate(NamedTuple):
    """A replica as a router sees it: work in output tokens, speed 1 where it is like others.

    `known_work` of the request has been done there already. One that `is_full` comes into
    question where all are.
    """

    outstanding_work: float
    speed: float = 1.0
    known_work: float = 0.0
    is_full: bool = False


def rank(candidates: Sequence[Candidate], work: float, rng: random.Random) -> list[int]:
    """Indices of the candidates that came into question, the best first."""
    if not candidates:
        return []
    free = [i for i, one in enumerate(candidates) if not one.is_full] or range(len(candidates))
    drawn = _draw_two(free, [candidates[i].speed for i in free], rng)
    most_known = max(candidates[i].known_work for i in free)
    if most_known > max(candidates[i].known_work for i in drawn):
        drawn.append(rng.choice([i for i in free if candidates[i].known_work == most_known]))
    return sorted(drawn, key=lambda i: _done_after(candidates[i], work))


def _done_after(candidate: Candidate, work: float) -> float:
    own = max(work - candidate.known_work, 0.0)
    return (candidate.outstanding_work + own) / candidate.speed


def _draw_two(these: Sequence[int], weights: Sequence[float], rng: random.Random) -> list[int]:
    """Two different ones, or the only one, in random order, drawn by weight."""
    first = _draw(weights, rng)
    if len(these) == 1:
        return [these[first]]
    second = _draw([*weights[:first], *weights[first + 1 :]], rng)
    return [these[first], these[second + (second >= first)]]


def _draw(weights: Sequence[float], rng: random.Random) -> int:
    """A place in `weights`, drawn by them; what `rng.choices` would draw, without its checks."""
    up_to = list(accumulate(weights))
    return bisect_right(up_to, rng.random() * up_to[-1], 0, len(up_to) - 1)


def relative_speeds(token_s: Sequence[float | None]) -> list[float]:
    """Speeds from seconds per token at equal load; 1 where one says nothing, or all do."""
    known = [seconds for seconds in token_s if seconds]
    if not known:
        return [1.0] * len(token_s)
    usual = statistics.median_low(known)
    least, most = _SPEEDS
    return [min(max(usual / seconds, least), most) if seconds else 1.0 for seconds in token_s]
