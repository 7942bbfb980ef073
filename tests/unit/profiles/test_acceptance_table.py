"""Acceptance of drafts, on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from profiles.acceptance import (
    acceptance,
    bucket_name,
    conditional_acceptance,
    context_buckets,
    macro_average,
)
from profiles.outcomes import Outcomes


def outcomes(accepted, admitted=None, prompts=None) -> Outcomes:
    n = len(accepted)
    return Outcomes(
        prompt_ids=tuple(prompts or ("p",) * n),
        domains=("any",) * n,
        verification_modes=("greedy",) * n,
        sampling_temperatures=np.zeros(n),
        confidences=np.full((n, 3), 0.5),
        num_admitted=np.array([3] * n if admitted is None else admitted),
        num_accepted=np.array(accepted),
    )


def test_acceptance_length_counts_the_bonus_token():
    assert acceptance(outcomes([0, 3, 1, 0])).length == 2.0


def test_acceptance_by_position_is_conditional_on_earlier_positions():
    assert conditional_acceptance(outcomes([0, 1, 2, 3])) == (0.75, pytest.approx(2 / 3), 0.5)


def test_positions_that_were_not_admitted_count_neither_way():
    assert conditional_acceptance(outcomes([2, 2, 1], admitted=[2, 3, 1])) == (1.0, 1.0, 0.0)


def test_a_position_nobody_reached_has_no_rate():
    assert conditional_acceptance(outcomes([0, 0]))[0] == 0.0
    assert all(math.isnan(rate) for rate in conditional_acceptance(outcomes([0, 0]))[1:])


def test_the_standard_error_is_over_prompts():
    """Prompts of 2 drafts with 2 and 6 tokens: sqrt(2 / 1 * (2^2 + 2^2)) / 4 drafts."""
    found = acceptance(outcomes([0, 0, 2, 2], prompts=["a", "a", "b", "b"]))
    assert found.standard_error == pytest.approx(1.0)
    assert math.isnan(acceptance(outcomes([0, 2])).standard_error)


def test_no_drafts_at_all():
    found = acceptance(outcomes([]))
    assert found.num_drafts == found.num_prompts == 0
    assert math.isnan(found.length)


def test_errors_of_independent_benchmarks_add_in_squares():
    cell = acceptance(outcomes([0, 0, 2, 2], prompts=["a", "a", "b", "b"]))
    average = macro_average([cell, cell])
    assert average.length == cell.length == 2.0
    assert average.standard_error == pytest.approx(1 / math.sqrt(2))


def test_buckets_begin_at_their_edges():
    buckets = context_buckets(np.array([0, 255, 256, 1023, 1024, 32_767, 32_768]))
    assert [bucket_name(b) for b in buckets.tolist()] == [
        "0-256",
        "0-256",
        "256-512",
        "512-1K",
        "1K-2K",
        "16K-32K",
        "32K-",
    ]
