"""Verification on a device keeps the target's distribution, as it does on the processor."""

from __future__ import annotations

import pytest
import torch

from drafters import verification
from drafters.messages import SparseDistribution
from tests.gpu.devices import DEVICES
from tests.unit.drafters.test_verification import (
    NOISE,
    VOCABULARY,
    constrained,
    target_logits,
    variation,
)

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.mark.parametrize("mode", ["q", "one-hot", "mixed"])
def test_the_targets_distribution_comes_out(device, mode):
    logits = constrained(target_logits(), 0.7, 6, 0.9).to(device)
    assert variation(mode, logits, rounds=5) < NOISE


def test_a_wrong_rule_shows(device, monkeypatch):
    right = verification.acceptance_ratio
    monkeypatch.setattr(verification, "acceptance_ratio", lambda p, q: 0.9 * right(p, q))
    assert variation("q", target_logits().to(device), rounds=5) > NOISE


def test_greedy_rows_rows_without_drafts_and_an_excluded_token_share_a_batch(device):
    logits = torch.full((4, VOCABULARY), -20.0, device=device)
    for position, token in enumerate((1, 2, 3, 4)):
        logits[position, token] = 20.0
    q = SparseDistribution(
        torch.tensor([[1, 0], [5, 0], [3, 0], [6, 7]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]),
    ).to(torch.device(device))
    drawn = verification.rejection_sample(
        torch.tensor([1, 5, 3, 4], device=device),
        [2, 0, 1, 1],
        q,
        logits,
        torch.tensor([7, 6, 5, 0], device=device),
        torch.tensor([True, False, False, False], device=device),
        max_drafts=2,
    )
    assert drawn.device.type == device
    assert drawn.dtype == torch.int32
    # Greedy: one accepted, then the target's choice. Nothing drafted: the bonus token. Accepted
    # whole: bonus. A token that q could not give: drawn anew from the target.
    assert drawn.tolist() == [[1, 2, -1], [6, -1, -1], [3, 5, -1], [4, -1, -1]]
