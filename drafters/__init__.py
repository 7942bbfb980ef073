"""DSpark drafters: sessions of many targets, drafted in one batch.

The names load on first use, so that the command line need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drafters.checkpoint import load_drafter, random_drafter
    from drafters.config import DrafterConfig
    from drafters.engine import DraftEngine
    from drafters.errors import CheckpointError

__all__ = ["CheckpointError", "DraftEngine", "DrafterConfig", "load_drafter", "random_drafter"]

_MODULES = {
    "CheckpointError": "errors",
    "DraftEngine": "engine",
    "DrafterConfig": "config",
    "load_drafter": "checkpoint",
    "random_drafter": "checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
