import math
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.frontier import (
    Point,
    RunMetrics,
    Slo,
    curves,
    latency,
    pareto,
    points,
    ratios,
    run_metrics,
)
from profiles.load_records import LoadRecords
from tests.unit.profiles.load_rows import request_row, run_row

SLO = Slo(ttft_s=0.2, tpot_s=0.1)


def point(replica: float, user: float, arm: str = "a") -> Point:
    """A point of one run with these speeds."""
    metrics = dict.fromkeys(RunMetrics.__slots__, math.nan)
    metrics |= {"tokens_per_s_per_user": user, "tokens_per_s_per_replica": replica}
    return Point(arm, "closed", 1.0, "", 0, (RunMetrics(**metrics),))


def test_chunks_of_several_tokens_have_one_gap_and_count_in_full():
    one = latency(request_row())
    assert one.ttft_s == pytest.approx(0.1)
    assert one.itl_s == pytest.approx((0.2, 0.1))
    assert one.tpot_s == pytest.approx(0.3 / 5)
    assert one.e2e_s == pytest.approx(0.4)


def test_a_single_token_has_no_time_per_token_and_keeps_that_promise():
    one = latency(request_row(gap_us=(150_000,), chunk_tokens=(1,)))
    assert math.isnan(one.tpot_s)
    assert one.meets(SLO)


def test_an_slo_needs_both_promises():
    assert latency(request_row()).meets(SLO)
    assert not latency(request_row()).meets(Slo(0.09, 0.1))
    assert not latency(request_row()).meets(Slo(0.2, 0.05))


def test_one_run_by_hand():
    rows = [
        request_row(),
        request_row(number=1, sent_s=0.5),
        request_row(number=2, sent_s=0.9, status="reset", gap_us=(50_000,), chunk_tokens=(2,)),
        request_row(number=3, status="refused", gap_us=(), chunk_tokens=()),
    ]
    metrics = run_metrics(run_row(window_s=0.85, wall_s=2.0), rows, SLO)
    assert metrics.num_requests == 4
    assert metrics.error_rate == 0.5
    # Until 0.85 s: all six of the first, and of the second the chunks at 0.6 and 0.8 s.
    assert metrics.tokens_per_s_per_replica == pytest.approx((6 + 4) / 0.85)
    assert metrics.tokens_per_s_per_user == pytest.approx((5 + 3) / (0.3 + 0.2))
    assert metrics.goodput_per_s == 2 / 2.0
    assert metrics.acceptance_length == 1 + 3 / 2
    assert (metrics.verified_tokens, metrics.wasted_tokens, metrics.budget_tokens) == (6, 3, 3)
    assert metrics.cpu_s_per_million_tokens == pytest.approx(3e6 / 14)
    assert metrics.client_cpu_share == pytest.approx(0.05)


def test_replicas_share_the_throughput_and_not_the_users_speed():
    one, two = (run_metrics(run_row(num_replicas=n), [request_row()], SLO) for n in (1, 2))
    assert two.tokens_per_s_per_replica == one.tokens_per_s_per_replica / 2
    assert two.tokens_per_s_per_user == one.tokens_per_s_per_user


def test_gpu_seconds_are_of_gpus_that_are_held_for_the_whole_run():
    held = run_metrics(run_row(num_gpus=2.5, wall_s=4.0), [request_row()], SLO)
    assert held.gpu_s_per_million_tokens == pytest.approx(2.5 * 4.0 * 1e6 / 6)
    for none in (0.0, -1.0):
        metrics = run_metrics(run_row(num_gpus=none), [request_row()], SLO)
        assert math.isnan(metrics.gpu_s_per_million_tokens)


def test_what_a_server_does_not_count_is_unknown():
    run = run_row(verified_drafts=-1, draft_tokens=-1, accepted_tokens=-1, cpu_s=-1.0)
    metrics = run_metrics(run, [request_row()], SLO)
    names = ("acceptance_length", "verified_tokens", "wasted_tokens", "budget_tokens")
    for name in (*names, "cpu_s_per_million_tokens"):
        assert math.isnan(getattr(metrics, name)), name


