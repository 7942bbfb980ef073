"""What vLLM's own drafting would ignore of a request is refused, by vLLM's own validation."""

from __future__ import annotations

from typing import Any

import pytest
from vllm import SamplingParams
from vllm.config import ParallelConfig, SpeculativeConfig
from vllm.exceptions import VLLMValidationError

from deployments.engine.frontend import refuse_what_native_ignores
from tests.integration.test_real_model_arguments import engine_args
from tests.unit.deployments.real_models import on_disk, real_model


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, SpeculativeConfig]:
    """vLLM's model and speculation configs of a native model."""
    args = engine_args(on_disk(real_model("qwen3-4b"), tmp_path_factory.mktemp("native")))
    model_config = args.create_model_config()
    speculative = SpeculativeConfig(
        target_model_config=model_config,
        target_parallel_config=ParallelConfig(distributed_executor_backend="mp"),
        **args.speculative_config,
    )
    return model_config, speculative


class NativeParams(SamplingParams):
    """vLLM's parameters as a native engine has them; those of other engines stay as they are."""


refuse_what_native_ignores(NativeParams)


def verify(configs: tuple[Any, Any], **params: Any) -> None:
    model_config, speculative = configs
    NativeParams(**params).verify(model_config, speculative, None, None)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"extra_args": {"dspark": "off"}}, "remove dspark from vllm_xargs, or serve the model"),
        ({"logprob_token_ids": [5]}, "logprob_token_ids is not available"),
    ],
)
def test_what_would_be_ignored_is_refused_with_the_mend(configs, params, message):
    with pytest.raises(VLLMValidationError, match=message):
        verify(configs, **params)
    verify((configs[0], None), **params)  # nothing is drafted, so nothing is ignored


@pytest.mark.parametrize("value", ["OFF", 0, "false"])
def test_a_switch_that_is_neither_on_nor_off_is_refused(configs, value):
    with pytest.raises(VLLMValidationError, match='neither "on" nor "off"'):
        verify(configs, extra_args={"dspark": value})


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.8, "seed": 7},
        {"extra_args": {"other": "off"}},
        {"extra_args": {"dspark": "on"}},
        {"logprobs": 3},
    ],
)
def test_what_vllm_heeds_passes(configs, params):
    verify(configs, **params)


def test_refusing_twice_is_refusing_once():
    once = NativeParams._validate_spec_decode
    refuse_what_native_ignores(NativeParams)
    assert NativeParams._validate_spec_decode is once
    assert SamplingParams._validate_spec_decode is not once
