"""Ranks of a processor-only target on several Ray nodes: a platform that vLLM's Ray executor takes.

vLLM 0.29's executor places ranks by Ray's accelerator ids, and its CPU platform names no
accelerator. With `DSPARK_CPU_OVER_RAY=1` this one says "GPU": nodes are then started with as
many pretended GPUs as ranks may run there (`ray start --num-gpus 1`).

vLLM finds it through the `vllm.platform_plugins` entry point; nothing of vLLM may be
imported while it looks.
"""

from __future__ import annotations

import os

SWITCH = "DSPARK_CPU_OVER_RAY"


def register() -> str | None:
    """The platform's dotted name where it is asked for, else None: vLLM's own choice stands."""
    return f"{__name__}.CpuOverRay" if os.environ.get(SWITCH) == "1" else None


def __getattr__(name: str) -> object:
    if name != "CpuOverRay":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vllm.platforms.cpu import CpuPlatform

    platform = type(
        name, (CpuPlatform,), {"__module__": __name__, "__doc__": None, "ray_device_key": "GPU"}
    )
    globals()[name] = platform
    return platform
