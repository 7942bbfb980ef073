"""Qwen3 and its drafters.

Sources: the hub's config.json at the revisions below (sizes and layers); the `total_size` of
the targets' safetensors indices, which equals two bytes per parameter computed from the
config; DeepSpec's `config/dspark/dspark_qwen3_*.py` (features, block, heads). The drafters'
bytes are computed from their config; of the 4B's the file on the hub was seen to be 6.8 kB
(its header) longer.
"""

from __future__ import annotations

from typing import Any

from deployments.catalog.facts import Checkpoint, ModelFacts

BYTES_PER_PARAMETER = 2  # bfloat16


def _config(layers: int, hidden: int, heads: int, intermediate: int, *, tied: bool) -> Any:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": intermediate,
        "vocab_size": 151_936,
        "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1_000_000,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }


def _drafter_config(target: Any, layer_ids: list[int]) -> Any:
    return {
        **target,
        "architectures": ["Qwen3DSparkModel"],
        "num_hidden_layers": 5,
        "num_target_layers": target["num_hidden_layers"],
        "layer_types": ["full_attention"] * 5,
        "tie_word_embeddings": False,
        "block_size": 7,
        "mask_token_id": 151_669,
        "target_layer_ids": layer_ids,
        "markov_rank": 256,
        "markov_head_type": "vanilla",
        "enable_confidence_head": True,
        "confidence_head_with_markov": True,
    }


def num_parameters(config: Any) -> int:
    """Parameters of a Qwen3 target, or of a DSpark drafter of its shape."""
    hidden, head_dim = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    attention = 2 * hidden * head_dim * (heads + kv_heads) + 2 * head_dim  # and q, k norms
    layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    vocab = config["vocab_size"] * hidden * (1 if config["tie_word_embeddings"] else 2)
    total: int = vocab + config["num_hidden_layers"] * layer + hidden
    if "block_size" not in config:
        return total
    rank = config["markov_rank"]
    features = len(config["target_layer_ids"]) * hidden * hidden + hidden  # fc, hidden_norm
    heads_after = 2 * config["vocab_size"] * rank + (hidden + rank) + 1  # Markov, confidence
    return int(total + features + heads_after)


def _facts(
    size: str, config: Any, layer_ids: list[int], num_bytes: int, revisions: tuple[str, str]
) -> ModelFacts:
    drafter = _drafter_config(config, layer_ids)
    return ModelFacts(
        name=f"qwen3-{size.lower()}",
        target=Checkpoint(f"Qwen/Qwen3-{size}", revisions[0], num_bytes, config),
        drafter=Checkpoint(
            f"deepseek-ai/dspark_qwen3_{size.lower()}_block7",
            revisions[1],
            BYTES_PER_PARAMETER * num_parameters(drafter),
            drafter,
            measured=False,
        ),
    )


QWEN3_4B = _facts(
    "4B",
    _config(36, 2560, 32, 9728, tied=True),
    [1, 9, 17, 25, 33],
    8_044_936_192,
    ("1cfa9a7208912126459214e8b04321603b3df60c", "3457dff1417cb84927f6098a5fcb7cee85c934b7"),
)
QWEN3_8B = _facts(
    "8B",
    _config(36, 4096, 32, 12_288, tied=False),
    [1, 9, 17, 25, 33],
    16_381_470_720,
    ("b968826d9c46dd6066d109eabc6255188de91218", "03326e5043815da1f81b109078b2889737c26017"),
)
QWEN3_14B = _facts(
    "14B",
    _config(40, 5120, 40, 17_408, tied=False),
    [1, 10, 19, 28, 37],
    29_536_614_400,
    ("40c069824f4251a91eefaf281ebe4c544efd3e18", "83207b416acf99f41c2184648923632fccea6dd0"),
)
