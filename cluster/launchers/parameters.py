"""Parameters of a launcher: what kinds there are, and how a text becomes a value. Pure.

Values end up in shell commands on every node, so each kind admits only what cannot end or
change a command.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

Value = str | int | list[str]


class LauncherError(ValueError):
    """A launcher that cannot be filled in or would not work; the message names the mend."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that a launcher leaves open. Without a `default` it has to be given."""

    name: str
    kind: str
    about: str
    default: str | None = None

    def value(self, text: str) -> Value:
        """Raises LauncherError for a text that is not of this kind."""
        try:
            return KINDS[self.kind](text)
        except ValueError as error:
            raise LauncherError(f"{self.name}={text}: {error} ({self.about})") from None


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"is not {what}")
        return text

    return parse


_host_name = _matching(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", "an address or host name")


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _host_name(text)


def _addresses(text: str) -> list[str]:
    return [_address(part) for part in text.split(",") if part]


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError("is not a whole number")
    return int(text)


KINDS: dict[str, Callable[[str], Value]] = {
    "address": _address,
    "addresses": _addresses,
    "count": _count,
    "devices": _matching(r"[A-Za-z0-9_]+(,[A-Za-z0-9_]+)*", "a list of devices, a,b"),
    "image": _matching(
        r"([a-z0-9][a-z0-9.-]*(:\d+)?/)?[a-z0-9][a-z0-9._/-]*(:[\w.-]+|@sha256:[0-9a-f]{64})",
        "an image, name:tag or name@sha256:digest",
    ),
    "interface": _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", "a network interface"),
    "name": _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, . _ -"),
    "path": _matching(r"[A-Za-z0-9_.~/][A-Za-z0-9_./+-]*", "a path without spaces"),
    "share": _matching(r"0\.[0-9]+", "a share between 0 and 1"),
    "switch": _matching(r"[01]", "a switch, 0 or 1"),
}
