"""From what a machine's own tools print to numbers. Pure; text that says nothing gives None."""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
from collections.abc import Mapping

from cluster.doctor.evidence import Clock, Gpu, Interface, Listener, Memory

GPU_QUERY = "name,driver_version,memory.total,memory.used"
_LISTEN = "0A"  # the state in /proc/net/tcp


def gpus(csv: str) -> tuple[Gpu, ...]:
    """Of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`."""
    found = []
    for line in csv.strip().splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            name, driver, total, used = cells
            found.append(Gpu(name, driver, _whole(total), _whole(used)))
    return tuple(found)


def memory(meminfo: str) -> Memory | None:
    """Of /proc/meminfo. Shared memory is in `Cached`, and nothing gives that back."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.M)}
    if "MemTotal" not in kib or "MemAvailable" not in kib:
        return None
    cache = kib.get("Cached", 0) + kib.get("Buffers", 0) - kib.get("Shmem", 0)
    return Memory(kib["MemTotal"] >> 10, kib["MemAvailable"] >> 10, max(cache, 0) >> 10)


def interfaces(ip_json: str, speeds: Mapping[str, str]) -> tuple[Interface, ...]:
    """Of `ip -json addr` and of /sys/class/net/NAME/speed. Loopback is left out."""
    try:
        links = json.loads(ip_json)
    except ValueError:
        return ()
    found = []
    for link in links:
        if "LOOPBACK" in link.get("flags", ()):
            continue
        ipv4 = (a["local"] for a in link.get("addr_info", ()) if a.get("family") == "inet")
        speed = _whole(speeds.get(link["ifname"], ""))
        is_up = "LOWER_UP" in link.get("flags", ())
        found.append(
            Interface(link["ifname"], link["mtu"], is_up, speed if is_up else None, tuple(ipv4))
        )
    return tuple(found)


def port_state(text: str) -> str:
    """`4: ACTIVE` of /sys/class/infiniband/*/ports/*/state."""
    return text.partition(":")[2].strip() or text.strip()


def port_rate(text: str) -> float | None:
    """Gbit/s of `200 Gb/sec (4X HDR)`."""
    found = re.match(r"([\d.]+) Gb/sec", text)
    return float(found[1]) if found else None


def is_roce_v2_ipv4(gid: str, gid_type: str) -> bool:
    """Whether a GID is an IPv4 address under RoCE v2: `0000:...:ffff:c0a8:640a`."""
    try:
        address = ipaddress.IPv6Address(gid.strip())
    except ValueError:
        return False
    return "v2" in gid_type and address.ipv4_mapped is not None


def clock(chronyc: str | None, timedatectl: str | None) -> Clock:
    """Of `chronyc tracking`, and where there is no chrony of `timedatectl show`."""
    if chronyc and "Leap status" in chronyc:
        is_synchronised = "Leap status     : Normal" in chronyc
        found = re.search(r"System time\s*: ([\d.]+) seconds (fast|slow)", chronyc)
        offset = float(found[1]) * (1 if found[2] == "fast" else -1) if found else None
        return Clock(is_synchronised, offset if is_synchronised else None)
    if timedatectl and "NTPSynchronized=" in timedatectl:
        return Clock("NTPSynchronized=yes" in timedatectl)
    return Clock()


def certificate(openssl: str) -> tuple[tuple[str, ...], float | None]:
    """Of `openssl x509 -noout -enddate -ext subjectAltName`: names and addresses that it is for,
    and when it ends, in seconds since 1970."""
    names = re.findall(r"(?:DNS|IP Address):([^,\s]+)", openssl)
    ends = re.search(r"^notAfter=(.+)$", openssl, re.M)
    return tuple(names), ssl.cert_time_to_seconds(ends[1]) if ends else None


def listeners(*tables: str) -> tuple[Listener, ...]:
    """Of /proc/net/tcp and tcp6, which write addresses as little-endian 32-bit words."""
    found = set()
    for line in (line for table in tables for line in table.splitlines()[1:]):
        cells = line.split()
        if len(cells) > 3 and cells[3] == _LISTEN:
            words, _, port = cells[1].partition(":")
            found.add(Listener(_address(words), int(port, 16)))
    return tuple(sorted(found, key=lambda one: (one.port, one.address)))


def _address(words: str) -> str:
    octets = bytes.fromhex(words)
    flipped = b"".join(octets[i : i + 4][::-1] for i in range(0, len(octets), 4))
    address = ipaddress.ip_address(flipped)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def os_name(os_release: str) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', os_release, re.M)
    return found[1] if found else ""


def _whole(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None
