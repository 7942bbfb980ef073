"""Checkpoints on all nodes: one fetches what none has, the others get copies of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from deployments.errors import ConfigError
from deployments.prefetch import HubCheckpoint
from deployments.prefetch_nodes import named, spread

TARGET = HubCheckpoint("owner/target", "a" * 40, "model m: target.source")
DRAFTER = HubCheckpoint("owner/drafter", "b" * 40, "model m: drafter.source")


@dataclass
class Fleet:
    """Nodes with what they have; `did` is what was asked of them, in order."""

    having: dict[str, set[HubCheckpoint]]
    online: set[str] = field(default_factory=set)
    full: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    shared: bool = False
    did: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.having)

    def has(self, node: str, checkpoint: HubCheckpoint) -> bool:
        if node in self.away:
            raise ConfigError("does not answer")
        return checkpoint in self.having[node]

    def fetch(self, node: str, checkpoint: HubCheckpoint) -> None:
        if node not in self.online:
            raise ConfigError("the hub is away")
        self.did.append(("fetch", node, checkpoint.source))
        self._take(node, checkpoint)

    def copy(self, source: str, node: str, checkpoint: HubCheckpoint) -> int:
        assert checkpoint in self.having[source]
        if node in self.full:
            raise ConfigError("No space left on device")
        self.did.append(("copy", source, node, checkpoint.source))
        self._take(node, checkpoint)
        return 3 << 30

    def _take(self, node: str, checkpoint: HubCheckpoint) -> None:
        for one in self.names if self.shared else (node,):
            self.having[one].add(checkpoint)


def test_one_node_with_a_way_to_the_hub_is_enough():
    fleet = Fleet({"a": set(), "b": set(), "c": set()}, online={"b"})
    said: list[str] = []
    assert spread([TARGET], fleet, said.append) == []
    assert fleet.did == [
        ("fetch", "b", "owner/target"),
        ("copy", "b", "a", "owner/target"),
        ("copy", "b", "c", "owner/target"),
    ]
    assert said == [
        f"owner/target at {'a' * 40}",
        "  fetching on a",
        "  fetching on b",
        "  is on a, 3.0 GiB copied from b",
        "  is on b",
        "  is on c, 3.0 GiB copied from b",
    ]


def test_what_a_node_has_is_not_asked_of_the_hub():
    fleet = Fleet({"a": set(), "b": {TARGET}}, online={"a", "b"})
    assert spread([TARGET], fleet, lambda line: None) == []
    assert fleet.did == [("copy", "b", "a", "owner/target")]


def test_a_second_time_nothing_is_done():
    fleet = Fleet({"a": {TARGET}, "b": {TARGET}}, online={"a"})
    assert spread([TARGET], fleet, lambda line: None) == []
    assert fleet.did == []


def test_nodes_that_share_a_cache_are_not_copied_to():
    fleet = Fleet({"a": set(), "b": set()}, online={"a"}, shared=True)
    assert spread([TARGET], fleet, lambda line: None) == []
    assert fleet.did == [("fetch", "a", "owner/target")]


def test_where_none_can_fetch_all_their_reasons_are_said_and_the_next_checkpoint_is_tried():
    fleet = Fleet({"a": set(), "b": {DRAFTER}})
    (fault,) = spread([TARGET, DRAFTER], fleet, lambda line: None)
    assert fault == ("owner/target: no node can fetch it: a: the hub is away; b: the hub is away")
    assert fleet.did == [("copy", "b", "a", "owner/drafter")]


@pytest.mark.parametrize(("full", "away"), [({"b"}, set()), (set(), {"b"})])
def test_a_node_that_cannot_take_it_is_named_and_the_others_get_theirs(full, away):
    fleet = Fleet({"a": set(), "b": set(), "c": set()}, online={"a"}, full=full, away=away)
    (fault,) = spread([TARGET], fleet, lambda line: None)
    assert fault.startswith("owner/target on b: ")
    assert fleet.did[-1] == ("copy", "a", "c", "owner/target")


def test_nodes_are_called_by_their_host_where_that_is_enough():
    assert named([("spark-a", "1" * 40), ("spark-b", "2" * 40)]) == {
        "spark-a": "1" * 40,
        "spark-b": "2" * 40,
    }
    assert named([("one", "1" * 40), ("one", "2" * 40)]) == {
        "one, node 11111111": "1" * 40,
        "one, node 22222222": "2" * 40,
    }
