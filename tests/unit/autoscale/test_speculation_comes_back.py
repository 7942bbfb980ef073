"""When what stopped drafting is over, the guard finds out within a bounded number of steps.

Steps go the way they do in a worker: confidences are calibrated, exploring drafts are settled, and
what became of all is recorded.
"""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.causal_policy import Causal
from autoscale.guard import Guard
from autoscale.policies import StepOutcome, Verified
from autoscale.step_cost import StepCostTable
from deployments.engine.draft_calibration import DraftCalibration
from drafters.messages import StepRow

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GAMMA = 7
PROBE = 18  # steps at most; before it 128 to 1,024 plain ones


class Service:
    """`accept` is P(a draft token is accepted | those before it), `said` what the head says of it.

    A step takes 8 ms, and `token_s` for each of its tokens, times `slow`. Drafting takes 4 ms and
    1 ms a request, times `draft_slow`, and `late_s` more. Where the drafter is not `there`, no
    drafts come.
    """

    def __init__(self, accept: float, said: float | None = None, token_s: float = 0.00025) -> None:
        self.table = StepCostTable(SIZES, tuple(0.008 + token_s * n for n in SIZES))
        self.policy = Causal(self.table)
        self.calibration = DraftCalibration(GAMMA)
        self.accept = accept
        self.said = accept if said is None else said
        self.slow = self.draft_slow = 1.0
        self.late_s = 0.0
        self.is_there = True
        self._rng = np.random.default_rng(0)
        self._verified: dict[str, int] = {}

    def step(self, num_requests: int) -> int:
        """One step; returns for how many requests drafts were asked for after it."""
        ids = [f"r{i}" for i in range(num_requests)]
        drafts = {id_: n for id_, n in self._verified.items() if id_ in ids}
        verified = [Verified(id_, n, self._num_accepted(n)) for id_, n in drafts.items()]
        n_tokens = num_requests + sum(drafts.values())
        step_s = self.slow * self.table.at_one(n_tokens) * self._rng.lognormal(0, 0.03)
        self.policy.record_step(StepOutcome(n_tokens, num_requests, step_s, verified))
        self.calibration.record(verified)
        self._verified = {}
        if self.policy.pauses(num_requests):
            return 0
        asked = list(self.policy.choose(ids, num_requests))
        if asked:
            self._draft(asked, num_requests)
        return len(asked)

    def _draft(self, asked: list[str], num_requests: int) -> None:
        draft_s = self.draft_slow * (0.004 + 0.001 * len(asked)) + self.late_s
        self.policy.record_draft(len(asked), draft_s)
        if not self.is_there:
            self._verified = dict.fromkeys(asked, 0)
            return
        lengths = self.calibration.admit(
            self.policy,
            [StepRow(id_, 0, 0, 0, 1, 0, (), 0.0) for id_ in asked],
            np.full((len(asked), GAMMA), self.said),
            np.full(len(asked), GAMMA),
            num_requests,
            with_q=False,
        )
        self._verified = dict(zip(asked, lengths.tolist(), strict=True))

    def _num_accepted(self, num_drafts: int) -> int:
        return int((self._rng.random(num_drafts) < self.accept).cumprod().sum())

    def run(self, num_requests: int, steps: int) -> list[int]:
        """For how many requests drafts were asked for after each of `steps`."""
        return [self.step(num_requests) for _ in range(steps)]

    def steps_until_back(self, num_requests: int) -> int:
        """Steps before 100 of which most ask for drafts of all requests; 1,500 at most."""
        asked: list[bool] = []
        while len(asked) < 1500 and sum(asked[-100:]) < 90:
            asked.append(self.step(num_requests) == num_requests)
        return len(asked) if sum(asked[-100:]) < 90 else max(0, len(asked) - 100)


def steep(accept: float, said: float | None = None) -> Service:
    """Where every token costs much and drafting little, what is verified decides."""
    service = Service(accept, said, token_s=0.001)
    service.draft_slow = 0.2
    return service


