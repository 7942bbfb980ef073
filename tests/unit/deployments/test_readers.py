from __future__ import annotations

import asyncio

from deployments.readers import Readers


def test_requests_of_an_ingress_that_is_gone_are_cancelled_and_no_others():
    async def run() -> dict[str, str]:
        readers, ended = Readers(), {}

        async def request(name: str, ingress: str) -> None:
            try:
                with readers.reading(ingress):
                    await asyncio.sleep(0.05)
                ended[name] = "whole"
            except asyncio.CancelledError:
                ended[name] = "cancelled"
                raise

        tasks = [asyncio.create_task(request(name, name[0])) for name in ("a1", "a2", "b1")]
        await asyncio.sleep(0)
        readers.gone(["a", "nobody"])
        await asyncio.gather(*tasks, return_exceptions=True)
        readers.gone(["a", "b"])  # who has ended is no longer there
        assert not readers._tasks
        return ended

    assert asyncio.run(run()) == {"a1": "cancelled", "a2": "cancelled", "b1": "whole"}
