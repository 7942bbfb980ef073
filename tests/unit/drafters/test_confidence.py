"""Confidences from a drafter's own distribution: the model, its fit, its file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from drafters.confidence import TopProbConfidence, fit_confidence, top_log_odds
from drafters.errors import CheckpointError


def test_log_odds_are_those_of_the_likeliest_token() -> None:
    logits = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)], [0.0, 0.0, 0.0]])
    wanted = torch.tensor([math.log(0.7 / 0.3), math.log(0.5)])
    torch.testing.assert_close(top_log_odds(logits), wanted)


def test_certainty_stays_finite() -> None:
    odds = top_log_odds(torch.tensor([[1e4, 0.0]]))
    assert odds.item() == pytest.approx(math.log(1e6), rel=0.05)


def test_identity_gives_the_probability_back() -> None:
    probs = torch.tensor([[0.9, 0.25]])
    odds = probs.logit()
    torch.testing.assert_close(TopProbConfidence.identity(2).confidences(odds), probs)
    scaled = TopProbConfidence((2.0, 0.0), (0.5, -1.0)).confidences(odds)
    wanted = [1 / (1 + math.exp(-(2 * odds[0, 0] + 0.5))), 1 / (1 + math.e)]
    torch.testing.assert_close(scaled, torch.tensor([wanted]))


def labelled(scale: float, offset: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    odds = rng.normal(1.0, 1.5, count)
    rates = 1 / (1 + np.exp(-(scale * odds + offset)))
    return 1 / (1 + np.exp(-odds)), rng.random(count) < rates


def test_fit_finds_what_made_the_labels() -> None:
    columns = [labelled(0.5, -1.0, 40_000), labelled(1.4, 0.3, 40_000)]
    probs, accepted = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    fitted = fit_confidence(probs, accepted, np.ones_like(accepted))
    assert fitted.scale == pytest.approx((0.5, 1.4), abs=0.05)
    assert fitted.offset == pytest.approx((-1.0, 0.3), abs=0.05)


def test_fit_counts_only_what_counts() -> None:
    probs, accepted = (part[:, None] for part in labelled(0.5, -1.0, 4_000))
    counted = np.arange(4_000)[:, None] < 2_000
    spoiled = np.where(counted, accepted, ~accepted)
    assert fit_confidence(probs, spoiled, counted) == fit_confidence(
        probs[:2_000], accepted[:2_000], counted[:2_000]
    )


def test_without_labels_the_fit_is_the_identity() -> None:
    probs = np.full((5, 3), 0.7)
    nothing = np.zeros((5, 3), dtype=bool)
    assert fit_confidence(probs, nothing, nothing) == TopProbConfidence.identity(3)


def test_a_falling_relation_becomes_a_constant() -> None:
    probs, accepted = labelled(-1.0, 0.0, 5_000)
    fitted = fit_confidence(probs[:, None], accepted[:, None], np.ones((5_000, 1), dtype=bool))
    assert fitted.scale == (0.0,)
    assert 1 / (1 + math.exp(-fitted.offset[0])) == pytest.approx(accepted.mean(), abs=1e-3)


def test_certain_labels_do_not_run_away() -> None:
    probs = np.full((200, 1), 0.99)
    fitted = fit_confidence(probs, np.ones((200, 1), dtype=bool), np.ones((200, 1), dtype=bool))
    assert all(math.isfinite(x) for x in (*fitted.scale, *fitted.offset))


def test_the_file_keeps_the_model(tmp_path: Path) -> None:
    model = TopProbConfidence((0.5, 1.25), (-1.0, 0.1))
    model.save(tmp_path)
    assert TopProbConfidence.load(tmp_path, 2) == model
    assert TopProbConfidence.load(tmp_path / "elsewhere", 2) == TopProbConfidence.identity(2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": [1.0, 1.0]}, "offset"),
        ({"scale": [1.0], "offset": [0.0, 0.0]}, r"scale is \[1.0\]; needed are 2"),
        ({"scale": [1.0, -1.0], "offset": [0.0, 0.0]}, "not negative"),
        ({"scale": [1.0, 1.0], "offset": [0.0, math.inf]}, "offset is"),
        ({"scale": "ab", "offset": [0.0, 0.0]}, "needs numbers"),
        ([], "needs numbers"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, fields: object, message: str
) -> None:
    (tmp_path / "confidence.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=message) as error:
        TopProbConfidence.load(tmp_path, 2)
    assert "confidence.json" in str(error.value)
