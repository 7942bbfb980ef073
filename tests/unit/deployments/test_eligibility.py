"""Why requests are not drafted for, reason by reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engine.eligibility import ineligible_reason

PLAIN = {
    "temperature": 0.7,
    "seed": None,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_p": 0.0,
    "logit_bias": None,
    "bad_words": [],
    "logprobs": None,
    "prompt_logprobs": None,
    "thinking_token_budget": None,
    "structured_outputs": None,
    "extra_args": None,
}


def request(params: dict[str, Any] | None = None, **fields: Any) -> Any:
    """What `ineligible_reason` reads of vLLM's `NewRequestData`."""
    sampling = SimpleNamespace(**PLAIN | (params or {}))
    usual = {"sampling_params": sampling, "lora_request": None, "mm_features": []}
    return SimpleNamespace(**usual | {"prompt_token_ids": [1], "prompt_embeds": None} | fields)


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.0, "seed": 7}, {"extra_args": {"dspark": "on"}}]
)
def test_others_are_drafted_for(params):
    assert ineligible_reason(request(params)) is None


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"extra_args": {"dspark": "off"}}, "requested"),
        ({"extra_args": {"dspark_probe": True}}, "dspark_probe"),
        ({"seed": 7}, "seed"),
        ({"presence_penalty": 0.1}, "penalties"),
        ({"frequency_penalty": -0.1}, "penalties"),
        ({"repetition_penalty": 1.1}, "penalties"),
        ({"min_p": 0.1}, "min_p"),
        ({"logit_bias": {1: 2.0}}, "logit_bias"),
        ({"bad_words": ["x"]}, "bad_words"),
        ({"logprobs": 0}, "logprobs"),
        ({"prompt_logprobs": 0}, "logprobs"),
        ({"thinking_token_budget": 0}, "thinking_budget"),
        ({"structured_outputs": object()}, "structured_output"),
    ],
)
def test_what_is_asked_for_can_be_a_reason(params, reason):
    assert ineligible_reason(request(params)) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sampling_params": None}, "pooling"),
        ({"lora_request": object()}, "lora"),
        ({"prompt_token_ids": None}, "not_token_ids"),
        ({"prompt_embeds": object()}, "not_token_ids"),
        ({"mm_features": [object()]}, "not_token_ids"),
    ],
)
def test_what_it_consists_of_can_be_a_reason(fields, reason):
    assert ineligible_reason(request(**fields)) == reason
