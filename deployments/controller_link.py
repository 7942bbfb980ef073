"""The controller as others find it: by name, without ever holding up who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray

NAMESPACE = "dspark"
ANSWER_S = 2.0


class NoAnswerError(Exception):
    """The controller is not there, failed, or did not answer in time."""


def actor_name(app_name: str) -> str:
    return f"controller:{app_name}"


def find_controller(app_name: str) -> Any:
    """A handle to the application's controller. Raises ValueError while there is none.

    Asks Ray's head, and blocks for as long as that does not answer, up to a minute.
    """
    return ray.get_actor(actor_name(app_name), namespace=NAMESPACE)


class ControllerLink:
    """Looks the controller up in a thread and keeps what it found, for all tasks of a loop.

    After an actor's error, or without an answer in time, it is looked up anew with the next
    question. There is one look-up at a time: a head that does not answer costs one thread.
    """

    def __init__(self, app_name: str, find: Callable[[str], Any] = find_controller) -> None:
        self._app_name = app_name
        self._find = find
        self._found: asyncio.Task[Any] | None = None

    async def ask(self, method: str, *args: Any, within_s: float = ANSWER_S) -> Any:
        """What the controller's method answers. Raises NoAnswerError after `within_s`."""
        found = self._found
        if found is None:
            found = asyncio.create_task(asyncio.to_thread(self._find, self._app_name))
            self._found = found
        try:
            async with asyncio.timeout(within_s):
                controller = await asyncio.shield(found)
                return await getattr(controller, method).remote(*args)
        except ray.exceptions.RayTaskError as error:  # it is there, and failed at this
            raise NoAnswerError(str(error)) from error
        except (ValueError, TimeoutError, ray.exceptions.RayError) as error:
            if found.done() and self._found is found:
                self._found = None
            raise NoAnswerError(str(error) or f"no answer in {within_s:g} s") from error
