"""Who sends a request, and of which service class it is: by API key, then by header.

What was found out goes on in headers, which reach the targets with the request: class, tenant,
and when it came. Whatever a client put there itself is overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from autoscale.quota import Account
from deployments.class_specs import NO_ONE, KeySpec
from deployments.denial import denied
from deployments.fleet_page import PAGE_PATH
from deployments.key_ring import KeyRing
from deployments.metering import Accounts, OverQuotaError
from deployments.request_headers import (
    ARRIVED_HEADER,
    CLASS_HEADER,
    TENANT_HEADER,
    TOLD_HEADERS,
    WAITED_HEADER,
    overwritten,
)

ASKING = "dspark_asking"  # in the ASGI scope of a request


@dataclass(frozen=True, slots=True)
class Caller:
    """Without keys nobody has one, and everybody is `NO_ONE`."""

    tenant: str
    class_name: str
    key: KeySpec | None = None

    @property
    def is_admin(self) -> bool:
        return self.key is None or self.key.admin


@dataclass(frozen=True, slots=True)
class Asking:
    """Whose request it is, and on whose account."""

    caller: Caller
    account: Account


class UnknownKeyError(Exception):
    """No key that is known: 401."""


class NoKeyError(UnknownKeyError):
    """None at all."""


class NotAllowedError(Exception):
    """A key that is known, and may not ask for this: 403."""


class Callers:
    """`classes` are those that are served, the default one first."""

    def __init__(self, classes: Iterable[str], keys: KeyRing) -> None:
        self._classes = tuple(classes)
        self._keys = keys

    def identify(self, headers: Mapping[str, str], *, changes_fleet: bool = False) -> Caller:
        """Raises UnknownKeyError, NotAllowedError, or ValueError (400): no such class."""
        wanted = headers.get(CLASS_HEADER)
        if wanted is not None and wanted not in self._classes:
            raise ValueError(
                f"{CLASS_HEADER}: there is no class {wanted!r}, there are {list(self._classes)}"
            )
        if not self._keys.is_needed:
            return Caller(NO_ONE, wanted or self._classes[0])
        key = self._key(headers)
        if changes_fleet and not key.admin:
            raise NotAllowedError("this API key may not change the fleet: it is not an admin's")
        allowed = key.classes or self._classes
        if wanted is not None and wanted not in allowed:
            raise NotAllowedError(f"this API key may not ask for class {wanted!r}")
        return Caller(key.tenant, wanted or allowed[0], key)

    def _key(self, headers: Mapping[str, str]) -> KeySpec:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise NoKeyError("no API key: send one as `Authorization: Bearer KEY`")
        key = self._keys.find(secret.strip())
        if key is None:
            raise UnknownKeyError("this API key is not known")
        return key


@cache
def machine() -> str:
    """Which machine this is since it was booted, as its processes share a monotonic clock; empty
    where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def age_s(headers: Mapping[str, str], now_s: float, here: str) -> float:
    """How long ago a request reached the ingress; 0 where nobody said.

    `now_s` is of the monotonic clock of machine `here`. Of a request from another machine that
    is what it waited in the ingress, by the clock there: wall clocks differ, and jump, and what
    a request was on its way is not worth one refused for nothing.
    """
    waited_s = float(headers.get(WAITED_HEADER, 0.0))
    there, _, arrived_s = headers.get(ARRIVED_HEADER, "").partition(" ")
    if not here or there != here:
        return waited_s
    return max(waited_s, now_s - float(arrived_s))


class IdentifyCallers:
    """ASGI middleware: refuses whom `callers` refuses, and who is over quota, and counts them;
    names the others in their headers.

    The key itself goes no further. Who asks is in the scope, as `Asking`. `accounts` says where
    requests are counted, in the process that serves.
    """

    def __init__(self, app: ASGIApp, callers: Callers, accounts: Callable[[], Accounts]) -> None:
        self._app = app
        self._callers = callers
        self._accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _carries_no_key(scope):
            await self._app(scope, receive, send)
            return
        try:
            caller = self._callers.identify(
                Headers(scope=scope), changes_fleet=_changes_fleet(scope)
            )
            accounts = self._accounts()
            account = accounts.of(caller.key)
            if _asks_a_model(scope):
                accounts.admit(account)
        except OverQuotaError as error:
            headers = {"Retry-After": str(error.retry_after_s)}
            await denied("over_quota", 429, str(error), headers)(scope, receive, send)
        except NoKeyError as error:
            await denied("no_key", 401, str(error))(scope, receive, send)
        except UnknownKeyError as error:
            await denied("unknown_key", 401, str(error))(scope, receive, send)
        except NotAllowedError as error:
            await denied("not_allowed", 403, str(error))(scope, receive, send)
        except ValueError as error:
            await denied("unknown_class", 400, str(error))(scope, receive, send)
        else:
            ours = {
                CLASS_HEADER: caller.class_name,
                TENANT_HEADER: caller.tenant,
                ARRIVED_HEADER: f"{machine()} {time.monotonic()!r}",
            }
            dropped = ("authorization", *TOLD_HEADERS)
            kept = overwritten(scope["headers"], ours, without=dropped)
            asking = Asking(caller, account)
            await self._app({**scope, "headers": kept, ASKING: asking}, receive, send)


def _changes_fleet(scope: Scope) -> bool:
    return scope["method"] not in ("GET", "HEAD") and "/fleet/" in scope["path"]


def _asks_a_model(scope: Scope) -> bool:
    return scope["method"] == "POST" and not _changes_fleet(scope)


def _carries_no_key(scope: Scope) -> bool:
    """Preflights, and the page that asks for the key: it holds nothing."""
    return bool(scope["method"] == "OPTIONS" or scope["path"] == PAGE_PATH)
