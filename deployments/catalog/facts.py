"""What is known of a released model: where it is, how large, and its config's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on the hub. `num_bytes` are its tensors', `config` what of its config.json
    decides shapes and sizes; `measured` is false where the bytes are computed from it."""

    hub_id: str
    revision: str
    num_bytes: int
    config: Mapping[str, Any]
    measured: bool = True


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A target and its DSpark drafter; `drafter` is None where the target carries it."""

    name: str
    target: Checkpoint
    drafter: Checkpoint | None

    @property
    def download_bytes(self) -> int:
        return self.target.num_bytes + (self.drafter.num_bytes if self.drafter else 0)

    @property
    def num_heads(self) -> int:
        text = self.target.config.get("text_config", self.target.config)
        return int(text["num_attention_heads"])
