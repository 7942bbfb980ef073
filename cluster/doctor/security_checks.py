"""Who can give this machine orders: Ray's token and the ports that listen for everybody."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.evidence import NodeEvidence
from cluster.doctor.findings import Finding, broken, fine, warning

RAY_PORTS = {6379: "control store", 8265: "dashboard", 10001: "client server"}


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
