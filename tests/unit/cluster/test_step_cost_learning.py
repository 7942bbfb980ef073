"""Step costs of the fleet: handed to new replicas, kept on disk, robust to what is reported."""

from __future__ import annotations

import errno
import logging

import pytest

from autoscale.fleet_step_cost import StepCostReport
from autoscale.step_cost import StepCostTable
from cluster.step_cost_learning import StepCostLearning
from profiles.step_cost import EngineProvenance

HERE = EngineProvenance("cpu", "demo", "rev", "float32", "tp1", "vllm", "0.29.0", "1 thread")
N_TOKENS = (1, 8, 64)
LIVING = frozenset({"a", "b", "c", "slow"})


def report(*costs_s, steps=(500, 500, 500)):
    return StepCostReport(StepCostTable(N_TOKENS, costs_s), steps).to_plain()


def learned(state_dir=None):
    """A fleet that found steps to take twice what the first replica measured."""
    learning = StepCostLearning(state_dir)
    learning.absorb(HERE, "a", report(0.01, 0.02, 0.04, steps=(0, 0, 0)))
    learning.refit(LIVING)
    for replica in "abc":
        learning.absorb(HERE, replica, report(0.02, 0.04, 0.08))
    learning.refit(LIVING)
    return learning


def test_what_nobody_has_learned_yet_is_not_handed_out():
    learning = StepCostLearning()
    assert learning.plan(HERE) is None
    learning.absorb(HERE, "a", report(0.01, 0.02, 0.04, steps=(3, 3, 3)))
    learning.refit(LIVING)
    assert learning.plan(HERE) is None


def test_a_new_replica_gets_what_the_others_learned():
    found = StepCostReport.from_plain(learned().plan(HERE))
    assert found.table.step_cost_s == (0.02, 0.04, 0.08)


def test_a_slow_node_is_known_by_its_steps():
    learning = learned()
    learning.absorb(HERE, "slow", report(0.04, 0.08, 0.16))
    learning.refit(LIVING)
    assert learning.relative("slow") == pytest.approx(2.0)
    assert learning.relative("a") == pytest.approx(1.0)
    assert learning.relative("stranger") == 1.0
    learning.refit(LIVING - {"slow"})
    assert learning.relative("slow") == 1.0


def test_a_new_controller_goes_on_from_the_directory(tmp_path):
    learned(tmp_path)
    found = StepCostReport.from_plain(StepCostLearning(tmp_path).plan(HERE))
    assert found.table.step_cost_s == pytest.approx((0.02, 0.04, 0.08), rel=1e-3)


def test_a_full_disk_costs_the_file_until_there_is_room_again(tmp_path, caplog, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    caplog.set_level(logging.WARNING)
    with monkeypatch.context() as disk:
        disk.setattr("profiles.parquet.pq.write_table", full)
        learning = learned(tmp_path)
        learning.refit(LIVING)
    assert StepCostReport.from_plain(learning.plan(HERE)).table.step_cost_s == (0.02, 0.04, 0.08)
    assert caplog.text.count("cannot be kept") == 1
    assert StepCostLearning(tmp_path).plan(HERE) is None
    learning.refit(LIVING)  # nothing new, and room
    assert StepCostLearning(tmp_path).plan(HERE) is not None
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    learning.refit(LIVING)
    assert path.stat().st_mtime_ns == written


def test_a_damaged_file_is_named_and_left_aside(tmp_path, caplog):
    (tmp_path / "x.step-cost.parquet").write_bytes(b"no parquet")
    caplog.set_level(logging.WARNING)
    assert StepCostLearning(tmp_path).plan(HERE) is None
    assert "x.step-cost.parquet" in caplog.text


@pytest.mark.parametrize(
    "nonsense",
    [
        {},
        {"n_tokens": [1, 2]},
        report(0.02, 0.04, 0.08) | {"step_cost_s": (float("nan"), 0.04, 0.08)},
        report(0.02, 0.04, 0.08) | {"step_cost_s": (-1.0, 0.04, 0.08)},
        report(0.02, 0.04, 0.08) | {"num_steps": (1.0,)},
    ],
)
def test_nonsense_is_dropped_and_counted(nonsense):
    learning = learned()
    before = learning.plan(HERE)
    learning.absorb(HERE, "a", nonsense)
    learning.refit(LIVING)
    assert learning.num_malformed_reports == 1
    assert learning.plan(HERE) == before
