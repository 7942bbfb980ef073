"""The alarm of a target that fits its drafter and accepts little of what it drafts."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.acceptance import AcceptanceAlarm, acceptance_rate
from autoscale.draft_sample import DraftSample

GAMMA = 5


def drafts(num_drafts, rate, *, claimed, admitted=GAMMA, seed=0):
    """Each tried token is accepted with `rate`; the drafter believes `claimed`."""
    rng = np.random.default_rng(seed)
    accepted = (rng.random((num_drafts, GAMMA)) < rate).cumprod(axis=1).sum(axis=1)
    return DraftSample(
        rng.random(num_drafts),
        np.full((num_drafts, GAMMA), claimed, dtype=np.float32),
        np.full(num_drafts, admitted),
        np.minimum(accepted, admitted),
        np.zeros(num_drafts, dtype=bool),
    )


@pytest.mark.parametrize("admitted", [1, 3, GAMMA])
def test_the_rate_does_not_depend_on_how_much_is_admitted(admitted):
    alarm = AcceptanceAlarm()
    alarm.observe(drafts(20_000, 0.7, claimed=0.7, admitted=admitted))
    assert alarm.rate == pytest.approx(0.7, abs=0.01)


def test_a_drafter_that_keeps_what_it_claims_raises_no_alarm():
    alarm = AcceptanceAlarm()
    for seed in range(20):
        alarm.observe(drafts(500, 0.6, claimed=0.65, seed=seed))
        assert not alarm.active


def test_far_less_than_its_own_confidences_claim_is_a_collapse():
    alarm = AcceptanceAlarm()
    alarm.observe(drafts(100, 0.2, claimed=0.7))
    assert not alarm.active  # too few tokens to say
    for seed in range(4):
        alarm.observe(drafts(500, 0.2, claimed=0.7, seed=seed))
    assert alarm.active
    assert alarm.expected == (pytest.approx(0.7), "its own confidences")


def test_far_less_than_the_card_promises_is_a_collapse_though_nothing_is_claimed():
    alarm = AcceptanceAlarm(promised=0.7)
    alarm.observe(drafts(3_000, 0.2, claimed=0.2))
    assert alarm.active
    assert alarm.snapshot()["expected_by"] == "its card"


def test_far_less_than_before_is_a_collapse_until_it_is_back():
    alarm = AcceptanceAlarm()
    for seed in range(40):
        alarm.observe(drafts(500, 0.8, claimed=0.1, seed=seed))
    assert not alarm.active
    for seed in range(200):  # however long it lasts, it does not become the usual
        alarm.observe(drafts(500, 0.2, claimed=0.1, seed=seed))
    assert alarm.active
    assert alarm.expected.source == "what was usual before"
    for seed in range(60):
        alarm.observe(drafts(500, 0.8, claimed=0.1, seed=seed))
    assert not alarm.active


def test_the_probes_of_a_guard_that_has_stopped_drafting_are_enough():
    alarm = AcceptanceAlarm(promised=0.6)
    for seed in range(40):  # of eight drafts each
        alarm.observe(drafts(8, 0.05, claimed=0.6, seed=seed))
    assert alarm.active


def test_guesses_of_what_was_never_trained_promise_nothing():
    alarm = AcceptanceAlarm(is_trained=False)
    alarm.observe(drafts(3_000, 0.2, claimed=0.7))
    assert not alarm.active
    assert alarm.expected.source == "what was usual before"


def test_chance_alone_raises_no_alarm():
    raised = 0
    for run in range(200):
        alarm = AcceptanceAlarm(promised=0.6)
        for seed in range(20):  # a little above the bar, in samples as small as they come
            alarm.observe(drafts(12, 0.35, claimed=0.4, seed=100 * run + seed))
            raised += alarm.active
    assert raised == 0


def test_another_alarm_goes_on_from_what_one_remembers():
    first = AcceptanceAlarm()
    for seed in range(40):
        first.observe(drafts(500, 0.8, claimed=0.1, seed=seed))
    for seed in range(20):
        first.observe(drafts(500, 0.2, claimed=0.1, seed=seed))
    again = AcceptanceAlarm()
    again.remember(first.memory())
    assert again.active
    assert again.expected == first.expected
    again.observe(drafts(500, 0.2, claimed=0.1))
    assert again.active


@pytest.mark.parametrize(
    "memory",
    [{}, {"tried": 1, "accepted": 2, "active": False}, {"tried": 9, "accepted": 1, "active": 1}],
)
def test_a_memory_that_cannot_be_is_refused(memory):
    with pytest.raises(ValueError, match=r"memory of|tried tokens"):
        AcceptanceAlarm().remember(memory)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_an_accepted_length_is_a_rate(rate):
    length = sum(rate**k for k in range(GAMMA + 1))
    assert acceptance_rate(length, GAMMA) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("length", [0.9, 6.1])
def test_a_length_that_no_draft_can_have_is_refused(length):
    with pytest.raises(ValueError, match="not in 1 to 6"):
        acceptance_rate(length, GAMMA)
