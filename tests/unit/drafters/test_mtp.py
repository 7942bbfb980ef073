"""MTP against transformers' own decoder layer, run over the whole text at every step."""

from __future__ import annotations

import torch
from drafter_fixtures import engine_of, small_drafter, step_of, text, wide_features
from torch import Tensor


def test_mtp_drafts_as_a_causal_qwen3_layer_would() -> None:
    model, length = small_drafter("mtp"), 11
    draft = engine_of(model).trace(step_of(model, 0, length))
    hidden, tokens = wide_features(0, length, 32), text(0, length + 1)
    drafted = []
    inputs = joined(model, tokens[1:], hidden)
    for _ in range(model.config.block_size):
        normed = model.norm(qwen3_layer(model, inputs)[-1])
        logits = model.lm_head(normed)
        drafted.append(logits)
        inputs = torch.cat((inputs, joined(model, logits.argmax(-1, keepdim=True), normed[None])))
    torch.testing.assert_close(draft.logits[0], torch.stack(drafted), atol=1e-4, rtol=1e-4)


def joined(model, tokens: Tensor, hidden: Tensor) -> Tensor:
    """DeepSeek-V3's equation 21, the embedding first as in its released weights."""
    embeds = model.embed_tokens(tokens)
    pair = torch.cat((rms(embeds) * model.enorm.weight, rms(hidden) * model.hnorm.weight), dim=-1)
    return pair @ model.eh_proj.weight.T


def rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def qwen3_layer(model, inputs: Tensor) -> Tensor:
    """A decoder layer over positions 0 .. T - 1, causal."""
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding

    config = Qwen3Config(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        num_hidden_layers=1,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
    )
    layer = Qwen3DecoderLayer(config, 0)
    layer.load_state_dict(model.layers[0].state_dict())
    length = len(inputs)
    positions = torch.arange(length)[None]
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    rotary = Qwen3RotaryEmbedding(config)(inputs[None], positions)
    out = layer(inputs[None], attention_mask=mask, position_embeddings=rotary)
    return (out[0] if isinstance(out, tuple) else out)[0]
