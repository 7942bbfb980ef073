"""A new drafter beside the serving one: what is counted, how sure it is, what is decided."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from autoscale.canary import (
    ArmTotals,
    CanaryRule,
    CanaryWatch,
    Comparison,
    Decision,
    Estimate,
    joins_canary,
    judge,
)
from autoscale.policies import Verified

STEP_S, WAIT_S = 0.02, 0.004


def arm(accepted, num_requests=400, wait_s=WAIT_S, seed=0):
    """Requests of 20 drafted steps; a request's acceptance varies by half around the mean."""
    rng = np.random.default_rng(seed)
    totals = ArmTotals()
    for mean in rng.uniform(0.5, 1.5, num_requests) * accepted:
        totals.end(20, int(rng.poisson(20 * mean)))
        totals.waited(wait_s * rng.uniform(0.8, 1.2))
    return totals


def ece(value, error=0.001):
    return Estimate(value, error)


WELL_CALIBRATED = {"serving_ece": ece(0.02), "canary_ece": ece(0.02)}


def compare(canary, serving=None, **ece):
    return Comparison(serving or arm(2.0, seed=1), canary, STEP_S, **WELL_CALIBRATED | ece)


RULE = CanaryRule(margin=0.1, patience_s=100.0)


def decision(found, age_s=10.0, rule=RULE):
    return judge(found, rule, age_s)[0]


def test_the_share_of_requests_is_drawn_by_request_and_grows_by_joining():
    ids = [f"r{i}" for i in range(20_000)]
    five, half = ({id_ for id_ in ids if joins_canary(id_, share)} for share in (0.05, 0.5))
    assert len(five) / len(ids) == pytest.approx(0.05, abs=0.005)
    assert len(half) / len(ids) == pytest.approx(0.5, abs=0.01)
    assert five < half
    assert not any(joins_canary(id_, 0.0) for id_ in ids)
    assert all(joins_canary(id_, 1.0) for id_ in ids)


def test_a_request_counts_when_it_ends_and_only_if_it_was_drafted_for():
    watch = CanaryWatch()
    watch.record([Verified("a", 5, 3), Verified("b", 5, 1)], {"a"})
    watch.record([Verified("a", 5, 0)], {"a"})
    watch.end("a")
    watch.end("unknown")
    found = watch.to_plain()
    assert found["canary"]["requests"] == 1
    assert (found["canary"]["steps"], found["canary"]["accepted"]) == (2, 3)
    assert found["serving"]["requests"] == 0


def test_the_interval_covers_what_requests_differ_by():
    """200 trials: the true mean is within two standard errors about 95 times of 100."""
    inside = 0
    for seed in range(200):
        found = arm(2.0, 100, seed=seed).accepted_per_step()
        inside += abs(found.value - 2.0) < 2 * found.error
    assert 0.9 < inside / 200 < 0.99


def test_totals_of_replicas_add_up_and_nonsense_is_left_out():
    one, two = arm(2.0, 10, seed=2), arm(2.0, 20, seed=3)
    nonsense = asdict(one) | {"accepted": float("nan")}
    total = ArmTotals.total([asdict(one), asdict(two), nonsense])
    assert (total.requests, total.steps) == (30, 600)
    assert total.accepted == one.accepted + two.accepted


def test_speed_is_tokens_per_round_of_step_and_wait():
    ratio, low, high = compare(arm(2.0, wait_s=0.016), arm(2.0)).speed
    assert ratio == pytest.approx((0.02 + 0.004) / (0.02 + 0.016), rel=0.02)
    assert low < ratio < high


def test_one_that_is_surely_no_slower_is_promoted():
    assert decision(compare(arm(2.2, 2000), arm(2.0, 2000, seed=1))) is Decision.PROMOTE


def test_one_that_is_surely_slower_is_rolled_back():
    assert decision(compare(arm(1.0))) is Decision.ROLL_BACK


def test_an_equal_one_is_not_decided_on_before_the_margin_is_proven():
    few, many = (compare(arm(2.0, n), arm(2.0, n, seed=1)) for n in (60, 3000))
    assert decision(few) is Decision.WAIT
    assert decision(many) is Decision.PROMOTE
    assert decision(few, age_s=101.0) is Decision.ROLL_BACK


def test_few_requests_decide_nothing():
    assert decision(compare(arm(0.1, 20))) is Decision.WAIT


def test_one_that_does_not_answer_is_rolled_back():
    silent = ArmTotals()
    for _ in range(50):
        silent.waited(None)
    assert decision(compare(silent)) is Decision.ROLL_BACK


def test_one_whose_confidences_mislead_waits_for_its_calibration():
    good = (arm(2.2, 2000), arm(2.0, 2000, seed=1))
    assert decision(compare(*good, canary_ece=ece(0.12))) is Decision.WAIT
    assert decision(compare(*good, canary_ece=ece(0.12)), age_s=101.0) is Decision.ROLL_BACK
    assert decision(compare(*good, canary_ece=ece(0.04))) is Decision.PROMOTE


@pytest.mark.parametrize("uncertain", ["serving_ece", "canary_ece"])
def test_one_whose_calibration_is_only_perhaps_as_good_waits_for_more_labels(uncertain):
    good = (arm(2.2, 2000), arm(2.0, 2000, seed=1))
    found = compare(*good, **{uncertain: ece(0.02, 0.011)})
    assert decision(found) is Decision.WAIT
    said = judge(found, RULE, 10.0)[1]
    assert said.endswith("; ECE higher by 0.0% (-3.3% to 3.3%), up to 3.0% is taken for none")
    assert decision(found, rule=CanaryRule(0.1, 0.034, 100.0)) is Decision.PROMOTE


def test_a_serving_drafter_whose_calibration_is_unknown_counts_as_perfect():
    assert compare(arm(2.0), serving_ece=None, canary_ece=ece(0.02, 0.01)).ece_rise == (0.02, 0.01)


def test_calibration_is_shown_with_its_interval_which_ends_at_none():
    shown = compare(arm(2.0), canary_ece=ece(0.02, 0.01), serving_ece=None).to_plain()
    assert (shown["canary"]["ece"], shown["serving"]["ece"]) == ([0.02, 0.0, 0.05], None)


def test_one_whose_calibration_nobody_has_measured_is_not_promoted():
    unmeasured = compare(arm(2.2, 2000), arm(2.0, 2000, seed=1), canary_ece=None)
    assert decision(unmeasured) is Decision.WAIT
    assert decision(unmeasured, age_s=101.0) is Decision.ROLL_BACK


def test_a_useless_new_drafter_is_hardly_ever_promoted_though_looked_at_often():
    """40 trials, 20 looks each, of a drafter that is slower by twice the margin."""
    rule = CanaryRule(margin=0.05, patience_s=1e9)
    promoted = 0
    for seed in range(40):
        serving, canary = ArmTotals(), ArmTotals()
        for look in range(20):
            more = (arm(2.0, 50, seed=1000 * seed + look), arm(1.7, 50, seed=-look - 1 + 10**6))
            serving, canary = (
                ArmTotals.total([asdict(a), asdict(b)])
                for a, b in zip((serving, canary), more, strict=True)
            )
            if decision(compare(canary, serving), rule=rule) is Decision.PROMOTE:
                promoted += 1
                break
    assert promoted == 0


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"patience_s": float("nan")}])
def test_a_rule_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CanaryRule(**wrong)
