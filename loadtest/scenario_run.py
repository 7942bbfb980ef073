"""Run a scenario against arms that are served one after the other, taking turns."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from loadtest.arms import Arm
from loadtest.open_loop import Outcome, run_open_loop
from loadtest.promises import Promise, Summary, summarise
from loadtest.scenarios import DRAFTER, LONG, TARGET, Scenario, usual
from loadtest.servers import Running, Server, running
from loadtest.throttle import throttled
from loadtest.throughput import closed_loop_tokens_per_s

_CAPACITY_CONCURRENCY = 64
_DEPLOYMENTS = {TARGET: ("Target:", "LLMServer:"), DRAFTER: ("Drafter:",)}


@dataclass(frozen=True, slots=True)
class ServedArm:
    """A Serve file with one application that has an OpenAI endpoint, ours or another's."""

    name: str
    config: Path

    @classmethod
    def parse(cls, text: str) -> ServedArm:
        """Of `NAME=FILE`. Raises ValueError for what is neither, OSError without the file."""
        name, _, path = text.partition("=")
        if not path:
            raise ValueError(f"an arm is NAME=FILE, with a Serve file, not {text!r}")
        Path(path).open().close()
        return cls(name, Path(path))

    @property
    def model(self) -> str:
        """Its first model's id."""
        args = self._args()
        if "models" in args:
            return str(args["models"][0]["id"])
        return str(args["llm_configs"][0]["model_loading_config"]["model_id"])

    def server(self, port: int) -> Server:
        """The arm's application, to be started on that port: ours as one serves it."""
        is_ours = "models" in self._args()
        entry, *arguments = (
            ("cluster.cli", "serve", "--config", str(self.config), "--port", str(port))
            if is_ours
            else ("loadtest.serve_file", str(self.config), str(port))
        )
        return Server(
            description=f"{self.name}, {self.config}",
            url=f"http://127.0.0.1:{port}",
            arms=(Arm(self.model, label=self.name),),
            command=(sys.executable, "-m", entry, *arguments),
            has_fleet=is_ours,
        )

    def _args(self) -> dict[str, Any]:
        document = yaml.safe_load(self.config.read_text())
        args: dict[str, Any] = document["applications"][0]["args"]
        return args


@dataclass(frozen=True, slots=True)
class ArmRun:
    arm: str
    round: int
    capacity_per_s: float
    summary: Summary


def measure_capacity(url: str, model: str) -> float:
    """Requests of the usual size per second, with 64 clients that always have one."""
    requests = usual([0.0] * (3 * _CAPACITY_CONCURRENCY))
    max_tokens = requests[0].max_tokens
    prompts = [request.prompt for request in requests]
    clients = _CAPACITY_CONCURRENCY
    return (
        closed_loop_tokens_per_s(
            url,
            model,
            prompts,
            max_tokens=max_tokens,
            clients=clients,
            service_class=LONG,  # so many wait longer than others are let wait
        )
        / max_tokens
    )


def run_scenario(
    scenario: Scenario,
    arms: Sequence[ServedArm],
    promise: Promise,
    *,
    port: int,
    rounds: int,
    capacity_per_s: float | None,
    logs: Path,
    progress: Callable[[ArmRun], None],
    together: bool = False,
) -> list[ArmRun]:
    """All arms in every round, one at a time.

    Each turn starts its arm's server anew, so that two cores serve one; `together`, all servers
    stay up, on ports from `port` on, and turns are a minute apart: on a machine whose speed
    changes that tells arms apart, at the price of the processor time of those that idle.

    The capacity is the last arm's, measured at the beginning where it is not given. What a
    server prints goes below `logs`, and what became of every request. Raises ServerError for an
    arm that does not come up.
    """
    runs = []
    with ExitStack() as stack:
        served = {}
        if together:
            for i, arm in enumerate(arms):
                up = stack.enter_context(running(arm.server(port + i), logs / f"{arm.name}.log"))
                measure_capacity(up.server.url, arm.model)  # warms up
                served[arm.name] = up

        @contextmanager
        def up_now(arm: ServedArm, log: str) -> Iterator[Running]:
            if arm.name in served:
                yield served[arm.name]
                return
            with running(arm.server(port), logs / log) as up:
                yield up

        if capacity_per_s is None:
            with up_now(arms[-1], "capacity.log") as up:
                measure_capacity(up.server.url, arms[-1].model)  # warms up
                capacity_per_s = measure_capacity(up.server.url, arms[-1].model)
        for round_ in range(rounds):
            requests = scenario.requests(capacity_per_s, round_)
            for arm in arms if round_ % 2 == 0 else reversed(arms):
                name = f"{arm.name}-{round_ + 1}"
                with up_now(arm, f"{name}.log") as up:
                    outcomes = _run_one(scenario, arm, up, requests)
                write_outcomes(outcomes, logs / f"{name}.jsonl")
                watched = [one for one in outcomes if scenario.watched(one.request)]
                runs.append(ArmRun(arm.name, round_, capacity_per_s, summarise(watched, promise)))
                progress(runs[-1])
    return runs


def _run_one(scenario: Scenario, arm: ServedArm, up: Running, requests: Any) -> list[Outcome]:
    url = up.server.url
    assert up.pid is not None, "it was started here"
    warm_up = usual([0.1 * i for i in range(32)])
    run_open_loop(url, arm.model, warm_up, cache_salt=secrets.token_hex(8))
    with ExitStack() as stack:
        if scenario.speed < 1:
            for pid in replica_pids(scenario.slowed, up.pid)[:1]:
                stack.enter_context(throttled(with_children(pid), scenario.speed))
        return run_open_loop(url, arm.model, requests, cache_salt=secrets.token_hex(8))


def replica_pids(kind: str, server_pid: int) -> list[int]:
    """Processes of a server's replicas, ours and `ray.serve.llm`'s, by age."""
    found = []
    for process in psutil.Process(server_pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if "ServeReplica" in title and any(name in title for name in _DEPLOYMENTS[kind]):
                found.append((process.create_time(), process.pid))
    return [pid for _, pid in sorted(found)]


def with_children(pid: int) -> list[int]:
    """A process and all that it started, as a replica its engine and that its ranks."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """A line for each, without its prompt; times in seconds from the run's start."""
    with path.open("w") as file:
        for outcome in outcomes:
            row = asdict(outcome)
            del row["request"]["prompt"]
            file.write(json.dumps(row) + "\n")


def write_json(runs: Sequence[ArmRun], path: Path) -> None:
    rows = [
        {
            "arm": run.arm,
            "round": run.round,
            "capacity_per_s": run.capacity_per_s,
            **run.summary.as_dict(),
        }
        for run in runs
    ]
    path.write_text(json.dumps(rows, indent=2) + "\n")
