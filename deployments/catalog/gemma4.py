"""Gemma 4 12B and its drafter.

Sources: the hub's config.json at the revisions below (shapes); DeepSpec's
`config/dspark/dspark_gemma4_12b.py` and `modeling/dspark/gemma4/config.py` (the drafter is
five full-attention layers of the target's shape). Bytes are computed from the configs. The
target's are its text tower's; the vision and audio parts come on top and were not confirmed
(a published projector file has 0.18 GB).
"""

from __future__ import annotations

from typing import Any

from deployments.catalog.facts import Checkpoint, ModelFacts

BYTES_PER_PARAMETER = 2  # bfloat16
_LAYER_TYPES = (["sliding_attention"] * 5 + ["full_attention"]) * 8
_TEXT: dict[str, Any] = {
    "model_type": "gemma4_unified_text",
    "hidden_size": 3840,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 1,
    "head_dim": 256,
    "global_head_dim": 512,
    "attention_k_eq_v": True,
    "intermediate_size": 15_360,
    "vocab_size": 262_144,
    "sliding_window": 1024,
    "max_position_embeddings": 262_144,
    "rms_norm_eps": 1e-06,
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": _LAYER_TYPES,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
    },
    "tie_word_embeddings": True,
}
_DRAFTER: dict[str, Any] = {
    **_TEXT,
    "architectures": ["Gemma4DSparkModel"],
    "model_type": "gemma4_text",
    "num_hidden_layers": 5,
    "num_target_layers": 48,
    "layer_types": ["full_attention"] * 5,
    "tie_word_embeddings": False,
    "block_size": 7,
    "mask_token_id": 4,
    "target_layer_ids": [5, 17, 29, 41, 46],
    "markov_rank": 256,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
}


def num_parameters(config: dict[str, Any]) -> int:
    """Parameters of the text tower, or of a DSpark drafter of its shape."""
    hidden = config["hidden_size"]
    layers = sum(_layer_parameters(config, kind) for kind in config["layer_types"])
    vocab = config["vocab_size"] * hidden * (1 if config["tie_word_embeddings"] else 2)
    total: int = vocab + layers + hidden
    if "block_size" not in config:
        return total
    rank = config["markov_rank"]
    features = len(config["target_layer_ids"]) * hidden * hidden + hidden
    heads_after = 2 * config["vocab_size"] * rank + (hidden + rank) + 1  # Markov, confidence
    return int(total + features + heads_after)


def _layer_parameters(config: dict[str, Any], kind: str) -> int:
    full = kind == "full_attention"
    hidden = config["hidden_size"]
    head_dim = config["global_head_dim" if full else "head_dim"]
    kv_heads = config["num_global_key_value_heads" if full else "num_key_value_heads"]
    projections = 2 * config["num_attention_heads"] + kv_heads * (1 if full else 2)  # k is v
    norms = 4 * hidden + 2 * head_dim + 1
    weights = hidden * head_dim * projections + 3 * hidden * config["intermediate_size"]
    return int(weights + norms)


GEMMA4_12B = ModelFacts(
    name="gemma4-12b",
    target=Checkpoint(
        "google/gemma-4-12B-it",
        "707f0a3b8a3c7ad586ed01e27eafbad8a27dd0f7",
        BYTES_PER_PARAMETER * num_parameters(_TEXT),
        {
            "architectures": ["Gemma4UnifiedForConditionalGeneration"],
            "model_type": "gemma4_unified",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "text_config": _TEXT,
        },
        measured=False,
    ),
    drafter=Checkpoint(
        "deepseek-ai/dspark_gemma4_12b_block7",
        "2fa72e765eec2965fc4d86a8663ce6769eba6218",
        BYTES_PER_PARAMETER * num_parameters(_DRAFTER),
        _DRAFTER,
        measured=False,
    ),
)
