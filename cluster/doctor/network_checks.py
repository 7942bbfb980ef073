"""The cable between nodes: RoCE devices, their twins, GIDs, MTU, speed, locked memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.doctor.evidence import NodeEvidence, RdmaPort
from cluster.doctor.findings import Finding, broken, fine, warning
from cluster.doctor.node_checks import Expected

_SPARK_GBIT_PER_S = 200.0  # of the cabled port of a DGX Spark
_NAMES_DRIFT = "names drift with firmware and kernel; `ibdev2netdev` shows the present ones"


def check_network(node: NodeEvidence, expected: Expected) -> Iterator[Finding]:
    """Nothing to say of a node without RDMA devices that none was promised to."""
    yield from _sockets(node)
    ports = {port.device: port for port in node.rdma}
    for device in node.nccl_devices:
        if device not in ports and not any(name.startswith(device) for name in ports):
            yield broken(
                node.node,
                "RoCE device",
                f"NCCL_IB_HCA names {device}; there are {', '.join(sorted(ports)) or 'none'}",
                "NCCL falls back to TCP without a word, or does not come up",
                f"correct NCCL_IB_HCA: {_NAMES_DRIFT}",
            )
    used = _used(node)
    for port in used:
        yield from _port(node, port, expected)
    if used:
        yield from _twins(node, used)
        yield from _memlock(node)
        if not node.nccl_devices:
            yield warning(
                node.node,
                "NCCL",
                "NCCL_IB_HCA is not set",
                "NCCL chooses devices by itself, perhaps others on each node",
                f"set NCCL_IB_HCA={','.join(port.device for port in used)}",
            )


def _used(node: NodeEvidence) -> list[RdmaPort]:
    """The ports NCCL is told of, or without a word of it those that are up."""
    named = node.nccl_devices
    if named:
        return [port for port in node.rdma if port.device.startswith(named)]
    return [port for port in node.rdma if port.state == "ACTIVE"]


def _port(node: NodeEvidence, port: RdmaPort, expected: Expected) -> Iterator[Finding]:
    if port.state != "ACTIVE":
        yield broken(
            node.node,
            "RoCE device",
            f"{port.device} is {port.state}",
            "NCCL falls back to TCP, or waits for the other node forever",
            f"check the cable and `ip link`; {_NAMES_DRIFT}",
        )
        return
    yield from _gid(node, port)
    yield from _mtu(node, port, expected)
    rate = port.rate_gbit_per_s
    if node.is_unified and rate is not None and rate < _SPARK_GBIT_PER_S:
        yield warning(
            node.node,
            "link speed",
            f"{port.device} runs at {rate:g} Gbit/s",
            f"the port is made for {_SPARK_GBIT_PER_S:g}",
            "use a cable for 200 Gbit/s, and look for its lanes with `mlxlink`",
        )
    elif rate is not None:
        yield fine(node.node, "link speed", f"{port.device} at {rate:g} Gbit/s")


def _gid(node: NodeEvidence, port: RdmaPort) -> Iterator[Finding]:
    gids = port.roce_v2_ipv4_gids
    if not gids:
        yield broken(
            node.node,
            "GID",
            f"{port.device} has no RoCE v2 GID with an IPv4 address",
            "connections between nodes time out: there is no address to reach this one by",
            f"give {port.netdev or 'its interface'} an address (netplan)",
        )
        return
    asked = node.environment.get("NCCL_IB_GID_INDEX", "")
    if asked.isdigit() and int(asked) not in gids:
        yield broken(
            node.node,
            "GID",
            f"NCCL_IB_GID_INDEX={asked}; {port.device} has its IPv4 GIDs at {_list(gids)}",
            "another kind of GID is not routed to the other node: it hangs",
            "unset NCCL_IB_GID_INDEX, NCCL finds it; indexes move with addresses",
        )
    else:
        yield fine(node.node, "GID", f"{port.device}: RoCE v2 over IPv4 at {_list(gids)}")


def _mtu(node: NodeEvidence, port: RdmaPort, expected: Expected) -> Iterator[Finding]:
    interface = next((i for i in node.interfaces if i.name == port.netdev), None)
    if interface is None:
        return
    if interface.mtu < expected.mtu:
        yield warning(
            node.node,
            "MTU",
            f"{interface.name} has MTU {interface.mtu}, wanted {expected.mtu}",
            "updates reset it, and the link is slow without an error",
            f"sudo ip link set {interface.name} mtu {expected.mtu}, and in netplan",
        )
    else:
        yield fine(node.node, "MTU", f"{interface.name}: {interface.mtu}")


def twin(device: str) -> str | None:
    """A DGX Spark's port hangs on two halves of the PCIe bus, as a device of each."""
    found = re.fullmatch(r"roce(P2)?p1s0f(\d)", device)
    if found is None:
        return None
    return f"rocep1s0f{found[2]}" if found[1] else f"roceP2p1s0f{found[2]}"


def _twins(node: NodeEvidence, used: list[RdmaPort]) -> Iterator[Finding]:
    names = {port.device for port in used}
    there = {port.device for port in node.rdma}
    for name in sorted(names):
        other = twin(name)
        if other is not None and other in there and other not in names:
            yield warning(
                node.node,
                "PCIe twins",
                f"NCCL uses {name} and not {other}",
                "one port hangs on two halves of the PCIe bus; with one half the bandwidth is half",
                f"NCCL_IB_HCA={','.join(sorted((name, other)))}, and bring {other} up",
            )


def _memlock(node: NodeEvidence) -> Iterator[Finding]:
    if node.memlock_bytes is None:
        yield fine(node.node, "locked memory", "unlimited")
        return
    yield broken(
        node.node,
        "locked memory",
        f"limited to {node.memlock_bytes >> 10} KiB",
        "RDMA registers memory that is locked: NCCL fails with `Cannot allocate memory`",
        "`--ulimit memlock=-1` for the container, or /etc/security/limits.conf",
    )


def _sockets(node: NodeEvidence) -> Iterator[Finding]:
    """The interfaces and addresses that settings name."""
    if not node.interfaces:
        return
    names = {interface.name: interface for interface in node.interfaces}
    for setting in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        for name in filter(None, node.environment.get(setting, "").lstrip("=").split(",")):
            if name.startswith("^") or name == "lo":
                continue
            interface = names.get(name)
            if interface is None or not interface.is_up or not interface.ipv4:
                state = "has no address" if interface and interface.is_up else "is down"
                seen = state if interface else f"is not here; there are {', '.join(sorted(names))}"
                yield broken(
                    node.node,
                    "interface",
                    f"{setting} names {name}, which {seen}",
                    "ranks wait for each other until they time out",
                    f"set {setting} to the cabled interface of this node",
                )
    address = node.environment.get("VLLM_HOST_IP")
    own = {a for interface in node.interfaces for a in interface.ipv4} | {"127.0.0.1"}
    if address and address not in own:
        yield broken(
            node.node,
            "interface",
            f"VLLM_HOST_IP is {address}; this node has {', '.join(sorted(own))}",
            "the other rank connects to a machine that is not this one",
            "set VLLM_HOST_IP on each node to its own address",
        )


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
