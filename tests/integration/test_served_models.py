"""Several models in one application behind two ingresses, with API keys: LoRA adapters, one that
embeds, the rest of the API, who may ask for it, and how much."""

from __future__ import annotations

import hashlib
import json
import os
import socket
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
from tests.integration.fuzzed_bodies import statuses, too_little
from tests.integration.served import demo_config, fleet, serving, wait_for
from tests.integration.structures import TEMPLATE, TOOL

CHAT = [{"role": "user", "content": PROMPTS[0]}]
ROOT = {"Authorization": "Bearer k-root"}
ACME = {"Authorization": "Bearer k-acme"}
FEW = {"Authorization": "Bearer k-few"}
HTTP = httpx.Client(headers=ROOT, timeout=120)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    write_keys(path, key("k-root", admin=True), key("k-acme"), key("k-few", requests_per_minute=2))
    return path


def key(secret: str, **options: Any) -> dict[str, Any]:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return {"sha256": digest, "tenant": secret.removeprefix("k-")} | options


def write_keys(path: Path, *keys: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(list(keys)))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[str]:
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
            # The demo never ends a thought, and a grammar would begin behind it.
            "structured_outputs_config": {"enable_in_reasoning": True},
            "trust_request_chat_template": True,
        },
    )
    document = yaml.safe_load(config.read_text())
    models = document["applications"][0]["args"]["models"]
    pooling = {"engine_kwargs": {"runner": "pooling", "convert": "embed"}}
    models.append({"id": "embedder", "placement": "off", "target": DEMO_TARGET | pooling})
    document["applications"][0]["args"] |= {
        "keys_file": str(keys),
        "limits": {"max_body_mib": 1, "body_timeout_s": 5, "max_n": 4},
        "ingress": {"replicas": 2},
    }
    config.write_text(yaml.safe_dump(document))
    with serving(config, folder / "log") as base:
        yield base


def post(url: str, path: str, **body: Any) -> Any:
    reply = HTTP.post(url + path, json=body)
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
    without = wait_for(lambda: fleet(url, "split", **ROOT)["speculation"]["without_speculation"])
    assert without == {"lora": 1}


def test_every_model_and_adapter_is_listed_and_described(url):
    listed = [m["id"] for m in HTTP.get(f"{url}/v1/models").json()["data"]]
    assert sorted(listed) == ["embedder", "plain", "plain:odd", "split", "split:odd"]
    for id_ in listed:
        assert HTTP.get(f"{url}/v1/models/{id_}").json()["id"] == id_


@pytest.mark.parametrize("model", ["nobody", "plain:nobody", "nobody:odd"])
def test_an_unknown_model_or_adapter_is_404_in_the_openai_shape(url, model):
    reply = HTTP.post(f"{url}/v1/completions", json={"model": model, "prompt": "x"})
    assert reply.status_code == 404
    assert reply.json()["error"]["message"]
    assert HTTP.get(f"{url}/v1/models/{model}").status_code == 404


def test_embeddings_come_from_a_model_that_has_them(url):
    found = post(url, "/v1/embeddings", model="embedder", input=["apples", "pears"])
    assert [len(row["embedding"]) for row in found["data"]] == [HIDDEN, HIDDEN]
    refused = HTTP.post(f"{url}/v1/embeddings", json={"model": "split", "input": "apples"})
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
    reply = HTTP.post(f"{url}/v1/completions", json=body)
    assert (reply.status_code, "LoRA" in reply.json()["error"]["message"]) == (400, True)


COMPLETION = {"model": "split", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}


def asked(url: str, headers: dict[str, str], **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json=COMPLETION | body, headers=headers, timeout=60)


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic k-root"}]
)
@pytest.mark.parametrize("path", ["/v1/models", "/fleet", "/openapi.json", "/v1/usage", "/nothing"])
def test_without_a_known_key_there_is_nothing(url, path, headers):
    reply = httpx.get(url + path, headers=headers)
    assert (reply.status_code, reply.json()["error"]["type"]) == (401, "AuthenticationError")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", ""), ("POST", "/canary"), ("DELETE", "/canary")],
)
def test_a_key_that_is_no_admins_changes_nothing(url, method, path):
    reply = httpx.request(method, f"{url}/fleet/models/split{path}", json={}, headers=ACME)
    assert reply.status_code == 403


