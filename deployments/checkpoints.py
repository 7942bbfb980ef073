"""Find a checkpoint that a setting names: a directory here, or an id on the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from deployments.errors import ConfigError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def local_directory(source: str) -> Path | None:
    """The directory `source` names, below the working directory or the project; or None."""
    for root in (Path.cwd(), PROJECT_ROOT):
        directory = root / source  # an absolute source replaces the root
        if directory.is_dir():
            return directory.resolve()
    return None


def checkpoint_directory(source: str, field: str) -> Path:
    """A local directory with the checkpoint, fetched from the hub when it is an id there.

    Raises ConfigError naming `field` when there is no such checkpoint.
    """
    directory = local_directory(source)
    if directory is not None:
        if not (directory / "config.json").is_file():
            raise ConfigError(f"{field}: {directory} has no config.json; it is not a checkpoint")
        return directory
    return Path(_from_hub(source, field, filename=None))


def read_config(source: str, field: str) -> dict[str, Any]:
    """A checkpoint's config.json, without fetching its weights."""
    directory = local_directory(source)
    path = (
        checkpoint_directory(source, field) / "config.json"
        if directory is not None
        else Path(_from_hub(source, field, filename="config.json"))
    )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{field}: {path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{field}: {path} holds {type(config).__name__}, not an object")
    return config


def _from_hub(source: str, field: str, filename: str | None) -> str:
    missing = f"{field}: no directory {source!r} under {Path.cwd()} or {PROJECT_ROOT}"
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(f"{missing}; give a checkpoint directory or a hub id (owner/name)")
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if filename is None:
            return str(snapshot_download(source))
        return str(hf_hub_download(source, filename))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{missing}, and the hub does not give it: {reason}") from None
