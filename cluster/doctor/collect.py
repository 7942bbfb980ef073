"""Ask this machine: its tools, /proc and /sys, and what Python packages say of themselves.

Nothing is changed, nothing takes root, and every command has seconds to answer.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cluster.doctor import parse
from cluster.doctor.evidence import Disk, Gpu, NodeEvidence, RayTls, RdmaPort
from cluster.versions import RAY, TORCH, VLLM, installed_version

OURS = ("dspark-serve",)
NCCL13, NCCL12 = ("nvidia-nccl-cu13",), ("nvidia-nccl-cu12",)
_COMMAND_S = 10.0
_MOST_GIDS = 32
# Settings that explain faults; no name here holds a secret.
_SETTINGS = (
    "GLOO_SOCKET_IFNAME",
    "HF_HUB_OFFLINE",
    "NCCL_CUMEM_ENABLE",
    "NCCL_IB_DISABLE",
    "NCCL_IB_GID_INDEX",
    "NCCL_IB_HCA",
    "NCCL_IB_MERGE_NICS",
    "NCCL_NET",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "RAY_memory_usage_threshold",
    "VLLM_HOST_IP",
)
# What a running Ray was started with counts, not what a later shell has.
_OF_RAY = (
    "RAY_AUTH_MODE",
    "RAY_TLS_CA_CERT",
    "RAY_TLS_SERVER_CERT",
    "RAY_TLS_SERVER_KEY",
    "RAY_USE_TLS",
)
_RAYS_OWN = ("gcs_server", "raylet")  # processes of a node, as the kernel names them
Run = Callable[[list[str]], tuple[int, str]]


def collect_node(root: Path = Path("/"), run: Run | None = None) -> NodeEvidence:
    """Evidence of this machine, or of the files under `root` and what `run` answers.

    `run` gives a command's exit status and output, and raises FileNotFoundError where there
    is no such command.
    """
    run = run or _run
    unknown: list[str] = []
    gpus, gpu_error = _gpus(run)
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    listening = parse.listeners(_read(root / "proc/net/tcp"), _read(root / "proc/net/tcp6"))
    environment = _environment(root)
    speeds = {p.parent.name: _read(p) for p in root.glob("sys/class/net/*/speed")}
    return NodeEvidence(
        node=platform.node(),
        kernel=_read(root / "proc/sys/kernel/osrelease").strip(),
        machine=platform.machine(),
        os=parse.os_name(_read(root / "etc/os-release")),
        gpus=gpus,
        gpu_error=gpu_error,
        memory=parse.memory(_read(root / "proc/meminfo")),
        rdma=tuple(_rdma_ports(root)),
        interfaces=parse.interfaces(_said(run, ["ip", "-json", "addr"], unknown) or "", speeds),
        memlock_bytes=_memlock(),
        clock=parse.clock(
            _said(run, ["chronyc", "-n", "tracking"], []),
            _said(run, ["timedatectl", "show"], unknown),
        ),
        disks=tuple(_disks()),
        listeners=tuple(one for one in listening if not one.is_local),
        versions={
            "python": platform.python_version(),
            "dspark": installed_version(OURS),
            "ray": installed_version(RAY),
            "vllm": installed_version(VLLM),
            "torch": installed_version(TORCH),
            "nccl": installed_version(NCCL13),
            "nccl for CUDA 12": installed_version(NCCL12),
        },
        environment=environment,
        has_ray_token=bool(os.environ.get("RAY_AUTH_TOKEN")) or token.is_file(),
        ray_token_mode=token.stat().st_mode & 0o777 if token.is_file() else None,
        ray_tls=_ray_tls(environment, run, unknown),
        unknown=tuple(unknown),
    )


def _environment(root: Path) -> dict[str, str]:
    """Settings of this process; whether Ray asks for a token and encrypts is said by the Ray that
    runs here."""
    found = {name: os.environ[name] for name in (*_SETTINGS, *_OF_RAY) if name in os.environ}
    for name in root.glob("proc/[0-9]*/comm"):
        if _read(name).strip() not in _RAYS_OWN:
            continue
        variables = dict(
            one.split("=", 1) for one in _read(name.parent / "environ").split("\0") if "=" in one
        )
        if variables:  # of another user's process nothing can be read
            own = {name: value for name, value in found.items() if name not in _OF_RAY}
            return own | {name: variables[name] for name in _OF_RAY if variables.get(name)}
    return found


def _ray_tls(environment: dict[str, str], run: Run, unknown: list[str]) -> RayTls | None:
    if environment.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):  # as Ray reads it
        return None
    files = {n: Path(environment.get(n, "")) for n in _OF_RAY if n.startswith("RAY_TLS_")}
    unreadable = tuple(n for n, file in files.items() if not os.access(file, os.R_OK))
    certificate, key = files["RAY_TLS_SERVER_CERT"], files["RAY_TLS_SERVER_KEY"]
    said = None
    if "RAY_TLS_SERVER_CERT" not in unreadable:
        command = ["openssl", "x509", "-in", str(certificate), "-noout", "-enddate"]
        said = _said(run, [*command, "-ext", "subjectAltName"], unknown)
    names, ends_s = parse.certificate(said or "")
    return RayTls(
        unreadable,
        names,
        None if ends_s is None else round((ends_s - time.time()) / 86400, 1),
        key.stat().st_mode & 0o777 if key.is_file() else None,
    )


def _gpus(run: Run) -> tuple[tuple[Gpu, ...], str | None]:
    query = f"--query-gpu={parse.GPU_QUERY}"
    try:
        status, said = run(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    except FileNotFoundError:
        return (), None
    except subprocess.TimeoutExpired:
        return (), f"nvidia-smi did not answer within {_COMMAND_S:g} s"
    if status:
        return (), (said.strip().splitlines() or [f"nvidia-smi ended with {status}"])[0]
    return parse.gpus(said), None


def _rdma_ports(root: Path) -> list[RdmaPort]:
    found = []
    for port in sorted(root.glob("sys/class/infiniband/*/ports/*")):
        device = port.parent.parent
        gids = tuple(
            i
            for i in range(_MOST_GIDS)
            if parse.is_roce_v2_ipv4(
                _read(port / f"gids/{i}"), _read(port / f"gid_attrs/types/{i}")
            )
        )
        netdevs = sorted(path.name for path in device.glob("device/net/*"))
        found.append(
            RdmaPort(
                device.name,
                parse.port_state(_read(port / "state")),
                parse.port_rate(_read(port / "rate")),
                _read(port / "gid_attrs/ndevs/0").strip() or (netdevs[0] if netdevs else None),
                gids,
            )
        )
    return found


def _disks() -> list[Disk]:
    uses = {
        "checkpoints": Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser(),
        "Ray's session": Path(os.environ.get("RAY_TMPDIR", "/tmp")),
        "shared memory": Path("/dev/shm"),
    }
    found = []
    for use, path in uses.items():
        there = path
        while not there.exists():
            there = there.parent
        found.append(Disk(use, str(path), shutil.disk_usage(there).free >> 20))
    return found


def _memlock() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such port, or the kernel's own EINVAL for an unset GID
        return ""


def _said(run: Run, command: list[str], unknown: list[str]) -> str | None:
    try:
        status, said = run(command)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        unknown.append(f"{command[0]}: {'not found' if isinstance(error, OSError) else 'hangs'}")
        return None
    return said if status == 0 else None


def _run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_COMMAND_S
    )
    return done.returncode, done.stdout
