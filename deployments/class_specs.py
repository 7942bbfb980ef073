"""The settings of service classes: what is promised to requests."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from autoscale.service_class import ServiceClass
from deployments.specs import Settings

Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]


class ClassSpec(Settings):
    """A promise to some requests: the first token within `ttft_ms`, then one every `tpot_ms`.

    `attainment` is the share of requests for which both are to hold.
    """

    name: Name
    ttft_ms: float = Field(default=math.inf, gt=0)
    tpot_ms: float = Field(default=math.inf, gt=0)
    attainment: float = Field(default=0.95, ge=0, le=1)

    def promise(self) -> ServiceClass:
        return ServiceClass(
            name=self.name,
            ttft_s=self.ttft_ms / 1000,
            tpot_s=self.tpot_ms / 1000,
            attainment=self.attainment,
        )
