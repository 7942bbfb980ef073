"""A minute's worth, filled evenly: what is within it, what is not, and what is given back."""

from __future__ import annotations

import math

import pytest

from autoscale.quota import Account, Rates, TokenBucket, Usage, added, by_tenant


def test_a_minutes_worth_at_once_then_as_it_fills():
    bucket = TokenBucket(60, now_s=0)
    assert bucket.wait_s(60, 0) == 0
    bucket.take(60)
    assert bucket.wait_s(1, 0) == 1
    assert bucket.wait_s(10, 4) == 6
    assert bucket.wait_s(10, 10) == 0


def test_it_holds_no_more_than_a_minute():
    bucket = TokenBucket(60, now_s=0)
    assert bucket.wait_s(60, 3600) == 0
    bucket.take(60)
    assert bucket.wait_s(60, 3600) == 60


def test_what_is_larger_than_a_minute_waits_for_a_full_bucket_and_overdraws_it():
    bucket = TokenBucket(60, now_s=0)
    assert bucket.wait_s(180, 0) == 0
    bucket.take(180)
    assert bucket.wait_s(1, 0) == 121
    assert bucket.wait_s(180, 0) == 180


def test_what_is_given_back_fills_no_further_than_full():
    bucket = TokenBucket(60, now_s=0)
    bucket.take(30)
    bucket.take(-100)
    assert bucket.wait_s(60, 0) == 0
    bucket.take(60)
    assert bucket.wait_s(1, 0) == 1


def test_without_a_rate_there_is_no_wait():
    bucket = TokenBucket(math.inf, now_s=0)
    bucket.take(1e12)
    assert bucket.wait_s(1e12, 0) == 0


@pytest.mark.parametrize(
    ("before", "after", "wait_s"), [(60, 30, 0), (60, 120, 0), (math.inf, 60, 0), (60, math.inf, 0)]
)
def test_a_rate_that_changes(before, after, wait_s):
    bucket = TokenBucket(before, now_s=0)
    bucket.take(30)
    bucket.set_rate(after, 0)
    assert bucket.wait_s(30, 0) == wait_s
    if not math.isinf(after):
        bucket.take(1e3)
        assert bucket.wait_s(1, 0) > 60


def test_requests_are_counted_as_they_are_admitted_or_refused():
    account = Account(Rates(requests_per_minute=2), now_s=0)
    assert [account.admit(0), account.admit(0), account.admit(0)] == [0, 0, 30]
    assert account.admit(30) == 0
    assert (account.usage.requests, account.usage.refused) == (3, 1)


def test_reserved_tokens_are_settled_for_what_they_came_to():
    account = Account(Rates(tokens_per_minute=600), now_s=0)
    assert account.reserve(600, 0) == 0
    assert account.reserve(100, 0) == 10
    account.settle(600, prompt_tokens=40, output_tokens=60)  # 500 left
    assert account.reserve(500, 0) == 0
    assert (account.usage.prompt_tokens, account.usage.output_tokens) == (40, 60)


def test_tokens_beyond_what_was_reserved_hold_back_the_next_request():
    account = Account(Rates(tokens_per_minute=60), now_s=0)
    assert account.reserve(10, 0) == 0
    account.settle(10, 10, 110)
    assert account.admit(0) == 60
    assert account.admit(60) == 0


def test_a_changed_quota_keeps_what_was_used():
    account = Account(Rates(requests_per_minute=1), now_s=0)
    assert account.admit(0) == 0
    account.set_rates(Rates(requests_per_minute=10), 0)
    assert account.admit(0) == 6
    assert account.usage == Usage(requests=1, refused=1)


def test_books_of_several_places_are_added_by_account_then_by_tenant():
    here = {"a": ("acme", Usage(2, 1, 30, 4)), "b": ("acme", Usage(1, 0, 5, 5))}
    there = {"a": ("acme", Usage(1, 0, 10, 6)), "c": ("else", Usage(1, 1, 1, 1))}
    total = added([here, there, {}])
    assert total == here | {"a": ("acme", Usage(3, 1, 40, 10)), "c": there["c"]}
    assert by_tenant(total) == {"acme": Usage(4, 1, 45, 15), "else": Usage(1, 1, 1, 1)}
    assert here["a"] == ("acme", Usage(2, 1, 30, 4))
