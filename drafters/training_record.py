"""What training leaves beside a drafter's weights, and what that lets others check."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drafters.errors import CheckpointError

RECORD = "training.json"  # written last: where it is, the drafter is whole
WEIGHTS = "model.safetensors"
_DIGEST = "weights_sha256"


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """`record`, with the digest of the weights that lie in `directory` by now."""
    whole = {**record, _DIGEST: _digest(directory / WEIGHTS)}
    (directory / RECORD).write_text(json.dumps(whole, indent=1) + "\n")


def check_weights(directory: Path) -> None:
    """Raises CheckpointError for weights that are not those whose training is recorded.

    Checkpoints without a record of ours are not looked at.
    """
    expected = _read(directory).get(_DIGEST)
    if expected is None:
        return
    path = directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: not there, but {RECORD} has its digest; copy it again")
    if _digest(path) != expected:
        raise CheckpointError(
            f"{path}: not the weights whose SHA-256 is in {RECORD}: cut short, damaged or "
            f"changed; copy them again, or take {_DIGEST} out where the change was meant"
        )


def held_out_acceptance_length(directory: Path) -> float | None:
    """Mean over the domains of what training held out, tokens per target step, as it was
    measured at temperature 1; None without a record."""
    lengths = []
    for domain in (_read(directory).get("held_out") or {}).values():
        length = domain.get("acceptance_length") if isinstance(domain, dict) else None
        if isinstance(length, float):
            lengths.append(length)
    return statistics.fmean(lengths) if lengths else None


def _read(directory: Path) -> dict[str, Any]:
    """The record; empty where there is none, or a file of that name that is somebody else's."""
    try:
        found = json.loads((directory / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
