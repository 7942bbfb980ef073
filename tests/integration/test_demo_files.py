"""The Serve files of the bundled demo, each as a user serves it: the answers are vLLM's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from vllm import SamplingParams

from loadtest.prompts import PROMPTS
from tests.integration.served import fleet, serving, wait_for

pytestmark = pytest.mark.long

FILES = Path("deployments/configs")
DRAFTING = ["demo-colocated", "demo-autoscaling", "demo-tp2"]


def say(url: str, prompt: str) -> str:
    chat = [{"role": "user", "content": prompt}]
    body = {"model": "demo", "messages": chat, "temperature": 0, "max_tokens": 40}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


def num_verified(url: str) -> int:
    return sum(target["stats"]["verified_drafts"] for target in fleet(url, "demo")["targets"])


@pytest.mark.parametrize("name", ["demo-off", *DRAFTING])
def test_a_demo_file_serves_what_the_target_says(name, plain, tmp_path):
    prompts = PROMPTS[:8]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    params = SamplingParams(temperature=0, max_tokens=40)
    expected = [r.outputs[0].text for r in plain.chat(chats, params, use_tqdm=False)]
    with serving(FILES / f"{name}.yaml", tmp_path / "log") as url, ThreadPoolExecutor(2) as pool:
        assert list(pool.map(partial(say, url), prompts)) == expected
        if name in DRAFTING:
            wait_for(lambda: num_verified(url) > 20)
