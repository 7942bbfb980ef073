"""Checkpoints on the hub without a revision: one commit for all that serves, said and recorded."""

from __future__ import annotations

import huggingface_hub
import pytest

from deployments.canary import canary_model, canary_name, parse_canary
from deployments.checkpoints import PROJECT_ROOT
from deployments.drafting_pair import drafting_pair
from deployments.pinning import pinned
from deployments.schema import parse_settings

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
DEMO = PROJECT_ROOT / "models" / "demo-drafter"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What is fetched from a hub whose newest commit is COMMIT, in turn."""
    found = []

    def fetch(name, filename, *, revision):
        found.append((name, filename, revision))
        directory = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots"
        directory /= revision or COMMIT
        directory.mkdir(parents=True, exist_ok=True)
        (directory / filename).write_bytes((DEMO / filename).read_bytes())
        return str(directory / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return found


def settings(drafter, target="models/demo-target"):
    model = {"id": "demo", "target": {"source": target}, "placement": "split", "drafter": drafter}
    return parse_settings({"models": [model]})


def test_the_newest_commit_is_taken_once_said_and_recorded(asked, caplog):
    (model,) = pinned(settings({"source": "owner/drafter"})).models
    assert asked == [("owner/drafter", "config.json", None)]
    assert model.drafter.revision == COMMIT
    assert drafting_pair(model).drafter_version == COMMIT
    (message,) = caplog.messages
    assert f"drafter.source owner/drafter has no revision; taken is {COMMIT}" in message
    assert "set model demo: drafter.revision" in message


def test_a_target_is_pinned_too(asked):
    (model,) = pinned(settings({"ngram": {}}, target="owner/target")).models
    assert model.target.revision == COMMIT


def test_what_says_which_it_is_stays(asked, caplog):
    for drafter in (
        {"source": "owner/drafter", "revision": OTHER},
        {"source": "models/demo-drafter"},
        {"ngram": {}},
    ):
        given = settings(drafter)
        assert pinned(given) == given
    assert (asked, caplog.messages) == ([], [])


def test_a_drafter_on_trial_is_pinned_before_its_replicas_start(asked):
    (serving,) = settings({"source": "models/demo-drafter"}).models
    tried = canary_model(serving, parse_canary({"drafter": "owner/drafter"}))
    assert tried.drafter.revision == COMMIT
    assert canary_name(tried) == f"owner/drafter:{COMMIT}"
    assert set(asked[1:]) == {("owner/drafter", "config.json", COMMIT)}
