"""Samples reach Ray's instruments by their declared kind; totals become increments."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import cluster.observability.publisher as publisher
from cluster.observability.metrics import METRICS, metrics_page
from cluster.observability.samples import Sample


class Recorded:
    """Stands for one of Ray's instruments; every call goes to `calls`."""

    calls: list

    def __init__(self, name, description, tag_keys, boundaries=None):
        self.name, self.tag_keys = name, tag_keys

    def _record(self, value, tags):
        assert tuple(tags) == self.tag_keys
        self.calls.append((type(self).__name__, self.name, value, dict(tags)))


@pytest.fixture
def told(monkeypatch):
    """What Ray was told, in order: kind, name, value, tags."""
    calls: list = []
    for kind, method in (("Gauge", "set"), ("Counter", "inc"), ("Histogram", "observe")):
        fake = type(kind, (Recorded,), {"calls": calls, method: Recorded._record})
        monkeypatch.setattr(publisher, kind, fake)
    return calls


OF = {"model": "m", "replica": "r"}


def test_a_sample_becomes_what_its_metric_is(told):
    some = publisher.Publisher("target", **OF)
    some.publish(
        [
            Sample("dspark_seats", 8),
            Sample("dspark_steps", 5),
            Sample("dspark_ttft_seconds", 0.25, {"service_class": "a"}),
        ]
    )
    assert told == [
        ("Gauge", "dspark_seats", 8.0, OF),
        ("Counter", "dspark_steps", 5, OF),
        ("Histogram", "dspark_ttft_seconds", 0.25, OF | {"service_class": "a"}),
    ]


def test_counters_are_raised_by_what_is_new(told):
    some = publisher.Publisher("target", **OF)
    for total in (3, 3, 10, 2):  # the last one after a restart of the worker
        some.publish([Sample("dspark_steps", total)])
    some.publish([Sample("dspark_draft_failures", 4, {"reason": "error"})])
    some.publish([Sample("dspark_draft_failures", 1, {"reason": "unsent"})])
    assert [value for _, _, value, _ in told] == [3, 7, 2, 4, 1]


def test_what_is_wrong_is_said_once_and_costs_nothing_else(told, caplog):
    caplog.set_level(logging.ERROR)
    some = publisher.Publisher("drafter", **OF)
    for _ in range(2):
        some.publish([Sample("dspark_drafter_sessions", 1), Sample("dspark_seats", 8)])
    assert [name for _, name, _, _ in told] == ["dspark_drafter_sessions"] * 2
    assert [record.getMessage() for record in caplog.records] == ["metrics cannot be published"]


def test_ray_takes_every_declaration():
    for source in ("target", "drafter", "ingress", "controller"):
        publisher.Publisher(source)
    assert len({metric.source for metric in METRICS}) == 4


def test_the_page_is_what_is_declared():
    assert Path("docs/metrics.md").read_text() == metrics_page()
