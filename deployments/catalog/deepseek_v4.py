"""DeepSeek-V4 with the DSpark drafter that its checkpoints carry (`mtp.*`, three stages).

Sources: the hub's config.json at the revisions below; the `total_size` of their safetensors
indices. Flash's index was confirmed for this revision; Pro's is that of DeepSeek-V4-Pro-0813,
which has the same number of parameters and the same structure.
"""

from __future__ import annotations

from typing import Any

from deployments.catalog.facts import Checkpoint, ModelFacts

_DRAFT_STAGES = [0, 0, 0]  # compression ratios: sliding windows alone
_COMMON: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "num_nextn_predict_layers": 1,
    "sliding_window": 128,
    "vocab_size": 129_280,
    "max_position_embeddings": 1_048_576,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10_000,
    "compress_rope_theta": 160_000,
    "hidden_act": "silu",
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-06,
    "swiglu_limit": 10.0,
    "norm_topk_prob": True,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "expert_dtype": "fp4",
    "quantization_config": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    },
    "dspark_block_size": 5,
    "dspark_noise_token_id": 128_799,
}

DEEPSEEK_V4_FLASH = ModelFacts(
    name="deepseek-v4-flash",
    target=Checkpoint(
        "deepseek-ai/DeepSeek-V4-Flash-DSpark",
        "62af8fffb2f7030cac4de2f0169f5b8d1101b646",
        166_878_536_440,
        {
            **_COMMON,
            "hidden_size": 4096,
            "num_hidden_layers": 43,
            "num_attention_heads": 64,
            "q_lora_rank": 1024,
            "o_groups": 8,
            "index_topk": 512,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
            "routed_scaling_factor": 1.5,
            "compress_ratios": [0, 0] + [4, 128] * 20 + [4] + _DRAFT_STAGES,
            "dspark_markov_rank": 256,
            "dspark_target_layer_ids": [40, 41, 42],
        },
    ),
    drafter=None,
)
DEEPSEEK_V4_PRO = ModelFacts(
    name="deepseek-v4-pro",
    target=Checkpoint(
        "deepseek-ai/DeepSeek-V4-Pro-DSpark",
        "7c09739fd136abfb70a49ec334157f65f45b52cd",
        892_727_580_904,
        {
            **_COMMON,
            "hidden_size": 7168,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "q_lora_rank": 1536,
            "o_groups": 16,
            "index_topk": 1024,
            "moe_intermediate_size": 3072,
            "n_routed_experts": 384,
            "routed_scaling_factor": 2.5,
            "compress_ratios": [128, 128] + [4, 128] * 29 + [4] + _DRAFT_STAGES,
            "dspark_markov_rank": 512,
            "dspark_target_layer_ids": [58, 59, 60],
        },
        measured=False,
    ),
    drafter=None,
)
