"""Several models in one application: LoRA adapters, one that embeds, the rest of the API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from transformers import AutoTokenizer

from loadtest.prompts import PROMPTS
from tests.integration.adapters import HIDDEN, write_adapter
from tests.integration.demo import DEMO_TARGET
from tests.integration.served import demo_config, fleet, serving, wait_for

CHAT = [{"role": "user", "content": PROMPTS[0]}]
TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ extra | default('') }}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("models")
    adapter = str(write_adapter(folder / "adapter"))
    config = demo_config(
        folder / "serve.yaml",
        models={"plain": "off", "split": "split"},
        loras={"odd": adapter},
        engine_kwargs={
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
            "reasoning_parser": "qwen3",
            "trust_request_chat_template": True,
        },
    )
    document = yaml.safe_load(config.read_text())
    models = document["applications"][0]["args"]["models"]
    pooling = {"engine_kwargs": {"runner": "pooling", "convert": "embed"}}
    models.append({"id": "embedder", "placement": "off", "target": DEMO_TARGET | pooling})
    config.write_text(yaml.safe_dump(document))
    with serving(config, folder / "log") as base:
        yield base


def post(url: str, path: str, **body: Any) -> Any:
    reply = httpx.post(url + path, json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()


def said(url: str, model: str, **options: Any) -> str:
    body = {"model": model, "messages": CHAT, "temperature": 0, "max_tokens": 24} | options
    message = post(url, "/v1/chat/completions", **body)["choices"][0]["message"]
    return (message["reasoning"] or "") + (message["content"] or "")


def test_an_adapter_says_the_same_as_without_speculation_and_is_counted(url):
    adapted = said(url, "plain:odd")
    assert adapted != said(url, "plain")
    assert said(url, "split:odd") == adapted
    assert said(url, "split") == said(url, "plain")
    without = wait_for(lambda: fleet(url, "split")["speculation"]["without_speculation"])
    assert without == {"lora": 1}


def test_every_model_and_adapter_is_listed_and_described(url):
    listed = [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]]
    assert sorted(listed) == ["embedder", "plain", "plain:odd", "split", "split:odd"]
    for id_ in listed:
        assert httpx.get(f"{url}/v1/models/{id_}").json()["id"] == id_


@pytest.mark.parametrize("model", ["nobody", "plain:nobody", "nobody:odd"])
def test_an_unknown_model_or_adapter_is_404_in_the_openai_shape(url, model):
    reply = httpx.post(f"{url}/v1/completions", json={"model": model, "prompt": "x"})
    assert reply.status_code == 404
    assert reply.json()["error"]["message"]
    assert httpx.get(f"{url}/v1/models/{model}").status_code == 404


def test_embeddings_come_from_a_model_that_has_them(url):
    found = post(url, "/v1/embeddings", model="embedder", input=["apples", "pears"])
    assert [len(row["embedding"]) for row in found["data"]] == [HIDDEN, HIDDEN]
    refused = httpx.post(f"{url}/v1/embeddings", json={"model": "split", "input": "apples"})
    assert 400 <= refused.status_code < 500
    assert refused.json()["error"]["message"]


@pytest.mark.parametrize("model", ["plain", "split"])
def test_tokenise_and_detokenise_as_the_models_tokenizer(url, model):
    tokenizer = AutoTokenizer.from_pretrained("models/demo-target")
    text = "Find the value of 2^10 - 2^8."
    expected = tokenizer(text)["input_ids"]
    found = post(url, "/tokenize", model=model, prompt=text)
    assert (found["tokens"], found["count"]) == (expected, len(expected))
    assert post(url, "/detokenize", model=model, tokens=expected)["prompt"] == text


def test_a_requests_own_template_and_its_arguments_reach_the_prompt(url):
    options = {"chat_template": TEMPLATE, "chat_template_kwargs": {"extra": "Once upon"}}
    changed = said(url, "split", **options)
    assert changed == said(url, "plain", **options)
    assert changed != said(url, "plain", chat_template=TEMPLATE)


def test_prompt_log_probabilities_that_would_end_the_engine_are_refused(url):
    body = {"model": "split", "prompt": "x", "max_tokens": 1, "prompt_logprobs": 1}
    reply = httpx.post(f"{url}/v1/completions", json=body)
    assert (reply.status_code, "LoRA" in reply.json()["error"]["message"]) == (400, True)


TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}, "b": {"enum": [3, 4]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


CALLING = {
    "messages": CHAT,
    "temperature": 0,
    "max_tokens": 250,
    "tools": [TOOL],
    "chat_template_kwargs": {"enable_thinking": False},  # nothing is a thought, calls may come
}


def streamed(url: str, model: str, **body: Any) -> dict[str, str]:
    """What a client puts together of a streamed chat: its parts, and how it ended."""
    parts = dict.fromkeys(("reasoning", "content", "calls", "finish_reason"), "")
    body |= {"model": model, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            for name in ("reasoning", "content"):
                parts[name] += choice["delta"].get(name) or ""
            for call in choice["delta"].get("tool_calls") or []:
                function = call["function"]
                parts["calls"] += (function.get("name") or "") + (function.get("arguments") or "")
            parts["finish_reason"] += choice["finish_reason"] or ""
    return parts


def test_a_streamed_thought_is_the_same_as_without_speculation(url):
    body = {"messages": CHAT, "temperature": 0, "max_tokens": 60}
    thought = streamed(url, "split", **body)
    assert thought == streamed(url, "plain", **body)
    assert thought["reasoning"]


@pytest.mark.parametrize(
    "choice", ["auto", "none", "required", {"type": "function", "function": {"name": "add"}}]
)
def test_tool_choices_give_the_same_message_as_without_speculation(url, choice):
    def answer(model: str) -> tuple[Any, ...]:
        body = CALLING | {"model": model, "tool_choice": choice}
        (first,) = post(url, "/v1/chat/completions", **body)["choices"]
        calls = [call["function"] for call in first["message"].get("tool_calls") or []]
        return first["message"]["content"], calls, first["finish_reason"]

    content, calls, reason = answer("split")
    assert (content, calls, reason) == answer("plain")
    body = CALLING | {"tool_choice": choice}
    assert streamed(url, "split", **body) == streamed(url, "plain", **body)
    must_call = choice == "required" or isinstance(choice, dict)
    if must_call and reason != "length":  # a call that is cut off is none
        assert [call["name"] for call in calls] == ["add"]
        assert json.loads(calls[0]["arguments"]).keys() == {"a", "b"}


def test_whatever_is_asked_the_answer_is_no_server_error(url, tmp_path):
    options = {"seed": 7, "max-examples": 25, "max-time": 40, "workers": 2, "request-timeout": 60}
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *(f"--{name}={value}" for name, value in options.items()),
        *("--checks=not_a_server_error", "--phases=fuzzing", "--no-shrink"),
        *("--report=json", f"--report-json-path={tmp_path / 'report.json'}"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.integration.fuzzed_bodies"}
    done = subprocess.run(
        command, env=os.environ | hooks, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert said(url, "split") == said(url, "plain")
