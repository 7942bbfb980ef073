"""One machine by itself: driver, memory, kernel, clock, disk, versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.doctor.evidence import NodeEvidence
from cluster.doctor.findings import Finding, broken, fine, unknown, warning
from cluster.versions import RAY, TESTED, TORCH, VLLM

_CUDA13_DRIVER = 580  # the least that runs CUDA 13
_CACHE_SHARE = 0.2  # of unified memory, from which on the page cache is in the way
_TAKEN_SHARE = 0.1  # of a GPU's memory, where nothing should run yet
_CLOCK_S = 0.5
_LEAST_FREE_MIB = {"checkpoints": 20 << 10, "Ray's session": 2 << 10, "shared memory": 256}

FAULTY_KERNELS: Mapping[str, str] = {
    # NVIDIA's forum, thread 366026
    "6.17.0-1008-nvidia": "panics were reported on DGX Sparks, after which the GPU is not found",
    # github.com/MiaAI-Lab/DeepSeek-v4.1-Flash-DGX-Sparks/issues/14
    "7.0.0-1019-nvidia": "NCCL over RoCE was reported to fail with `Cannot allocate memory`",
}
"""By `uname -r`. Reported by users of DGX Sparks; none was reproduced here."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a machine is held to. While something `is_serving`, memory is taken rightly."""

    min_available_gib: float = 100.0  # of unified memory, before a start
    mtu: int = 9000
    is_serving: bool = False


def check_node(node: NodeEvidence, expected: Expected) -> Iterator[Finding]:
    yield from _driver(node)
    yield from _memory(node, expected)
    yield from _kernel(node)
    yield from _clock(node)
    yield from _disks(node)
    yield from _versions(node)
    for line in node.unknown:
        yield unknown(node.node, "collecting", line)


def _driver(node: NodeEvidence) -> Iterator[Finding]:
    if node.gpu_error is not None:
        yield broken(
            node.node,
            "driver",
            node.gpu_error,
            "without its driver no engine finds the GPU",
            "reboot; if it stays, reinstall the driver for the running kernel (`dkms status`)",
        )
        return
    if not node.gpus:
        yield fine(node.node, "driver", "no NVIDIA GPU; this node runs on processors")
        return
    names = ", ".join(sorted({gpu.name for gpu in node.gpus}))
    driver = node.gpus[0].driver
    major = int(driver.partition(".")[0]) if driver.partition(".")[0].isdigit() else 0
    if node.versions.get("nccl", "not installed") != "not installed" and major < _CUDA13_DRIVER:
        yield broken(
            node.node,
            "driver",
            f"driver {driver} of {names}, and packages built for CUDA 13",
            f"CUDA 13 needs a driver of {_CUDA13_DRIVER} or later",
            "update the driver, or install packages built for CUDA 12",
        )
    else:
        yield fine(node.node, "driver", f"{len(node.gpus)} x {names}, driver {driver}")


def _memory(node: NodeEvidence, expected: Expected) -> Iterator[Finding]:
    if node.memory is None:
        yield unknown(node.node, "memory", "/proc/meminfo says nothing")
        return
    available_gib = node.memory.available_mib / 1024
    if node.is_unified:
        yield from _unified_memory(node, expected)
    elif not expected.is_serving:
        for i, gpu in enumerate(node.gpus):
            total, used = gpu.memory_total_mib, gpu.memory_used_mib
            if total and used is not None and used > _TAKEN_SHARE * total:
                yield warning(
                    node.node,
                    "GPU memory",
                    f"{used} of {total} MiB of GPU {i} are taken",
                    "weights and KV cache are sized for a GPU of their own",
                    "`nvidia-smi` names the processes; a dead one's memory comes back in a minute",
                )
    if available_gib < 2:
        yield warning(
            node.node,
            "memory",
            f"{available_gib:.1f} GiB available",
            "Ray ends processes, or the kernel does, when memory runs out",
            "end what else runs here",
        )
    elif not node.is_unified:
        yield fine(node.node, "memory", f"{available_gib:.0f} GiB available")


