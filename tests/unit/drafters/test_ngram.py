"""N-gram lookup on texts whose answer can be read off."""

from __future__ import annotations

import pytest
import torch
from drafter_fixtures import engine_of, hashes, small_drafter

from drafters import DraftEngine
from drafters.messages import DraftBatch, StepBatch, StepRow

GAMMA = 4


def engine(**changes: object) -> DraftEngine:
    return engine_of(small_drafter("ngram", block_size=GAMMA, **changes))


def told(tokens: list[int], start: int = 0, named: bool = False, request: str = "r") -> StepBatch:
    """The step after which `tokens` is the text, the last of them the anchor."""
    end = len(tokens) - 1
    row = StepRow(
        request,
        0,
        start,
        end - start,
        tokens[-1],
        block_hashes=hashes(0, 0, end) if named else (),
        tokens=tuple(tokens[start + 1 :]),
    )
    return StepBatch("t", (row,), torch.empty(end - start, 0))


def drafted(tokens: list[int], **changes: object) -> DraftBatch:
    return engine(**changes).step([told(tokens)])[0]


def test_what_followed_the_last_match_is_proposed() -> None:
    draft = drafted([0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3])
    assert draft.tokens.tolist() == [[4, 5, 6, 7]]
    assert draft.confidences.tolist() == [pytest.approx([0.65] * 4)]
    assert draft.distribution is None


def test_the_longest_match_counts_then_the_most_recent() -> None:
    longest = drafted([0, 5, 6, 7, 10, 7, 11, 7, 12, 5, 6, 7])
    assert longest.tokens[0, 0] == 10
    latest = drafted([0, 7, 10, 7, 11, 8, 7])
    assert latest.tokens.tolist() == [[11, 8, 7, 11]]
    assert latest.confidences.tolist() == [pytest.approx([0.3] * 4)]


def test_a_match_longer_than_the_longest_is_no_better() -> None:
    text = [0, 1, 2, 3, 4, 9, 1, 2, 3, 4, 8, 1, 2, 3, 4]
    assert drafted(text).tokens.tolist() == [[8, 1, 2, 3]]
    assert drafted([0, 9, *text[1:]]).confidences[0, 0] == pytest.approx(0.75)


def test_a_periodic_text_goes_on() -> None:
    assert drafted([0, 1, 2, 1, 2, 1, 2]).tokens.tolist() == [[1, 2, 1, 2]]
    assert drafted([0, 5, 5, 5]).tokens.tolist() == [[5, 5, 5, 5]]


def test_without_a_match_confidence_is_zero() -> None:
    draft = drafted([0, 1, 2, 3, 4])
    assert draft.tokens.tolist() == [[4, 4, 4, 4]]
    assert draft.confidences.tolist() == [[0.0] * GAMMA]
    assert drafted([0, 1, 2, 9, 2], min_match=2).confidences.tolist() == [[0.0] * GAMMA]
    assert engine().step([told([3])])[0].confidences.tolist() == [[0.0] * GAMMA]


def test_a_hole_in_the_text_matches_nothing_and_ends_a_proposal() -> None:
    gap = engine()
    gap.step([told([0, 1, 2, 3, 4, 5])])
    late = told([0, 1, 2, 3, 4, 5, 90, 91, 8, 3, 4], start=7)  # positions 6 and 7 are never told
    draft = gap.step([late])[0]
    assert draft.tokens[0, 0] == 5
    assert draft.confidences.tolist() == [pytest.approx([0.5, 0.0, 0.0, 0.0])]


def test_the_text_is_shared_by_prefix_and_kept_within_the_window() -> None:
    prefix = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    shared = engine()
    shared.step([told(prefix, named=True)])
    other = told([*prefix, 2, 3], start=8, named=True, request="other")
    assert shared.step([other])[0].tokens.tolist() == [[4, 5, 6, 7]]
    assert shared.stats.prefix_blocks_reused == 2
    model = small_drafter("ngram", block_size=GAMMA)
    windowed = engine_of(model, num_blocks=4, window=6)
    draft = windowed.step([told([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2])])[0]
    assert draft.confidences.tolist() == [[0.0] * GAMMA]


def test_rows_of_a_batch_are_looked_up_each_in_its_own_text() -> None:
    texts = [[0, 1, 2, 3, 1], [0, 4, 5, 6, 7, 8, 9, 4, 5], [0, 1]]
    rows = [told(t, request=str(i)).rows[0] for i, t in enumerate(texts)]
    batch = StepBatch("t", tuple(rows), torch.empty(sum(r.num_rows for r in rows), 0))
    draft = engine().step([batch])[0]
    assert draft.tokens.tolist() == [[2, 3, 1, 2], [6, 7, 8, 9], [1, 1, 1, 1]]
    assert draft.confidences[:, 0].tolist() == pytest.approx([0.3, 0.5, 0.0])


def test_the_checkpoint_may_say_how_sure_a_match_is() -> None:
    draft = drafted([0, 1, 2, 3, 1, 2], max_match=2, confidence_by_match=[0.1, 0.9])
    assert draft.confidences.tolist() == [pytest.approx([0.9] * GAMMA)]
