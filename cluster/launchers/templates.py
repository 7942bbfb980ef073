"""Fill a launcher's parameters in.

A template is a cluster file of Ray's whose `metadata.parameters` declare what it leaves open,
and whose strings hold `{{ name }}`. A string that is one parameter and nothing else becomes
the parameter's value, a list or a number too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.launchers.parameters import KINDS, LauncherError, Parameter, Value

DIRECTORY = Path(__file__).parent
_HOLE = re.compile(r"\{\{ (\w+) \}\}")


def template_names() -> list[str]:
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def read_template(name: str) -> dict[str, Any]:
    """Raises LauncherError when there is no such template."""
    if name not in template_names():
        raise LauncherError(f"no launcher {name!r}; there are {', '.join(template_names())}")
    document: dict[str, Any] = yaml.safe_load((DIRECTORY / f"{name}.yaml").read_text())
    return document


def parameters(template: Mapping[str, Any]) -> dict[str, Parameter]:
    """What a template leaves open. Asserts that it declares what it uses, and no more."""
    declared = {
        name: Parameter(name, **fields)
        for name, fields in template["metadata"]["parameters"].items()
    }
    used = {name for text in _strings(_body(template)) for name in _HOLE.findall(text)}
    assert used == declared.keys(), f"used and declared differ: {used ^ declared.keys()}"
    assert all(parameter.kind in KINDS for parameter in declared.values())
    return declared


def render(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The cluster file that `ray up` takes.

    Raises LauncherError for a parameter that is unknown, missing or not of its kind.
    """
    template = read_template(name)
    declared = parameters(template)
    unknown = given.keys() - declared.keys()
    if unknown:
        raise LauncherError(
            f"{name} has no {', '.join(sorted(unknown))}; it has {', '.join(declared)}"
        )
    texts = {n: given.get(n, p.default) for n, p in declared.items()}
    missing = [f"  {n}=...  {declared[n].about}" for n, text in texts.items() if text is None]
    if missing:
        raise LauncherError("\n".join([f"{name} needs:", *missing]))
    values = {n: declared[n].value(text) for n, text in texts.items() if text is not None}
    body = _filled(_body(template), values)
    assert isinstance(body, dict)
    return body | {"metadata": {"launcher": name, "parameters": texts}}


def describe(name: str) -> str:
    """A launcher's parameters, a line each. Raises LauncherError."""
    declared = parameters(read_template(name)).values()
    lines = [f"  {_given(p):32} {p.about}" for p in declared]
    return "\n".join([name, *lines])


def _given(parameter: Parameter) -> str:
    default = "..." if parameter.default is None else f"[{parameter.default}]"
    return f"{parameter.name}={default}"


def _body(template: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in template.items() if key != "metadata"}


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(node, list):
        for item in node:
            yield from _strings(item)


def _filled(node: Any, values: Mapping[str, Value]) -> Any:
    if isinstance(node, dict):
        return {_filled(key, values): _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(item, values) for item in node]
    if not isinstance(node, str):
        return node
    whole = _HOLE.fullmatch(node)
    if whole:
        return values[whole[1]]
    return _HOLE.sub(lambda hole: _as_text(values[hole[1]]), node)


def _as_text(value: Value) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)
