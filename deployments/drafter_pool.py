"""A model's drafter replicas as a Serve deployment."""

from __future__ import annotations

from ray import serve
from ray.serve import Application

from deployments.drafter import DrafterServer
from deployments.engine_args import MIB, target_source
from deployments.placement import PROMPTLY_REPLACED, QUIET, drafter_actor_options, replica_counts
from deployments.schema import ModelSpec
from deployments.tracing.spec import TracingSpec


def bind_drafters(
    model: ModelSpec,
    *,
    tracing: TracingSpec | None = None,
    app_name: str | None = None,
    canary: str = "",
    version: tuple[str, str] | None = None,
) -> Application:
    """A model's drafter replicas. Those on trial report to another application, `app_name`, as
    `canary`; `version` is their id and version."""
    drafter = model.drafter
    assert drafter is not None
    return serve.deployment(
        DrafterServer,
        name=f"Drafter:{model.id}",
        **replica_counts(drafter.replicas, drafter.scaling),
        ray_actor_options=drafter_actor_options(drafter),
        logging_config=QUIET,
        **PROMPTLY_REPLACED,
    ).bind(
        model.id,
        drafter.threads,
        {
            "drafter": drafter.model_dump(),
            "target_dir": target_source(model),
            "target_revision": model.target.revision,
            "dtype": drafter.dtype,
            "block_tokens": model.target.block_tokens,
            "num_context_tokens": drafter.num_context_tokens,
            "context_bytes": drafter.context_mib * MIB,
        },
        device=drafter.device,
        encrypted=drafter.encrypted,
        tracing=tracing,
        app_name=app_name,
        canary=canary,
        version=version,
    )
