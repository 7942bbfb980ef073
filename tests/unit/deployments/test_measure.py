"""What `dspark measure` says of drafting: bytes of the floor, the table, refusals."""

from __future__ import annotations

import re

import pytest
import torch

from cluster.cli import main
from cluster.fleet_bench import target_reports
from cluster.fleet_learning import FleetLearning
from cluster.observability.metrics import of_source
from cluster.observability.samples import latency_samples, target_samples
from deployments.busy_target import PAIR, BusyTarget, busy_reports
from deployments.catalog.qwen3 import QWEN3_4B, num_parameters
from drafters.checkpoint import empty_model
from drafters.config import DrafterConfig
from drafters.dspark import DSparkModel
from drafters.floor import bytes_read
from drafters.latency import latency_table, random_engine
from drafters.measure import draft_times_ms
from tests.unit.cluster.reports import drafting_report
from tests.unit.drafters.drafter_fixtures import FIELDS, KINDS


def small_engine(kind: str = "vanilla"):
    return random_engine(
        {**FIELDS, **KINDS[kind]},
        device=torch.device("cpu"),
        dtype=torch.float32,
        num_sessions=3,
        num_context_tokens=64,
    )


def test_a_draft_reads_all_weights_once_but_the_serial_head_for_every_token():
    fields = QWEN3_4B.drafter.config
    model = empty_model(DrafterConfig.from_dict(fields, "test"))
    assert isinstance(model, DSparkModel)
    table = fields["vocab_size"] * fields["markov_rank"]  # of W1, looked up, and of W2
    embedding = fields["vocab_size"] * fields["hidden_size"]
    numbers = num_parameters(fields) - embedding - 2 * table + 7 * table
    assert bytes_read(model, 0, 512) == 4 * numbers
    context = 2 * 5 * 8 * 128  # K and V, layers, heads, head size
    assert bytes_read(model, 64, 512) - bytes_read(model, 0, 512) == 4 * 64 * 512 * context


def test_a_drafter_that_shares_its_head_with_the_embedding_reads_it_whole():
    model = small_engine().model
    alone = bytes_read(model, 1, 64)
    model.lm_head.weight = model.embed_tokens.weight
    assert bytes_read(model, 1, 64) == alone


@pytest.mark.parametrize(("kind", "lines"), [("vanilla", 6), ("eagle3", 3)])
def test_the_table_has_a_column_per_number_of_sessions(kind, lines):
    engine = small_engine(kind)
    times = draft_times_ms(engine, 64, [1, 3], 2)
    assert engine.num_sessions == 0
    title, *rows = latency_table(engine, 64, times)
    assert "a full window of 64 tokens each" in title
    assert ("GB/s" in title) == (kind == "vanilla")
    names = ["sessions", "ms", "LM-head", "serial", "floor"][: lines - 1]
    assert [row.split()[0] for row in rows] == names
    assert rows[0].split()[1:] == ["1", "3"]
    assert all(float(cell) >= 0 for row in rows[1:] for cell in row.split()[1:])


def test_a_model_without_a_drafter_of_its_own_is_refused_by_name(capsys):
    assert main(["measure", "--model", "deepseek-v4-pro"]) == 2
    assert "no drafter of a model 'deepseek-v4-pro'; there are qwen3-4b" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(capsys):
    assert main(["measure", "--model", "qwen3-4b", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_what_tracing_takes_is_measured_without_a_collector(capsys):
    assert main(["measure", "--tracing", "--repeats", "2"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"tracing, processor time per request of 40 draft rounds, and its share of as many rounds "
        r"of 20 ms: not sampled -?[\d.]+ us, -?[\d.]+%; sampled, encoded and not sent [\d.]+ us, "
        r"[\d.]+%\n",
        said,
    )


def test_the_target_whose_metrics_are_measured_says_what_a_drafting_one_does():
    (report,) = target_reports(1)
    target = BusyTarget(report)
    first, second = ({s.name: s.value for s in target_samples(target.report())} for _ in range(2))
    assert {s.name for s in target_samples(drafting_report())} <= first.keys()
    assert first.keys() <= of_source("target").keys()
    assert second["dspark_draft_tokens"] == 2 * first["dspark_draft_tokens"] > 0
    assert {s.name for s in latency_samples(target.latencies())} == {
        "dspark_ttft_seconds",
        "dspark_tpot_seconds",
    }


def test_the_replicas_whose_exchanges_are_measured_say_all_that_busy_ones_do():
    reports = busy_reports(11)
    for report in reports:
        assert report.stats["admission"]["classes"]
        assert (report.pair, report.held_plan["seq"]) == (PAIR, 0)
    told = [report for report in reports if report.outcomes and report.step_cost]
    assert [report.replica_id for report in told] == ["t0", "t10"]
    learning = FleetLearning()
    learning.absorb(PAIR, told[0].outcomes)
    learning.refit()
    assert learning.num_malformed_reports == 0
    assert learning.snapshot(PAIR)["calibration"]
