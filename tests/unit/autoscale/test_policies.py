import numpy as np
import pytest

from autoscale.policies import Fixed, Off, policy_from_dict

LIMITS = np.array([7, 3, 0, -1])


def test_fixed_admits_k_within_each_limit():
    assert Fixed(5).admit(LIMITS).tolist() == [5, 3, 0, -1]


def test_off_admits_nothing_and_asks_for_nothing():
    assert Off().admit(LIMITS).tolist() == [0, 0, 0, 0]
    assert not Off().wants_drafts


@pytest.mark.parametrize(
    ("settings", "policy"), [({"kind": "off"}, Off()), ({"kind": "fixed", "k": 3}, Fixed(3))]
)
def test_policy_from_dict(settings, policy):
    assert policy_from_dict(settings) == policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kind": "causal"},
        {"kind": "fixed"},
        {"kind": "fixed", "k": 0},
        {"kind": "fixed", "k": "7"},
        {"kind": "off", "k": 1},
    ],
)
def test_unknown_policy_is_refused_with_what_is_accepted(settings):
    with pytest.raises(ValueError, match="kind: fixed, k: 1 or more"):
        policy_from_dict(settings)
