"""Every Serve file of a real model, as far as a machine without its GPUs can tell."""

from __future__ import annotations

import re

import pytest

from deployments.catalog import MODELS, find_checkpoint
from deployments.engine_args import engine_kwargs, native_steering
from deployments.errors import ConfigError
from deployments.memory import GIB, check_memory
from deployments.native import Steering
from deployments.placement import drafter_actor_options, placement_group, target_env
from deployments.preflight import draft_shape
from deployments.serve_file import read_serve_file
from deployments.specs import TargetSpec
from tests.unit.deployments.real_models import CONFIGS, REAL_FILES, on_disk, real_model

OTHERS = {
    *("attach", "bench", "bench-tp2", "frontier", "frontier-gpu"),
    *("demo", "demo-autoscaling", "demo-colocated", "demo-off", "demo-tp2", "demo-tp2-nodes"),
}


def test_every_shipped_file_is_known_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == OTHERS | set(REAL_FILES)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_is_a_serve_file_with_settings_of_ours(path):
    assert read_serve_file(path).settings.models


@pytest.mark.parametrize("name", REAL_FILES)
def test_a_real_file_says_that_it_was_not_run_and_pins_what_it_fetches(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert re.search(r"^# Not run on a .*GPU\. Checked without one: ", text, re.MULTILINE)
    model = real_model(name)
    target = find_checkpoint(model.target.source)
    assert target is not None
    assert model.target.revision == target.revision
    if model.drafter is not None:
        drafter = find_checkpoint(model.drafter.source)
        assert drafter is not None
        assert model.drafter.revision == drafter.revision


@pytest.mark.parametrize(
    ("name", "gib", "sequences"),
    [
        ("qwen3-4b", 20.1, 4),
        ("qwen3-8b", 39.7, 6),
        ("qwen3-14b", 61.9, 4),
        ("gemma4-12b", 40.6, 11),
        ("qwen3-14b-2x-dgx-spark-tp2", 42.6, 6),
        ("qwen3-14b-2x-dgx-spark-split", 63.5, 6),
        ("deepseek-v4-flash-2x-dgx-spark", 89.7, 16),
        ("deepseek-v4-pro", 131.9, 34),
    ],
)
def test_memory_of_a_rank_and_full_length_requests_it_holds(name, gib, sequences):
    memory = check_memory(real_model(name))
    assert memory is not None
    assert round(memory.total / GIB, 1) == gib
    assert memory.full_length_sequences == sequences


def test_a_split_drafter_that_cannot_fit_is_refused_with_the_arithmetic():
    model = real_model("qwen3-14b-2x-dgx-spark-split")
    small = model.drafter.model_copy(update={"gpu_memory_gib": 24, "num_gpus": 0.5})
    with pytest.raises(ConfigError) as caught:
        check_memory(model.model_copy(update={"drafter": small}))
    assert str(caught.value) == (
        "model qwen3-14b: a drafter needs 14.4 GiB (weights 6.4 + draft context 4.0 + reserve "
        "4.0), but drafter.gpu_memory_gib x num_gpus is 12; lower context_mib, raise num_gpus, "
        "or use a larger GPU"
    )


def test_a_model_that_cannot_fit_is_refused_with_the_arithmetic():
    model = real_model("qwen3-14b")
    small = model.target.model_copy(update={"gpu_memory_gib": 24})
    with pytest.raises(ConfigError) as caught:
        check_memory(model.model_copy(update={"target": small}))
    assert str(caught.value) == (
        "model qwen3-14b: a rank needs 61.9 GiB (weights 27.5 + KV cache 24.0 + drafter 6.4 + "
        "reserve 4.0), but target.gpu_memory_gib x gpus_per_rank is 24; lower kv_cache_mib, "
        "raise tensor_parallel, or use a larger GPU"
    )


def test_a_kv_cache_below_one_request_is_refused():
    model = real_model("qwen3-4b")
    long = model.target.model_copy(update={"max_model_len": 40_960})
    with pytest.raises(ConfigError, match=r"less than the 6561 MiB of one request"):
        check_memory(model.model_copy(update={"target": long}))


@pytest.mark.parametrize("name", REAL_FILES)
def test_engine_arguments_are_built_from_the_files_checkpoints(name, tmp_path):
    model = on_disk(real_model(name), tmp_path)
    kwargs = engine_kwargs(model, draft_shape(model))
    assert kwargs["tensor_parallel_size"] == model.target.tensor_parallel
    assert kwargs["kv_cache_memory_bytes"] == model.target.kv_cache_mib << 20
    assert "revision" not in kwargs
    over_ray = kwargs.get("distributed_executor_backend") == "ray"
    assert over_ray == (model.target.nodes > 1)
    speculative = kwargs["speculative_config"]
    if model.placement == "native":
        assert speculative["method"] == "dspark"
        assert "worker_cls" not in kwargs
        assert "enforce_eager" not in kwargs  # adaptive verification needs CUDA graphs
    else:
        assert speculative["method"] == "custom_class"
        assert kwargs["worker_cls"] == "deployments.engine.cuda_worker.DSparkGPUWorker"
        assert kwargs["enforce_eager"]


def test_native_with_a_checkpoint_of_its_own(tmp_path):
    model = on_disk(real_model("gemma4-12b"), tmp_path)
    assert engine_kwargs(model, None)["speculative_config"] == {
        "method": "dspark",
        "enable_adaptive_verification": False,
        "draft_sample_method": "probabilistic",
        "model": str(tmp_path / "deepseek-ai/dspark_gemma4_12b_block7"),
        "num_speculative_tokens": 7,
    }


def test_native_with_the_drafter_in_the_target(tmp_path):
    model = on_disk(real_model("deepseek-v4-pro"), tmp_path)
    kwargs = engine_kwargs(model, None)
    assert kwargs["speculative_config"] == {
        "method": "dspark",
        "enable_adaptive_verification": True,
        "draft_sample_method": "probabilistic",
        "num_speculative_tokens": 5,
    }
    assert (kwargs["block_size"], kwargs["kv_cache_dtype"]) == (256, "fp8")


def test_where_vllm_verifies_adaptively_it_can_be_steered(tmp_path):
    steered = on_disk(real_model("deepseek-v4-pro"), tmp_path / "a")
    assert engine_kwargs(steered, None)["worker_extension_cls"] == (
        "deployments.engine.native_extension.AdaptiveVerificationExtension"
    )
    assert native_steering(steered) == Steering(nodes=steered.target.nodes)
    plain = on_disk(real_model("gemma4-12b"), tmp_path / "b")
    assert "worker_extension_cls" not in engine_kwargs(plain, None)
    assert native_steering(plain) is None


def test_pinned_revisions_reach_the_engine(tmp_path):
    disk = on_disk(real_model("deepseek-v4-pro"), tmp_path)
    pinned = "a" * 40
    target = disk.target.model_copy(update={"revision": pinned})
    model = disk.model_copy(update={"target": target})
    with pytest.raises(ConfigError, match="is a directory, which has no revision"):
        engine_kwargs(model, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["Qwen3Eagle3Model"]}, "vLLM's dspark takes one of"),
        ({"hidden_size": 4096}, "hidden_size is 4096, but the target's hidden_size is 2560"),
        ({"num_target_layers": 40}, "the target's num_hidden_layers is 36"),
        ({"block_size": 0}, "block_size is 0; needed: a positive integer"),
    ],
)
def test_a_native_drafter_that_does_not_fit_is_named(change, message, tmp_path):
    import json

    model = on_disk(real_model("qwen3-4b"), tmp_path)
    config = tmp_path / "deepseek-ai/dspark_qwen3_4b_block7/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        engine_kwargs(model, None)


