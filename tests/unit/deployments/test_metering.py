"""What is charged: what the engine counted; what was reserved where nobody counted; or nothing."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from autoscale.quota import Account, Rates, Usage, added, by_tenant
from deployments.class_specs import KeySpec
from deployments.continuation import Delivered
from deployments.metering import Accounts, OverQuotaError, metered, usage_told

BODY = SimpleNamespace(prompt="x" * 40, max_tokens=20, n=2)  # 10 and 40 are reserved


def account(tokens_per_minute: float = 6000) -> Account:
    return Account(Rates(tokens_per_minute=tokens_per_minute), now_s=0)


def charge(account: Account, *items: Any, delivered: Any = None, error: Any = None) -> Any:
    async def run() -> None:
        async with metered(account, BODY, delivered, 512, clock=lambda: 0.0) as meter:
            for item in items:
                meter.saw(item)
            if error is not None:
                raise error

    if error is not None:
        with pytest.raises(type(error)):
            asyncio.run(run())
    else:
        asyncio.run(run())
    return account.usage.prompt_tokens, account.usage.output_tokens


def answer(prompt: int, completion: int) -> SimpleNamespace:
    return SimpleNamespace(
        usage=SimpleNamespace(prompt_tokens=prompt, completion_tokens=completion)
    )


def chunk(*token_ids: int, prompt: list[int] | None = None) -> str:
    choice = {"index": 0, "delta": {"content": "x"}, "token_ids": list(token_ids)}
    extra = {"prompt_token_ids": prompt} if prompt else {}
    return "data: " + json.dumps({"id": "a", "created": 1, "choices": [choice]} | extra) + "\n\n"


def test_an_answer_is_charged_as_counted():
    assert charge(account(), answer(7, 12)) == (7, 12)
    assert charge(account(), answer(7, 0)) == (7, 0)


def test_a_stream_is_charged_by_what_was_delivered():
    delivered = Delivered(SimpleNamespace(n=1))
    assert delivered.num_tokens is None
    for event in (chunk(prompt=[1, 2, 3]), chunk(5, 6), chunk(7)):
        delivered.take(event)
    assert charge(account(), delivered=delivered) == (3, 3)


def test_a_client_that_leaves_is_charged_for_what_it_had():
    delivered = Delivered(SimpleNamespace(n=1))
    delivered.take(chunk(5, 6, prompt=[1, 2, 3]))
    assert charge(account(), delivered=delivered, error=asyncio.CancelledError()) == (3, 2)


def test_one_that_leaves_before_the_answer_for_what_was_reserved():
    assert charge(account(), error=asyncio.CancelledError()) == (10, 40)


@pytest.mark.parametrize("error", [ValueError("busy"), None])
def test_what_is_refused_costs_nothing(error):
    items = [] if error else [SimpleNamespace(error="no such template")]
    assert charge(account(), *items, error=error) == (0, 0)


def test_a_reservation_is_no_longer_than_an_output_can_be():
    body = SimpleNamespace(prompt="x" * 40, max_tokens=10**9)
    of_600 = account(600)

    async def left_meanwhile() -> list[float]:
        async with metered(of_600, body, None, 512, clock=lambda: 0.0):
            return [of_600.reserve(79, 0.0), of_600.reserve(78, 0.0)]

    assert asyncio.run(left_meanwhile()) == [0.1, 0.0]


def test_tokens_beyond_the_quota_are_refused_with_a_time():
    few = account(tokens_per_minute=60)
    assert charge(few, answer(30, 20)) == (30, 20)  # 10 are left of 60
    with pytest.raises(OverQuotaError) as refused:
        charge(few, answer(1, 1))
    assert refused.value.retry_after_s == 40  # until there are 50
    assert few.usage.refused == 1


def test_accounts_of_a_tenant_are_added_up():
    accounts = Accounts(clock=lambda: 0.0)
    keys = [KeySpec(sha256=c * 64, tenant=t) for c, t in (("a", "acme"), ("b", "acme"), ("c", "x"))]
    for key in keys:
        accounts.admit(accounts.of(key))
    accounts.of(keys[0]).settle(0, 3, 4)
    accounts.of(keys[1]).settle(0, 1, 1)
    books = accounts.books()
    accounts.admit(accounts.of(keys[0]))
    assert by_tenant(books) == {"acme": Usage(2, 0, 4, 5), "x": Usage(1, 0, 0, 0)}


def test_several_ingresses_let_through_no_more_than_the_quota():
    key = KeySpec(sha256="a" * 64, tenant="acme", requests_per_minute=9)

    def let_through(ingress: Accounts) -> int:
        for num in range(100):
            try:
                ingress.admit(ingress.of(key))
            except OverQuotaError:
                return num
        return 100

    ingresses = [Accounts(3, clock=lambda: 0.0) for _ in range(3)]
    assert [let_through(one) for one in ingresses] == [3, 3, 3]
    books = added(one.books() for one in ingresses)
    told = {"requests": 9, "refused": 3, "prompt_tokens": 0, "output_tokens": 0}
    assert usage_told(key, books) == told | {"quota": {"requests_per_minute": 9}}
    other = KeySpec(sha256="b" * 64, tenant="acme")
    assert usage_told(other, books) == dict.fromkeys(told, 0) | {"quota": {}}


def test_a_key_whose_quota_changes_keeps_its_account():
    accounts = Accounts(clock=lambda: 0.0)
    before = KeySpec(sha256="a" * 64, tenant="acme", requests_per_minute=1)
    accounts.admit(accounts.of(before))
    with pytest.raises(OverQuotaError):
        accounts.admit(accounts.of(before))
    after = accounts.of(before.model_copy(update={"requests_per_minute": 60.0}))
    assert after.usage.requests == 1
    with pytest.raises(OverQuotaError) as refused:
        accounts.admit(after)
    assert refused.value.retry_after_s == 1
