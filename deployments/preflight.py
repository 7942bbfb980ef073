"""What can be refused of an application's settings before anything starts."""

from __future__ import annotations

from deployments.checkpoints import read_config
from deployments.draft_model import DraftShape, check_drafter
from deployments.memory import check_memory
from deployments.native import speculative_config
from deployments.schema import DRAFTED_BY_US, AppSpec, ModelSpec


def check_models(settings: AppSpec) -> None:
    """Raise ConfigError for the first checkpoint that is missing or does not fit.

    Memory comes first: it needs no network, and a model that cannot fit need not be fetched.
    """
    for model in settings.models:
        check_memory(model)
    for model in settings.models:
        read_config(model.target.source, f"model {model.id}: target.source", model.target.revision)
        if model.placement == "native":
            speculative_config(model)
        else:
            draft_shape(model)


def draft_shape(model: ModelSpec) -> DraftShape | None:
    """The shape our adapter drafts in; None where it does not draft. Raises ConfigError."""
    return check_drafter(model) if model.placement in DRAFTED_BY_US else None
