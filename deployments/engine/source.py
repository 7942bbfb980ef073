"""The draft source a worker starts with."""

from __future__ import annotations

from typing import Any

import torch

from deployments.engine.settings import WorkerSettings
from drafters.messages import DraftShape, DraftSource
from drafters.sources import ColocatedDraftSource, RemoteDraftSource


def make_source(settings: WorkerSettings, vllm_config: Any, device: torch.device) -> DraftSource:
    """`split`: a connection that the controller will point somewhere. `colocated`: an engine."""
    if settings.placement == "split":
        feature_size = len(settings.target_layer_ids) * vllm_config.model_config.get_hidden_size()
        return RemoteDraftSource(
            deadline_s=settings.deadline_s,
            secret="",
            target_id=str(vllm_config.instance_id),
            shape=DraftShape(feature_size, settings.block_size, settings.needs_tokens),
        )
    from deployments.draft_model import make_draft_engine

    return ColocatedDraftSource(
        make_draft_engine(
            settings.drafter,
            target_dir=settings.target_dir,
            target_revision=settings.target_revision,
            dtype=settings.dtype,
            device=device,
            block_tokens=settings.block_tokens,
            num_context_tokens=settings.num_context_tokens,
            context_bytes=settings.context_bytes,
        )
    )
