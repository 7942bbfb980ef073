"""Whether an attached engine is to be had: by results that come, and by one-token probes.

An engine that is down is not restarted from here, whoever launched it does that: its replica
stays, refuses, and serves again in the moment in which the engine gives a token. What is under
way at an engine ends with silence alone: one that takes no more may still finish what it has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from deployments.attach.endpoint import Endpoint, EngineSilentError
from deployments.errors import ConfigError, EngineLostError
from deployments.progress import TICK_S, ProgressWatch, Verdict

logger = logging.getLogger(__name__)


class EngineWatch:
    """Of one engine. What comes from it is told with `saw_result`, what is lost with `lost`."""

    def __init__(
        self,
        endpoint: Endpoint,
        limit_s: float,
        tick_s: float = TICK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.down: str | None = None  # why it is not to be had
        self.num_outages = 0
        self._limit_s = limit_s
        self._tick_s = tick_s
        self._clock = clock
        self._down_since_s = 0.0
        self._num_results = 0
        self._watch = ProgressWatch(limit_s)
        self._asked: asyncio.Task[None] | None = None  # the probe under way

    @property
    def down_s(self) -> float:
        """For how long it has not been to be had."""
        return self._clock() - self._down_since_s if self.down is not None else 0.0

    def saw_result(self) -> None:
        self._num_results += 1

    def lost(self, why: str) -> None:
        """A request could not reach it, or broke off: see at once whether it lives."""
        logger.warning("attached engine %s: %s", self.endpoint.url, why)
        if self.down is None:
            self._ask()

    async def forever(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            await self.tick()

    async def tick(self) -> None:
        """One look; every `TICK_S`, by which silence is counted."""
        verdict = self._watch.tick(self._num_results)
        if verdict is Verdict.WEDGED:
            if self.down is None:
                self._goes_down(f"nothing came from it for {self._limit_s:g} s, not even a probe")
            await self.endpoint.drop_all()
        if verdict is Verdict.PROBE or self.down is not None:
            self._ask()

    def _ask(self) -> None:
        """For one token, unless the last one is still under way."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        num_results = self._num_results
        try:
            await self.endpoint.card()  # somebody may have launched another model there
            await self.endpoint.probe(self._limit_s)
        except EngineSilentError as error:
            if self._num_results == num_results:  # else it is busy, with others
                self._goes_down(str(error))
            return
        except (EngineLostError, ConfigError) as error:
            self._goes_down(str(error))
            return
        self.saw_result()
        if self.down is not None:
            logger.warning("attached engine %s is back", self.endpoint.url)
            self.down = None

    def _goes_down(self, why: str) -> None:
        if self.down is None:
            logger.warning("attached engine %s is not to be had: %s", self.endpoint.url, why)
            self._down_since_s = self._clock()
            self.num_outages += 1
        self.down = why
