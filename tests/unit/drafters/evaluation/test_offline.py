"""Evaluations in chunks: resumed equals uninterrupted, another plan is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.offline import OfflineEvaluation
from drafters.evaluation.plan import EvaluationPlan, Mode
from drafters.evaluation.splits import acceptances, by_turn
from drafters.evaluation.target import EvaluatedTarget
from profiles.evaluation import EvaluatedDrafts, load_evaluation
from profiles.outcomes import load_outcomes
from profiles.provenance import DraftingPair, ProvenanceError
from tests.unit.drafters.drafter_fixtures import small_drafter
from tests.unit.drafters.evaluation.tiny import (
    VOCABULARY,
    conversation,
    decode,
    encode,
    tiny_target,
)


def other(name: str, *turns: str) -> Conversation:
    return replace(conversation(name, *turns), benchmark="other")


PAIR = DraftingPair("tiny", "a", "small", "b").as_metadata()
NUM_SEATS = 3
PLAN = EvaluationPlan(
    benchmarks={
        "tiny": [conversation(f"p{i}", "ab" * i, "and?") for i in range(1, 6)],
        "other": [other(f"q{i}", "xyz" * i) for i in range(1, 3)],
    },
    modes=(Mode(0.0, "none"), Mode(1.0, "none")),
    max_output_tokens=12,
    max_tokens=512,
    window=64,
    num_candidates=32,
    num_seats=NUM_SEATS,
    chunk_size=3,
    seed=4,
)
NUM_CHUNKS = 6


class Letters:
    """A chat of the tiny target's."""

    def encode(self, users, assistants, thinking):
        assert thinking == "none"
        return encode(users, assistants)

    def decode(self, tokens):
        return decode(tokens)


def evaluation(plan: EvaluationPlan = PLAN) -> OfflineEvaluation:
    drafter = small_drafter(
        "vanilla",
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_target_layers=2,
        target_layer_ids=[-1, 0],
    )
    target = EvaluatedTarget(tiny_target(), drafter.config.target_layer_ids, NUM_SEATS)
    return OfflineEvaluation(target, drafter, Letters(), frozenset(), plan)


def run(directory, plan: EvaluationPlan = PLAN) -> EvaluatedDrafts:
    return evaluation(plan).run(directory, PAIR, lambda line: None)[0]


def same(a: EvaluatedDrafts, b: EvaluatedDrafts) -> bool:
    return all(
        np.array_equal(getattr(x, column), getattr(y, column))
        for x, y in zip(a, b, strict=True)
        for column in x.__slots__
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


def test_resumed_equals_uninterrupted(whole, tmp_path):
    def interrupt(line: str) -> None:
        if line.startswith("chunk 4 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluation().run(tmp_path, PAIR, interrupt)
    assert len(list(tmp_path.iterdir())) == 4
    done: list[str] = []
    drafts, _ = evaluation().run(tmp_path, PAIR, done.append)
    assert [line.split()[1] for line in done] == ["5", "6"]  # nothing is done twice
    assert same(drafts, whole[1])


def test_every_chunk_has_its_share_of_every_benchmark():
    chunks = PLAN.chunks()
    assert len(chunks) == NUM_CHUNKS
    assert [[c.benchmark for c in chunk.conversations] for chunk in chunks[:3]] == [
        ["tiny", "other", "tiny"],
        ["tiny", "tiny", "other"],
        ["tiny"],
    ]


def test_every_turn_of_every_prompt_is_evaluated_in_both_modes(whole):
    _, (outcomes, places) = whole
    drafted = zip(outcomes.prompt_ids, places.turn, outcomes.sampling_temperatures, strict=True)
    seen = {(id_, int(turn), float(temperature)) for id_, turn, temperature in drafted}
    turns = [(f"tiny/p{i}", turn) for i in range(1, 6) for turn in (1, 2)]
    turns += [("other/q1", 1), ("other/q2", 1)]
    assert seen == {(id_, turn, t) for id_, turn in turns for t in (0.0, 1.0)}
    assert set(outcomes.verification_modes) == {"greedy", "q"}
    assert (outcomes.num_admitted == outcomes.block_size).all()
    assert (places.context_tokens > 0).all()


def test_prompts_of_two_benchmarks_that_number_alike_are_two_prompts():
    """What errors over prompts are of, also where benchmarks are taken together."""
    benchmarks = {"tiny": [conversation("0", "ab")], "other": [other("0", "xyz")]}
    plan = replace(PLAN, benchmarks=benchmarks, modes=(Mode(0.0, "none"),))
    drafts = evaluation(plan).evaluate(plan.chunks()[0])
    (first_turns,) = acceptances(by_turn(drafts)).values()
    assert first_turns.num_prompts == 2
    assert set(drafts.outcomes.prompt_ids) == {"tiny/0", "other/0"}


@pytest.mark.parametrize("change", [{"seed": 5}, {"max_output_tokens": 13}, {"chunk_size": 2}])
def test_another_plan_does_not_go_on_with_old_chunks(whole, change):
    with pytest.raises(ProvenanceError, match=next(iter(change))):
        run(whole[0], replace(PLAN, **change))


def test_changed_prompts_do_not_go_on_with_old_chunks(whole):
    benchmarks = {**PLAN.benchmarks, "other": [other(f"q{i}", "new" * i) for i in (1, 2)]}
    with pytest.raises(ProvenanceError, match="prompts_digest"):
        run(whole[0], replace(PLAN, benchmarks=benchmarks))


def test_calibration_reads_an_evaluations_files(whole):
    directory, drafts = whole
    first = sorted(directory.iterdir())[0]
    outcomes, pair, num_candidates = load_outcomes(first)
    assert pair.as_metadata() == PAIR
    assert num_candidates == PLAN.num_candidates
    loaded, metadata = load_evaluation(first)
    assert outcomes.prompt_ids == loaded.outcomes.prompt_ids
    assert metadata["chunk"] == f"1 of {NUM_CHUNKS}"
    assert outcomes.prompt_ids == drafts.outcomes.prompt_ids[: len(outcomes)]
