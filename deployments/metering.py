"""What requests use: reserved by their size as they come, settled for what they came to."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from autoscale.quota import Account, Books, Rates, Usage
from deployments.class_specs import KeySpec
from deployments.continuation import Delivered
from deployments.request_size import request_size

CHARS_PER_TOKEN = 4.0  # for what is reserved; what is charged, the engine has counted
OPEN_OUTPUT_TOKENS = 256  # reserved where a request leaves its length open


class OverQuotaError(Exception):
    """The key has used up its minute; 429."""

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = math.ceil(retry_after_s)
        super().__init__(f"this API key has used up its quota; try again in {self.retry_after_s} s")


class Accounts:
    """By key, in this process, which is one of `num_ingresses` that share each key's quota
    evenly. A key that is gone keeps its account: it may come back."""

    def __init__(self, num_ingresses: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_ingresses = num_ingresses
        self._clock = clock
        self._accounts: dict[str, tuple[str, Account]] = {}

    def of(self, key: KeySpec | None) -> Account:
        """Without keys all requests are on one account."""
        digest, tenant, rates = account_id(key), "", Rates()
        if key is not None:
            tenant, rates = key.tenant, key.rates.among(self._num_ingresses)
        if digest not in self._accounts:
            self._accounts[digest] = (tenant, Account(rates, self._clock()))
        _, account = self._accounts[digest]
        account.set_rates(rates, self._clock())
        return account

    def admit(self, account: Account) -> None:
        """Counts a request. Raises OverQuotaError."""
        wait_s = account.admit(self._clock())
        if wait_s:
            raise OverQuotaError(wait_s)

    def books(self) -> Books:
        """What was used by now."""
        return {id_: (tenant, replace(one.usage)) for id_, (tenant, one) in self._accounts.items()}


@cache
def accounts_here(num_ingresses: int) -> Accounts:
    """Those of this process, once it asks: what Serve is given is copied to it."""
    return Accounts(num_ingresses)


def account_id(key: KeySpec | None) -> str:
    return "" if key is None else key.sha256


def usage_told(key: KeySpec | None, books: Books) -> dict[str, Any]:
    """What a key has used, and its quota where it has one."""
    _, used = books.get(account_id(key), ("", Usage()))
    rates = Rates() if key is None else key.rates
    quota = {name: rate for name, rate in asdict(rates).items() if not math.isinf(rate)}
    return asdict(used) | {"quota": quota}


class Meter:
    """Sees the items of one answer and knows what they came to."""

    def __init__(self, delivered: Delivered | None) -> None:
        self._delivered = delivered
        self._usage: tuple[int, int] | None = None
        self._is_free = False

    def saw(self, item: Any) -> None:
        """One item of an answer in one piece; a stream is counted by what was delivered."""
        self._is_free |= getattr(item, "error", None) is not None
        usage = getattr(item, "usage", None)
        if usage is not None:
            self._usage = (usage.prompt_tokens, usage.completion_tokens or 0)

    def free(self) -> None:
        """Nothing is charged: it is refused, or costs an engine nothing."""
        self._is_free = True

    def used(self, prompt: float, output: float) -> tuple[int, int]:
        """Prompt and output tokens, by count; where there is none those that were reserved."""
        if self._is_free:
            return 0, 0
        counted = self._delivered.num_tokens if self._delivered is not None else self._usage
        return counted if counted is not None else (round(prompt), round(output))


@asynccontextmanager
async def metered(
    account: Account,
    body: Any,
    delivered: Delivered | None,
    most_tokens: float,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Meter]:
    """Reserves a request's tokens and settles them. Raises OverQuotaError.

    `most_tokens` is what one output comes to at most.
    """
    size = request_size(body)
    prompt = size.prompt_tokens(lambda chars: chars / CHARS_PER_TOKEN)
    length = OPEN_OUTPUT_TOKENS if size.max_tokens is None else size.max_tokens
    output = float(min(length, most_tokens) * size.num_sequences)
    wait_s = account.reserve(prompt + output, clock())
    if wait_s:
        raise OverQuotaError(wait_s)
    meter = Meter(delivered)
    try:
        yield meter
    except Exception:  # not where the client leaves: that is no refund
        if delivered is None or delivered.num_tokens is None:
            meter.free()
        raise
    finally:
        account.settle(prompt + output, *meter.used(prompt, output))
