from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoscale.admission import Admission, Refusal, ReplicaLimits, Ticket
from autoscale.fleet_step_cost import StepCostReport
from autoscale.request_cost import RequestCost
from autoscale.service_class import ServiceClass
from autoscale.step_cost import StepCostTable

ANY_TIME = ServiceClass("any", math.inf, math.inf)
SOON = ServiceClass("soon", ttft_s=3.6, tpot_s=math.inf, priority=1)  # shed after 1.8 s
FAST = ServiceClass("fast", ttft_s=math.inf, tpot_s=0.05, priority=1)
FEW = ServiceClass("few", math.inf, math.inf, max_seat_share=0.5)
LIMITS = ReplicaLimits(seats=4, queued_requests=8)


def ticket(
    one: ServiceClass = ANY_TIME,
    now_s: float = 0.0,
    *,
    prompt: float = 0.0,
    output: float = 100.0,
    sequences: int = 1,
    tenant: str = "a",
) -> Ticket:
    return Ticket(one, tenant, RequestCost(prompt, output, sequences), now_s)


def full(*, work_per_s: float | None = None) -> Admission:
    """All seats taken at time 0, if `work_per_s` is given by requests that have worked for 10 s."""
    admission = Admission(LIMITS)
    since_s = 0.0 if work_per_s is None else -10.0
    seated = [ticket(now_s=since_s, output=1e6) for _ in range(LIMITS.seats)]
    for one in seated:
        assert admission.offer(one, since_s) is None
        admission.record_tokens(one, 1, since_s)
    if work_per_s is not None:
        for i in range(1, 101):
            now_s = -10 + i / 10
            for one in seated:
                admission.record_tokens(one, round(work_per_s / 10 / LIMITS.seats), now_s)
            admission.advance(now_s)
    return admission


def one_of(admission: Admission) -> Ticket:
    return next(iter(admission._seated))


def test_where_there_is_room_a_request_sits_down_at_once():
    admission = Admission(LIMITS)
    first = ticket(now_s=3.0)
    assert admission.offer(first, 3.0) is None
    assert (first.seated_s, admission.running, admission.waiting) == (3.0, 1, 0)


def test_the_next_one_sits_when_somebody_leaves():
    admission = full()
    waiting = ticket()
    assert admission.offer(waiting, 0.0) is None
    assert (waiting.seated_s, admission.waiting) == (None, 1)
    admission.leave(one_of(admission), 1.0)
    assert admission.advance(1.0).seated == [waiting]
    assert admission.running == 4


def test_seats_are_counted_in_sequences():
    admission = Admission(LIMITS)
    assert admission.offer(ticket(sequences=3), 0.0) is None
    pair = ticket(sequences=2)
    admission.offer(pair, 0.0)
    assert pair.seated_s is None


def test_kv_tokens_are_reserved_for_the_whole_output():
    admission = Admission(replace(LIMITS, kv_tokens=1000))
    admission.offer(ticket(prompt=500, output=300), 0.0)
    large, small = ticket(prompt=100, output=150), ticket(prompt=10, output=10)
    admission.offer(large, 0.0)
    admission.offer(small, 0.0)
    # The small one would fit; if it went first, large ones might wait for ever.
    assert (large.seated_s, small.seated_s) == (None, None)


def test_what_fits_nowhere_sits_alone():
    admission = Admission(replace(LIMITS, kv_tokens=1000))
    giant = ticket(prompt=5000, sequences=9)
    admission.offer(giant, 0.0)
    assert giant.seated_s == 0.0


def test_prompts_wait_outside_for_their_turn_to_be_read():
    admission = Admission(replace(LIMITS, unread_tokens=1000))
    first, second = ticket(prompt=800), ticket(prompt=300)
    admission.offer(first, 0.0)
    admission.offer(second, 0.0)
    assert second.seated_s is None
    admission.record_tokens(first, 1, 0.5)
    assert admission.advance(0.5).seated == [second]


