"""Gemma 4 drafters against a forward put together from transformers' own Gemma 4 parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from drafter_fixtures import engine_of, small_drafter, step_of, text, wide_features
from torch import Tensor

KEY_VALUE_KINDS = [
    {"attention_k_eq_v": True},
    {"attention_k_eq_v": False, "num_key_value_heads": 2},
]


@pytest.mark.parametrize("changes", KEY_VALUE_KINDS)
def test_dspark_drafts_as_gemma4s_parts_would(changes: dict[str, Any]) -> None:
    model, length, slots = small_drafter("gemma4", **changes), 9, 5
    draft = engine_of(model).trace(step_of(model, 0, length))
    anchor = text(0)[length]
    block = torch.full((slots,), model.config.mask_token_id)
    block[0] = anchor
    parts = Parts(model)
    hidden = parts.embed(block)
    context = parts.norm(model.hidden_norm.weight)(model.fc(wide_features(0, length, 64)))
    at = torch.arange(length + slots)
    for i in range(2):
        layer = parts.layer(i)
        hidden = layer(hidden, parts.norm(layer.input_norm)(hidden), context, at)
    hidden = parts.norm(model.norm.weight)(hidden)
    torch.testing.assert_close(draft.hidden[0], hidden, atol=1e-4, rtol=1e-4)
    logits = 30.0 * torch.tanh(model.lm_head(hidden) / 30.0)
    previous = torch.cat((anchor.view(1), draft.tokens[0, :-1]))
    logits = logits + model.markov_head.markov_w2(model.markov_head.markov_w1(previous))
    torch.testing.assert_close(draft.logits[0], logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", KEY_VALUE_KINDS)
def test_eagle3_drafts_as_gemma4s_parts_would(changes: dict[str, Any]) -> None:
    model, length = small_drafter("gemma4_eagle3", **changes), 9
    draft = engine_of(model).trace(step_of(model, 0, length))
    parts = Parts(model)
    layer = parts.layer(0)
    stored = model.layers[0]
    tokens = text(0, length + 1)[1:]
    hidden = model.fc(wide_features(0, length, 160))
    drafted = []
    for _ in range(model.config.block_size):
        pairs = torch.cat(
            (
                parts.norm(stored.input_layernorm.weight)(parts.embed(tokens)),
                parts.norm(stored.hidden_norm.weight)(hidden),
            ),
            dim=-1,
        )
        out = layer(hidden[-1:], pairs[-1:], pairs[:-1], torch.arange(len(pairs)))
        normed = parts.norm(model.norm.weight)(out)[0]
        logits = 30.0 * torch.tanh(model.lm_head(normed) / 30.0)
        drafted.append(logits)
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)))
        hidden = torch.cat((hidden, out))
    torch.testing.assert_close(draft.logits[0], torch.stack(drafted), atol=1e-4, rtol=1e-4)


class Parts:
    """transformers' modules of a drafter's sizes."""

    def __init__(self, model: Any) -> None:
        from transformers.models.gemma4 import modeling_gemma4 as gemma4
        from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig

        self.gemma4, self.model = gemma4, model
        config = model.config
        self.config = Gemma4TextConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=2,
            head_dim=4,
            global_head_dim=config.head_dim,
            num_global_key_value_heads=1,
            attention_k_eq_v=config.keys_are_values,
            layer_types=["full_attention"] * config.num_hidden_layers,
            rope_parameters={
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.5,
                    "rope_theta": 10000.0,
                }
            },
            hidden_size_per_layer_input=0,
            vocab_size=config.vocab_size,
        )
        self.rotary = gemma4.Gemma4TextRotaryEmbedding(self.config)

    def norm(self, weight: Tensor | None) -> Any:
        size = self.model.config.head_dim if weight is None else len(weight)
        norm = self.gemma4.Gemma4RMSNorm(size, eps=1e-6, with_scale=weight is not None)
        if weight is not None:
            norm.weight.data = weight
        return norm

    def embed(self, tokens: Tensor) -> Tensor:
        weight = self.model.embed_tokens.weight
        embedding = self.gemma4.Gemma4TextScaledWordEmbedding(
            *weight.shape, padding_idx=None, embed_scale=weight.shape[1] ** 0.5
        )
        embedding.weight.data = weight
        return embedding(tokens)

    def layer(self, i: int) -> Layer:
        return Layer(self, self.model.layers[i], i)


class Layer:
    """DeepSpec's decoder layer: attention of new positions to a context and to themselves."""

    def __init__(self, parts: Parts, stored: Any, i: int) -> None:
        self.parts, self.stored = parts, stored
        self.input_norm = stored.input_layernorm.weight
        self.mlp = parts.gemma4.Gemma4TextMLP(parts.config, i)
        self.mlp.load_state_dict(stored.mlp.state_dict())

    def __call__(self, residual: Tensor, new: Tensor, context: Tensor, at: Tensor) -> Tensor:
        parts, stored = self.parts, self.stored
        attention = stored.self_attn
        norm, rotate = parts.norm, parts.gemma4.apply_rotary_pos_emb
        dim = parts.model.config.head_dim
        everything = torch.cat((context, new))
        cos, sin = parts.rotary(new, at[None], "full_attention")
        q = attention.q_proj(new).view(1, len(new), -1, dim).transpose(1, 2)
        raw_k = attention.k_proj(everything).view(1, len(everything), -1, dim).transpose(1, 2)
        raw_v = raw_k
        if attention.v_proj is not None:
            raw_v = attention.v_proj(everything).view(raw_k.transpose(1, 2).shape).transpose(1, 2)
        recent = slice(-len(new), None)
        q = rotate(norm(attention.q_norm.weight)(q), cos[:, recent], sin[:, recent])
        k = rotate(norm(attention.k_norm.weight)(raw_k), cos, sin)
        v = norm(None)(raw_v)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        attended = attention.o_proj(attended.transpose(1, 2).reshape(len(new), -1))
        x = residual + norm(stored.post_attention_layernorm.weight)(attended)
        fed = self.mlp(norm(stored.pre_feedforward_layernorm.weight)(x))
        x = x + norm(stored.post_feedforward_layernorm.weight)(fed)
        return x * stored.layer_scalar
