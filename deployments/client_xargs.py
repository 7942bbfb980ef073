"""Of a request's `vllm_xargs`, what clients may set of ours, and what is the cluster's own."""

from __future__ import annotations

from typing import Any

_OURS = "dspark"  # every name of ours begins with it
_FOR_CLIENTS = frozenset({"dspark", "dspark_capture"})


def check_xargs(body: Any) -> None:
    """Raises ValueError naming what a client must not set: it goes to engines as it is, which
    take it for what a target, or this cluster, told them."""
    given = getattr(body, "vllm_xargs", None) or {}
    reserved = sorted(name for name in given if name.startswith(_OURS) and name not in _FOR_CLIENTS)
    if reserved:
        raise ValueError(
            f"vllm_xargs: {', '.join(reserved)}: not for requests; leave it out. Of ours a "
            f"request may set {' and '.join(sorted(_FOR_CLIENTS))}"
        )
