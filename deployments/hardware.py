"""The machines that `dspark matrix` judges models for. Pure.

Memory is what one GPU of the named product leaves to an engine, in GiB, rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass

GENERATIONS = ("none", "Ampere", "Ada", "Hopper", "Blackwell", "GB10")


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of machine. `capability` is CUDA's, (0, 0) without a GPU; `max_gpus` are those
    of one machine, or of as many as are usually cabled together (`gpus_per_node` each)."""

    generation: str
    product: str
    architecture: str
    capability: tuple[int, int] = (0, 0)
    gpu_memory_gib: float = 0
    max_gpus: int = 0
    gpus_per_node: int = 8

    @property
    def has_gpu(self) -> bool:
        return self.max_gpus > 0


MACHINES: tuple[Machine, ...] = (
    Machine("none", "processors", "x86-64"),
    Machine("none", "processors", "aarch64"),
    Machine("Ampere", "A100 80 GB", "x86-64", (8, 0), 79, 8),
    Machine("Ada", "L40S", "x86-64", (8, 9), 44, 8),
    Machine("Hopper", "H200", "x86-64", (9, 0), 139, 8),
    Machine("Hopper", "GH200 96 GB", "aarch64", (9, 0), 94, 1, gpus_per_node=1),
    Machine("Blackwell", "B200", "x86-64", (10, 0), 178, 8),
    Machine("Blackwell", "GB200, one tray", "aarch64", (10, 0), 184, 4, gpus_per_node=4),
    # 121.7 GiB shared with the processor; the rest is left to the system, Ray and page cache.
    Machine("GB10", "DGX Spark, two", "aarch64", (12, 1), 110, 2, gpus_per_node=1),
)