def test_a_full_queue_refuses():
    admission = full()
    for _ in range(8):
        assert admission.offer(ticket(), 0.0) is None
    assert admission.offer(ticket(), 0.0) == Refusal("queue_full", 0.0, 0.0, "line")
    assert admission.advance(0.0).refused == []


@pytest.mark.parametrize(
    "newcomer", [ticket(SOON), ticket(tenant="b")], ids=["higher priority", "another tenant"]
)
def test_in_a_full_queue_the_longest_line_of_the_lowest_priority_makes_room(newcomer):
    admission = full(work_per_s=40.0)
    waiting = [ticket() for _ in range(8)]
    for one in waiting:
        assert admission.offer(one, 0.0) is None
    assert admission.offer(newcomer, 0.0) is None
    assert admission.waiting == 8
    ((dropped, refusal),) = admission.advance(0.0).refused
    assert dropped is waiting[-1]
    assert (refusal.reason, refusal.scope) == ("queue_full", "line")
    assert refusal.work_s == pytest.approx(100 / 40, rel=0.05)
    assert admission.advance(0.0).refused == []


def test_a_newcomer_of_the_lowest_priority_makes_nobody_go():
    admission = full()
    for _ in range(8):
        assert admission.offer(ticket(FAST), 0.0) is None
    refusal = admission.offer(ticket(tenant="b"), 0.0)
    assert refusal is not None
    assert refusal.reason == "queue_full"
    assert admission.advance(0.0).refused == []


def test_a_request_that_would_be_late_is_refused_at_once_with_the_time_to_come_back():
    admission = full(work_per_s=40.0)
    admission.offer(ticket(SOON, output=200), 0.0)  # 5 s of work, of which 3.2 are too long
    refusal = admission.offer(ticket(SOON, output=20), 0.0)
    assert refusal is not None
    assert (refusal.reason, refusal.scope) == ("too_late", "line")
    assert refusal.retry_after_s == pytest.approx(3.2, rel=0.1)
    assert refusal.work_s == pytest.approx(0.5, rel=0.05)


def test_whether_a_request_would_be_late_is_no_matter_of_its_size():
    for output in (1.0, 1e6):
        admission = full(work_per_s=40.0)
        assert admission.offer(ticket(SOON, output=40), 0.0) is None
        assert admission.offer(ticket(SOON, output=output), 0.0) is None


def test_a_backlog_of_a_class_that_has_its_share_keeps_nobody_from_a_free_seat():
    admission = Admission(ReplicaLimits(seats=16))
    batch = ServiceClass("batch", ttft_s=60.0, tpot_s=math.inf, max_seat_share=0.8)
    soon = ServiceClass("soon", ttft_s=2.0, tpot_s=math.inf)
    seated = [ticket(batch, -10.0, output=1e6) for _ in range(12)]
    for one in seated:
        assert admission.offer(one, -10.0) is None
        admission.record_tokens(one, 1, -10.0)
    for second in range(-9, 1):
        for one in seated:
            admission.record_tokens(one, 10, float(second))
    for _ in range(20):
        assert admission.offer(ticket(batch), 0.0) is None
    interactive = ticket(soon, output=200, tenant="b")
    assert admission.offer(interactive, 0.0) is None
    assert (interactive.seated_s, admission.waiting) == (0.0, 20)


def test_a_refusal_for_a_requests_own_size_or_age_tells_nothing_of_others():
    admission = Admission(LIMITS)
    for _ in range(3):
        admission.offer(ticket(output=1e6), 0.0)
    wide = ticket(SOON, sequences=2)
    assert admission.offer(wide, 0.0) is None
    ((refused, refusal),) = admission.advance(1.9).refused
    assert (refused, refusal.scope) == (wide, "request")
    old = ticket(SOON, -2.0, sequences=2)
    assert admission.offer(old, 0.0) == Refusal("too_late", 0.0, 0.0, "request")


