"""Checkpoints go from the node that has them to the other, over Ray's object store, and serve
offline there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import snapshot_download

pytestmark = [pytest.mark.long, pytest.mark.light]

COMMIT = "c" * 40
SOURCE = "owner/target"
# Two nodes on this machine, a cache for each, and an object store that holds a few pieces only.
# The command runs as a driver beside them, as `ray exec` runs it on the head.
TWO_NODES = """
import os, subprocess, sys
from ray.cluster_utils import Cluster

def node(home):
    return {"num_cpus": 1, "env_vars": {"HF_HOME": home}}

first, second, config = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args=node(first) | {"include_dashboard": False})
cluster.add_node(**node(second))
command = [sys.executable, "-m", "cluster.cli", "prefetch", "--ray", "--config", config]
done = subprocess.run(command, env=os.environ | {"RAY_ADDRESS": cluster.address})
again = subprocess.run(command, env=os.environ | {"RAY_ADDRESS": cluster.address})
cluster.shutdown()
sys.exit(done.returncode or again.returncode)
"""


def test_the_node_that_has_none_gets_a_copy(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    folder = second / "hub/models--owner--target/snapshots" / COMMIT  # the head has to ask
    folder.mkdir(parents=True)
    weights = os.urandom(70 << 20)  # three pieces
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    (second / "dspark").mkdir()
    (second / "dspark" / f"owner--target@{COMMIT}").touch()
    config = tmp_path / "serve.yaml"
    target = {"source": SOURCE, "revision": COMMIT}
    application = {
        "name": "dspark",
        "import_path": "deployments.app:build_app",
        "args": {"models": [{"id": "m", "placement": "off", "target": target}]},
    }
    config.write_text(yaml.safe_dump({"applications": [application]}))
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, str(first), str(second), str(config)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0.1 GiB copied from") == 1  # the second time nothing is
    found = snapshot_download(
        SOURCE, revision=COMMIT, cache_dir=first / "hub", local_files_only=True
    )
    assert (Path(found) / "model.safetensors").read_bytes() == weights
    assert (first / "dspark" / f"owner--target@{COMMIT}").is_file()
