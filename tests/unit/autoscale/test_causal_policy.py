"""The causal policy over many steps: when it drafts, stops, probes and comes back."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.causal_policy import Causal
from autoscale.draft_cost import DraftCost
from autoscale.guard import Guard
from autoscale.policies import StepOutcome, Verified
from autoscale.step_cost import StepCostTable

# 8 ms for a step, 0.25 ms for each of its tokens; drafting takes 4 ms and 1 ms a request.
TABLE = StepCostTable((1, 256), (0.00825, 0.072))
GAMMA = 7


class Service:
    """Steps of an engine whose true costs are the table and `overhead_s`."""

    def __init__(self, accept: float, overhead_s: float = 0.0):
        self.policy = Causal(TABLE)
        self.accept = accept  # P(a draft token is accepted | those before it)
        self.overhead_s = overhead_s
        self.rng = np.random.default_rng(0)
        self.verified: dict[str, int] = {}
        self.asked: set[str] = set()
        self.num_tokens = 0
        self.seconds = 0.0

    def step(self, request_ids: list[str]) -> set[str]:
        """One step; returns the requests that drafts were requested for after it."""
        drafts = {id_: self.verified.get(id_, 0) for id_ in request_ids}
        accepted = {id_: self.num_accepted(id_, n) for id_, n in drafts.items()}
        n_tokens = len(request_ids) + sum(drafts.values())
        step_s = TABLE.at_one(n_tokens) + self.overhead_s
        outcomes = [
            Verified(id_, drafts[id_], accepted[id_]) for id_ in request_ids if id_ in self.asked
        ]
        self.policy.record_step(StepOutcome(n_tokens, len(request_ids), step_s, outcomes))
        self.num_tokens += len(request_ids) + sum(accepted.values())
        self.seconds += step_s
        paused = self.policy.pauses(len(request_ids))
        self.asked = set() if paused else set(self.policy.choose(request_ids, len(request_ids)))
        self.verified = {}
        if self.asked:
            draft_s = 0.004 + 0.001 * len(self.asked)
            self.policy.record_draft(len(self.asked), draft_s)
            self.seconds += draft_s
            ids = sorted(self.asked)
            confidences = np.array([[self.confidence(id_)] * GAMMA for id_ in ids])
            lengths = self.policy.admit(
                confidences, np.full(len(ids), GAMMA), len(request_ids)
            ).tolist()
            self.verified = dict(zip(ids, lengths, strict=True))
        return self.asked

    def confidence(self, request_id: str) -> float:
        return 0.0 if request_id.startswith("hopeless") else self.accept

    def num_accepted(self, request_id: str, num_drafts: int) -> int:
        hits = self.rng.random(num_drafts) < self.confidence(request_id)
        return num_drafts if hits.all() else int(hits.argmin())

    def run(self, request_ids: list[str], steps: int) -> list[int]:
        """How many requests were drafted for after each of `steps`."""
        return [len(self.step(request_ids)) for _ in range(steps)]


def requests(n: int) -> list[str]:
    return [f"r{i}" for i in range(n)]


def test_alone_and_often_right_it_drafts_but_for_two_steps_in_128():
    asked = Service(accept=0.8).run(requests(1), 256)
    assert asked == ([0, 0] + [1] * 126) * 2


def test_a_stretch_of_hard_text_does_not_stop_what_pays():
    service = Service(accept=0.85)
    drafted = 0
    for i in range(40):
        service.accept = 0.1 if i % 4 == 3 else 0.85
        drafted += sum(service.run(requests(1), 10))
    assert drafted >= 0.97 * 400


def test_under_load_it_stops_and_probes_ever_less_often():
    asked = np.array(Service(accept=0.3).run(requests(32), 3000))
    assert asked[:3].tolist() == [0, 0, 4]  # what plain steps take, then whether drafts pay
    assert (asked[3:] <= 4).all()  # a probe asks for few
    starts = np.flatnonzero((asked[4:] > 0) & (asked[3:-1] == 0))
    gaps = np.diff(starts)
    assert len(starts) >= 4
    assert (gaps[1:] >= gaps[:-1]).all()
    assert gaps[-1] > gaps[0]
    assert gaps.max() <= 1024 + 4


def test_when_the_load_falls_it_drafts_again_at_once():
    service = Service(accept=0.8)
    service.run(requests(1), 50)
    service.run(requests(64), 200)
    assert service.run(requests(64), 10) == [0] * 10
    assert sum(service.run(requests(1), 5)) >= 3


def test_when_the_text_becomes_easy_a_probe_finds_out():
    service = Service(accept=0.02)
    assert sum(service.run(requests(1), 40)[20:]) == 0
    service.accept = 0.9
    assert sum(service.run(requests(1), 1500)[-100:]) >= 98


@pytest.mark.parametrize("accept", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("n", [1, 4, 16, 64])
def test_it_is_never_much_slower_than_plain_decoding(accept, n):
    service = Service(accept, overhead_s=0.002)
    service.run(requests(n), 2000)
    plain_s = TABLE.at_one(n) + service.overhead_s
    assert service.num_tokens / service.seconds > 0.99 * n / plain_s


def test_what_half_of_the_requests_gain_is_not_taken_for_the_gain_of_all():
    guard = Guard()
    seen = []

    def gain(accepted: float, verified: float, share: float) -> float:
        seen.append((accepted, verified, share))
        return 2.0

    for _ in range(200):
        guard.choose(requests(16), gain, 16)
        guard.record([Verified(id_, 4, 2) for id_ in requests(8)], 16)
    accepted, verified, share = seen[-1]
    assert (accepted, verified) == (2, 4)
    assert share == pytest.approx(0.5, abs=1e-6)
    policy = Causal(TABLE)
    policy.pauses(16)
    half = policy.gain(accepted=2, verified=4, share=0.5)
    assert half == pytest.approx((1 + 1) * TABLE.at_one(16) / TABLE.at_one(16 + 8 * 4))


def test_what_was_found_under_load_is_asked_again_when_the_load_has_fallen():
    """However long the pause between probes has become, and whatever share had drafts."""
    guard = Guard()

    def gain_under_load(accepted: float, verified: float, share: float) -> float:
        return 0.9

    def gain_alone(accepted: float, verified: float, share: float) -> float:
        return (1 + share * accepted) / 1.5

    guard.record([Verified("r0", 7, 2)] * 8, 8)
    for _ in range(40):
        guard.record([Verified("r0", 7, 2)], 32)
    assert gain_alone(2, 7, guard.achieved.share) < 1
    for _ in range(4000):
        if guard.choose(requests(32), gain_under_load, 32):
            guard.record([Verified(id_, 7, 2) for id_ in requests(4)], 32)
    asked = [len(guard.choose(requests(1), gain_alone, 1)) for _ in range(10)]
    assert sum(asked) >= 7


def test_few_requests_that_never_pay_do_not_hide_those_that_do():
    """A probe asks others than the one before it, so drafting comes back within two."""
    guard = Guard()

    def gain(accepted: float, verified: float, share: float) -> float:
        return (1 + share * accepted) / 1.5

    hopeless, everybody = requests(4), requests(16)
    guard.record([Verified(id_, 7, 0) for id_ in hopeless * 8], 16)
    for step in range(3000):
        if asked := guard.choose(everybody, gain, 16):
            outcomes = [Verified(id_, 7, 0 if id_ in hopeless else 6) for id_ in asked]
            guard.record(outcomes, 16)
        if guard.drafting and step > 0:
            break
    assert guard.drafting
    assert guard.num_probes <= 2


def test_a_request_that_does_not_pay_is_left_out():
    service = Service(accept=0.8)
    asked = [service.step(["r0", "hopeless"]) for _ in range(60)]
    assert all("r0" in some for some in asked[2:])
    assert not any("hopeless" in some for some in asked[20:])


def test_a_request_left_out_is_tried_again():
    service = Service(accept=0.8)
    asked = [service.step(["r0", "hopeless"]) for _ in range(300)]
    tried = [i for i, some in enumerate(asked) if "hopeless" in some]
    assert tried[-1] > 100


def test_requests_that_ended_are_forgotten():
    policy = Causal(TABLE)
    policy.record_step(StepOutcome(8, 1, 0.01, [Verified("r0", 7, 3)]))
    assert len(policy._guard._own) == 1
    policy.forget("r0")
    policy.forget("never seen")
    assert len(policy._guard._own) == 0


@pytest.mark.parametrize("true_scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("n", [1, 4])
def test_a_table_that_was_measured_beside_others_does_not_stop_drafting(true_scale, n):
    """What drafts cost and bring is the same at every scale of the table."""
    service = Service(accept=0.9)
    service.policy = Causal(StepCostTable((1, 256), (0.00825 / true_scale, 0.072 / true_scale)))
    service.run(requests(n), 400)
    plain_s = TABLE.at_one(n)
    assert service.num_tokens / service.seconds > 1.8 * n / plain_s


def test_what_it_learned_of_steps_is_told_by_size():
    service = Service(accept=0.8, overhead_s=0.004)
    service.run(requests(4), 400)
    learned = service.policy.learned()
    assert learned.table.at_one(16) == pytest.approx(TABLE.at_one(16) + 0.004, rel=0.05)
    assert max(learned.num_steps) > 100


def test_choosing_never_reads_what_was_drafted_now():
    """Rule 3: whether to draft follows from earlier steps; drafts do not change it."""

    def choices(confidence: float) -> list[list[str]]:
        policy = Causal(TABLE)
        chosen = []
        for _ in range(20):
            asked = list(policy.choose(requests(4), 4))
            chosen.append(asked)
            policy.record_draft(len(asked), 0.008)
            policy.admit(np.full((len(asked), GAMMA), confidence), np.full(len(asked), GAMMA), 4)
        return chosen

    assert choices(0.01) == choices(0.99)


@pytest.mark.parametrize(
    ("seen", "n", "expected"),
    [
        ({}, 8, 0.0),
        ({4: 0.008}, 4, 0.008),
        ({4: 0.008}, 9, 0.013),
        ({4: 0.008}, 2, 0.006),
        ({4: 0.008}, 1, 0.005),
        ({2: 0.006, 6: 0.010}, 4, 0.008),
        ({2: 0.006, 6: 0.010}, 10, 0.014),
        ({2: 0.010, 6: 0.006}, 10, 0.006),
    ],
)
def test_draft_cost_between_and_beyond_what_was_seen(seen, n, expected):
    cost = DraftCost()
    for count, draft_s in seen.items():
        cost.record(count, draft_s)
    assert cost.at(n) == pytest.approx(expected)
