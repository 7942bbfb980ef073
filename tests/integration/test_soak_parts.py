"""What the soak test concludes from what it saw."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import psutil
import pytest

from tests.integration.soak.footprints import footprints, watched
from tests.integration.soak.growth import (
    Course,
    Footprint,
    Growth,
    Sample,
    as_markdown,
    as_plain,
    growth,
    slope_per_s,
)

pytestmark = pytest.mark.light

RUN_S, EVERY_S = 1800, 5


def run(
    rss_mib: Callable[[float], float] = lambda at_s: 1000.0,
    files: Callable[[float], float] = lambda at_s: 50.0,
    sockets: Callable[[float], float] = lambda at_s: 20.0,
) -> Growth:
    """One process over a soak; `at_s` of each since the beginning."""
    times = range(0, RUN_S + 1, EVERY_S)
    (found,) = growth(
        [
            Sample(
                t, {7: Footprint("VLLM::EngineCore", rss_mib(t), int(files(t)), int(sockets(t)))}
            )
            for t in times
        ]
    )
    return found


def noisy(level: Callable[[float], float], spread: float, seed: int) -> Callable[[float], float]:
    draw = random.Random(seed)
    return lambda at_s: level(at_s) + draw.gauss(0.0, spread)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mib_per_h", [60.0, 180.0])
def test_memory_that_leaks_is_seen_through_its_noise(mib_per_h, seed):
    found = run(rss_mib=noisy(lambda at_s: 1000 + mib_per_h * at_s / 3600, 2.0, seed))
    assert found.growing == ["rss_mib"]
    assert found.courses["rss_mib"].per_h == pytest.approx(mib_per_h, abs=15)


@pytest.mark.parametrize("what", ["files", "sockets"])
def test_one_more_every_few_minutes_is_seen(what):
    assert run(**{what: lambda at_s: 50 + at_s // 200}).growing == [what]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "level",
    [
        pytest.param(lambda at_s: 1000.0, id="as it was"),
        pytest.param(lambda at_s: 1000 + 4 * (at_s > 1350), id="a small step"),
        pytest.param(lambda at_s: 1000 + 100 * (at_s > 1650), id="a large one late"),
        pytest.param(lambda at_s: 1000 + 200 * (1200 < at_s < 1260), id="a peak"),
        pytest.param(lambda at_s: 1000 + 60 * (1 - 2 ** (-at_s / 100)), id="filling at first"),
        pytest.param(lambda at_s: 1000 - at_s / 20, id="shrinking"),
    ],
)
def test_noise_steps_and_caches_that_fill_are_no_leak(level, seed):
    assert run(rss_mib=noisy(level, 2.0, seed)).growing == []


@pytest.mark.parametrize("seed", range(5))
def test_connections_that_come_and_go_are_no_leak(seed):
    found = run(files=noisy(lambda _: 50, 2.0, seed), sockets=noisy(lambda _: 20, 2.0, seed))
    assert found.growing == []


def test_the_longer_a_run_the_less_noise_is_allowed():
    held = {7: Footprint("a", 1000.0, 5, 5)}
    hour, day = (growth([Sample(0, held), Sample(s, held)])[0] for s in (3600, 86400))
    assert hour.courses["rss_mib"] == Course(1000.0, 1000.0, 0.0, 24.0)
    assert day.courses["rss_mib"].most_per_h == pytest.approx(16 + 4 / 12)


def test_a_slope_is_the_median_of_all():
    assert slope_per_s([(0, 0.0), (1, 2.0), (2, 6.0)]) == 3.0
    assert slope_per_s([(0, 0.0), (1, 2.0), (2, 4.0), (3, 6.0), (4, 100.0)]) == 2.0
    assert slope_per_s([(0, 5.0)]) == 0.0


def test_only_who_is_there_at_the_end_counts():
    begun = {7: Footprint("a", 1.0, 1, 1), 8: Footprint("gone", 1.0, 1, 1)}
    late = {7: Footprint("a", 2.0, 1, 1), 9: Footprint("new", 1.0, 1, 1)}
    found = growth([Sample(0, begun), Sample(1800, late), Sample(3600, late)])
    assert {one.title: one.courses["rss_mib"].start for one in found} == {"a": 1.0, "new": 1.0}


def test_it_is_told_as_a_table_and_as_json():
    found = run(rss_mib=lambda at_s: 1000 + 180 * at_s / 3600)
    title, _, row = as_markdown([found]).splitlines()
    assert title.startswith("| process | rss_mib at first | at last | per hour | files at first |")
    cells = ["VLLM::EngineCore (7)", "1000", "1090", "+180.0 (over 32)", "50", "50", "+0.0"]
    assert row.strip("| ").split(" | ") == [*cells, "20", "20", "+0.0"]
    (plain,) = json.loads(json.dumps(as_plain([found])))
    assert plain["title"] == "VLLM::EngineCore"
    assert plain["growing"] == ["rss_mib"]
    assert plain["files"] == {"start": 50, "end": 50, "per_h": 0, "most_per_h": 12}


def test_a_process_without_children_that_serve_has_no_footprints():
    with watched(psutil.Process(), 60.0) as samples:
        assert [sample.processes for sample in samples] == [footprints(psutil.Process())]
    assert [sample.processes for sample in samples] == [{}, {}]
    assert samples[0].at_s <= samples[1].at_s
