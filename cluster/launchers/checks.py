"""Whether a cluster file would come up: Ray's own validator, and what it does not look at.

Ray checks the file's shape. That the nodes differ, that every `ray start` is authenticated
and joins the head, that the dashboard is not open to the network: those are found here, before
a machine is touched.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from cluster.launchers.parameters import LauncherError

TOKEN = "~/.ray/auth_token"  # where Ray looks for it
_ROCE = ("--device=/dev/infiniband", "--cap-add=IPC_LOCK", "--ulimit=memlock=-1:-1")


def check_cluster(cluster: dict[str, Any]) -> dict[str, Any]:
    """The file as Ray completes it. Raises LauncherError with every fault that was found."""
    prepared = _as_ray_sees_it(cluster)
    faults = [
        *_nodes(cluster),
        *_setup(prepared),
        *_start_commands(cluster),
        *_token(cluster),
        *_docker(cluster),
    ]
    if faults:
        raise LauncherError("\n".join(faults))
    return prepared


def _as_ray_sees_it(cluster: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    heard = io.StringIO()
    try:
        # Ray prints its reason and leaves with SystemExit.
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            prepared: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
            validate_config(prepared)
    except (Exception, SystemExit) as error:
        reason = getattr(error, "message", None) or str(error) or heard.getvalue().strip()
        raise LauncherError(f"Ray refuses the file: {reason}") from None
    return prepared


def _nodes(cluster: dict[str, Any]) -> Iterator[str]:
    provider = cluster["provider"]
    if not cluster.get("auth", {}).get("ssh_user"):
        yield "auth.ssh_user is missing; Ray needs it for every provider"
    if provider["type"] != "local":
        return
    addresses = [provider["head_ip"], *provider["worker_ips"]]
    for address in sorted({a for a in addresses if addresses.count(a) > 1}):
        yield f"{address} is named twice; every node needs an address of its own"


def _setup(prepared: dict[str, Any]) -> Iterator[str]:
    """Ray fills setup commands that are left out from its own examples for a provider."""
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        if any("pip install" in command for command in prepared.get(key, [])):
            yield f"{key} would install packages beside the pinned ones; set {key}: []"


def _start_commands(cluster: dict[str, Any]) -> Iterator[str]:
    head = _ray_start(cluster, "head_start_ray_commands")
    worker = _ray_start(cluster, "worker_start_ray_commands")
    if head is None:
        yield "head_start_ray_commands start no Ray; one has to run `ray start --head`"
    elif "head" not in head or "autoscaling-config" not in head:
        yield "the head's `ray start` needs --head and --autoscaling-config, to start workers"
    elif head.get("dashboard-host") not in ("127.0.0.1", "localhost"):
        yield "the dashboard runs code: set --dashboard-host=127.0.0.1, `ray dashboard` tunnels"
    if worker is None:
        yield "worker_start_ray_commands start no Ray; one has to run `ray start --address`"
    elif head is not None and worker.get("address") != f"$RAY_HEAD_IP:{head.get('port')}":
        yield f"workers have to join --address=$RAY_HEAD_IP:{head.get('port')}, the head's --port"
    for options in (head or {}, worker or {}):
        try:
            json.loads(options.get("resources", "{}"))
        except ValueError:
            yield f"--resources={options['resources']} is not JSON"


def _ray_start(cluster: dict[str, Any], key: str) -> dict[str, str] | None:
    """The options of the `ray start` among the commands of `key`; None without one."""
    for command in cluster.get(key, []):
        found = re.search(r"\bray start\b([^;&|]*)", command)
        if found:
            words = shlex.split(found[1])
            options = (word.removeprefix("--").partition("=") for word in words)
            return {name: value for name, _, value in options}
    return None


def _token(cluster: dict[str, Any]) -> Iterator[str]:
    if TOKEN not in cluster.get("file_mounts", {}):
        yield f"file_mounts lack {TOKEN}; without the token no node may join"
    everywhere = "--env=RAY_AUTH_MODE=token" in cluster.get("docker", {}).get("run_options", [])
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for command in cluster.get(key, []):
            starts = "ray start" in command
            if starts and not everywhere and "RAY_AUTH_MODE=token" not in command:
                yield f"{key}: `ray start` without RAY_AUTH_MODE=token takes orders from anybody"


def _docker(cluster: dict[str, Any]) -> Iterator[str]:
    docker = cluster.get("docker") or {}
    if not docker:
        return
    options = docker.get("run_options", [])
    if ":" not in docker.get("image", "").rpartition("/")[2]:
        yield "docker.image has no tag; nodes could run different ones"
    if any("NCCL_IB_HCA" in c for c in cluster.get("worker_start_ray_commands", [])):
        missing = [option for option in _ROCE if option not in options]
        if missing:
            yield f"RoCE from a container takes docker.run_options {' '.join(missing)}"
