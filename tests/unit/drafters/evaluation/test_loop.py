"""The speculative loop against the target alone."""

from __future__ import annotations

import pytest
import torch

from drafters.evaluation.dialogue import Dialogue
from tests.unit.drafters.evaluation.tiny import (
    GAMMA,
    VOCABULARY,
    Scripted,
    Unchanging,
    conversation,
    dialogues,
    encode,
    greedy,
    held,
    tiny_target,
)

SOME = [
    conversation("a", "hello"),
    conversation("b", "what is the sum of all of these numbers", "and now", "why"),
    conversation("c", "x"),
    conversation("d", "a prompt of middling length", "thanks"),
    conversation("e", "one more"),
]


@pytest.fixture(scope="module")
def model():
    return tiny_target()


def turns_of(dialogue: Dialogue) -> list[list[int]]:
    return [[int(token) for token in answer.split()] for answer in dialogue.answers]


@pytest.mark.parametrize("script", [[0], [GAMMA], [1, 4, 0, 3, 2]])
def test_known_drafts_give_the_known_acceptance_length(model, script):
    drafts = held(model, Scripted(model, script), dialogues(SOME[:1], max_output_tokens=60))
    lengths = [draft.num_accepted for draft in drafts]
    assert lengths == [script[i % len(script)] for i in range(len(drafts))]
    assert {draft.verification_mode for draft in drafts} == {"greedy"}


@pytest.mark.parametrize("num_seats", [1, 3, 8])
def test_greedy_output_is_the_targets_own(model, num_seats):
    some = dialogues(SOME)
    held(model, Scripted(model, [2, 0, 4, 1]), some, num_seats=num_seats)
    for dialogue in some:
        answers = turns_of(dialogue)
        assert len(answers) == len(dialogue.conversation.turns)
        for turn, answer in enumerate(answers):
            prompt = encode(dialogue.conversation.turns[: turn + 1], dialogue.answers[:turn])
            assert len(answer) >= 24
            assert answer == greedy(model, prompt, len(answer))


def test_features_are_those_of_committed_tokens(model):
    drafter = Scripted(model, [2, 0, 4, 1])
    some = dialogues(SOME)
    held(model, drafter, some, layers=(-1, 0, 1))
    for dialogue in some:
        with torch.no_grad():
            states = model(torch.tensor([dialogue.tokens]), output_hidden_states=True).hidden_states
        kept = drafter.features[dialogue.conversation.key]
        assert sorted(kept) == list(range(dialogue.num_fed))
        fed = torch.stack([kept[i] for i in sorted(kept)])
        wanted = torch.cat(states[:2], dim=-1)[0, : len(fed)]
        torch.testing.assert_close(fed[:, :32], wanted, atol=1e-4, rtol=1e-4)
        # The last layer's output comes before the final norm, which transformers applies.
        normed = model.model.norm(fed[:, 32:])
        torch.testing.assert_close(normed, states[2][0, : len(fed)], atol=1e-4, rtol=1e-4)


def test_a_later_turn_reads_only_what_is_new(model):
    drafter = Scripted(model, [GAMMA])
    (dialogue,) = some = dialogues(SOME[1:2])
    held(model, drafter, some)
    assert drafter.num_rows == dialogue.num_fed


def test_prompts_are_read_in_pieces(model):
    long = conversation("long", "abcdefghij" * 12)
    some = dialogues([long, *SOME])
    held(model, Scripted(model, [2]), some, max_prefill_tokens=16)
    for dialogue in some:
        prompt = encode(dialogue.conversation.turns[:1], [])
        first = turns_of(dialogue)[0]
        assert first == greedy(model, prompt, len(first))


def test_an_answer_stops_at_its_end_token(model):
    (whole,) = some = dialogues(SOME[:1])
    held(model, Scripted(model, [GAMMA]), some)
    end = whole.output[7]
    place = whole.output.index(end)
    (cut,) = some = dialogues(SOME[:1], end_tokens=frozenset({end}))
    held(model, Scripted(model, [GAMMA]), some)
    assert cut.output == whole.output[: place + 1]


