"""Nonsense in a plan costs the field that it is in."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest

from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.plan_check import checked, plan_from_plain

PLAN = ReplicaPlan(
    expected_requests=12.0,
    expected_prefill_tokens=300.0,
    class_weights={"latency": 1.4},
)
NAN, INFINITE = float("nan"), float("inf")


def test_a_usual_plan_and_none_are_followed_whole():
    assert checked(PLAN) == (PLAN, ())
    assert checked(NO_PLAN) == (NO_PLAN, ())
    assert plan_from_plain(asdict(PLAN)) == (PLAN, ())
    assert plan_from_plain({}) == (NO_PLAN, ())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("expected_requests", (NAN, INFINITE, -1.0, 1e12, "12", True)),
        ("expected_prefill_tokens", (NAN, -INFINITE, -300.0, 1e300)),
        ("class_weights", ({"a": NAN}, {"a": -1.0}, {"a": 1e9}, {"a": 0.0}, {1: 1.0}, [1.0], None)),
    ],
)
def test_nonsense_is_refused_and_the_other_fields_stand(name, values):
    for value in values:
        found = checked(replace(PLAN, **{name: value}))
        assert found.refused == (name,), value
        assert found.plan == replace(PLAN, **{name: getattr(NO_PLAN, name)})


def test_no_end_of_classes_is_refused():
    many = {f"c{i}": 1.0 for i in range(1000)}
    assert checked(replace(PLAN, class_weights=many)).refused == ("class_weights",)


def test_every_field_has_its_bounds():
    for field in fields(ReplicaPlan):
        assert checked(replace(PLAN, **{field.name: object()})).refused == (field.name,)


def test_fields_of_another_version_are_named():
    assert plan_from_plain(asdict(PLAN) | {"price": 3}) == (PLAN, ("price",))
