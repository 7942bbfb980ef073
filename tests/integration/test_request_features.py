"""What a request may ask for, row by row: the same output as plain vLLM, drafted or counted.

Rows are asked at once, so that drafted requests and others share steps, eight at a time; those
with an adapter on engines of their own, beside rows without one. Pairs of features are rows too.
What parsers make of the text is a server's (`test_served_models.py`, `test_streamed_parsing.py`);
thinking budgets and prompt embeddings, which the demo has not, are tested by their reasons alone
(`test_eligibility.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

from deployments.engine.adapter import AdapterStats
from drafters.sources import ColocatedDraftSource
from tests.integration.adapters import write_adapter
from tests.integration.engines import draft_engine, draft_from, make_engine
from tests.integration.structures import ADDENDS, PERSON, TEMPLATE, TOOL

WITH_ADAPTERS = {"enable_lora": True, "max_loras": 1, "max_lora_rank": 8}
GRAMMAR = 'root ::= "yes" | "no" | "it depends on " word\nword ::= [a-z]+ "."'
# What a server makes of `tool_choice: required`.
CALLS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 1,
    "items": {
        "type": "object",
        "properties": {"name": {"enum": ["add"]}, "parameters": ADDENDS},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Feature:
    """`reason`: why such a request is not drafted for; None where it is. `chat` are options of
    the prompt, `adapter` says whether a LoRA adapter answers."""

    name: str
    reason: str | None
    params: dict[str, Any] = field(default_factory=dict)
    chat: dict[str, Any] = field(default_factory=dict)
    adapter: bool = False


def structured(**how: Any) -> dict[str, Any]:
    return {"structured_outputs": StructuredOutputsParams(**how)}


FEATURES = [
    Feature("greedy", None),
    Feature("stop strings", None, {"stop": [".", "\n"]}),
    Feature("stop string kept", None, {"stop": ["the"], "include_stop_str_in_output": True}),
    Feature("stop token ids", None, {"stop_token_ids": [13, 15, 262, 290]}),
    Feature("min_tokens", None, {"min_tokens": 30, "stop": ["a"]}),
    Feature(
        "min_tokens with stop token ids",
        None,
        {"min_tokens": 30, "stop_token_ids": [13, 15, 262, 290]},
    ),
    Feature("ignore_eos", None, {"ignore_eos": True}),
    Feature("one token", None, {"max_tokens": 1}),
    Feature("two tokens", None, {"max_tokens": 2}),
    Feature("allowed token ids", None, {"allowed_token_ids": list(range(100, 2000))}),
    Feature(
        "repetition detection",
        None,
        {
            "allowed_token_ids": [262, 290],
            "repetition_detection": RepetitionDetectionParams(max_pattern_size=4, min_count=3),
        },
    ),
    Feature("top_k of one", None, {"temperature": 0.8, "top_k": 1}),
    Feature("n without a seed", None, {"temperature": 0.8, "top_k": 1, "n": 3}),
    Feature("top_p of nearly nothing", None, {"temperature": 0.8, "top_p": 1e-6}),
    Feature("seed", "seed", {"temperature": 0.9, "seed": 7}),
    Feature("n with a seed", "seed", {"temperature": 0.9, "seed": 7, "n": 3}),
    Feature("seed when greedy", None, {"seed": 7}),
    Feature("presence penalty", "penalties", {"presence_penalty": 1.5}),
    Feature("frequency penalty", "penalties", {"frequency_penalty": 1.5}),
    Feature("repetition penalty", "penalties", {"repetition_penalty": 1.3}),
    Feature("bad words", "bad_words", {"bad_words": ["the", " the", " and"]}),
    Feature("logprobs", "logprobs", {"logprobs": 3}),
    Feature("prompt logprobs", "logprobs", {"prompt_logprobs": 2}),
    Feature("min_p of one", "min_p", {"temperature": 0.8, "min_p": 1.0}),
    Feature("logit_bias", "logit_bias", {"logit_bias": {262: -100.0, 290: 5.0}}),
    Feature("JSON schema", "structured_output", structured(json=PERSON)),
    Feature("regex", "structured_output", structured(regex=r"[A-Z][a-z]{3,12} \d{2,4}")),
    Feature("grammar", "structured_output", structured(grammar=GRAMMAR)),
    Feature("choice", "structured_output", structured(choice=["red", "green", "blue"])),
    Feature("speculation off by request", "requested", {"extra_args": {"dspark": "off"}}),
    Feature(
        "stop strings among allowed token ids",
        None,
        {"stop": ["."], "allowed_token_ids": list(range(2000)), "min_tokens": 10},
    ),
    Feature("min_p with a seed", "seed", {"temperature": 0.9, "seed": 7, "min_p": 0.2}),
    Feature(
        "logit_bias with a penalty",
        "penalties",
        {"logit_bias": {262: -100.0}, "frequency_penalty": 1.5},
    ),
    Feature("n with logprobs", "logprobs", {"temperature": 0.8, "top_k": 1, "n": 2, "logprobs": 2}),
    Feature(
        "JSON schema with a penalty",
        "penalties",
        structured(json=PERSON) | {"presence_penalty": 1.0},
    ),
    Feature(
        "regex with a seed",
        "seed",
        structured(regex=r"[A-Z][a-z]{3,12} \d{2,4}") | {"temperature": 0.9, "seed": 7},
    ),
    Feature("bad words with stop strings", "bad_words", {"bad_words": [" the"], "stop": [" and"]}),
    Feature("tools, auto", None, chat={"tools": [TOOL]}),
    Feature(
        "tool call, required", "structured_output", structured(json=CALLS), chat={"tools": [TOOL]}
    ),
    Feature(
        "tool call, named", "structured_output", structured(json=ADDENDS), chat={"tools": [TOOL]}
    ),
    Feature("template of its own", None, chat={"chat_template": TEMPLATE}),
    Feature(
        "template's own switches",
        None,
        chat={"chat_template": TEMPLATE, "chat_template_kwargs": {"extra": "Once upon a time"}},
    ),
    Feature("LoRA", "lora", adapter=True),
    Feature("LoRA with a seed", "lora", {"temperature": 0.9, "seed": 7}, adapter=True),
    Feature("LoRA with a JSON schema", "lora", structured(json=PERSON), adapter=True),
]


def params_of(feature: Feature) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 48} | feature.params)


def run(engine: Any, features: list[Feature], **options: Any) -> dict[str, Any]:
    chat = [{"role": "user", "content": "Write a short story about a dog and the sea."}]
    params = [params_of(feature) for feature in features]
    results = engine.chat([chat] * len(params), params, use_tqdm=False, **options)
    return {f.name: result for f, result in zip(features, results, strict=True)}


def without_adapters(engine: Any) -> dict[str, Any]:
    """Rows of one prompt at once."""
    results: dict[str, Any] = {}
    for feature in FEATURES:
        if not feature.adapter and feature.name not in results:
            alike = [f for f in FEATURES if not f.adapter and f.chat == feature.chat]
            results |= run(engine, alike, **feature.chat)
    return results


def with_adapters(engine: Any, directory: Path) -> dict[str, Any]:
    """Between rows of the base model, drafted for in the same steps."""
    lora = LoRARequest("odd", 1, str(directory))
    rows = [f for f in FEATURES if f.adapter]
    others = [replace(f, name=f"beside {f.name}", adapter=False) for f in FEATURES[:6]]
    asked = [*others[:3], *rows, *others[3:]]
    return run(engine, asked, lora_request=[lora if f.adapter else None for f in asked])


@pytest.fixture(scope="module")
def adapter_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "odd")


@pytest.fixture(scope="module")
def expected(plain: Any, adapter_directory: Path) -> dict[str, Any]:
    adapted = with_adapters(make_engine("off", **WITH_ADAPTERS), adapter_directory)
    return without_adapters(plain) | adapted


@pytest.fixture(scope="module")
def served(speculative: Any, adapter_directory: Path) -> tuple[dict[str, Any], list[AdapterStats]]:
    """The answers, and what was counted by the engine without adapters and by that with."""
    engines = (speculative, make_engine("split", **WITH_ADAPTERS))
    sources = [draft_from(one, ColocatedDraftSource(draft_engine())) for one in engines]
    results = without_adapters(engines[0]) | with_adapters(engines[1], adapter_directory)
    return results, [source.stats for source in sources]


def said(result: Any) -> list[Any]:
    """Everything a client sees but log probabilities."""
    return [(o.text, list(o.token_ids), o.finish_reason, o.stop_reason) for o in result.outputs]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.name)
def test_output_is_that_of_plain_vllm(feature, expected, served):
    results, _ = served
    assert said(results[feature.name]) == said(expected[feature.name])


@pytest.mark.parametrize("kind", ["logprobs", "prompt_logprobs"])
def test_log_probabilities_are_those_of_plain_vllm(kind, expected, served):
    name = kind.replace("_", " ")

    def values(result: Any) -> list[Any]:
        found = result.outputs[0].logprobs if kind == "logprobs" else result.prompt_logprobs
        assert found
        return [{i: entry.logprob for i, entry in (step or {}).items()} for step in found]

    ours, theirs = values(served[0][name]), values(expected[name])
    assert [step.keys() for step in ours] == [step.keys() for step in theirs]
    for step, other in zip(ours, theirs, strict=True):
        assert step == pytest.approx(other, abs=1e-4)


def test_who_is_not_drafted_for_is_counted_by_reason(served):
    _, all_stats = served
    for stats, adapter in zip(all_stats, (False, True), strict=True):
        counted = Counter[str]()
        for feature in FEATURES:
            if feature.reason and feature.adapter == adapter:
                counted[feature.reason] += params_of(feature).n
        assert stats.ineligible == counted
        assert stats.verified_drafts > 50


def test_beside_adapters_the_base_models_output_is_that_without_them(expected, served):
    results, _ = served
    beside = [name for name in expected if name.startswith("beside ")]
    assert len(beside) == 6
    for name in beside:
        assert said(results[name]) == said(expected[name])
        assert said(results[name]) == said(expected[name.removeprefix("beside ")])


def test_the_features_change_what_is_said(expected):
    """Each row can fail: without its parameter the output would be another."""
    same_by_nature = {"ignore_eos", "seed when greedy", "speculation off by request", "logprobs"}
    same_by_nature |= {"prompt logprobs", "greedy", "min_p of one"}
    same_by_nature |= {"top_k of one", "top_p of nearly nothing"}
    same_by_nature |= {"n without a seed", "n with logprobs", "tools, auto"}
    (greedy,) = said(expected["greedy"])
    for feature in FEATURES:
        same = said(expected[feature.name]) == [greedy] * params_of(feature).n
        assert same == (feature.name in same_by_nature)
    assert expected["repetition detection"].outputs[0].finish_reason == "repetition"
