"""The draft engine on a device drafts what it drafts on the processor."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from autoscale.policies import Fixed
from deployments.engine.adapter import SpeculationAdapter
from deployments.engine.engine_step import EngineStep, RequestTerms
from drafters.engine import DraftEngine
from drafters.messages import DraftBatch, StepBatch
from drafters.ngram import NgramModel
from drafters.server import DraftServer
from drafters.sources import ColocatedDraftSource, RemoteDraftSource
from tests.gpu.devices import DEVICES
from tests.unit.drafters.drafter_fixtures import KINDS, engine_of, small_drafter, step_of

pytestmark = pytest.mark.parametrize("device", DEVICES)
WITH_WEIGHTS = sorted(KINDS.keys() - {"ngram"})
VOCABULARY = 96  # of the fixtures' drafters


def model_on(device: str, kind: str) -> Any:
    """One of the fixtures' random drafters in float32."""
    model = small_drafter(kind)
    if isinstance(model, NgramModel):
        return NgramModel(model.config, device)
    return model.to(device)


def traffic(model: Any, temperature: float = 0.0) -> list[list[StepBatch]]:
    """Calls of an engine: prompts, growth, a rewind, a closed prefix that is found again."""

    def step(start: int, end: int, **how: Any) -> StepBatch:
        return step_of(model, start, end, **({"temperature": temperature} | how))

    return [
        [step(0, 22, named=0), step(0, 9, seed=1, target="u", drafts=False)],
        [step(22, 25, named=22), step(9, 14, seed=1, target="u")],
        [step(23, 27), step(14, 15, seed=1, target="u")],  # cuts a block that is shared
        [step(16, 24, request="s", named=0, closed=("r",))],
        [step(40, 43, seed=1, target="u")],  # a gap
        [step(0, 90, seed=2, target="v", named=0)],  # longer than the window
    ]


def drafts_of(engine: DraftEngine, calls: list[list[StepBatch]]) -> list[DraftBatch]:
    return [drafts for batches in calls for drafts in engine.step(batches)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_greedy_drafts_are_those_of_the_processor(device, kind):
    model = model_on(device, kind)
    engine = engine_of(model)
    found = drafts_of(engine, traffic(model))
    wanted = drafts_of(engine_of(model_on("cpu", kind)), traffic(model))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens.device.type == ours.confidences.device.type == device
        assert torch.equal(ours.tokens.cpu(), theirs.tokens)
        torch.testing.assert_close(ours.confidences.cpu(), theirs.confidences, atol=1e-4, rtol=1e-4)
    assert engine.stats.prefix_blocks_reused > 0
    assert engine.stats.gaps == 1


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_the_first_q_is_that_of_the_processor_and_holds_every_token(device, kind):
    model = model_on(device, kind)
    found = drafts_of(engine_of(model), traffic(model, 0.8))
    wanted = drafts_of(engine_of(model_on("cpu", kind)), traffic(model, 0.8))
    for ours, theirs in zip(found, wanted, strict=True):
        if not len(theirs.tokens):
            continue
        q, expected = ours.distribution, theirs.distribution
        assert q is not None
        assert expected is not None
        assert q.token_ids.device.type == q.probs.device.type == device
        assert bool((q.prob_of(ours.tokens) > 0).all())
        # Later positions depend on what was drawn before them.
        torch.testing.assert_close(dense(q)[:, 0], dense(expected)[:, 0], atol=1e-4, rtol=1e-4)


def dense(q: Any) -> torch.Tensor:
    """[..., V] on the processor."""
    ids, probs = q.token_ids.cpu(), q.probs.cpu()
    return torch.zeros(*ids.shape[:-1], VOCABULARY).scatter_add_(-1, ids, probs)


def test_sampled_tokens_are_spread_as_their_q_says(device):
    model, rows = model_on(device, "vanilla"), 2000
    batch = step_of(model, 0, 6, temperature=1.3)
    many = tuple(batch.rows[0]._replace(request_id=str(i)) for i in range(rows))
    batch = StepBatch("t", many, batch.features.repeat(rows, 1))
    (drafts,) = engine_of(model, num_blocks=2 * rows + 64).step([batch])
    assert drafts.distribution is not None
    expected = dense(drafts.distribution).sum(0)  # [gamma, V]
    counted = torch.stack([torch.bincount(t, minlength=VOCABULARY) for t in drafts.tokens.cpu().T])
    # Five standard deviations of a count that q predicts.
    assert bool(((counted - expected).abs() < 5 * expected.sqrt() + 5).all())


def test_drafts_travel_from_the_device(device):
    model = model_on(device, "vanilla")
    engine, twin = engine_of(model), engine_of(model_on("cpu", "vanilla"))
    server = DraftServer(engine, host="127.0.0.1", secret="s", shape=model.config.shape)
    server.start()
    source = RemoteDraftSource(deadline_s=30, secret="s", shape=model.config.shape)
    source.set_address(server.address)
    with closing(source):
        for batch in (step_of(model, 0, 22), step_of(model, 22, 25)):
            drafts, (wanted,) = source.draft(batch), twin.step([batch])
            assert drafts is not None
            assert torch.equal(drafts.tokens, wanted.tokens)
            torch.testing.assert_close(drafts.confidences, wanted.confidences, atol=1e-4, rtol=1e-4)
        sampled = source.draft(step_of(model, 25, 26, temperature=0.8))
        assert sampled is not None
        assert sampled.distribution is not None
    assert server.stop()


def test_the_adapter_drafts_colocated_on_the_device(device):
    model = model_on(device, "vanilla")
    gamma, layers = model.config.block_size, len(model.config.target_layer_ids)
    adapter = SpeculationAdapter(
        ColocatedDraftSource(engine_of(model)),
        Fixed(gamma),
        target_id="t",
        block_size=gamma,
        block_tokens=4,
        num_context_tokens=64,
        max_model_len=256,
        vocab_size=VOCABULARY,
    )
    adapter.open_request("sampled", RequestTerms(temperature=0.8))
    adapter.open_request("greedy", RequestTerms())
    width = model.config.feature_size // layers
    ids = ["sampled", "greedy"]
    tokens = adapter.step(
        EngineStep(
            request_ids=ids,
            num_scheduled={"sampled": 6, "greedy": 9},
            drafts={},
            num_computed=np.zeros(2, dtype=np.int32),
            sampled=[[7], [8]],
            token_ids=np.tile(np.arange(256, dtype=np.int32) % VOCABULARY, (2, 1)),
            features=[torch.randn(15, width, device=device) for _ in range(layers)],
        )
    )
    assert [len(drafted) for drafted in tokens] == [gamma, gamma]
    assert (adapter.stats.malformed_replies, adapter.source.stats.errors) == (0, 0)
    q = adapter.draft_distribution(ids, dict(zip(ids, tokens, strict=True)))
    assert q is not None
    assert q.probs.device.type == device
    of_drafts = q.prob_of(torch.tensor(tokens, device=device).flatten()).cpu()
    assert bool((of_drafts[:gamma] > 0).all())
    assert of_drafts[gamma:].tolist() == [1.0] * gamma  # one-hot
