"""`dspark confidence`: confidences for a drafter without a head, from an evaluation of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drafters.checkpoint import empty_model
from drafters.confidence import TopProbConfidence, fit_confidence
from drafters.config import NgramConfig, read_config
from drafters.errors import CheckpointError
from drafters.layouts import read_layout
from drafters.ngram_settings import CONFIDENCE_BY_MATCH, ngram_version
from profiles.fingerprint import CONFIDENCE_FILE, checkpoint_fingerprint
from profiles.outcomes import Outcomes, load_outcomes
from profiles.provenance import NGRAM, check_provenance


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
    fitted = fit_confidence(outcomes.confidences, *_tried(outcomes))
    fitted.save(directory)
    return fitted


def fit_ngram(outcomes_file: Path) -> tuple[float, ...]:
    """`drafter.ngram.confidence_by_match` of the default lookup: the share accepted of tried
    tokens by the length of the match. A length that never occurred keeps what it had.

    Raises ProfileError for a file that cannot be read, ProvenanceError for one of another
    drafter, or of a lookup that is not the default one.
    """
    outcomes, pair, _ = load_outcomes(outcomes_file)
    expected = {
        "drafter_id": NGRAM,
        "drafter_version": ngram_version(block_size=outcomes.block_size),
    }
    check_provenance(outcomes_file, pair.as_metadata(), expected)
    accepted, tried = _tried(outcomes)
    fitted = []
    for claimed in CONFIDENCE_BY_MATCH:
        of_length = tried & np.isclose(outcomes.confidences, claimed)
        share = accepted[of_length].mean() if of_length.any() else claimed
        fitted.append(round(float(share), 3))
    return tuple(fitted)


def _tried(outcomes: Outcomes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Bool [N, gamma]: which tokens were accepted, and which tried, all before them being so."""
    positions = np.arange(outcomes.block_size)
    accepted = positions < outcomes.num_accepted[:, None]
    tried = positions < np.minimum(outcomes.num_admitted, outcomes.num_accepted + 1)[:, None]
    return accepted, tried
