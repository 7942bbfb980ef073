"""Step costs that a fleet learned."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import pytest

from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.fleet_step_cost import (
    FleetStepCost,
    StepCostReport,
    learned_profile,
    merge_experience,
    merge_step_costs,
)
from autoscale.step_cost import StepCostTable
from autoscale.step_cost_fit import fit_step_cost, with_fits
from profiles.step_cost import VERIFY, EngineProvenance, load_step_cost, save_step_cost

PROFILE = StepCostTable((1, 8, 64), (0.010, 0.012, 0.040))
HERE = EngineProvenance("cpu", "demo", "rev", "float32", "tp1", "vllm", "0.29.0", "1 thread")


def report(*costs_s, steps=(500, 500, 500)):
    return StepCostReport(StepCostTable(PROFILE.n_tokens, costs_s), steps)


def test_replicas_that_agree_are_believed():
    table, steps = merge_step_costs(PROFILE, [report(0.02, 0.03, 0.05)] * 3)
    assert table.step_cost_s == (0.02, 0.03, 0.05)
    assert steps == (1500, 1500, 1500)


def test_one_slow_node_moves_nothing():
    usual, slow = report(0.010, 0.012, 0.041), report(0.9, 0.9, 0.9, steps=(900, 900, 900))
    table, _ = merge_step_costs(PROFILE, [usual, usual, slow])
    assert table.step_cost_s == (0.010, 0.012, 0.041)


def test_a_size_that_nobody_visits_moves_with_the_others():
    some = report(0.020, 0.024, 0.999, steps=(500, 500, 0))
    table, _ = merge_step_costs(PROFILE, [some, some])
    assert table.step_cost_s == pytest.approx((0.020, 0.024, 0.080))


def test_few_steps_change_nothing():
    table, _ = merge_step_costs(PROFILE, [report(1.0, 1.0, 1.0, steps=(5, 5, 5))])
    assert table == PROFILE


def test_reports_for_another_table_are_left_out():
    other = StepCostReport(StepCostTable((1, 2), (1.0, 2.0)), (900, 900))
    assert merge_step_costs(PROFILE, [other])[0] == PROFILE


def test_costs_stay_rising():
    table, _ = merge_step_costs(PROFILE, [report(0.020, 0.020, 0.040), report(0.030, 0.020, 0.02)])
    assert list(table.step_cost_s) == sorted(table.step_cost_s)


class TestTheControllersSide:
    def fleet(self, *reports):
        fleet = FleetStepCost()
        for i, some in enumerate(reports):
            fleet.absorb(HERE, f"r{i}", some)
        return fleet

    def test_it_offers_what_most_replicas_learned_and_counts_versions(self):
        fleet = self.fleet(report(0.01, 0.02, 0.03), report(0.02, 0.03, 0.05))
        fleet.absorb(HERE, "r2", report(0.02, 0.03, 0.05))
        merged = fleet.merge(HERE)
        assert (merged.table.step_cost_s, merged.version) == ((0.02, 0.03, 0.05), 1)
        assert fleet.merge(HERE).version == 1  # nothing new

    def test_what_context_adds_is_learned_where_the_entries_stay(self):
        fleet = self.fleet(report(0.01, 0.02, 0.03))
        assert fleet.merge(HERE).version == 0
        there = replace(report(0.01, 0.02, 0.03).table, context_token_s=3e-6)
        fleet.absorb(HERE, "r0", StepCostReport(there, (500, 500, 500)))
        assert (fleet.merge(HERE).table, fleet.merge(HERE).version) == (there, 1)

    def test_other_engines_learn_nothing_from_it(self):
        fleet = self.fleet(report(0.01, 0.02, 0.03))
        assert fleet.merge(replace(HERE, hardware="another")) is None

    def test_a_new_controller_goes_on_from_the_profile_that_was_kept(self):
        learned = StepCostTable(PROFILE.n_tokens, (0.02, 0.03, 0.05))
        kept = learned_profile(HERE, learned, (9, 9, 9), version=7, learned_on=date(2026, 11, 25))
        fleet = FleetStepCost()
        fleet.learn(kept, learned)
        assert (fleet.merge(HERE).table, fleet.merge(HERE).version) == (learned, 7)
        fleet.absorb(HERE, "r0", report(0.02, 0.03, 0.09))
        assert fleet.merge(HERE).version == 8

    def test_what_a_lost_replica_taught_stays(self):
        fleet = self.fleet(report(0.02, 0.03, 0.05))
        fleet.merge(HERE)
        fleet.forget(HERE, "r0")
        assert fleet.merge(HERE).table.step_cost_s == (0.02, 0.03, 0.05)


DRAFTS = DraftExperience(((1, 0.004), (8, 0.006)), 2.5, 6.0, 100)


def test_drafting_is_usually_as_most_replicas_find_it():
    slow = DraftExperience(((8, 0.06), (16, 0.2)), 1.0, 3.0, 50)
    found = merge_experience([DRAFTS, DRAFTS, slow, NO_EXPERIENCE])
    assert found == DraftExperience(((1, 0.004), (8, 0.006), (16, 0.2)), 2.5, 6.0, 250)
    assert merge_experience([NO_EXPERIENCE]) == NO_EXPERIENCE


def test_how_drafting_is_goes_along_with_step_costs():
    fleet = FleetStepCost()
    fleet.absorb(HERE, "a", replace(report(0.02, 0.03, 0.05), drafts=DRAFTS))
    assert StepCostReport.from_plain(fleet.merge(HERE).to_plain()).drafts == DRAFTS


def test_reports_cross_processes_as_plain_values():
    some = replace(report(0.01, 0.02, 0.03), drafts=DRAFTS)
    assert StepCostReport.from_plain(json.loads(json.dumps(some.to_plain()))) == some


@pytest.mark.parametrize(
    "change",
    [
        {"step_cost_s": [0.01, float("nan"), 0.03]},
        {"step_cost_s": [0.01, -0.02, 0.03]},
        {"step_cost_s": [1000.0, 1000.0, 1000.0]},
        {"n_tokens": [0, 8, 64]},
        {"num_steps": [1.0]},
        {"n_tokens": None},
        {"pair_s": "much"},
        {"drafts": {"draft_s": [[0, 0.01]]}},
        {"drafts": {"draft_s": [[1, float("nan")]]}},
        {"drafts": {"draft_s": [1]}},
        {"drafts": {"accepted": 3.0, "verified": 2.0}},
        {"drafts": {"verified": 1e9}},
        {"drafts": {"num_drafts": float("inf")}},
        {"drafts": {"tempo": 1}},
        {"drafts": 3},
    ],
)
def test_nonsense_reports_are_refused(change):
    with pytest.raises(ValueError, match=r"."):
        StepCostReport.from_plain(report(0.01, 0.02, 0.03).to_plain() | change)


def test_what_was_learned_loads_as_the_same_table(tmp_path):
    learned = StepCostTable((1, 8, 64), (0.010, 0.012, 0.040), 1e-4, 2e-8, 1e-7)
    profile = learned_profile(HERE, learned, (10, 20, 30), version=4, learned_on=date(2026, 11, 25))
    save_step_cost(tmp_path / "learned.parquet", with_fits(profile))
    loaded = load_step_cost(tmp_path / "learned.parquet", HERE)
    table = fit_step_cost(loaded.of(VERIFY)).table
    assert loaded.version == 4
    assert table.step_cost_s == pytest.approx(learned.step_cost_s)
    assert table.context_token_s == pytest.approx(learned.context_token_s)
    assert table.pair_s == pytest.approx(learned.pair_s)
