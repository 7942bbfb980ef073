"""Machines as their tools show them: files under a root, and what commands print.

Written in the formats of nvidia-smi 580, Linux 6.17's sysfs, iproute2 and chrony 4, after a
DGX Spark whose second port is cabled. Faults are changes of single files or answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

MEMINFO = """\
MemTotal:       125508340 kB
MemFree:        113246208 kB
MemAvailable:   117440512 kB
Buffers:          102400 kB
Cached:          4194304 kB
SwapCached:            0 kB
Shmem:             51200 kB
"""
MEMINFO_AFTER_A_LOAD = """\
MemTotal:       125508340 kB
MemFree:          4194304 kB
MemAvailable:    88080384 kB
Buffers:          102400 kB
Cached:         83886080 kB
Shmem:             51200 kB
"""
CHRONY = """\
Reference ID    : C0248F82 (ntp.example.com)
Stratum         : 3
Ref time (UTC)  : Wed Nov 25 18:00:01 2026
System time     : 0.000023111 seconds slow of NTP time
Last offset     : -0.000011221 seconds
Leap status     : Normal
"""
CHRONY_LOST = CHRONY.replace("Normal", "Not synchronised")
SMI = "NVIDIA GB10, 580.126.09, [N/A], [N/A]\n"
SMI_H100 = (
    "NVIDIA H100 80GB HBM3, 580.95.05, 81559, 4\nNVIDIA H100 80GB HBM3, 580.95.05, 81559, 0\n"
)
SMI_FAILED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1
   1: 0100007F:2049 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1
   2: 0A64A8C0:A3F0 0B64A8C0:18EB 01 00000000:00000000 00:00000000 00000000  1000        0 3 1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000:0
   1: 0000000000000000FFFF00000A64A8C0:2711 00000000000000000000000000000000:0000 0A 00000000:0
"""
GIDS = {
    0: ("fe80:0000:0000:0000:4ebb:47ff:fe2b:0001", "IB/RoCE v1"),
    1: ("fe80:0000:0000:0000:4ebb:47ff:fe2b:0001", "RoCE v2"),
    2: ("0000:0000:0000:0000:0000:ffff:c0a8:640a", "IB/RoCE v1"),
    3: ("0000:0000:0000:0000:0000:ffff:c0a8:640a", "RoCE v2"),
}


def link(name: str, mtu: int, ipv4: str | None, is_up: bool = True) -> dict[str, object]:
    addresses = [{"family": "inet6", "local": "fe80::1", "prefixlen": 64}]
    if ipv4:
        addresses.append({"family": "inet", "local": ipv4, "prefixlen": 24})
    flags = ["BROADCAST", "MULTICAST", "UP", *(["LOWER_UP"] if is_up else ["NO-CARRIER"])]
    return {"ifname": name, "flags": flags, "mtu": mtu, "addr_info": addresses}


LINKS = [
    {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536, "addr_info": []},
    link("enP7s7", 1500, "10.0.0.5"),
    link("enp1s0f1np1", 9000, "192.168.100.10"),
    link("enP2p1s0f1np1", 9000, "192.168.101.10"),
]


@dataclass
class Machine:
    """`files` by path, `answers` by command: exit status and output."""

    files: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)

    def write(self, root: Path) -> Path:
        for name, text in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    def run(self, command: list[str]) -> tuple[int, str]:
        if command[0] not in self.answers:
            raise FileNotFoundError(command[0])
        return self.answers[command[0]]


def rdma_device(name: str, netdev: str, state: str = "4: ACTIVE") -> dict[str, str]:
    port = f"sys/class/infiniband/{name}/ports/1"
    files = {
        f"{port}/state": f"{state}\n",
        f"{port}/rate": "200 Gb/sec (4X HDR)\n",
        f"{port}/gid_attrs/ndevs/0": f"{netdev}\n",
    }
    for i, (gid, kind) in GIDS.items():
        files[f"{port}/gids/{i}"] = f"{gid}\n"
        files[f"{port}/gid_attrs/types/{i}"] = f"{kind}\n"
    return files


def spark() -> Machine:
    """A healthy DGX Spark, both halves of its second port up."""
    return Machine(
        files={
            "proc/meminfo": MEMINFO,
            "proc/sys/kernel/osrelease": "6.17.0-1014-nvidia\n",
            "proc/net/tcp": TCP,
            "proc/net/tcp6": TCP6,
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.4 LTS"\n',
            "sys/class/net/enp1s0f1np1/speed": "200000\n",
            "sys/class/net/enP7s7/speed": "1000\n",
            **rdma_device("rocep1s0f1", "enp1s0f1np1"),
            **rdma_device("roceP2p1s0f1", "enP2p1s0f1np1"),
        },
        answers={
            "nvidia-smi": (0, SMI),
            "ip": (0, json.dumps(LINKS)),
            "chronyc": (0, CHRONY),
            "timedatectl": (0, "NTP=yes\nNTPSynchronized=yes\n"),
        },
    )
