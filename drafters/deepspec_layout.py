"""DeepSpec's layout: the target's config with the drafter's own fields beside it.

Qwen3 and Gemma 4 drafters. A Gemma 4 drafter has full-attention layers only, so of the
target's two head shapes it has the global one, and no experts and no per-layer inputs.
"""

from __future__ import annotations

from typing import Any

from drafters.config import MARKOV_HEAD_TYPES, DSparkConfig, Eagle3Config, Family
from drafters.errors import CheckpointError
from drafters.fields import Fields

NUM_EAGLE3_FEATURES = 5


def dspark_config(read: Fields, family: Family) -> DSparkConfig:
    """A DSpark or DFlash drafter. Raises CheckpointError."""
    markov_rank = read.integer("markov_rank", at_least=0)
    config = DSparkConfig(
        **transformer_fields(read, family),
        block_size=read.size("block_size"),
        mask_token_id=read.integer("mask_token_id", at_least=0),
        **markov_fields(read, markov_rank),
    )
    config.check_sizes()
    config.check_mask()
    return config


def eagle3_config(read: Fields, family: Family) -> Eagle3Config:
    """An Eagle3 drafter of `ttt_length` tokens. Raises CheckpointError."""
    config = Eagle3Config(
        **transformer_fields(read, family),
        block_size=read.size("ttt_length"),
    )
    check_single_layer(config.num_hidden_layers, read)
    if len(config.target_layer_ids) != NUM_EAGLE3_FEATURES:
        raise CheckpointError(
            f"{read.source}: target_layer_ids is {list(config.target_layer_ids)}; needed are "
            f"exactly {NUM_EAGLE3_FEATURES} ids"
        )
    config.check_sizes()
    return config


def check_single_layer(num_layers: int, read: Fields) -> None:
    """A second layer's K/V would depend on more than one position's features and token."""
    if num_layers != 1:
        raise read.refusal("num_hidden_layers", "1, a drafter of pairs has a single layer")


def markov_fields(read: Fields, markov_rank: int) -> dict[str, Any]:
    """The fields of a DSpark drafter's two heads."""
    fields: dict[str, Any] = {
        "markov_rank": markov_rank,
        "enable_confidence_head": read.flag("enable_confidence_head"),
        "confidence_head_with_markov": read.flag("confidence_head_with_markov"),
    }
    if markov_rank:
        fields["markov_head_type"] = read.choice("markov_head_type", "vanilla", MARKOV_HEAD_TYPES)
    return fields


def transformer_fields(read: Fields, family: Family) -> dict[str, Any]:
    """The arguments of a `TransformerConfig` that all kinds of drafters share."""
    read.full_attention_only()
    return {
        "source": read.source,
        "family": family,
        "target_layer_ids": read.integers("target_layer_ids"),
        "num_target_layers": read.size("num_target_layers"),
        **(_gemma4_fields(read) if family == "gemma4" else layer_fields(read)),
    }


def layer_fields(read: Fields) -> dict[str, Any]:
    """Sizes of Qwen3's and Llama's decoder layers."""
    read.require("hidden_act", "silu", "silu")
    return {**_common_sizes(read), "head_dim": _head_dim(read), "rope_theta": read.rope_theta()}


def _gemma4_fields(read: Fields) -> dict[str, Any]:
    read.require("hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    read.require("enable_moe_block", False, False)
    read.require("hidden_size_per_layer_input", 0, 0, None)
    read.require("num_kv_shared_layers", 0, 0, None)
    keys_are_values = read.flag("attention_k_eq_v")
    fields = {
        **_common_sizes(read),
        "head_dim": read.size("global_head_dim"),
        "keys_are_values": keys_are_values,
        "logit_softcap": read.optional_positive("final_logit_softcapping"),
    }
    if keys_are_values:
        fields["num_key_value_heads"] = read.size("num_global_key_value_heads")
    return fields | _gemma4_rope(read.nested("rope_parameters").nested("full_attention"))


def _gemma4_rope(rope: Fields) -> dict[str, Any]:
    """ "proportional": the first part of the frequencies turns, the rest stands still."""
    kind = rope.choice("rope_type", "default", ("default", "proportional"))
    rope.require("factor", 1.0, 1.0, None)
    fraction = 1.0
    if kind == "proportional" and rope.raw("partial_rotary_factor") is not None:
        fraction = rope.positive("partial_rotary_factor")
        if fraction > 1:
            raise rope.refusal("partial_rotary_factor", "a number above 0, at most 1")
    return {"rope_theta": rope.positive("rope_theta"), "rotary_fraction": fraction}


def _common_sizes(read: Fields) -> dict[str, Any]:
    return {
        "hidden_size": read.size("hidden_size"),
        "num_hidden_layers": read.size("num_hidden_layers"),
        "num_attention_heads": read.size("num_attention_heads"),
        "num_key_value_heads": read.size("num_key_value_heads"),
        "intermediate_size": read.size("intermediate_size"),
        "vocab_size": read.size("vocab_size"),
        "rms_norm_eps": read.positive("rms_norm_eps"),
        "attention_bias": read.flag("attention_bias"),
    }


def _head_dim(read: Fields) -> int:
    derived = read.size("hidden_size") // read.size("num_attention_heads")
    return read.size("head_dim", default=derived)
