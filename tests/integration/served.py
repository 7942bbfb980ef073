"""`dspark serve` as a user starts it, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.integration.demo import DEMO_TARGET, demo_drafter

START_TIMEOUT_S = 420
STOP_TIMEOUT_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_command(config: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "cluster.cli", "serve"),
        *("--config", str(config), "--port", str(port)),
    ]


@contextmanager
def serving(config: Path, log: Path, **env: str) -> Iterator[str]:
    """The base URL of an application that is up; it is interrupted at the end."""
    with serving_process(config, log, **env) as (url, _):
        yield url


@contextmanager
def serving_process(config: Path, log: Path, **env: str) -> Iterator[tuple[str, psutil.Process]]:
    """The same, with the process that all others of the application descend from."""
    port = free_port()
    with log.open("wb") as out:
        server = subprocess.Popen(
            serve_command(config, port), stdout=out, stderr=out, env=os.environ | env
        )
        try:
            wait_for(
                lambda: server.poll() is not None or b"ready after" in log.read_bytes(),
                START_TIMEOUT_S,
            )
            assert server.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
        finally:
            server.terminate()  # as supervisors do; benchmarks interrupt theirs
            assert server.wait(STOP_TIMEOUT_S) == 0, log.read_text()


def wait_for(condition: Callable[[], Any], timeout_s: float = 30) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"{condition} never came true within {timeout_s} s")


def fleet(url: str, model: str, **headers: str) -> dict[str, Any]:
    reply = httpx.get(f"{url}/fleet", headers=headers).raise_for_status()
    found: dict[str, Any] = reply.json()["models"][model]
    return found


def processes(server: psutil.Process, title: str) -> list[psutil.Process]:
    """Those of an application whose title begins so, like `ray::ServeController`."""
    found = []
    for child in server.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(child.cmdline()).startswith(title):
                found.append(child)
    return found


def engine_of(target_pid: int) -> psutil.Process:
    """The process of a target replica's engine."""
    (engine,) = [
        child
        for child in psutil.Process(target_pid).children()
        if " ".join(child.cmdline()).startswith("VLLM::EngineCore")
    ]
    return engine


def demo_config(
    path: Path,
    *,
    models: dict[str, str],
    classes: tuple[dict[str, Any], ...] = (),
    tracing: dict[str, Any] | None = None,
    fixed: tuple[str, ...] = ("split",),
    **target: Any,
) -> Path:
    """A Serve file with the bundled demo once per entry of `models` (id: placement).

    Those of a placement in `fixed` draft in every step, the others where it pays.
    """
    args = {"models": [_model(id_, p, target, p in fixed) for id_, p in models.items()]}
    document = {
        "http_options": {"host": "127.0.0.1"},
        "applications": [
            {
                "name": "test",
                "route_prefix": "/",
                "import_path": "deployments.app:build_app",
                "args": args | {"classes": list(classes), "tracing": tracing},
            }
        ],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def _model(id_: str, placement: str, target: dict[str, Any], is_fixed: bool) -> dict[str, Any]:
    model: dict[str, Any] = {"id": id_, "placement": placement, "target": DEMO_TARGET | target}
    if placement == "off":
        return model
    policy = {"policy": {"kind": "fixed", "k": 7}} if is_fixed else {}
    return model | policy | {"drafter": demo_drafter(placement)}
