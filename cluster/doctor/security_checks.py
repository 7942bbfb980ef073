"""Who can give this machine orders: Ray's token and the ports that listen for everybody."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.evidence import NodeEvidence, RayTls
from cluster.doctor.findings import Finding, broken, fine, warning

RAY_PORTS = {6379: "control store", 8265: "dashboard", 10001: "client server"}
_SOON_DAYS = 30.0


def check_security(node: NodeEvidence) -> Iterator[Finding]:
    is_guarded = node.environment.get("RAY_AUTH_MODE") == "token"
    open_ports = sorted(
        {one.port for one in node.listeners if one.port in RAY_PORTS and not one.is_local}
    )
    seen = ", ".join(f"{port} ({RAY_PORTS[port]})" for port in open_ports)
    if open_ports and not is_guarded:
        yield broken(
            node.node,
            "Ray's token",
            f"open to the network: {seen}; RAY_AUTH_MODE is not `token` here",
            "whoever reaches these ports may run code on every node",
            "`ray get-auth-token --generate` once, RAY_AUTH_MODE=token on every node, start again",
        )
    elif is_guarded and not node.has_ray_token:
        yield broken(
            node.node,
            "Ray's token",
            "RAY_AUTH_MODE=token and no token here",
            "this node can neither join nor ask",
            "copy ~/.ray/auth_token from the head, mode 600",
        )
    elif open_ports:
        yield fine(node.node, "Ray's token", f"required by {seen}")
    if is_guarded and 8265 in open_ports:
        yield warning(
            node.node,
            "dashboard",
            "listens to the network",
            "a browser that has the token is one forged page away from a job",
            "--dashboard-host=127.0.0.1, and `ray dashboard` or ssh for a tunnel",
        )
    mode = node.ray_token_mode
    if mode is not None and mode & 0o077:
        yield warning(
            node.node,
            "Ray's token",
            f"its file has mode {mode:o}",
            "others on this machine can read it, and with it run code on every node",
            "chmod 600 ~/.ray/auth_token",
        )
    if node.ray_tls is not None:
        yield from _tls(node, node.ray_tls)


def _tls(node: NodeEvidence, tls: RayTls) -> Iterator[Finding]:
    check = "Ray's TLS"
    if tls.unreadable:
        yield broken(
            node.node,
            check,
            f"RAY_USE_TLS is set, and no file can be read for {', '.join(tls.unreadable)}",
            "no process of Ray starts without its certificate, its key and the authority",
            "put the three files there, readable by the user that Ray runs as",
        )
        return
    addresses = {address for interface in node.interfaces for address in interface.ipv4}
    if tls.names and addresses and not addresses & set(tls.names):
        yield broken(
            node.node,
            check,
            f"the certificate is for {', '.join(tls.names)}, none an address of this node",
            "other nodes connect by address and refuse a certificate for another one",
            "a certificate with this node's address as subjectAltName",
        )
    days = tls.ends_in_days
    if days is not None and days < _SOON_DAYS:
        ended = days < 0
        yield (broken if ended else warning)(
            node.node,
            check,
            f"the certificate ended {-days:g} days ago" if ended else f"it ends in {days:g} days",
            "Ray reads it when it starts, and nodes with an ended one are refused",
            "a new certificate, and Ray started again on this node",
        )
    elif days is not None:
        yield fine(node.node, check, f"certificate for {', '.join(tls.names)}, {days:g} days left")
    if tls.key_mode is not None and tls.key_mode & 0o007:
        yield warning(
            node.node,
            check,
            f"the key's file has mode {tls.key_mode:o}",
            "whoever has the key is a node of this cluster",
            "chmod 600",
        )