PAYS = [(1, 0.8), (4, 0.8), (8, 0.85), (12, 0.9)]


@pytest.mark.parametrize(("n", "accept"), PAYS)
@pytest.mark.parametrize(
    ("late_s", "steps", "pause"),
    [(0.5, 2, 128), (0.042, 20, 128), (0.042, 300, 256), (0.042, 3000, 1024)],
)
def test_the_next_probe_finds_a_drafter_that_was_slow_for_a_while(n, accept, late_s, steps, pause):
    service = Service(accept)
    service.run(n, 300)
    service.late_s = late_s
    assert service.run(n, steps + 1)[-1] in (0, min(n, 4))  # paused, or a probe
    service.late_s = 0.0
    assert service.steps_until_back(n) <= pause + PROBE


@pytest.mark.parametrize(("n", "accept"), PAYS)
@pytest.mark.parametrize("slow", [2, 4, 8])
def test_a_machine_that_recovered_while_drafting_paused_holds_nothing_up(n, accept, slow):
    service = Service(accept)
    service.slow = slow
    service.run(n, 600)
    service.run(64, 100)
    service.slow = 1.0
    service.run(64, 300)
    assert service.steps_until_back(n) <= PROBE


@pytest.mark.parametrize(("n", "accept"), PAYS)
@pytest.mark.parametrize("said", [0.0, 0.1, 0.3])
def test_a_head_that_believes_in_too_little_is_found_out_by_two_probes(n, accept, said):
    assert Service(accept, said).steps_until_back(n) <= 128 + 256 + 2 * PROBE


@pytest.mark.parametrize(("n", "accept"), [(2, 0.7), (4, 0.7), (4, 0.8)])
@pytest.mark.parametrize("said", [0.99, 1.0])
def test_a_head_that_believes_in_too_much_is_found_out_by_two_probes(n, accept, said):
    assert steep(accept, said).steps_until_back(n) <= 128 + 256 + 2 * PROBE


@pytest.mark.parametrize("make", [Service, steep])
@pytest.mark.parametrize("said", [0.1, 0.99])
def test_a_head_that_begins_to_err_is_found_out_as_soon(make, said):
    service = make(0.8)
    service.run(4, 500)
    service.said = said
    assert service.steps_until_back(4) <= 128 + 256 + 2 * PROBE


@pytest.mark.parametrize(("n", "accept"), PAYS)
def test_after_a_load_spike_drafting_is_back_at_once(n, accept):
    service = Service(accept)
    service.run(n, 300)
    assert sum(service.run(64, 700)[100:]) < 64
    assert service.steps_until_back(n) <= PROBE


@pytest.mark.parametrize(("n", "accept"), PAYS)
@pytest.mark.parametrize("steps", [20, 300, 5000])
def test_a_drafter_that_was_away_is_not_waited_for_the_longer(n, accept, steps):
    service = Service(accept)
    service.run(n, 300)
    service.is_there, service.late_s = False, 0.05
    assert service.run(n, steps + 1)[-1] in (0, min(n, 4))
    service.is_there, service.late_s = True, 0.0
    assert service.steps_until_back(n) <= 2 * (128 + PROBE)


def test_a_probe_begins_with_whole_drafts_whatever_their_confidences():
    service = Service(0.8, said=0.0)
    while not service.policy.snapshot()["probes"]:
        service.step(4)
    assert list(service._verified.values()) == [GAMMA] * 4


def test_drafting_that_resumes_and_does_not_last_is_tried_ever_less_often():
    guard = Guard()

    def gain(accepted: float, verified: float, share: float) -> float:
        return (1 + share * accepted) / 1.5

    guard.record([Verified("r0", 7, 0)] * 64, 1)
    for _ in range(8000):
        if asked := guard.choose(["r0"], gain, 1):
            kept = 0 if guard.drafting else 6
            guard.record([Verified(id_, 7, kept) for id_ in asked], 1)
    assert guard.num_probes <= 10
