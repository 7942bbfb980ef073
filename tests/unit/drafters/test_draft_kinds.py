"""What holds for every kind of drafter: batching, both placements, sampling, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from drafter_fixtures import (
    FIELDS,
    KINDS,
    TARGET_FIELDS,
    engine_of,
    small_drafter,
    step_of,
)

from drafters import CheckpointError, DrafterConfig
from drafters.config import check_fit
from drafters.footprint import measure_footprint
from drafters.measure import draft_times_ms
from drafters.messages import StepBatch, StepRow
from drafters.server import DraftServer
from drafters.sources import ColocatedDraftSource, RemoteDraftSource

HEADLESS = ["dflash", "eagle3", "gemma4_eagle3", "mtp"]
WITH_WEIGHTS = [kind for kind in KINDS if kind != "ngram"]


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_of_many_targets_draft_together_as_alone(kind: str) -> None:
    model = small_drafter(kind)
    lengths = [1, 37, 4, 60, 17]
    engine = engine_of(model)
    batches = [step_of(model, 0, n, seed=i, target=f"t{i % 4}-{i}") for i, n in enumerate(lengths)]
    together = engine.step(batches)
    for batch, draft in zip(batches, together, strict=True):
        alone = engine_of(model).step([batch])[0]
        assert torch.equal(draft.tokens, alone.tokens)
        torch.testing.assert_close(draft.confidences, alone.confidences, atol=1e-5, rtol=1e-5)
    assert len({tuple(draft.tokens[0].tolist()) for draft in together}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_context_in_many_steps_is_context_in_one(kind: str) -> None:
    model = small_drafter(kind)
    whole, parts = engine_of(model), engine_of(model)
    for start, end in [(0, 5), (5, 6), (6, 13), (13, 16)]:
        parts.step([step_of(model, start, end, drafts=end % 2 == 0)])
    wanted = whole.trace(step_of(model, 0, 19))
    found = parts.trace(step_of(model, 16, 19))
    assert torch.equal(found.tokens, wanted.tokens)
    torch.testing.assert_close(found.confidences, wanted.confidences, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_are_the_same_colocated_and_split(kind: str) -> None:
    model = small_drafter(kind)
    server = DraftServer(engine_of(model), host="127.0.0.1", secret="s", shape=model.config.shape)
    server.start()
    remote = RemoteDraftSource(
        deadline_s=5, secret="s", target_id="t", shape=model.config.shape, address=server.address
    )
    colocated = ColocatedDraftSource(engine_of(model))
    try:
        for start, end in [(0, 11), (11, 14)]:
            batch = step_of(model, start, end)
            near, far = colocated.draft(batch), remote.draft(batch)
            assert near is not None
            assert far is not None
            assert torch.equal(near.tokens, far.tokens)
            # The server's thread may compute with another number of threads.
            torch.testing.assert_close(near.confidences, far.confidences)
    finally:
        remote.close()
        assert server.stop()


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_sampled_tokens_come_from_the_q_that_is_told(kind: str) -> None:
    """Tokens of equal drafts at every position must be spread as their q says."""
    model = small_drafter(kind)
    rows, gamma = 2000, model.config.block_size
    batch = step_of(model, 0, 6, temperature=1.3)
    row = batch.rows[0]
    batch = StepBatch(
        "t",
        tuple(row._replace(request_id=str(i)) for i in range(rows)),
        batch.features.repeat(rows, 1),
    )
    draft = engine_of(model, num_blocks=2 * rows + 64).step([batch])[0]
    q = draft.distribution
    assert q is not None
    assert q.probs.shape == (rows, gamma, 32)
    torch.testing.assert_close(q.probs.sum(-1), torch.ones(rows, gamma))
    assert bool((q.prob_of(draft.tokens) > 0).all())
    expected = torch.zeros(gamma, 96).scatter_add_(
        1, q.token_ids.transpose(0, 1).flatten(1), q.probs.transpose(0, 1).flatten(1)
    )
    counted = torch.stack([torch.bincount(t, minlength=96) for t in draft.tokens.T])
    # Five standard deviations of a count that q predicts.
    assert bool(((counted - expected).abs() < 5 * expected.sqrt() + 5).all())


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_q_is_the_truncated_distribution_of_the_final_logits(kind: str) -> None:
    model = small_drafter(kind)
    draft = engine_of(model).trace(step_of(model, 0, 6, temperature=0.7))
    assert draft.logits is not None
    assert draft.distribution is not None
    top = (draft.logits / 0.7).topk(32)
    torch.testing.assert_close(draft.distribution.probs, top.values.softmax(-1))
    assert torch.equal(draft.distribution.token_ids, top.indices)


@pytest.mark.parametrize("kind", [kind for kind in WITH_WEIGHTS if kind not in HEADLESS])
def test_a_heads_confidence_counts_for_what_the_candidates_hold(kind: str) -> None:
    model = small_drafter(kind)
    draft = engine_of(model).trace(step_of(model, 0, 6, temperature=5.0))
    assert draft.logits is not None
    assert draft.confidence_logits is not None
    held = (draft.logits / 5.0).softmax(-1).topk(32).values.sum(-1)
    assert float(held.max()) < 0.9
    torch.testing.assert_close(draft.confidences, draft.confidence_logits.sigmoid() * held)
    for whole in (
        engine_of(model, num_candidates=96).trace(step_of(model, 0, 6, temperature=5.0)),
        engine_of(model).trace(step_of(model, 0, 6, temperature=0.0)),
    ):
        assert whole.confidence_logits is not None
        torch.testing.assert_close(whole.confidences, whole.confidence_logits.sigmoid())


@pytest.mark.parametrize("kind", HEADLESS)
def test_confidence_is_known_before_the_token_is_drawn(kind: str) -> None:
    """The first position's depends on the context alone, later ones on the tokens before."""
    model = small_drafter(kind)
    draws = [
        engine_of(model).step([step_of(model, 0, 6, temperature=t, request=str(i))])[0]
        for i, t in enumerate([0.0, 1.0, 5.0])
    ]
    firsts = torch.stack([draw.confidences[0, 0] for draw in draws])
    torch.testing.assert_close(firsts, firsts[:1].expand(3))
    draft = engine_of(model).trace(step_of(model, 0, 6, temperature=5.0))
    assert draft.logits is not None
    torch.testing.assert_close(draft.confidences, draft.logits.softmax(-1).amax(-1))


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_bfloat16_drafts_are_near_float32s(kind: str) -> None:
    model = small_drafter(kind)
    exact = engine_of(model).trace(step_of(model, 0, 9))
    half = engine_of(model.to(torch.bfloat16)).trace(step_of(model, 0, 9))
    assert exact.logits is not None
    assert half.logits is not None
    scale = exact.logits[:, 0].abs().max()
    torch.testing.assert_close(
        half.logits[:, 0].float(), exact.logits[:, 0], atol=0.1 * scale, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_features_still_gets_a_draft(kind: str) -> None:
    model = small_drafter(kind)
    engine = engine_of(model)
    engine.step([step_of(model, 0, 8)])
    for batch in (step_of(model, 8, 8), step_of(model, 30, 30, request="new")):
        draft = engine.step([batch])[0]
        assert draft.tokens.shape == (1, model.config.block_size)
        assert bool(((draft.confidences >= 0) & (draft.confidences <= 1)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_evicted_within_their_own_step_still_get_drafts(kind: str) -> None:
    model = small_drafter(kind)
    engine = engine_of(model, num_blocks=4, window=12)
    answers = engine.step([step_of(model, 0, 12, seed=i, target=f"t{i}") for i in range(3)])
    assert all(bool(torch.isfinite(answer.confidences).all()) for answer in answers)
    assert engine.stats.sessions_evicted == 2


PAIRED = small_drafter("eagle3")
GOOD = step_of(PAIRED, 0, 4)
ROW = GOOD.rows[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW._replace(tokens=()), "0 tokens for 4 feature rows"),
        (ROW._replace(tokens=ROW.tokens[1:]), "3 tokens for 4 feature rows"),
        (ROW._replace(tokens=(96, *ROW.tokens[1:])), r"tokens outside 0 \.\. 95"),
        (ROW._replace(tokens=(-1, *ROW.tokens[1:])), "tokens outside 0"),
        (ROW._replace(anchor=(ROW.tokens[-1] + 1) % 96), "last of its tokens is"),
    ],
)
def test_tokens_that_cannot_be_are_refused_before_any_change(row: StepRow, message: str) -> None:
    engine = engine_of(PAIRED)
    with pytest.raises(ValueError, match=message):
        engine.step([step_of(PAIRED, 0, 4, target="other"), replace(GOOD, rows=(row,))])
    assert engine.num_sessions == 0


def target_of(kind: str) -> tuple[DrafterConfig, dict[str, Any]]:
    config = DrafterConfig.from_dict({**FIELDS, **KINDS[kind]}, "some/config.json")
    return config, {**TARGET_FIELDS, "num_hidden_layers": config.num_target_layers or 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_drafter_fits_its_target_and_no_other(kind: str) -> None:
    config, target = target_of(kind)
    check_fit(config, target)
    fields = ["vocab_size"] if kind == "ngram" else ["hidden_size", "vocab_size"]
    for field in fields:
        message = f"some/config.json: {field} is {target[field]}, .* {field} is 5;"
        with pytest.raises(CheckpointError, match=message):
            check_fit(config, {**target, field: 5})
    if kind != "ngram":
        with pytest.raises(
            CheckpointError, match=r"num_target_layers is ., .*num_hidden_layers is 9"
        ):
            check_fit(config, {**target, "num_hidden_layers": 9})


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("eagle3", {"target_layer_ids": [0, 1, 2, 4]}, "exactly 5 ids"),
        ("eagle3", {"target_layer_ids": [0, 1, 2, 4, 6]}, r"\[0, 1, 2, 4, 6\].* to 5"),
        ("eagle3", {"num_hidden_layers": 2}, "num_hidden_layers is 2; needed: 1"),
        ("eagle3", {"ttt_length": None}, "ttt_length is None"),
        ("mtp", {"target_layer_ids": [2]}, r"target_layer_ids is \[2\]; needed is \[3\]"),
        ("mtp", {"target_layer_ids": [2, 3]}, r"target_layer_ids is \[2, 3\]; needed is \[3\]"),
        ("mtp", {"num_hidden_layers": 2}, "num_hidden_layers is 2; needed: 1"),
        ("mtp", {"block_size": 0}, "block_size is 0"),
        ("gemma4", {"enable_moe_block": True}, "enable_moe_block is True; needed: False"),
        ("gemma4", {"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input is 256"),
        ("gemma4", {"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ("gemma4", {"global_head_dim": None}, "global_head_dim is None"),
        ("gemma4", {"rope_parameters": {}}, "rope_parameters: full_attention is missing"),
        ("ngram", {"min_match": 3, "max_match": 2}, "max_match is 2"),
        ("ngram", {"confidence_by_match": [0.5]}, "confidence_by_match is .* 4 probabilities"),
        ("ngram", {"confidence_by_match": [0.5, 0.5, 2, 0]}, "confidence_by_match is"),
    ],
)
def test_bad_config_field_is_named(kind: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        DrafterConfig.from_dict({**FIELDS, **KINDS[kind], **change}, "some/config.json")
    assert str(error.value).startswith("some/config.json")


def test_every_kind_says_what_its_target_has_to_send() -> None:
    shapes = {kind: small_drafter(kind).config.shape for kind in KINDS}
    needing = {kind for kind, shape in shapes.items() if shape.needs_tokens}
    assert needing == {"eagle3", "gemma4_eagle3", "mtp", "ngram"}
    assert shapes["eagle3"].feature_size == 5 * 32
    assert shapes["mtp"].feature_size == 32
    assert (shapes["ngram"].feature_size, shapes["ngram"].block_size) == (0, 5)


@pytest.mark.parametrize(
    ("kind", "numbers"), [("vanilla", 2 * 2 * 2 * 8), ("eagle3", 2 * 2 * 8), ("ngram", 2)]
)
def test_the_footprint_of_every_kind_is_measured(kind: str, numbers: int) -> None:
    engine = engine_of(small_drafter(kind), num_blocks=600)
    found = measure_footprint(engine, 4)
    assert engine.num_sessions == 0
    assert found.context_bytes == 1000 * 4 * numbers
    # Sixteen bytes of hash per four tokens, a byte per small token id, four per feature.
    width = engine.model.config.feature_size
    assert found.prefill_bytes == pytest.approx(4 * width + (kind != "vanilla") + 4.5, abs=1)


@pytest.mark.parametrize("kind", ["vanilla", "eagle3", "ngram"])
def test_steps_of_every_kind_are_timed(kind: str) -> None:
    times = draft_times_ms(engine_of(small_drafter(kind)), 64, [1, 2], 2)
    assert times.keys() == {1, 2}
    assert min(times.values()) > 0
