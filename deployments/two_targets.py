"""What one target refuses, or does not take, another one is asked.

Nothing here knows Serve's handles or HTTP: an attempt asks one target, whichever Serve chooses.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from autoscale.pool_view import PoolView
from deployments.refusal import RefusedByAllError, TryLater
from deployments.taking import NotTakenError, take_within_s

COME_BACK_S = 30  # a replica is started in about that time
_NOT_TAKEN = TryLater("no_target", COME_BACK_S)


class Terms(NamedTuple):
    """On which a target is asked: requests refused before this one that no target saw, seconds
    that it has waited here, and seconds within which it has to be taken."""

    num_unseen: int
    waited_s: float
    within_s: float | None


Attempt = Callable[[Terms], AsyncGenerator[Any, None]]


async def of_two_targets(
    attempt: Attempt,
    pool: PoolView,
    class_name: str,
    *,
    began_s: float,
    patience_s: float | None,
    num_unseen: int | None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Any, None]:
    """The answer of the first of two targets that takes a request, asked one after the other.

    `patience_s` after `began_s` it has to be taken; None waits for ever. `num_unseen` is None
    for a request that is no demand. Raises RefusedByAllError.
    """
    refusals: list[TryLater] = []
    for is_last in (False, True):
        refused, waited_s = None, clock() - began_s
        within_s = None
        if patience_s is not None:
            within_s = take_within_s(patience_s - waited_s, is_last=is_last)
        try:
            terms = Terms(num_unseen or 0, waited_s, within_s)
            async with aclosing(attempt(terms)) as answers:
                async for answer in answers:
                    if isinstance(answer, TryLater):
                        refused = answer
                    else:
                        yield answer
        except NotTakenError as error:
            pool.gave_up(error.request_id)
            refusals.append(_NOT_TAKEN)
            continue
        if refused is None:
            return
        num_unseen, now_s = None, clock()  # this target has heard of them
        pool.refused(refused.replica_id, class_name, refused.retry_after_s, now_s, refused.reason)
        refusals.append(refused)
        if pool.refused_by_all(class_name, now_s) is not None:
            break
    if num_unseen is not None:
        pool.refused_unseen(clock(), 1 + num_unseen)
    raise RefusedByAllError(min(refusals, key=lambda one: one.retry_after_s))
