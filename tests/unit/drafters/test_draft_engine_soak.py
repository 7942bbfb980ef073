"""Thousands of random steps: memory stays bounded and every draft is a draft."""

from __future__ import annotations

import random

import pytest
import torch

from drafters.checkpoint import random_drafter
from drafters.engine import DraftEngine
from drafters.messages import StepBatch, StepRow

NUM_BLOCKS, BLOCK, WINDOW, GAMMA = 24, 8, 64, 3


@pytest.mark.long
def test_random_sessions_stay_within_the_pool():
    model = random_drafter(
        "models/demo-target",
        num_layers=1,
        block_size=GAMMA,
        markov_rank=8,
        target_layer_ids=(1, 3, 5),
        seed=0,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    engine = DraftEngine(
        model, num_blocks=NUM_BLOCKS, block_tokens=BLOCK, num_context_tokens=WINDOW
    )
    rng = random.Random(0)
    ends: dict[str, int] = {}
    for step in range(3000):
        closed = tuple(name for name in ends if rng.random() < 0.05)
        for name in closed:
            del ends[name]
        if len(ends) < 10 and rng.random() < 0.5:
            ends[f"r{step}"] = rng.choice((0, 0, BLOCK * rng.randrange(9)))
        rows = []
        for name, end in list(ends.items()):
            start = end + rng.choice((0,) * 20 + (5,))  # now and then a gap
            num_rows = rng.choice((1, 2, 3, 40))
            rows.append(StepRow(name, 1, start, num_rows, anchor=rng.randrange(8000)))
            ends[name] = start + num_rows
        features = torch.randn(sum(r.num_rows for r in rows), model.config.feature_size)
        (drafts,) = engine.step([StepBatch("t", tuple(rows), features, closed)])
        assert drafts.tokens.shape == (len(rows), GAMMA)
        stats = engine.stats
        assert stats.blocks_used + stats.blocks_cached <= NUM_BLOCKS
        assert stats.sessions <= len(ends)
    engine.close_target("t")
    assert engine.stats.blocks_used == 0
