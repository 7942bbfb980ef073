"""`tracing` in the Serve file, and what it makes of the engine's arguments."""

from __future__ import annotations

import sys

import pytest

from deployments.engine_args import engine_kwargs
from deployments.errors import ConfigError
from deployments.placement import target_env
from deployments.schema import ModelSpec, parse_settings
from deployments.tracing.spec import TracingSpec
from deployments.tracing.start import check_installed

MODEL = {"id": "m", "placement": "off", "target": {"source": "models/demo-target"}}
SPEC = TracingSpec(endpoint="http://127.0.0.1:4318/")


def test_the_collectors_base_is_enough():
    settings = parse_settings({"models": [MODEL], "tracing": {"endpoint": SPEC.endpoint}})
    assert settings.tracing == SPEC
    assert (SPEC.endpoint, SPEC.sample) == ("http://127.0.0.1:4318", 0.01)
    assert SPEC.traces_url == "http://127.0.0.1:4318/v1/traces"
    assert parse_settings({"models": [MODEL]}).tracing is None


@pytest.mark.parametrize(
    ("tracing", "mend"),
    [
        ({"endpoint": "127.0.0.1:4318"}, "as in http://127.0.0.1:4318"),
        ({"endpoint": "grpc://collector:4317"}, "as in http://127.0.0.1:4318"),
        ({"endpoint": "http://collector:4318/v1/traces"}, "/v1/traces is added"),
        ({"endpoint": "http://collector:4318", "sample": 1.5}, "less than or equal to 1"),
        ({"sample": 0.5}, "tracing.endpoint"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(tracing, mend):
    with pytest.raises(ConfigError, match=mend):
        parse_settings({"models": [MODEL], "tracing": tracing})


def test_vllm_records_within_traces_that_the_ingress_sampled():
    model = ModelSpec.model_validate(MODEL)
    kwargs, env = engine_kwargs(model, None, SPEC), target_env(model, SPEC)
    assert kwargs["otlp_traces_endpoint"] == SPEC.traces_url
    assert env["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    assert env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"


def test_without_the_setting_the_engine_is_as_it_was():
    model = ModelSpec.model_validate(MODEL)
    assert "otlp_traces_endpoint" not in engine_kwargs(model, None)
    assert not any(name.startswith("OTEL") for name in target_env(model))


def test_opentelemetry_that_is_missing_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "deployments.tracing.otel", None)
    with pytest.raises(ConfigError, match=r"dspark-serve\[tracing\]"):
        check_installed()