def test_a_target_without_a_drafter_in_it_asks_for_one(tmp_path):
    model = on_disk(real_model("qwen3-4b"), tmp_path)
    with pytest.raises(ConfigError, match=r"carries no DSpark drafter; give drafter\.source"):
        engine_kwargs(model.model_copy(update={"drafter": None}), None)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("qwen3-8b", {"bundles": [{"CPU": 1, "GPU": 1}], "strategy": "STRICT_PACK"}),
        ("deepseek-v4-pro", {"bundles": [{"CPU": 1, "GPU": 1}] * 8, "strategy": "STRICT_PACK"}),
        (
            "qwen3-14b-2x-dgx-spark-tp2",
            {"bundles": [{"CPU": 2, "GPU": 1}] * 2, "strategy": "STRICT_SPREAD"},
        ),
        (
            "qwen3-14b-2x-dgx-spark-split",
            {"bundles": [{"CPU": 2, "GPU": 1, "spark-a": 0.01}], "strategy": "STRICT_PACK"},
        ),
    ],
)
def test_where_the_ranks_go(name, group):
    assert placement_group(real_model(name).target) == group


def test_several_ranks_per_node_are_packed():
    target = real_model("deepseek-v4-pro").target.model_copy(update={"nodes": 2})
    assert placement_group(target)["strategy"] == "PACK"


def test_ranks_on_processors_of_several_nodes_are_ray_actors_with_pretended_gpus():
    model = real_model("qwen3-14b-2x-dgx-spark-tp2")
    target = TargetSpec(source="x", tensor_parallel=2, nodes=2)
    assert placement_group(target) == {
        "bundles": [{"CPU": 0.5, "GPU": 1}] * 2,
        "strategy": "STRICT_SPREAD",
    }
    env = target_env(model.model_copy(update={"target": target}))
    assert env["DSPARK_CPU_OVER_RAY"] == "1"
    assert env["DSPARK_RANK_SPIN_MS"] == "2"


def test_the_split_drafter_goes_to_the_other_spark():
    drafter = real_model("qwen3-14b-2x-dgx-spark-split").drafter
    assert drafter_actor_options(drafter) == {
        "num_cpus": 0.25,
        "num_gpus": 1,
        "resources": {"spark-b": 0.01},
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}},
    }


def test_our_adapter_asks_for_the_v1_runner_and_the_fabric_is_named():
    env = target_env(real_model("qwen3-14b-2x-dgx-spark-tp2"))
    assert env == {
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MAX_N_SEQUENCES": "32",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "DSPARK_RANK_SPIN_MS": "50",
        "NCCL_IB_HCA": "rocep1s0f1,roceP2p1s0f1",
        "NCCL_SOCKET_IFNAME": "enp1s0f1np1",
        "GLOO_SOCKET_IFNAME": "enp1s0f1np1",
    }
    assert "VLLM_USE_V2_MODEL_RUNNER" not in target_env(real_model("qwen3-4b"))


def test_downloads_in_gigabytes():
    sizes = {model.name: round(model.download_bytes / 1e9, 1) for model in MODELS}
    assert sizes == {
        "qwen3-4b": 10.8,
        "qwen3-8b": 21.1,
        "qwen3-14b": 36.4,
        "gemma4-12b": 30.7,
        "deepseek-v4-flash": 166.9,
        "deepseek-v4-pro": 892.7,
    }
