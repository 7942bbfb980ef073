"""Find a checkpoint that a setting names: a directory here, or an id on the hub.

A `revision` is a commit on the hub; with a directory it is refused, as it would say nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from deployments.errors import ConfigError
from drafters.hub import NEVER_FETCHED
from profiles.fingerprint import checkpoint_fingerprint

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def local_directory(source: str) -> Path | None:
    """The directory `source` names, below the working directory or the project; or None."""
    for root in (Path.cwd(), PROJECT_ROOT):
        directory = root / source  # an absolute source replaces the root
        if directory.is_dir():
            return directory.resolve()
    return None


def local_file(path: str, field: str) -> Path:
    """The file `path` names, below the working directory or the project. Raises ConfigError."""
    for root in (Path.cwd(), PROJECT_ROOT):
        if (root / path).is_file():
            return root / path
    raise ConfigError(f"{field}: no file {path!r} under {Path.cwd()} or {PROJECT_ROOT}")


def checkpoint_version(source: str, field: str, revision: str | None = None) -> str:
    """A short name of a checkpoint's weights, `profiles.fingerprint`'s.

    Of one on the hub it is its commit: no weights are fetched. Raises ConfigError.
    """
    if revision is not None and local_directory(source) is None:
        return revision
    return checkpoint_fingerprint(config_directory(source, field, revision))


def checkpoint_source(source: str, field: str, revision: str | None = None) -> str:
    """What an engine on any node is to load: an absolute directory, or the hub id as it is.

    Nothing is fetched. Raises ConfigError naming `field` when it is neither.
    """
    directory = _local_checkpoint(source, field, revision)
    if directory is not None:
        return str(directory)
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(_nothing_named(source, field))
    return source


def checkpoint_directory(source: str, field: str, revision: str | None = None) -> Path:
    """A local directory with the checkpoint, fetched from the hub when it is an id there.

    Raises ConfigError naming `field` when there is no such checkpoint.
    """
    directory = _local_checkpoint(source, field, revision)
    if directory is not None:
        return directory
    return Path(_from_hub(source, field, revision, filename=None))


def adapter_directory(source: str, field: str) -> Path:
    """A local directory with a LoRA adapter, fetched from the hub when it is an id there.

    Raises ConfigError naming `field` when there is no such adapter.
    """
    directory = local_directory(source)
    if directory is None:
        return Path(_from_hub(source, field, None, filename=None))
    if not (directory / "adapter_config.json").is_file():
        raise ConfigError(f"{field}: {directory} has no adapter_config.json; it is no LoRA adapter")
    return directory


def config_directory(source: str, field: str, revision: str | None = None) -> Path:
    """A local directory with the checkpoint's config.json, and perhaps no weights.

    Raises ConfigError naming `field` when there is no such checkpoint.
    """
    directory = _local_checkpoint(source, field, revision)
    if directory is not None:
        return directory
    return Path(_from_hub(source, field, revision, filename="config.json")).parent


def read_config(source: str, field: str, revision: str | None = None) -> dict[str, Any]:
    """A checkpoint's config.json, without fetching its weights. Raises ConfigError."""
    path = config_directory(source, field, revision) / "config.json"
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{field}: {path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{field}: {path} holds {type(config).__name__}, not an object")
    return config


def _local_checkpoint(source: str, field: str, revision: str | None) -> Path | None:
    directory = local_directory(source)
    if directory is None:
        return None
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{field}: {directory} has no config.json; it is not a checkpoint")
    if revision is not None:
        raise ConfigError(
            f"{field}: {directory} is a directory, which has no revision; remove revision, or "
            "name the checkpoint by its hub id"
        )
    return directory


def _nothing_named(source: str, field: str) -> str:
    return (
        f"{field}: no directory {source!r} under {Path.cwd()} or {PROJECT_ROOT}; give a "
        "checkpoint directory or a hub id (owner/name)"
    )


def _from_hub(source: str, field: str, revision: str | None, filename: str | None) -> str:
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(_nothing_named(source, field))
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if filename is None:
            return str(
                snapshot_download(source, revision=revision, ignore_patterns=[*NEVER_FETCHED])
            )
        return str(hf_hub_download(source, filename, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{field}: no directory {source!r} under {Path.cwd()} or {PROJECT_ROOT}, and the hub "
            f"does not give it: {reason}"
        ) from None
