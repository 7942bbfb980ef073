"""`dspark confidence`: from a drafter's outcomes to its confidence.json."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from drafter_fixtures import KINDS, small_drafter, write_checkpoint

from deployments.specs import NgramDrafterSpec
from drafters.commands import run_confidence
from drafters.confidence import TopProbConfidence
from drafters.ngram_settings import CONFIDENCE_BY_MATCH, ngram_version
from profiles.fingerprint import checkpoint_fingerprint
from profiles.outcomes import Outcomes, save_outcomes
from profiles.provenance import DraftingPair

GAMMA = 5
SCALE, OFFSET = 0.6, -0.8
NUM_DRAFTS = 20_000


def write_drafter(directory: Path, kind: str) -> Path:
    tensors = {name: t.clone() for name, t in small_drafter(kind).state_dict().items()}
    return write_checkpoint(directory, tensors, **KINDS[kind])


def write_outcomes_of(drafter: Path, path: Path) -> Path:
    """Tokens are accepted as SCALE and OFFSET say; half of the drafts are cut short."""
    rng = np.random.default_rng(0)
    odds = rng.normal(1.0, 1.5, (NUM_DRAFTS, GAMMA))
    rates = 1 / (1 + np.exp(-(SCALE * odds + OFFSET)))
    would = np.cumprod(rng.random(rates.shape) < rates, axis=1).sum(axis=1)
    admitted = np.where(rng.random(NUM_DRAFTS) < 0.5, GAMMA, 2)
    outcomes = Outcomes(
        prompt_ids=("p",) * NUM_DRAFTS,
        domains=("any",) * NUM_DRAFTS,
        verification_modes=("greedy",) * NUM_DRAFTS,
        sampling_temperatures=np.zeros(NUM_DRAFTS),
        confidences=1 / (1 + np.exp(-odds)),
        num_admitted=admitted,
        num_accepted=np.minimum(would, admitted),
    )
    save_outcomes(path, outcomes, DraftingPair("t", "1", "d", checkpoint_fingerprint(drafter)))
    return path


def fit(drafter: Path, outcomes: Path) -> int:
    return run_confidence(SimpleNamespace(directory=drafter, outcomes=outcomes))


def test_what_made_the_labels_is_found_and_the_drafter_becomes_another(tmp_path, capsys):
    drafter = write_drafter(tmp_path / "d", "dflash")
    before = checkpoint_fingerprint(drafter)
    outcomes = write_outcomes_of(drafter, tmp_path / "outcomes.parquet")
    assert fit(drafter, outcomes) == 0
    fitted = TopProbConfidence.load(drafter, GAMMA)
    assert fitted.scale == pytest.approx((SCALE,) * GAMMA, abs=0.15)
    assert fitted.offset == pytest.approx((OFFSET,) * GAMMA, abs=0.25)
    assert checkpoint_fingerprint(drafter) != before
    assert fit(drafter, outcomes) == 2
    assert "remove the file and evaluate again" in capsys.readouterr().err


def test_confidences_of_lookup_are_shares_by_length_of_the_match(tmp_path, capsys):
    rng = np.random.default_rng(1)
    length, n = rng.integers(1, 4, NUM_DRAFTS), NUM_DRAFTS  # a match of 4 never occurs
    truth = np.array([0.0, 0.2, 0.4, 0.8])[length]
    would = (rng.random((n, GAMMA)) < truth[:, None]).cumprod(axis=1).sum(axis=1)
    admitted = np.where(rng.random(n) < 0.5, GAMMA, 2)
    claimed = np.array([0.0, *CONFIDENCE_BY_MATCH])[length]
    outcomes = Outcomes(
        prompt_ids=("p",) * n,
        domains=("any",) * n,
        verification_modes=("one-hot",) * n,
        sampling_temperatures=np.ones(n),
        confidences=np.repeat(claimed[:, None], GAMMA, axis=1),
        num_admitted=admitted,
        num_accepted=np.minimum(would, admitted),
    )
    path = tmp_path / "outcomes.parquet"
    version = ngram_version(block_size=GAMMA)
    save_outcomes(path, outcomes, DraftingPair("t", "1", "ngram", version))
    assert fit(Path("ngram"), path) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    spec = NgramDrafterSpec(block_size=GAMMA, **said["drafter"]["ngram"])
    assert spec.confidence_by_match == pytest.approx((0.2, 0.4, 0.8, 0.75), abs=0.02)
    save_outcomes(path, outcomes, DraftingPair("t", "1", "ngram", ngram_version(block_size=7)))
    assert fit(Path("ngram"), path) == 2
    assert "drafter_version" in capsys.readouterr().err


def test_outcomes_of_another_drafter_and_a_drafter_with_a_head_are_refused(tmp_path, capsys):
    drafter = write_drafter(tmp_path / "d", "dflash")
    outcomes = write_outcomes_of(drafter, tmp_path / "outcomes.parquet")
    other = write_drafter(tmp_path / "other", "mtp")
    assert fit(other, outcomes) == 2
    assert "drafter_version" in capsys.readouterr().err
    headed = write_drafter(tmp_path / "h", "vanilla")
    assert fit(headed, outcomes) == 2
    assert "confidences of its own" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/confidence.json"))
