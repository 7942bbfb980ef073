"""The fleet's plan on its way from a target replica to the scheduler in its engine core.

vLLM's `collective_rpc` reaches workers alone. So the replica publishes on a socket of its own, and
the process of the engine core finds it by its environment: in vLLM's configuration an address that
is new at every start would make every compiled graph a new one. Whoever connects late, or not at
all, goes by local rules.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import zmq

from autoscale.plan import NO_PLAN, ReplicaPlan
from cluster.held_plan import MAX_TTL_S
from deployments.engine.worker_plan import AdviceInForce

ADDRESS = "DSPARK_PLAN_CHANNEL"  # in the environment of a replica and of its engine core


class PlanPublisher:
    """The replica's end; made before the engine core is started."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # A name without a file, of which a killed replica leaves nothing. Who else finds it can
        # read what is published and say nothing.
        self.address = f"ipc://@dspark-plan-{os.getpid()}-{secrets.token_hex(8)}"
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.address)
        os.environ[ADDRESS] = self.address

    def publish(self, advice: ReplicaPlan, ttl_s: float) -> None:
        """Never waits. Both ends are on one machine, and share its monotonic clock."""
        plan = {"advice": asdict(advice), "until_s": self._clock() + ttl_s}
        self._socket.send(json.dumps(plan).encode())

    def close(self) -> None:
        self._socket.close()


class PlanSubscriber:
    """The scheduler's end: the last plan, for as long as it holds; without an `address` none."""

    def __init__(self, address: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_unread = 0  # messages that were no plan
        self._clock = clock
        self._in_force = AdviceInForce(clock)
        self._socket: zmq.Socket[bytes] | None = None
        if address is not None:
            self._socket = zmq.Context.instance().socket(zmq.SUB)
            self._socket.setsockopt(zmq.CONFLATE, 1)  # the newest alone is kept
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
            self._socket.connect(address)

    @classmethod
    def of_this_process(cls) -> PlanSubscriber:
        return cls(os.environ.get(ADDRESS))

    def current(self) -> ReplicaPlan:
        """What to go by in this step. Never waits, never raises for what it was sent."""
        if self._socket is None:
            return NO_PLAN
        try:
            self._take(json.loads(self._socket.recv(zmq.NOBLOCK)))
        except zmq.Again:
            pass
        except (ValueError, TypeError, KeyError, AttributeError):
            self.num_unread += 1
        return self._in_force.current()

    def _take(self, plan: dict[str, Any]) -> None:
        self._in_force.take(plan["advice"], min(plan["until_s"] - self._clock(), MAX_TTL_S))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
