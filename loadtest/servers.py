"""What answers: servers that are started for a while, and those that run already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from loadtest.arms import Arm
from loadtest.policies import PolicyChoice

_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 60.0
_FIRST_ANSWER_S = 60.0
_POLL_S = 1.0


class ServerError(RuntimeError):
    """A server that does not start, or that serves something else than its arms say."""


@dataclass(frozen=True, slots=True)
class Server:
    """One process tree behind one address, with the arms it serves.

    `command` starts it with `env` on top of ours; without one it runs already. `description`
    names it in results. `has_fleet` is ours: `GET /fleet` knows its replicas and counts.
    `api_key` is asked for where it has keys, an admin's where arms switch policies.
    """

    description: str
    url: str
    arms: tuple[Arm, ...]
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    has_fleet: bool = False
    api_key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """With the key, where there is one."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


class Running(NamedTuple):
    """A server that is up; `pid` is the root of its processes, None where it is not ours."""

    server: Server
    pid: int | None


@contextmanager
def running(server: Server, log: Path) -> Iterator[Running]:
    """Start a server, wait until it serves every arm, and stop it in every case.

    Its output goes to `log`. Raises ServerError when it does not come up, or serves another
    model than an arm says.
    """
    if not server.command:
        check_models(server)
        yield Running(server, None)
        return
    if _is_taken(server.url):
        raise ServerError(f"something serves {server.url} already; stop it, or give another --port")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            server.command,
            stdout=out,
            stderr=out,
            env=os.environ | server.env,
            start_new_session=True,  # an interrupt is ours, and stops it through `_stop`
        )
    try:
        _wait_until_up(process, server, log)
        check_models(server)
        yield Running(server, process.pid)
    finally:
        _stop(process)


def check_models(server: Server) -> None:
    """Raises ServerError unless the address lists the model of every arm."""
    listed = _listed(server)
    if listed is None:
        raise ServerError(f"nothing serves {server.url}/v1/models; where it has keys, give one")
    for arm in server.arms:
        if arm.model not in listed:
            there = ", ".join(sorted(listed)) or "nothing"
            raise ServerError(
                f"{server.url} serves {there}, not {arm.model!r} of the arm {arm.name!r}"
            )


def model_limit(server: Server) -> int | None:
    """The longest context in tokens that all its arms' models take, where their server says so:
    vLLM's card in `max_model_len`, Ray's among its metadata."""
    listed = _listed(server) or {}
    cards = [listed.get(arm.model, {}) for arm in server.arms]
    limits = [
        card.get("max_model_len") or (card.get("metadata") or {}).get("max_request_context_length")
        for card in cards
    ]
    return min((int(limit) for limit in limits if limit), default=None)


def _is_taken(url: str) -> bool:
    try:
        httpx.get(f"{url}/v1/models", timeout=5)
    except httpx.TransportError:
        return False
    return True


def _listed(server: Server) -> dict[str, dict[str, Any]] | None:
    """Models by id; None where nothing answers."""
    try:
        reply = httpx.get(f"{server.url}/v1/models", headers=server.headers, timeout=5)
        models = reply.raise_for_status().json()["data"]
        return {model["id"]: model for model in models}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _is_up(server: Server) -> bool:
    """Whether it lists models and answers for each (a list alone comes earlier), and ours has a
    target of each that reports."""
    if not _listed(server):
        return False
    if server.has_fleet and not _has_targets(server):
        return False
    return all(_answers(server, model) for model in {arm.model for arm in server.arms})


def _answers(server: Server, model: str) -> bool:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": model, "messages": messages, "max_tokens": 2}
    try:
        reply = httpx.post(
            f"{server.url}/v1/chat/completions",
            json=body,
            headers=server.headers,
            timeout=_FIRST_ANSWER_S,
        )
        return reply.is_success
    except httpx.HTTPError:
        return False


def _has_targets(server: Server) -> bool:
    try:
        fleet = httpx.get(f"{server.url}/fleet", headers=server.headers, timeout=5)
        models = fleet.raise_for_status().json()["models"]
    except (httpx.HTTPError, ValueError, KeyError):
        return False
    return all(models.get(arm.model, {}).get("targets") for arm in server.arms)


def _wait_until_up(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise ServerError(
                f"{server.description} ended with status {process.returncode}; "
                f"{log} ends with\n{last}"
            )
        if _is_up(server):
            return
        time.sleep(_POLL_S)
    raise ServerError(f"{server.description} is not up after {_START_TIMEOUT_S:.0f} s; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt it, and kill what it left behind, also where we are interrupted meanwhile."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def dspark_server(
    config: Path, models: Sequence[str], policies: PolicyChoice, port: int
) -> Iterator[Server]:
    """`dspark serve` with some `models` of a Serve file.

    Raises OSError, KeyError for a file that is none, ValueError for a model it lacks.
    """
    document = serve_document(config)
    args = document["applications"][0]["args"]
    known = [str(model["id"]) for model in args["models"]]
    unknown = [name for name in models if name not in known]
    if unknown:
        raise ValueError(f"{config} has no model {', '.join(unknown)}; it has {', '.join(known)}")
    args["models"] = [m for m in args["models"] if m["id"] in models]
    arms = tuple(Arm.of_models(args["models"], policies))
    with tempfile.TemporaryDirectory(prefix="dspark-bench-") as directory:
        chosen = Path(directory) / config.name
        chosen.write_text(yaml.safe_dump(document))
        yield Server(
            description=f"dspark serve --config {config} ({', '.join(models)})",
            url=f"http://127.0.0.1:{port}",
            arms=arms,
            command=(
                *(sys.executable, "-m", "cluster.cli", "serve"),
                *("--config", str(chosen), "--port", str(port)),
            ),
            has_fleet=True,
        )


def serve_document(config: Path) -> dict[str, Any]:
    """A Serve file as it is. Raises ValueError where it names no models."""
    try:
        document = yaml.safe_load(config.read_text())
        if document["applications"][0]["args"]["models"]:
            found: dict[str, Any] = document
            return found
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        pass
    raise ValueError(f"{config} is no Serve file of ours: applications[0].args.models is missing")
