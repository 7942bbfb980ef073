"""The shipped Serve files, and stand-ins for the checkpoints they name."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from deployments.catalog import MODELS
from deployments.schema import ModelSpec, parse_settings

CONFIGS = Path("deployments/configs")
REAL_FILES = (
    "qwen3-4b",
    "qwen3-8b",
    "qwen3-14b",
    "gemma4-12b",
    "qwen3-14b-2x-dgx-spark-tp2",
    "qwen3-14b-2x-dgx-spark-split",
    "deepseek-v4-flash-2x-dgx-spark",
    "deepseek-v4-pro",
)


def real_model(name: str) -> ModelSpec:
    """The one model of a shipped file."""
    document = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    (model,) = parse_settings(document["applications"][0]["args"]).models
    return model


def stand_in(hub_id: str, root: Path) -> Path:
    """A directory with the config.json of a checkpoint on the hub, and nothing else."""
    checkpoints = [c for m in MODELS for c in (m.target, m.drafter) if c is not None]
    (config,) = (c.config for c in checkpoints if c.hub_id == hub_id)
    directory = root / hub_id
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def on_disk(model: ModelSpec, root: Path) -> ModelSpec:
    """The same model, its checkpoints replaced by stand-ins."""
    target = model.target.model_copy(
        update={"source": str(stand_in(model.target.source, root)), "revision": None}
    )
    drafter = model.drafter
    if drafter is not None:
        drafter = drafter.model_copy(
            update={"source": str(stand_in(drafter.source, root)), "revision": None}
        )
    return model.model_copy(update={"target": target, "drafter": drafter})
