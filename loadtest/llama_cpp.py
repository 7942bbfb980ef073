"""llama.cpp as a peer: a Qwen3 checkpoint as GGUF, served by llama.cpp's Python package.

Its server answers one request at a time. Needs the `peers` extra.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def export_gguf(checkpoint: Path, path: Path) -> None:
    """Write a Qwen3 checkpoint, weights in float32, with its tokenizer and chat template.

    Raises ValueError for another architecture, or a tensor that has no place there.
    """
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    if config.get("model_type") != "qwen3":
        raise ValueError(f"{checkpoint} is {config.get('model_type')!r}; only qwen3 is converted")
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(checkpoint.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, checkpoint, config)
    for name, weights in _tensors(checkpoint):
        writer.add_tensor(gguf_name(name), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """What llama.cpp calls a tensor of a Qwen3 checkpoint. Raises ValueError."""
    if name in _OUTER:
        return _OUTER[name]
    parts = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    if len(parts) == 2 and parts[0].isdigit() and parts[1] in _LAYER:
        return f"blk.{parts[0]}.{_LAYER[parts[1]]}.weight"
    raise ValueError(f"{name} has no place in llama.cpp's qwen3")


def _tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name).float().numpy()


def _add_tokenizer(writer: Any, checkpoint: Path, config: dict[str, Any]) -> None:
    """Byte-level BPE with Qwen2's way of splitting text into words."""
    import gguf

    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    texts = {id_: text for text, id_ in tokenizer["model"]["vocab"].items()} | special
    size = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([texts.get(id_, f"[unused{id_}]") for id_ in range(size)])
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL
            if id_ in special
            else gguf.TokenType.NORMAL
            if id_ in texts
            else gguf.TokenType.UNUSED
            for id_ in range(size)
        ]
    )
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((checkpoint / "chat_template.jinja").read_text())