def test_a_run_without_an_answer_has_errors_and_no_speed():
    rows = [request_row(status="refused", gap_us=(), chunk_tokens=())]
    metrics = run_metrics(run_row(), rows, SLO)
    assert (metrics.error_rate, metrics.tokens_per_s_per_replica, metrics.goodput_per_s) == (
        1,
        0,
        0,
    )
    assert math.isnan(metrics.ttft_s)
    assert math.isnan(metrics.tokens_per_s_per_user)


gaps_us = st.just(0) | st.integers(1, 499) | st.integers(500, 500_000)
chunks = st.lists(st.tuples(gaps_us, st.integers(1, 8)), min_size=1, max_size=20)


@given(
    st.lists(st.tuples(st.floats(0, 3, allow_nan=False), chunks), min_size=1, max_size=6),
    st.floats(0.1, 12),
)
def test_metrics_agree_with_tokens_laid_out_one_by_one(requests, window_s):
    """Another way to the same numbers: every token with its own time, in flat arrays."""
    rows = [
        request_row(
            number=i,
            sent_s=sent_s,
            gap_us=tuple(gap for gap, _ in parts),
            chunk_tokens=tuple(n for _, n in parts),
        )
        for i, (sent_s, parts) in enumerate(requests)
    ]
    metrics = run_metrics(run_row(window_s=window_s, wall_s=20.0), rows, SLO)

    seen = later = spent = 0.0
    ttft, tpot, itl = [], [], []
    for sent_s, parts in requests:
        ends = np.array(list(accumulate(gap for gap, _ in parts))) / 1e6
        token_at = np.repeat(ends, [n for _, n in parts])
        inside = token_at[sent_s + token_at <= window_s]
        seen += len(inside)
        begins = [i == 0 or gap >= 500 for i, (gap, _) in enumerate(parts)]
        group = np.cumsum(begins) - 1
        group_at = np.array([ends[group == g][-1] for g in range(group[-1] + 1)])
        token_in = np.repeat(group, [n for _, n in parts])
        counted = token_in[(sent_s + group_at[token_in] <= window_s) & (token_in > 0)]
        if len(counted):
            later += len(counted)
            spent += group_at[counted[-1]] - group_at[0]
        ttft.append(token_at[0])
        apart = np.diff(ends)
        itl.extend(apart[apart > 0.00049999])
        if len(token_at) > 1:
            tpot.append(np.diff(token_at).mean())
    assert metrics.tokens_per_s_per_replica == pytest.approx(seen / window_s)
    assert metrics.ttft_s == pytest.approx(np.mean(ttft))
    if spent:
        assert metrics.tokens_per_s_per_user == pytest.approx(later / spent)
    if tpot:
        assert metrics.tpot_s == pytest.approx(np.mean(tpot))
    if itl:
        assert metrics.itl_p50_s == pytest.approx(np.median(itl), abs=1e-9)


def test_a_frontier_keeps_what_nobody_beats_in_both():
    best = [point(10, 9), point(20, 7), point(30, 1)]
    beaten = [point(9, 9), point(20, 6), point(15, 7)]
    assert pareto([*beaten, *reversed(best)]) == best


def test_equal_points_stand_once():
    assert len(pareto([point(10, 5), point(10, 5)])) == 1


def test_an_unknown_speed_is_on_no_frontier():
    assert pareto([point(math.nan, 5), point(5, math.nan)]) == []


def speeds_of(rounds: dict[str, tuple[int | None, ...]], **sittings: str) -> LoadRecords:
    """Runs of one request with as many tokens as each round says, all within their window."""
    runs, requests = [], []
    for arm, tokens in rounds.items():
        for round_, n in enumerate(tokens, 1):
            if n is None:
                continue
            run_id = f"{arm}{round_}"
            runs.append(run_row(run_id, arm=arm, round=round_, sitting=sittings.get(arm, "one")))
            requests.append(request_row(run_id, gap_us=(1, 1), chunk_tokens=(1, n - 1)))
    return LoadRecords(tuple(reversed(runs)), tuple(requests), {})


