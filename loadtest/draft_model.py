"""The model that vLLM's own draft-model speculation drafts with, checked before a server starts.

Read from vLLM 0.29: `config/speculative.py` (a draft model generates by itself and shares the
target's vocabulary) and `v1/worker/cpu_model_runner.py` (on a processor its Triton kernels have
stand-ins, those for draft models since the one that is asked for here).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_NUM_DRAFT_TOKENS = 5  # as many as the n-gram peer's
_STAND_INS = Path("utils", "cpu_triton_utils.py")
_NEEDED = "copy_and_expand_eagle_inputs_kernel"  # lays out what a draft model reads


def draft_model_speculation(directory: Path, target: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's speculative configuration.

    Raises ValueError where vLLM could not draft so for the `target` of a Serve file.
    """
    config = _config(directory)
    architectures = config.get("architectures") or []
    if not any(str(name).endswith("ForCausalLM") for name in architectures):
        raise ValueError(
            f"--draft-model {directory} is {', '.join(architectures) or 'nothing known'}: vLLM's "
            "draft model generates text by itself (...ForCausalLM)"
        )
    target_directory = Path(str(target["source"]))
    if target_directory.is_dir():
        sizes = _vocab_size(config), _vocab_size(_config(target_directory))
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"--draft-model {directory} has {sizes[0]} tokens and the target {sizes[1]}: "
                "vLLM drafts with a model of the target's vocabulary"
            )
    if target.get("device", "cpu") == "cpu" and not _drafts_on_processors():
        raise ValueError(
            "the vLLM that is installed has no draft models on processors: its Triton kernels "
            f"have no stand-in there ({_NEEDED}); take 0.29, or target.device: cuda"
        )
    return {
        "method": "draft_model",
        "model": str(directory.resolve()),
        "num_speculative_tokens": _NUM_DRAFT_TOKENS,
    }


def _config(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"{directory} is no checkpoint: config.json cannot be read") from None
    return found


def _vocab_size(config: Mapping[str, Any]) -> object:
    return config.get("text_config", config).get("vocab_size")


def _drafts_on_processors() -> bool:
    """Read, not imported: that alone takes seconds, and the engine is another process."""
    vllm = find_spec("vllm")
    roots = (vllm.submodule_search_locations if vllm else None) or []
    files = [Path(root) / _STAND_INS for root in roots]
    return any(_NEEDED in file.read_text() for file in files if file.is_file())
