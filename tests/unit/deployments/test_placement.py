"""How many replicas a model is to have at least, as alerts hold the fleet to it."""

from __future__ import annotations

import pytest

from cluster.observability.samples import PoolSizes
from deployments.placement import pool_sizes
from deployments.schema import parse_settings

TARGET = {"source": "models/demo-target", "replicas": 3}
DRAFTER = {"source": "models/demo-drafter", "replicas": 2}


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ({"target": TARGET, "drafter": DRAFTER, "placement": "split"}, PoolSizes(3, 2)),
        ({"target": TARGET, "placement": "off"}, PoolSizes(3, 0)),
        (
            {
                "target": TARGET | {"scaling": {"least": 2, "most": 5}},
                "drafter": DRAFTER | {"scaling": {"least": 1, "most": 4}},
                "placement": "split",
            },
            PoolSizes(2, 1),
        ),
        ({"attach": {"url": ["http://a:8000", "http://b:8000"]}}, PoolSizes(2, 0)),
    ],
)
def test_pools_are_as_large_as_settings_say_or_as_the_least_where_they_scale(model, sizes):
    (parsed,) = parse_settings({"models": [{"id": "m", **model}]}).models
    assert pool_sizes(parsed) == sizes


def test_drafters_inside_of_targets_are_no_replicas():
    model = {"target": TARGET, "drafter": {"source": DRAFTER["source"]}, "placement": "colocated"}
    (parsed,) = parse_settings({"models": [{"id": "m", **model}]}).models
    assert pool_sizes(parsed) == PoolSizes(3, 0)
