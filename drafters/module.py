"""What all drafters with weights share: vocabulary, embedding, LM head, confidences."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from drafters.block import BlockWriter
from drafters.confidence import TopProbConfidence
from drafters.config import TransformerConfig
from drafters.interface import ContextLayout, DraftInputs, ServedModel
from drafters.layers import RMSNorm


class DrafterModule(nn.Module, ABC):
    """A drafter's weights under the names they have in its checkpoint.

    `embed_tokens` and `lm_head` are the target's (in training its very tensors, of its dtype)
    or copies; `d2t` exists where the draft vocabulary is reduced: draft token i is the
    target's token i + d2t[i].
    """

    config: TransformerConfig
    norm: RMSNorm
    d2t: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.confidence = TopProbConfidence.identity(config.block_size)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.num_logits, bias=False)
        is_reduced = config.draft_vocab_size is not None
        d2t = torch.zeros(config.num_logits, dtype=torch.int64) if is_reduced else None
        self.register_buffer("d2t", d2t)
        self._target_ids: Tensor | None = None

    @abstractmethod
    def serving(self) -> ServedModel:
        """The form that the engine drives."""

    @property
    def has_confidence_head(self) -> bool:
        """Whether confidences come from a trained head rather than from `confidence`."""
        return False

    @property
    def dtype(self) -> torch.dtype:
        """Of its own weights, the features taken in and the context."""
        assert self.norm.weight is not None
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embed_tokens.weight.device

    @property
    def target_ids(self) -> Tensor | None:
        """The target's token int64 [V] for every draft token; None where they are the same."""
        if self.d2t is not None and self._target_ids is None:
            self._target_ids = torch.arange(len(self.d2t), device=self.d2t.device) + self.d2t
        return self._target_ids

    def context_layout(self, lag: int) -> ContextLayout:
        """K and V of all layers; for `lag` see there."""
        config = self.config
        return ContextLayout(
            num_layers=config.num_hidden_layers,
            num_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            dtype=self.dtype,
            lag=lag,
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [..., d] of the target's tokens int64 [...]."""
        embeds: Tensor = self.embed_tokens(tokens).to(self.dtype)
        scale = self.config.embedding_scale
        return embeds if scale == 1.0 else embeds * torch.tensor(scale, dtype=embeds.dtype)

    def logits(self, normed: Tensor) -> Tensor:
        """Logits [..., V] of normed hidden states [..., d]."""
        logits: Tensor = self.lm_head(normed)
        cap = self.config.logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def block_writer(self, inputs: DraftInputs, *, with_logits: bool) -> BlockWriter:
        """The writer for a draft of this drafter."""
        return BlockWriter(
            inputs,
            target_ids=self.target_ids,
            confidence=None if self.has_confidence_head else self.confidence,
            with_logits=with_logits,
        )
