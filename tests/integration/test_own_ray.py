"""`dspark serve` starts a Ray of its own, whatever else runs on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.served import wait_for

RAY = str(Path(sys.executable).with_name("ray"))
START = """
import ray, sys
from pathlib import Path
from deployments.foreground import _start_ray
from deployments.serve_file import read_serve_file
_start_ray(read_serve_file(Path("deployments/configs/demo.yaml")).settings, {})
print("CPUs", ray.cluster_resources()["CPU"])
"""


@pytest.fixture
def others() -> Iterator[dict[str, str]]:
    """Somebody's cluster of one CPU, and the environment in which Ray would find it."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: sockets are named in it
        env = os.environ | {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
        command = [RAY, "start", "--head", "--block", "--port=0", "--num-cpus=1"]
        head = subprocess.Popen(
            [*command, "--include-dashboard=false"], env=env, stdout=subprocess.DEVNULL
        )
        try:
            assert wait_for((Path(folder) / "ray" / "ray_current_cluster").exists, 60)
            yield env
        finally:
            head.terminate()
            head.wait(60)


def test_beside_a_cluster_that_is_not_ours(others):
    done = subprocess.run(
        [sys.executable, "-c", START], env=others, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "CPUs 1.0" not in done.stdout
