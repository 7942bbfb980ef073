import json

import pytest

from deployments.checkpoints import checkpoint_source, config_directory, read_config
from deployments.errors import ConfigError


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    return tmp_path


def test_a_directory_is_what_it_is_on_every_node(checkpoint):
    assert checkpoint_source(str(checkpoint), "f") == str(checkpoint.resolve())
    assert config_directory(str(checkpoint), "f") == checkpoint.resolve()
    assert read_config(str(checkpoint), "f") == {"hidden_size": 8}


def test_a_hub_id_is_passed_on_and_nothing_is_fetched():
    assert checkpoint_source("owner/name", "f", "a" * 40) == "owner/name"


def test_a_directory_has_no_revision(checkpoint):
    with pytest.raises(ConfigError, match=r"f: .* is a directory, which has no revision"):
        checkpoint_source(str(checkpoint), "f", "a" * 40)


def test_what_is_neither_is_refused():
    with pytest.raises(ConfigError, match=r"f: no directory './nowhere' .*hub id \(owner/name\)"):
        checkpoint_source("./nowhere", "f")


def test_a_directory_without_a_config_is_no_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json; it is not a checkpoint"):
        read_config(str(tmp_path), "f")
