"""The served application, through the official client: the API, exactness, faults.

One long file, as its tests share an application that takes minutes to start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from transformers import AutoTokenizer

from cluster.cli import main
from drafters.answers import read_answers
from loadtest.prompts import PROMPTS, SECOND_TURNS
from profiles.served_acceptance import load_served
from tests.integration.collector import CollectedSpan, Collector, collecting
from tests.integration.distributions import are_alike
from tests.integration.served import demo_config, engine_of, fleet, serving, wait_for

MAX_TOKENS = 40
CLIENT_SPAN = "00f067aa0ba902b7"
TRACED_PROMPT = "What is 12 times 7?"


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the targets keep what they served."""
    return Path(tmp_path_factory.mktemp("captured"))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture(scope="module")
def url(
    tmp_path_factory: pytest.TempPathFactory, captured: Path, collector: Collector
) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("served")
    config = demo_config(
        folder / "serve.yaml",
        models={"plain": "off", "split": "split", "colocated": "colocated"},
        classes=({"name": "standard"}, {"name": "instant", "ttft_ms": 50}),
        # Prompts of more tokens than this are prefilled in chunks.
        engine_kwargs={"max_num_batched_tokens": 64},
        capture={"directory": str(captured)},
        tracing={"endpoint": collector.url, "sample": 0},
    )
    with serving(config, folder / "log") as base:
        yield base


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


Chat = list[dict[str, str]]


def ask(client: openai.OpenAI, model: str, chat: Chat) -> str:
    reply = client.chat.completions.create(
        model=model,
        messages=chat,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=MAX_TOKENS,
    )
    return reply.choices[0].message.content or ""


def ask_all(client: openai.OpenAI, model: str, chats: list[Chat], concurrency: int) -> list[str]:
    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(lambda chat: ask(client, model, chat), chats))


