"""The setting `tracing`, and what vLLM needs for its own span of a request."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from deployments.specs import Settings

EXPORT_TIMEOUT_S = 2
EXPORT_EVERY_MS = 1000


class TracingSpec(Settings):
    """`endpoint` is a collector's OTLP over HTTP, `sample` the share of requests that are traced
    beside those whose client says so."""

    endpoint: str
    sample: float = Field(default=0.01, ge=0, le=1)

    @field_validator("endpoint")
    @classmethod
    def _base_of_a_collector(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{value!r} is no collector: give the base of its OTLP over HTTP, as in "
                "http://127.0.0.1:4318"
            )
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError(f"{value!r}: leave out what follows the port; /v1/traces is added")
        return value.rstrip("/")

    @property
    def traces_url(self) -> str:
        return f"{self.endpoint}/v1/traces"

    def engine_kwargs(self) -> dict[str, Any]:
        """vLLM's arguments: it records `llm_request` within the trace of a request's headers."""
        return {"otlp_traces_endpoint": self.traces_url}

    def engine_env(self) -> dict[str, str]:
        """OpenTelemetry's environment for vLLM's exporter, which has no other settings.

        Without a sampled parent vLLM records nothing: what is sampled is decided at the ingress.
        """
        return {
            "OTEL_SERVICE_NAME": "dspark-engine",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": str(EXPORT_TIMEOUT_S),
            "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_EVERY_MS),
        }
