"""Tracing of a process: begun once, with OpenTelemetry imported only where it is wanted."""

from __future__ import annotations

from functools import cache

from deployments.errors import ConfigError
from deployments.tracing.span import Tracing
from deployments.tracing.spec import TracingSpec


@cache
def tracing_of(spec: TracingSpec | None, service: str) -> Tracing:
    """Spans of this process under the name of `service`; without `spec` none."""
    if spec is None:
        return Tracing()
    from deployments.tracing.otel import OtelTracing, exporting

    return OtelTracing(service, exporting(spec))


def check_installed() -> None:
    """Raises ConfigError where there is no OpenTelemetry."""
    try:
        import deployments.tracing.otel  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tracing: {error}; install the OpenTelemetry SDK and its OTLP exporter: "
            "pip install 'dspark-serve[tracing]'"
        ) from None