def ratio_to_off(records: LoadRecords):
    return ratios(records, "tokens_per_s_per_replica", "off", SLO)["on", "closed:1"]


def test_rounds_are_paired_by_their_number_and_not_by_their_place():
    """The arm's third round failed: its ratio is not taken to another round's."""
    records = speeds_of({"off": (10, 20, 40), "on": (11, 22, None)})
    ratio = ratio_to_off(records)
    assert ratio.is_paired
    assert ratio.estimate.mean == pytest.approx(1.1)
    assert ratio.estimate.half_width == pytest.approx(0, abs=1e-9)
    own = ratios(records, "tokens_per_s_per_replica", "off", SLO)["off", "closed:1"]
    assert own.estimate.mean == 1


def test_runs_of_another_sitting_are_not_paired():
    """The same rounds in the same order, but the servers ran one after the other."""
    rounds = {"off": (10, 20, 30), "on": (11, 22, 33)}
    together, apart = (ratio_to_off(speeds_of(rounds, on=where)) for where in ("one", "two"))
    assert together.estimate.half_width == pytest.approx(0, abs=1e-9)
    assert not apart.is_paired
    # Both sides vary by 10 of 20: relative errors of 1 / (2 sqrt(3)) each.
    assert apart.estimate.mean == pytest.approx(1.1)
    assert apart.estimate.half_width == pytest.approx(2.776 * 1.1 * (2 / 12) ** 0.5)


def test_a_single_round_in_common_is_no_pairing():
    records = speeds_of({"off": (10, 20, 30), "on": (30, 20, 10)})
    (first,) = (run for run in records.runs if run.run_id == "on1")
    elsewhere = [run if run == first or run.arm == "off" else replace(run, sitting="two")
                 for run in records.runs]  # fmt: skip
    ratio = ratio_to_off(records._replace(runs=tuple(elsewhere)))
    assert (ratio.is_paired, ratio.estimate.mean) == (False, 1.0)


def test_runs_of_an_arm_at_a_load_are_one_point():
    runs = [run_row(f"{i}", round=i, load_value=v) for i, v in enumerate((1.0, 1.0, 8.0))]
    requests = [request_row(f"{i}") for i in range(3)]
    found = points(LoadRecords(tuple(runs), tuple(requests), {}), SLO)
    assert [(p.label, len(p.runs)) for p in found] == [("closed:1", 2), ("closed:8", 1)]
    assert (
        points(LoadRecords((run_row(context_tokens=512),), (), {}), SLO)[0].label == "closed:1@512"
    )


def test_runs_of_another_trace_are_another_point_at_the_same_rate():
    runs = [run_row(trace, load="trace", trace=trace) for trace in ("1a2b3c4d", "99999999")]
    found = points(LoadRecords(tuple(runs), (), {}), SLO)
    assert [p.label for p in found] == ["trace:1a2b3c4d", "trace:99999999"]


def test_prompts_of_another_length_are_another_curve():
    short, long = point(10, 9), replace(point(10, 5), context_tokens=4096)
    assert [(str(key), own) for key, own in curves([short, long]).items()] == [
        (short.arm, [short]),
        (f"{short.arm} @4096", [long]),
    ]


def test_a_client_behind_its_load_hides_nothing():
    late = latency(request_row(due_s=1.0, sent_s=1.5))
    in_time = latency(request_row(due_s=1.5, sent_s=1.5))
    assert late.ttft_s == pytest.approx(in_time.ttft_s + 0.5)
    assert late.e2e_s == pytest.approx(in_time.e2e_s + 0.5)
    assert late.tpot_s == in_time.tpot_s