def test_where_a_first_token_would_be_too_late_from_any_seat_nobody_waits_for_one():
    admission = full()
    admission._start_s = 5.0  # of 3.6 s that are promised
    assert admission.offer(ticket(SOON), 0.0) == Refusal("too_late", 0.0, 0.0, "line")
    admission.leave(one_of(admission), 0.0)
    assert admission.offer(ticket(SOON, sequences=2), 0.0) == Refusal(
        "too_late", 0.0, 0.0, "request"
    )


def test_what_a_request_has_waited_before_is_taken_off():
    for age_s, is_refused in ((0.7, False), (0.9, True)):  # of 1.8 s it waits another
        admission = full(work_per_s=40.0)
        admission.offer(ticket(SOON, output=40), 0.0)
        refusal = admission.offer(ticket(SOON, -age_s, output=1), 0.0)
        assert (refusal is not None) is is_refused


def test_while_nothing_is_known_a_request_waits_until_its_time_is_up():
    admission = full()
    last = ticket(SOON)
    assert admission.offer(last, 0.0) is None
    assert admission.next_deadline_s() == pytest.approx(1.8)
    assert admission.advance(1.7).refused == []
    ((refused, refusal),) = admission.advance(1.9).refused
    assert refused is last
    assert refusal.reason == "too_late"
    assert admission.waiting == 0


def test_who_was_promised_no_first_token_may_wait_for_ever():
    admission = Admission(LIMITS)
    assert admission.allowed_wait_s(SOON) == 1.8
    assert admission.allowed_wait_s(ANY_TIME) == math.inf


def test_the_time_from_seat_to_first_token_is_taken_off_the_wait():
    admission = Admission(LIMITS)
    for _ in range(200):
        one = ticket()
        admission.offer(one, 0.0)
        admission.record_tokens(one, 1, 2.5)
        admission.leave(one, 2.5)
    assert admission.allowed_wait_s(SOON) == pytest.approx(3.6 - 1.2 * 2.5, rel=0.01)


def test_an_idle_replica_refuses_nobody_whatever_it_was_like():
    admission = Admission(LIMITS)
    for _ in range(200):
        one = ticket()
        admission.offer(one, 0.0)
        admission.record_tokens(one, 1, 30.0)
        admission.leave(one, 30.0)
    assert admission.allowed_wait_s(SOON) == 0.0
    assert admission.offer(ticket(SOON, 30.0), 30.0) is None


def test_one_slow_start_is_an_outlier():
    admission = Admission(LIMITS)
    one = ticket()
    admission.offer(one, 0.0)
    admission.record_tokens(one, 1, 60.0)
    assert admission.allowed_wait_s(SOON) == 1.8


def test_a_class_takes_no_more_than_its_share_and_holds_nobody_up():
    admission = Admission(LIMITS)
    tickets = [ticket(FEW, tenant="b") for _ in range(3)]
    for one in tickets:
        admission.offer(one, 0.0)
    assert [one.seated_s for one in tickets] == [0.0, 0.0, None]
    other = ticket()
    admission.offer(other, 0.0)
    assert other.seated_s == 0.0


def decoding(tpot_s: float, running: int) -> Admission:
    """A replica of 32 seats that has decoded so many requests of no promise for 20 s."""
    admission = Admission(ReplicaLimits(seats=32))
    seated = [ticket(now_s=0.0, output=1e6) for _ in range(running)]
    for one in seated:
        admission.offer(one, 0.0)
        admission.record_tokens(one, 1, 0.0)
    for second in range(1, 21):
        for one in seated:
            admission.record_tokens(one, round(1 / tpot_s), float(second))
        admission.observe(float(second))
    return admission


