"""Packed blocks and losses of every kind against one anchor, one position at a time."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drafters.interface import ContextRows, DraftInputs
from drafters.training.blocks import training_blocks
from drafters.training.data import TextSequence, make_batch, read_sequences
from drafters.training.drafter import batch_losses, new_drafter
from drafters.training.kinds import KINDS
from drafters.training.target import FrozenTarget
from tests.unit.drafters.drafter_fixtures import fill
from tests.unit.drafters.training_fixtures import small_plan, write_answers, write_target


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory) -> Path:
    return write_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_answers(tmp_path_factory.mktemp("data") / "answers.jsonl")


HEADS = [*((kind, "vanilla") for kind in KINDS), ("dspark", "gated"), ("dspark", "rnn")]


@pytest.fixture(params=HEADS, ids="-".join)
def setting(request, target_dir, data):
    kind, head = request.param
    plan = small_plan(kind, target_dir, data, num_anchors=6, markov_head_type=head)
    target = FrozenTarget(target_dir, plan.target_layer_ids, torch.float32)
    model = new_drafter(plan, target).requires_grad_(False)
    fill(model)
    return plan, target, model


@pytest.mark.parametrize(("context_tokens", "share"), [(None, 0.1), (3, 0.1), (None, 0.4)])
def test_packed_losses_equal_one_anchor_at_a_time(setting, data, context_tokens, share):
    plan, target, model = setting
    plan = replace(plan, context_tokens=context_tokens, cross_entropy_share=share)
    sequences = read_sequences(data, max_tokens=64)[:5]
    batch = make_batch(sequences, 6, random.Random(1))
    got = batch_losses(model, target, batch, plan).means()
    expected = reference_losses(plan, model, target, sequences, batch.anchors)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-5), name


def reference_losses(plan, model, target, sequences, anchors) -> dict[str, float]:
    """Equation by equation: one block, then one position, at a time."""
    gamma, weighted = plan.block_size, dict.fromkeys(("cross_entropy", "l1", "confidence"), 0.0)
    total, norm, lengths, greedy_lengths = 0.0, 0.0, [], []
    for sequence, row in zip(sequences, anchors.tolist(), strict=True):
        tokens = torch.tensor(sequence.tokens)
        states = target.read(tokens.unsqueeze(0))
        target_probs = target.logits(states.last_hidden)[0].softmax(-1)
        for anchor in (a for a in row if a >= 0):
            first = 0 if plan.context_tokens is None else max(0, anchor - plan.context_tokens)
            probs, confidences = BLOCKS[plan.kind](
                model, states.features[0], tokens, first, anchor, gamma
            )
            survival, greedy_survival, length, greedy_length = 1.0, 1.0, 1.0, 1.0
            for k in range(1, min(gamma, len(tokens) - 1 - anchor) + 1):
                p, q = target_probs[anchor + k - 1], probs[k - 1]
                label = tokens[anchor + k]
                rate = 1 - (p - q).abs().sum().item() / 2
                weight, loss = WEIGHTS[plan.kind](k, gamma), {}
                loss["cross_entropy"] = -q[label].log().item()
                loss["l1"] = (p - q).abs().sum().item()
                loss["confidence"] = 0.0
                if confidences is not None:
                    c = confidences[k - 1].item()
                    loss["confidence"] = -(rate * math.log(c) + (1 - rate) * math.log(1 - c))
                for name, value in loss.items():
                    weighted[name] += weight * value
                norm += weight
                total += weight * OBJECTIVES[plan.kind](loss, p, q, plan.cross_entropy_share)
                survival *= rate
                greedy_survival *= float(p.argmax() == q.argmax())
                length, greedy_length = length + survival, greedy_length + greedy_survival
            lengths.append(length)
            greedy_lengths.append(greedy_length)
    return {
        "total": total / norm,
        **{name: value / norm for name, value in weighted.items()},
        "acceptance_length": sum(lengths) / len(lengths),
        "greedy_acceptance_length": sum(greedy_lengths) / len(greedy_lengths),
    }


WEIGHTS = {
    "dspark": lambda k, gamma: math.exp(-(k - 1) / gamma),
    "dflash": lambda k, gamma: math.exp(-(k - 1) / gamma),
    "eagle3": lambda k, gamma: 0.8 ** (k - 1),
    "mtp": lambda k, gamma: 1.0,
}
OBJECTIVES = {
    "dspark": lambda loss, p, q, share: (
        share * loss["cross_entropy"] + (1 - share) * loss["l1"] + loss["confidence"]
    ),
    "dflash": lambda loss, p, q, share: loss["cross_entropy"],
    "eagle3": lambda loss, p, q, share: -(p * q.log()).sum().item(),
    "mtp": lambda loss, p, q, share: loss["cross_entropy"],
}


def parallel_block(model, features, tokens, first, anchor, gamma) -> tuple[Tensor, Tensor | None]:
    """One block through the drafter's plain forward."""
    keys, values = model.context_kv(features[first:anchor], torch.arange(first, anchor))
    hidden = model.backbone(
        tokens[anchor].view(1),
        torch.tensor([anchor]),
        keys.unsqueeze(1),
        values.unsqueeze(1),
        torch.ones(1, anchor - first, dtype=torch.bool),
    )[0]
    probs, confidences, head = [], [], model.markov_head
    step = head and head.serial(hidden.unsqueeze(0))  # as serving takes it, token by token
    for k, h in enumerate(hidden[: len(tokens) - anchor]):
        logits = model.lm_head(h)
        if head is not None:
            embed = head.markov_w1(tokens[anchor + k])
            logits = logits + head.markov_w2(step(k, embed.unsqueeze(0)))[0]
            confidences.append(model.confidence_head.proj(torch.cat((h, embed))).sigmoid())
        probs.append(logits.softmax(-1))
    return torch.stack(probs), torch.cat(confidences) if confidences else None


