"""Bad days: the same load for every arm, and what is watched of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.phases import Phase, Request, poisson_times
from loadtest.prompts import PROMPTS

SHORT, LONG = "interactive", "batch"
TARGET, DRAFTER = "target", "drafter"
_OUTPUT_TOKENS = 64
_STOCK = ("ray.serve.llm", "stock.yaml")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`requests` of a capacity, in requests of the usual size per second, and a seed.

    `watched` says which requests are summed up. The first replica of kind `slowed`, one of
    TARGET and DRAFTER, runs for a share `speed` of the time; an arm without one runs as it is.
    `beside` are the arms that ours is compared with, by name and Serve file in `loadtest/configs`;
    the capacity is the last one's.
    """

    name: str
    what: str
    requests: Callable[[float, int], list[Request]]
    watched: Callable[[Request], bool] = lambda request: True
    slowed: str = TARGET
    speed: float = 1.0
    beside: tuple[tuple[str, str], ...] = (_STOCK,)


def usual(times: Sequence[float]) -> list[Request]:
    """Short prompts of mixed domains, 64 tokens each."""
    return [
        Request(at_s, f"{i}. {PROMPTS[i % len(PROMPTS)]}", _OUTPUT_TOKENS, SHORT)
        for i, at_s in enumerate(times)
    ]


def _burst(capacity_per_s: float, seed: int) -> list[Request]:
    calm = 0.5 * capacity_per_s
    phases = (Phase(5, calm), Phase(10, 5 * capacity_per_s), Phase(15, calm))
    return usual(poisson_times(phases, seed))


def _slow_node(capacity_per_s: float, seed: int) -> list[Request]:
    return usual(poisson_times((Phase(40, 0.5 * capacity_per_s),), seed))


def _full(capacity_per_s: float, seed: int) -> list[Request]:
    return usual(poisson_times((Phase(30, 1.5 * capacity_per_s),), seed))


def _long_prompts(capacity_per_s: float, seed: int) -> list[Request]:
    short = usual(poisson_times((Phase(30, 0.4 * capacity_per_s),), seed))
    times = poisson_times((Phase(30, 0.05 * capacity_per_s),), seed + 1)
    return sorted([*short, *map(_long, times)], key=lambda request: request.at_s)


def _long(at_s: float) -> Request:
    """About as long as the demo takes, each another from its first word on."""
    start = int(1000 * at_s)
    words = " ".join(f"{start + i} {PROMPTS[(start + i) % len(PROMPTS)]}" for i in range(60))
    return Request(at_s, words, 16, LONG)


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("burst", "5x capacity for 10 s, half of it before and for 15 s after", _burst),
        Scenario("slow-node", "half of capacity, one target at half speed", _slow_node,
                 speed=0.5),
        Scenario("long-prompts", "short streams at 0.4x capacity beside long prompts",
                 _long_prompts, watched=lambda request: request.service_class == SHORT,
                 beside=(("prefill-control", "promises-prefill.yaml"), _STOCK)),
        Scenario("drafters-starved", "1.5x capacity, the only drafter at a quarter of its speed",
                 _full, slowed=DRAFTER, speed=0.25, beside=(("off", "promises-off.yaml"),)),
    )
}  # fmt: skip