def first_turns() -> list[Chat]:
    return [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def second_turns(answers: list[str]) -> list[Chat]:
    return [
        [
            *chat,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": SECOND_TURNS[i % len(SECOND_TURNS)]},
        ]
        for i, (chat, answer) in enumerate(zip(first_turns(), answers, strict=True))
    ]


@pytest.fixture(scope="module")
def answers(client: openai.OpenAI) -> list[str]:
    return ask_all(client, "plain", first_turns(), 8)


@pytest.fixture(scope="module")
def second_answers(client: openai.OpenAI, answers: list[str]) -> list[str]:
    return ask_all(client, "plain", second_turns(answers), 8)


@pytest.mark.parametrize("model", ["split", "colocated"])
def test_greedy_answers_equal_plain_vllm(client, url, model, answers, second_answers):
    assert ask_all(client, model, first_turns(), 8) == answers
    # The conversation so far is in the prefix cache now.
    assert ask_all(client, model, second_turns(answers), 8) == second_answers
    stats = wait_for(lambda: fleet(url, model)["speculation"]["verified_drafts"])
    assert stats > 0


@pytest.mark.parametrize("model", ["split", "colocated"])
def test_greedy_answers_one_at_a_time(client, model, answers):
    assert ask_all(client, model, first_turns()[::4], 1) == answers[::4]


def test_an_engine_on_processors_gives_way_to_its_replica(url):
    (target,) = wait_for(lambda: fleet(url, "split")["targets"])
    replica = psutil.Process(target["pid"])
    assert engine_of(replica.pid).nice() > replica.nice()


def test_a_drafter_killed_in_the_middle_costs_speed_only(client, url, answers):
    (before,) = fleet(url, "split")["drafters"]

    def kill() -> None:
        time.sleep(1.0)
        os.kill(before["pid"], signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        assert ask_all(client, "split", first_turns(), 8) == answers
        killed.result()

    def another_drafter() -> Any:
        drafters = fleet(url, "split")["drafters"]
        return [d for d in drafters if d["pid"] != before["pid"]]

    (after,) = wait_for(another_drafter, 120)
    wait_for(lambda: fleet(url, "split")["targets"][0]["drafter"] == after["replica_id"])
    drafted = fleet(url, "split")["speculation"]["verified_drafts"]
    assert ask_all(client, "split", first_turns()[:16], 8) == answers[:16]
    wait_for(lambda: fleet(url, "split")["speculation"]["verified_drafts"] > drafted)


NUM_DRAWS = 240


def first_three(client: openai.OpenAI, model: str, num_draws: int) -> list[tuple[int, ...]]:
    """The first three tokens of as many answers to one prompt at temperature 0.7."""

    def ask_four(_: int) -> list[tuple[int, ...]]:
        reply = client.chat.completions.create(
            model=model,
            messages=first_turns()[0],  # type: ignore[arg-type]
            temperature=0.7,
            max_tokens=6,
            n=4,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        return [tuple(choice.token_ids[:3]) for choice in reply.choices]  # type: ignore[attr-defined]

    with ThreadPoolExecutor(4) as pool:
        return [draw for draws in pool.map(ask_four, range(num_draws // 4)) for draw in draws]


def test_a_drafter_killed_in_the_middle_changes_no_distribution(client, url):
    """Draws before it is killed, and while it is gone."""
    (before,) = fleet(url, "split")["drafters"]
    drafted = fleet(url, "split")["speculation"]["verified_drafts"]

    def kill() -> None:
        wait_for(lambda: fleet(url, "split")["speculation"]["verified_drafts"] > drafted + 60)
        os.kill(before["pid"], signal.SIGKILL)
        assert not drawn.is_set()

    drawn = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        draws = first_three(client, "split", NUM_DRAWS)
        drawn.set()
        killed.result()
    plain = first_three(client, "plain", 2 * NUM_DRAWS)
    assert len(draws) == NUM_DRAWS
    assert are_alike([(draws, plain)])
    wait_for(lambda: {d["pid"] for d in fleet(url, "split")["drafters"]} - {before["pid"]}, 120)
    wait_for(lambda: fleet(url, "split")["targets"][0]["drafter"])


def test_a_request_that_disconnects_leaves_nothing_behind(client, url):
    stream = {"model": "split", "temperature": 0, "max_tokens": 900, "stream": True}
    for _ in range(20):  # more than the replica has seats for
        with client.completions.create(prompt="Once upon a time", **stream) as events:
            next(iter(events))
    wait_for(lambda: fleet(url, "split")["targets"][0]["stats"]["requests"] == 0)
    assert fleet(url, "split")["targets"][0]["stats"]["sessions"] == 0
    wait_for(lambda: fleet(url, "split")["drafters"][0]["stats"]["engine"]["sessions"] == 0)
    assert ask(client, "split", first_turns()[0])


UNDRAFTED_SERVICES = {
    "POST /v1/completions": "dspark-ingress",
    "target attempt": "dspark-ingress",
    "target": "dspark-target",
    "admission wait": "dspark-target",
    "llm_request": "dspark-engine",
    "drafting": "dspark-worker",
}


def trace_of(
    client: openai.OpenAI, collector: Collector, trace_id: str, names: set[str], **request: Any
) -> dict[str, CollectedSpan]:
    """The spans of one request whose client traces it, by name; they are one tree.

    `names` are those it must have: processes export theirs at different times.
    """
    traceparent = f"00-{trace_id}-{CLIENT_SPAN}-01"
    client.completions.create(
        prompt=TRACED_PROMPT, temperature=0, extra_headers={"traceparent": traceparent}, **request
    )
    wait_for(lambda: names <= {span.name for span in collector.of(trace_id)})
    time.sleep(1.5)  # for what nobody expects; spans are exported every second
    spans = collector.of(trace_id)
    parents = {span.span_id for span in spans} | {CLIENT_SPAN}
    assert {span.name for span in spans if span.parent_id not in parents} == set()
    assert [span.name for span in spans if span.parent_id == CLIENT_SPAN] == [
        "POST /v1/completions"
    ]
    assert not any(TRACED_PROMPT in span.raw for span in spans)
    return {span.name: span for span in spans}


def test_a_clients_trace_goes_on_through_ingress_target_and_drafter(client, collector):
    services = UNDRAFTED_SERVICES | {"draft round": "dspark-drafter"}
    ask = {"model": "split", "max_tokens": 40, "extra_body": {"ignore_eos": True}}
    spans = trace_of(client, collector, "a" * 32, set(services), **ask)
    assert {name: span.service for name, span in spans.items()} == services
    parents = {name: span.parent_id for name, span in spans.items()}
    within = {
        "target attempt": "POST /v1/completions",
        "target": "target attempt",
        "admission wait": "target",
        "llm_request": "target",
        "drafting": "target",
        "draft round": "drafting",
    }
    for name, parent in within.items():
        assert parents[name] == spans[parent].span_id, name
    assert spans["target"].attributes["gen_ai.usage.output_tokens"] == 40
    assert spans["llm_request"].attributes["gen_ai.usage.completion_tokens"] == 40
    assert spans["llm_request"].attributes["gen_ai.latency.time_in_model_prefill"] > 0
    drafting = spans["drafting"].attributes
    assert 0 < drafting["dspark.draft.answered_rounds"] <= drafting["dspark.draft.rounds"] <= 40
    assert drafting["dspark.draft.accepted_tokens"] <= drafting["dspark.draft.verified_tokens"]
    assert drafting["dspark.draft.wait_ms"] > 0


def test_a_trace_says_why_a_request_was_not_drafted_for(client, collector):
    ask = {"model": "colocated", "max_tokens": 4, "logprobs": 1}
    spans = trace_of(client, collector, "b" * 32, set(UNDRAFTED_SERVICES), **ask)
    assert {name: span.service for name, span in spans.items()} == UNDRAFTED_SERVICES
    assert spans["drafting"].attributes["dspark.draft.without"] == "logprobs"


def test_requests_that_nobody_samples_leave_no_span(client, collector):
    ask(client, "split", first_turns()[0])
    time.sleep(1.5)
    assert {span.trace_id for span in collector.spans} <= {"a" * 32, "b" * 32}


def admission(url: str, model: str) -> dict[str, Any]:
    (target,) = fleet(url, model)["targets"]
    found: dict[str, Any] = target["stats"]["admission"]
    return found


def test_what_would_come_too_late_is_refused_and_the_next_one_is_not(client, url):
    wait_for(lambda: admission(url, "plain")["running"] == 0)
    before = admission(url, "plain")["classes"]
    once: dict[str, Any] = {"model": "plain", "prompt": "Once", "temperature": 0}
    long = once | {"max_tokens": 900, "stream": True, "extra_body": {"ignore_eos": True}}
    short = once | {"max_tokens": 4, "extra_headers": {"x-dspark-class": "instant"}}
    streams = [client.completions.create(**long) for _ in range(8)]  # all seats
    for stream in streams:
        next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="first token later") as refused:
        client.completions.create(**short)
    assert int(refused.value.response.headers["retry-after"]) >= 1
    for stream in streams:
        stream.close()
    wait_for(lambda: admission(url, "plain")["running"] == 0)
    time.sleep(0.6)  # who has just refused is not asked again at once
    assert client.completions.create(**short).usage.completion_tokens == 4

    def after() -> dict[str, Any] | None:
        found = admission(url, "plain")
        classes: dict[str, Any] = found["classes"]
        return classes if classes["instant"]["arrived"] == 2 and not found["running"] else None

    counts = wait_for(after)
    assert (counts["instant"]["shed_too_late"], counts["instant"]["admitted"]) == (1, 1)
    assert counts["standard"]["broken_off"] == before["standard"]["broken_off"] + 8
    for one in counts.values():
        assert one["arrived"] == one["admitted"] + one["shed_too_late"]
        assert one["admitted"] == one["met"] + one["missed"] + one["broken_off"]


def test_a_class_that_there_is_not_is_refused(url):
    reply = httpx.post(
        f"{url}/v1/completions",
        json={"model": "plain", "prompt": "x"},
        headers={"x-dspark-class": "gold"},
    )
    assert reply.status_code == 400
    assert "'gold'" in reply.json()["error"]["message"]


def change(url: str, model: str, **changes: Any) -> int:
    return httpx.patch(f"{url}/fleet/models/{model}", json=changes).status_code


def split_stats(url: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet(url, "split")["targets"][0]["stats"]
    return found


def test_a_model_changes_while_serving(client, url, answers):
    fixed = {"kind": "fixed", "k": 3}
    assert change(url, "split", speculation=False) == 200
    wait_for(lambda: split_stats(url)["controls"] == {"speculation": False})
    drafted = split_stats(url)["verified_drafts"]
    assert ask_all(client, "split", first_turns()[:8], 8) == answers[:8]
    time.sleep(1.5)  # three reports
    assert split_stats(url)["verified_drafts"] == drafted
    assert change(url, "split", speculation=None, policy=fixed, max_draft_tokens=2) == 200
    wait_for(lambda: split_stats(url)["policy"] == fixed)
    before = split_stats(url)
    assert ask_all(client, "split", first_turns()[8:16], 8) == answers[8:16]
    wait_for(lambda: split_stats(url)["verified_drafts"] > drafted + 50)
    after = split_stats(url)
    tokens, drafts = (after[n] - before[n] for n in ("draft_tokens", "verified_drafts"))
    assert tokens <= 2 * drafts
    assert change(url, "split", policy=None, max_draft_tokens=None) == 200
    assert change(url, "split", policy={"kind": "psychic"}) == 400
    assert change(url, "plain", speculation=False) == 404


@pytest.fixture
def counted_under(client: openai.OpenAI, url: str, answers: list[str]) -> Iterator[Any]:
    """What the split target counts while it answers, as plain vLLM does, under a control."""
    changed: set[str] = set()

    def count(**control: Any) -> dict[str, int]:
        changed.update(control)
        assert change(url, "split", **control) == 200
        wait_for(lambda: control.items() <= split_stats(url)["controls"].items())
        before = split_stats(url)
        assert ask_all(client, "split", first_turns()[:16], 8) == answers[:16]
        wait_for(lambda: split_stats(url)["requests"] == 0)
        time.sleep(1.5)  # three reports
        after = split_stats(url)
        names = ("steps", "draft_tokens", "verified_drafts", "steps_without_reply")
        return {name: after[name] - before[name] for name in names}

    yield count
    assert change(url, "split", **dict.fromkeys(changed)) == 200
    wait_for(lambda: split_stats(url)["controls"] == {})


def test_a_verify_budget_bounds_every_step(counted_under):
    counted = counted_under(verify_budget_tokens=8)
    assert 0 < counted["draft_tokens"] <= 8 * counted["steps"]


@pytest.mark.parametrize(
    "control", [{"deadline_ms": 0.001}, {"drafter_address": "tcp://127.0.0.1:9"}]
)
def test_without_drafts_in_time_steps_go_on_plain(counted_under, control):
    counted = counted_under(**control)
    assert counted["steps_without_reply"] > 0
    assert counted["verified_drafts"] == 0


def test_what_the_fleet_learns_of_its_drafter_is_shown(url, answers):
    def learned() -> Any:
        (found,) = fleet(url, "split")["learned"]
        return found if "acceptance" in found else None

    found = wait_for(learned)  # outcomes every five seconds, a refit every ten
    assert (found["model_id"], found["drafter_id"]) == ("demo-target", "demo-drafter")
    assert found["acceptance"]["rate"] > 0.3
    assert not found["acceptance"]["collapsed"]
    assert found["calibration"]["greedy/0"]["sampled_drafts"] > 0


def test_models_are_listed(client):
    assert sorted(m.id for m in client.models.list()) == ["colocated", "plain", "split"]


def test_a_stream_carries_the_same_text_and_the_usage(client, answers):
    stream = client.chat.completions.create(
        model="split",
        messages=first_turns()[0],
        temperature=0,
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answers[0]
    usage = chunks[-1].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= MAX_TOKENS
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] in ("stop", "length")
    assert set(reasons[:-1]) == {None}


def test_max_tokens_is_kept_to_the_token(client):
    for max_tokens in (1, 2, 9):
        reply = client.completions.create(
            model="split",
            prompt="def main():",
            max_tokens=max_tokens,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        assert reply.usage.completion_tokens == max_tokens
        assert reply.choices[0].finish_reason == "length"


def test_stop_strings_cut_where_plain_vllm_cuts(client):
    def stopped(model: str) -> tuple[str, str | None]:
        reply = client.completions.create(
            model=model, prompt="The sum of 2 and 2", max_tokens=60, temperature=0, stop=["\n", "."]
        )
        return reply.choices[0].text, reply.choices[0].finish_reason

    assert stopped("split") == stopped("plain") == stopped("colocated")


def test_sampling_parameters_are_served(client):
    reply = client.chat.completions.create(
        model="split", messages=first_turns()[1], temperature=0.7, top_p=0.9, max_tokens=20
    )
    assert reply.usage.completion_tokens > 0


def test_a_seeded_request_runs_without_speculation_and_is_counted(client, url):
    def seeded(model: str) -> str:
        reply = client.completions.create(
            model=model, prompt="Once", max_tokens=30, temperature=0.9, seed=7
        )
        return str(reply.choices[0].text)

    assert seeded("split") == seeded("split") == seeded("plain")
    wait_for(lambda: without_speculation(url).get("seed") == 2)


def without_speculation(url: str) -> dict[str, int]:
    """Requests of the split model that were not drafted for, by reason."""
    found: dict[str, int] = fleet(url, "split")["speculation"]["without_speculation"]
    return found


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ({"min_p": 1.0}, "min_p"),
        ({"logit_bias": {"262": -100}}, "logit_bias"),
        ({"vllm_xargs": {"dspark": "off"}}, "requested"),
    ],
)
def test_what_cannot_be_drafted_runs_without_speculation_and_is_counted(
    client, url, parameter, reason
):
    def said(model: str) -> str:
        reply = client.completions.create(
            model=model,
            prompt="Once",
            max_tokens=20,
            temperature=0.8 if "min_p" in parameter else 0,
            extra_body=parameter,
        )
        return str(reply.choices[0].text)

    before = without_speculation(url)
    assert said("split") == said("plain")
    wait_for(lambda: without_speculation(url) != before)
    assert without_speculation(url) == before | {reason: before.get(reason, 0) + 1}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", {"model": "split"}, 400),
        ("/v1/chat/completions", {"model": "split", "messages": "hello"}, 400),
        ("/v1/chat/completions", b"{not json", 400),
        ("/v1/completions", {"model": "split", "prompt": "x", "max_tokens": -1}, 400),
        ("/v1/completions", {"model": "split", "prompt": "x", "temperature": -2}, 400),
        ("/v1/completions", {"model": "split", "prompt": "x " * 3000, "max_tokens": 4}, 400),
        # Refused by our own part of vLLM's validation.
        (
            "/v1/completions",
            {"model": "split", "prompt": "x", "logprobs": 1, "logprob_token_ids": [5]},
            400,
        ),
        ("/v1/completions", {"model": "split", "prompt": "x", "vllm_xargs": {"dspark": 0}}, 400),
        (
            "/v1/completions",
            {"model": "split", "prompt": "x", "vllm_xargs": {"dspark_said": [999999999]}},
            400,
        ),
        ("/v1/completions", {"model": "nobody", "prompt": "x"}, 404),
    ],
)
def test_malformed_input_gets_the_openai_error_shape(url, path, body, status):
    send = {"content": body} if isinstance(body, bytes) else {"json": body}
    reply = httpx.post(url + path, headers={"Content-Type": "application/json"}, **send)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert {"type", "code"} <= set(error)


def test_generated_answers_are_the_served_models_own(url, tmp_path):
    """Token ids and end of text included, whatever drafts them."""
    prompts = tmp_path / "chat.jsonl"
    rows = [{"messages": chat, "domain": "chat", "source": "test"} for chat in first_turns()[:12]]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for model in ("plain", "colocated"):
        output = tmp_path / model
        command = [
            *(sys.executable, "-m", "cluster.cli", "generate", "--target", "models/demo-target"),
            *("--prompts", str(prompts), "--output", str(output), "--url", url, "--model", model),
            *("--temperatures", "0", "--max-tokens", "24"),
        ]
        subprocess.run(command, check=True, timeout=120)
        found.append({row["id"]: row["output"] for _, row in read_answers(output)})
    plain, colocated = found
    assert len(plain) == 12
    assert plain == colocated
    assert {len(output) for output in plain.values()} >= {24}


def test_served_traffic_is_kept_as_training_text_without_addresses(client, captured):
    ask(client, "plain", [{"role": "user", "content": "My address is jane@example.com, keep it."}])
    tokenizer = AutoTokenizer.from_pretrained("models/demo-target")

    def kept() -> list[str]:
        rows = (
            [row for _, row in read_answers(captured)]
            if any(captured.rglob("part-*.parquet"))
            else []
        )
        texts = [tokenizer.decode(row["prompt"]) for row in rows]
        return [text for text in texts if "My address is" in text]

    (text,) = wait_for(kept)
    assert "jane" not in text
    assert "keep it" in text


def test_a_conversation_becomes_the_tokens_of_the_models_template(url):
    said = [
        {"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And twice that?"},
    ]
    plain = [said[0] | {"content": "What is 2 + 2?"}, *said[1:]]
    tokenizer = AutoTokenizer.from_pretrained("models/demo-target")
    expected = tokenizer.apply_chat_template(plain, add_generation_prompt=True)["input_ids"]
    body = {"model": "plain", "messages": said}
    found = httpx.post(f"{url}/tokenize", json=body).raise_for_status().json()
    assert (found["tokens"], found["count"]) == (expected, len(expected))
    body = {"model": "plain", "tokens": expected}
    text = httpx.post(f"{url}/detokenize", json=body).raise_for_status().json()["prompt"]
    assert text == tokenizer.decode(expected)


def test_an_evaluation_counts_what_the_service_accepted(url, tmp_path):
    rows = [{"id": f"p{i}", "prompt": prompt} for i, prompt in enumerate(PROMPTS[:6])]
    rows[0]["turns"] = [PROMPTS[0], SECOND_TURNS[0]]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["evaluate", "--url", url, "--model", "colocated", "--benchmarks", str(tmp_path)]
    arguments += ["--policy", "{kind: fixed, k: 7}", "--temperatures", "0"]
    arguments += ["--max-output-tokens", str(MAX_TOKENS), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    first, second = load_served(tmp_path / "out" / "served.parquet")
    assert (first.num_prompts, second.num_prompts) == (6, 1)
    for cell in (first, second):
        assert cell.reached_by_position[0] == cell.verified_drafts > 0
        assert 1 < cell.acceptance.length < 8
    assert "policy" not in fleet(url, "colocated")["controls"]


def controller(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/fleet", timeout=30).raise_for_status().json()
    return dict(found["controller"])


def held_plan(url: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet(url, "split")["targets"][0]["held_plan"]
    return found


def test_where_the_time_of_a_round_goes(url, capsys):
    arguments = ["rounds", "--url", url, "--models", "plain", "split", "colocated"]
    assert main([*arguments, "--prompts", "2", "--max-tokens", "24", "--runs", "1"]) == 0
    _, _, *rows, speeds = capsys.readouterr().out.splitlines()
    cells = {row.split(" | ")[0].strip("| "): row.strip(" |").split(" | ")[1:] for row in rows}
    plain, *drafted = map(float, cells["tokens per round"])
    assert plain == 1
    assert drafted[0] > 1  # the other one drafts where it pays
    assert all(float(cell) > 0 for cell in cells["round, ms"])
    for name in ("target's forward pass", "sampling and books", "draft compute"):
        without, *ours = cells[name]
        assert without == "-"
        assert all(float(cell) > 0 for cell in ours)
    assert float(cells["wire, and waiting for the drafter"][2]) == 0  # colocated
    assert all(float(cell) > 0 for cell in speeds.strip("| ").split(" | ")[1:])


def test_plans_reach_every_target_and_are_shown(url, capsys):
    before = held_plan(url)["seq"]
    wait_for(lambda: held_plan(url)["seq"] > before)
    for model in ("plain", "split", "colocated"):
        (target,) = fleet(url, model)["targets"]
        assert target["load"]["seats"] == 8
        assert target["held_plan"]["refused"] == {}
    stats = fleet(url, "split")["targets"][0]["stats"]
    assert (stats["refused_plan_parts"], stats["refused_advice"]) == (0, 0)
    assert stats["mean_plan_s"] > 0
    assert main(["status", "--url", url]) == 0
    shown = capsys.readouterr().out
    assert "split: 1 replicas" in shown
    assert "local rules" not in shown


def test_a_flooded_controller_costs_nothing(client, url, answers):
    """It is told nonsense by thousands that there are not, faster than it listens to anyone."""
    before = controller(url)
    with flooding(before["pid"], "split", 8.0) as flood:
        held = held_plan(url)["seq"]
        while flood.poll() is None:
            assert ask_all(client, "split", first_turns()[:16], 8) == answers[:16]
        sent, complaints = flood.communicate()
    assert flood.returncode == 0, complaints
    after = controller(url)
    assert after["pid"] == before["pid"]
    counted = ("dropped_reports", "impossible_loads")
    assert all(after[name] > before[name] for name in counted), (sent, before, after)
    wait_for(lambda: held_plan(url)["seq"] > held and not held_plan(url)["is_stale"])
    wait_for(lambda: len(fleet(url, "split")["targets"]) == 1)  # the others are forgotten
    assert held_plan(url)["refused"] == {}
    assert ask_all(client, "split", first_turns()[:16], 8) == answers[:16]


@contextmanager
def flooding(controller_pid: int, model: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """With Ray's address and token as the controller has them."""
    one = psutil.Process(controller_pid)
    (address,) = [
        argument.partition("=")[2]
        for argument in one.parents()[0].cmdline()
        if argument.startswith("--gcs-address=")
    ]
    token = {k: v for k, v in one.environ().items() if k.startswith("RAY_AUTH")}
    command = [sys.executable, "-m", "tests.integration.controller_flood"]
    process = subprocess.Popen(
        [*command, "test", model, str(seconds)],
        env=os.environ | token | {"RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_controller_stopped_killed_and_restarted_costs_nothing(client, url, answers):
    before = controller(url)
    os.kill(before["pid"], signal.SIGSTOP)
    try:  # partitioned from it for longer than plans live
        assert ask_all(client, "split", first_turns()[:16], 8) == answers[:16]
        time.sleep(4)
        assert ask_all(client, "split", first_turns()[16:24], 8) == answers[16:24]
    finally:
        os.kill(before["pid"], signal.SIGCONT)
    wait_for(lambda: not held_plan(url)["is_stale"])
    os.kill(before["pid"], signal.SIGKILL)
    assert ask_all(client, "split", first_turns()[:16], 8) == answers[:16]

    def another() -> bool:
        reply = httpx.get(f"{url}/fleet", timeout=30)
        return reply.is_success and reply.json()["controller"]["pid"] != before["pid"]

    wait_for(another, 60)
    wait_for(lambda: fleet(url, "split")["targets"])
    wait_for(lambda: (held_plan(url)["epoch"] or 0) > before["epoch"])
    drafted = fleet(url, "split")["speculation"]["verified_drafts"]
    assert ask_all(client, "split", first_turns()[:16], 8) == answers[:16]
    wait_for(lambda: fleet(url, "split")["speculation"]["verified_drafts"] > drafted)
