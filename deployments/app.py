"""Compose targets, drafters, controller and ingress into one Serve application."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard, to_model_metadata
from ray.serve import Application
from ray.serve.config import BackpressureConfig, RequestRouterConfig
from ray.serve.llm import LLMConfig, build_llm_deployment

from deployments.attach.binding import bind_attached
from deployments.callers import Callers
from deployments.compatibility import accept_software
from deployments.controller import ControllerKeeper, ControllerSettings
from deployments.draft_model import DraftShape
from deployments.drafter_pool import bind_drafters
from deployments.drafting_pair import drafting_pair, promised_rate
from deployments.engine.vllm_engine import NativeEngine, TargetEngine
from deployments.engine_args import engine_kwargs, native_steering, target_source
from deployments.ingress import make_ingress
from deployments.key_ring import KeyRing
from deployments.loras import adapter_ids
from deployments.memory import check_memory
from deployments.pinning import pinned
from deployments.placement import (
    INGRESS_CPUS,
    PROMPTLY_REPLACED,
    QUIET,
    most_replicas,
    placement_group,
    pool_sizes,
    replica_counts,
    target_env,
)
from deployments.pools import QUEUED_AT_CALLER
from deployments.prefill import with_prefill_control
from deployments.preflight import draft_shape
from deployments.schema import (
    AppSpec,
    AttachedModelSpec,
    AttachSpec,
    ModelSpec,
    TargetSpec,
    parse_settings,
)
from deployments.serve_file import read_serve_file
from deployments.target import TargetServer
from deployments.tracing.start import check_installed
from profiles.provenance import DraftingPair

# Requests wait at the gates of the targets. Where even those are overrun they are turned away.
ROUTING_STATS_S = 1.0
BUSY = BackpressureConfig(status_code=429, retry_after_s=1)


def build_app(args: dict[str, Any]) -> Application:
    """The application of a Serve file: `import_path: deployments.app:build_app`.

    `args` are the settings of `deployments.schema.AppSpec`, or `{"config": path}` of a
    Serve file that holds them, as `serve run deployments.app:build_app config=F` gives it.
    Raises ConfigError or CompatibilityError before anything is deployed.
    """
    if args.keys() == {"config"}:
        args = read_serve_file(Path(args["config"])).args
    settings = parse_settings(args)
    accept_software(model.placement for model in settings.launched)
    for model in settings.launched:
        check_memory(model)
    settings = pinned(settings)
    shapes = {model.id: draft_shape(model) for model in settings.launched}
    pairs = {
        model.id: drafting_pair(model)
        for model in settings.launched
        if model.drafter is not None and (shapes[model.id] or native_steering(model))
    }
    if settings.tracing is not None:
        check_installed()  # refused here, where somebody is told
    configs = {m.id: _llm_config(m, shapes[m.id], settings) for m in settings.launched}
    targets = {
        model.id: _bind_target(model, configs[model.id], pairs.get(model.id), settings)
        for model in settings.launched
    }
    cards = {id_: to_model_metadata(id_, config) for id_, config in configs.items()}
    for attached in settings.attached:
        options = _gated(_taken_in(attached.attach), attached.attach.drain_s)
        targets[attached.id] = bind_attached(attached, settings.promises, options)
        cards[attached.id] = _card(attached)
    keeper = serve.deployment(
        ControllerKeeper,
        name="Controller",
        ray_actor_options={"num_cpus": 0},
        logging_config=QUIET,
        **PROMPTLY_REPLACED,
    ).bind(_controller_settings(settings, shapes, pairs))
    keys = KeyRing(settings.keys, settings.keys_file, settings.promises)
    keys.read()  # refused here, where somebody is told
    ingress = serve.deployment(
        make_ingress(
            Callers(settings.promises, keys),
            settings.promises,
            settings.limits,
            settings.ingress.replicas,
            settings.request_log,
            settings.tracing,
        ),
        name="Ingress",
        num_replicas=settings.ingress.replicas,
        max_ongoing_requests=_max_ongoing(settings),
        max_queued_requests=QUEUED_AT_CALLER,
        backpressure_config=BUSY,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        # The next one is there before this one goes, once its streams have ended.
        max_surge_percent=100,
        graceful_shutdown_timeout_s=_longest_drain_s(settings),
        logging_config=QUIET,
        **PROMPTLY_REPLACED,
    )
    drafters = [
        bind_drafters(m, tracing=settings.tracing)
        for m in settings.launched
        if m.placement == "split"
    ]
    return ingress.bind(
        llm_deployments=targets,
        model_cards=cards,
        adapters=[id_ for model in settings.launched for id_ in adapter_ids(model)],
        dependencies=[keeper, *drafters],
        models={model.id: model for model in settings.models},
        promises=settings.promises,
        limits=settings.limits,
        num_ingresses=settings.ingress.replicas,
        tracing=settings.tracing,
    )


def _max_ongoing(settings: AppSpec) -> int:
    """Room in the ingress for what all targets take in."""
    launched = sum(most_replicas(m.target) * _taken_in(m.target) for m in settings.launched)
    return launched + sum(len(m.attach.url) * _taken_in(m.attach) for m in settings.attached)


def _taken_in(target: TargetSpec | AttachSpec) -> int:
    """Requests inside a target: running, queued at its gate, and on their way to a refusal."""
    return 2 * target.max_num_seqs + target.max_queued_requests


def _longest_drain_s(settings: AppSpec) -> float:
    launched = (model.target.drain_s for model in settings.launched)
    return max(*launched, *(model.attach.drain_s for model in settings.attached), 0.0)


def _card(model: AttachedModelSpec) -> ModelCard:
    """As `to_model_metadata` makes it of engines that it knows."""
    return ModelCard(
        id=model.id,
        object="model",
        owned_by="organization-owner",
        permission=[],
        metadata={
            "model_id": model.id,
            "input_modality": "text",
            "max_request_context_length": model.attach.max_model_len,
        },
    )


def _controller_settings(
    settings: AppSpec, shapes: Mapping[str, DraftShape | None], pairs: Mapping[str, DraftingPair]
) -> ControllerSettings:
    promised = {}
    for model in settings.launched:
        shape = shapes[model.id]
        rate = promised_rate(model, shape.block_size) if shape else None
        if rate is not None:
            promised[pairs[model.id]] = rate
    classes = {model.id: tuple(settings.promises.values()) for model in settings.models}
    pools = {model.id: pool_sizes(model) for model in settings.models}
    return ControllerSettings(settings.state_dir, promised, classes, pools)


def _bind_target(
    model: ModelSpec,
    config: LLMConfig,
    pair: DraftingPair | None,
    settings: AppSpec,
) -> Any:
    engine = NativeEngine if model.placement == "native" else TargetEngine
    return build_llm_deployment(
        config,
        name_prefix="Target:",
        bind_kwargs={
            "placement": model.placement,
            "pair": pair,
            "promises": settings.promises,
            "queued_requests": model.target.max_queued_requests,
            "steering": native_steering(model),
            "engine_cls": engine,
            "stall_limit_s": stall_limit_s(model.target),
            "capture": model.target.capture,
            "tracing": settings.tracing,
        },
    )


def stall_limit_s(target: TargetSpec) -> float:
    """How long an engine may be silent: on processors others may hold the cores for 15 s (seen
    while replicas started), on GPUs a first request may compile kernels.
    """
    if target.stall_limit_s is not None:
        return target.stall_limit_s
    return 30.0 if target.device == "cpu" else 60.0


def _gated(taken_in: int, drain_s: float) -> dict[str, Any]:
    """Of a deployment whose replicas have a gate of ours, and our router before them."""
    return {
        "graceful_shutdown_timeout_s": drain_s,
        "max_ongoing_requests": taken_in,
        "max_queued_requests": QUEUED_AT_CALLER,
        # For a replica whose process itself hangs; Serve wants three failures. What the
        # engine behind it does is the replica's own to watch.
        "health_check_period_s": 2,
        "health_check_timeout_s": 5,
        "backpressure_config": BUSY,
        "request_router_config": RequestRouterConfig(
            request_router_class="deployments.request_router:WorkRouter",
            request_routing_stats_period_s=ROUTING_STATS_S,
            request_routing_stats_timeout_s=10 * ROUTING_STATS_S,
        ),
    }


def _llm_config(model: ModelSpec, shape: DraftShape | None, settings: AppSpec) -> LLMConfig:
    target = model.target
    kwargs = engine_kwargs(model, shape, settings.tracing)
    return LLMConfig(
        model_loading_config={"model_id": model.id, "model_source": target_source(model)},
        # Without an accelerator_type: GB10 is none that Ray knows.
        accelerator_config={"kind": "cpu" if target.device == "cpu" else "gpu"},
        server_cls=TargetServer,
        engine_kwargs=with_prefill_control(
            kwargs, target.prefill, settings.promises, drafts=shape is not None
        ),
        placement_group_config=placement_group(target),
        deployment_config={
            **replica_counts(target.replicas, target.scaling),
            **_gated(_taken_in(target), target.drain_s),
            "ray_actor_options": {"num_cpus": target.num_cpus},
            "logging_config": QUIET,
        },
        runtime_env={"env_vars": target_env(model, settings.tracing)},
    )
