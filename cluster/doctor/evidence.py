"""What is known of one machine and of one service: plain records that travel as JSON.

Everything `dspark doctor` concludes, it concludes from these: collectors fill them in, checks
read them. None stands for what could not be found out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

FORMAT = "dspark-doctor-1"
UNIFIED = "GB10"  # in the name of a GPU that has no memory of its own


class EvidenceError(ValueError):
    """A file that is not evidence; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """As nvidia-smi shows it. GB10 has no memory of its own and says so: None."""

    name: str
    driver: str
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None


@dataclass(frozen=True, slots=True)
class RdmaPort:
    """A port of an RDMA device. `roce_v2_ipv4_gids` are the indexes NCCL can route by."""

    device: str
    state: str
    rate_gbit_per_s: float | None = None
    netdev: str | None = None
    roce_v2_ipv4_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    mtu: int
    is_up: bool
    speed_mbit_per_s: int | None = None
    ipv4: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB. `page_cache_mib` is what the kernel could give back, but on GB10 counts as taken."""

    total_mib: int
    available_mib: int
    page_cache_mib: int


@dataclass(frozen=True, slots=True)
class Clock:
    """`offset_s` is by the machine's own time service; `asked_offset_s` by whoever asked it over
    the network, right to `asked_within_s`."""

    is_synchronised: bool | None = None
    offset_s: float | None = None
    asked_offset_s: float | None = None
    asked_within_s: float | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    use: str
    path: str
    free_mib: int


@dataclass(frozen=True, slots=True)
class Listener:
    address: str
    port: int

    @property
    def is_local(self) -> bool:
        return self.address.startswith("127.") or self.address == "::1"


@dataclass(frozen=True, slots=True)
class RayTls:
    """What Ray's processes here encrypt with. `names` are the addresses and host names that the
    certificate is for; None and empty where it could not be read."""

    unreadable: tuple[str, ...] = ()  # settings whose file is not to be had
    names: tuple[str, ...] = ()
    ends_in_days: float | None = None
    key_mode: int | None = None


@dataclass(frozen=True, slots=True)
class NodeEvidence:
    """One machine. `environment` holds settings by name, never secrets; `unknown` says what
    could not be found out, and why. `memlock_bytes` is None where it is unlimited, `listeners`
    are those that the network can reach. `ray_tls` is None where Ray does not encrypt."""

    node: str
    kernel: str = ""
    machine: str = ""
    os: str = ""
    gpus: tuple[Gpu, ...] = ()
    gpu_error: str | None = None
    memory: Memory | None = None
    rdma: tuple[RdmaPort, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    memlock_bytes: int | None = None
    clock: Clock = field(default_factory=Clock)
    disks: tuple[Disk, ...] = ()
    listeners: tuple[Listener, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    has_ray_token: bool = False
    ray_token_mode: int | None = None
    ray_tls: RayTls | None = None
    unknown: tuple[str, ...] = ()

    @property
    def is_unified(self) -> bool:
        """Whether processor and GPU share their memory."""
        return any(UNIFIED in gpu.name for gpu in self.gpus)

    @property
    def nccl_devices(self) -> tuple[str, ...]:
        """The RDMA devices NCCL is told to use; empty where it chooses by itself."""
        named = self.environment.get("NCCL_IB_HCA", "").lstrip("=")
        return tuple(part.partition(":")[0] for part in named.split(",") if part)


@dataclass(frozen=True, slots=True)
class ServiceEvidence:
    """What a served URL answered. `*_error` is None where it answered as it should."""

    url: str
    models: tuple[str, ...] = ()
    models_error: str | None = None
    asked_model: str | None = None
    completion_tokens: int = 0
    completion_s: float | None = None
    completion_error: str | None = None
    fleet: dict[str, Any] | None = None
    fleet_error: str | None = None
    answers_without_key: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    nodes: tuple[NodeEvidence, ...]
    service: ServiceEvidence | None = None

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT} | asdict(self), indent=2, sort_keys=True)


def read_evidence(text: str, where: str) -> Evidence:
    """What `Evidence.to_json` wrote. Raises EvidenceError naming the first wrong field."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise EvidenceError(f"{where} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise EvidenceError(f"{where} is not from `dspark doctor --collect` of this version")
    try:
        return TypeAdapter(Evidence).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise EvidenceError(f"{where}: {at}: {first['msg']}") from None


def joined(parts: Iterable[Evidence]) -> Evidence:
    """One record of the nodes of several, and of the last service among them."""
    nodes: list[NodeEvidence] = []
    service = None
    for part in parts:
        nodes.extend(part.nodes)
        service = part.service or service
    return Evidence(tuple(nodes), service)
