"""What there is to say of n-gram lookup, which has no checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from profiles.fingerprint import settings_fingerprint

# By tokens that match, 1 to 4 and more. Chosen, not fitted: `dspark confidence ngram` fits them.
CONFIDENCE_BY_MATCH = (0.3, 0.5, 0.65, 0.75)


def ngram_version(
    *,
    block_size: int,
    min_match: int = 1,
    max_match: int = 4,
    confidence_by_match: Sequence[float] | None = None,
) -> str:
    """What stands for weights in a `profiles.provenance.DraftingPair`."""
    settings: dict[str, Any] = {
        "block_size": block_size,
        "min_match": min_match,
        "max_match": max_match,
    }
    if confidence_by_match is not None:
        settings["confidence_by_match"] = list(confidence_by_match)
    return settings_fingerprint(settings)
