"""The guardrail, and the command that ends by it."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from autoscale.simulation.report import guardrail_holds, paired_ratio, report, verdicts
from autoscale.simulation.results import Result
from autoscale.simulation.traces import Arrival, save_trace
from cluster.cli import build_parser
from profiles.roofline import MACHINES, QWEN3_14B, modelled_profile

RESULT = Result(
    regime="load 80%",
    arm="fleet",
    seed=0,
    tokens_per_s=100.0,
    goodput_per_s=10.0,
    latency_attainment=1.0,
    batch_attainment=1.0,
    ttft_p50_s=0.1,
    ttft_p99_s=0.2,
    tpot_p50_s=0.01,
    tpot_p99_s=0.02,
    shed=0,
    steps=10,
    drafted_per_step=3.0,
    accepted_share=0.5,
    simulated_s=60.0,
    wall_s=0.5,
    processor_s=0.25,
)
PROFILE = modelled_profile(MACHINES["h200"], QWEN3_14B)
RIVALS = ("off", "fixed 1", "fixed 3", "fixed 5", "fixed 7", "local")


def results(default: float, noise: float = 0.0) -> list[Result]:
    """Three seeds in which every rival makes 100 tokens a second."""
    found = []
    for seed in range(3):
        found += [replace(RESULT, arm=name, seed=seed) for name in RIVALS]
        tokens_per_s = default + noise * (seed - 1)
        found.append(replace(RESULT, seed=seed, tokens_per_s=tokens_per_s))
    return found


@pytest.mark.parametrize(
    ("default", "noise", "holds"),
    [(100.0, 0.0, True), (99.2, 0.1, True), (98.9, 0.1, False), (97.0, 5.0, False)],
    ids=["equal", "within a percent", "worse", "worse, maybe by chance"],
)
def test_the_guardrail_holds_within_a_percent_of_the_best(default, noise, holds):
    assert guardrail_holds(verdicts(results(default, noise))) is holds


@pytest.mark.parametrize(("noise", "surely"), [(0.1, True), (2.0, False)])
def test_what_holds_by_its_mean_alone_is_marked(noise, surely):
    throughput, _ = verdicts(results(99.6, noise))
    assert throughput.ratio.is_surely_within is surely
    assert (" ~ |" in report(results(99.6, noise), PROFILE)) is not surely


def test_one_seed_is_sure_of_nothing():
    ratio = paired_ratio([1.0], [1.0])
    assert not ratio.is_below_guardrail
    assert not ratio.is_surely_within


def test_policies_stand_side_by_side_over_the_default():
    lines = report(results(200.0), PROFILE).splitlines()
    throughput, goodput, *_ = (line for line in lines if line.startswith("| load 80% |"))
    assert throughput == "| load 80% | 200 |" + " 0.500 ± 0.000 |" * len(RIVALS)
    assert goodput == "| load 80% | 10 |" + " 1.000 ± 0.000 |" * len(RIVALS)


def test_the_best_rival_is_named():
    some = results(100.0)
    some = [replace(r, tokens_per_s=110.0) if r.arm == "fixed 5" else r for r in some]
    throughput, goodput = verdicts(some)
    assert (throughput.rival, throughput.ratio.mean) == ("fixed 5", pytest.approx(100 / 110))
    assert goodput.ratio.mean == 1.0


def test_intervals_are_of_paired_runs():
    ratio = paired_ratio([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert (ratio.mean, ratio.half_width) == (pytest.approx(1.1), pytest.approx(0.0))


def test_nothing_against_nothing_is_equal():
    assert paired_ratio([0.0, 0.0], [0.0, 0.0]).mean == 1.0


def test_it_says_how_fast_it_was():
    slow = {"wall_s": 1.5, "processor_s": 0.75}
    some = [replace(r, **slow) if r.arm == "off" else r for r in results(100.0)]
    *_, line = report(some, PROFILE).splitlines()
    assert "processor time, per process: 240 of fleet, 187 over all policies" in line
    assert line.endswith("over wall time 120 and 93.")


def simulate(*arguments: str) -> int:
    args = build_parser().parse_args(["simulate", *arguments])
    return args.run(args)


SMALL = ("--replicas", "2", "--seeds", "1", "--steps", "60", "--regimes", "load 60%")


def test_the_command_writes_runs_and_report(tmp_path, capsys):
    assert simulate(*SMALL, "--output", str(tmp_path)) == 0
    table = pq.read_table(tmp_path / "runs.parquet")
    assert set(RIVALS) < set(table.column("arm").to_pylist())
    assert table.schema.metadata[b"origin"] == b"modelled"
    report = (tmp_path / "report.md").read_text()
    assert "modelled" in report
    assert "| load 60% |" in report
    assert report.strip() in capsys.readouterr().out


def test_a_trace_is_replayed_and_one_of_other_classes_refused(tmp_path, capsys):
    path = tmp_path / "monday.parquet"
    small = ("--replicas", "2", "--seeds", "1", "--steps", "60", "--trace", str(path))
    save_trace(path, [Arrival(0.1 * i, 50, 20, "latency", i) for i in range(10)])
    assert simulate(*small, "--no-ablation") == 0
    assert "| monday.parquet |" in capsys.readouterr().out
    save_trace(path, [Arrival(0.1, 50, 20, "gold")])
    assert simulate(*small) == 2
    assert "service_class has to be latency or batch" in capsys.readouterr().err


def test_an_unknown_regime_is_refused(capsys):
    assert simulate("--regimes", "monsoon") == 2
    assert "no regime 'monsoon'; there are load 30%" in capsys.readouterr().err


def test_a_broken_guardrail_is_the_exit_status(monkeypatch, capsys):
    from autoscale.simulation import command

    monkeypatch.setattr(command.Experiment, "run", lambda *_: results(90.0))
    assert simulate(*SMALL) == 1
    assert "below the guardrail" in capsys.readouterr().out
