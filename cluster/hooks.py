"""Names of other people's packages that we import, call or override, and whether they are
there as we need them: how an untested version is judged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any


@dataclass(frozen=True, slots=True)
class Hook:
    """`name` is dotted below `module`. `parameters`, in order, are those of the call; None
    asks only that the name is there. With `passes_on`, more may follow: we pass them on."""

    module: str
    name: str
    parameters: tuple[str, ...] | None = None
    passes_on: bool = False


def missing(hooks: Iterable[Hook], import_: Callable[[str], Any] = import_module) -> list[str]:
    """One line per hook that is not as needed, saying what was found instead."""
    return [line for hook in hooks if (line := _judge(hook, import_)) is not None]


def differs(
    place: str, function: Any, needed: tuple[str, ...], *, passes_on: bool = False
) -> str | None:
    """How a function's parameters differ from those needed; None when they do not."""
    found = tuple(inspect.signature(function).parameters)
    if found[: len(needed)] == needed and (passes_on or len(found) == len(needed)):
        return None
    return f"{place} takes ({', '.join(found)}), needed ({', '.join(needed)})"


def _judge(hook: Hook, import_: Callable[[str], Any]) -> str | None:
    try:
        module = import_(hook.module)
    except Exception as error:  # whatever a foreign module raises, it cannot be used
        return f"{hook.module} cannot be imported ({type(error).__name__}: {error})"
    try:
        found = attrgetter(hook.name)(module)
    except AttributeError:
        return f"{hook.module} has no {hook.name}"
    if hook.parameters is None:
        return None
    place = f"{hook.module}.{hook.name}"
    return differs(place, found, hook.parameters, passes_on=hook.passes_on)