def _unified_memory(node: NodeEvidence, expected: Expected) -> Iterator[Finding]:
    assert node.memory is not None
    available_gib = node.memory.available_mib / 1024
    cache_gib = node.memory.page_cache_mib / 1024
    if expected.is_serving:
        yield fine(node.node, "memory", f"{available_gib:.0f} GiB available while serving")
        return
    if node.memory.page_cache_mib > _CACHE_SHARE * node.memory.total_mib:
        yield broken(
            node.node,
            "page cache",
            f"{cache_gib:.0f} GiB of page cache",
            "processor and GPU share their memory and the cache counts as taken: the engine runs "
            "out of memory while it loads",
            "before every start: sync; echo 3 | sudo tee /proc/sys/vm/drop_caches",
        )
    if available_gib < expected.min_available_gib:
        yield broken(
            node.node,
            "memory",
            f"{available_gib:.0f} GiB available, {expected.min_available_gib:g} needed",
            "a start into too little memory hangs the machine",
            "end what else runs; memory of a process that died comes back within a minute or "
            "with a reboot. --min-available-gib says how much your model needs",
        )
    else:
        yield fine(node.node, "memory", f"{available_gib:.0f} GiB available")


def _kernel(node: NodeEvidence) -> Iterator[Finding]:
    fault = FAULTY_KERNELS.get(node.kernel)
    if fault is not None:
        yield warning(
            node.node,
            "kernel",
            node.kernel,
            fault,
            "boot another installed kernel (`ls /boot`) and keep it from being updated",
        )
    elif node.kernel:
        yield fine(node.node, "kernel", node.kernel)


def _clock(node: NodeEvidence) -> Iterator[Finding]:
    clock = node.clock
    why = "waiting times of requests and lines of logs of several nodes are compared by clock"
    mend = "run chrony or systemd-timesyncd: `timedatectl set-ntp true`"
    offset, within_s = clock.offset_s, 0.0
    if clock.asked_offset_s is not None:
        offset, within_s = clock.asked_offset_s, clock.asked_within_s or 0.0
    if offset is not None and abs(offset) - within_s > _CLOCK_S:
        yield warning(node.node, "clock", f"{offset:+.2f} s off", why, mend)
    elif clock.is_synchronised is False:
        yield warning(node.node, "clock", "is not synchronised", why, mend)
    elif clock.is_synchronised is None and offset is None:
        yield unknown(node.node, "clock", "no time service answers")
    else:
        yield fine(node.node, "clock", f"{offset:+.3f} s off" if offset else "synchronised")


def _disks(node: NodeEvidence) -> Iterator[Finding]:
    for disk in node.disks:
        least = _LEAST_FREE_MIB.get(disk.use, 0)
        seen = f"{disk.free_mib / 1024:.1f} GiB free at {disk.path} ({disk.use})"
        if disk.free_mib >= least:
            yield fine(node.node, "disk", seen)
        elif disk.use == "checkpoints":
            why = "checkpoints take tens of GB; one that is there already needs no more"
            mend = "make room, or set HF_HOME to a larger disk"
            yield warning(node.node, "disk", seen, why, mend)
        else:
            why = "Ray keeps logs and objects there, and fails in odd places once it is full"
            mend = f"make room; {least / 1024:g} GiB will do"
            yield broken(node.node, "disk", seen, why, mend)


def _versions(node: NodeEvidence) -> Iterator[Finding]:
    tested = {"ray": TESTED[RAY], "vllm": TESTED[VLLM], "torch": TESTED[TORCH]}
    others = []
    for name, version in tested.items():
        found = node.versions.get(name, "not installed")
        if found == "not installed":
            yield broken(
                node.node,
                "versions",
                f"{name} is not installed",
                "replicas run here with what is installed here",
                "`make setup`, or the image",
            )
        elif found.partition("+")[0] != version:
            others.append(f"{name} {found} (tested: {version})")
    if others:
        why = "nobody has run this system with it; what we build on is probed at start"
        yield warning(node.node, "versions", ", ".join(others), why, "`make setup` installs it")
    else:
        seen = ", ".join(f"{name} {version}" for name, version in sorted(node.versions.items()))
        yield fine(node.node, "versions", seen)
