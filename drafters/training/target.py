"""The frozen target in the training loop: its features, and what it would say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class FrozenTarget:
    """A Hugging Face causal language model that only answers.

    Features are computed when they are needed: kept on disk they would be thousands of
    times the text.
    """

    def __init__(
        self, directory: str | Path, target_layer_ids: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype=dtype)
        self._model = model.requires_grad_(False).eval()
        self._layer_ids = target_layer_ids

    @torch.no_grad()
    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, T, F] and last hidden states [B, T, d] of int64 `tokens` [B, T].

        Padding must stand on the right: a causal model never sees it from the left.
        """
        states = self._model.model(tokens, output_hidden_states=True, use_cache=False)
        hidden = states.hidden_states
        # hidden_states[0] is the embedding output, which a drafter calls layer -1.
        features = torch.cat([hidden[i + 1] for i in self._layer_ids], dim=-1)
        return features, states.last_hidden_state

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of last hidden states [..., d]."""
        logits: Tensor = self._model.lm_head(hidden)
        return logits

    def state(self) -> dict[str, Tensor]:
        """The model's weights by their Hugging Face names."""
        weights: dict[str, Tensor] = self._model.state_dict()
        return weights
