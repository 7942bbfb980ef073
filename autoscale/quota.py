"""What one API key may ask for by the minute, and what it has used. Pure; clocks are passed in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, slots=True)
class Rates:
    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf

    def among(self, num: int) -> Rates:
        """What each of `num` may let through that know nothing of one another."""
        return Rates(self.requests_per_minute / num, self.tokens_per_minute / num)


@dataclass(slots=True)
class Usage:
    """Since the account was opened. `refused` were over quota."""

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.refused + other.refused,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
        )


Books = dict[str, tuple[str, Usage]]
"""By account: its tenant, and what was used."""


def added(books: Iterable[Books]) -> Books:
    """Books of different places as one; an account is of one tenant everywhere."""
    total: Books = {}
    for account, (tenant, usage) in chain.from_iterable(one.items() for one in books):
        _, before = total.get(account, (tenant, Usage()))
        total[account] = (tenant, before + usage)
    return total


def by_tenant(books: Books) -> dict[str, Usage]:
    """Usage of all accounts of each tenant together."""
    totals: dict[str, Usage] = {}
    for tenant, usage in books.values():
        totals[tenant] = totals.get(tenant, Usage()) + usage
    return totals


class TokenBucket:
    """Holds a minute's worth and fills evenly; `per_minute` may be infinite.

    What is taken may be more than a minute's worth: it then takes a full bucket and leaves it
    overdrawn, so that the average holds and nothing is refused for ever.
    """

    def __init__(self, per_minute: float, now_s: float) -> None:
        self._per_minute = per_minute
        self._level = per_minute
        self._at_s = now_s

    def set_rate(self, per_minute: float, now_s: float) -> None:
        """What is left stays, up to a minute's worth at the new rate."""
        if per_minute == self._per_minute:
            return
        self._fill(now_s)
        is_new = math.isinf(self._per_minute)
        self._per_minute = per_minute
        self._level = per_minute if is_new else min(self._level, per_minute)

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until `amount` may be taken; 0 where it may be now."""
        self._fill(now_s)
        missing = min(amount, self._per_minute) - self._level
        return 0.0 if missing <= 0 else 60 * missing / self._per_minute

    def take(self, amount: float) -> None:
        """Also what is not there. A negative amount gives back, up to a full bucket."""
        self._level = min(self._level - amount, self._per_minute)

    def _fill(self, now_s: float) -> None:
        if math.isinf(self._per_minute):
            self._level = math.inf
        else:
            gained = self._per_minute * (now_s - self._at_s) / 60
            self._level = min(self._level + gained, self._per_minute)
        self._at_s = now_s


class Account:
    """One key's buckets and usage.

    A request is `admit`ted before its body is read; its tokens are `reserve`d by its size, and
    `settle`d for what they came to.
    """

    def __init__(self, rates: Rates, now_s: float) -> None:
        self.rates = rates
        self.usage = Usage()
        self._requests = TokenBucket(rates.requests_per_minute, now_s)
        self._tokens = TokenBucket(rates.tokens_per_minute, now_s)

    def set_rates(self, rates: Rates, now_s: float) -> None:
        """A key whose quota was changed keeps what it has used."""
        if rates != self.rates:
            self.rates = rates
            self._requests.set_rate(rates.requests_per_minute, now_s)
            self._tokens.set_rate(rates.tokens_per_minute, now_s)

    def admit(self, now_s: float) -> float:
        """0 where one more request is within the quota, and counted; else seconds to wait.

        Tokens that are overdrawn hold requests back, too.
        """
        wait_s = max(self._requests.wait_s(1, now_s), self._tokens.wait_s(0, now_s))
        if wait_s:
            self.usage.refused += 1
            return wait_s
        self._requests.take(1)
        self.usage.requests += 1
        return 0.0

    def reserve(self, tokens: float, now_s: float) -> float:
        """0 where so many tokens are within the quota, and reserved; else seconds to wait."""
        wait_s = self._tokens.wait_s(tokens, now_s)
        if wait_s:
            self.usage.refused += 1
            return wait_s
        self._tokens.take(tokens)
        return 0.0

    def settle(self, reserved: float, prompt_tokens: int, output_tokens: int) -> None:
        self._tokens.take(prompt_tokens + output_tokens - reserved)
        self.usage.prompt_tokens += prompt_tokens
        self.usage.output_tokens += output_tokens