def usage_of(url: str, who: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{url}/v1/usage", headers=who).raise_for_status().json()
    return told


def test_usage_is_what_was_asked_and_said_streamed_or_not(url):
    before = usage_of(url, ACME)
    assert (before["tenant"], before["quota"], "tenants" in before) == ("acme", {}, False)
    usage = asked(url, ACME).json()["usage"]
    assert "[DONE]" in asked(url, ACME, stream=True).text
    gained = 2 * usage["completion_tokens"]
    # What the other ingress has counted is known when it next reports.
    after = wait_for(
        lambda: (
            (now := usage_of(url, ACME))["output_tokens"] == before["output_tokens"] + gained
            and now
        )
    )
    assert after["requests"] - before["requests"] == 2
    assert after["prompt_tokens"] - before["prompt_tokens"] == 2 * usage["prompt_tokens"]
    counted = {name: count for name, count in after.items() if name not in ("tenant", "quota")}
    wait_for(lambda: usage_of(url, ROOT)["tenants"]["acme"] == counted)


def test_over_quota_is_429_with_a_time_and_holds_back_nobody_else(url):
    # Two a minute, and either ingress lets one through.
    statuses = [asked(url, FEW).status_code for _ in range(20)]
    assert (statuses.count(200), statuses.count(429)) == (2, 18)
    refused = asked(url, FEW)
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["type"] == "RateLimitError"
    assert asked(url, ACME).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"n": 5}, 400, "n is 5; at most 4"),
        ({"logprobs": 21}, 400, "logprobs is 21"),
        ({"prompt": "x" * (1 << 20)}, 413, "larger than 1 MiB"),
    ],
)
def test_a_request_beyond_the_limits_is_refused_before_a_target_sees_it(url, body, status, why):
    reply = asked(url, ACME, **body)
    assert (reply.status_code, why in reply.json()["error"]["message"]) == (status, True)


def test_a_body_that_comes_too_slowly_is_given_up_and_nobody_waits(url):
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {ACME['Authorization']}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        assert asked(url, ACME).status_code == 200
        assert slow.recv(64).startswith(b"HTTP/1.1 408")


def test_keys_come_and_go_without_a_restart(url, keys):
    assert asked(url, ACME).status_code == 200
    new = {"Authorization": "Bearer k-new"}
    write_keys(keys, key("k-root", admin=True), key("k-new"))
    # Either ingress reads the file for itself.
    wait_for(lambda: [asked(url, ACME).status_code for _ in range(8)] == [401] * 8)
    wait_for(lambda: [asked(url, new).status_code for _ in range(8)] == [200] * 8)
    keys.write_text("no list of keys")
    assert asked(url, ROOT).status_code == 200
    write_keys(keys, key("k-root", admin=True), key("k-acme"), key("k-few", requests_per_minute=2))
    wait_for(lambda: [asked(url, ACME).status_code for _ in range(8)] == [200] * 8)


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
    with HTTP.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
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


EXAMPLES = 25  # of every operation, however long they take
MOST_FUZZING_S = 1500  # for a machine whose two cores are busy otherwise, too


@pytest.mark.timeout(MOST_FUZZING_S + 300)
def test_whatever_is_asked_the_answer_is_no_server_error(url, tmp_path):
    report = tmp_path / "report.ndjson"
    # With two workers schemathesis leaves operations out at random and calls them passed.
    options = {"seed": 7, "max-examples": EXAMPLES, "workers": 1, "request-timeout": 60}
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *(f"--{name}={value}" for name, value in options.items()),
        *("--checks=not_a_server_error", "--phases=fuzzing", "--no-shrink"),
        f"--header=Authorization: {ROOT['Authorization']}",
        *("--report=ndjson", f"--report-ndjson-path={report}"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.integration.fuzzed_bodies"}
    done = subprocess.run(
        command,
        env=os.environ | hooks,
        capture_output=True,
        text=True,
        check=False,
        timeout=MOST_FUZZING_S,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    found = statuses(report)
    print({operation: dict(counts) for operation, counts in found.items()})
    assert too_little(found, examples=EXAMPLES - 5, answered=3) == []
    assert said(url, "split") == said(url, "plain")
