"""Which layout a checkpoint has, found out from its `config.json`.

`speculators_model_type` names the speculators package's layout; otherwise `architectures`
decides among DeepSpec's and this project's own, which share its style.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from drafters import deepspec_layout as deepspec
from drafters import own_layout as own
from drafters import speculators_layout as speculators
from drafters.config import DrafterConfig
from drafters.fields import Fields

DEFAULT_ARCHITECTURE = "Qwen3DSparkModel"

_BY_ARCHITECTURE: Mapping[str, Callable[[Fields], DrafterConfig]] = {
    DEFAULT_ARCHITECTURE: lambda read: deepspec.dspark_config(read, "qwen3"),
    "Gemma4DSparkModel": lambda read: deepspec.dspark_config(read, "gemma4"),
    "Qwen3Eagle3Model": lambda read: deepspec.eagle3_config(read, "qwen3"),
    "Gemma4Eagle3Model": lambda read: deepspec.eagle3_config(read, "gemma4"),
    own.MTP_ARCHITECTURE: own.mtp_config,
    own.NGRAM_ARCHITECTURE: own.ngram_config,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """A checkpoint's config, and what its tensors are called here.

    `name_of` maps a stored tensor's name to ours; None is a tensor nothing here needs.
    """

    config: DrafterConfig
    name_of: Callable[[str], str | None]


def read_layout(fields: Mapping[str, Any], source: str) -> Layout:
    """Raises CheckpointError naming the first field that cannot be served."""
    read = Fields(fields, source)
    if "speculators_model_type" in fields:
        return Layout(speculators.config(read), speculators.name_of)
    named = fields.get("architectures", [DEFAULT_ARCHITECTURE])
    architecture = named[0] if isinstance(named, list) and len(named) == 1 else None
    if not isinstance(architecture, str) or architecture not in _BY_ARCHITECTURE:
        known = ", ".join(f"['{name}']" for name in _BY_ARCHITECTURE)
        raise read.refusal("architectures", f"one of {known}, or speculators_model_type")
    return Layout(_BY_ARCHITECTURE[architecture](read), _as_stored)


def _as_stored(name: str) -> str:
    return name