def test_a_tight_promise_leaves_fewer_seats_to_its_own_and_to_those_below():
    admission = decoding(tpot_s=0.04, running=16)  # 20 ms + 1.25 ms per request, it is guessed
    assert admission.seats(20.0) == 32  # nobody has been promised anything
    fast = [ticket(FAST, 20.0) for _ in range(21)]
    for one in fast[:16]:
        assert admission.offer(one, 20.0) is None
        assert one.seated_s == 20.0  # not held up by those of no promise
    assert admission.seats(20.0) == 20  # 45 ms
    below = ticket(now_s=20.0)
    admission.leave(one_of(admission), 20.0)
    admission.offer(below, 20.0)
    assert below.seated_s is None


def test_a_promise_limits_seats_for_a_while_after_it_was_asked_for():
    admission = decoding(tpot_s=0.04, running=16)
    fast = ticket(FAST, 20.0)
    admission.offer(fast, 20.0)
    admission.leave(fast, 20.0)
    assert admission.seats(49.0) == 20
    assert admission.seats(51.0) == 32


def test_whoever_gives_up_leaves_the_queue():
    admission = full()
    one, two = ticket(), ticket()
    admission.offer(one, 0.0)
    admission.offer(two, 0.0)
    admission.leave(one, 0.0)
    assert admission.waiting == 1
    admission.leave(one_of(admission), 0.0)
    assert admission.advance(0.0).seated == [two]


def test_outstanding_work_falls_as_tokens_come():
    admission = Admission(LIMITS)
    one = ticket(prompt=100, output=50)
    admission.offer(one, 0.0)
    assert admission.outstanding_work == 70.0
    admission.record_tokens(one, 1, 0.0)
    assert admission.outstanding_work == 49.0
    admission.record_tokens(one, 100, 1.0)
    assert admission.outstanding_work == 0.0


def test_a_stream_that_continues_is_refused_by_nothing_and_goes_ahead_of_newcomers():
    admission = full(work_per_s=40.0)
    newcomers = [ticket() for _ in range(LIMITS.queued_requests)]
    for newcomer in newcomers:
        assert admission.offer(newcomer, 0.0) is None
    assert admission.offer(ticket(), 0.0) is not None
    continuing = ticket(replace(SOON, priority=-1), output=1e6, tenant="b")
    continuing.continues = True
    assert admission.offer(continuing, 0.0) is None
    assert admission.advance(1000.0).refused == []
    admission.leave(one_of(admission), 1000.0)
    assert admission.advance(1000.0).seated == [continuing]


def test_capacity_is_of_the_promise_to_those_who_were_here_last():
    admission = decoding(tpot_s=0.04, running=16)  # 20 ms + 1.25 ms per request, it is guessed
    whole = admission.capacity(20.0, FAST, None)
    assert whole == (pytest.approx(32 * 40 / 60), 32)
    fast = ticket(FAST, 20.0)
    admission.offer(fast, 20.0)
    tight = (pytest.approx(20 * 40 / 45), 32)
    assert admission.capacity(20.0, ANY_TIME, None) == tight
    for one in list(admission._seated):
        admission.leave(one, 21.0)
    assert admission.capacity(1000.0, ANY_TIME, None) == tight  # nobody came since


def test_where_nobody_was_the_capacity_is_expected_of_a_newcomers_promise():
    profile = StepCostReport(StepCostTable((1, 32), (0.011, 0.042)), (0.0, 0.0))
    admission = Admission(ReplicaLimits(seats=32))
    assert admission.capacity(0.0, FAST, profile) == (None, 32)
    assert admission.capacity(0.0, replace(FAST, tpot_s=0.020), profile) == (None, 8)
    assert admission.capacity(0.0, FAST, None) == (None, 32)


def test_the_context_of_those_who_are_here_counts_where_capacity_is_expected():
    profile = StepCostReport(StepCostTable((1, 32), (0.011, 0.042), 0.0, 1e-6), (0.0, 0.0))
    admission = Admission(ReplicaLimits(seats=32))
    admission.offer(ticket(FAST, prompt=950, output=100), 0.0)  # 1 ms more per request
    assert admission.capacity(0.0, FAST, profile) == (None, 17)
