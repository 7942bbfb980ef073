"""Which checkpoints are fetched ahead, and when others may rely on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.errors import ConfigError
from deployments.prefetch import HubCheckpoint, hub_checkpoints, prefetch, wait_until_fetched
from deployments.schema import parse_settings

TARGET, DRAFTER = "a" * 40, "b" * 40


def settings(**target):
    target = {"source": "owner/target", "revision": TARGET, **target}
    drafter = {"source": "owner/drafter", "revision": DRAFTER}
    return parse_settings({"models": [{"id": "m", "target": target, "drafter": drafter}]})


def test_target_drafter_and_adapters_are_fetched_at_their_revisions():
    assert hub_checkpoints(settings(loras={"pirate": "owner/pirate"})) == (
        HubCheckpoint("owner/target", TARGET, "model m: target.source"),
        HubCheckpoint("owner/drafter", DRAFTER, "model m: drafter.source"),
        HubCheckpoint("owner/pirate", None, "model m: target.loras.pirate", is_adapter=True),
    )


def test_bundled_checkpoints_need_no_fetching():
    bundled = settings(source="models/demo-target", revision=None)
    assert [c.source for c in hub_checkpoints(bundled)] == ["owner/drafter"]


def test_two_models_on_one_checkpoint_fetch_it_once():
    (model,) = settings().models
    both = parse_settings({"models": [model.model_dump(), model.model_dump() | {"id": "other"}]})
    assert [c.source for c in hub_checkpoints(both)] == ["owner/target", "owner/drafter"]


def test_a_checkpoint_without_a_revision_is_refused():
    with pytest.raises(ConfigError, match=r"model m: target.source: owner/target has no revision"):
        hub_checkpoints(settings(revision=None))


def test_others_may_start_only_once_everything_has_arrived(tmp_path):
    said: list[str] = []
    arrivals = iter(["owner/target", "owner/drafter"])

    def one_more_arrives(seconds: float) -> None:
        name = next(arrivals)
        part = settings().models[0].model_dump()
        if name == "owner/target":
            part |= {"placement": "off"}
        prefetch(parse_settings({"models": [part]}), tmp_path, lambda _: None, lambda _: Path("x"))

    wait_until_fetched(settings(), tmp_path, said.append, one_more_arrives)
    assert said == [
        f"waiting for owner/target, owner/drafter in {tmp_path}",
        f"waiting for owner/drafter in {tmp_path}",
        f"all checkpoints are in {tmp_path}",
    ]


def test_a_checkpoint_that_did_not_arrive_leaves_no_mark(tmp_path):
    def fails(checkpoint: HubCheckpoint) -> Path:
        raise ConfigError(f"{checkpoint.source} is away")

    with pytest.raises(ConfigError, match="owner/target is away"):
        prefetch(settings(), tmp_path, lambda _: None, fails)
    assert not list(tmp_path.rglob("owner*"))