def serial_block(model, features, tokens, first, anchor, gamma) -> tuple[Tensor, None]:
    """One draft as serving makes it, with its choices bent to the true tokens."""
    served = model.serving()
    rows = ContextRows(
        features[first:anchor], torch.arange(first, anchor), tokens[first + 1 : anchor + 1]
    )
    context = served.context(rows)
    probs = []
    for k in range(min(gamma, len(tokens) - anchor)):
        forced = iter(tokens[anchor + 1 : anchor + 1 + k].tolist())
        draft = served.draft(
            DraftInputs(
                tokens[anchor].view(1),
                torch.tensor([anchor]),
                context.k[:, None, :-1],
                context.v[:, None, :-1],
                torch.ones(1, anchor - first - 1, dtype=torch.bool),
                hidden=context.hidden[-1:],
                temperatures=torch.zeros(1),
                sampler=Forced(forced),
            ),
            with_logits=True,
        )
        probs.append(draft.logits[0, k].softmax(-1))
    return torch.stack(probs), None


class Forced:
    """A sampler that says the given tokens, then the likeliest."""

    def __init__(self, tokens) -> None:
        self._tokens = tokens

    def choose(self, logits, temperatures, *, with_kept):
        from drafters.messages import SparseDistribution
        from drafters.sampling import Choice

        assert not with_kept, "these kinds have no head"
        token = torch.tensor([next(self._tokens, int(logits.argmax()))])
        return Choice(token, SparseDistribution(token.view(1, 1), torch.ones(1, 1)), None)


BLOCKS = {
    "dspark": parallel_block,
    "dflash": parallel_block,
    "eagle3": serial_block,
    "mtp": serial_block,
}


def test_the_last_layers_feature_is_taken_before_the_final_norm(target_dir):
    tokens = torch.arange(7).unsqueeze(0)
    target = FrozenTarget(target_dir, (-1, 3, 5), torch.float32)
    states = target.read(tokens)
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(str(target_dir), dtype=torch.float32)
    hidden = plain.model(tokens, output_hidden_states=True).hidden_states
    embedded, third, last = states.features.chunk(3, dim=-1)
    torch.testing.assert_close(embedded, hidden[0])
    torch.testing.assert_close(third, hidden[4])
    torch.testing.assert_close(plain.model.norm(last), hidden[-1])
    torch.testing.assert_close(states.last_hidden, hidden[-1])


def test_what_a_drafter_computes_does_not_grow_with_the_text(setting):
    plan = setting[0]
    shapes = set()
    for length in (200, 2000):
        sequence = TextSequence(tuple(i % 96 for i in range(length)), 100, "")
        batch = make_batch([sequence], 8, random.Random(0), anchor_span=16)
        features = torch.zeros(1, length, 4)
        blocks = training_blocks(batch, features, plan.block_size, context_tokens=32)
        assert blocks.features.shape[1] <= 32 + 15
        shapes.add(blocks.tokens.shape)
    assert len(shapes) == 1