def test_a_conversation_stays_within_the_models_length(model):
    (dialogue,) = some = dialogues(SOME[1:2], max_tokens=64, max_output_tokens=500)
    held(model, Scripted(model, [3]), some)
    assert 64 - GAMMA < len(dialogue.tokens) <= 64
    assert len(dialogue.answers) == 1  # the second turn has no room


def test_sliding_layers_see_their_window_only():
    layers = ["sliding_attention", "full_attention"]
    model = tiny_target(layer_types=layers, sliding_window=6, use_sliding_window=True)
    some = dialogues(SOME)
    held(model, Scripted(model, [1, 3]), some)
    for dialogue in some:
        prompt = encode(dialogue.conversation.turns[:1], [])
        first = turns_of(dialogue)[0]
        assert first == greedy(model, prompt, len(first))


def skewed() -> torch.Tensor:
    """A q [V] that has little to do with the target and excludes some tokens."""
    q = torch.rand(VOCABULARY, generator=torch.Generator().manual_seed(2)) ** 3
    q[::5] = 0
    return q / q.sum()


@pytest.mark.parametrize("one_hot", [False, True])
def test_sampled_output_has_the_targets_distribution(one_hot):
    """Three tokens of one prompt: joint frequencies of the first two, at the noise floor."""
    model = tiny_target(scale=0.3)
    count, prompt = 6000, encode(["hi"], [])
    some = dialogues([conversation(str(i), "hi") for i in range(count)], max_output_tokens=3)
    drafts = held(
        model, Unchanging(skewed(), one_hot=one_hot), some, temperature=1.0, num_seats=2000
    )
    assert {draft.verification_mode for draft in drafts} == {"one-hot" if one_hot else "q"}
    outputs = torch.tensor([dialogue.output[:3] for dialogue in some])
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        second = (
            model(torch.tensor([[*prompt, token] for token in range(VOCABULARY)]))
            .logits[:, -1]
            .softmax(-1)
        )
    joint = (first[:, None] * second).flatten()  # of the prefill's token and the first drafted one
    found = torch.bincount(outputs[:, 0] * VOCABULARY + outputs[:, 1], minlength=VOCABULARY**2)
    assert excess_variation(found, joint) < 1.1
    pairs = [[*prompt, a, b] for a in range(VOCABULARY) for b in range(VOCABULARY)]
    with torch.no_grad():
        third = joint @ model(torch.tensor(pairs)).logits[:, -1].softmax(-1)
    assert excess_variation(torch.bincount(outputs[:, 2], minlength=VOCABULARY), third) < 1.6


def test_acceptance_when_sampling_is_the_overlap_of_both_distributions():
    model = tiny_target(scale=0.3)
    some = dialogues([conversation(str(i), "hi") for i in range(4000)], max_output_tokens=2)
    drafts = held(model, Unchanging(skewed()), some, temperature=1.0, num_seats=2000)
    prompt = encode(["hi"], [])
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        prompts = torch.tensor([[*prompt, token] for token in range(VOCABULARY)])
        second = model(prompts).logits[:, -1].softmax(-1)
    expected = first @ torch.minimum(second, skewed()).sum(-1)
    first_drafts = [draft.num_accepted > 0 for draft in drafts if draft.position == len(prompt)]
    found = sum(first_drafts) / len(first_drafts)
    assert len(first_drafts) == 4000
    assert found == pytest.approx(expected.item(), abs=0.025)  # three standard errors


def excess_variation(found: torch.Tensor, p: torch.Tensor) -> float:
    """Total variation of counts from p, over what as many draws from p itself would have."""
    n = found.sum()
    variation = (found / n - p).abs().sum() / 2
    floor = (2 * p * (1 - p) / (torch.pi * n)).sqrt().sum() / 2
    return (variation / floor).item()
