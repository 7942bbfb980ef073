"""The DSpark drafter: a block backbone, a serial Markov head, a confidence head.

Follows the DSpark paper; parameter names are those of DeepSpec's checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.config import DrafterConfig
from drafters.layers import DecoderLayer, RMSNorm, Rotary
from drafters.messages import SparseDistribution
from drafters.sampling import DraftSampler


@dataclass(frozen=True, slots=True)
class Draft:
    """Drafts of R blocks and, when asked for, the logits behind them.

    `tokens` int64 and `confidences` float32 are [R, gamma], `hidden` is [R, gamma, d].
    `logits` [R, gamma, V] are the base logits plus the Markov bias; `confidence_logits`
    are float32 [R, gamma], None without a confidence head. `distribution` [R, gamma, k] is
    what sampled tokens were drawn from, None when all were the likeliest ones.
    """

    tokens: Tensor
    confidences: Tensor
    hidden: Tensor
    logits: Tensor | None = None
    confidence_logits: Tensor | None = None
    distribution: SparseDistribution | None = None


class _Walk(NamedTuple):
    """Tokens [R, gamma], W1 of the tokens before them [R, gamma, rank], and what was asked for."""

    tokens: Tensor
    previous_embeds: Tensor | None
    logits: Tensor | None
    distribution: SparseDistribution | None


class MarkovHead(nn.Module):
    """Low-rank bias of the next token by the token before it: W2 W1[x]."""

    def __init__(self, vocab_size: int, rank: int) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, vocab_size, bias=False)


class ConfidenceHead(nn.Module):
    """Logit of P(token accepted | tokens before it accepted)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, 1)


class DSparkModel(nn.Module):
    """Drafts blocks of gamma tokens from a context of target features.

    d is the hidden size, V the vocabulary, F the feature size, L the drafter's layers.
    Training and parity checks run this forward; serving runs `drafters.fused.FusedForward`
    up to the hidden states, and `draft_from` behind them.
    """

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        d, vocab = config.hidden_size, config.vocab_size
        self.embed_tokens = nn.Embedding(vocab, d)
        self.lm_head = nn.Linear(d, vocab, bias=False)
        self.fc = nn.Linear(config.feature_size, d, bias=False)
        self.hidden_norm = RMSNorm(d, config.rms_norm_eps)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(d, config.rms_norm_eps)
        self.markov_head = MarkovHead(vocab, config.markov_rank) if config.markov_rank else None
        self.confidence_head = (
            ConfidenceHead(config.confidence_size) if config.enable_confidence_head else None
        )
        self.rotary = Rotary(config.head_dim, config.rope_theta)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, the features taken in and the context."""
        return self.fc.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.fc.weight.device

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

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
        """Hidden states of all blocks in one padded forward, [R, gamma, d], normed.

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
        """What the first layer gets: embeddings [R, gamma, d], rotary table, attention mask."""
        rows, gamma = anchors.shape[0], self.config.block_size
        blocks = anchors.new_full((rows, gamma), self.config.mask_token_id)
        blocks[:, 0] = anchors
        offsets = torch.arange(gamma, device=anchors.device)
        table = self.rotary.table(starts.unsqueeze(1) + offsets)
        mask = F.pad(context_mask, (0, gamma), value=True)[:, None, None, :]
        return self.embed_tokens(blocks), table, mask

    def heads(self, hidden: Tensor, previous: Tensor) -> tuple[Tensor, Tensor | None]:
        """Corrected logits [..., V] and confidence logits [...] where the tokens are known.

        `hidden` is [..., d], `previous` int64 [...] the token before each position's own.
        Drafting knows them one by one, training all at once.
        """
        logits = self.lm_head(hidden)
        if self.markov_head is None:
            return logits, self._confidence_logits(hidden, None)
        embeds = self.markov_head.markov_w1(previous)
        bias = self.markov_head.markov_w2(embeds)
        return logits + bias, self._confidence_logits(hidden, embeds)

    def draft(
        self,
        anchors: Tensor,
        starts: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        context_mask: Tensor,
        *,
        temperatures: Tensor | None = None,
        sampler: DraftSampler | None = None,
        with_logits: bool = False,
    ) -> Draft:
        """Drafts for R blocks; arguments as in `backbone`.

        With a `sampler` they are drawn at `temperatures` float32 [R], otherwise greedy.
        """
        hidden = self.backbone(anchors, starts, context_k, context_v, context_mask)
        return self.draft_from(
            hidden, anchors, temperatures=temperatures, sampler=sampler, with_logits=with_logits
        )

    def draft_from(
        self,
        hidden: Tensor,
        anchors: Tensor,
        *,
        temperatures: Tensor | None = None,
        sampler: DraftSampler | None = None,
        with_logits: bool = False,
    ) -> Draft:
        """Drafts from the backbone's `hidden` [R, gamma, d]; see `draft`."""
        base_logits = self.lm_head(hidden)  # [R, gamma, V]
        walk = self._walk(anchors, base_logits, temperatures, sampler, with_logits)
        tokens = walk.tokens
        confidence_logits = self._confidence_logits(hidden, walk.previous_embeds)
        if confidence_logits is None:
            confidences = torch.ones(tokens.shape, dtype=torch.float32, device=tokens.device)
        else:
            confidences = confidence_logits.sigmoid()
        return Draft(tokens, confidences, hidden, walk.logits, confidence_logits, walk.distribution)

    def _walk(
        self,
        anchors: Tensor,
        base_logits: Tensor,
        temperatures: Tensor | None,
        sampler: DraftSampler | None,
        with_logits: bool,
    ) -> _Walk:
        """Choose tokens left to right, each biased by the one before."""
        if self.markov_head is None and sampler is None:
            tokens = base_logits.argmax(-1)
            return _Walk(tokens, None, base_logits if with_logits else None, None)
        chosen, embeds, corrected, drawn = [], [], [], []
        previous = anchors
        for base in base_logits.unbind(1):
            logits = base
            if self.markov_head is not None:
                embed = F.embedding(previous, self.markov_head.markov_w1.weight)
                logits = torch.addmm(base, embed, self.markov_head.markov_w2.weight.t())  # [R, V]
                embeds.append(embed)
            if sampler is None or temperatures is None:
                previous = logits.max(-1).indices  # in bfloat16 twice as fast as argmax on CPU
            else:
                previous, distribution = sampler.choose(logits, temperatures)
                drawn.append(distribution)
            chosen.append(previous)
            if with_logits:
                corrected.append(logits)
        return _Walk(
            torch.stack(chosen, dim=1),
            torch.stack(embeds, dim=1) if embeds else None,
            torch.stack(corrected, dim=1) if with_logits else None,
            _stacked(drawn),
        )

    def _confidence_logits(self, hidden: Tensor, previous_embeds: Tensor | None) -> Tensor | None:
        """Float32 [R, gamma], or None without a confidence head."""
        if self.confidence_head is None:
            return None
        if self.config.confidence_head_with_markov and previous_embeds is not None:
            hidden = torch.cat((hidden, previous_embeds), dim=-1)
        logits: Tensor = self.confidence_head.proj(hidden)
        return logits.squeeze(-1).float()


def _stacked(drawn: list[SparseDistribution]) -> SparseDistribution | None:
    """Per-position distributions [R, k] as one [R, gamma, k]."""
    if not drawn:
        return None
    return SparseDistribution(
        torch.stack([d.token_ids for d in drawn], dim=1),
        torch.stack([d.probs for d in drawn], dim=1),
    )
