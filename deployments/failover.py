"""Answers that outlive the target they began on: taken up again elsewhere, or begun anew.

Nothing here knows Serve's handles or HTTP: `ask` calls one target, whichever Serve chooses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from deployments.continuation import (
    DONE,
    CannotContinueError,
    Delivered,
    StreamBrokenError,
    error_event,
)
from deployments.errors import EngineLostError
from deployments.refusal import RefusedByAllError

MAX_TARGETS = 3  # that one request is tried on: it may be what they died of
PATIENCE_S = 150.0  # without a token, before a begun stream is given up: a target's start
_PAUSE_S = 0.2  # before the next target: Serve has to hear of the loss, too

# What a call raises when its target is lost, as opposed to what is wrong with the request.
LOST = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    ReplicaUnavailableError,
    StreamBrokenError,
    EngineLostError,
)
# What the next target may answer while it is not to be had. Where nothing has been said that is
# the client's answer, too: the request has no seat to go back to.
BUSY = (BackPressureError, DeploymentUnavailableError, RefusedByAllError)

Ask = Callable[[Any], AsyncGenerator[Any, None]]
logger = logging.getLogger(__name__)


class NoTargetError(Exception):
    """Every target that a request was tried on was lost before anything was said."""


@dataclass(slots=True)
class FailoverCounts:
    """Since the ingress began: streams that another target took up from their tokens, each time
    they were, requests begun anew before anything was said, and answers given up, also those that
    such a target ended with an error event."""

    continued: int = 0
    restarted: int = 0
    given_up: int = 0


async def streamed(
    ask: Ask, delivered: Delivered, counts: FailoverCounts
) -> AsyncGenerator[Any, None]:
    """One streamed answer, event by event, whatever becomes of the targets behind it.

    `delivered` notes what of it the client has.

    Raises NoTargetError, or why a target is not to be had, while the client has nothing; later on
    the stream ends with an error event.
    """
    request = delivered.first_request()
    num_targets, last_event_s = 1, time.monotonic()
    while True:
        is_taken_up = not delivered.has_said  # else there is something to take up
        try:
            async with aclosing(ask(request)) as items:
                async for item in _in_time(items, last_event_s if num_targets > 1 else None):
                    if not isinstance(item, (str, list)):  # not a stream: a refusal
                        yield item
                        return
                    for event in [item] if isinstance(item, str) else item:
                        if delivered.has_said and not isinstance(event, str):
                            raise CannotContinueError(event.error.message)
                        passed_on = delivered.take(event) if isinstance(event, str) else event
                        last_event_s = time.monotonic()
                        if not (is_taken_up or delivered.has_failed):
                            is_taken_up = True
                            counts.continued += 1
                        if passed_on is not None:
                            yield passed_on
            if delivered.done:
                counts.given_up += num_targets > 1 and delivered.has_said and delivered.has_failed
                return
            raise StreamBrokenError("the stream ended before its time")
        except (*LOST, *BUSY, TimeoutError, CannotContinueError) as error:
            if isinstance(error, BUSY) and not delivered.has_begun:
                raise
            is_lost = isinstance(error, LOST)
            num_targets += is_lost
            try:
                if isinstance(error, CannotContinueError):  # the next target says so
                    raise error
                if isinstance(error, BUSY) and not delivered.has_said:
                    raise CannotContinueError(str(error))
                if num_targets > MAX_TARGETS or time.monotonic() - last_event_s > PATIENCE_S:
                    raise CannotContinueError("no target is left to continue on")
                request = delivered.next_request()
            except CannotContinueError as reason:
                counts.given_up += 1
                logger.warning("a stream is given up: %s (%r)", reason, error)
                if not delivered.has_begun:
                    raise NoTargetError(str(reason)) from error
                yield error_event(f"the target was lost and its answer cannot go on: {reason}")
                yield DONE
                return
            if is_lost:
                counts.restarted += not delivered.has_said
                logger.warning("a target was lost, its stream goes on elsewhere: %r", error)
        await asyncio.sleep(_PAUSE_S)


async def _in_time(
    items: AsyncGenerator[Any, None], since_s: float | None
) -> AsyncGenerator[Any, None]:
    """`items`, the first no later than `PATIENCE_S` after `since_s`. Raises TimeoutError."""
    if since_s is not None:
        async with asyncio.timeout(since_s + PATIENCE_S - time.monotonic()):
            first = await anext(items, None)
        if first is None:
            return
        yield first
    async for item in items:
        yield item


async def answered(ask: Ask, body: Any, counts: FailoverCounts) -> AsyncGenerator[Any, None]:
    """An answer that comes in one piece, from the first target that lives to give it.

    Raises NoTargetError when every one it was tried on was lost.
    """
    for _ in range(MAX_TARGETS):
        try:
            async with aclosing(ask(body)) as items:
                async for item in items:
                    yield item
            return
        except LOST as error:
            counts.restarted += 1
            logger.warning("a target was lost, its request begins anew elsewhere: %r", error)
            await asyncio.sleep(_PAUSE_S)
    counts.given_up += 1
    raise NoTargetError(f"{MAX_TARGETS} targets were lost, one after the other")
