"""Planted secrets do not appear; what explains a fault stays."""

from __future__ import annotations

import pytest

from deployments.diagnosis.redaction import GONE, Redactor

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0\n-----END PRIVATE KEY-----"
PLANTED = {
    "Authorization: Bearer k-acme-0815": "k-acme-0815",
    '"authorization": "Bearer k-acme-0815"': "k-acme-0815",
    "HF_TOKEN=hunter2hunter2 in the environment": "hunter2hunter2",
    "api_key='hunter2 with blanks'": "hunter2",
    "{'password': 'hunter2'}": "hunter2",
    "curve secret: hunter2": "hunter2",
    "fetching with hf_AbCdEfGhIjKlMnOp": "hf_AbCdEfGhIjKlMnOp",
    "key sk-proj-AbCdEfGhIjKlMnOp used": "sk-proj-AbCdEfGhIjKlMnOp",
    "redis://user:hunter2@redis:6379": "hunter2",
    "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "eyJhbGciOiJIUzI1NiJ9",
    "digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": "9f86d081884c",
    PEM: "MIIEvQIBADANBgkq",
    "opened /home/alice/models": "alice",
    "opened /Users/alice/models": "alice",
    "asked by alice@example.com": "alice@example.com",
    "from 192.168.100.10:6379": "192.168.100.10",
    "from fe80::1ff:fe23:4567:890a": "890a",
    "from [2001:db8::7]:6379": "2001:db8",
    "asking https://llm.acme.example/v1": "acme",
    "asking http://bob@gpu7:8000/v1": "gpu7",
    "on host spark-of-alice it failed": "spark-of-alice",
    "token is tok-known-to-us": "tok-known-to-us",
    "Received request: prompt: 'my diagnosis is grave', params": "grave",
    """{"messages": [{"role": "user", "content": "my diagnosis is grave"}]}""": "grave",
    r"""prompt="she said \"grave\" twice" done""": "grave",
    "prompt_token_ids: [12, 7, 99]": "99",
    "ChatCompletionRequest(messages=[{'role': 'user', 'content': 'grave'}])": "grave",
}


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(known={"tok-known-to-us"}, names={"spark-of-alice"})


@pytest.mark.parametrize("line", PLANTED)
def test_planted_secrets_are_gone(redactor, line):
    assert PLANTED[line] not in redactor.text(line)


@pytest.mark.parametrize(
    "line",
    [
        "vLLM 0.29.0, ray 2.60.0, torch 2.13.0+cu130",
        "max_tokens=64 prompt_tokens: 7 completion_tokens: 12",
        "listening on 127.0.0.1:8000 and 0.0.0.0:8000",
        "NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory",
        "replica Target:demo#abc123 ended: nothing came from its engine for 15 s",
        "KeyError: 'target'",
        "at 03:10:14 std::bad_alloc from http://localhost:8000/v1, ff:ff:ff:ff:ff:ff, ::1",
    ],
)
def test_what_explains_a_fault_stays(redactor, line):
    assert redactor.text(line) == line


def test_the_same_address_has_the_same_stand_in(redactor):
    first, second = redactor.text("10.0.0.1 10.0.0.2"), redactor.text("10.0.0.2 to 10.0.0.1")
    assert (first, second) == ("host-1 host-2", "host-2 to host-1")
    node = "node_id " + "3f" * 28
    assert (redactor.text(node), redactor.text(node)) == ("node_id id-3", "node_id id-3")


def test_records_are_redacted_by_the_names_of_their_fields(redactor):
    settings = {
        "keys": [{"sha256": "ab" * 32, "tenant": "acme", "admin": True}],
        "classes": [{"name": "interactive", "ttft_ms": 2000}],
        "drafter": {"public_key": "x1", "secret": "y1", "num_context_tokens": 512},
        "table": {"n_tokens": [1, 8], "step_cost_s": [0.1, 0.2]},
        "models": [{"id": "demo", "text": "what was said", "prompt_token_ids": [1, 2]}],
        "path": "/home/alice/models",
    }
    assert redactor.value(settings) == {
        "keys": [{"sha256": GONE, "tenant": "acme", "admin": True}],
        "classes": [{"name": "interactive", "ttft_ms": 2000}],
        "drafter": {"public_key": GONE, "secret": GONE, "num_context_tokens": 512},
        "table": {"n_tokens": [1, 8], "step_cost_s": [0.1, 0.2]},
        "models": [{"id": "demo", "text": GONE, "prompt_token_ids": GONE}],
        "path": "/home/user/models",
    }
