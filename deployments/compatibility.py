"""Accept the installed Ray and vLLM: the tested versions as they are, others by probing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from cluster.hooks import Hook, missing
from cluster.versions import RAY, VLLM, CompatibilityError, Untested, check_versions
from deployments.schema import Placement

logger = logging.getLogger(__name__)

_LLM = "ray.llm._internal.serve"
# What we use of Ray beyond its documented interface.
RAY_HOOKS: tuple[Hook, ...] = (
    Hook(
        f"{_LLM}.core.configs.openai_api_models",
        "to_model_metadata",
        ("model_id", "model_config", "overrides"),
    ),
    *(
        Hook(f"{_LLM}.core.configs.openai_api_models", name)
        for name in (
            "ModelCard",
            "ChatCompletionResponse",
            "CompletionResponse",
            "DetokenizeResponse",
            "EmbeddingResponse",
            "ScoreResponse",
            "TokenizeChatRequest",
            "TokenizeCompletionRequest",
            "TokenizeResponse",
        )
    ),
    Hook(f"{_LLM}.core.ingress.ingress", "DEFAULT_ENDPOINTS"),
    Hook(f"{_LLM}.core.ingress.ingress", "init"),
    Hook(
        f"{_LLM}.engines.vllm.vllm_engine",
        "VLLMEngine._prepare_engine_config",
        ("self", "callback_ctx"),
    ),
    Hook(f"{_LLM}.core.ingress.ingress", "OpenAiIngress._get_response"),
    Hook(f"{_LLM}.core.ingress.ingress", "OpenAiIngress.tokenize", ("self", "body", "request")),
    Hook(f"{_LLM}.core.protocol", "RawRequestInfo.from_starlette_request"),
    Hook("ray.serve._private.http_util", "session_id_from_headers"),
    Hook("ray.serve.context", "_get_global_client"),
    Hook("ray.serve._private.client", "ServeControllerClient.deploy_apps"),
    Hook("ray.serve._private.client", "ServeControllerClient._wait_for_application_running"),
    Hook("ray.serve.request_router", "RequestRouter.choose_replicas"),
    Hook("ray.serve.request_router", "RequestRouter.on_request_routed"),
    Hook("ray.serve.request_router", "RequestRouter.on_request_completed"),
    Hook("ray.serve.request_router", "RequestRouter.update_replicas"),
    Hook(
        "ray.serve.request_router",
        "RequestRouter._fulfill_next_pending_request",
        ("self", "replica", "request_metadata"),
    ),
    Hook(
        "ray.serve.request_router",
        "RequestRouter._choose_replica_for_request",
        ("self", "pending_request", "is_retry"),
    ),
    Hook(
        "ray.serve.request_router",
        "RequestRouter._get_pending_request_matching_internal_request_id",
        ("self", "request_metadata"),
    ),
    Hook("ray.serve.handle", "DeploymentResponseGenerator._fetch_future_result_async", ("self",)),
    Hook("ray.serve.llm.deployment", "LLMServer._run_request"),
    Hook("ray.serve.llm.deployment", "LLMServer._batch_output_stream", ("self", "generator")),
    Hook("ray.serve.llm.deployment", "LLMServer.collective_rpc"),
    Hook("ray.serve.llm.deployment", "LLMServer.check_health"),
    Hook("ray.serve.llm.ingress", "make_fastapi_ingress"),
)


def accept_software(
    placements: Iterable[Placement],
    check: Callable[[], tuple[Untested, ...]] = check_versions,
    probe: Callable[[Untested, Collection[Placement]], list[str]] | None = None,
    warn: Callable[[str], None] = logger.warning,
) -> None:
    """Accept tested versions silently and others with a warning, once their probes pass.

    Raises CompatibilityError naming what an untested version lacks for one of `placements`.
    """
    asked = frozenset(placements)
    for untested in check():
        lacking = (probe or _probe)(untested, asked)
        if lacking:
            raise CompatibilityError(_refusal(untested, lacking))
        warn(f"{untested} has what we build on, but nobody has run this system with it")


def _probe(untested: Untested, placements: Collection[Placement]) -> list[str]:
    if untested.distributions == RAY:
        return missing(RAY_HOOKS)
    if untested.distributions == VLLM:
        # Imported here: with the tested version nobody has to wait for vLLM.
        from deployments.engine.compat import NEEDED, probe_engine

        found = probe_engine()
        needed = dict.fromkeys(name for one in placements for name in NEEDED[one])
        return [line for capability in needed for line in found[capability]]
    return []


def _refusal(untested: Untested, lacking: Iterable[str]) -> str:
    lines = "; ".join(lacking)
    return f"{untested} lacks what we build on: {lines}. `make setup` installs the tested version"
