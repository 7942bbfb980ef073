import numpy as np
import pytest

from autoscale.causal_policy import Causal, Lookahead
from autoscale.policies import Fixed, Off, Threshold
from autoscale.policy_settings import check_policy, make_policy
from autoscale.step_cost import StepCostTable

LIMITS = np.array([7, 3, 1])
CONFIDENCES = np.full((3, 7), 0.5)
TABLE = StepCostTable((1, 64), (0.01, 0.02))


def test_fixed_admits_k_within_each_limit_and_asks_for_all():
    assert Fixed(5).admit(CONFIDENCES, LIMITS, 3).tolist() == [5, 3, 1]
    assert list(Fixed(5).choose(["a", "b"], 2)) == ["a", "b"]


def test_off_admits_nothing_and_asks_for_nothing():
    assert Off().admit(CONFIDENCES, LIMITS, 3).tolist() == [0, 0, 0]
    assert list(Off().choose(["a", "b"], 2)) == []


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"kind": "off"}, Off()),
        ({"kind": "fixed", "k": 3}, Fixed(3)),
        ({"kind": "threshold", "least_survival": 0.3}, Threshold(0.3)),
        ({"kind": "threshold", "least_survival": 1}, Threshold(1.0)),
    ],
)
def test_make_policy(settings, policy):
    assert make_policy(settings, TABLE) == policy


@pytest.mark.parametrize(("kind", "policy"), [("causal", Causal), ("lookahead", Lookahead)])
def test_make_policy_that_learns(kind, policy):
    assert type(make_policy({"kind": kind}, TABLE)) is policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kind": "greedy"},
        {"kind": "causal", "k": 3},
        {"kind": "fixed"},
        {"kind": "fixed", "k": 0},
        {"kind": "fixed", "k": "7"},
        {"kind": "off", "k": 1},
        {"kind": "threshold"},
        {"kind": "fixed", "k": True},
        {"kind": "threshold", "least_survival": 0.0},
        {"kind": "threshold", "least_survival": 1.5},
        {"kind": "lookahead", "k": 2},
    ],
)
def test_unknown_policy_is_refused_with_what_is_accepted(settings):
    with pytest.raises(ValueError, match="kind: fixed, k: 1 or more"):
        check_policy(settings)
