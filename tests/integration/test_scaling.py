"""A pool that grows and shrinks under load: whoever goes has finished what it had begun.

Run by `make test-long`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from loadtest.prompts import PROMPTS
from tests.integration.served import demo_config, fleet, serving, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

NUM_STEADY = 3  # two targets of 8 seats, so that one may be lost
NUM_MORE = 16  # beside them three
# Loose enough for a busy machine: seats are those that are expected to keep it, and not those
# that happened to be taken.
PROMISE = {"name": "steady", "tpot_ms": 2000}
STEADY_TOKENS, MORE_TOKENS = 400, 60
SCALING = {"least": 1, "most": 3, "up_after_s": 2, "down_after_s": 5}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("scaling")
    config = demo_config(
        folder / "serve.yaml", models={"plain": "off"}, classes=(PROMISE,), scaling=SCALING
    )
    document = yaml.safe_load(config.read_text())
    policy = {"policy_function": "deployments.autoscaling:fleet_policy"}
    document["applications"][0]["autoscaling_policy"] = policy
    config.write_text(yaml.safe_dump(document))
    with serving(config, folder / "log") as base:
        yield base


def ask(url: str, i: int, max_tokens: int) -> tuple[str, int]:
    """The streamed answer to prompt `i` and its number of tokens."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=240)
    chunks = list(
        client.chat.completions.create(
            model="plain",
            messages=[{"role": "user", "content": PROMPTS[i]}],
            temperature=0,
            max_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage is not None
    return text, chunks[-1].usage.completion_tokens


class Streams:
    """One stream after the other in each of several threads, and what became of them."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str, int]] = []
        self.errors: list[Exception] = []

    @contextmanager
    def running(self, url: str, number: int, max_tokens: int) -> Iterator[None]:
        is_over = threading.Event()

        def run(i: int) -> None:
            while not is_over.is_set():
                try:
                    self.answers.append((i, *ask(url, i, max_tokens)))
                except openai.RateLimitError:
                    is_over.wait(1.0)
                except Exception as error:
                    self.errors.append(error)
                    is_over.wait(1.0)

        threads = [threading.Thread(target=run, args=(i % len(PROMPTS),)) for i in range(number)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            is_over.set()
            for thread in threads:
                thread.join()


def targets(url: str) -> set[int]:
    return {target["pid"] for target in fleet(url, "plain")["targets"]}


def lost(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/fleet").json()["lost_targets"]
    return {name: found[name] for name in ("continued", "restarted", "given_up")}


def test_a_pool_follows_its_load_and_a_target_that_goes_finishes_its_streams(url):
    before = lost(url)
    right = {i: ask(url, i, STEADY_TOKENS) for i in range(NUM_STEADY)}
    steady, more = Streams(), Streams()
    with steady.running(url, NUM_STEADY, STEADY_TOKENS):
        with more.running(url, NUM_MORE, MORE_TOKENS):
            wait_for(lambda: len(targets(url)) == 3, 400)
            three = targets(url)
            num_grown = len(steady.answers)
            wait_for(lambda: len(steady.answers) > num_grown + NUM_STEADY, 200)
        wait_for(lambda: len(targets(url)) == 2, 400)
        assert targets(url) < three
        num_shrunk = len(steady.answers)
        wait_for(lambda: len(steady.answers) > num_shrunk + NUM_STEADY, 200)
    assert (steady.errors, more.errors) == ([], [])
    assert all((text, tokens) == right[i] for i, text, tokens in steady.answers)
    assert {tokens for _, _, tokens in more.answers} == {MORE_TOKENS}
    assert lost(url) == before  # nobody's stream had to go on elsewhere
