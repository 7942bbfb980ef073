"""The frozen target in the training loop: its features, and what it would say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter


class TargetStates(NamedTuple):
    """What a target thinks of B texts of T tokens.

    `features` [B, T, F] are the outputs of the chosen layers side by side, `last_hidden`
    [B, T, d] the normed states that its LM head reads.
    """

    features: Tensor
    last_hidden: Tensor


class FrozenTarget:
    """A Hugging Face causal language model that only answers.

    `numbers_per_token` is how many its `TargetStates` have; `embedding` [V, d] are its
    tokens', unscaled.
    """

    def __init__(
        self,
        directory: str | Path,
        target_layer_ids: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype=dtype)
        self.device, self.dtype = torch.device(device), dtype
        model = model.to(device).requires_grad_(False).eval()
        self._decoder: Any = model.get_decoder()
        self._lm_head: Any = model.get_output_embeddings()
        self.embedding: Parameter = model.get_input_embeddings().weight
        text = model.config.get_text_config()
        self._softcap: float | None = getattr(text, "final_logit_softcapping", None)
        self.numbers_per_token = (len(target_layer_ids) + 1) * int(text.hidden_size)
        self._states: dict[int, Tensor] = {}
        # What layer i puts out is what the module behind it takes in; the last layer's is
        # taken before the final norm.
        behind = [*self._decoder.layers, self._decoder.norm]
        self._layer_ids = target_layer_ids
        for i in target_layer_ids:
            behind[i + 1].register_forward_pre_hook(self._keep(i), with_kwargs=True)

    @property
    def lm_head(self) -> Parameter:
        """[V, d]; of `embedding`'s memory where the two are tied."""
        weight: Parameter = self._lm_head.weight
        return weight

    def _keep(self, layer_id: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            self._states[layer_id] = args[0] if args else kwargs["hidden_states"]

        return hook

    @torch.no_grad()
    def read(self, tokens: Tensor) -> TargetStates:
        """States of int64 `tokens` [B, T].

        Padding must stand on the right: a causal model never sees it from the left.
        """
        last_hidden = self._decoder(tokens, use_cache=False).last_hidden_state
        features = torch.cat([self._states[i] for i in self._layer_ids], dim=-1)
        self._states.clear()
        return TargetStates(features, last_hidden)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of last hidden states [..., d]."""
        logits: Tensor = self._lm_head(hidden)
        cap = self._softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def decoder_state(self) -> dict[str, Tensor]:
        """The decoder's weights by the names they have within it: `layers.N.*`, `norm.weight`."""
        weights: dict[str, Tensor] = self._decoder.state_dict()
        return weights

    def drop_decoder(self) -> None:
        """Give back its memory; only `logits` answers from then on."""
        self._decoder = None
