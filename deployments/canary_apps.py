"""Drafters on trial as applications of Serve: what they are called, which there are, and that
none outlives its canary, whoever ended it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from ray import serve
from ray.serve.schema import ApplicationStatus

from deployments.autoscaling import DRAFTER

_LOOK_EVERY_S = 10.0
_ANSWER_S = 5.0
logger = logging.getLogger(__name__)

Kept = Callable[[], Awaitable[Collection[str] | None]]
"""Models whose canary is on trial or promoted; None while that is not known for all."""


class CanaryApp(NamedTuple):
    name: str
    model_id: str


def canary_app(app_name: str, model_id: str) -> str:
    """What the application of a model's canary is called."""
    return f"{app_name}-canary-{model_id}"


def canary_apps(app_name: str) -> list[CanaryApp]:
    """Those there are, beside those that are being deleted already. Another application that is
    only called like one is none of them."""
    prefix = canary_app(app_name, "")
    return [
        CanaryApp(name, model_id)
        for name, app in serve.status().applications.items()
        if name.startswith(prefix) and app.status is not ApplicationStatus.DELETING
        for model_id in (name.removeprefix(prefix),)
        if set(app.deployments) == {f"{DRAFTER}{model_id}"}
    ]


def remove_canary(app_name: str, model_id: str) -> bool:
    """Take the new drafter's replicas away, without waiting; False where there are none."""
    found = [app for app in canary_apps(app_name) if app.model_id == model_id]
    for app in found:
        serve.delete(app.name, _blocking=False)
    return bool(found)


async def remove_unwanted(app_name: str, kept: Kept) -> None:
    """Take away what no canary is left for.

    They are looked up before `kept` is asked: a canary is known before its replicas are started.
    One that begins between that answer and the removal loses them, and is rolled back for it.
    """
    found = await asyncio.to_thread(canary_apps, app_name)
    wanted = await asyncio.wait_for(kept(), _ANSWER_S)
    if wanted is None:
        return
    for app in found:
        if app.model_id not in wanted:
            logger.warning("application %s is removed: no canary is left for it", app.name)
            await asyncio.to_thread(serve.delete, app.name, _blocking=False)


async def remove_unwanted_forever(app_name: str, kept: Kept) -> None:
    """Whatever fails, it is tried again."""
    while True:
        try:
            await remove_unwanted(app_name, kept)
        except Exception as error:
            logger.info("canaries' applications are not looked after now: %r", error)
        await asyncio.sleep(_LOOK_EVERY_S)
