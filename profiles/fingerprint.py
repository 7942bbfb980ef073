"""A short name that changes with a checkpoint's weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIDENCE_FILE = "confidence.json"  # beside the weights of drafters without a confidence head
_EDGE_BYTES = 1 << 20
_HUB_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGITS = 12


def checkpoint_fingerprint(directory: Path) -> str:
    """A hub snapshot's commit; otherwise twelve hex digits from `config.json`, every
    `*.safetensors` file, and the `confidence.json` of a drafter that has one.

    Of a weight file its name, its size, and its first and last MiB are read: that tells one
    training run from another in milliseconds, and says nothing of a few bytes changed on
    purpose in the middle. Raises FileNotFoundError without a `config.json`.
    """
    commit = hub_commit(directory)
    if commit is not None:
        return commit
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    confidences = directory / CONFIDENCE_FILE
    if confidences.exists():
        digest.update(confidences.read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE_BYTES))
            file.seek(max(0, size - _EDGE_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:_DIGITS]


def checkpoint_name(directory: Path) -> str:
    """What people call it: a directory's own name, the id of a snapshot in the hub's cache."""
    directory = directory.resolve()
    repository = directory.parent.parent.name
    if directory.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return directory.name


def hub_commit(directory: Path) -> str | None:
    """The commit whose snapshot in the hub's cache, `snapshots/COMMIT`, a directory is; whole, as
    a revision can be pinned to it."""
    is_snapshot = directory.parent.name == "snapshots" and _HUB_COMMIT.fullmatch(directory.name)
    return directory.name if is_snapshot else None


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """That of a drafter without a checkpoint, from the plain values that describe it."""
    described = json.dumps(settings, sort_keys=True).encode()
    return hashlib.sha256(described).hexdigest()[:_DIGITS]
