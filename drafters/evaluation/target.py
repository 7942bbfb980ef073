"""The target of an evaluation: a transformers model that reads many sequences at once."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drafters.errors import CheckpointError
from drafters.evaluation.kv_cache import RaggedCache


class TargetStep(NamedTuple):
    """`logits` [N, k, V] of the kept positions, `features` [N, q, F] of all of them."""

    logits: Tensor
    features: Tensor


class EvaluatedTarget:
    """A causal language model with its K/V, and the features a drafter reads.

    Sequences have rows 0 .. num_rows - 1. A position is computed once its token is known
    and again when another token takes its place.
    """

    def __init__(self, model: Any, target_layer_ids: Sequence[int], num_rows: int) -> None:
        """`target_layer_ids` are those of `DrafterConfig`; -1 is the embedding output."""
        self._model = model.eval()
        self._config = model.config.get_text_config()
        self._captured: dict[int, Tensor] = {}
        self._layer_ids = tuple(target_layer_ids)
        decoder = model.get_decoder()
        for i in self._layer_ids:
            module = decoder.embed_tokens if i < 0 else decoder.layers[i]
            module.register_forward_hook(self._capture(i))
        self._cache = RaggedCache(self._config.num_hidden_layers, num_rows)
        # Its name has changed from one release of transformers to the next.
        names = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"

    @classmethod
    def load(
        cls,
        directory: str | Path,
        target_layer_ids: Sequence[int],
        *,
        num_rows: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> EvaluatedTarget:
        """Raises CheckpointError naming the directory that cannot be read."""
        from transformers import AutoModelForCausalLM

        if torch.device(device).type == "cpu":
            # Query heads share K and V in the kernel instead of each getting a copy.
            os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
        try:
            model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=dtype)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{directory}: no target that transformers reads: {error}") from (
                error
            )
        return cls(model.to(device), target_layer_ids, num_rows)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    @property
    def max_tokens(self) -> int:
        """The model's longest sequence."""
        return int(self._config.max_position_embeddings)

    def limit_rows(self, num_rows: int) -> None:
        """Hold at most so many sequences from now on; those held so far are forgotten."""
        self._cache = RaggedCache(self._config.num_hidden_layers, num_rows)

    def kv_bytes_per_token(self) -> int:
        """What one position of one sequence takes, found out by computing one on the side."""
        held, self._cache = self._cache, RaggedCache(self._config.num_hidden_layers, 1)
        nothing = torch.zeros(1, 1, dtype=torch.int64)
        self.read([0], nothing, [0], nothing)
        found = self._cache.bytes_per_token
        self._cache = held
        return found

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], tokens: Tensor, starts: Sequence[int], kept: Tensor
    ) -> TargetStep:
        """Compute `tokens` int64 [N, q] of `rows` at positions `starts` on.

        `kept` int64 [N, k] says which of the q to return logits for. Tokens that only fill
        a row up must stand behind its own.
        """
        device = self.device
        first = torch.tensor(starts, device=device).unsqueeze(1)
        positions = first + torch.arange(tokens.shape[1], device=device)
        num_slots = self._cache.point_at(torch.tensor(rows, device=device), positions)
        output = self._model(
            input_ids=tokens.to(device),
            attention_mask=self._masks(positions, num_slots),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=kept.to(device),
            **{self._cache_name: self._cache},
        )
        features = [self._captured.pop(i) for i in self._layer_ids]
        empty = output.logits.new_empty(*tokens.shape, 0)
        return TargetStep(output.logits, torch.cat(features, dim=-1) if features else empty)

    @torch.inference_mode()
    def move_row(self, source: int, destination: int) -> None:
        """Row `source` goes on as row `destination`, whose sequence is forgotten."""
        self._cache.move_row(source, destination)

    def _masks(self, positions: Tensor, num_slots: int) -> Tensor | dict[str, Tensor]:
        """What is added to attention scores, [N, 1, q, slots], by layer type where they differ."""
        behind = positions.unsqueeze(-1) - torch.arange(num_slots, device=positions.device)
        full = self._additive(behind >= 0)
        types = set(getattr(self._config, "layer_types", None) or ())
        if "sliding_attention" not in types:
            return full
        window = (behind >= 0) & (behind < self._config.sliding_window)
        return {"full_attention": full, "sliding_attention": self._additive(window)}

    def _additive(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=visible.device)
        return mask.masked_fill_(~visible, float("-inf")).unsqueeze(1)

    def _capture(self, layer_id: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            self._captured[layer_id] = output[0] if isinstance(output, tuple) else output

        return hook
