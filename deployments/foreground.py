"""Serve an application in the foreground: check, start, tell, wait, stop clean."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from importlib import import_module
from pathlib import Path

import ray
import torch
from ray import serve
from ray.serve.context import _get_global_client

from deployments.canary_apps import canary_apps
from deployments.compatibility import accept_software
from deployments.errors import ConfigError
from deployments.load_balancer import end_orphans, load_balancer
from deployments.preflight import check_cpus, check_one_machine, check_settings
from deployments.reasons import reason
from deployments.schema import AppSpec
from deployments.serve_file import ServeFile, check_https, read_serve_file

_POLL_S = 1.0
_MIN_CPUS = 16  # logical: actors here wait more than they compute
# For Serve's controller. Without it a replica whose process hangs is asked to end its streams, and
# has its whole `drain_s` for them, before it is killed and they go on elsewhere.
HUNG_REPLICAS_END = ("RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS", "1")

Say = Callable[[str], None]


def say(line: str) -> None:
    print(line, flush=True)


def serve_in_foreground(config: Path, host: str | None, port: int | None) -> int:
    """Serve `config` until SIGINT or SIGTERM; returns the exit status.

    Raises ConfigError or CompatibilityError before any replica is started. A replica that
    cannot start ends it with status 1; whatever ends it, nothing is left running.
    """
    began = time.monotonic()
    file = read_serve_file(config)
    accept_software(model.placement for model in file.settings.launched)
    host, port = host or file.host, port or file.port
    check_https(file)
    end_orphans()
    check_port_free(host, port)
    if not os.environ.get("RAY_ADDRESS"):
        check_one_machine(file.settings, torch.cuda.device_count())
        check_cpus(file.settings, _own_cpus())
    check_settings(file.settings)
    with load_balancer(has_https=file.has_https) as balanced:
        return _serve(file, host, port, balanced, began)


def _serve(file: ServeFile, host: str, port: int, balanced: Mapping[str, str], began: float) -> int:
    stop = threading.Event()
    _stop_at_signals(stop)
    say(f"starting {file.path.name}: Ray, then the replicas (about a minute on two cores)")
    importing = _in_thread(_import_app)
    try:
        _start_ray(file.settings, balanced)
    except BaseException:
        wait([importing])  # an interpreter must not end in the middle of it
        raise
    _stop_at_signals(stop)  # again: Ray has put handlers of its own there, that end the process
    try:
        http = file.schema.http_options.model_dump() | {"host": host, "port": port}
        serve.start(proxy_location=file.schema.proxy_location, http_options=http)
        importing.result()
        deploying = _in_thread(_deployment(file))
        if not _wait_until_running(deploying, stop, began):
            return 0 if stop.is_set() else 1
        _print_ready(file, host, port, time.monotonic() - began)
        stop.wait()
    finally:
        say("stopping")
        _stop(file.app_name)
    return 0


def _stop_at_signals(stop: threading.Event) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())


def _import_app() -> None:
    """vLLM comes with it, for seconds: while Ray starts, once the settings are known to be good."""
    import_module("deployments.app")


def _deployment(file: ServeFile) -> Callable[[], object]:
    """What deploys the application and returns when it runs.

    A policy for the whole application, and what the file changes of single deployments, reach
    Serve only with the file: then Serve's controller builds the application, elsewhere this
    process does. Raises ConfigError.
    """
    from deployments.app import build_app

    if not file.says_more_than_settings:
        app = build_app(file.args)
        return lambda: serve.run(app, name=file.app_name, route_prefix=file.route_prefix)

    def deploy() -> None:
        client = _get_global_client()
        client.deploy_apps(file.schema)
        client._wait_for_application_running(file.app_name)

    return deploy


def _stop(app_name: str) -> None:
    """Take away what was started: on somebody's cluster the application and its canaries."""
    if os.environ.get("RAY_ADDRESS"):
        canaries = [app.name for app in canary_apps(app_name)]
        for name in (app_name, *canaries):
            serve.delete(name)
    else:
        serve.shutdown()
    ray.shutdown()


def check_port_free(host: str, port: int) -> None:
    """Raises ConfigError when nothing can listen on host:port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}; stop what is there or "
                "choose another with --port"
            ) from None


def _own_cpus() -> int:
    """Logical CPUs of a Ray of our own."""
    return max(_MIN_CPUS, os.cpu_count() or 1)


def _start_ray(settings: AppSpec, environment: Mapping[str, str]) -> None:
    """A cluster of our own on this machine, with more in its environment, or the one RAY_ADDRESS
    names if it is large enough.

    Raises ConfigError, disconnected again, where it is not.
    """
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(*HUNG_REPLICAS_END)
        os.environ.update(environment)
        ray.init(
            address="local",  # also while another cluster runs on this machine
            num_cpus=_own_cpus(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        return
    ray.init(log_to_driver=False, logging_level=logging.WARNING)
    try:
        check_cpus(settings, ray.cluster_resources().get("CPU", 0))
    except ConfigError:
        ray.shutdown()
        raise


def _in_thread(work: Callable[[], object]) -> Future[None]:
    """Run `work` in a daemon thread, so that an interrupt never waits for it."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except Exception as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    return done


def _wait_until_running(deploying: Future[None], stop: threading.Event, began: float) -> bool:
    """Print every change of a deployment's state; False when it failed or was stopped."""
    seen: dict[str, str] = {}
    while not stop.wait(_POLL_S):
        for app in serve.status().applications.values():
            for name, deployment in sorted(app.deployments.items()):
                state = deployment.status.value.lower()
                if seen.get(name) != state:
                    seen[name] = state
                    say(f"  {time.monotonic() - began:5.1f} s  {name}: {state}")
        if deploying.done():
            error = deploying.exception()
            if error is not None:
                say("\n".join([f"the application did not start: {error}", *_reasons()]))
            return error is None
    return False


def _reasons() -> list[str]:
    """Why deployments failed: the last lines of what their replicas raised."""
    return [
        f"  {name}: {reason(deployment.message)}"
        for app in serve.status().applications.values()
        for name, deployment in sorted(app.deployments.items())
        if deployment.status.value in ("DEPLOY_FAILED", "UNHEALTHY") and deployment.message.strip()
    ]


def _print_ready(file: ServeFile, host: str, port: int, seconds: float) -> None:
    model = file.settings.models[0].id
    scheme = "https" if file.has_https else "http"
    base = f"{scheme}://{host}:{port}"
    say(
        f"""
ready after {seconds:.0f} s: an OpenAI-compatible endpoint at {base}/v1

  curl {base}/v1/chat/completions -H 'Content-Type: application/json' -d \\
    '{{"model": "{model}", "max_tokens": 64,
      "messages": [{{"role": "user", "content": "What is 12 times 7?"}}]}}'

  curl {base}/fleet        # replicas, drafter assignments, what speculation did
  {base}/fleet/ui          the same as a page

Ctrl-C stops it."""
    )
