import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import yaml

from loadtest.arms import Gpus
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


STATED = {key: TARGET[key] for key in ("dtype", "max_model_len", "max_num_seqs", "kv_cache_mib")}


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
    target = STATED | {"source": "Qwen/Qwen3-4B", "device": "cuda", "tensor_parallel": 2}
    with peer_server("ray-serve-llm", target, 9002) as server:
        document = yaml.safe_load(Path(server.command[-1]).read_text())
    config = document["applications"][0]["args"]["llm_configs"][0]
    assert server.arms[0].gpus == Gpus(2.0)
    assert "accelerator_config" not in config
    assert config["engine_kwargs"] == LIMITS | {"tensor_parallel_size": 2}
    assert config["model_loading_config"]["model_source"] == "Qwen/Qwen3-4B"


def draft_model(directory: Path, **config: object) -> Path:
    directory.mkdir()
    usual = {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 8192}
    (directory / "config.json").write_text(json.dumps(usual | config))
    return directory


def test_vllm_drafts_with_the_model_that_it_is_given(tmp_path):
    small = draft_model(tmp_path / "small")
    with peer_server("vllm-draft-model", TARGET, 9001, small) as server:
        config = json.loads(after(server.command, "--speculative-config"))
    assert config == {"method": "draft_model", "model": str(small), "num_speculative_tokens": 5}
    assert after(server.command, "--model") == "models/demo-target"
    assert server.arms[0].name == "vllm-draft-model"


@pytest.mark.parametrize(("config", "message"), [
    ({"vocab_size": 4096}, "has 4096 tokens and the target 8192"),
    ({"architectures": ["Qwen3DSparkModel"]}, "Qwen3DSparkModel: vLLM's draft model generates"),
    ({"architectures": None}, "is nothing known"),
])  # fmt: skip
def test_a_model_that_vllm_could_not_draft_with_is_refused(tmp_path, config, message):
    other = draft_model(tmp_path / "other", **config)
    refused = pytest.raises(ValueError, match=message)
    with refused, peer_server("vllm-draft-model", TARGET, 9001, other):
        pass


@pytest.mark.parametrize(("draft", "message"), [
    (None, "give its directory, --draft-model"),
    (Path("models"), "models is no checkpoint: config.json cannot be read"),
])  # fmt: skip
def test_a_draft_model_that_is_not_there_is_refused(draft, message):
    refused = pytest.raises(ValueError, match=message)
    with refused, peer_server("vllm-draft-model", TARGET, 9001, draft):
        pass


@pytest.mark.parametrize("stand_ins", [None, "# those of n-gram speculation alone"])
def test_a_vllm_without_draft_models_on_processors_is_refused(tmp_path, monkeypatch, stand_ins):
    if stand_ins is not None:
        (tmp_path / "utils").mkdir()
        (tmp_path / "utils" / "cpu_triton_utils.py").write_text(stand_ins)
    spec = ModuleSpec("vllm", None)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("loadtest.draft_model.find_spec", lambda _: spec)
    small = draft_model(tmp_path / "small")
    refused = pytest.raises(ValueError, match="no draft models on processors")
    with refused, peer_server("vllm-draft-model", TARGET, 9001, small):
        pass
    gpu = TARGET | {"device": "cuda"}
    with peer_server("vllm-draft-model", gpu, 9001, small) as server:
        assert server.arms[0].gpus == Gpus(1.0)


COMMIT = "1cfa9a7208912126459214e8b04321603b3df60c"
OF_THE_HUB = TARGET | {
    "source": "Qwen/Qwen3-4B",
    "revision": COMMIT,
    "env": {"VLLM_ATTENTION_BACKEND": "FLASH_ATTN"},
    "engine_kwargs": {
        "quantization": "fp8",
        "max_model_len": 1024,
        "gpu_memory_utilization": 0.8,
        "enforce_eager": False,
        "enable_chunked_prefill": True,
        "hf_overrides": {"rope_theta": 1.0},
        "cudagraph_capture_sizes": [1, 8],
        "seed": None,
    },
}


@pytest.mark.parametrize("name", ["vllm", "vllm-ngram"])
def test_vllm_serves_the_same_revision_with_the_same_engine_settings(name: str):
    with peer_server(name, OF_THE_HUB, 9001) as server:
        pass
    command = server.command
    assert after(command, "--revision") == after(command, "--tokenizer-revision") == COMMIT
    assert after(command, "--quantization") == "fp8"
    assert (command.count("--max-model-len"), after(command, "--max-model-len")) == (1, "1024")
    assert after(command, "--gpu-memory-utilization") == "0.8"
    assert {"--no-enforce-eager", "--enable-chunked-prefill"} <= set(command)
    assert json.loads(after(command, "--hf-overrides")) == {"rope_theta": 1.0}
    sizes = command.index("--cudagraph-capture-sizes")
    assert command[sizes + 1 : sizes + 3] == ("1", "8")
    assert "--seed" not in command
    assert server.env["VLLM_ATTENTION_BACKEND"] == "FLASH_ATTN"
    assert f"--revision {COMMIT}" in server.description


def test_so_does_the_stock_application():
    with peer_server("ray-serve-llm", OF_THE_HUB, 9002) as server:
        document = yaml.safe_load(Path(server.command[-1]).read_text())
    (config,) = document["applications"][0]["args"]["llm_configs"]
    kwargs = config["engine_kwargs"]
    assert kwargs["revision"] == kwargs["tokenizer_revision"] == COMMIT
    assert (kwargs["quantization"], kwargs["max_model_len"]) == ("fp8", 1024)
    assert config["runtime_env"]["env_vars"]["VLLM_ATTENTION_BACKEND"] == "FLASH_ATTN"


def without(*keys: str) -> dict:
    return {key: value for key, value in TARGET.items() if key not in keys}


@pytest.mark.parametrize(("name", "target", "message"), [
    ("vllm", without("dtype", "threads"), "state target.dtype, target.threads in the Serve file"),
    ("ray-serve-llm", without("kv_cache_mib"), "state target.kv_cache_mib"),
    ("vllm", TARGET | {"nodes": 2}, "on one node, not on target.nodes 2"),
    ("llama-cpp", TARGET | {"dtype": "bfloat16"}, "dtype float32 alone, not target.dtype bfloat16"),
    ("llama-cpp", TARGET | {"tensor_parallel": 2}, "not target.tensor_parallel 2"),
    ("llama-cpp", OF_THE_HUB, "has no target.revision, target.engine_kwargs"),
])  # fmt: skip
def test_a_target_that_a_peer_would_serve_otherwise_is_refused(name, target, message):
    with pytest.raises(ValueError, match=message), peer_server(name, target, 9001):
        pass
