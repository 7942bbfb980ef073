"""The serial heads, equation by equation, and with all tokens known at once."""

from __future__ import annotations

import torch
from drafter_fixtures import engine_of, small_drafter, step_of


def test_gated_bias_is_w2_of_the_gated_embedding() -> None:
    model = small_drafter("gated")
    head = model.markov_head
    hidden, embed = torch.randn(32), torch.randn(6)
    gate = torch.sigmoid(head.gate_proj.weight @ torch.cat((hidden, embed)) + head.gate_proj.bias)
    step = head.serial(hidden.view(1, 1, -1))
    torch.testing.assert_close(step(0, embed[None])[0], gate * embed)


def test_rnn_keeps_a_state_over_the_block() -> None:
    model = small_drafter("rnn")
    head = model.markov_head
    hidden, embeds = torch.randn(5, 32), torch.randn(5, 6)
    step = head.serial(hidden[None])
    state = torch.zeros(6)
    for k in range(5):
        z = torch.cat((state, embeds[k], hidden[k]))
        g, c, o = (head.joint_proj.weight @ z + head.joint_proj.bias).split(6)
        state = torch.sigmoid(g) * state + (1 - torch.sigmoid(g)) * torch.tanh(c)
        torch.testing.assert_close(step(k, embeds[None, k])[0], torch.tanh(o))


def test_heads_with_known_tokens_give_what_drafting_found() -> None:
    for kind in ("vanilla", "gated", "rnn"):
        model = small_drafter(kind)
        batch = step_of(model, 0, 9)
        draft = engine_of(model).trace(batch)
        previous = torch.cat((torch.tensor([[batch.rows[0].anchor]]), draft.tokens[:, :-1]), dim=1)
        logits, confidence_logits = model.heads(draft.hidden, previous)
        torch.testing.assert_close(logits, draft.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(confidence_logits, draft.confidence_logits, msg=kind)


def test_many_blocks_at_once_are_each_their_own() -> None:
    head = small_drafter("rnn").markov_head
    hidden, embeds = torch.randn(2, 3, 5, 32), torch.randn(2, 3, 5, 6)
    codes = head.codes(hidden, embeds)
    assert codes.shape == (2, 3, 5, 6)
    torch.testing.assert_close(codes[1, 2], head.codes(hidden[1, 2], embeds[1, 2]))
