"""The DSpark drafter: a block backbone, a serial Markov head, a confidence head.

Follows the DSpark paper; parameter names are those of DeepSpec's checkpoints. Without the
heads it is DFlash.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.config import DSparkConfig
from drafters.fused import FusedForward
from drafters.gemma4 import decoder_layers
from drafters.interface import Context, ContextLayout, ContextRows, Draft, DraftInputs
from drafters.layers import DecoderLayer, RMSNorm, rotary
from drafters.markov import markov_head
from drafters.module import DrafterModule


class ConfidenceHead(nn.Module):
    """Logit of P(token accepted | tokens before it accepted)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, 1)


class DSparkModel(DrafterModule):
    """Drafts blocks of gamma tokens from a context of target features.

    d is the hidden size, V the draft vocabulary, F the feature size, L the drafter's
    layers, S the slots of a block: gamma, or one more where the anchor is the bonus token.
    Training and parity checks run this forward; serving runs `drafters.fused.FusedForward`
    up to the hidden states, and `draft_from` behind them.
    """

    config: DSparkConfig

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__(config)
        d = config.hidden_size
        self.fc = nn.Linear(config.feature_size, d, bias=False)
        self.hidden_norm = RMSNorm(d, config.rms_norm_eps)
        self.layers = decoder_layers(config)
        self.norm = RMSNorm(d, config.rms_norm_eps)
        self.markov_head = markov_head(config)
        self.confidence_head = (
            ConfidenceHead(config.confidence_size) if config.enable_confidence_head else None
        )
        self.rotary = rotary(config)

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    @property
    def has_confidence_head(self) -> bool:
        return self.confidence_head is not None

    def serving(self) -> ServedDSpark:
        return ServedDSpark(self)

    def context_kv(self, features: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Context K (normed, rotated) and V, each [L, N, kv_heads, head_dim].

        `features` is [N, F], `positions` int64 [N]. A position's K and V depend on its own
        features alone.
        """
        context = self.hidden_norm(self.fc(features))
        table = self.rotary.table(positions)
        pairs = [layer.self_attn.keys_values(context, table) for layer in self.decoder_layers]
        return torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])

    def backbone(
        self,
        anchors: Tensor,
        starts: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        context_mask: Tensor,
    ) -> Tensor:
        """Hidden states of all blocks in one padded forward, [R, S, d], normed.

        `anchors` and `starts` (the anchors' positions) are int64 [R]; `context_k` and
        `context_v` are [L, R, C, kv_heads, head_dim] with `context_mask` bool [R, C]. C may
        be 0, and a row's mask may be entirely False: the block then attends to itself only.
        """
        hidden, table, mask = self.block_inputs(anchors, starts, context_mask)
        for layer, keys, values in zip(self.layers, context_k, context_v, strict=True):
            hidden = layer(hidden, table, keys, values, mask)
        normed: Tensor = self.norm(hidden)
        return normed

    def block_inputs(
        self, anchors: Tensor, starts: Tensor, context_mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """What the first layer gets: embeddings [R, S, d], rotary table, attention mask."""
        rows, slots = anchors.shape[0], self.config.num_slots
        blocks = anchors.new_full((rows, slots), self.config.mask_token_id)
        blocks[:, 0] = anchors
        offsets = torch.arange(slots, device=anchors.device)
        table = self.rotary.table(starts.unsqueeze(1) + offsets)
        mask = F.pad(context_mask, (0, slots), value=True)[:, None, None, :]
        return self.embed(blocks), table, mask

    def heads(self, hidden: Tensor, previous: Tensor) -> tuple[Tensor, Tensor | None]:
        """Corrected logits [..., S, V] and confidence logits [..., S], the tokens known.

        `hidden` is [..., S, d], `previous` int64 [..., S] the token before the one that each
        slot predicts. Drafting knows them one by one, training all at once.
        """
        logits = self.logits(hidden)
        if self.markov_head is None:
            return logits, self._confidence_logits(hidden, None)
        embeds = self.markov_head.markov_w1(previous)
        bias = self.markov_head.markov_w2(self.markov_head.codes(hidden, embeds))
        return logits + bias, self._confidence_logits(hidden, embeds)

    def draft(self, inputs: DraftInputs, *, with_logits: bool = False) -> Draft:
        """Drafts for R blocks."""
        hidden = self.backbone(
            inputs.anchors,
            inputs.starts,
            inputs.context_k,
            inputs.context_v,
            inputs.context_mask,
        )
        return self.draft_from(hidden, inputs, with_logits=with_logits)

    def draft_from(
        self, hidden: Tensor, inputs: DraftInputs, *, with_logits: bool = False
    ) -> Draft:
        """Drafts from the backbone's `hidden` [R, S, d]."""
        first = self.config.num_slots - self.config.block_size
        predicting = hidden[:, first:]  # [R, gamma, d]
        base_logits = self.logits(predicting)  # [R, gamma, V]
        writer = self.block_writer(inputs, with_logits=with_logits)
        if self.markov_head is None:
            writer.choose_all(base_logits)
            return writer.finish(predicting, self._confidence_logits(predicting, None))
        w1, w2 = self.markov_head.markov_w1.weight, self.markov_head.markov_w2.weight.t()
        code = self.markov_head.serial(hidden)
        embed = F.embedding(inputs.anchors, w1)
        for slot in range(first):  # the anchor's own slot predicts nothing, but moves a state
            code(slot, embed)
        embeds = []
        for slot, base in enumerate(base_logits.unbind(1), first):
            embeds.append(embed)
            token = writer.choose(torch.addmm(base, code(slot, embed), w2))
            embed = F.embedding(token, w1)
        return writer.finish(
            predicting, self._confidence_logits(predicting, torch.stack(embeds, dim=1))
        )

    def _confidence_logits(self, hidden: Tensor, previous_embeds: Tensor | None) -> Tensor | None:
        """Float32 [..., S], or None without a confidence head."""
        if self.confidence_head is None:
            return None
        if self.config.confidence_head_with_markov and previous_embeds is not None:
            hidden = torch.cat((hidden, previous_embeds), dim=-1)
        logits: Tensor = self.confidence_head.proj(hidden)
        return logits.squeeze(-1).float()


class _Forward(Protocol):
    def context_kv(self, features: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]: ...

    def backbone(
        self,
        anchors: Tensor,
        starts: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        context_mask: Tensor,
    ) -> Tensor: ...


class ServedDSpark:
    """A `DSparkModel` for the engine: fused up to the hidden states where that exists."""

    def __init__(self, model: DSparkModel) -> None:
        self._model = model
        is_fusable = model.config.family == "qwen3"
        self._forward: _Forward = FusedForward(model) if is_fusable else model

    @property
    def layout(self) -> ContextLayout:
        """K and V of all layers, at their features' positions."""
        return self._model.context_layout(lag=0)

    def context(self, rows: ContextRows) -> Context:
        """A position's K and V depend on its features alone."""
        return Context(*self._forward.context_kv(rows.features, rows.positions))

    def draft(self, inputs: DraftInputs, *, with_logits: bool = False) -> Draft:
        """One pass over the blocks, then the heads."""
        hidden = self._forward.backbone(
            inputs.anchors,
            inputs.starts,
            inputs.context_k,
            inputs.context_v,
            inputs.context_mask,
        )
        return self._model.draft_from(hidden, inputs, with_logits=with_logits)
