from __future__ import annotations

import pytest

from loadtest.open_loop import Outcome
from loadtest.phases import Phase, Request, poisson_times
from loadtest.promises import Promise, quantile, summarise, table_row
from loadtest.scenarios import LONG, SCENARIOS, SHORT

PROMISE = Promise(ttft_s=1.0, tpot_s=0.1)


def outcome(
    at_s: float = 0.0, *, status: int = 200, ttft_s: float = 0.5, tpot_s: float = 0.05
) -> Outcome:
    request = Request(at_s, "prompt", 11)
    if status != 200:
        return Outcome(request, status, at_s, at_s + 0.01)
    first_s = at_s + ttft_s
    return Outcome(request, status, at_s, first_s + 10 * tpot_s, first_s, output_tokens=11)


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (outcome(), True),
        (outcome(ttft_s=1.0, tpot_s=0.1), True),
        (outcome(ttft_s=1.1), False),
        (outcome(tpot_s=0.11), False),
        (outcome(status=429), False),
        (outcome(status=500), False),
        (outcome(status=0), False),
    ],
)
def test_a_promise_is_kept_or_it_is_not(one, kept):
    assert PROMISE.is_kept(one) is kept


def test_refusals_and_failures_are_misses():
    summary = summarise(
        [outcome(0.0), outcome(1.0), outcome(2.0, status=429), outcome(3.0, status=500)], PROMISE
    )
    assert summary.kept == 0.5
    assert (summary.answered, summary.refused, summary.failed) == (2, 1, 1)
    assert summary.drained_s == 0.0  # the last answer, at 2 s, came before the last arrival


def test_what_takes_longer_than_the_load_is_drained():
    summary = summarise([outcome(0.0), outcome(1.0, ttft_s=20.0)], PROMISE)
    assert summary.drained_s == pytest.approx(20.5)
    assert summary.tokens_per_s == pytest.approx(22 / 21.5)


def test_where_nothing_was_answered_there_are_no_times():
    summary = summarise([outcome(status=429)], PROMISE)
    assert (summary.ttft_p99_s, summary.tpot_p50_s, summary.tokens_per_s) == (None, None, 0.0)
    assert (
        table_row("arm", summary) == "| arm | 0.0 % | 0 | 1 | 0 | 0.0 s | - / - ms | - / - ms | 0 |"
    )


def test_nothing_to_sum_up_is_an_error():
    with pytest.raises(ValueError, match="no requests"):
        summarise([], PROMISE)


def test_quantiles_are_values_that_were_seen():
    values = [float(i) for i in range(1, 201)]
    assert quantile(values, 0.99) == 199.0
    assert quantile([3.0, 1.0], 0.99) == 3.0
    assert quantile([], 0.5) is None


def test_arrivals_follow_their_phases_and_repeat():
    phases = (Phase(100, 1.0), Phase(10, 50.0), Phase(50, 0.0), Phase(10, 5.0))
    times = poisson_times(phases, seed=3)
    assert times == poisson_times(phases, seed=3) != poisson_times(phases, seed=4)
    assert times == sorted(times)
    per_phase = [sum(a <= t < b for t in times) for a, b in ((0, 100), (100, 110), (110, 160))]
    assert per_phase[0] == pytest.approx(100, abs=40)
    assert per_phase[1] == pytest.approx(500, abs=90)
    assert per_phase[2] == 0


def test_scenarios_give_every_arm_the_same_requests():
    for scenario in SCENARIOS.values():
        requests = scenario.requests(10.0, 0)
        assert requests == scenario.requests(10.0, 0)
        assert [one.at_s for one in requests] == sorted(one.at_s for one in requests)
        assert len({one.prompt for one in requests}) == len(requests)


def test_beside_long_prompts_the_short_ones_are_watched():
    scenario = SCENARIOS["long-prompts"]
    requests = scenario.requests(10.0, 0)
    assert {one.service_class for one in requests} == {SHORT, LONG}
    assert {one.service_class for one in requests if scenario.watched(one)} == {SHORT}
    assert min(len(one.prompt) for one in requests if one.service_class == LONG) > 3000
