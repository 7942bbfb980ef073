"""Which law for the weights of service classes serves best: a search over laws, under pressure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np

from autoscale.plan import WeightLaw, make_plans
from autoscale.simulation.experiment import CAUSAL
from autoscale.simulation.fleet import PLAN_FIELDS, Arm
from autoscale.simulation.report import Ratio, by_seed, paired_ratio
from autoscale.simulation.results import Result

LAWS = tuple(
    WeightLaw(gain, most) for most, gain in product((1.25, 1.5, 2.0, 2.5, 3.0, 5.0), (8.0, 32.0))
)
PRESSURE = ("load 90%", "load 100%", "load 120%")
_LEAST_THROUGHPUT = 0.99
_UNWEIGHTED = "unweighted"


def arms_of_laws(laws: Sequence[WeightLaw] = LAWS) -> list[Arm]:
    """The default with every law, and without weights."""
    weighted = [Arm(_name(law), CAUSAL, PLAN_FIELDS, partial(make_plans, law=law)) for law in laws]
    return [Arm(_UNWEIGHTED, CAUSAL, PLAN_FIELDS - {"class_weights"}), *weighted]


def best_law(results: Sequence[Result]) -> str | None:
    """That by which the latency class gains most over all regimes, of those that cost at most a
    percent of throughput in any; None where all cost more."""
    regimes = list(dict.fromkeys(one.regime for one in results))
    names = [name for name in dict.fromkeys(one.arm for one in results) if name != _UNWEIGHTED]
    gains = {
        name: float(np.mean([_points(results, regime, name) for regime in regimes]))
        for name in names
        if all(
            _ratio(results, regime, name, "tokens_per_s").mean >= _LEAST_THROUGHPUT
            for regime in regimes
        )
    }
    return max(gains, key=lambda name: gains[name]) if gains else None


def search_report(results: Sequence[Result]) -> str:
    """Markdown: what every law brings to the latency class and costs, and the best of them."""
    regimes = list(dict.fromkeys(one.regime for one in results))
    lines = [
        "Points of the latency class's promises kept beyond those without weights; of the batch "
        "class's; throughput over that without:",
        "",
        f"| law | {' | '.join(regimes)} |",
        "|---" * (len(regimes) + 1) + "|",
    ]
    for name in dict.fromkeys(one.arm for one in results):
        if name == _UNWEIGHTED:
            continue
        cells = [
            f"{_points(results, regime, name):+.1f}, "
            f"{_points(results, regime, name, 'batch_attainment'):+.1f}, "
            f"{_ratio(results, regime, name, 'tokens_per_s')}"
            for regime in regimes
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    best = best_law(results)
    lines += ["", f"Best within a percent of throughput: {best or 'none'}."]
    return "\n".join(lines)


def _name(law: WeightLaw) -> str:
    return f"gain {law.gain:g}, at most {law.most:g}"


def _of(results: Sequence[Result], regime: str) -> list[Result]:
    return [one for one in results if one.regime == regime]


def _points(
    results: Sequence[Result], regime: str, name: str, measure: str = "latency_attainment"
) -> float:
    some = _of(results, regime)
    gained = np.array(by_seed(some, name, measure)) - by_seed(some, _UNWEIGHTED, measure)
    return float(100 * gained.mean())


def _ratio(results: Sequence[Result], regime: str, name: str, measure: str) -> Ratio:
    some = _of(results, regime)
    return paired_ratio(by_seed(some, name, measure), by_seed(some, _UNWEIGHTED, measure))
