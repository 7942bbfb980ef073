"""A step on a device that is not the processor: everything lies there, nothing is waited for.

The meta device computes shapes alone. It refuses tensors of other devices as CUDA does, and
any look at a value, which on CUDA would stop the host until the device has caught up.
"""

from __future__ import annotations

import pytest
import torch
from drafter_fixtures import KINDS, engine_of, small_drafter

from drafters.engine import DraftEngine
from drafters.messages import StepBatch, StepRow

WITH_WEIGHTS = sorted(KINDS.keys() - {"ngram"})  # its matches end where the text says


@pytest.fixture(params=WITH_WEIGHTS)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DraftEngine:
    model = small_drafter(request.param).to("meta")
    make = torch.Generator
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", lambda device: make())  # meta has none
        return engine_of(model)


def step(engine: DraftEngine, start: int, num_rows: int, anchor: int | None, temperature: float):
    config = engine.model.config
    tokens = (5,) * num_rows if config.needs_tokens else ()
    row = StepRow("r", 1, start, num_rows, anchor, 0, (b"a", b"b"), temperature, tokens)
    return StepBatch("t", (row,), torch.empty(num_rows, config.feature_size, device="meta"))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_stay_on_the_device(engine, temperature):
    # A prompt that outgrows the window, new rows, rows cut off and fed again, context alone.
    for start, num_rows, anchor in ((0, 80, 5), (80, 3, 5), (78, 3, 5), (81, 2, None), (83, 1, 5)):
        (drafts,) = engine.step([step(engine, start, num_rows, anchor, temperature)])
        assert drafts.tokens.shape == (anchor is not None, engine.model.config.block_size)
        devices = {drafts.tokens.device.type, drafts.confidences.device.type}
        if drafts.distribution is not None:
            devices |= {drafts.distribution.token_ids.device.type}
            devices |= {drafts.distribution.probs.device.type}
        assert devices == {"meta"}
        assert (drafts.distribution is not None) == (temperature > 0 and anchor is not None)
