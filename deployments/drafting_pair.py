"""Which target and drafter a model serves together, by name and weights, and what a
calibration profile knows of the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoscale.acceptance import acceptance_rate
from autoscale.calibration_messages import calibrations_to_plain
from autoscale.learned_profile import calibrations_of
from deployments.checkpoints import checkpoint_version, local_directory, local_file
from deployments.errors import ConfigError
from deployments.schema import DrafterSpec, ModelSpec
from drafters.ngram_settings import ngram_version
from drafters.training_record import held_out_acceptance_length
from profiles.calibration import load_calibration
from profiles.fingerprint import settings_fingerprint
from profiles.provenance import NGRAM, DraftingPair, ProfileError

_NAMES = ("model_id", "drafter_id")  # of directories, which may be called anything


def drafting_pair(model: ModelSpec) -> DraftingPair:
    """The pair of a model that our adapter drafts for.

    Reads the edges of weight files, and of the hub nothing but a config. Raises ConfigError
    when a checkpoint is missing.
    """
    target, drafter = model.target, model.drafter
    assert drafter is not None
    where = f"model {model.id}"
    version = checkpoint_version(target.source, f"{where}: target.source", target.revision)
    drafter_names = _drafter_names(drafter, f"{where}: drafter.source")
    return DraftingPair(_name(target.source), version, *drafter_names)


def starting_calibrations(model: ModelSpec, block_size: int) -> dict[str, Any]:
    """What `drafter.calibration` holds, as `calibrations_to_plain`; empty without one.

    Raises ConfigError naming what differs for a profile of another pair, block size or, where
    it has calibrations of sampled drafts, `num_candidates`, and for a file that is none.
    """
    drafter = model.drafter
    assert drafter is not None
    if drafter.calibration is None:
        return {}
    field = f"model {model.id}: drafter.calibration"
    try:
        path = local_file(drafter.calibration, field)
        profile = load_calibration(path, drafting_pair(model), overridden=_NAMES)
    except ProfileError as error:
        raise ConfigError(f"{field}: {error}") from None
    for key, positions in profile.entries.items():
        if len(positions) != block_size:
            raise ConfigError(
                f"{field}: {path} has {len(positions)} positions for {key}, the drafter's "
                f"block_size is {block_size}; calibrate again"
            )
    drawn_from = profile.num_candidates
    is_sampled = any(key.verification_mode == "q" for key in profile.entries)
    if is_sampled and drawn_from not in (None, drafter.num_candidates):
        raise ConfigError(
            f"{field}: {path} was measured with sampled drafts from the {drawn_from} likeliest "
            f"tokens, drafter.num_candidates is {drafter.num_candidates}; set that to "
            f"{drawn_from}, or evaluate with --candidates {drafter.num_candidates} and calibrate "
            "again"
        )
    return calibrations_to_plain(calibrations_of(profile))


def promised_rate(model: ModelSpec, block_size: int) -> float | None:
    """`drafter.acceptance_length`, or what its training measured, as a share of the draft tokens
    tried; None without either.

    Raises ConfigError for a length that no drafter of this block size can have.
    """
    drafter = model.drafter
    if drafter is None:
        return None
    length = drafter.acceptance_length
    directory = drafter_directory(drafter)
    if length is None and directory is not None:
        length = held_out_acceptance_length(directory)
    if length is None:
        return None
    try:
        return acceptance_rate(length, block_size)
    except ValueError as error:
        raise ConfigError(f"model {model.id}: drafter.{error}") from None


def drafter_directory(drafter: DrafterSpec) -> Path | None:
    """Where a drafter's checkpoint lies; None for one on the hub or without a checkpoint."""
    return None if drafter.source is None else local_directory(drafter.source)


def _drafter_names(drafter: DrafterSpec, field: str) -> tuple[str, str]:
    """`drafter_id` and `drafter_version`."""
    if drafter.source is not None:
        version = checkpoint_version(drafter.source, field, drafter.revision)
        return _name(drafter.source), version
    if drafter.random is not None:
        return "random", settings_fingerprint(drafter.random.model_dump())
    assert drafter.ngram is not None
    return NGRAM, ngram_version(**drafter.ngram.model_dump())


def _name(source: str) -> str:
    directory = local_directory(source)
    return source if directory is None else directory.name
