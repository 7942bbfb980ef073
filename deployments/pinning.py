"""Which commit of a checkpoint on the hub serves, where the settings name none."""

from __future__ import annotations

import logging
from typing import TypeVar

from deployments.checkpoints import config_directory, local_directory
from deployments.schema import AppSpec, DrafterSpec, ModelSpec, TargetSpec
from profiles.fingerprint import hub_commit

log = logging.getLogger(__name__)

Part = TypeVar("Part", TargetSpec, DrafterSpec)


def pinned(settings: AppSpec) -> AppSpec:
    """The settings with a revision for every target and drafter that comes from the hub.

    Where there was none it is the newest of now: all replicas, also those that start later, load
    the same, and its commit is logged. Raises ConfigError for what the hub does not give.
    """
    models = [pinned_model(m) if isinstance(m, ModelSpec) else m for m in settings.models]
    return settings.model_copy(update={"models": tuple(models)})


def pinned_model(model: ModelSpec) -> ModelSpec:
    """The same of one model."""
    target = _pinned(model.target, f"model {model.id}: target")
    drafter = model.drafter and _pinned(model.drafter, f"model {model.id}: drafter")
    return model.model_copy(update={"target": target, "drafter": drafter})


def _pinned(part: Part, field: str) -> Part:
    source = part.source
    if source is None or part.revision is not None or local_directory(source) is not None:
        return part
    commit = hub_commit(config_directory(source, f"{field}.source"))
    log.warning(
        "%s.source %s has no revision; taken is %s, the newest. To start with the same again, set "
        "%s.revision to it",
        field,
        source,
        commit,
        field,
    )
    return part.model_copy(update={"revision": commit})
