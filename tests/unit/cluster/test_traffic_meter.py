"""What a replica's frontend counts, and the load that it reports."""

from __future__ import annotations

import pytest

from autoscale.fleet_load import OUTCOME_FADE, ClassOutcomes
from autoscale.service_class import ServiceClass
from cluster.load_report import replica_load
from cluster.traffic_meter import TrafficMeter

CLASSES = (ServiceClass("latency", ttft_s=1.0, tpot_s=0.1), ServiceClass("batch", 10.0, 1.0))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def meter(clock):
    return TrafficMeter(CLASSES, clock)


def serve(meter, clock, service_class, ttft_s, tpot_s, num_tokens=11, is_complete=True):
    request = meter.arrive(service_class, 8)
    clock.now += ttft_s
    meter.produce(request, 1)
    clock.now += tpot_s * (num_tokens - 1)
    meter.produce(request, num_tokens - 1)
    meter.end(request, is_complete=is_complete)


def test_rates_are_those_since_the_last_report(meter, clock):
    first = meter.arrive("latency", 30)
    meter.arrive("", 70)
    clock.now += 2.0
    meter.produce(first, 5)
    traffic = meter.take()
    assert traffic[:4] == (2.0, 1.0, 50.0, 2.5)
    assert (traffic.in_flight, traffic.mean_prompt_tokens) == (2, 50.0)
    clock.now += 1.0
    assert meter.take()[:4] == (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "met"), [(0.9, 0.09, 1.0), (1.1, 0.09, 0.0), (0.9, 0.11, 0.0)]
)
def test_a_promise_is_kept_when_both_its_times_are(meter, clock, ttft_s, tpot_s, met):
    serve(meter, clock, "latency", ttft_s, tpot_s)
    assert meter.take().outcomes["latency"] == ClassOutcomes(1.0, met)


def test_a_first_token_may_be_told_of_later_than_it_came(meter, clock):
    request = meter.arrive("latency", 8)
    clock.now += 2.0
    meter.produce(request, 21, first_token_after_s=0.5)  # then one every 75 ms
    meter.end(request, is_complete=True)
    assert meter.take().outcomes["latency"] == ClassOutcomes(1.0, 1.0)


def test_outcomes_fade_and_refusals_count_as_broken(meter, clock):
    serve(meter, clock, "batch", 0.5, 0.1)
    meter.refuse("batch")
    meter.refuse("unheard of")
    assert meter.take().outcomes["batch"] == ClassOutcomes(2.0, 1.0)
    assert meter.take().outcomes["batch"] == ClassOutcomes(2 * OUTCOME_FADE, OUTCOME_FADE)


def test_what_was_aborted_or_promised_by_nobody_says_nothing(meter, clock):
    serve(meter, clock, "latency", 5.0, 1.0, is_complete=False)
    serve(meter, clock, "gold", 5.0, 1.0)
    traffic = meter.take()
    assert traffic.outcomes == {"latency": ClassOutcomes(), "batch": ClassOutcomes()}
    assert traffic.in_flight == 0


def test_a_load_is_the_frontends_counts_beside_the_workers(meter, clock):
    for _ in range(5):
        meter.arrive("latency", 10)
    clock.now += 1.0
    stats = {
        "requests": 2,
        "unread_tokens": 4,
        "committed_tokens": 150,
        "mean_step_s": 0.02,
        "verified_drafts": 7,
        "accepted_tokens": 9,
        "mean_draft_wait_s": 0.004,
    }
    load = replica_load(meter.take(), 4, stats, num_committed_before=100)
    assert (load.running, load.waiting, load.seats) == (2, 3, 4)
    assert (load.prefill_tokens, load.tokens_per_s) == (34, 50.0)
    assert (load.step_s, load.num_drafts, load.accepted_tokens) == (0.02, 7, 9)
    assert load.impossible() is None


def test_without_our_worker_seats_are_taken_first(meter):
    for _ in range(5):
        meter.arrive("", 10)
    load = replica_load(meter.take(), 4, {})
    assert (load.running, load.waiting) == (4, 1)
