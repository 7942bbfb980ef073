"""Signs of life of a vLLM engine, as its frontend sees them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from deployments.ending import end_process
from deployments.engine.eligibility import PROBE
from deployments.engine.traffic import OPT_OUT

Generate = Callable[..., AsyncGenerator[Any, None]]


class Vital:
    """Counts what comes from an engine, vLLM's `AsyncLLM`: one result or more per step."""

    def __init__(self, client: Any) -> None:
        self.num_results = 0
        self._client = client
        self._probe: asyncio.Task[None] | None = None
        core = client.engine_core
        original = core.get_output_async

        async def counted() -> Any:
            outputs = await original()
            self.num_results += 1
            return outputs

        core.get_output_async = counted

    @property
    def is_dead(self) -> bool:
        return bool(self._client.errored)

    def probe(self) -> None:
        """Send one token through the engine, unless the last one is still under way."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._one_token())

    async def answer_once(self, limit_s: float) -> None:
        """The engine's first token, which may have to read weights and compile kernels.
        Raises TimeoutError after `limit_s`.
        """
        async with asyncio.timeout(limit_s):
            await self._one_token()

    async def _one_token(self) -> None:
        client = self._client
        if client.model_config.runner_type == "pooling":
            await client.collective_rpc("check_health")
            self.num_results += 1
            return
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            detokenize=False,
            extra_args={PROBE: True, OPT_OUT: "off"},
        )
        prompt = {"prompt_token_ids": [0]}
        async with aclosing(client.generate(prompt, params, f"probe-{uuid.uuid4()}")) as results:
            async for _ in results:
                pass


def dying_with_the_engine(generate: Generate) -> Generate:
    """`AsyncLLM.generate`, which ends the replica when it finds the engine dead.

    vLLM's serving code would make an error of it, the last of a stream that another target
    can go on with.
    """

    async def watched(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(generate(*args, **kwargs)) as results:
                async for result in results:
                    yield result
        except EngineDeadError as error:
            end_process(f"its engine died: {error}")
            raise

    return watched
