"""vLLM's and Ray's own objects for the Serve files of real models, without a GPU or an engine.

The checkpoints are stand-ins: the real config.json numbers and no weights.
"""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from vllm.model_executor.models.registry import ModelRegistry

from deployments.engine.compat import probe_engine
from deployments.engine_args import engine_kwargs, target_source
from deployments.placement import logical_cpus
from deployments.preflight import draft_shape
from deployments.schema import parse_settings
from tests.unit.deployments.real_models import CONFIGS, REAL_FILES, on_disk, real_model, stand_in

pytestmark = pytest.mark.light


def engine_args(model: Any) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs

    kwargs = engine_kwargs(model, draft_shape(model))
    of_frontend = frontend_fields()
    kwargs = {name: value for name, value in kwargs.items() if name not in of_frontend}
    return AsyncEngineArgs(model=target_source(model), skip_tokenizer_init=True, **kwargs)


def frontend_fields() -> set[str]:
    """Arguments of vLLM's API server, which Ray tells from the engine's by these names."""
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    return {field.name for field in dataclasses.fields(FrontendArgs)}


@pytest.mark.parametrize("name", REAL_FILES)
def test_tools_and_thoughts_are_parsed_by_the_models_own_parsers(name):
    from vllm.parser import ParserManager

    kwargs = real_model(name).target.engine_kwargs
    assert kwargs["enable_auto_tool_choice"] is True
    assert {"enable_auto_tool_choice", "tool_call_parser"} <= frontend_fields()
    tool, reasoning = kwargs["tool_call_parser"], kwargs["reasoning_parser"]
    assert ParserManager.get_parser(tool, reasoning, enable_auto_tools=True) is not None


@pytest.mark.parametrize("name", REAL_FILES)
def test_vllm_takes_every_argument(name, tmp_path):
    model = on_disk(real_model(name), tmp_path)
    args = engine_args(model)
    assert args.tensor_parallel_size == model.target.tensor_parallel
    assert args.block_size == model.target.block_tokens


@pytest.mark.parametrize(
    ("name", "target", "drafter", "draft_tokens", "adaptive"),
    [
        ("qwen3-14b", "Qwen3ForCausalLM", "Qwen3DSparkModel", 7, False),
        ("gemma4-12b", "Gemma4UnifiedForConditionalGeneration", "Gemma4DSparkModel", 7, False),
        (
            "deepseek-v4-flash-2x-dgx-spark",
            "DeepseekV4ForCausalLM",
            "DSparkDraftModel",
            5,
            False,
        ),
        ("deepseek-v4-pro", "DeepseekV4ForCausalLM", "DSparkDraftModel", 5, True),
    ],
)
def test_vllm_resolves_target_and_native_drafter(
    name, target, drafter, draft_tokens, adaptive, tmp_path
):
    from vllm.config import ParallelConfig, SpeculativeConfig

    args = engine_args(on_disk(real_model(name), tmp_path))
    model_config = args.create_model_config()
    assert model_config.architectures == [target]
    speculative = SpeculativeConfig(
        target_model_config=model_config,
        target_parallel_config=ParallelConfig(
            tensor_parallel_size=args.tensor_parallel_size, distributed_executor_backend="mp"
        ),
        **args.speculative_config,
    )
    assert speculative.method == "dspark"
    assert speculative.draft_model_config.architectures == [drafter]
    assert speculative.num_speculative_tokens == draft_tokens
    assert speculative.draft_tensor_parallel_size == args.tensor_parallel_size
    assert speculative.enable_adaptive_verification is adaptive


def test_this_vllm_has_every_capability():
    assert {name: lines for name, lines in probe_engine().items() if lines} == {}
    drafters = {"Qwen3DSparkModel", "Gemma4DSparkModel", "DSparkDraftModel"}
    assert drafters <= set(ModelRegistry.get_supported_archs())


def test_this_ray_has_every_hook():
    from cluster.hooks import missing
    from deployments.compatibility import RAY_HOOKS

    assert missing(RAY_HOOKS) == []


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_application_is_bound(name, tmp_path, monkeypatch):
    import ray

    from deployments.app import build_app

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env={}))
    args = on_stand_ins(name, tmp_path)
    app = build_app(args)
    assert cpus_of(app) == pytest.approx(logical_cpus(parse_settings(args)))
    targets = app._bound_deployment.init_kwargs["llm_deployments"]
    (target,) = targets.values()
    replica = target._bound_deployment._replica_config
    model = real_model(name)
    assert sum(b["GPU"] for b in replica.placement_group_bundles) == model.target.tensor_parallel
    assert replica.placement_group_strategy == (
        "STRICT_SPREAD" if model.target.nodes == 2 else "STRICT_PACK"
    )
    assert replica.ray_actor_options.get("num_gpus", 0) == 0  # the ranks have them


def cpus_of(app: Any) -> dict[str, float]:
    """Logical CPUs as Serve will ask for them: those of all replicas, by deployment."""
    arguments = app._bound_deployment.init_kwargs
    parts = [app, *arguments["llm_deployments"].values(), *arguments["dependencies"]]
    cpus = {}
    for deployment in (part._bound_deployment for part in parts):
        replica = deployment._replica_config
        bundles = replica.placement_group_bundles
        of_actor = replica.ray_actor_options["num_cpus"]
        each = sum(b["CPU"] for b in bundles) if bundles else of_actor
        cpus[deployment.name] = each * (deployment.num_replicas or 1)
    return {name: number for name, number in cpus.items() if number}


def on_stand_ins(name: str, root: Any) -> dict[str, Any]:
    """The application's settings as the file has them, with stand-ins for its checkpoints."""
    document = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    args: dict[str, Any] = json.loads(json.dumps(document["applications"][0]["args"]))
    for part in ("target", "drafter"):
        for model in args["models"]:
            if part in model:
                del model[part]["revision"]
                model[part]["source"] = str(stand_in(model[part]["source"], root))
    return args
