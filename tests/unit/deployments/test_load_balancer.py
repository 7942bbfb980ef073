import os
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from deployments import load_balancer as module
from deployments.load_balancer import ENABLED, end_orphans, environment, load_balancer


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.delenv(ENABLED, raising=False)
    monkeypatch.setattr(module, "_is_installed", lambda: True)


def test_two_servers_share_neither_ports_nor_files():
    with load_balancer(has_https=False) as one, load_balancer(has_https=False) as other:
        assert one[ENABLED] == other[ENABLED] == "1"
        own = {name for name in one if name.endswith(("_PORT", "_LOC", "_PATH", "_FILE", "_BASE"))}
        assert len(own) == 7
        assert not {one[name] for name in own} & {other[name] for name in own}
    assert ENABLED not in os.environ


def test_the_control_socket_is_for_its_user_alone_and_goes_with_the_server():
    with load_balancer(has_https=False) as env:
        folder = Path(env["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
            assert len(env[name]) + 57 <= 97
    assert not folder.exists()


def test_streams_outlive_a_change_of_replicas_and_nobody_logs_who_asks():
    with load_balancer(has_https=False) as env:
        assert int(env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= 3600
        log = Path(env["RAY_SERVE_HAPROXY_LOG_TARGET"])
        assert log.parent == Path(env["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert not log.exists()


def test_a_dead_haproxy_is_soon_found():
    with load_balancer(has_https=False) as env:
        assert 3 * float(env["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"]) <= 10


@pytest.mark.parametrize(
    "manager", ["ray::HAProxyManager", "ray::SERVE_PROXY_ACTOR:HAProxyManager.ready", "somebody"]
)
def test_an_haproxy_without_its_ray_is_ended(manager):
    with tempfile.TemporaryDirectory(
        prefix="dspark-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        config = Path(folder) / "of-one-ray" / "haproxy.cfg"
        config.parent.mkdir()
        config.touch()
        # `tail -f`, under other names, below a shell that waits for it.
        shell = f"(exec -a haproxy tail -f {config}) & wait"
        parent = subprocess.Popen([manager, "-c", shell], executable=shutil.which("bash"))
        try:
            haproxy = the_haproxy(parent)
            end_orphans()
            is_ended = manager == "somebody"
            assert (not haproxy.is_running() or haproxy.status() == "zombie") == is_ended
            assert Path(folder).exists() != is_ended
        finally:
            for child in children(parent):
                child.kill()
            parent.kill()
            parent.wait()


def the_haproxy(parent: subprocess.Popen[bytes]) -> psutil.Process:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        for child in children(parent):
            if child.cmdline()[:1] == ["haproxy"]:
                return child
        time.sleep(0.02)
    raise AssertionError("it did not start")


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []


@pytest.mark.parametrize("chosen", ["0", "1"])
def test_what_the_environment_says_stands(monkeypatch, chosen):
    monkeypatch.setenv(ENABLED, chosen)
    with load_balancer(has_https=False) as env:
        assert env == {}


def test_https_and_machines_without_haproxy_have_serves_own_proxy(monkeypatch):
    with load_balancer(has_https=True) as env:
        assert env == {}
    monkeypatch.setattr(module, "_is_installed", lambda: False)
    with load_balancer(has_https=False) as env:
        assert env == {}


def test_ray_knows_every_variable(tmp_path):
    from ray.serve._private import constants

    source = Path(constants.__file__).read_text()
    assert all(f'"{name}"' in source for name in environment(tmp_path, 1, 2))
