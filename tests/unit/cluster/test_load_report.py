"""The load that a target replica reports: its gate's counts beside its worker's."""

from __future__ import annotations

from autoscale.fleet_load import ClassOutcomes
from cluster.load_report import Traffic, replica_load

TRAFFIC = Traffic(2.0, 1.5, 50.0, 30.0, 5, 3, 120.4, {"soon": ClassOutcomes(4.0, 3.0)})


def test_what_the_worker_runs_is_running_and_other_seated_requests_wait():
    stats = {
        "requests": 4,
        "committed_tokens": 150,
        "mean_step_s": 0.02,
        "verified_drafts": 7,
        "accepted_tokens": 9,
        "mean_draft_wait_s": 0.004,
        "source": {"requests": 50, "skipped": 5},
    }
    before = {"committed_tokens": 100, "source": {"requests": 30, "skipped": 0}}
    load = replica_load(TRAFFIC, 32, stats, before)
    assert (load.running, load.waiting, load.seats) == (4, 4, 32)
    assert (load.prefill_tokens, load.tokens_per_s) == (120, 25.0)
    assert (load.step_s, load.num_drafts, load.accepted_tokens) == (0.02, 7, 9)
    assert load.drafts_per_s == 50.0  # 25 steps for 4 requests in 2 s
    assert load.outcomes == {"soon": ClassOutcomes(4.0, 3.0)}
    assert load.impossible() is None


def test_a_worker_that_began_anew_wanted_nothing_before():
    before = {"source": {"requests": 1000, "skipped": 0}}
    load = replica_load(TRAFFIC, 32, {"requests": 4, "source": {"requests": 2}}, before)
    assert load.drafts_per_s == 0.0


def test_without_our_worker_the_gate_alone_is_believed():
    load = replica_load(TRAFFIC, 32, {})
    assert (load.running, load.waiting, load.tokens_per_s) == (5, 3, 30.0)
    assert (load.arrivals_per_s, load.prompt_tokens_per_s) == (1.5, 50.0)
