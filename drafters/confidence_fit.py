"""`dspark confidence`: confidences for a drafter without a head, from an evaluation of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drafters.checkpoint import empty_model
from drafters.confidence import TopProbConfidence, fit_confidence
from drafters.config import NgramConfig, read_config
from drafters.errors import CheckpointError
from drafters.layouts import read_layout
from profiles.fingerprint import CONFIDENCE_FILE, checkpoint_fingerprint
from profiles.outcomes import load_outcomes
from profiles.provenance import check_provenance


def fit_from_outcomes(directory: Path, outcomes_file: Path) -> TopProbConfidence:
    """Write `directory`/confidence.json, fitted to what became of the drafter's drafts.

    The label rule is that of `fit_confidence`. Raises CheckpointError for a drafter that has
    confidences of its own or was fitted before, ProfileError for a file that cannot be read,
    ProvenanceError for the outcomes of another drafter.
    """
    path = directory / CONFIDENCE_FILE
    config = read_layout(read_config(directory), str(directory / "config.json")).config
    if isinstance(config, NgramConfig) or empty_model(config).has_confidence_head:
        raise CheckpointError(f"{directory}: the drafter has confidences of its own")
    if path.exists():
        raise CheckpointError(
            f"{path}: the drafter is fitted; for another fit remove the file and evaluate again"
        )
    outcomes, pair, _ = load_outcomes(outcomes_file)
    expected = {"drafter_version": checkpoint_fingerprint(directory)}
    check_provenance(outcomes_file, pair.as_metadata(), expected)
    positions = np.arange(outcomes.block_size)
    accepted = positions < outcomes.num_accepted[:, None]
    counted = positions < np.minimum(outcomes.num_admitted, outcomes.num_accepted + 1)[:, None]
    fitted = fit_confidence(outcomes.confidences, accepted, counted)
    fitted.save(directory)
    return fitted
