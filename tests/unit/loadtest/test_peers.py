import json
from pathlib import Path

import pytest
import yaml

from loadtest.peers import peer_server

TARGET = {
    "source": "models/demo-target",
    "dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 32,
    "kv_cache_mib": 512,
    "threads": 1,
}
LIMITS = {
    "dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 32,
    "kv_cache_memory_bytes": 512 << 20,
}


def after(command: tuple[str, ...], flag: str) -> str:
    return command[command.index(flag) + 1]


@pytest.mark.parametrize("name", ["vllm", "vllm-ngram"])
def test_vllm_gets_the_targets_limits_and_threads(name: str):
    with peer_server(name, TARGET, 9001) as server:
        pass
    flags = {key: after(server.command, "--" + key.replace("_", "-")) for key in LIMITS}
    assert flags == {key: str(value) for key, value in LIMITS.items()}
    assert after(server.command, "--served-model-name") == server.arms[0].model == name
    assert (after(server.command, "--port"), server.url) == ("9001", "http://127.0.0.1:9001")
    assert server.env["OMP_NUM_THREADS"] == "1"


def test_only_one_of_them_speculates():
    with peer_server("vllm", TARGET, 1) as plain, peer_server("vllm-ngram", TARGET, 1) as ngram:
        assert "--speculative-config" not in plain.command
        config = json.loads(after(ngram.command, "--speculative-config"))
    assert (config["method"], config["num_speculative_tokens"]) == ("ngram", 5)


def test_the_stock_application_is_rays_own():
    with peer_server("ray-serve-llm", TARGET, 9002) as server:
        document = yaml.safe_load(Path(server.command[-1]).read_text())
    (application,) = document["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (config,) = application["args"]["llm_configs"]
    assert config["engine_kwargs"] == LIMITS
    assert config["accelerator_config"] == {"kind": "cpu"}
    assert config["model_loading_config"]["model_source"].endswith("/models/demo-target")
    assert document["http_options"]["port"] == 9002


def test_a_gpu_target_is_left_to_ray():
    target = {"source": "Qwen/Qwen3-4B", "device": "cuda", "tensor_parallel": 2}
    with peer_server("ray-serve-llm", target, 9002) as server:
        document = yaml.safe_load(Path(server.command[-1]).read_text())
    config = document["applications"][0]["args"]["llm_configs"][0]
    assert "accelerator_config" not in config
    assert config["engine_kwargs"] == {"dtype": "auto", "tensor_parallel_size": 2}
    assert config["model_loading_config"]["model_source"] == "Qwen/Qwen3-4B"
