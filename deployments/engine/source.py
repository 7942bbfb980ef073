"""The draft source a worker starts with."""

from __future__ import annotations

import torch

from deployments.engine.settings import WorkerSettings
from drafters.messages import DraftSource
from drafters.sources import ColocatedDraftSource, RemoteDraftSource


def make_source(settings: WorkerSettings, device: torch.device) -> DraftSource:
    """`split`: a connection that the controller will point somewhere. `colocated`: an engine."""
    if settings.placement == "split":
        return RemoteDraftSource(deadline_s=settings.deadline_s, secret="")
    from deployments.draft_model import make_draft_engine

    return ColocatedDraftSource(
        make_draft_engine(
            settings.drafter,
            target_dir=settings.target_dir,
            dtype=settings.dtype,
            device=device,
            block_tokens=settings.block_tokens,
            num_context_tokens=settings.num_context_tokens,
            context_bytes=settings.context_bytes,
        )
    )
