"""What one target refuses, or does not take, another one is asked.

Nothing here knows Serve's handles or HTTP: an attempt asks one target, whichever Serve chooses.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from autoscale.fair_queue import Flow
from autoscale.pool_view import PoolView, Refused
from deployments.refusal import RefusedByAllError, TryLater
from deployments.taking import NotTakenError, take_within_s

COME_BACK_S = 30  # a replica is started in about that time
_NOT_TAKEN = TryLater("no_target", COME_BACK_S)
_TOO_BUSY = Refused(1.0, "too_late")  # to take it in time, as others keep them busy


class Terms(NamedTuple):
    """On which a target is asked: requests refused before this one that no target saw, seconds
    that it has waited here, seconds within which it has to be taken, whether another one is asked
    where this one refuses, and which replica has refused."""

    num_unseen: int
    waited_s: float
    within_s: float | None
    goes_elsewhere: bool
    refused_by: str


Attempt = Callable[[Terms], AsyncGenerator[Any, None]]


async def of_two_targets(
    attempt: Attempt,
    pool: PoolView,
    asker: Flow,
    turned_away: Callable[[Refused], Exception],
    *,
    began_s: float,
    patience_s: float | None,
    num_unseen: int | None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Any, None]:
    """The answer of the first of two targets that takes a request, asked one after the other.

    `patience_s` after `began_s` it has to be taken; None waits for ever. `num_unseen` is None
    for a request that is no demand. A second one is asked where, before the first was, more than
    one might have had room for the `asker`. Raises what `turned_away` makes of a refusal by
    targets, or of one for them where they live and were too busy to take the request, and
    RefusedByAllError where none was heard of.
    """
    refusals: list[TryLater] = []
    is_demand = num_unseen is not None
    goes_elsewhere = pool.num_open(asker, clock()) > 1
    for is_last in (False, True):
        refused, waited_s = None, clock() - began_s
        goes_elsewhere = goes_elsewhere and not is_last
        within_s = None
        if patience_s is not None:
            within_s = take_within_s(patience_s - waited_s, is_last=is_last)
        try:
            refused_by = refusals[0].replica_id if refusals else ""
            terms = Terms(num_unseen or 0, waited_s, within_s, goes_elsewhere, refused_by)
            async with aclosing(attempt(terms)) as answers:
                async for answer in answers:
                    if isinstance(answer, TryLater):
                        refused = answer
                    else:
                        yield answer
        except NotTakenError as error:
            pool.gave_up(error.request_id)
            if refusals and is_demand:  # who refused it left it to this one to count
                pool.refused_unseen(clock())
            continue
        if refused is None:
            return
        num_unseen = None  # this target has heard of them
        pool.refused(refused.replica_id, asker, refused.refused, clock())
        refusals.append(refused)
        if not goes_elsewhere:
            break
    if num_unseen is not None:
        pool.refused_unseen(clock(), 1 + num_unseen)
    if refusals:
        raise turned_away(min(one.refused for one in refusals))
    if pool.is_heard(clock()):
        raise turned_away(_TOO_BUSY)
    raise RefusedByAllError(_NOT_TAKEN)
