"""Where a profile comes from, and the refusal to use it anywhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

NGRAM = "ngram"  # the drafter_id of n-gram lookup, which has no checkpoint


class ProfileError(ValueError):
    """A profile cannot be used as it is.

    `ProfileError` ─ the file, the field in it, what was found, and the mend
    └ `ProvenanceError` ─ measured on something else than what is served here
    """


class ProvenanceError(ProfileError):
    """The message names every key that differs."""


@dataclass(frozen=True, slots=True)
class DraftingPair:
    """The target and the drafter that outcomes and calibrations belong to.

    `model_revision` and `drafter_version` change with the weights: see
    `profiles.fingerprint`.
    """

    model_id: str
    model_revision: str
    drafter_id: str
    drafter_version: str

    def as_metadata(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> DraftingPair:
        """Raises KeyError for a key that is missing."""
        return cls(**{field.name: metadata[field.name] for field in fields(cls)})


def candidates_of(path: Path, metadata: Mapping[str, str]) -> int | None:
    """From how many of the likeliest tokens sampled drafts were drawn, where a file says so.

    Raises ProfileError for what is no count.
    """
    found = metadata.get("num_candidates")
    if found is None:
        return None
    if not found.isdecimal():
        raise ProfileError(f"{path}: num_candidates is {found!r}, not a count; write it again")
    return int(found)


def check_provenance(
    path: Path,
    found: Mapping[str, str],
    expected: Mapping[str, str],
    overridden: Collection[str] = (),
) -> None:
    """Raises ProvenanceError where `found` differs from `expected` in a key.

    Keys in `overridden` may differ.
    """
    differing = [
        f"{key} is {found.get(key)!r} there and {value!r} here"
        for key, value in expected.items()
        if found.get(key) != value and key not in overridden
    ]
    if differing:
        raise ProvenanceError(
            f"{path} was measured on something else: {'; '.join(differing)}. "
            "Measure again, or override these keys explicitly"
        )
