"""`dspark deploy`: a Serve file onto what runs. Check, announce, send, wait; what fails is taken
back.

`serve deploy` sends a file and returns. Here what the file breaks is refused before it is sent,
downtime is announced and has to be accepted, and where the application does not come up the
configuration that ran before is put back: Serve itself would leave an ingress and drafters of the
new one beside targets of the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.reasons import reason
from deployments.rollout import TARGET, Resources, plan_rollout, with_surge
from deployments.serve_file import ServeFile

_POLL_S = 0.5
_ENDED = ("RUNNING", "DEPLOY_FAILED")

Say = Callable[[str], None]


class Outcome(IntEnum):
    """Exit statuses."""

    RUNNING = 0
    FAILED = 1
    NOT_ACCEPTED = 3


@dataclass(frozen=True, slots=True)
class Replica:
    """`started_s`: when Serve began to start it, by the clock."""

    deployment: str
    is_running: bool
    started_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """An application as Serve's controller has it. States of deployments and what they say by
    name, replicas by id."""

    status: str
    message: str = ""
    deployments: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    replicas: Mapping[str, Replica] = field(default_factory=dict)

    @property
    def serving(self) -> set[str]:
        """Models with a target that runs, whatever became of the application."""
        running = (one.deployment for one in self.replicas.values() if one.is_running)
        return {name.removeprefix(TARGET) for name in running if name.startswith(TARGET)}

    @property
    def reasons(self) -> list[str]:
        """Why it did not come up, a line for each deployment, or the application's own."""
        said = [
            f"{name}: {reason(message)}"
            for name, (state, message) in sorted(self.deployments.items())
            if state in ("DEPLOY_FAILED", "UNHEALTHY") and message.strip()
        ]
        return said or [reason(self.message)]


class Cluster(Protocol):
    """A running Ray cluster with Serve on it."""

    def running(self, app_name: str) -> ServeApplicationSchema | None:
        """The configuration of an application that runs; None where it does not."""

    def free(self) -> list[Resources]:
        """Logical resources that are free, by node."""

    def send(self, schema: ServeDeploySchema) -> None:
        """As `serve deploy` does; from then on the application is not as it was."""

    def seen(self, app_name: str) -> Seen: ...


def deploy(
    file: ServeFile,
    cluster: Cluster,
    say: Say,
    *,
    accept_downtime: bool,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Deploy `file`, whose settings are checked; returns when it runs or what ran before does."""
    running, serving = cluster.running(file.app_name), cluster.seen(file.app_name).serving
    rollout = plan_rollout(running, serving, file, cluster.free())
    if serving:
        for line in rollout.lines() or ["nothing is replaced: it runs like this"]:
            say(line)
    if rollout.down and not accept_downtime:
        say("nothing was sent; --accept-downtime does it")
        return Outcome.NOT_ACCEPTED
    wait = _Waiting(file.app_name, cluster, say, clock, sleep)
    began_s = clock()
    cluster.send(with_surge(file.schema, rollout.beside))
    seen = wait.until_ended()
    if seen.status == "RUNNING":
        say(f"running after {clock() - began_s:.0f} s")
        return Outcome.RUNNING
    for why in seen.reasons:
        say(f"it does not start: {why}")
    if running is None:
        say("no configuration ran before that could be put back")
    else:
        say("putting back what ran before")
        cluster.send(file.schema.model_copy(update={"applications": [running]}))
        back = wait.until_ended()
        say("it runs as before" if back.status == "RUNNING" else f"it is {back.status}")
    return Outcome.FAILED


@dataclass
class _Waiting:
    """Says what it sees, once each: states of deployments, and how long replicas took to start."""

    app_name: str
    cluster: Cluster
    say: Say
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def __post_init__(self) -> None:
        self._began_s = self.clock()
        seen = self.cluster.seen(self.app_name)
        self._states = {name: state for name, (state, _) in seen.deployments.items()}
        self._running = {id_ for id_, one in seen.replicas.items() if one.is_running}

    def until_ended(self) -> Seen:
        """One that is unhealthy may yet come up: Serve replaces replicas that are lost."""
        while True:
            seen = self.cluster.seen(self.app_name)
            self._tell(seen)
            if seen.status in _ENDED:
                return seen
            self.sleep(_POLL_S)

    def _tell(self, seen: Seen) -> None:
        now_s = self.clock()
        at = f"{now_s - self._began_s:7.1f} s"
        for id_, one in sorted(seen.replicas.items()):
            if one.is_running and id_ not in self._running:
                took = f"running, {now_s - one.started_s:.1f} s after its start"
                self.say(f"{at}  {one.deployment} replica {id_}: {took}")
        self._running |= {id_ for id_, one in seen.replicas.items() if one.is_running}
        for name, (state, _) in sorted(seen.deployments.items()):
            if self._states.get(name) != state:
                self.say(f"{at}  {name}: {state.lower()}")
                self._states[name] = state
