"""The best law for weights of service classes is chosen by what it brings and costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.fleet_load import ClassOutcomes, ReplicaLoad
from autoscale.plan import WeightLaw
from autoscale.service_class import ServiceClass
from autoscale.simulation.weight_search import arms_of_laws, best_law, search_report
from tests.unit.autoscale.simulation.test_report import RESULT

REGIMES = ("load 90%", "load 120%")


def runs(arm, attainment, tokens_per_s):
    """Two seeds in each regime."""
    return [
        replace(
            RESULT,
            regime=regime,
            arm=arm,
            seed=seed,
            latency_attainment=attainment,
            tokens_per_s=tokens_per_s,
        )
        for regime in REGIMES
        for seed in range(2)
    ]


FOUND = [
    *runs("unweighted", 0.80, 100.0),
    *runs("mild", 0.82, 99.8),
    *runs("strong", 0.83, 99.2),
    *runs("strongest", 0.90, 97.0),
]


def test_the_best_law_costs_at_most_a_percent_of_throughput():
    assert best_law(FOUND) == "strong"
    assert best_law([*runs("unweighted", 0.8, 100.0), *runs("only", 0.9, 90.0)]) is None


def test_a_law_that_costs_more_in_one_regime_is_none():
    dear = [
        replace(one, tokens_per_s=98.0) if (one.arm, one.regime) == ("strong", REGIMES[1]) else one
        for one in FOUND
    ]
    assert best_law(dear) == "mild"


def test_the_report_names_gains_and_costs():
    lines = search_report(FOUND).splitlines()
    assert lines[4] == "| mild | +2.0, +0.0, 0.998 ± 0.000 | +2.0, +0.0, 0.998 ± 0.000 |"
    assert lines[-1] == "Best within a percent of throughput: strong."


@pytest.mark.parametrize(("law", "weight"), [(WeightLaw(8, 1.5), 1.5), (WeightLaw(8, 3.0), 2.2)])
def test_an_arm_goes_by_its_law(law, weight):
    _, arm = arms_of_laws([law])
    outcomes = {"latency": ClassOutcomes(100, 80), "batch": ClassOutcomes(100, 100)}
    load = ReplicaLoad(1, 0, 8, 0, 1.0, 1.0, 1.0, 1.0, 0.1, 0, 0, 0.0, outcomes)
    classes = (ServiceClass("latency", 1.0, 1.0, 0.95), ServiceClass("batch", 1.0, 1.0, 0.95))
    (plan,) = arm.make_plans([load], classes)
    assert plan.class_weights == pytest.approx({"latency": weight, "batch": 1.0})
