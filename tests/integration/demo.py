"""The bundled demo as the tests serve it: float32, few seats, its trained drafter."""

from __future__ import annotations

from typing import Any

DEMO_TARGET: dict[str, Any] = {
    "source": "models/demo-target",
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": 8,
    "kv_cache_mib": 128,
}
DEMO_DRAFTER: dict[str, Any] = {
    "source": "models/demo-drafter",
    "dtype": "float32",
    "num_context_tokens": 512,
    "context_mib": 32,
}


def demo_drafter(placement: str) -> dict[str, Any]:
    """The demo's drafter; where a target waits for it, long enough for a busy machine."""
    return DEMO_DRAFTER | ({"deadline_ms": 500} if placement == "split" else {})
