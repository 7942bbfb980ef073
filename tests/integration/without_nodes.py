"""`ray.serve.llm`'s engine in a process without Ray."""

from __future__ import annotations

from ray.llm._internal.common.callbacks.base import CallbackBase


class WithoutNodes(CallbackBase):
    """No placement group to wait for: the engine starts where it is."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False
