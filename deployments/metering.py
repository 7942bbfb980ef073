"""What requests use: reserved by their size as they come, settled for what they came to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from math import ceil
from typing import Any

from autoscale.quota import Account, Rates
from deployments.class_specs import KeySpec
from deployments.continuation import Delivered
from deployments.request_size import request_size

CHARS_PER_TOKEN = 4.0  # for what is reserved; what is charged, the engine has counted
OPEN_OUTPUT_TOKENS = 256  # reserved where a request leaves its length open


class OverQuotaError(Exception):
    """The key has used up its minute; 429."""

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = ceil(retry_after_s)
        super().__init__(f"this API key has used up its quota; try again in {self.retry_after_s} s")


class Accounts:
    """By key, in this process. A key that is gone keeps its account: it may come back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, tuple[str, Account]] = {}

    def of(self, key: KeySpec | None) -> Account:
        """Without keys all requests are on one account."""
        digest, tenant, rates = "", "", Rates()
        if key is not None:
            digest, tenant, rates = key.sha256, key.tenant, key.rates
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

    def by_tenant(self) -> dict[str, dict[str, int]]:
        """Usage of all keys of each tenant together."""
        totals: dict[str, dict[str, int]] = {}
        for tenant, account in self._accounts.values():
            usage = asdict(account.usage)
            total = totals.setdefault(tenant, dict.fromkeys(usage, 0))
            for name, count in usage.items():
                total[name] += count
        return totals


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
