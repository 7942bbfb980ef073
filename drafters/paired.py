"""Drafters of pairs: one layer over a position's features and the token that follows.

Eagle3 and MTP differ in what their layer reads; the way they draft is the same. A committed
pair's K and V depend on that pair alone, so they are context like any other. A draft starts
from the newest pair, whose token is the anchor, and goes on serially: each token joins the
layer's own output of the step before, and attends to the context and to the steps before.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.config import Eagle3Config, MTPConfig, TransformerConfig
from drafters.fused import served_layer
from drafters.gemma4 import decoder_layer
from drafters.interface import Context, ContextLayout, ContextRows, Draft, DraftInputs
from drafters.layers import DecoderLayer, RMSNorm, attend, rotary
from drafters.module import DrafterModule


class LayerInput(NamedTuple):
    """What the layer adds to, and what its attention reads (normed)."""

    residual: Tensor
    normed: Tensor


class PairedModel(DrafterModule):
    """The layer, and what a kind of drafter has to say about its inputs and outputs."""

    def __init__(self, config: TransformerConfig, *, reads_pairs: bool) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([decoder_layer(config, reads_pairs=reads_pairs)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = rotary(config)

    @property
    def layer(self) -> DecoderLayer:
        """The one layer, typed."""
        (layer,) = self.layers
        assert isinstance(layer, DecoderLayer)
        return layer

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Hidden states [..., d] of feature rows [..., F]."""

    @abstractmethod
    def pair(self, embeds: Tensor, hidden: Tensor) -> LayerInput:
        """Join token embeddings with the hidden states before them, both [..., d]."""

    def fed_back(self, output: Tensor, normed: Tensor) -> Tensor:
        """What the next step takes for a hidden state, from the layer's output."""
        return normed

    def serving(self) -> ServedPaired:
        return ServedPaired(self)


class Eagle3Model(PairedModel):
    """Attention reads embedding and hidden state side by side; the hidden stream goes on."""

    config: Eagle3Config

    def __init__(self, config: Eagle3Config) -> None:
        d, eps = config.hidden_size, config.rms_norm_eps
        super().__init__(config, reads_pairs=True)
        self.fc = nn.Linear(config.feature_size, d, bias=False)
        self.input_norm = RMSNorm(config.feature_size, eps) if config.norm_features else None
        each = range(len(config.target_layer_ids) if config.norm_each_feature else 0)
        self.fc_norm = nn.ModuleList(RMSNorm(d, eps) for _ in each) if each else None

    def project(self, features: Tensor) -> Tensor:
        if self.input_norm is not None:
            features = self.input_norm(features)
        if self.fc_norm is not None:
            parts = features.chunk(len(self.fc_norm), dim=-1)
            normed = [norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)]
            features = torch.cat(normed, dim=-1)
        hidden: Tensor = self.fc(features)
        return hidden

    def pair(self, embeds: Tensor, hidden: Tensor) -> LayerInput:
        layer = self.layer
        assert layer.hidden_norm is not None
        normed = layer.hidden_norm(hidden)
        residual = normed if self.config.norm_before_residual else hidden
        return LayerInput(residual, torch.cat((layer.input_layernorm(embeds), normed), dim=-1))

    def fed_back(self, output: Tensor, normed: Tensor) -> Tensor:
        return normed if self.config.feed_back_normed else output


class MTPModel(PairedModel):
    """DeepSeek-V3's next-token module (arXiv 2412.19437, section 2.2).

    Embedding and hidden state, each normed, are projected to one input of a usual decoder
    layer. Its normed output gives the logits and is fed back.
    """

    config: MTPConfig

    def __init__(self, config: MTPConfig) -> None:
        d, eps = config.hidden_size, config.rms_norm_eps
        super().__init__(config, reads_pairs=False)
        self.enorm, self.hnorm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.eh_proj = nn.Linear(2 * d, d, bias=False)

    def project(self, features: Tensor) -> Tensor:
        return features

    def pair(self, embeds: Tensor, hidden: Tensor) -> LayerInput:
        joined = self.eh_proj(torch.cat((self.enorm(embeds), self.hnorm(hidden)), dim=-1))
        return LayerInput(joined, self.layer.input_layernorm(joined))


class ServedPaired:
    """A `PairedModel` for the engine."""

    def __init__(self, model: PairedModel) -> None:
        self._model = model
        self._layer = served_layer(model.layer)

    @property
    def layout(self) -> ContextLayout:
        """K and V depend on the token after the features, hence the lag."""
        return self._model.context_layout(lag=1)

    def context(self, rows: ContextRows) -> Context:
        """K and V depend on a row's features and the token after it alone."""
        model = self._model
        assert rows.next_tokens is not None
        hidden = model.project(rows.features)
        inputs = model.pair(model.embed(rows.next_tokens), hidden)
        table = model.rotary.table(rows.positions)
        keys, values = model.layer.self_attn.keys_values(inputs.normed, table)
        return Context(keys.unsqueeze(0), values.unsqueeze(0), hidden)

    def draft(self, inputs: DraftInputs, *, with_logits: bool = False) -> Draft:
        """`block_size` serial steps; their own K and V are dropped with the draft."""
        model, layer = self._model, self._layer
        gamma, length = model.config.block_size, inputs.context_k.shape[2]
        keys, values = _with_room(inputs.context_k, gamma), _with_room(inputs.context_v, gamma)
        mask = _additive(F.pad(inputs.context_mask, (0, gamma), value=True), keys.dtype)
        # The newest pair keeps the position of its features, one before the anchor's.
        steps = torch.arange(gamma, device=inputs.starts.device) - 1
        cos, sin = model.rotary.table(inputs.starts.unsqueeze(1) + steps)
        writer = model.block_writer(inputs, with_logits=with_logits)
        hidden, token = _newest(inputs, model), inputs.anchors  # [R, 1, d], [R]
        outputs = []
        for k in range(gamma):
            joined = model.pair(model.embed(token.unsqueeze(1)), hidden)
            table = (cos[:, k : k + 1], sin[:, k : k + 1])
            queries, own_k, own_v = layer.project(joined.normed, table)
            end = length + k + 1
            keys[:, end - 1 : end], values[:, end - 1 : end] = own_k, own_v
            attended = attend(queries, keys[:, :end], values[:, :end], mask[..., :end], layer.scale)
            output = layer.finish(joined.residual, attended)
            normed = model.norm(output)
            token = writer.choose(model.logits(normed).squeeze(1))
            hidden = model.fed_back(output, normed)
            outputs.append(normed)
        return writer.finish(torch.cat(outputs, dim=1))


def _newest(inputs: DraftInputs, model: PairedModel) -> Tensor:
    """The hidden states that the drafts start from, [R, 1, d]."""
    if inputs.hidden is None:
        shape = (len(inputs.anchors), 1, model.config.hidden_size)
        return torch.zeros(shape, dtype=model.dtype, device=model.device)
    return inputs.hidden.unsqueeze(1)


def _with_room(context: Tensor, num_more: int) -> Tensor:
    """The only layer's context [1, R, C, ...] as [R, C + num_more, ...], to be filled up."""
    _, rows, length, *rest = context.shape
    room = context.new_empty(rows, length + num_more, *rest)
    room[:, :length] = context[0]
    return room


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool [R, C] as what is added to attention scores, [R, 1, 1, C]."""
    scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return scores.masked_fill_(~mask, float("-inf"))[:, None, None, :]
