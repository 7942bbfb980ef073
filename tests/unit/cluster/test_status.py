"""A fleet's snapshot, as people read it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from autoscale.service_class import ServiceClass
from cluster.controller import FleetController
from cluster.fleet_bench import target_reports
from cluster.messages import DrafterReport, TargetReport
from cluster.status import status_text
from cluster.text_table import table

SCHEDULE = {
    "drafting": True,
    "verified_per_draft": 4.0,
    "drafted_share": 0.5,
    "plain_cost": {"relative_error": 0.5},
    "drafted_cost": {"relative_error": 0.02},
}
STATS = {
    "verified_drafts": 10,
    "accepted_tokens": 25,
    "expected_tokens": 24.0,
    "schedule": SCHEDULE,
}
HELD = {"epoch": 1, "seq": 7, "age_s": 0.4, "is_stale": False, "refused": {}, "outdated": 0}


def shown(stats=STATS, held=HELD, drafters=()):
    fleet = FleetController(classes={"m": (ServiceClass("latency", 1.0, 0.05),)})
    (report,) = target_reports(1)
    plain = asdict(report) | {"stats": stats, "held_plan": held}
    plain |= {"load": report.load, "engine": None}
    fleet.report_target(TargetReport(**plain))
    for one in drafters:
        fleet.report_drafter(one)
    return status_text(fleet.snapshot())


def test_a_replica_is_one_line():
    lines = shown().splitlines()
    assert lines[0] == (
        "m: 1 replicas, 0 running, 3 waiting, 2.0 requests/s (2.0 expected), 900 tokens/s, "
        "- accepted per draft"
    )
    cells = [cell.strip() for cell in lines[2].split("  ") if cell.strip()]
    assert cells[:7] == ["t0", "0/3/64", "900", "20.0", "1.00", "2.0%", "#7, 0.4 s"]
    assert cells[8:] == ["2.00", "2.50 (2.40)", "split"]
    assert "class latency: kept 90.0% of 30 lately" in lines
    assert lines[-1] == "controller: 1 plans, 0 reports dropped, 0 impossible loads"


def test_a_pool_of_drafters_has_a_line():
    names = {"d1": 0.5, "d2": 0.7}
    drafters = [DrafterReport(name, "m", name, 1, busy=busy) for name, busy in names.items()]
    trial = DrafterReport("d3", "m", "d3", 1, busy=0.0, canary="new")
    assert "drafters: 60% busy, a step waits 4.0 ms for drafts" in shown(
        drafters=[*drafters, trial]
    )


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"epoch": None, "seq": None}, "none yet"),
        (HELD | {"is_stale": True, "age_s": 9.0}, "stale, 9.0 s: local rules"),
        (HELD | {"refused": {"expected_requests": 2}}, "#7, 0.4 s, 2 fields refused"),
    ],
)
def test_it_says_what_a_replica_goes_by(held, said):
    assert said in shown(held=held)


def test_what_is_not_known_is_a_dash():
    (row,) = (line for line in shown(stats={}).splitlines() if line.startswith("t0"))
    assert [cell.strip() for cell in row.split("  ") if cell.strip()][-3:] == ["-", "-", "split"]


def test_a_paused_drafter_has_no_budget():
    assert "0 (paused)" in shown(STATS | {"schedule": SCHEDULE | {"drafting": False}})


def test_columns_line_up():
    assert table([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]


ENGINE = {"url": "http://e", "down": None, "down_s": 0.0, "no_metrics": None}


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({}, "engine http://e of t0: up"),
        ({"down": "no answer", "down_s": 7.4}, "engine http://e of t0: DOWN for 7 s: no answer"),
        ({"no_metrics": "404"}, "engine http://e of t0: up; tells no load (404)"),
    ],
)
def test_an_attached_engine_has_a_line_of_its_own(engine, said):
    assert said in shown({"engine": ENGINE | engine}).splitlines()


def test_an_attached_engine_accepts_what_it_tells():
    def accepts(stats):
        (row,) = (line for line in shown(stats).splitlines() if line.startswith("t0"))
        return [cell.strip() for cell in row.split("  ") if cell.strip()][-2]

    counted = {"verified_drafts": 10, "accepted_tokens": 25}
    assert accepts({"engine": ENGINE} | counted) == "2.50 (-)"
    assert accepts({"engine": ENGINE | {"acceptance_length": 2.75}}) == "1.75"
