"""The settings of service classes, and of the API keys that speak for tenants."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from autoscale.quota import Rates
from autoscale.service_class import ServiceClass
from deployments.specs import Settings

Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
NO_ONE = "anonymous"  # the tenant of requests without a key


class ClassSpec(Settings):
    """A promise to some requests: the first token within `ttft_ms`, then one every `tpot_ms`.

    A request that cannot get its first token in time is refused with 429. `attainment` is the
    share of requests for which both are to hold, refused ones included. Higher `priority` goes
    first; within one, classes share by `weight`. `max_seat_share` bounds what a class takes of
    a replica's seats.
    """

    name: Name
    ttft_ms: float = Field(default=math.inf, gt=0)
    tpot_ms: float = Field(default=math.inf, gt=0)
    attainment: float = Field(default=0.95, ge=0, le=1)
    priority: int = 0
    weight: float = Field(default=1.0, gt=0)
    max_seat_share: float = Field(default=1.0, gt=0, le=1)

    def promise(self) -> ServiceClass:
        return ServiceClass(
            name=self.name,
            ttft_s=self.ttft_ms / 1000,
            tpot_s=self.tpot_ms / 1000,
            attainment=self.attainment,
            priority=self.priority,
            weight=self.weight,
            max_seat_share=self.max_seat_share,
        )


class KeySpec(Settings):
    """An API key by its digest (`printf %s KEY | sha256sum`): whose it is, and what it may ask.

    Its requests are of the first of `classes`, or of the one they name in `x-dspark-class`.
    Without `classes` it may name any. `admin` keys may change models. Beyond `requests_per_minute`
    and `tokens_per_minute`, prompt and output together, it gets 429.
    """

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: Name
    classes: tuple[Name, ...] = ()
    admin: bool = False
    requests_per_minute: float = Field(default=math.inf, gt=0)
    tokens_per_minute: float = Field(default=math.inf, gt=0)

    @property
    def rates(self) -> Rates:
        return Rates(self.requests_per_minute, self.tokens_per_minute)
