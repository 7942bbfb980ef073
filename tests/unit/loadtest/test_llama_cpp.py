from pathlib import Path

import pytest

from loadtest.llama_cpp import export_gguf, gguf_name

TARGET = Path("models/demo-target")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.7.self_attn.q_norm.weight", "blk.7.attn_q_norm.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
    ],
)
def test_tensors_have_llama_cpps_names(name: str, theirs: str):
    assert gguf_name(name) == theirs


@pytest.mark.parametrize("name", ["model.layers.0.mlp.experts.weight", "visual.patch.weight"])
def test_a_tensor_without_a_place_is_named(name: str):
    with pytest.raises(ValueError, match=name):
        gguf_name(name)


def test_it_says_the_same_as_the_target(tmp_path):
    """The greedy answer that transformers gives, token for token."""
    pytest.importorskip("gguf", reason="needs the peers extra")
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs the peers extra")
    path = tmp_path / "target.gguf"
    export_gguf(TARGET, path)
    model = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
    chat = [{"role": "user", "content": "What is 12 times 7?"}]
    answer = model.create_chat_completion(chat, max_tokens=40, temperature=0)
    model.close()
    assert answer["usage"]["prompt_tokens"] == 19
    assert answer["choices"][0]["message"]["content"] == "There is a 12:30 am bus with 1 transfer."
