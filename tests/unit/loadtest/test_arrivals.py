import json
from collections import Counter
from itertools import pairwise

import pytest

from loadtest.arrivals import LoadPoint, arrival_offsets_s, parse_load


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("closed:8", LoadPoint("closed", 8.0)),
        ("poisson:2.5", LoadPoint("poisson", 2.5)),
        ("bursts:3", LoadPoint("bursts", 3.0)),
        ("ramp:4", LoadPoint("ramp", 4.0)),
    ],
)
def test_a_load_is_read_as_it_is_written(text: str, point: LoadPoint):
    assert parse_load(text) == point
    assert parse_load(text, 512).context_tokens == 512


@pytest.mark.parametrize(
    "text", ["closed", "closed:", "flood:3", "closed:1.5", "poisson:0", "ramp:x"]
)
def test_another_load_is_refused(text: str):
    with pytest.raises(ValueError, match="load"):
        parse_load(text)


def test_a_closed_loop_has_requests_for_every_client():
    counts = {n: parse_load(f"closed:{n}").num_requests for n in (1, 2, 8, 16, 32)}
    assert counts == {1: 6, 2: 8, 8: 32, 16: 64, 32: 96}


@pytest.mark.parametrize("kind", ["poisson", "bursts", "ramp"])
def test_arrivals_are_the_seeds_and_in_order(kind: str):
    point = LoadPoint(kind, 5.0)
    offsets = arrival_offsets_s(point, 100.0, seed=1)
    assert offsets == arrival_offsets_s(point, 100.0, seed=1)
    assert offsets != arrival_offsets_s(point, 100.0, seed=2)
    assert offsets == sorted(offsets)
    assert 0 <= offsets[0] <= offsets[-1] <= 100


def test_poisson_arrivals_have_their_rate_and_its_spread():
    offsets = arrival_offsets_s(LoadPoint("poisson", 10.0), 1000.0, seed=0)
    gaps = [b - a for a, b in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(0.1, rel=0.05)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)  # exponential gaps


def test_bursts_have_the_same_rate_in_groups_of_eight():
    offsets = arrival_offsets_s(LoadPoint("bursts", 10.0), 1000.0, seed=0)
    assert set(Counter(offsets).values()) == {8}
    assert len(offsets) / 1000 == pytest.approx(10, rel=0.1)


def test_a_ramp_rises_evenly_to_its_rate():
    offsets = arrival_offsets_s(LoadPoint("ramp", 20.0), 1000.0, seed=0)
    early, late = (sum(lo <= x < lo + 100 for x in offsets) / 100 for lo in (0, 900))
    assert early == pytest.approx(1, abs=0.5)
    assert late == pytest.approx(19, rel=0.1)


def test_a_trace_is_replayed_from_its_first_request(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps({"timestamp": t}) for t in (5000, 6500, 9000)))
    point = parse_load(f"trace:{path}")
    assert point.value == 3 / 4
    assert arrival_offsets_s(point, 60.0, seed=0) == [0.0, 1.5, 4.0]
    assert arrival_offsets_s(point, 2.0, seed=0) == [0.0, 1.5]


def test_a_line_that_is_no_request_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 1}\n{"time": 2}\n')
    with pytest.raises(ValueError, match=r"trace\.jsonl:2"):
        parse_load(f"trace:{path}")


def test_no_ramp_is_empty():
    assert all(arrival_offsets_s(LoadPoint("ramp", 0.1), 60.0, seed) for seed in range(200))
